"""`.npy`: one array. Its header is also that of every member of an `.npz`."""

from __future__ import annotations

import ast
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.sources.files.stored import ByteArray, ByteReader, FileBytes, Stored, StoredArray, hold_fortran

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000  # numpy's own limit
NUMBERS = re.compile(r"[<>=|]?([fiu][1248]|b1)")


@dataclass(frozen=True)
class NpyHeader:
    """What the first bytes of a `.npy` say.

    Args:
        numbers: dtype of the stored numbers.
        shape: of the array.
        fortran: True when the first axis varies fastest.
        n_bytes: where the numbers begin.
    """

    numbers: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    n_bytes: int


def read_header(source: ByteReader, name: str) -> NpyHeader:
    """Read a header of version 1 or 2 with numbers for a dtype. Objects are refused: they are pickles."""
    magic = _read(source, 0, 8)
    if magic[:6] != MAGIC:
        raise DataError(
            f"{name} begins with {magic[:6]!r}; expected {MAGIC!r} as np.save writes it; save it so again"
        )
    if magic[6] not in (1, 2):
        raise DataError(
            f"{name} has a header of version {magic[6]}; expected 1 or 2: an array of plain numbers"
        )
    length_bytes = 2 if magic[6] == 1 else 4
    (length,) = struct.unpack("<H" if length_bytes == 2 else "<I", _read(source, 8, length_bytes))
    if length > MAX_HEADER_BYTES:
        raise DataError(f"{name} has a header of {length} bytes; expected at most {MAX_HEADER_BYTES}")
    start = 8 + length_bytes
    return _parse(_read(source, start, length), start + length, name)


def _read(source: ByteReader, offset: int, n_bytes: int) -> bytes:
    buffer = bytearray(n_bytes)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def _parse(text: bytes, n_bytes: int, name: str) -> NpyHeader:
    try:
        facts = ast.literal_eval(text.decode("latin1").strip())
        descr, fortran, shape = facts["descr"], facts["fortran_order"], facts["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise DataError(f"{name} has a header that cannot be parsed: {text[:80]!r}; save it again") from error
    if isinstance(descr, str) and descr.lstrip("<>=|").startswith("O"):
        raise DataError(
            f"{name} holds pickled objects, which could run code; softpack never unpickles; "
            "save it as an array of numbers, without dtype=object"
        )
    if not (isinstance(descr, str) and NUMBERS.fullmatch(descr)):
        raise DataError(f"{name} has dtype {str(descr)[:80]!r}; expected floats, integers or bool")
    if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)):
        raise DataError(f"{name} has shape {str(shape)[:80]}; expected sizes from 0 on")
    return NpyHeader(np.dtype(descr), shape, fortran is True, n_bytes)


def npy_array(source: ByteReader, size: int, name: str) -> StoredArray:
    """Return the array of a `.npy` of `size` bytes; its declared shape must agree with them."""
    header = read_header(source, name)
    declared = header.n_bytes + prod(header.shape) * header.numbers.itemsize
    if declared != size:
        raise DataError(
            f"{name} declares shape {header.shape} of {header.numbers.name}, {declared} bytes with its header, "
            f"but {size} are there; expected as many; it may be cut off: copy it or make it again"
        )
    stored = np.dtype(np.uint8) if header.numbers.kind == "b" else header.numbers
    array = ByteArray(header.shape, header.numbers.name, stored, source, header.n_bytes)
    return hold_fortran(array, name) if header.fortran and len(header.shape) > 1 else array


@contextmanager
def open_npy(path: Path, wanted: frozenset[str]) -> Iterator[Stored]:
    """Open a `.npy`, whose one array has no name."""
    size = path.stat().st_size
    with open(path, "rb", buffering=0) as file:
        yield Stored({"logits": npy_array(FileBytes(file, 0, size), size, "the array")}, unnamed=True)

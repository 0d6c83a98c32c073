"""`.safetensors`: a JSON header, then the tensors' bytes.

The library checks the header; the bytes are read from the file by the offsets it gives, because the library
maps the file, and mapped pages that were read stay in the process's memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sources.files.stored import ByteArray, FileBytes, Stored, StoredArray

MAX_HEADER_BYTES = 16 << 20
DTYPES = {
    "BOOL": ("bool", "u1"),
    "U8": ("uint8", "u1"),
    "I8": ("int8", "i1"),
    "U16": ("uint16", "<u2"),
    "I16": ("int16", "<i2"),
    "U32": ("uint32", "<u4"),
    "I32": ("int32", "<i4"),
    "U64": ("uint64", "<u8"),
    "I64": ("int64", "<i8"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
    "F32": ("float32", "<f4"),
    "F64": ("float64", "<f8"),
}


@contextmanager
def open_safetensors(path: Path, wanted: frozenset[str]) -> Iterator[Stored]:
    """Open a `.safetensors`."""
    header, data_start = _read_header(path)
    _validate(path)
    metadata = header.pop("__metadata__", None) or {}
    size = path.stat().st_size
    with open(path, "rb", buffering=0) as file:
        data = FileBytes(file, data_start, size - data_start)
        arrays: dict[str, StoredArray] = {
            name: _tensor(path, name, header[name], data) for name in header if name in wanted
        }
        others = tuple(name for name in header if name not in wanted)
        yield Stored(arrays, others, _attributes(path, metadata))


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            raise DataError(
                f"{path}: declares a header of {length} bytes; expected at most {MAX_HEADER_BYTES}; it is damaged, "
                "or no .safetensors: make it again"
            )
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise DataError(f"{path}: has a header that is no JSON object; expected one; make the file again")
    return header, 8 + length


def _validate(path: Path) -> None:
    """Let the library check names, shapes and offsets: no hole, no overlap, nothing outside the file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy"):
        pass


def _tensor(path: Path, name: str, facts: dict[str, Any], data: FileBytes) -> ByteArray:
    if facts["dtype"] not in DTYPES:
        raise DataError(f"{path}: {name} has dtype {facts['dtype']}; expected one of {', '.join(DTYPES)}")
    dtype, stored = DTYPES[facts["dtype"]]
    shape, (begin, end) = tuple(facts["shape"]), facts["data_offsets"]
    numbers = np.dtype(stored)
    if not 0 <= begin <= end <= data.size or prod(shape) * numbers.itemsize != end - begin:
        raise DataError(f"{path}: {name} of shape {shape} lies at bytes {begin} to {end}; make the file again")
    return ByteArray(shape, dtype, numbers, data, begin)


def _attributes(path: Path, metadata: dict[str, str]) -> dict[str, float]:
    if "temperature" not in metadata:
        return {}
    try:
        return {"temperature": float(metadata["temperature"])}
    except ValueError:
        text = metadata["temperature"][:40]
        raise DataError(f"{path}: metadata temperature is {text!r}; expected a number") from None

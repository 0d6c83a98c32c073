"""An array in a file, of which a few rows at a time are read.

Every kind of file opens as a `Stored`: its arrays by name. Reads are file reads and never mapped memory,
whose touched pages would count as the process's own.
"""

from __future__ import annotations

import io
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np

from softpack.errors import DataError, SoftpackError

UNPICKLED = (
    "softpack unpickles nothing but tensors and arrays, as others could run code; give a .pt of these, as torch.save "
    "writes it"
)
MAX_GAP = 8  # rows that are read and dropped rather than skipped
MAX_HELD_BYTES = 64 << 20  # of an array that cannot be read in pieces


@dataclass(frozen=True)
class StoredArray(ABC):
    """One array of an open file.

    Args:
        shape: as the file declares it.
        dtype: as it is stored: a numpy name without byte order, or "bfloat16".
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def kind(self) -> str:
        """The numpy kind of its numbers: "f", "i", "u", "b"; others cannot be used."""
        return "f" if self.dtype == "bfloat16" else np.dtype(self.dtype).kind

    @abstractmethod
    def read(self, start: int, stop: int, lead: int) -> np.ndarray:
        """Return rows `start` to `stop` of the array with its first `lead` axes taken as one.

        Numbers come in the machine's byte order, and bfloat16 as float32.
        """


@dataclass(frozen=True)
class Stored:
    """What an open file holds.

    Args:
        arrays: those with the names that were wanted.
        others: names of all else.
        attributes: numbers beside the arrays; only `temperature` is looked for.
        unnamed: True when the file has no names, and its one array is called "logits" for want of better.
        files: that it is made of, where it is no single one.
        starts: number of the first row of each part that is read whole, and of all; None where rows are read alone.
    """

    arrays: dict[str, StoredArray]
    others: tuple[str, ...] = ()
    attributes: dict[str, float] = field(default_factory=dict)
    unnamed: bool = False
    files: tuple[Path, ...] = ()
    starts: np.ndarray | None = None


Opener = Callable[[Path, frozenset[str]], AbstractContextManager[Stored]]


class ByteReader(Protocol):
    """Bytes that can be read from any place."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from `offset` on, or raise."""


@dataclass
class FileBytes:
    """A range of an open file.

    Args:
        file: open for reading, unbuffered or not.
        start: where the range begins.
        size: its bytes.
        crc32: of the whole range; checked when it has been read in order from its start to its end.
    """

    file: io.RawIOBase | io.BufferedIOBase
    start: int
    size: int
    crc32: int | None = None
    _crc: int = 0
    _crc_end: int = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from `offset` on."""
        if offset + len(buffer) > self.size:
            raise EOFError(f"bytes {offset} to {offset + len(buffer)} of {self.size} were asked for")
        self.file.seek(self.start + offset)
        fill(self.file, buffer)
        if self.crc32 is not None and offset == self._crc_end:
            self._crc = zlib.crc32(buffer, self._crc)
            self._crc_end += len(buffer)
            if self._crc_end == self.size and self._crc != self.crc32:
                raise ValueError("the checksum of an array does not fit its bytes")


def fill(file: io.RawIOBase | io.BufferedIOBase, buffer: memoryview) -> None:
    """Read until the buffer is full; raise EOFError where the file ends before."""
    while buffer:
        n = file.readinto(buffer)
        if not n:
            raise EOFError(f"the data ends {len(buffer)} bytes too early")
        buffer = buffer[n:]


@dataclass(frozen=True)
class ByteArray(StoredArray):
    """An array whose numbers lie one after another in C order.

    Args:
        numbers: numpy dtype of the stored bytes, with their byte order; uint16 for bfloat16, uint8 for bool.
        source: where the bytes are.
        offset: of the first number in `source`.
    """

    numbers: np.dtype
    source: ByteReader
    offset: int

    def read(self, start: int, stop: int, lead: int) -> np.ndarray:
        """Return rows `start` to `stop` with the first `lead` axes taken as one."""
        row_shape = self.shape[lead:]
        row_bytes = prod(row_shape) * self.numbers.itemsize
        raw = np.empty((stop - start, *row_shape), self.numbers)
        self.source.read_into(self.offset + start * row_bytes, raw.reshape(-1).view(np.uint8).data)
        return self._native(raw)

    def _native(self, raw: np.ndarray) -> np.ndarray:
        if self.dtype == "bfloat16":
            bits: np.ndarray = np.left_shift(raw, 16, dtype=np.uint32)
            return bits.view(np.float32)
        if self.dtype == "bool":
            return raw.astype(np.bool_)  # not a view: a bool of any byte but 0 and 1 is no bool
        return raw.astype(self.dtype, copy=False)


@dataclass(frozen=True)
class HeldArray(StoredArray):
    """An array that is held whole, as it is small and the file stores it in an order that cannot be cut."""

    values: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> HeldArray:
        """Return an array as what a file holds."""
        return cls(values.shape, values.dtype.name, values)

    def read(self, start: int, stop: int, lead: int) -> np.ndarray:
        """Return rows `start` to `stop` with the first `lead` axes taken as one."""
        return self.values.reshape(-1, *self.shape[lead:])[start:stop]


def gathered(array: StoredArray, rows_B: np.ndarray, lead: int = 1) -> np.ndarray:
    """Return some rows of an array, with one read for each run of rows that are near each other.

    Args:
        array: of an open file.
        rows_B: ascending numbers of the rows.
        lead: axes that count rows, taken as one.
    """
    parts = []
    for run in np.split(rows_B, np.flatnonzero(np.diff(rows_B) > MAX_GAP) + 1):
        first, stop = int(run[0]), int(run[-1]) + 1
        part = array.read(first, stop, lead)
        parts.append(part if len(run) == stop - first else part[run - first])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def hold_fortran(array: ByteArray, name: str) -> HeldArray:
    """Read an array whose first axis varies fastest, if it is small."""
    n_bytes = prod(array.shape) * array.numbers.itemsize
    if n_bytes > MAX_HELD_BYTES:
        raise DataError(
            f"{name} is stored in Fortran order and has {n_bytes} bytes; expected C order above "
            f"{MAX_HELD_BYTES} bytes, or rows do not lie together; save np.ascontiguousarray of it"
        )
    flat = array.read(0, prod(array.shape), len(array.shape))
    values = np.ascontiguousarray(flat.reshape(array.shape, order="F"))
    return HeldArray.of(values)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes the libraries raise into a DataError that names the file."""
    try:
        yield
    except SoftpackError as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:  # zipfile, h5py and numpy raise nearly anything on damaged bytes
        raise DataError(
            f"{path}: cannot be read: {type(error).__name__}: {error}; expected a whole {path.suffix} file; "
            "it may be damaged or cut off: copy it or make it again"
        ) from error

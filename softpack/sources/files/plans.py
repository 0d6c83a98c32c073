"""What a file of arrays will hold, array by array."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class ArrayPlan:
    """What one array will be.

    Args:
        shape: of the whole.
        dtype: a numpy name.
        lead: leading axes that count rows.
    """

    shape: tuple[int, ...]
    dtype: str
    lead: int

    @property
    def numbers(self) -> np.dtype:
        """Dtype of the stored bytes, which are little-endian everywhere."""
        numbers: np.dtype = np.dtype(self.dtype).newbyteorder("<")
        return numbers

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole."""
        return prod(self.shape) * self.numbers.itemsize

    def to_bytes(self, rows: np.ndarray) -> memoryview:
        """Return rows as they are stored."""
        flat = np.ascontiguousarray(rows, self.numbers).reshape(-1)
        return flat.view(np.uint8).data


Plans = dict[str, ArrayPlan]
Append = Callable[[dict[str, np.ndarray]], None]
# From where to write, what, and the temperature if there is one, to what takes rows in order, in any portions.
Opened = Callable[[Path, Plans, "float | None"], AbstractContextManager[Append]]


def write_all(file: io.RawIOBase, data: memoryview) -> int:
    """Write all bytes; an unbuffered file may take fewer at a time."""
    n_bytes = len(data)
    while data:
        data = data[file.write(data) or 0 :]
    return n_bytes

"""Columns of lists in Arrow as numpy arrays, without a Python object for each number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from softpack.errors import DataError


def lists_of(column: Any, name: str) -> Iterator[np.ndarray]:
    """Yield the lists of a column, each as int64.

    Raises:
        DataError: it is no column of lists of whole numbers, or one is missing.
    """
    values, lengths = _flat(column, name)
    if values.dtype.kind not in "iub":
        raise DataError(f"has {name} of {values.dtype}; expected lists of whole numbers")
    yield from np.split(values.astype(np.int64), np.cumsum(lengths)[:-1]) if len(lengths) else ()


def matrix_of(column: Any, name: str, width: int, n_rows: Sequence[int], first: int) -> np.ndarray:
    """Return the lists in the lists of a column as one array [rows, width].

    Args:
        column: of sequences, each a list of rows, each a list of numbers.
        name: of it, for messages.
        width: numbers of each row.
        n_rows: rows of each sequence.
        first: number of the first sequence, for messages.

    Raises:
        DataError: naming the first sequence, and the row of it, that has another number of rows or numbers.
    """
    if not _is_list(column):
        raise DataError(f"has {name} of {column.type}; expected lists of lists of numbers")
    lengths = column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(lengths != np.array(n_rows))
    if len(bad):
        raise DataError(
            f"has {lengths[bad[0]]} labels in {name} of sequence {first + bad[0]}; expected {n_rows[bad[0]]}, by its "
            "tokens"
        )
    values, widths = _flat(column.flatten(), name)
    bad = np.flatnonzero(widths != width)
    if len(bad):
        ends = np.cumsum(n_rows)
        sequence = int(np.searchsorted(ends, bad[0], "right"))
        row = int(bad[0] - ends[sequence] + n_rows[sequence])
        raise DataError(
            f"has {widths[bad[0]]} numbers in {name} of sequence {first + sequence}, label {row}; expected {width}, by "
            "the configuration; it may be another set's"
        )
    return values.reshape(len(widths), width)


def _is_list(column: Any) -> bool:
    return hasattr(column, "value_lengths") and hasattr(column, "flatten")


def _flat(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of all lists, and how many each has, -1 where it is missing."""
    if not _is_list(column):
        raise DataError(f"has {name} of {column.type}; expected lists of numbers")
    flat = column.flatten()
    if flat.null_count or hasattr(flat, "value_lengths"):
        raise DataError(
            f"has {name} of {column.type} with {flat.null_count} missing; expected lists of numbers"
        )
    return (
        flat.to_numpy(zero_copy_only=False),
        column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False),
    )

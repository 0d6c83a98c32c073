"""Rows of which the k largest numbers are kept, each beside the number of its class.

Shapes in names: B rows, k classes that are kept, C classes.
"""

from __future__ import annotations

import numpy as np

from softpack.errors import DataError


def class_numbers(stored_Bk: np.ndarray, classes: int, row_B: np.ndarray | None = None) -> np.ndarray:
    """Return numbers of classes as int64. Writers have them as int16, in which those from 32,768 on are negative.

    Args:
        stored_Bk: whole numbers.
        classes: C.
        row_B: numbers of the rows, for messages; None where they count from 0.

    Raises:
        DataError: one is of no class, or is there twice in a row.
    """
    id_Bk = stored_Bk.view(np.uint16) if stored_Bk.dtype == np.int16 else stored_Bk
    bad_Bk: np.ndarray = (id_Bk < 0) | (id_Bk >= classes)
    if bad_Bk.any():
        row = _first(np.asarray(bad_Bk.any(axis=1)), row_B)
        raise DataError(
            f"names class {id_Bk[bad_Bk][0]} in row {row}; expected 0 to {classes - 1}, of --classes"
        )
    twice_B = np.asarray((np.diff(np.sort(id_Bk, 1), axis=1) == 0).any(axis=1))
    if twice_B.any():
        raise DataError(
            f"names a class twice in a row, which is row {_first(twice_B, row_B)}; expected each once"
        )
    return id_Bk.astype(np.int64)


def spread(values_Bk: np.ndarray, id_Bk: np.ndarray, rest_B1: np.ndarray, classes: int) -> np.ndarray:
    """Return all numbers of rows [B, C]: those that are kept, and one for all other classes of a row."""
    rows_BC: np.ndarray = np.repeat(rest_B1.astype(values_Bk.dtype, copy=False), classes, 1)
    np.put_along_axis(rows_BC, id_Bk, values_Bk, 1)
    return rows_BC


def share_of_others(prob_Bk: np.ndarray, classes: int) -> np.ndarray:
    """Return the probability of each class that is not kept, where these share what is left of 1, [B, 1]."""
    left_B1: np.ndarray = np.fmax(1 - prob_Bk.sum(1, keepdims=True), 0)  # rounded numbers may sum to more
    share_B1: np.ndarray = left_B1 / max(1, classes - prob_Bk.shape[1])
    return share_B1


def _first(bad_B: np.ndarray, row_B: np.ndarray | None) -> int:
    first = int(np.argmax(bad_B))
    return first if row_B is None else int(row_B[first])

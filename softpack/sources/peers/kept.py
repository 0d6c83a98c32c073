"""Rows of which the k largest numbers are kept, each beside the number of its class.

Shapes in names: B rows, k classes that are kept, C classes.
"""

from __future__ import annotations

import numpy as np

from softpack.errors import DataError

# By which rounding to fp16 may move the sum of probabilities, and each tiny one.
EPSILON_FP16, TINY_FP16 = 2.0**-11, 2.0**-25


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


def largest(rows_BC: np.ndarray, k: int) -> np.ndarray:
    """Return the classes of the k largest numbers of each row, int64 [B, k], descending; equal ones by their number."""
    kept_Bk = np.sort(np.argpartition(-rows_BC, min(k, rows_BC.shape[1] - 1), axis=1)[:, :k], 1)
    order_Bk = np.argsort(-np.take_along_axis(rows_BC, kept_Bk, 1), axis=1, kind="stable")
    found_Bk: np.ndarray = np.take_along_axis(kept_Bk, order_Bk, 1)
    return found_Bk


def kept_before(probs_BC: np.ndarray, k: int) -> np.ndarray:
    """Return the classes of each row to keep, int64 [B, k], by descending probability.

    The largest; but where all others share one probability, as rows have that were kept so before, those that are not
    of it: what is left of 1 for the others is a little more than the least of the kept where these were rounded to
    fp16.
    """
    n_others = probs_BC.shape[1] - k
    if not n_others:
        return largest(probs_BC, k)
    sorted_BC = np.sort(probs_BC, 1)
    # The others, from each place that they may begin at.
    are_alike_BP = sorted_BC[:, : k + 1] == sorted_BC[:, n_others - 1 :]
    first_B = are_alike_BP.argmax(1)
    share_B = np.take_along_axis(sorted_BC, first_B[:, None], 1)[:, 0]
    slack = (EPSILON_FP16 + k * TINY_FP16) / n_others
    rows = np.flatnonzero((first_B > 0) & (first_B < k) & (share_B - sorted_BC[:, 0] <= slack))
    if len(rows):
        probs_BC = probs_BC.copy()
        probs_BC[rows] = np.where(probs_BC[rows] == share_B[rows, None], -1, probs_BC[rows])
    return largest(probs_BC, k)


def _first(bad_B: np.ndarray, row_B: np.ndarray | None) -> int:
    first = int(np.argmax(bad_B))
    return first if row_B is None else int(row_B[first])

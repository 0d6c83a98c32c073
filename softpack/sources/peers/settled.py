"""Log-probabilities of some classes of a row as caches of language models give them, made parts of distributions.

Shapes in names: B rows, K classes of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softpack.checks import SUM_TOLERANCE
from softpack.records import SparseLabels

MOST_EXACT = 0.05  # by which rounding may move the sum of exact probabilities; more are none


@dataclass
class Tally:
    """How many rows were made less of, for people; grows as rows are read.

    Args:
        n_rows: that were read.
        n_over: whose probabilities summed to more than 1 by more than rounding.
        most: sum.
    """

    n_rows: int = 0
    n_over: int = 0
    most: float = 1.0

    def restart(self) -> None:
        """Forget what has been read, as all of it will be read again."""
        self.n_rows, self.n_over, self.most = 0, 0, 1.0

    def remarks(self) -> tuple[str, ...]:
        """Return what there is to say."""
        if not self.n_over:
            return ()
        return (
            f"{self.n_over:,} of {self.n_rows:,} rows that were read had more probability than 1, up to "
            f"{self.most:.4g}; what was approximate in them was made less, else all of it",
        )


def settled(
    ids_BK: np.ndarray, log_probs_BK: np.ndarray, tally: Tally, n_exact: int | None = None
) -> SparseLabels:
    """Return rows as parts of distributions: the tail has what is left of 1, and no row has more than 1.

    Where a row has more, its approximate log-probabilities are lowered together until it has not, or all of them where
    the exact ones alone have more. Rows whose exact ones are no log-probabilities stay, for checks to refuse them.

    Args:
        ids_BK: integers, -1 where there is no class.
        log_probs_BK: float32, -inf where there is no class.
        tally: is told of rows that had more.
        n_exact: of the first that are exact; None for all.
    """
    log_probs_BK = log_probs_BK.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        probs_BK = np.exp(log_probs_BK.astype(np.float64))
        sum_B = probs_BK.sum(axis=1)
        exact_B = probs_BK[:, :n_exact].sum(axis=1)
    most_B = log_probs_BK[:, :n_exact].max(axis=1, initial=-np.inf)
    can_be_B = (most_B <= SUM_TOLERANCE) & (exact_B <= 1 + MOST_EXACT)
    over = np.flatnonzero((sum_B > 1) & can_be_B)
    if len(over):
        log_probs_BK = log_probs_BK.copy()
        log_probs_BK[over] -= _excess(probs_BK[over], n_exact)
    with np.errstate(divide="ignore"):
        tail_B = np.log1p(-np.minimum(sum_B, 1)).astype(np.float32)
    tally.n_rows += len(sum_B)
    tally.n_over += int((sum_B[over] > 1 + SUM_TOLERANCE).sum())
    tally.most = max(tally.most, float(sum_B[over].max(initial=1)))
    return SparseLabels(ids_BK.astype(np.int32), log_probs_BK, tail_B)


def _excess(probs_BK: np.ndarray, n_exact: int | None) -> np.ndarray:
    """Return what is to be subtracted from log-probabilities, float32 [B, K]."""
    exact_B, rest_B = probs_BK[:, :n_exact].sum(axis=1), probs_BK[:, n_exact:].sum(axis=1)
    if n_exact is None:
        rest_B = np.zeros_like(exact_B)
    less_BK = np.zeros(probs_BK.shape)
    can_B = (exact_B < 1) & (rest_B > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        less_BK[:, n_exact:] = np.where(can_B, np.log(rest_B / (1 - exact_B)), 0)[:, None]
        all_B1 = np.log(exact_B + rest_B)[:, None]
    found_BK: np.ndarray = np.where(can_B[:, None], less_BK, all_B1).astype(np.float32)
    return found_BK


def renormalised(ids_BK: np.ndarray, logits_BK: np.ndarray) -> SparseLabels:
    """Return the softmax of logits over the classes of a row alone; other classes get nothing.

    Args:
        ids_BK: integers, -1 where there is no class.
        logits_BK: float32, -inf where there is no class.
    """
    logits_BK = logits_BK.astype(np.float64)
    most_B1 = logits_BK.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        sum_B1 = np.exp(logits_BK - most_B1).sum(axis=1, keepdims=True)
        log_probs_BK = (logits_BK - most_B1 - np.log(sum_B1)).astype(np.float32)
    return SparseLabels(ids_BK.astype(np.int32), log_probs_BK)

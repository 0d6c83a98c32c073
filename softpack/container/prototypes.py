"""Learn the prototype of every item from its rows, those of mixed rows by least squares.

A row that shows a share `a` of a partner is about (1 - a) of its own prototype and `a` of the partner's. The
prototypes that fit all rows best solve a sparse linear system, of which sums over the rows are all it takes:
rows come and go in blocks. Unmixed rows say more of a prototype than mixed ones and weigh more; where every item
has some, the prototypes are close to their means.

Shapes in names: B rows, C classes, N items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softpack.container.mixing import Mixing

MIXED_WEIGHT = 0.02  # of a mixed row beside an unmixed one
RIDGE = 0.3  # rows of the mean of all prototypes that every item is taken to have, in weights of a mixed row
ITERATIONS = 60  # of conjugate gradients at most
TOLERANCE = 1e-4  # of what is left, relative to what is wanted
BLOCK_ROWS = 4096
TINY = 1e-30


class PrototypeLearner:
    """Adds up rows, and solves for the prototypes.

    Args:
        n_items: N.
        n_classes: C.
    """

    def __init__(self, n_items: int, n_classes: int) -> None:
        self.pull_NC = np.zeros((n_items, n_classes), np.float32)
        self.weight_N = np.zeros(n_items)
        self._pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._sum_C = np.zeros(n_classes)
        self._n_rows = 0

    def add(self, rows_BC: np.ndarray, item_B: np.ndarray, mixing: Mixing) -> None:
        """Add rows, float32 logits whose mean is zero."""
        is_mixed_B = mixing.partner_B >= 0
        own_B = (1 - mixing.share_B).astype(np.float64)
        weight_B = np.where(is_mixed_B, MIXED_WEIGHT, 1.0)
        _add_rows(self.pull_NC, item_B, rows_BC * (weight_B * own_B)[:, None].astype(np.float32))
        np.add.at(self.weight_N, item_B, weight_B * own_B**2)
        if is_mixed_B.any():
            item, partner = item_B[is_mixed_B], mixing.partner_B[is_mixed_B]
            share, own = mixing.share_B[is_mixed_B].astype(np.float64), own_B[is_mixed_B]
            _add_rows(
                self.pull_NC, partner, rows_BC[is_mixed_B] * (MIXED_WEIGHT * share)[:, None].astype(np.float32)
            )
            np.add.at(self.weight_N, partner, MIXED_WEIGHT * share**2)
            self._pairs.append((item, partner, MIXED_WEIGHT * share * own))
        self._sum_C += rows_BC.sum(0, dtype=np.float64)
        self._n_rows += len(rows_BC)

    def solve(self) -> np.ndarray:
        """Return the prototypes, float32 [N, C]; of items without rows, the mean of all rows."""
        mean_C = (self._sum_C / max(self._n_rows, 1)).astype(np.float32)
        item, partner, both = (
            np.concatenate([np.zeros(0, np.int64 if i < 2 else np.float64), *(pair[i] for pair in self._pairs)])
            for i in range(3)
        )
        ridge = RIDGE * MIXED_WEIGHT
        diagonal_N1 = (self.weight_N + ridge)[:, None].astype(np.float32)
        system = _System(diagonal_N1, item, partner, both[:, None].astype(np.float32))
        wanted_NC = self.pull_NC + ridge * mean_C
        found_NC: np.ndarray = wanted_NC / diagonal_N1
        return system.solve(wanted_NC, found_NC) if len(item) else found_NC


@dataclass(frozen=True)
class _System:
    """The normal equations: a diagonal, and what pairs of items have in common.

    Args:
        diagonal_N1: of every item.
        item_B: of each mixed row.
        partner_B: of each mixed row.
        both_B1: what both have to do with the row.
    """

    diagonal_N1: np.ndarray
    item_B: np.ndarray
    partner_B: np.ndarray
    both_B1: np.ndarray

    def times(self, x_NC: np.ndarray) -> np.ndarray:
        out_NC: np.ndarray = self.diagonal_N1 * x_NC
        for start in range(0, len(self.item_B), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            _add_rows(out_NC, self.item_B[rows], self.both_B1[rows] * x_NC[self.partner_B[rows]])
            _add_rows(out_NC, self.partner_B[rows], self.both_B1[rows] * x_NC[self.item_B[rows]])
        return out_NC

    def solve(self, wanted_NC: np.ndarray, found_NC: np.ndarray) -> np.ndarray:
        """Return what times the system is wanted, by conjugate gradients from `found_NC`; each class on its own."""
        left_NC = wanted_NC - self.times(found_NC)
        aim = TOLERANCE * float(np.linalg.norm(wanted_NC))
        step_NC = left_NC / self.diagonal_N1
        slope_C = (left_NC * step_NC).sum(0)
        for _ in range(ITERATIONS):
            if float(np.linalg.norm(left_NC)) <= aim:
                break
            pulled_NC = self.times(step_NC)
            length_C = slope_C / np.maximum((step_NC * pulled_NC).sum(0), TINY)
            found_NC = found_NC + length_C * step_NC
            left_NC = left_NC - length_C * pulled_NC
            scaled_NC = left_NC / self.diagonal_N1
            slope_C, before_C = (left_NC * scaled_NC).sum(0), slope_C
            step_NC = scaled_NC + slope_C / np.maximum(before_C, TINY) * step_NC
        return np.asarray(found_NC)


def _add_rows(out_NC: np.ndarray, index_B: np.ndarray, rows_BC: np.ndarray) -> None:
    """Add rows to those of `out_NC` that they belong to; several may belong to one."""
    order_B = np.argsort(index_B, kind="stable")
    sorted_B = index_B[order_B]
    starts = np.flatnonzero(np.r_[True, sorted_B[1:] != sorted_B[:-1]]) if len(sorted_B) else sorted_B
    if len(starts):
        out_NC[sorted_B[starts]] += np.add.reduceat(rows_BC[order_B], starts, axis=0)

"""Learn the prototypes of every item from its rows, those of mixed rows by least squares.

A row that shows a share `a` of a partner is about (1 - a) of what its own prototypes say and `a` of what the partner's
say. What an item's prototypes say is their sum, weighted by functions of where the view looks
(`softpack.container.viewpoint`); with one prototype it is that one. The prototypes that fit all rows best solve a
sparse linear system, of which sums over the rows are all it takes: rows come and go in blocks. Unmixed rows say more
of a prototype than mixed ones and weigh more; where every item has some, single prototypes are close to their means.

Shapes in names: B rows, C classes, N items, P prototypes of an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softpack.container.mixing import Mixing

MIXED_WEIGHT = 0.02  # of a mixed row beside an unmixed one
RIDGE = 0.3  # rows of the mean of all prototypes that every item is taken to have, in weights of a mixed row
ORDER_RIDGE = (
    0.0,
    3.0,
    10.0,
    20.0,
)  # rows that say that the prototypes of each order are 0, in weights of a mean row
ITERATIONS = 60  # of conjugate gradients at most
TOLERANCE = 1e-4  # of what is left, relative to what is wanted
BLOCK_VALUES = 1 << 22  # numbers of prototypes of some mixed rows, looked at together
TINY = 1e-30


class PrototypeLearner:
    """Adds up rows, and solves for the prototypes.

    Args:
        n_items: N.
        n_classes: C.
        orders_P: of the functions that weigh the prototypes of an item, the first constant; one by default.
    """

    def __init__(self, n_items: int, n_classes: int, orders_P: np.ndarray | None = None) -> None:
        self._ridge_P = np.take(ORDER_RIDGE, np.zeros(1, np.int64) if orders_P is None else orders_P)
        n = len(self._ridge_P)
        self._pull_NPC = np.zeros((n_items, n, n_classes), np.float32)
        self._gram_NPP = np.zeros((n_items, n, n))
        self._pairs: list[_Pairs] = []
        self._sum_C = np.zeros(n_classes)
        self._n_rows, self._weight = 0, 0.0

    def add(self, rows_BC: np.ndarray, item_B: np.ndarray, mixing: Mixing) -> None:
        """Add rows, float32 logits whose mean is zero."""
        is_mixed_B = mixing.partner_B >= 0
        ones_BP = np.ones((len(rows_BC), 1), np.float32)
        own_BP = ones_BP if mixing.own_BP is None else mixing.own_BP
        partner_BP = ones_BP if mixing.partner_BP is None else mixing.partner_BP
        weight_B = np.where(is_mixed_B, MIXED_WEIGHT, 1.0)
        pairs = _Pairs(
            item_B,
            mixing.partner_B,
            own_BP * (1 - mixing.share_B.astype(np.float64))[:, None],
            partner_BP * mixing.share_B.astype(np.float64)[:, None],
            weight_B,
        )
        self._add_half(rows_BC, item_B, pairs.own_BP, weight_B)
        if is_mixed_B.any():
            mixed = pairs.rows(is_mixed_B)
            self._add_half(rows_BC[is_mixed_B], mixed.partner_B, mixed.partner_BP, mixed.weight_B)
            self._pairs.append(mixed)
        self._sum_C += rows_BC.sum(0, dtype=np.float64)
        self._n_rows += len(rows_BC)
        self._weight += float(weight_B.sum())

    def solve(self) -> np.ndarray:
        """Return the prototypes, float32 [N, P, C]; of items without rows the mean of all rows, and zeros."""
        mean_C = (self._sum_C / max(self._n_rows, 1)).astype(np.float32)
        ridge = RIDGE * MIXED_WEIGHT
        ridge_P = self._ridge_P * (self._weight / max(self._n_rows, 1))
        ridge_P[0] = ridge
        wanted_NPC = self._pull_NPC
        wanted_NPC[:, 0] += ridge * mean_C
        gram_NPP = (self._gram_NPP + np.diag(ridge_P)).astype(np.float32)
        alone_NPC: np.ndarray = np.linalg.solve(gram_NPP, wanted_NPC)
        if not self._pairs:
            return alone_NPC
        return _System(gram_NPP, _Pairs.all(self._pairs)).solve(wanted_NPC, alone_NPC)

    def _add_half(
        self, rows_BC: np.ndarray, item_B: np.ndarray, part_BP: np.ndarray, weight_B: np.ndarray
    ) -> None:
        """Add what rows say of one of the two items that they show."""
        weighted_BP = part_BP * weight_B[:, None]
        for which in range(part_BP.shape[1]):
            _add_rows(
                self._pull_NPC[:, which], item_B, rows_BC * weighted_BP[:, which, None].astype(np.float32)
            )
        _add_rows(self._gram_NPP, item_B, weighted_BP[:, :, None] * part_BP[:, None])


@dataclass(frozen=True)
class _Pairs:
    """Rows that two items show in.

    Args:
        item_B: their own.
        partner_B: the partner.
        own_BP: what the prototypes of the item weigh in the row, its share included.
        partner_BP: the same of the partner's.
        weight_B: of the row.
    """

    item_B: np.ndarray
    partner_B: np.ndarray
    own_BP: np.ndarray
    partner_BP: np.ndarray
    weight_B: np.ndarray

    def rows(self, which: slice | np.ndarray) -> _Pairs:
        return _Pairs(
            *(f[which] for f in (self.item_B, self.partner_B, self.own_BP, self.partner_BP, self.weight_B))
        )

    def __len__(self) -> int:
        return len(self.item_B)

    @classmethod
    def all(cls, some: list[_Pairs]) -> _Pairs:
        return cls(
            np.concatenate([pairs.item_B for pairs in some]),
            np.concatenate([pairs.partner_B for pairs in some]),
            np.concatenate([pairs.own_BP for pairs in some]).astype(np.float32),
            np.concatenate([pairs.partner_BP for pairs in some]).astype(np.float32),
            np.concatenate([pairs.weight_B for pairs in some]).astype(np.float32),
        )


@dataclass(frozen=True)
class _System:
    """The normal equations: of every item by itself, and what pairs of items have in common.

    Args:
        gram_NPP: of every item.
        pairs: the mixed rows.
    """

    gram_NPP: np.ndarray
    pairs: _Pairs

    def times(self, x_NPC: np.ndarray) -> np.ndarray:
        out_NPC: np.ndarray = self.gram_NPP @ x_NPC
        step = max(1, BLOCK_VALUES // (x_NPC.shape[1] * x_NPC.shape[2]))
        for start in range(0, len(self.pairs), step):
            some = self.pairs.rows(slice(start, start + step))
            _add_seen(out_NPC, some.item_B, some.own_BP, some.weight_B, x_NPC, some.partner_B, some.partner_BP)
            _add_seen(out_NPC, some.partner_B, some.partner_BP, some.weight_B, x_NPC, some.item_B, some.own_BP)
        return out_NPC

    def solve(self, wanted_NPC: np.ndarray, found_NPC: np.ndarray) -> np.ndarray:
        """Return what times the system is wanted, by conjugate gradients from `found_NPC`; each class on its own."""
        inverse_NPP = np.linalg.inv(self.gram_NPP)
        left_NPC = wanted_NPC - self.times(found_NPC)
        aim = TOLERANCE * float(np.linalg.norm(wanted_NPC))
        step_NPC = inverse_NPP @ left_NPC
        slope_C = (left_NPC * step_NPC).sum((0, 1))
        for _ in range(ITERATIONS):
            if float(np.linalg.norm(left_NPC)) <= aim:
                break
            pulled_NPC = self.times(step_NPC)
            length_C = slope_C / np.maximum((step_NPC * pulled_NPC).sum((0, 1)), TINY)
            found_NPC = found_NPC + length_C * step_NPC
            left_NPC = left_NPC - length_C * pulled_NPC
            scaled_NPC = inverse_NPP @ left_NPC
            slope_C, before_C = (left_NPC * scaled_NPC).sum((0, 1)), slope_C
            step_NPC = scaled_NPC + slope_C / np.maximum(before_C, TINY) * step_NPC
        return np.asarray(found_NPC)


def _add_seen(
    out_NPC: np.ndarray,
    item_B: np.ndarray,
    item_BP: np.ndarray,
    weight_B: np.ndarray,
    x_NPC: np.ndarray,
    other_B: np.ndarray,
    other_BP: np.ndarray,
) -> None:
    """Add to each item what the other one of its rows says."""
    said_BC = np.matmul(other_BP[:, None], x_NPC[other_B])[:, 0] * weight_B[:, None]
    for which in range(item_BP.shape[1]):
        _add_rows(out_NPC[:, which], item_B, said_BC * item_BP[:, which, None])


def _add_rows(out_NX: np.ndarray, index_B: np.ndarray, rows_BX: np.ndarray) -> None:
    """Add rows to those of `out_NX` that they belong to; several may belong to one."""
    order_B = np.argsort(index_B, kind="stable")
    sorted_B = index_B[order_B]
    starts = np.flatnonzero(np.r_[True, sorted_B[1:] != sorted_B[:-1]]) if len(sorted_B) else sorted_B
    if len(starts):
        out_NX[sorted_B[starts]] += np.add.reduceat(rows_BX[order_B], starts, axis=0)

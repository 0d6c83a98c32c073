"""Which view an item gives next, counted in memory that worker processes share.

Shapes in names: B draws of a batch, N items, M items without views.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from softpack.data.source import LabelSource
from softpack.errors import DataError


class Draws:
    """Walk through the views of every item, round and round, wherever the draws are made.

    Args:
        labels: say which views there are.
    """

    def __init__(self, labels: LabelSource) -> None:
        counts_N = np.array(labels.view_counts(), np.int64)
        self.missing_M = np.flatnonzero(counts_N < 1)
        self.is_dense = bool((counts_N == labels.shape[1]).all())
        self.counts_N = torch.from_numpy(counts_N)  # tensors, so that spawned workers share them too
        self.drawn_N = torch.zeros_like(self.counts_N)
        self._share()

    def next_views(self, items_B: np.ndarray, labels: LabelSource) -> np.ndarray:
        """Return the next view of each item, and count it as drawn.

        Raises:
            DataError: an item, one of these or not, has no view: that is said before the first step, not in the midst.
        """
        if len(self.missing_M):
            raise DataError(
                f"{len(self.missing_M)} of {len(self.counts_N)} items have no view, the first of them item "
                f"{self.missing_M[0]}; to draw views of items, each needs one: finish the file, encode the labelled "
                "items alone, or take ViewSampler(labels, batch_size, draw='pool'), which shows what labels there are"
            )
        drawn_N, counts_N = self.drawn_N.numpy(), self.counts_N.numpy()
        nth_B = (drawn_N[items_B] + _earlier_in_batch(items_B)) % counts_N[items_B]
        np.add.at(drawn_N, items_B, 1)
        return nth_B if self.is_dense else labels.nth_view(items_B, nth_B)

    def restart(self, drawn: int) -> None:
        """Go on as if every item had been drawn so often."""
        self.drawn_N.fill_(drawn)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()  # a copy made by pickle or by deepcopy is not shared yet

    def _share(self) -> None:
        self.drawn_N.share_memory_()  # type: ignore[no-untyped-call]


def _earlier_in_batch(items_B: np.ndarray) -> np.ndarray:
    """Return how often each item stands earlier in the batch."""
    order_B = np.argsort(items_B, kind="stable")
    sorted_B = items_B[order_B]
    earlier_B = np.empty_like(order_B)
    earlier_B[order_B] = np.arange(len(items_B)) - np.searchsorted(sorted_B, sorted_B)
    return earlier_B

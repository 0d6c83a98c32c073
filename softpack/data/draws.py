"""Which view an item gives next, counted in memory that worker processes share.

Shapes in names: B draws of a batch, N items.
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

    Raises:
        DataError: an item has no view.
    """

    def __init__(self, labels: LabelSource) -> None:
        counts_N = np.array(labels.view_counts(), np.int64)
        missing = np.flatnonzero(counts_N < 1)
        if len(missing):
            raise DataError(
                f"{len(missing)} of {len(counts_N)} items have no view, the first of them item {missing[0]}; "
                "a dataset needs one of every item: finish the file, or encode the labelled items alone"
            )
        self.is_dense = bool((counts_N == labels.shape[1]).all())
        self.counts_N = torch.from_numpy(counts_N)  # tensors, so that spawned workers share them too
        self.drawn_N = torch.zeros_like(self.counts_N)
        self._share()

    def next_views(self, items_B: np.ndarray, labels: LabelSource) -> np.ndarray:
        """Return the next view of each item, and count it as drawn."""
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

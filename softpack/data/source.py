"""What a dataset asks of labels. Those that `softpack.open` gives have it.

Shapes in names: B rows of a batch, C classes, N items.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor


class LabelSource(Protocol):
    """Labels by item and view. Picklable, and safe in worker processes."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Items, views and classes."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the replay columns that rows have."""

    @property
    def item_columns(self) -> tuple[str, ...]:
        """Names of the columns that items have."""

    def has(self, items: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Return which of the rows are there, bool [B]."""

    def view_counts(self) -> np.ndarray:
        """Return how many views each item has, int64 [N]."""

    def nth_view(self, items: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Return the n-th of the views that each item has, int64 [B]."""

    def read(self, items: np.ndarray, views: np.ndarray) -> Tensor:
        """Return rows, float32 [B, C]."""

    def replay(self, items: np.ndarray, views: np.ndarray) -> dict[str, np.ndarray]:
        """Return the replay columns of rows, each [B, ...]."""

    def item_column(self, name: str) -> np.ndarray:
        """Return a column of the items, [N, ...]."""

    def load(self) -> LabelSource:
        """Return the same labels with all codes in memory."""

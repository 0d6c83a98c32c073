"""The pixels of views that a recipe draws, in the order in which images are loaded once.

Shapes in names: B rows of a batch, C channels, H high, W wide, N items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from softpack import chance
from softpack.container.reader import Indices
from softpack.data.inputs import ReplayedInputs
from softpack.data.replay import replay
from softpack.recipe import PARTNER, Recipe

Rows = tuple[Tensor, np.ndarray, np.ndarray]  # pixels [B, C, H, W], items [B], views [B]


@dataclass(frozen=True)
class DrawnViews:
    """What labels say of their views, before there are labels.

    Args:
        recipe: that draws them.
        source_hw_N2: height and width of the images.
        n_views: of each item.
    """

    recipe: Recipe
    source_hw_N2: np.ndarray
    n_views: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Items, views and no classes yet."""
        return len(self.source_hw_N2), self.n_views, 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the replay columns."""
        return self.recipe.columns

    @property
    def item_columns(self) -> tuple[str, ...]:
        """The sizes, so that each image is checked when it is loaded again."""
        return ("source_hw",)

    def has(self, items: Indices, views: Indices) -> np.ndarray:
        """Return that all views are there."""
        return np.ones(len(items), bool)

    def replay(self, items: Indices, views: Indices) -> dict[str, np.ndarray]:
        """Return the replay columns of views."""
        items_B = np.asarray(items)
        return self.recipe.draw(items_B, np.asarray(views), self.source_hw_N2[items_B])

    def item_column(self, name: str) -> np.ndarray:
        """Return the sizes."""
        return self.source_hw_N2


class ViewPixels(Dataset[Rows]):
    """Pixels of batches of views.

    Args:
        images: map-style dataset of images, or of (image, target).
        views: how they are made.
        mean: of each channel, subtracted from pixels in [0, 1]; with `std`, or not at all.
        std: of each channel, by which they are divided.
    """

    def __init__(
        self,
        images: Any,
        views: DrawnViews,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.views = views
        self._inputs = ReplayedInputs(images, views, replay(views.recipe.size, mean, std))

    def __getitems__(self, cells: list[tuple[int, int]]) -> Rows:
        """Return the pixels of (item, view) pairs; each image is loaded once."""
        items_B, views_B = np.array(cells, np.int64).reshape(-1, 2).T
        samples = self._inputs.of(items_B, views_B, self.views)
        return torch.stack([sample[0] for sample in samples]), items_B, views_B

    def __getitem__(self, cell: tuple[int, int]) -> Rows:
        return self.__getitems__([cell])

    def batches(self, cells: Iterable[list[tuple[int, int]]], workers: int) -> DataLoader[Rows]:
        """Return a loader of the batches that these lists of (item, view) are."""
        return DataLoader(self, batch_sampler=cells, num_workers=workers, collate_fn=_as_it_is)


def in_order(recipe: Recipe, view: int, n_items: int) -> np.ndarray:
    """Return all items in an order in which each stands beside its mix partner in this view, int64 [N]."""
    items_N = np.arange(n_items)
    if "mix_item" not in recipe.columns:
        return items_N
    numbers = (recipe.seed, PARTNER, np.full(n_items, view))
    return chance.place_before(n_items, numbers, items_N)


def _as_it_is(rows: Any) -> Any:
    return rows

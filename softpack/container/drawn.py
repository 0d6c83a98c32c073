"""The replay columns that a recipe draws, whole views at a time where a student walks through one. No torch.

Shapes in names: B rows, N items.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np

from softpack.errors import DataError
from softpack.recipe import Recipe
from softpack.records import RowBlock

KEPT_VIEWS = 2  # of all items: an epoch that ends, and the next
COUNTED_VIEWS = 64
MOST_ITEMS = 1 << 22  # of which whole views are drawn
WORTH = 10  # rows drawn together cost as much as one alone


class DrawnColumns:
    """Draws columns; a view of which much is asked for is drawn of all items at once, which costs a tenth a row.

    Args:
        recipe: that draws them.
        n_items: N.
        source_hw_N2: height and width of the pictures; None where the recipe does not ask.
    """

    def __init__(self, recipe: Recipe, n_items: int, source_hw_N2: np.ndarray | None) -> None:
        self._recipe, self._n_items, self._source_hw_N2 = recipe, n_items, source_hw_N2
        self._asked: OrderedDict[int, int] = OrderedDict()  # rows of a view so far
        self._views: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()

    def of(self, item_B: np.ndarray, view_B: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of views, each [B, ...]."""
        is_one = len(view_B) > 0 and bool((view_B == view_B[0]).all())
        if not is_one or self._n_items > MOST_ITEMS:
            return self._draw(item_B, view_B)
        view = int(view_B[0])
        columns = self._views.get(view)
        if columns is None:
            self._asked[view] = asked = self._asked.pop(view, 0) + len(item_B)
            while len(self._asked) > COUNTED_VIEWS:
                self._asked.popitem(last=False)
            if WORTH * asked < self._n_items:
                return self._draw(item_B, view_B)
            columns = self._draw(np.arange(self._n_items), np.full(self._n_items, view))
        self._views.pop(view, None)
        self._views[view] = columns  # the latest stay
        while len(self._views) > KEPT_VIEWS:
            self._views.popitem(last=False)
        return {name: values[item_B] for name, values in columns.items()}

    def _draw(self, item_B: np.ndarray, view_B: np.ndarray) -> dict[str, np.ndarray]:
        sizes_B2 = np.ones((len(item_B), 2)) if self._source_hw_N2 is None else self._source_hw_N2[item_B]
        return self._recipe.draw(item_B, view_B, sizes_B2)


def with_drawn(block: RowBlock, recipe: Recipe, source_hw_N2: np.ndarray | None, where: str) -> RowBlock:
    """Return rows with the columns that a recipe draws.

    Raises:
        DataError: they come with columns of their own, or the recipe is for other items.
    """
    if block.replay and tuple(block.replay) != recipe.columns:
        raise DataError(
            f"{where}: found the columns {', '.join(block.replay)}; the recipe draws "
            f"{', '.join(recipe.columns) or 'none'}; give rows without columns"
        )
    if recipe.scale is not None and source_hw_N2 is None:
        raise DataError(
            f"{where}: the recipe draws crops of images whose sizes are not known; say "
            "set_items(source_hw=...) before the first rows"
        )
    sizes_B2 = np.zeros((len(block), 2), np.int32)
    if source_hw_N2 is not None:
        if block.item_B.max(initial=-1) >= len(source_hw_N2):
            raise DataError(
                f"{where}: found item {block.item_B.max()}; source_hw has the sizes of {len(source_hw_N2)} images"
            )
        sizes_B2 = source_hw_N2[block.item_B]
    drawn = recipe.draw(block.item_B, block.view_B, sizes_B2)
    for name, values in block.replay.items():
        if not np.array_equal(values, drawn[name]):
            raise DataError(
                f"{where}: found {name} that are not those that the recipe draws; give rows without columns, or make "
                "the file without a recipe"
            )
    return replace(block, replay=drawn)

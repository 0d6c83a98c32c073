"""The replay columns that a recipe draws, whole views at a time where a student walks through one. No torch.

Shapes in names: B rows, N items.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from softpack.recipe import Recipe

KEPT_VIEWS = 2  # of all items: an epoch that ends, and the next
MOST_ITEMS = 1 << 22  # of which whole views are drawn


class DrawnColumns:
    """Draws columns; a view that is asked for again is drawn of all items at once, which costs a tenth a row.

    Args:
        recipe: that draws them.
        source_hw_N2: height and width of the pictures.
    """

    def __init__(self, recipe: Recipe, source_hw_N2: np.ndarray) -> None:
        self._recipe, self._source_hw_N2 = recipe, source_hw_N2
        self._views: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()  # empty: asked for once

    def of(self, item_B: np.ndarray, view_B: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of views, each [B, ...]."""
        is_one = len(view_B) > 0 and bool((view_B == view_B[0]).all())
        if not is_one or len(self._source_hw_N2) > MOST_ITEMS:
            return self._recipe.draw(item_B, view_B, self._source_hw_N2[item_B])
        view = int(view_B[0])
        if view not in self._views:
            self._keep(view, {})
            return self._recipe.draw(item_B, view_B, self._source_hw_N2[item_B])
        columns = self._views[view]
        if not columns:
            items_N = np.arange(len(self._source_hw_N2))
            columns = self._recipe.draw(items_N, np.full(len(items_N), view), self._source_hw_N2)
        self._keep(view, columns)
        return {name: values[item_B] for name, values in columns.items()}

    def _keep(self, view: int, columns: dict[str, np.ndarray]) -> None:
        self._views[view] = columns
        self._views.move_to_end(view)
        while len(self._views) > KEPT_VIEWS:
            self._views.popitem(last=False)

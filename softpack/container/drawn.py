"""The replay columns that a recipe draws, whole views at a time where a student walks through one. No torch.

Shapes in names: B rows, N items.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from softpack.recipe import Recipe

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

"""The columns of an open file that are not in its rows' tiles: those that a recipe draws, and those of items. No torch.

Shapes in names: B rows, N items.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from softpack.container.drawn import DrawnColumns
from softpack.container.file import SpkFile
from softpack.container.tiles import read_items
from softpack.errors import CorruptError, DataError
from softpack.format.streams import StreamSpec


class StoredColumns:
    """Draws the columns of rows, and reads those of items.

    Args:
        file: that is open.
    """

    def __init__(self, file: SpkFile) -> None:
        self._file = file

    # -- of rows ---------------------------------------------------------------------------------------

    def drawn(self, item_B: np.ndarray, view_B: np.ndarray) -> dict[str, np.ndarray]:
        """Return the replay columns that the recipe draws of rows that are there, each [B, ...].

        Raises:
            CorruptError: the recipe does not say them of all items.
        """
        header, n_items = self._file.header, self._file.commit.items
        if header.recipe is None:
            return {}
        if "mix_item" in header.replay_columns and n_items > header.recipe.items:
            raise CorruptError(
                f"{self._file.name}: holds {n_items} items, and its recipe draws mix partners among "
                f"{header.recipe.items}; nobody can tell what the others are mixed with"
            )
        return self._columns.of(item_B, view_B)

    @cached_property
    def _columns(self) -> DrawnColumns:
        recipe = self._file.header.recipe
        if recipe is not None and recipe.scale is not None:
            self.sizes(np.zeros(0, np.int64))  # for its error
        return DrawnColumns(recipe, self._file.commit.items, self._source_hw_N2)  # type: ignore[arg-type]

    # -- of items --------------------------------------------------------------------------------------

    def streams(self) -> list[tuple[int, StreamSpec]]:
        """Return number and description of the streams that say something of every item."""
        parts = self._file.item_parts.values()
        return [
            (n, stream)
            for n, stream in enumerate(self._file.header.streams, 1)
            if stream.per == "item"
            and stream.name != "prototype"
            and sum(p.n_rows for p in parts if n in p.blocks) == self._file.commit.items
        ]

    @property
    def item_names(self) -> tuple[str, ...]:
        """Names of the columns that each item has; one that a stopped writer left unfinished is not counted."""
        return tuple(name for _, stream in self.streams() for name in (a.name for a in stream.arrays))

    def item(self, name: str) -> np.ndarray:
        """Return a column that each item has, [N, ...].

        Raises:
            DataError: the file has no such column.
        """
        for number, stream in self.streams():
            if any(spec.name == name for spec in stream.arrays):
                return read_items(self._file, number, stream)[name]
        raise DataError(
            f"{self._file.name}: has no column {name!r}; its item columns are {', '.join(self.item_names) or 'none'}"
        )

    def sizes(self, item_B: np.ndarray) -> np.ndarray:
        """Return height and width of the pictures of items, [B, 2].

        Raises:
            CorruptError: the file does not say them.
        """
        if self._source_hw_N2 is not None:
            return np.asarray(self._source_hw_N2[item_B])
        raise CorruptError(
            f"{self._file.name}: has no source_hw of every item, without which crops cannot be drawn, and those in "
            "pixels say nothing"
        )

    @cached_property
    def _source_hw_N2(self) -> np.ndarray | None:
        return self.item("source_hw") if "source_hw" in self.item_names else None

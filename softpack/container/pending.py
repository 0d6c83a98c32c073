"""Rows that wait to be written: gathered from any order of arrival into tiles. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from softpack.errors import DataError


@dataclass(frozen=True)
class Grid:
    """How rows fall into tiles.

    Args:
        tile_items: items in a tile.
        tile_views: views in a tile.
        items: of the file where they are known beforehand, None where they grow.
        views: the same of views.
    """

    tile_items: int
    tile_views: int
    items: int | None
    views: int | None

    def tile_of(self, item_B: np.ndarray, view_B: np.ndarray) -> np.ndarray:
        """Return one number for the tile of each row: its index along the items in the high half."""
        tile_B: np.ndarray = (item_B // self.tile_items) << 32 | (view_B // self.tile_views)
        return tile_B

    def capacity(self, tile: int) -> int:
        """Return the rows that a tile has when nothing is missing."""
        return self.span(tile >> 32, self.tile_items, self.items) * self.span(
            tile & 0xFFFFFFFF, self.tile_views, self.views
        )

    @staticmethod
    def span(index: int, size: int, total: int | None) -> int:
        """Return how much of tile `index` along one axis lies inside the file."""
        return size if total is None else max(0, min(size, total - index * size))


@dataclass(frozen=True)
class TilePart:
    """Rows of one tile, ready to be written.

    Args:
        tile_item: index of the tile along the items.
        tile_view: index of the tile along the views.
        present: bool [span_items, span_views], from the tile's first item and view.
        arrays: of every row stream, [n, ...], in the order of items and then views.
    """

    tile_item: int
    tile_view: int
    present: np.ndarray
    arrays: dict[str, np.ndarray]

    @property
    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Item and view of each row within the tile, int64 [n] each."""
        item_B, view_B = np.nonzero(self.present)
        return item_B, view_B

    @property
    def n_rows(self) -> int:
        """Rows in the part."""
        return int(self.present.sum())


class Pending:
    """Gathers rows and gives them out as parts of tiles.

    Args:
        grid: how rows fall into tiles.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._batches: list[dict[str, np.ndarray]] = []
        self.n_bytes = 0

    def add(self, item_B: np.ndarray, view_B: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Take rows in any order."""
        batch = {"": self.grid.tile_of(item_B, view_B), "item": item_B, "view": view_B}
        batch |= {f"array {name}": values for name, values in arrays.items()}
        self._batches.append(batch)
        self.n_bytes += sum(values.nbytes for values in batch.values())

    @property
    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Item and view of the rows that wait, int64 [B] each."""
        item_B, view_B = (
            np.concatenate([np.zeros(0, np.int64), *(batch[name] for batch in self._batches)])
            for name in ("item", "view")
        )
        return item_B, view_B

    def take(self, complete_only: bool) -> Iterator[TilePart]:
        """Give out the tiles that are complete, or all there is, in the order of tiles.

        Raises:
            DataError: an (item, view) is there twice.
        """
        if not self._batches:
            return
        rows = {name: np.concatenate([batch[name] for batch in self._batches]) for name in self._batches[0]}
        self._batches, self.n_bytes = [], 0
        order = np.lexsort((rows["view"], rows["item"], rows[""]))
        rows = {name: values[order] for name, values in rows.items()}
        check_no_twins(rows["item"], rows["view"])
        starts = np.concatenate([[0], np.flatnonzero(np.diff(rows[""])) + 1, [len(order)]])
        kept = []
        for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            tile = int(rows[""][start])
            if complete_only and stop - start < self.grid.capacity(tile):
                kept.append(np.arange(start, stop))
            else:
                yield self._part(tile, {name: values[start:stop] for name, values in rows.items()})
        if kept:
            rest = np.concatenate(kept)
            batch = {name: values[rest] for name, values in rows.items()}
            self._batches.append(batch)
            self.n_bytes = sum(values.nbytes for values in batch.values())

    def _part(self, tile: int, rows: dict[str, np.ndarray]) -> TilePart:
        tile_item, tile_view = tile >> 32, tile & 0xFFFFFFFF
        item = rows["item"] - tile_item * self.grid.tile_items
        view = rows["view"] - tile_view * self.grid.tile_views
        present = np.zeros((int(item.max()) + 1, int(view.max()) + 1), bool)
        present[item, view] = True
        arrays = {name[6:]: values for name, values in rows.items() if name.startswith("array ")}
        return TilePart(tile_item, tile_view, present, arrays)


def check_no_twins(item_B: np.ndarray, view_B: np.ndarray) -> None:
    """Check rows that are sorted by item and view.

    Raises:
        DataError: two rows are of the same (item, view).
    """
    twins = (item_B[1:] == item_B[:-1]) & (view_B[1:] == view_B[:-1])
    if twins.any():
        first = int(np.flatnonzero(twins)[0])
        raise DataError(
            f"item {item_B[first]}, view {view_B[first]} is there twice; every (item, view) has one label; leave "
            "the other out"
        )


class Presence:
    """Remembers which (item, view) were written and which are named as partners, tile by tile.

    A tile that is complete takes no memory, and neither do references into it.

    Args:
        grid: how rows fall into tiles.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._complete: set[int] = set()
        self._written: dict[int, np.ndarray] = {}
        self._named: dict[int, np.ndarray] = {}
        self.parts: dict[int, int] = {}  # of each tile so far

    def write(self, part: TilePart, number: int = 0) -> int:
        """Note the rows of a part and return its number within its tile: the next, and `number` or more.

        Raises:
            DataError: one of the rows was written before.
        """
        tile = part.tile_item << 32 | part.tile_view
        span = tuple(slice(0, n) for n in part.present.shape)
        if tile in self._complete:
            again = part.present
        else:
            cells = self._written.setdefault(tile, self._empty())
            again = cells[span] & part.present
        if again.any():
            raise DataError(f"{self._first(tile, again)} is there already; every (item, view) has one label")
        cells[span] |= part.present
        if int(cells.sum()) == self.grid.capacity(tile):
            self._complete.add(tile)
            del self._written[tile]
            self._named.pop(tile, None)
        self.parts[tile] = max(self.parts.get(tile, -1) + 1, number)
        return self.parts[tile]

    def name(self, item_B: np.ndarray, view_B: np.ndarray) -> None:
        """Note that these (item, view) must be there in the end."""
        tiles = self.grid.tile_of(item_B, view_B)
        for tile in np.unique(tiles).tolist():
            if tile in self._complete:
                continue
            rows = tiles == tile
            cells = self._named.setdefault(tile, self._empty())
            cells[item_B[rows] % self.grid.tile_items, view_B[rows] % self.grid.tile_views] = True

    def check_named(self) -> None:
        """Check that every partner is there.

        Raises:
            DataError: names the first that is not.
        """
        for tile, named in sorted(self._named.items()):
            missing = named & ~self._written.get(tile, self._empty())
            if missing.any():
                raise DataError(
                    f"{self._first(tile, missing)} is named as a mix partner, but has no label; "
                    "a partner's own row must be there, for its crop"
                )

    def _first(self, tile: int, cells: np.ndarray) -> str:
        item, view = (int(axis[0]) for axis in np.nonzero(cells))
        item += (tile >> 32) * self.grid.tile_items
        view += (tile & 0xFFFFFFFF) * self.grid.tile_views
        return f"item {item}, view {view}"

    def _empty(self) -> np.ndarray:
        return np.zeros((self.grid.tile_items, self.grid.tile_views), bool)

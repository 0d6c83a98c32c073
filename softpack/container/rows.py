"""Which (item, view) a file holds, and where: row numbers in the order of items, then views. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from softpack.container.file import Part, SpkFile
from softpack.container.tiles import read_presence
from softpack.errors import CorruptError, DataError


@dataclass(frozen=True)
class RowMap:
    """Numbers the rows of a file 0, 1, 2, ... by item and then view.

    Args:
        items: of the file.
        views: of the file.
        keys: item * views + view of each row, rising, int64; None where every (item, view) is there.
    """

    items: int
    views: int
    keys: np.ndarray | None

    @property
    def n_rows(self) -> int:
        """Rows in the file."""
        return self.items * self.views if self.keys is None else len(self.keys)

    def find(self, items: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Return the row number of each (item, view), -1 where it is not there: int64 [B]."""
        items, views = np.asarray(items, np.int64), np.asarray(views, np.int64)
        inside = (items >= 0) & (items < self.items) & (views >= 0) & (views < self.views)
        keys = np.where(inside, items * self.views + views, -1)
        if self.keys is None:
            return keys
        rows = np.searchsorted(self.keys, keys)
        found = inside & (rows < len(self.keys))
        found[found] = self.keys[rows[found]] == keys[found]
        return np.where(found, rows, -1)

    def need(self, items: np.ndarray, views: np.ndarray, name: str) -> np.ndarray:
        """Return the row numbers, all of which must be there.

        Raises:
            DataError: names the first (item, view) that is not.
        """
        rows = self.find(items, views)
        if (rows < 0).any():
            bad = int(np.flatnonzero(rows < 0)[0])
            item, view = int(np.asarray(items)[bad]), int(np.asarray(views)[bad])
            if not self.n_rows:
                raise DataError(f"{name}: holds no labels; it is a model, for `softpack encode --model`")
            raise DataError(
                f"{name}: there is no label of item {item}, view {view}; it holds {self.n_rows} labels of "
                f"items 0 to {self.items - 1} and views 0 to {self.views - 1}"
            )
        return rows

    def cells(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the items and the views of row numbers.

        Raises:
            DataError: there is no such row.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.n_rows:
            raise DataError(f"found row numbers {rows.min()} to {rows.max()}; expected 0 to {self.n_rows - 1}")
        keys = rows if self.keys is None else self.keys[rows]
        return keys // self.views, keys % self.views

    @cached_property
    def view_counts(self) -> np.ndarray:
        """How many views each item has, int64 [items]."""
        if self.keys is None:
            return np.full(self.items, self.views, np.int64)
        return np.bincount(self.keys // self.views, minlength=self.items)

    def nth_view(self, items: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Return the n-th present view, from 0, of each item.

        Raises:
            DataError: an item is not there, or has fewer views.
        """
        items, n = np.asarray(items, np.int64), np.asarray(n, np.int64)
        first, stop = self.rows_of(items)
        bad = (n < 0) | (n >= stop - first)
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"item {items[i]} has {max(stop[i] - first[i], 0)} views; view number {n[i]} was asked for"
            )
        return n if self.keys is None else self.keys[first + n] % self.views

    def rows_of(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first row number of each item, and the one after its last; equal where it has none."""
        inside = (items >= 0) & (items < self.items)
        first, stop = items * self.views, (items + inside) * self.views
        return (first, stop) if self.keys is None else tuple(np.searchsorted(self.keys, (first, stop)))


def part_cells(file: SpkFile, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Return the items and the views of the rows of a part, in stored order."""
    items, views = np.nonzero(read_presence(file, part))
    return items + part.first_item, views + part.first_view


def row_map(file: SpkFile) -> RowMap:
    """Return the row numbers of a file; reads the presence bits where rows are missing.

    Raises:
        CorruptError: two parts hold the same (item, view).
    """
    commit = file.commit
    if commit.n_rows == commit.items * commit.views and all(part.is_full for part in file.parts):
        # As many rows as cells: complete, if no two parts overlap. Parts of one tile would.
        tiles = {(part.first_item, part.first_view) for part in file.parts}
        if len(tiles) == len(file.parts):
            return RowMap(commit.items, commit.views, None)
    keys = np.empty(commit.n_rows, np.int64)
    stop = 0
    for band in _bands(file):
        keys[stop : stop + len(band)] = band
        stop += len(band)
    if (keys[1:] == keys[:-1]).any():
        twice = int(keys[1:][keys[1:] == keys[:-1]][0])
        item, view = divmod(twice, commit.views)
        raise CorruptError(f"{file.name}: item {item}, view {view} is there twice")
    return RowMap(commit.items, commit.views, None if len(keys) == commit.items * commit.views else keys)


def _bands(file: SpkFile) -> Iterator[np.ndarray]:
    """Yield the keys of the rows of those tiles that have the same items, rising, one after the other."""
    parts: dict[int, list[Part]] = {}
    for part in file.parts:
        parts.setdefault(part.first_item, []).append(part)
    for _, of_band in sorted(parts.items()):
        cells = [part_cells(file, part) for part in of_band]
        keys = np.concatenate([items * np.int64(file.commit.views) + views for items, views in cells])
        if len(of_band) > 1:  # one part's rows are in order
            keys.sort(kind="stable")  # which finds the runs that they are in
        yield keys

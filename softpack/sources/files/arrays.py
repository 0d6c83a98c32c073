"""Sources that are arrays in a file, of whatever kind the file is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from softpack.checks import Place, as_label_rows, check_labels, check_mix
from softpack.errors import DataError
from softpack.records import RowBlock
from softpack.sources.base import Source
from softpack.sources.columns import INT32_MAX, Around, check_item_column, read_column
from softpack.sources.files.layout import INDEX, WANTED, Layout, layout_of
from softpack.sources.files.stored import Opener, Stored, StoredArray, gathered, reading

INDEX_BLOCK = 1 << 18  # entries of an index column read at a time
MAX_ITEM_BYTES = 1 << 30  # of a column with one entry for each item, which is held whole


@dataclass(frozen=True, eq=False)
class ArraySource(Source):
    """Arrays in a file.

    Args:
        opener: opens the file's kind.
        layout: what the arrays are.
        asked: space and temperature that the caller gave.
        files: that the arrays are in.
        starts: number of the first row of each part that is read whole, and of all; None where rows are read alone.
    """

    opener: Opener
    layout: Layout
    asked: tuple[str | None, float | None]
    files: tuple[Path, ...]
    starts: np.ndarray | None

    @property
    def n_bytes(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def parts(self) -> np.ndarray | None:
        """Number of the first row of each part that is read whole, and of all; None where rows are read alone."""
        return self.starts

    def views_of(self, rows_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        with opened(self.path, self.opener) as stored, reading(self.path):
            return self._index(stored, rows_B)[1]

    def read_rows(self, groups: Iterator[np.ndarray]) -> Iterator[RowBlock]:
        """Yield one block for each group of ascending row numbers."""
        with opened(self.path, self.opener) as stored:
            with reading(self.path):
                if layout_of(stored, *self.asked) != self.layout:
                    raise DataError("has changed since it was opened; expected the same arrays; open it again")
            for rows_B in groups:
                yield self._block(stored, rows_B)

    def _block(self, stored: Stored, rows_B: np.ndarray) -> RowBlock:
        with reading(self.path):
            labels_BC = as_label_rows(gathered(stored.arrays[self.layout.labels], rows_B, self.layout.lead))
            raw = {
                name: gathered(stored.arrays[name], rows_B, self.layout.lead) for name in self.layout.row_arrays
            }
            item_B, view_B = self._index(stored, rows_B)
        place = Place(str(self.path), rows_B, item_B, view_B)
        check_labels(labels_BC, self.spec, stored.arrays[self.layout.labels].dtype, place)
        around = Around(place, self.items, self.item_columns.get("source_hw"))
        replay = dict(read_column(name, values_B, around) for name, values_B in raw.items())
        check_mix(replay, place)
        return RowBlock(labels_BC, item_B, view_B, replay)

    def _index(self, stored: Stored, rows_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.layout.indexed:
            item_B, view_B = (gathered(stored.arrays[name], rows_B).astype(np.int64) for name in INDEX)
            return item_B, view_B
        return rows_B // self.views, rows_B % self.views


@contextmanager
def opened(path: Path, opener: Opener) -> Iterator[Stored]:
    """Open a file's arrays; what a damaged file raises becomes a DataError, what the caller raises does not."""
    with reading(path):
        context = opener(path, WANTED)
        stored = context.__enter__()
    try:
        yield stored
    finally:
        with reading(path):
            context.__exit__(None, None, None)


def open_arrays(opener: Opener, path: Path, space: str | None, temperature: float | None) -> ArraySource:
    """Open a file of arrays, check that they fit each other, and read what there is one of for each item.

    Args:
        opener: of the file's kind.
        path: of the file.
        space: what the array of a `.npy` is; otherwise what the file must say, if given.
        temperature: of log_probs and probs, where the file does not say it.

    Raises:
        DataError: the file is no source of labels, or its index is not one.
    """
    with opened(path, opener) as stored, reading(path):
        layout = layout_of(stored, space, temperature)
        items, views = layout.shape[0], layout.shape[1] if layout.lead == 2 else 1
        if layout.indexed:
            items, views = (highest(stored.arrays[name], name) + 1 for name in INDEX)
        item_columns = {name: _item_column(stored.arrays[name], name, items) for name in layout.item_arrays}
        counts = {name: len(values) for name, values in item_columns.items()}
        if len(set(counts.values())) > 1:
            (first, n), *others = counts.items()
            said = ", ".join([f"{first} has {n} items", *(f"{name} {count}" for name, count in others)])
            raise DataError(f"{said}; expected as many")
        return ArraySource(
            path=path,
            spec=layout.spec,
            items=max(items, *counts.values()) if counts else items,
            views=views,
            n_rows=layout.n_rows,
            columns=tuple(_column_name(name, stored) for name in layout.row_arrays),
            item_columns=item_columns,
            ignored=stored.others,
            opener=opener,
            layout=layout,
            asked=(space, temperature),
            files=stored.files or (path,),
            starts=None if stored.starts is None else stored.starts * (views if layout.lead == 2 else 1),
        )


def highest(array: StoredArray, name: str) -> int:
    """Return the highest of a column of numbers from 0 on."""
    highest = 0
    for start in range(0, array.shape[0], INDEX_BLOCK):
        values_B = array.read(start, min(start + INDEX_BLOCK, array.shape[0]), 1)
        bad = np.flatnonzero((values_B < 0) | (values_B >= INT32_MAX))
        if len(bad):
            raise DataError(
                f"{name} of row {start + bad[0]} is {values_B[bad[0]]}; expected 0 to {INT32_MAX - 1}; "
                "number items and views from 0"
            )
        highest = max(highest, int(values_B.max()))
    return highest


def _item_column(array: StoredArray, name: str, items: int) -> np.ndarray:
    if array.shape[0] < items:
        raise DataError(f"{name} has {array.shape[0]} entries; expected one for each item, at least {items}")
    if 8 * prod(array.shape) > MAX_ITEM_BYTES:
        raise DataError(f"{name} has shape {array.shape}; expected less than {MAX_ITEM_BYTES >> 30} GiB of it")
    return check_item_column(name, array.read(0, array.shape[0], 1))


def _column_name(name: str, stored: Stored) -> str:
    floats = name == "crop_xywh" and stored.arrays[name].kind == "f"
    return "crop_xywh_fraction" if floats and "source_hw" not in stored.arrays else name

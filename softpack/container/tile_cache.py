"""Read rows of tiles by (item, view), and keep the tiles that were read last. No torch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from softpack.container.corrections import Corrections, read_corrections
from softpack.container.file import Part, SpkFile
from softpack.container.tiles import array_dtype, read_presence, read_tile
from softpack.errors import CorruptError
from softpack.format import layout

CACHE_BYTES = 256 << 20
Arrays = dict[str, np.ndarray]


class TileCache:
    """The tiles of a file, read and checked as their rows are asked for, and kept up to `CACHE_BYTES`.

    Args:
        file: open.
    """

    def __init__(self, file: SpkFile) -> None:
        self.file = file
        self._kept: OrderedDict[tuple[int, int], Arrays] = OrderedDict()
        self._kept_bytes = 0

    def arrays(self, stream: int, items: np.ndarray, views: np.ndarray) -> Arrays:
        """Return the arrays of a stream for these (item, view), all of which are there, [B, ...] each.

        Raises:
            KeyError: one of them is not there.
            CorruptError: one of them is there twice.
        """
        located = [*self._located(items, views)]
        if len(located) == 1:  # then it has all of them, and they are in order
            ((number, _, rows),) = located
            return {name: values.take(rows, axis=0) for name, values in self._tile(number, stream).items()}
        specs = self.file.header.streams[stream - 1].arrays
        out = {spec.name: np.empty((len(items), *spec.shape), array_dtype(spec)) for spec in specs}
        for number, places, rows in located:
            for name, values in self._tile(number, stream).items():
                out[name][places] = values.take(rows, axis=0)
        return out

    def corrections(self, items: np.ndarray, views: np.ndarray) -> Corrections:
        """Return the corrections of these (item, view), all of which are there, counted as they are asked for.

        Raises:
            KeyError, CorruptError: as `arrays` does.
        """
        number, _ = self.file.header.stream("correction")  # type: ignore[misc]
        parts = []
        for part, places, rows in self._located(items, views):
            if number in self.file.parts[part].blocks:
                kept = self._tile(part, number)
                of_part = Corrections(kept["row"], kept["class"], kept["value"])
                parts.append(of_part.take(rows).numbered(places))
        return Corrections.join(parts)

    def _located(self, items: np.ndarray, views: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield parts by number, which of the cells asked for are in each, and their rows in it.

        Only the presence bits of these tiles are read, however many rows the file has.
        """
        keys = self._tile_keys(items, views)
        order = np.argsort(keys, kind="stable")
        bounds = np.flatnonzero(np.diff(keys[order])) + 1
        for group in np.split(order, bounds) if len(order) else ():
            times = np.zeros(len(group), np.int64)
            for number in self._parts.get(int(keys[group[0]]), ()):
                inside, rows = self._rows_in_part(number, items[group], views[group])
                times += inside
                if len(rows):
                    yield number, group[inside], rows
            if (times != 1).any():
                wrong = group[times == times[times != 1].max()][0]
                self._refuse(int(items[wrong]), int(views[wrong]), bool((times > 1).any()))

    def _refuse(self, item: int, view: int, is_twice: bool) -> None:
        if is_twice:
            raise CorruptError(f"{self.file.name}: item {item}, view {view} is there twice")
        raise KeyError(item, view)

    @cached_property
    def _parts(self) -> dict[int, list[int]]:
        """Numbers of the parts of each tile, by the tile's key."""
        parts: dict[int, list[int]] = {}
        for number, part in enumerate(self.file.parts):
            parts.setdefault(int(self._tile_keys(part.first_item, part.first_view)), []).append(number)
        return parts

    def _tile_keys(self, items: Any, views: Any) -> Any:
        header = self.file.header
        per_row = -(-self.file.commit.views // header.tile_views)
        return items // header.tile_items * per_row + views // header.tile_views

    def _rows_in_part(self, number: int, items: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the cells a part holds, and their rows in it."""
        part = self.file.parts[number]
        i, v = items - part.first_item, views - part.first_view
        inside = (i >= 0) & (i < part.span_items) & (v >= 0) & (v < part.span_views)
        cells = i[inside] * part.span_views + v[inside]
        if part.is_full:
            return inside, cells
        rank = self._tile(number, layout.IDS_STREAM)["rank"][cells]
        inside[inside] = rank >= 0
        return inside, rank[rank >= 0]

    def _tile(self, number: int, stream: int) -> Arrays:
        key = (number, stream)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        arrays = _read(self.file, self.file.parts[number], stream)
        self._kept[key] = arrays
        self._kept_bytes += sum(array.nbytes for array in arrays.values())
        while self._kept_bytes > CACHE_BYTES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= sum(array.nbytes for array in dropped.values())
        return arrays


def _read(file: SpkFile, part: Part, stream: int) -> Arrays:
    """Return what a tile says: arrays; of presence bits the row of each cell; of corrections where they are."""
    if stream == layout.IDS_STREAM:
        present = read_presence(file, part).reshape(-1)
        return {"rank": np.where(present, np.cumsum(present) - 1, -1)}  # -1 where there is no row
    if file.header.streams[stream - 1].per == "correction":
        found = read_corrections(file, part)
        return {"row": found.row_E, "class": found.class_E, "value": found.value_E}
    return read_tile(file, part, stream)

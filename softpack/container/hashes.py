"""Whether the tokens of a file's sequences are those that their hashes were made of. No torch."""

from __future__ import annotations

import numpy as np

from softpack.container.binding import Binding
from softpack.container.file import SpkFile
from softpack.container.rows import row_map
from softpack.container.tile_cache import TileCache
from softpack.container.tiles import read_items
from softpack.errors import CorruptError, DataError

ROWS = 1 << 18  # at a time


def check_sequences(file: SpkFile) -> None:
    """Check all sequences that are whole; a writer that was stopped leaves others.

    Raises:
        CorruptError: names the first that has other tokens.
    """
    found = file.header.stream("sequence")
    if found is None:
        return
    columns = read_items(file, *found)
    if len(columns["length"]) != file.commit.items:  # left unfinished
        return
    replay, _ = file.header.stream("replay")  # type: ignore[misc]
    rows, tiles = row_map(file), TileCache(file)
    try:
        binding = Binding(columns, file.name)
        for start in range(0, rows.n_rows, ROWS):
            item_B, view_B = rows.cells(np.arange(start, min(start + ROWS, rows.n_rows)))
            binding.add(item_B, view_B, tiles.arrays(replay, item_B, view_B)["token"])
    except DataError as error:
        raise CorruptError(str(error)) from None

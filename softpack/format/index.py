"""The index: the headers of all blocks before it, in order.

Offsets follow from the lengths, so no byte can lie outside a block and no two blocks can overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softpack.errors import CorruptError, UnsupportedError
from softpack.format import layout
from softpack.format.header import Header
from softpack.format.layout import ALIGN, ANCILLARY, BLOCK_DTYPE, SUPERBLOCK, BlockType, Coding, ModelPart

TILE_FIELDS = ("part", "tile_item", "tile_view", "span_items", "span_views", "n_rows")
MAX_STORED = {
    BlockType.HEADER: layout.MAX_HEADER,
    BlockType.MODEL: layout.MAX_MODEL,
    BlockType.TILE: layout.MAX_TILE,
    BlockType.INDEX: layout.MAX_INDEX,
    BlockType.COMMIT: layout.COMMIT.size,
}


@dataclass(frozen=True)
class Commit:
    """What a COMMIT block says: the file was whole up to here.

    Args:
        index_offset: where the index block begins.
        file_len: bytes of the file, this block included.
        number: 0, 1, 2, ...
        items: items so far.
        views: views so far; some (item, view) may be missing.
        n_rows: rows so far.
    """

    index_offset: int
    file_len: int
    number: int
    items: int
    views: int
    n_rows: int

    def to_bytes(self) -> bytes:
        """Return the 64 bytes of the payload."""
        return layout.COMMIT.pack(
            self.index_offset, self.file_len, self.number, self.items, self.views, self.n_rows, 0, layout.END
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Commit:
        """Read a commit.

        Raises:
            CorruptError: the length, the end mark or the reserved field is wrong.
        """
        if len(data) != layout.COMMIT.size:
            raise CorruptError(f"{where}: a commit has {len(data)} bytes, expected {layout.COMMIT.size}")
        *fields, reserved, end = layout.COMMIT.unpack(data)
        if end != layout.END or reserved:
            raise CorruptError(f"{where}: the commit does not end with {layout.END!r}")
        return cls(*fields)


def parse_index(payload: bytes, where: str) -> np.ndarray:
    """Return the block headers [n] (`BLOCK_DTYPE`) of an index."""
    if len(payload) % BLOCK_DTYPE.itemsize:
        raise CorruptError(f"{where}: the index has {len(payload)} bytes, expected a multiple of 64")
    return np.frombuffer(payload, BLOCK_DTYPE)


def block_offsets(blocks: np.ndarray) -> np.ndarray:
    """Return where each block begins, and where the last one ends: int64 [n + 1]."""
    lengths = blocks["stored_len"].astype(np.int64)
    lengths = layout.BLOCK.size + (lengths + ALIGN - 1) // ALIGN * ALIGN
    offsets = np.empty(len(blocks) + 1, np.int64)
    offsets[0] = SUPERBLOCK.size
    np.cumsum(lengths, out=offsets[1:])
    offsets[1:] += SUPERBLOCK.size
    return offsets


def check_blocks(blocks: np.ndarray, where: str) -> None:
    """Check what can be known of blocks without their payloads or the header.

    Raises:
        CorruptError: a sequence number, a size or a reserved field is wrong.
        UnsupportedError: a block of a type or coding that this reader must know and does not.
    """
    _refuse(blocks["sync"] != layout.SYNC, where, "does not begin with SPKB")
    _refuse(blocks["seq"] != np.arange(len(blocks)), where, "is out of order: its sequence number is wrong")
    _refuse(blocks["reserved"] != 0, where, "has a reserved field that is not 0")
    known = np.isin(blocks["type"], [int(t) for t in BlockType])
    unknown = ~known & (blocks["type"] < ANCILLARY)
    if unknown.any():
        raise UnsupportedError(
            f"{where}: block {np.flatnonzero(unknown)[0]} is of type {blocks['type'][unknown][0]}, which this "
            "softpack does not know; install a later one"
        )
    for block_type, most in MAX_STORED.items():
        of_type = blocks["type"] == block_type
        for name in ("stored_len", "raw_len"):
            too_large = of_type & (blocks[name] > most)
            _refuse(too_large, where, f"promises a {name} above the limit of {most} bytes")
    _refuse(known & (blocks["coding"] > max(Coding)), where, "has a coding that is not known", UnsupportedError)
    plain = np.isin(blocks["type"], [BlockType.HEADER, BlockType.TILE, BlockType.COMMIT])
    _refuse(
        plain & (blocks["coding"] != Coding.STORED), where, "is compressed as a whole, which its type never is"
    )
    tiles = blocks["type"] == BlockType.TILE
    models = blocks["type"] == BlockType.MODEL
    unknown_part = models & ~np.isin(blocks["stream"], [int(part) for part in ModelPart])
    _refuse(unknown_part, where, "is a part of the model that is not known", UnsupportedError)
    _refuse(known & ~tiles & ~models & (blocks["stream"] != 0), where, "has a stream, which its type has not")
    for name in TILE_FIELDS:
        _refuse(known & ~tiles & (blocks[name] != 0), where, f"is no tile, but has a {name}")
    headers = np.flatnonzero(blocks["type"] == BlockType.HEADER)
    if list(headers) != [0]:
        raise CorruptError(f"{where}: header blocks at {headers.tolist()}; expected one, at 0")


def check_tiles(blocks: np.ndarray, header: Header, where: str) -> None:
    """Check the tile blocks against what the header allows.

    Raises:
        CorruptError: a tile of an unknown stream, or larger than a tile may be.
    """
    tiles = blocks["type"] == BlockType.TILE
    streams = header.streams
    _refuse(tiles & (blocks["stream"] > len(streams)), where, f"is of a stream above {len(streams)}")
    in_range = np.where(tiles, blocks["stream"], 0)
    of_items, of_corrections = (
        np.array([False, *(stream.per == per for stream in streams)])[in_range]
        for per in ("item", "correction")
    )
    items_alone = np.array([0, *(stream.items_per_tile for stream in streams)])[in_range]
    most_items = np.where(of_items, items_alone, header.tile_items)
    most_views = np.where(of_items, 1, header.tile_views)
    spans = blocks["span_items"].astype(np.int64), blocks["span_views"].astype(np.int64)
    _refuse(tiles & ((spans[0] > most_items) | (spans[1] > most_views)), where, "covers more than a tile")
    more = tiles & ~of_corrections & (blocks["n_rows"] > spans[0] * spans[1])
    _refuse(more, where, "has more rows than it covers")
    _refuse(tiles & (blocks["n_rows"] == 0), where, "is a tile without rows")
    _refuse(tiles & of_items & (blocks["n_rows"] != spans[0]), where, "misses items that it covers")
    of_views = (blocks["tile_view"] | blocks["part"]) != 0
    _refuse(tiles & of_items & of_views, where, "is of items, but has a view or a part")
    first_item = blocks["tile_item"].astype(np.int64) * most_items
    first_view = blocks["tile_view"].astype(np.int64) * most_views
    values = np.array([1, *(stream.values_per_row for stream in streams)])[in_range]
    too_many = tiles & (blocks["n_rows"] * values > layout.MAX_TILE_VALUES)
    _refuse(too_many, where, f"holds more numbers than the limit of {layout.MAX_TILE_VALUES}")
    beyond = (first_item + spans[0] > layout.MAX_ITEMS) | (first_view + spans[1] > layout.MAX_ITEMS)
    _refuse(tiles & beyond, where, "lies beyond the largest item or view")


def _refuse(bad: np.ndarray, where: str, what: str, error: type[Exception] = CorruptError) -> None:
    if bad.any():
        raise error(f"{where}: block {int(np.flatnonzero(bad)[0])} {what}")

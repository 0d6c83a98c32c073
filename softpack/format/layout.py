"""Every constant of the `.spk` layout, once. All integers are little-endian."""

from __future__ import annotations

import struct
from enum import IntEnum

import numpy as np

MAGIC = b"\x89SPK\r\n\x1a\n"  # the line ends catch transfers in text mode
VERSION_MAJOR = 1
VERSION_MINOR = 5
ALIGN = 64

# magic, major, minor, size of the superblock, file id, features (incompatible, read-only compatible,
# compatible), hash of the bytes before it
SUPERBLOCK = struct.Struct("<8sHHI16sQQQQ")

SYNC = b"SPKB"
# sync, type, coding, stream, seq, part, tile_item, tile_view, span_items, span_views, n_rows, stored_len,
# raw_len, reserved, payload hash, header hash (of the bytes before it, seeded with the file id)
BLOCK = struct.Struct("<4sBBHIIIIIIIIIIQQ")
BLOCK_DTYPE = np.dtype(
    [
        ("sync", "S4"),
        ("type", "u1"),
        ("coding", "u1"),
        ("stream", "<u2"),
        ("seq", "<u4"),
        ("part", "<u4"),
        ("tile_item", "<u4"),
        ("tile_view", "<u4"),
        ("span_items", "<u4"),
        ("span_views", "<u4"),
        ("n_rows", "<u4"),
        ("stored_len", "<u4"),
        ("raw_len", "<u4"),
        ("reserved", "<u4"),
        ("payload_hash", "<u8"),
        ("header_hash", "<u8"),
    ]
)

BLOCK_FIELDS: tuple[str, ...] = BLOCK_DTYPE.names or ()

# offset of the index block, length of the file, number of the commit, items, views, rows, reserved, end mark
COMMIT = struct.Struct("<QQQQQQQ8s")
END = b"SPK.END\n"
COMMIT_BLOCK_LEN = BLOCK.size + COMMIT.size

HASH_LEN = 8  # bytes of each xxh64


class BlockType(IntEnum):
    """What a block holds. Types from 128 on are ancillary: a reader that does not know one skips it."""

    HEADER = 1
    MODEL = 2
    TILE = 3
    INDEX = 4
    COMMIT = 5


ANCILLARY = 128
VOID = 255  # ancillary: stands where `recover` left something out


class Coding(IntEnum):
    """How a block's payload, or an array inside a tile, was made smaller. Numbers are never given again."""

    STORED = 0
    ZSTD = 1


class ModelPart(IntEnum):
    """The `stream` field of a MODEL block."""

    DECODER = 0
    ENCODER = 1
    # 2 is never given: a test vector has it as the part of a later version.
    PROTOTYPES = 3  # what decodes the prototypes
    PROTOTYPE_ENCODER = 4
    TABLES = 5  # of the entropy coder
    # 6 is never given either.
    VIEW_BASIS = 7  # what prototypes are weighted by


IDS_STREAM = 0  # presence bits of a ragged part; streams of the header count from 1

# What a reader takes memory for at most, in bytes or numbers. A size beyond these is refused before it is used.
MAX_HEADER = 1 << 20
MAX_MODEL = (4 << 30) - ALIGN
MAX_TILE = 256 << 20
MAX_INDEX = 1 << 30
MAX_TILE_CELLS = 1 << 24  # items x views of a tile
MAX_TILE_VALUES = 1 << 26  # numbers in one stream of a tile
MAX_ITEMS = 1 << 31
MAX_PROTOTYPE_VALUES = 1 << 31  # numbers in the prototypes of all items: one row needs them in memory
MAX_STAGES = 64  # of codes
MAX_TEMPERATURES = 16  # of a promise
MAX_DEGREE = 3  # of the functions of a viewpoint
MAX_IMAGES = 64  # whose looks a header has
MAX_FORCED = 4096  # classes that are kept exactly beside the codes
THUMBPRINT_LEN = 16  # bytes of how an image looks
ITEM_TILE = 1 << 16  # items in a tile of a stream per item,
ITEM_TILE_VALUES = 1 << 22  # but not more than hold this many numbers


def padded(length: int) -> int:
    """Return `length` rounded up to whole alignment units."""
    return -(-length // ALIGN) * ALIGN

"""The superblock and the 64-byte header that every block begins with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

import xxhash

from softpack.errors import CorruptError, NotSpkError, TruncatedError, UnsupportedError
from softpack.format import layout
from softpack.format.layout import BLOCK, BLOCK_FIELDS, SUPERBLOCK, SYNC, BlockType, ModelPart


@dataclass(frozen=True)
class Block:
    """The header of one block. Fields that a type does not use are 0.

    Args:
        type: a `BlockType`, or an ancillary number from 128.
        coding: a `Coding`, of the payload; always STORED for a tile, whose arrays say their own.
        stream: number of the stream of a TILE; the `ModelPart` of a MODEL.
        seq: 0, 1, 2, ... through the file.
        part: tiles that came in several pieces number them.
        tile_item: index of the tile along the items.
        tile_view: index of the tile along the views.
        span_items: items from the tile's first that this part covers.
        span_views: views from the tile's first that this part covers.
        n_rows: rows in it; fewer than span_items x span_views where some are missing.
        stored_len: bytes of the payload.
        raw_len: bytes of the payload before compression.
        payload_hash: xxh64 of the stored payload.
    """

    type: int
    coding: int = 0
    stream: int = 0
    seq: int = 0
    part: int = 0
    tile_item: int = 0
    tile_view: int = 0
    span_items: int = 0
    span_views: int = 0
    n_rows: int = 0
    stored_len: int = 0
    raw_len: int = 0
    payload_hash: int = 0

    @property
    def total_len(self) -> int:
        """Bytes of header, payload and padding."""
        return BLOCK.size + layout.padded(self.stored_len)

    @property
    def what(self) -> str:
        """What it holds, for messages: "tile", "prototypes", ..."""
        kind: type[IntEnum] = ModelPart if self.type == BlockType.MODEL else BlockType
        number = self.stream if kind is ModelPart else self.type
        return kind(number).name.lower().replace("_", " ") if number in set(kind) else f"of type {self.type}"

    def to_bytes(self, file_id: bytes) -> bytes:
        """Return the 64 bytes, sealed with the file's id."""
        body = BLOCK.pack(
            SYNC, self.type, self.coding, self.stream, self.seq, self.part, self.tile_item,
            self.tile_view, self.span_items, self.span_views, self.n_rows, self.stored_len, self.raw_len,
            0, self.payload_hash, 0,
        )[: -layout.HASH_LEN]  # fmt: skip
        return body + header_hash(body, file_id).to_bytes(layout.HASH_LEN, "little")

    @classmethod
    def from_bytes(cls, data: bytes, file_id: bytes, where: str) -> Block:
        """Read a block header and check its seal.

        Raises:
            TruncatedError: fewer than 64 bytes.
            CorruptError: they are not a block header of this file.
        """
        if len(data) < BLOCK.size:
            raise TruncatedError(f"{where}: found {len(data)} bytes of a block header, expected {BLOCK.size}")
        fields = dict(zip(BLOCK_FIELDS, BLOCK.unpack(data), strict=True))
        sync, reserved, seal = fields.pop("sync"), fields.pop("reserved"), fields.pop("header_hash")
        if sync != SYNC:
            raise CorruptError(f"{where}: no block begins here (found {sync!r}, expected {SYNC!r})")
        if seal != header_hash(data[: -layout.HASH_LEN], file_id):
            raise CorruptError(f"{where}: the block header fails its checksum: damaged, or of another file")
        if reserved:
            raise CorruptError(f"{where}: a reserved field is {reserved}, expected 0")
        return cls(**fields)


def header_hash(body: bytes, file_id: bytes) -> int:
    """Return the seal of a block header: xxh64 seeded with the first half of the file id."""
    return xxhash.xxh64_intdigest(body, seed=int.from_bytes(file_id[:8], "little"))


def payload_hash(payload: bytes | memoryview) -> int:
    """Return the checksum of a stored payload."""
    return xxhash.xxh64_intdigest(payload)


def make_file_id(header: bytes) -> bytes:
    """Return the 16 bytes that tie blocks to a file: from its header, so that they repeat with it."""
    return hashlib.sha256(header).digest()[:16]


def pack_superblock(file_id: bytes, minor: int = 0) -> bytes:
    """Return the first 64 bytes of a file of version 1.`minor`."""
    body = SUPERBLOCK.pack(layout.MAGIC, layout.VERSION_MAJOR, minor, SUPERBLOCK.size, file_id, 0, 0, 0, 0)[
        : -layout.HASH_LEN
    ]
    return body + payload_hash(body).to_bytes(layout.HASH_LEN, "little")


def read_superblock(data: bytes, where: str, append: bool = False) -> bytes:
    """Check the first 64 bytes and return the file id.

    Raises:
        NotSpkError: another kind of file.
        TruncatedError: an .spk of fewer than 64 bytes.
        CorruptError: the checksum fails.
        UnsupportedError: a later major version, or a feature that this reader lacks.
    """
    if not data:
        raise NotSpkError(
            f"{where} is empty, and so not an .spk file; copy it again, or encode its source again"
        )
    if data[: len(layout.MAGIC)] != layout.MAGIC[: len(data)]:
        raise NotSpkError(
            f"{where} is not an .spk file: it begins with {data[:8]!r}, expected {layout.MAGIC!r}. "
            "If it came through a transfer in text mode, transfer it again in binary"
        )
    if len(data) < SUPERBLOCK.size:
        raise TruncatedError(
            f"{where}: found {len(data)} bytes, expected a superblock of {SUPERBLOCK.size}; it was cut off: copy it "
            "again"
        )
    _, major, minor, size, file_id, incompatible, read_only, _, seal = SUPERBLOCK.unpack(data)
    if seal != payload_hash(data[: -layout.HASH_LEN]):
        raise CorruptError(f"{where}: the superblock fails its checksum; copy the file again from its source")
    if major != layout.VERSION_MAJOR:
        raise UnsupportedError(
            f"{where} is of .spk version {major}.{minor}; this softpack reads {layout.VERSION_MAJOR}.x. "
            "Install a later softpack"
        )
    if size != SUPERBLOCK.size:
        raise CorruptError(f"{where}: the superblock says that it has {size} bytes, expected {SUPERBLOCK.size}")
    if incompatible or (append and read_only):
        features = incompatible or read_only
        raise UnsupportedError(
            f"{where} uses features {features:#x} that this softpack does not know; install a later softpack"
        )
    return bytes(file_id)

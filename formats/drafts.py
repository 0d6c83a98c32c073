"""Take an .spk file apart, change it, and put it together again with hashes and index that fit the change."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from softpack.format.blocks import header_hash, make_file_id, payload_hash
from softpack.format.layout import BLOCK, BLOCK_DTYPE, COMMIT, END, MAGIC, SUPERBLOCK, SYNC, padded

NAMES = BLOCK_DTYPE.names or ()


@dataclass
class DraftBlock:
    """One block.

    Args:
        fields: of its header.
        payload: as stored; None for an index or commit that is made to fit.
        lies: fields that are written as they are here, whatever fits.
        padding: behind the payload; zeros by default.
    """

    fields: dict[str, Any]
    payload: bytes | None
    lies: dict[str, Any] = field(default_factory=dict)
    padding: bytes | None = None

    @property
    def content(self) -> bytes:
        """The payload before compression."""
        if self.payload is None:
            raise ValueError("an index or a commit is made when the file is")
        return zstandard.decompress(self.payload) if self.fields["coding"] else self.payload

    def change(self, payload: bytes) -> None:
        """Give the block another payload, stored as it is."""
        self.payload = payload
        self.fields |= {"coding": 0, "raw_len": len(payload)}


@dataclass
class Draft:
    """A file in pieces.

    Args:
        blocks: in order.
        file_id: of the superblock.
        major: version.
        minor: version.
        features: incompatible, read-only compatible, compatible.
        superblock_len: as the superblock says it.
        commit: fields of the last commit that are written as they are here: index_offset, file_len, number,
            items, views, n_rows, reserved, end.
    """

    blocks: list[DraftBlock]
    file_id: bytes
    counts: list[tuple[int, int, int]]
    major: int = 1
    minor: int = 0
    features: tuple[int, int, int] = (0, 0, 0)
    superblock_len: int = SUPERBLOCK.size
    commit: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Draft:
        """Take a sound file apart."""
        return cls.read_bytes(path.read_bytes())

    @classmethod
    def read_bytes(cls, data: bytes) -> Draft:
        """Take the bytes of a sound file apart."""
        blocks, counts, at = [], [], SUPERBLOCK.size
        while at < len(data):
            fields = dict(zip(NAMES, BLOCK.unpack(data[at : at + BLOCK.size]), strict=True))
            at += BLOCK.size
            payload: bytes | None = data[at : at + fields["stored_len"]]
            at += padded(fields["stored_len"])
            if fields["type"] == 5:
                counts.append(COMMIT.unpack(payload or b"")[3:6])
            blocks.append(DraftBlock(fields, None if fields["type"] in (4, 5) else payload))
        return cls(blocks, data[16:32], counts, minor=SUPERBLOCK.unpack(data[: SUPERBLOCK.size])[2])

    @staticmethod
    def block(payload: bytes | None, **fields: Any) -> DraftBlock:
        """Return a new block; fields not given are 0, `raw_len` the length of the payload."""
        blank = dict.fromkeys(NAMES, 0)
        return DraftBlock({**blank, "raw_len": len(payload or b""), **fields}, payload)

    def tile(self, stream: int, number: int = 0) -> DraftBlock:
        """Return the tile block number `number` of a stream."""
        found = [b for b in self.blocks if b.fields["type"] == 3 and b.fields["stream"] == stream]
        return found[number]

    def stream(self, name: str) -> int:
        """Return the number of a stream of the header."""
        streams = json.loads(self.blocks[0].content)["streams"]
        return 1 + [stream["name"] for stream in streams].index(name)

    def model(self, part: int = 0) -> DraftBlock:
        """Return the MODEL block of a part."""
        return next(b for b in self.blocks if b.fields["type"] == 2 and b.fields["stream"] == part)

    def set_header(self, header: bytes) -> None:
        """Give the file another header, and the id that goes with it."""
        self.blocks[0].change(header)
        self.file_id = make_file_id(header)

    def to_bytes(self) -> bytes:
        """Put the file together."""
        out, heads, counts, index_at = bytearray(self._superblock()), [], list(self.counts), 0
        for seq, block in enumerate(self.blocks):
            payload, fields = block.payload, dict(block.fields)
            if fields["type"] == 4 and payload is None:
                index_at, payload = len(out), b"".join(heads)
                fields |= {"coding": 0, "raw_len": len(payload)}
            if fields["type"] == 5 and payload is None:
                payload = self._commit(
                    index_at, len(out), self.counts, len(counts), seq == len(self.blocks) - 1
                )
                counts.pop(0)
            payload = payload or b""
            fields |= {"sync": SYNC, "seq": seq, "stored_len": len(payload), "reserved": 0}
            fields |= {"payload_hash": payload_hash(payload), **block.lies}
            body = BLOCK.pack(*(fields[name] for name in NAMES[:-1]), 0)[:-8]
            heads.append(body + header_hash(body, self.file_id).to_bytes(8, "little"))
            padding = bytes(-len(payload) % 64) if block.padding is None else block.padding
            out += heads[-1] + payload + padding
        return bytes(out)

    def write(self, path: Path) -> None:
        """Write the file, which may be there."""
        path.write_bytes(self.to_bytes())

    def _superblock(self) -> bytes:
        body = SUPERBLOCK.pack(
            MAGIC, self.major, self.minor, self.superblock_len, self.file_id, *self.features, 0
        )[:-8]
        return body + payload_hash(body).to_bytes(8, "little")

    def _commit(
        self, index_at: int, at: int, counts: list[tuple[int, int, int]], left: int, is_last: bool
    ) -> bytes:
        number = len(counts) - left
        items, views, n_rows = counts[number]
        facts = {
            "index_offset": index_at, "file_len": at + 128, "number": number, "items": items, "views": views,
            "n_rows": n_rows, "reserved": 0, "end": END, **(self.commit if is_last else {}),
        }  # fmt: skip
        return COMMIT.pack(*facts.values())

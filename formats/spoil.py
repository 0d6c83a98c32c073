"""Ways to spoil an .spk file in one place while all the rest of it fits."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy as st
import zstandard
from drafts import Draft, DraftBlock

DESCRIPTOR = struct.Struct("<BBHIq")  # coding, width, reserved, stored length, base
Change = Callable[[Draft], None]


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the header's JSON, and spell it canonically."""

    def apply(draft: Draft) -> None:
        document = json.loads(draft.blocks[0].content)
        change(document)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        draft.set_header(text.encode())

    return apply


def spelling(old: bytes, new: bytes) -> Change:
    """Change how the header is spelled."""

    def apply(draft: Draft) -> None:
        text = draft.blocks[0].content
        if old not in text:
            raise ValueError(f"{old!r} is not in the header")
        draft.set_header(text.replace(old, new, 1))

    return apply


def fields(pick: Callable[[Draft], DraftBlock], **lies: Any) -> Change:
    """Write fields of a block header that do not fit."""
    return lambda draft: pick(draft).lies.update(lies)


def array(stream: int, change: Callable[[list[Any], bytes], tuple[list[Any], bytes]], raw: int = 0) -> Change:
    """Change the first array of a stream's first tile: its descriptor's fields and its stored bytes."""

    def apply(draft: Draft) -> None:
        block = draft.tile(stream)
        payload = block.payload or b""
        facts = list(DESCRIPTOR.unpack(payload[:16]))
        stop = 16 + facts[3]
        facts, stored = change(facts, payload[16:stop])
        block.payload = DESCRIPTOR.pack(*facts) + stored + payload[stop:]
        block.fields["raw_len"] += raw

    return apply


def model(change: Callable[[bytes], bytes], part: int = 0) -> Change:
    """Change the safetensors of a part of the model."""

    def apply(draft: Draft) -> None:
        block = draft.model(part)
        block.change(change(block.content))

    return apply


def tensors(change: Callable[[dict[str, Any]], Any], part: int = 0) -> Change:
    """Change the tensors of a part of the model."""

    def apply(data: bytes) -> bytes:
        found = st.load(data)
        change(found)
        return st.save({name: np.ascontiguousarray(tensor) for name, tensor in found.items()})

    return model(apply, part)


def safetensors_header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the header of the safetensors."""

    def apply(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        document = json.loads(data[8 : 8 + size])
        change(document)
        text = json.dumps(document, separators=(",", ":")).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    return model(apply)


def frame(make: Callable[[bytes], bytes], coding: int = 1) -> Change:
    """Make the first array of the codes a zstd frame of its planes."""

    def change(facts: list[Any], stored: bytes) -> tuple[list[Any], bytes]:
        if facts[0]:
            stored = zstandard.decompress(stored)
        made = make(stored)
        return [coding, facts[1], facts[2], len(made), facts[4]], made

    return array(1, change)


def without_size(data: bytes) -> bytes:
    """Return a frame that does not say how much it holds."""
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def says(size: int) -> Callable[[bytes], bytes]:
    """Return what makes a frame that says another size than it holds."""

    def make(data: bytes) -> bytes:
        # Magic, a descriptor for an 8-byte size and no window, the size, one raw last block.
        return (
            bytes.fromhex("28b52ffde0")
            + size.to_bytes(8, "little")
            + (len(data) << 3 | 1).to_bytes(3, "little")
            + data
        )

    return make


def flip(offset: Callable[[bytes, Draft], int], bit: int = 0) -> Callable[[bytes, Draft], bytes]:
    """Flip one bit of the finished file."""

    def apply(data: bytes, draft: Draft) -> bytes:
        changed = bytearray(data)
        changed[offset(data, draft)] ^= 1 << bit
        return bytes(changed)

    return apply


def swap(draft: Draft, one: int, other: int) -> None:
    """Exchange two blocks."""
    draft.blocks[one], draft.blocks[other] = draft.blocks[other], draft.blocks[one]


def at(number: int) -> Callable[[Draft], DraftBlock]:
    """Pick a block by its number."""
    return lambda draft: draft.blocks[number]


def codes(draft: Draft) -> DraftBlock:
    """Pick the first tile of codes."""
    return draft.tile(1)


def ids(draft: Draft) -> DraftBlock:
    """Pick the first presence bits."""
    return draft.tile(0)


def target(draft: Draft) -> DraftBlock:
    """Pick the first tile of the column of items."""
    return draft.tile(3)


def arrays(document: dict[str, Any], stream: int = 0) -> list[dict[str, Any]]:
    """Return the arrays of a stream of the header."""
    found: list[dict[str, Any]] = document["streams"][stream]["arrays"]
    return found


def offsets(data: bytes) -> list[int]:
    """Return where each block begins, and the end."""
    found = [64]
    while found[-1] < len(data):
        stored = int.from_bytes(data[found[-1] + 40 : found[-1] + 44], "little")
        found.append(found[-1] + 64 + -(-stored // 64) * 64)
    return found


def moved(data: bytes, order: list[int]) -> bytes:
    """Put the first blocks into another order, byte for byte."""
    starts = offsets(data)
    blocks = [data[start:stop] for start, stop in itertools.pairwise(starts)]
    return data[:64] + b"".join(blocks[n] for n in order) + b"".join(blocks[len(order) :])


def transplanted(data: bytes) -> bytes:
    """Seal one block with the id of another file."""
    other = Draft.read_bytes(data)
    other.file_id = bytes(16)
    start, stop = offsets(data)[1], offsets(data)[2]
    return data[:start] + other.to_bytes()[start:stop] + data[stop:]


def index_of(draft: Draft) -> bytes:
    """Return the index that fits a draft."""
    data = draft.to_bytes()
    start = offsets(data)[-3]
    size = int.from_bytes(data[start + 40 : start + 44], "little")
    return data[start + 64 : start + 64 + size]


def bomb(block: DraftBlock, size: int) -> None:
    """Give a block a zstd frame that promises `size` bytes."""
    block.payload = says(size)(b"x")
    block.fields |= {"coding": 1, "raw_len": size}


def compress(block: DraftBlock) -> None:
    """Compress a whole payload, and say so."""
    block.fields |= {"coding": 1, "raw_len": len(block.content)}
    block.payload = (
        zstandard.compress(block.content) if block.payload is None else zstandard.compress(block.payload)
    )


def lengthen(block: DraftBlock) -> None:
    """Add bytes behind the arrays of a tile."""
    block.payload = (block.payload or b"") + b"more"


def copy(block: DraftBlock) -> DraftBlock:
    """Return another block with the same content."""
    return DraftBlock(dict(block.fields), block.payload)


def all_ones(block: DraftBlock) -> None:
    """Set every bit of the first array."""
    payload = block.payload or b""
    facts = list(DESCRIPTOR.unpack(payload[:16]))
    planes = zstandard.decompress(payload[16 : 16 + facts[3]]) if facts[0] else payload[16 : 16 + facts[3]]
    rest = payload[16 + facts[3] :]
    block.payload = DESCRIPTOR.pack(0, facts[1], 0, len(planes), 0) + b"\xff" * len(planes) + rest


def needless(draft: Draft) -> None:
    """Give presence bits to a part that lacks no row."""
    draft.blocks[1:] = [*draft.blocks[-2:]]
    payload = DESCRIPTOR.pack(0, 1, 0, 1, 0) + b"\x01"
    place = {"type": 3, "span_items": 1, "span_views": 1, "n_rows": 1}
    draft.blocks.insert(1, draft.block(payload, **place, raw_len=17))
    codes = DESCRIPTOR.pack(0, 4, 0, 6, 0) + bytes(6) + 2 * (DESCRIPTOR.pack(0, 16, 0, 2, 0) + bytes(2))
    draft.blocks.insert(2, draft.block(codes, **place, stream=1))
    draft.counts = [(1, 1, 1)]


def drop_part(draft: Draft) -> None:
    """Take out the first part."""
    part = draft.tile(1).fields["part"]
    draft.blocks = [b for b in draft.blocks if b.fields["type"] != 3 or b.fields["part"] != part]


def row_twice(draft: Draft) -> None:
    """Write the first part again, as another part."""
    first = [copy(b) for b in draft.blocks if b.fields["type"] == 3 and b.fields["part"] == 0]
    for block in first:
        block.fields["part"] = 9
    draft.blocks[-2:-2] = first
    items, views, n_rows = draft.counts[-1]
    draft.counts[-1] = (items, views, n_rows + first[0].fields["n_rows"])


def huge(draft: Draft) -> None:
    """Let a column of items say that it has 2^31 of them in no bits."""
    block = draft.tile(3)
    block.payload = DESCRIPTOR.pack(0, 0, 0, 0, 5)
    block.fields |= {"raw_len": 16, "span_items": 1 << 31, "n_rows": 1 << 31}
    draft.commit.update(items=1 << 31)


def nothing(draft: Draft) -> None:
    """Let a column of items be a zstd frame of no bytes."""
    block, empty = draft.tile(3), zstandard.compress(b"")
    block.payload = DESCRIPTOR.pack(1, 0, 0, len(empty), 5) + empty
    block.fields["raw_len"] = 16

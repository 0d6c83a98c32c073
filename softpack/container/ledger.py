"""The ledger of a file: every bit of it, from the block headers and the 16 bytes before each array. No torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from softpack.accounting import SCOPES, Entry, Ledger
from softpack.container.file import SpkFile
from softpack.container.tiles import PRESENCE
from softpack.entropy.arrays import DESCRIPTOR, PLANES, describe
from softpack.errors import CorruptError, DataError
from softpack.format import layout
from softpack.format.layout import BLOCK, HASH_LEN, SUPERBLOCK, BlockType, ModelPart
from softpack.format.streams import StreamSpec

NAMES: dict[tuple[int, int], tuple[str, str]] = {
    (BlockType.HEADER, 0): ("header (JSON)", "header"),
    (BlockType.MODEL, ModelPart.DECODER): ("decoder and what it needs", "model"),
    (BlockType.MODEL, ModelPart.ENCODER): ("encoder", "model"),
    (BlockType.MODEL, ModelPart.PROTOTYPES): ("what decodes the prototypes", "model"),
    (BlockType.MODEL, ModelPart.PROTOTYPE_ENCODER): ("encoder of the prototypes", "model"),
    (BlockType.MODEL, ModelPart.TABLES): ("entropy tables", "model"),
    (BlockType.MODEL, ModelPart.VIEW_BASIS): ("functions of viewpoints", "model"),
    (BlockType.INDEX, 0): ("index", "index"),
    (BlockType.COMMIT, 0): ("commits", "index"),
    (layout.VOID, 0): ("what recovery left out", "padding"),
}


def ledger(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> Ledger:
    """Account for every bit of a file.

    Args:
        path: of the `.spk` file.
        images: a folder (or one file) of images to set beside the labels.

    Raises:
        FormatError: the file is damaged, so that its bits do not add up.
        DataError: a path is not there.
    """
    return ledger_of(SpkFile(path), images)


def ledger_of(file: SpkFile, images: str | os.PathLike[str] | None = None) -> Ledger:
    """Account for every bit of an open file."""
    bits: Counter[tuple[str, str]] = Counter()
    # The index and the commit of the last commit stand behind what the index lists.
    blocks = [*file.blocks, *_tail(file)]
    offset = SUPERBLOCK.size
    bits["superblock", "header"] = 8 * (SUPERBLOCK.size - HASH_LEN)
    bits["checksums of blocks", "checksum"] = 8 * 2 * HASH_LEN * len(blocks)
    bits["checksum of the superblock", "checksum"] = 8 * HASH_LEN
    bits["headers of blocks", "header"] = 8 * (BLOCK.size - 2 * HASH_LEN) * len(blocks)
    for block in blocks:
        stored = int(block["stored_len"])
        for what, scope, n_bits in _payload(file, block, offset + BLOCK.size):
            bits[what, scope] += n_bits
        bits["padding of blocks", "padding"] += 8 * (layout.padded(stored) - stored)
        offset += BLOCK.size + layout.padded(stored)
    entries = [Entry(what, n_bits, scope) for (what, scope), n_bits in bits.items() if n_bits]
    entries.sort(key=lambda entry: SCOPES.index(entry.scope))
    account = Ledger(
        name=file.path.name,
        entries=tuple(entries),
        file_bytes=file.file_len,
        n_rows=file.commit.n_rows,
        classes=file.header.gives.classes,
        matrix_bytes=_matrix_bytes(file),
        image_bytes=None if images is None else _size_of(Path(images)),
        items=file.commit.items,
        views=file.commit.views,
    )
    if account.total_bits != 8 * file.file_len:
        raise CorruptError(
            f"{file.name}: the ledger sums to {account.total_bits} bits, but the file has {8 * file.file_len}; "
            "a tile's arrays do not fill it"
        )
    return account


def _tail(file: SpkFile) -> Iterator[np.void]:
    for offset in file.tail_offsets:
        yield np.frombuffer(file.pread(offset, BLOCK.size), layout.BLOCK_DTYPE)[0]


def _payload(file: SpkFile, block: np.void, offset: int) -> Iterator[tuple[str, str, int]]:
    """Yield what a payload's bits are for: (what, scope, bits)."""
    kind, stream = int(block["type"]), int(block["stream"])
    if kind == BlockType.TILE:
        spec = PRESENCE if stream == layout.IDS_STREAM else file.header.streams[stream - 1]
        n_rows = int(block["n_rows"])
        if stream == layout.IDS_STREAM:
            n_rows = int(block["span_items"]) * int(block["span_views"])
        yield from _arrays(file, spec, n_rows, offset)
    else:
        what, scope = NAMES.get((kind, stream), ("ancillary blocks", "header"))
        yield what, scope, 8 * int(block["stored_len"])


def _arrays(file: SpkFile, stream: StreamSpec, n_rows: int, offset: int) -> Iterator[tuple[str, str, int]]:
    for array in stream.arrays:
        described = describe(file.pread(offset, DESCRIPTOR.size), f"{file.name}, array {array.name}")
        yield "descriptions of arrays", "header", 8 * DESCRIPTOR.size
        n_bits = 8 * described.stored_len
        if described.coding == PLANES:
            exact = n_rows * array.values_per_row * described.width
            if exact > n_bits:
                raise CorruptError(f"{file.name}, array {array.name}: found {n_bits} bits, expected {exact}")
            yield "padding of planes", "padding", n_bits - exact
            n_bits = exact
        what = "corrections" if stream.per == "correction" else f"{stream.name}: {array.name}"
        yield what, stream.scope, n_bits
        offset += DESCRIPTOR.size + described.stored_len


def _matrix_bytes(file: SpkFile) -> int | None:
    """Return the size of an output matrix that the file names by its hash."""
    config = file.header.config
    if file.header.codec_id != "head" or config.get("matrix") == "inside":
        return None
    try:
        each = {"fp32": 4, "fp16": 2, "bf16": 2}[str(config["matrix_dtype"])]
        return each * int(config["vocabulary"]) * file.header.takes.classes
    except (KeyError, ValueError):
        raise CorruptError(f"{file.name}: codec head does not say how large its output matrix is") from None


def _size_of(path: Path) -> int:
    if not path.exists():
        raise DataError(f"{path}: there are no images here; give the folder that holds them")
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_size for entry in files)

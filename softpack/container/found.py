"""The blocks of a file that may be damaged, as far as they can be told apart. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from softpack.container.file import SpkFile
from softpack.container.verify import damaged_blocks
from softpack.errors import CorruptError, DataError, FormatError, TruncatedError, UnsupportedError
from softpack.format.blocks import Block, payload_hash, read_superblock
from softpack.format.header import Header
from softpack.format.index import Commit, check_blocks, check_tiles, parse_index
from softpack.format.layout import BLOCK, MAX_ITEMS, SUPERBLOCK, BlockType

LEFT_ALONE = "the file is left as it is; copy it again from where it is whole, or encode its source again"

Progress = Callable[[int, int], None]  # (bytes read, bytes in all)


@dataclass
class Found:
    """The blocks of a file from its beginning on.

    Args:
        path: of the file.
        size: bytes of the file.
        file_id: of its superblock.
        header: of the file.
        heads: 64 bytes of each block.
        blocks: the same, read.
        damaged: what is wrong with a block, by its number.
        items: that a commit has counted.
        views: the same of views.
        end: why no more blocks were found.
    """

    path: Path
    size: int
    file_id: bytes
    header: Header
    heads: list[bytes] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)
    items: int = 0
    views: int = 0
    end: str = "the file ends before the rest of them"

    def check(self) -> None:
        """Check that the blocks are such as may stand in a file of that header.

        Raises:
            FormatError: they are not.
        """
        blocks = parse_index(b"".join(self.heads), str(self.path))
        check_blocks(blocks, str(self.path))
        check_tiles(blocks, self.header, str(self.path))


def found_by_index(file: SpkFile, progress: Progress) -> Found:
    """Read a file whose end is sound: its index says what its blocks were."""
    found = Found(Path(file.name), file.file_len, file.file_id, file.header)
    found.items, found.views = file.commit.items, file.commit.views
    tail = [file.pread(offset, BLOCK.size) for offset in file.tail_offsets]
    found.heads = [*(row.tobytes() for row in file.blocks), *tail]
    found.blocks = [Block.from_bytes(head, file.file_id, file.name) for head in found.heads]
    damaged = damaged_blocks(file, lambda done, _: progress(int(file.offsets[done]), file.file_len))
    for number, error in damaged.items():
        if isinstance(error, UnsupportedError):
            raise error
        found.damaged[number] = str(error).removeprefix(f"{file.name}, ")
    return found


def found_by_walking(path: Path, progress: Progress) -> Found:
    """Read a file without a sound end, up to the first block whose header is not sound.

    Raises:
        FormatError: not even the superblock and the header of the file are whole.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file_id = read_superblock(file.read(SUPERBLOCK.size), str(path))
            found = _begin(path, size, file_id, file)
            while _take(found, file):
                progress(file.tell(), size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return found


def _begin(path: Path, size: int, file_id: bytes, file: BinaryIO) -> Found:
    head = file.read(BLOCK.size)
    try:
        block = Block.from_bytes(head, file_id, "block 0")
        header = Header.from_bytes(_payload(block, file, size, "block 0"), "block 0")
    except UnsupportedError:
        raise
    except FormatError as error:
        raise type(error)(
            f"{path}, {error}. It is the header, without which nothing can be given back; {LEFT_ALONE}"
        ) from None
    return Found(path, size, file_id, header, [head], [block])


def _take(found: Found, file: BinaryIO) -> bool:
    """Take one more block; return whether there may be another."""
    number, head = len(found.blocks), file.read(BLOCK.size)
    if not head:
        return False
    where = f"block {number}"
    try:
        block = Block.from_bytes(head, found.file_id, where)
    except FormatError as error:
        found.end = str(error)
        return False
    if block.seq != number:
        found.end = f"{where}: says that it is block {block.seq}; it was moved"
        return False
    found.heads.append(head)
    found.blocks.append(block)
    try:
        where = f"{where} ({block.what})"
        payload = _payload(block, file, found.size, where)
        if block.type == BlockType.COMMIT:
            commit = Commit.from_bytes(payload, where)
            if commit.file_len != file.tell() or max(commit.items, commit.views) > MAX_ITEMS:
                raise CorruptError(f"{where}: the commit contradicts the file")
            found.items, found.views = max(found.items, commit.items), max(found.views, commit.views)
    except TruncatedError as error:
        found.damaged[number] = found.end = str(error)
        return False
    except CorruptError as error:
        found.damaged[number] = str(error)
    return True


def _payload(block: Block, file: BinaryIO, size: int, where: str) -> bytes:
    left, padded = size - file.tell(), block.total_len - BLOCK.size
    if padded > left:  # before memory is taken for it
        raise TruncatedError(f"{where}: promises {block.stored_len} bytes, but the file ends {left} bytes on")
    body = file.read(padded)
    stored, padding = body[: block.stored_len], body[block.stored_len :]
    if payload_hash(stored) != block.payload_hash or padding.strip(b"\0"):
        raise CorruptError(f"{where}: the payload fails its checksum: the bytes are not those written")
    return stored

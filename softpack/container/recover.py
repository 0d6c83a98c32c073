"""Give back what is whole of a file whose writer was stopped, or whose end is damaged. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from softpack.container.blockfile import PARTIAL, BlockFile
from softpack.container.file import SpkFile
from softpack.errors import DataError, ExistsError, FormatError, TruncatedError, UnsupportedError
from softpack.format import layout
from softpack.format.blocks import Block, payload_hash, read_superblock
from softpack.format.header import Header
from softpack.format.index import Commit, check_blocks, check_tiles, parse_index
from softpack.format.layout import BLOCK, BlockType


@dataclass(frozen=True)
class Recovered:
    """What `recover` gave back.

    Args:
        path: of the file, which is whole now.
        n_rows: labels in it.
        dropped_bytes: bytes at the end that could not be used.
        was_whole: nothing had to be done.
    """

    path: Path
    n_rows: int
    dropped_bytes: int
    was_whole: bool


def recover(path: str | os.PathLike[str]) -> Recovered:
    """Make a file whole again in place: keep every complete tile before the damage and commit them.

    A `.partial` file, as a stopped writer leaves it, gets the name that it was meant to have.

    Args:
        path: of the file.

    Raises:
        ExistsError: the name that a partial file should get is taken.
        NotSpkError, TruncatedError, CorruptError: not even the header is whole, or it is no .spk.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected a file")
    if not path.exists():
        raise DataError(
            f"{path}: is not there; expected an .spk file, or the .partial that a stopped writer left"
        )
    target = path.with_name(path.name.removesuffix(PARTIAL))
    if target != path and target.exists():
        raise ExistsError(f"{target} is there already; move it away, or rename {path} first")
    out = BlockFile.reopen(path)  # nobody else writes it from here on
    try:
        recovered = _recovered(path, target, out)
        if target != path:
            path.replace(target)
    finally:
        out.abandon()
    return recovered


def _recovered(path: Path, target: Path, out: BlockFile) -> Recovered:
    try:
        return Recovered(target, SpkFile(path).commit.n_rows, 0, was_whole=True)
    except UnsupportedError:
        raise
    except FormatError:
        n_rows, dropped = _commit_what_is_whole(path, out)
        return Recovered(target, n_rows, dropped, was_whole=False)


def _commit_what_is_whole(path: Path, out: BlockFile) -> tuple[int, int]:
    """Cut a file after its last complete tile and commit it; return its labels and the bytes cut off."""
    found = Found()
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file_id = read_superblock(file.read(layout.SUPERBLOCK.size), str(path), append=True)
            for head, block, payload in _whole_blocks(file, file_id, size):
                found.take(head, block, payload, str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if found.header is None:
        raise TruncatedError(f"{path}: its header is not whole, so nothing of it can be given back")
    heads = found.heads[: found.n_kept]
    blocks = parse_index(b"".join(heads), str(path))
    check_blocks(blocks, str(path))
    check_tiles(blocks, found.header, str(path))
    out.resume(file_id, heads, found.kept_len, found.commits)
    out.commit(found.items, found.views, found.n_rows)
    return found.n_rows, size - found.kept_len


def _whole_blocks(file: BinaryIO, file_id: bytes, size: int) -> Iterator[tuple[bytes, Block, bytes]]:
    """Yield header bytes, header and payload of each block, up to the first that is not whole."""
    offset, seq = layout.SUPERBLOCK.size, 0
    while True:
        file.seek(offset)
        head = file.read(BLOCK.size)
        try:
            block = Block.from_bytes(head, file_id, file.name)
        except FormatError:
            return
        if block.seq != seq or offset + block.total_len > size:
            return
        body = file.read(block.total_len - BLOCK.size)
        stored = body[: block.stored_len]
        if payload_hash(stored) != block.payload_hash or body[block.stored_len :].strip(b"\0"):
            return
        yield head, block, stored
        offset, seq = offset + block.total_len, seq + 1


@dataclass
class Found:
    """What the whole blocks at the beginning of a file hold, up to its last complete tile."""

    header: Header | None = None
    heads: list[bytes] = field(default_factory=list)
    length: int = layout.SUPERBLOCK.size
    n_kept: int = 0
    kept_len: int = 0
    items: int = 0
    views: int = 0
    n_rows: int = 0
    commits: int = 0
    waiting: set[int] = field(default_factory=set)  # row streams of the tile that is not complete yet

    def take(self, head: bytes, block: Block, payload: bytes, where: str) -> None:
        """Count one more block."""
        self.heads.append(head)
        self.length += block.total_len
        if block.type == BlockType.HEADER:
            self.header = Header.from_bytes(payload, where)
        elif block.type == BlockType.COMMIT:
            commit = Commit.from_bytes(payload, where)
            self.commits = commit.number + 1
            self._widen(commit.items, commit.views)
        elif block.type == BlockType.TILE and self.header is not None:
            self._take_tile(block, self.header)
        if not self.waiting:
            self.n_kept, self.kept_len = len(self.heads), self.length

    def _take_tile(self, block: Block, header: Header) -> None:
        rows = {number for number, stream in enumerate(header.streams, 1) if stream.per == "row"}
        if 0 < block.stream <= len(header.streams) and block.stream not in rows:
            self._widen(block.tile_item * header.streams[block.stream - 1].items_per_tile + block.span_items, 0)
        if block.stream not in rows | {layout.IDS_STREAM}:
            return
        self.waiting.add(block.stream)
        if rows <= self.waiting:
            self.waiting.clear()
            self.n_rows += block.n_rows
            self._widen(
                block.tile_item * header.tile_items + block.span_items,
                block.tile_view * header.tile_views + block.span_views,
            )

    def _widen(self, items: int, views: int) -> None:
        self.items, self.views = max(self.items, items), max(self.views, views)

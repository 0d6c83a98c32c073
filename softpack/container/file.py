"""An open `.spk` file: its header, its index and its checked blocks. No torch, so that `info` starts at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from softpack.entropy.ans import check_tables
from softpack.entropy.tables import read_tables, table_name
from softpack.entropy.zstd import expand
from softpack.errors import CorruptError, DataError, FormatError, TruncatedError, UnsupportedError
from softpack.format import layout
from softpack.format.blocks import Block, payload_hash, read_superblock
from softpack.format.header import Header
from softpack.format.index import Commit, block_offsets, check_blocks, check_tiles, parse_index
from softpack.format.layout import BLOCK, BlockType, Coding, ModelPart


@dataclass(frozen=True)
class Part:
    """The rows of one tile that were written together.

    Args:
        blocks: number of the block of each stream that it has, by stream number.
        first_item: of the tile.
        first_view: of the tile.
        span_items: items that it covers.
        span_views: views that it covers.
        n_rows: rows in it.
        has_rows: False where it holds what items have.
    """

    blocks: dict[int, int]
    first_item: int
    first_view: int
    span_items: int
    span_views: int
    n_rows: int
    has_rows: bool = True

    @property
    def is_full(self) -> bool:
        """Whether every (item, view) that it covers is there."""
        return self.n_rows == self.span_items * self.span_views


class SpkFile:
    """A file whose last commit, index and header have been checked; tiles are checked as they are read.

    It pickles by its path, and opens anew in each process, so that forked and spawned workers may share it.

    Args:
        path: of the file.

    Raises:
        NotSpkError, TruncatedError, CorruptError, UnsupportedError: see `softpack.errors`.
        DataError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()  # a worker may stand in another folder
        self.name = str(path)
        self._fd: int | None = None
        self._pid = -1
        self.file_len = self._length()
        superblock = self.pread(0, layout.SUPERBLOCK.size)
        self.file_id = read_superblock(superblock, self.name)
        self.minor: int = layout.SUPERBLOCK.unpack(superblock)[2]
        self.commit = self._last_commit()
        self.blocks = self._read_index()
        self.offsets = block_offsets(self.blocks)
        if self.offsets[-1] != self.commit.index_offset:
            raise CorruptError(
                f"{self.name}: the blocks of the index end at {self.offsets[-1]}, but the index begins at "
                f"{self.commit.index_offset}"
            )
        tail = b"".join(self.pread(offset, BLOCK.size) for offset in self.tail_offsets)
        check_blocks(np.concatenate([self.blocks, parse_index(tail, self.name)]), self.name)
        if self.commit.number != np.count_nonzero(self.blocks["type"] == BlockType.COMMIT):
            raise CorruptError(f"{self.name}: the last commit says that it is number {self.commit.number}")
        self.header = Header.from_bytes(self.payload(0), self.name)
        check_tiles(self.blocks, self.header, self.name)
        self._check_rows()
        self._check_prototypes()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_fd": None, "_pid": -1}

    def __del__(self) -> None:
        if os is not None:  # which it is where the interpreter goes down
            self.close()

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if getattr(self, "_fd", None) is not None and self._pid == os.getpid():
            os.close(self._fd)  # type: ignore[arg-type]
        self._fd = None

    @property
    def fingerprint(self) -> str:
        """A number of 16 hexadecimal digits that changes with any byte of what the last commit holds."""
        return f"{payload_hash(self.blocks.tobytes()):016x}"

    # -- bytes -----------------------------------------------------------------------------------------

    def pread(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer only at the end of the file."""
        chunks = []
        while length > 0:
            chunk = os.pread(self._descriptor(), length, offset)
            if not chunk:
                break
            chunks.append(chunk)
            offset += len(chunk)
            length -= len(chunk)
        return b"".join(chunks)

    def payload(self, number: int) -> bytes:
        """Return the payload of a block, checked and uncompressed.

        Raises:
            CorruptError: the block is not the one that the index names, or fails its checksum.
        """
        entry = self.blocks[number]
        return self._payload_at(int(self.offsets[number]), f"{self.name}, block {number}", entry.tobytes())

    def _payload_at(self, offset: int, where: str, expected_header: bytes | None = None) -> bytes:
        data = self.pread(offset, BLOCK.size)
        block = Block.from_bytes(data, self.file_id, where)
        if expected_header is not None:
            if data != expected_header:
                raise CorruptError(f"{where}: is not the block that the index names; it was moved or replaced")
            where = f"{where} ({block.what})"
        if offset + block.total_len > self.file_len:
            raise TruncatedError(
                f"{where}: promises {block.stored_len} bytes, but the file ends {self.file_len - offset} bytes on"
            )
        whole = self.pread(offset + BLOCK.size, block.total_len - BLOCK.size)
        stored, padding = whole[: block.stored_len], whole[block.stored_len :]
        if payload_hash(stored) != block.payload_hash:
            raise CorruptError(f"{where}: the payload fails its checksum: the bytes are not those written")
        if padding.strip(b"\0"):
            raise CorruptError(f"{where}: the padding is not zero")
        if block.type >= layout.ANCILLARY:  # not this softpack's to understand
            return stored
        if block.coding == Coding.ZSTD:
            return expand(stored, block.raw_len, where)
        if block.coding != Coding.STORED:
            raise UnsupportedError(f"{where}: coding {block.coding} is not known; install a later softpack")
        if block.type != BlockType.TILE and block.raw_len != block.stored_len:
            raise CorruptError(f"{where}: stored as it is, yet {block.stored_len} and {block.raw_len} bytes")
        return stored

    def _descriptor(self) -> int:
        if self._fd is None or self._pid != os.getpid():  # a forked child must not share the parent's
            try:
                self._fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            except OSError as error:
                raise DataError(f"{self.name}: cannot be opened: {error.strerror}; check the path") from None
            self._pid = os.getpid()
        return self._fd

    def _length(self) -> int:
        fd = self._descriptor()
        if self.path.is_dir():
            raise DataError(f"{self.name}: is a folder, expected an .spk file")
        return os.fstat(fd).st_size

    # -- commit and index ------------------------------------------------------------------------------

    def _last_commit(self) -> Commit:
        where = f"{self.name}, last commit"
        start = self.file_len - layout.COMMIT_BLOCK_LEN
        tail = self.pread(max(start, 0), layout.COMMIT_BLOCK_LEN)
        try:
            block = Block.from_bytes(tail[: BLOCK.size], self.file_id, where)
            is_commit = (block.type, block.stored_len) == (BlockType.COMMIT, layout.COMMIT.size)
        except FormatError:
            if tail.endswith(layout.END):  # it is one, and damaged
                raise
            is_commit = False
        if start < layout.SUPERBLOCK.size or not is_commit:
            raise TruncatedError(
                f"{self.name}: does not end with a commit (found {self.file_len} bytes): it was cut off, or its "
                f"writer was stopped or is still writing. `softpack recover {self.name}` gives back what is whole"
            )
        commit = Commit.from_bytes(self._payload_at(start, where), where)
        if commit.file_len != self.file_len:
            raise CorruptError(
                f"{where}: says that the file has {commit.file_len} bytes, found {self.file_len}; "
                "something was put into it or taken out"
            )
        return commit

    def _read_index(self) -> np.ndarray:
        where = f"{self.name}, index"
        offset = self.commit.index_offset
        if not layout.SUPERBLOCK.size <= offset <= self.file_len - layout.COMMIT_BLOCK_LEN:
            raise CorruptError(f"{where}: said to begin at {offset}, outside the file")
        block = Block.from_bytes(self.pread(offset, BLOCK.size), self.file_id, where)
        if block.type != BlockType.INDEX or block.raw_len > layout.MAX_INDEX:
            raise CorruptError(f"{where}: found a block of type {block.type} and {block.raw_len} bytes")
        if block.raw_len != BLOCK.size * block.seq or not 0 < block.raw_len <= offset:
            raise CorruptError(
                f"{where}: promises {block.raw_len} bytes, but stands at number {block.seq}, {offset} bytes on"
            )
        if offset + block.total_len + layout.COMMIT_BLOCK_LEN != self.file_len:
            raise CorruptError(f"{where}: does not lie right before the commit")
        return parse_index(self._payload_at(offset, where), where)

    def _check_rows(self) -> None:
        """Check that the rows of the parts are the rows that the commit counts."""
        found = sum(part.n_rows for part in self.parts)
        commit = self.commit
        if found != commit.n_rows or max(commit.items, commit.views) > layout.MAX_ITEMS:
            raise CorruptError(
                f"{self.name}: the tiles hold {found} rows; the commit says {commit.n_rows} rows of "
                f"{commit.items} items and {commit.views} views"
            )
        for part in [*self.parts, *self.item_parts.values()]:
            inside = part.first_item + part.span_items <= commit.items and (
                part.first_view + part.span_views <= commit.views or not part.has_rows
            )
            if not inside:
                raise CorruptError(
                    f"{self.name}: a tile lies outside the {commit.items} items or {commit.views} views"
                )

    def _check_prototypes(self) -> None:
        """Check that prototypes, without which rows decode to something else, lack items at the end alone."""
        found, stop = self.header.stream("prototype"), 0
        if found is None:
            return
        number, stream = found
        for tile in sorted(tile for stream_number, tile in self.item_parts if stream_number == number):
            part = self.item_parts[number, tile]
            if part.first_item != stop:
                raise CorruptError(
                    f"{self.name}: the prototypes lack the items {stop} to {part.first_item - 1}, between others"
                )
            stop += part.span_items
        if stop * stream.values_per_row > layout.MAX_PROTOTYPE_VALUES:
            raise CorruptError(
                f"{self.name}: the prototypes of {stop} items have {stop * stream.values_per_row} numbers; expected "
                f"{layout.MAX_PROTOTYPE_VALUES} at most"
            )

    @property
    def tail_offsets(self) -> tuple[int, int]:
        """Where the last index and the last commit begin; no index lists these two blocks yet."""
        return self.commit.index_offset, self.file_len - layout.COMMIT_BLOCK_LEN

    @cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """The frequencies of codes, uint32 [S, levels], by `<stream>.<array>`; {} where the file has none.

        Raises:
            CorruptError: they are not tables, or not of the file's codes.
        """
        is_table = (self.blocks["type"] == BlockType.MODEL) & (self.blocks["stream"] == ModelPart.TABLES)
        tables: dict[str, np.ndarray] = {}
        for number in np.flatnonzero(is_table).tolist():
            found = read_tables(self.payload(number), f"{self.name}, block {number}")
            if tables.keys() & found.keys():
                raise CorruptError(f"{self.name}, block {number}: a table stands twice")
            tables |= found
        shapes = {
            table_name(stream.name, array.name): (array.values_per_row, array.levels)
            for stream in self.header.streams
            for array in stream.arrays
            if array.kind == "uint"
        }
        for name, table in tables.items():
            if name not in shapes:
                raise CorruptError(f"{self.name}: has a table for {name}, which are no codes of this file")
            check_tables(table, shapes[name], f"{self.name}, table of {name}")
        return tables

    # -- parts -----------------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> list[Part]:
        """The parts of all row tiles, in file order."""
        return self._gather()

    @cached_property
    def item_parts(self) -> dict[tuple[int, int], Part]:
        """The last block of each tile of what items have, by (stream, tile); it replaces those before it."""
        parts: dict[tuple[int, int], Part] = {}
        for number in self._tiles_of(self._streams_per("item")):
            b = self.blocks[number]
            stream, tile, n = int(b["stream"]), int(b["tile_item"]), int(b["n_rows"])
            first = tile * self.header.streams[stream - 1].items_per_tile
            parts[stream, tile] = Part({stream: number}, first, 0, n, 1, n, has_rows=False)
        return parts

    def _streams_per(self, per: str) -> list[int]:
        return [n for n, stream in enumerate(self.header.streams, 1) if stream.per == per]

    def _tiles_of(self, streams: list[int]) -> list[int]:
        is_tile = (self.blocks["type"] == BlockType.TILE) & np.isin(self.blocks["stream"], streams)
        numbers: list[int] = np.flatnonzero(is_tile).tolist()
        return numbers

    def _gather(self) -> list[Part]:
        streams = self._streams_per("row")
        parts: dict[tuple[int, int, int], Part] = {}
        for number in self._tiles_of([layout.IDS_STREAM, *streams]):
            b = self.blocks[number]
            key = (int(b["tile_item"]), int(b["tile_view"]), int(b["part"]))
            facts = (
                key[0] * self.header.tile_items,
                key[1] * self.header.tile_views,
                int(b["span_items"]),
                int(b["span_views"]),
                int(b["n_rows"]),
            )
            part = parts.setdefault(key, Part({}, *facts))
            if int(b["stream"]) in part.blocks or part != Part(part.blocks, *facts):
                raise CorruptError(f"{self.name}: block {number} contradicts the other blocks of its tile")
            part.blocks[int(b["stream"])] = number
        self._add_corrections(parts)
        for key, part in parts.items():
            expected = set(streams) | ({layout.IDS_STREAM} if not part.is_full else set())
            if set(part.blocks) - self._correction_streams != expected:
                raise CorruptError(
                    f"{self.name}: tile {key} has the streams {sorted(part.blocks)}, expected {sorted(expected)}"
                )
        return list(parts.values())

    def _add_corrections(self, parts: dict[tuple[int, int, int], Part]) -> None:
        """Add the blocks of corrections, of which a part has one or none."""
        for number in self._tiles_of(sorted(self._correction_streams)):
            b = self.blocks[number]
            part = parts.get((int(b["tile_item"]), int(b["tile_view"]), int(b["part"])))
            stream, spans = int(b["stream"]), (int(b["span_items"]), int(b["span_views"]))
            if part is None or stream in part.blocks or spans != (part.span_items, part.span_views):
                raise CorruptError(
                    f"{self.name}: block {number} has corrections of no part, or of one that has others, or covers "
                    "other cells"
                )
            if int(b["n_rows"]) > part.n_rows * self.header.gives.classes:  # before memory is taken for them
                raise CorruptError(
                    f"{self.name}: block {number} has {b['n_rows']} corrections of {part.n_rows} rows of "
                    f"{self.header.gives.classes} numbers"
                )
            part.blocks[stream] = number

    @property
    def _correction_streams(self) -> set[int]:
        return set(self._streams_per("correction"))

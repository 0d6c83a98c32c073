"""Give back what is whole of a file whose writer was stopped, or that was damaged. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from softpack.container.blockfile import PARTIAL, BlockFile
from softpack.container.file import SpkFile
from softpack.container.found import LEFT_ALONE, Found, Progress, found_by_index, found_by_walking
from softpack.errors import CorruptError, DataError, ExistsError, FormatError, UnsupportedError
from softpack.format import layout
from softpack.format.blocks import Block, payload_hash, read_superblock
from softpack.format.layout import BLOCK, SUPERBLOCK, BlockType


@dataclass(frozen=True)
class Recovered:
    """What `recover` gave back.

    Args:
        path: of the file, which is whole now.
        n_rows: labels in it.
        dropped_bytes: bytes that could not be used.
        was_whole: nothing had to be done.
        lost: what was left out and why, as far as the file says what it was.
    """

    path: Path
    n_rows: int
    dropped_bytes: int
    was_whole: bool
    lost: tuple[str, ...] = ()


def recover(path: str | os.PathLike[str], progress: Progress | None = None) -> Recovered:
    """Make a file whole again in place: commit every complete tile that is found, and leave out the rest.

    A `.partial` file, as a stopped writer leaves it, gets the name that it was meant to have. A view whose mix
    partner was lost cannot be replayed before that is labelled again.

    Args:
        path: of the file.
        progress: is told (bytes read, bytes in all).

    Raises:
        ExistsError: the name that a partial file should get is taken.
        FormatError: no label is whole, or it is no .spk; then the file stays as it is.
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
        recovered = _recovered(path, target, out, progress or (lambda done, total: None))
        if target != path:
            path.replace(target)
    finally:
        out.abandon()
    return recovered


def _recovered(path: Path, target: Path, out: BlockFile, progress: Progress) -> Recovered:
    try:
        file = SpkFile(path)
    except UnsupportedError:
        raise
    except FormatError:
        found = found_by_walking(path, progress)
    else:
        found = found_by_index(file, progress)
        if not found.damaged:
            return Recovered(target, file.commit.n_rows, 0, was_whole=True)
    kept = _sorted_out(found)
    read_superblock(out.read(0, SUPERBLOCK.size), str(path), append=True)
    _commit(out, found, kept)
    used = sum(block.total_len for number, block in enumerate(found.blocks) if number not in kept.void)
    return Recovered(target, kept.n_rows, found.size - SUPERBLOCK.size - used, False, tuple(kept.lost))


@dataclass
class Kept:
    """Which blocks stay.

    Args:
        items: that the file will count.
        views: the same of views.
        n_rows: rows of the complete parts.
        void: numbers of the blocks that are left out.
        lost: what was in them.
    """

    items: int
    views: int
    n_rows: int = 0
    void: set[int] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)

    def widen(self, items: int, views: int) -> None:
        """Count items and views up to these."""
        self.items, self.views = max(self.items, items), max(self.views, views)


def _sorted_out(found: Found) -> Kept:
    """Return which blocks make complete tiles.

    Raises:
        CorruptError: none do.
    """
    found.check()
    kept = Kept(found.items, found.views, void=set(found.damaged))
    for number, problem in found.damaged.items():
        if found.blocks[number].type in (BlockType.HEADER, BlockType.MODEL):
            raise CorruptError(
                f"{found.path}, {problem}. Without its header and its model no label can be read; {LEFT_ALONE}"
            )
    parts: dict[tuple[int, ...], list[int]] = {}
    for number, block in enumerate(found.blocks):
        if block.type == BlockType.TILE:
            item_stream = block.stream if _is_of(found, block, "item") else 0
            parts.setdefault((item_stream, block.tile_item, block.tile_view, block.part), []).append(number)
    for (item_stream, *_), numbers in parts.items():
        (_sort_items if item_stream else _sort_rows)(found, kept, numbers)
    walked = SUPERBLOCK.size + sum(block.total_len for block in found.blocks)
    if walked < found.size:
        kept.lost.append(f"the last {found.size - walked:,} bytes ({found.end})")
    if not kept.n_rows:
        problem = kept.lost[0] if kept.lost else "it ends before the first of them"
        raise CorruptError(f"{found.path}: none of its labels is whole: {problem}; {LEFT_ALONE}")
    return kept


def _is_of(found: Found, block: Block, per: str) -> bool:
    return block.stream != layout.IDS_STREAM and found.header.streams[block.stream - 1].per == per


def _sort_rows(found: Found, kept: Kept, numbers: list[int]) -> None:
    """Sort out the blocks of one part of a tile: all of them, or none."""
    header = found.header
    of_rows = [number for number in numbers if not _is_of(found, found.blocks[number], "correction")]
    block, n_corrections = found.blocks[(of_rows or numbers)[0]], len(numbers) - len(of_rows)
    expected = [number for number, stream in enumerate(header.streams, 1) if stream.per == "row"]
    if block.n_rows < block.span_items * block.span_views:
        expected.insert(0, layout.IDS_STREAM)
    problem = next((found.damaged[number] for number in numbers if number in found.damaged), "")
    if sorted(found.blocks[number].stream for number in of_rows) != expected or n_corrections > 1:
        problem = problem or found.end
    item, view = block.tile_item * header.tile_items, block.tile_view * header.tile_views
    stop_item, stop_view = item + block.span_items, view + block.span_views
    if problem:
        kept.void.update(numbers)
        cells = f"items {item} to {stop_item - 1}, views {view} to {stop_view - 1}"
        what = f"{block.n_rows} labels" if of_rows else "the labels"
        kept.lost.append(f"{what} of {cells} ({problem})")
    else:
        kept.n_rows += block.n_rows
        kept.widen(stop_item, stop_view)


def _sort_items(found: Found, kept: Kept, numbers: list[int]) -> None:
    """Sort out the blocks of one tile of what items have, the last of which counts."""
    last = found.blocks[numbers[-1]]
    stream = found.header.streams[last.stream - 1]
    bad = [number for number in numbers if number in found.damaged]
    kept.void.update(number for number in numbers if bad and number < bad[-1])  # or old values would come back
    item = last.tile_item * stream.items_per_tile
    if numbers[-1] in bad:
        names, problem = ", ".join(array.name for array in stream.arrays), found.damaged[numbers[-1]]
        if stream.name == "prototype":
            raise CorruptError(f"{found.path}, {problem}. No label can be read without it; {LEFT_ALONE}")
        kept.lost.append(f"{names} of items {item} to {item + last.span_items - 1} ({problem})")
    else:
        kept.widen(item + last.span_items, 0)


def _commit(out: BlockFile, found: Found, kept: Kept) -> None:
    """Put a VOID block for each that is left out, cut off what follows the last that is kept, and commit."""
    n_kept, heads, offsets = len(found.blocks), [], [SUPERBLOCK.size]
    while n_kept - 1 in kept.void or found.blocks[n_kept - 1].type in (BlockType.INDEX, BlockType.COMMIT):
        n_kept -= 1
    for number, block in enumerate(found.blocks[:n_kept]):
        heads.append(found.heads[number])
        if number in kept.void:
            body = out.read(offsets[-1] + BLOCK.size, block.total_len - BLOCK.size)
            void = Block(layout.VOID, seq=number, stored_len=len(body), raw_len=len(body))
            heads[-1] = replace(void, payload_hash=payload_hash(body)).to_bytes(found.file_id)
            out.overwrite(offsets[-1], heads[-1])
        offsets.append(offsets[-1] + block.total_len)
    n_commits = sum(head[4] == BlockType.COMMIT for head in heads)
    out.resume(found.file_id, heads, offsets[-1], n_commits)
    out.commit(kept.items, kept.views, kept.n_rows)

"""Check every byte of a file. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from softpack.container.corrections import read_corrections
from softpack.container.file import Part, SpkFile
from softpack.container.hashes import check_sequences
from softpack.container.ledger import ledger_of
from softpack.container.rows import row_map
from softpack.container.tiles import read_presence, read_tile
from softpack.errors import FormatError
from softpack.format.layout import BlockType


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Args:
        name: of the file.
        n_blocks: blocks checked.
        n_rows: labels in the file.
        problems: one message for each damaged block; empty for a sound file.
        lost_rows: labels that cannot be read because of them.
    """

    name: str
    n_blocks: int
    n_rows: int
    problems: tuple[str, ...]
    lost_rows: int


def verify(path: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> Report:
    """Read a whole file, check every hash, size and code, and go on after damage to find all of it.

    Args:
        path: of the file.
        progress: is told (blocks done, blocks in all).

    Raises:
        FormatError: the file is damaged where nothing of it can be trusted: superblock, header, index, commit.
    """
    file = SpkFile(path)
    parts = _parts_of_blocks(file)
    damaged = damaged_blocks(file, progress)
    problems = [_with_rows(str(error), file, parts.get(number)) for number, error in damaged.items()]
    lost = {parts[number] for number in damaged if number in parts}
    if not problems:
        for check in (row_map, ledger_of, check_sequences):
            try:
                check(file)
            except FormatError as error:
                problems.append(str(error))
    lost_rows = sum(file.parts[n].n_rows for n in lost)
    return Report(file.name, len(file.blocks), file.commit.n_rows, tuple(problems), lost_rows)


def damaged_blocks(file: SpkFile, progress: Callable[[int, int], None] | None = None) -> dict[int, FormatError]:
    """Check every hash, size and code of a file; return what is wrong with its blocks by their numbers."""
    damaged, parts = {}, _parts_of_blocks(file)
    items = {block: part for part in file.item_parts.values() for block in part.blocks.values()}
    for number in range(len(file.blocks)):
        try:
            _check_block(file, number, file.parts[parts[number]] if number in parts else items.get(number))
        except FormatError as error:
            damaged[number] = error
        if progress is not None:
            progress(number + 1, len(file.blocks))
    return damaged


def _parts_of_blocks(file: SpkFile) -> dict[int, int]:
    """Return for each block of rows the number of its part in `file.parts`."""
    return {block: n for n, part in enumerate(file.parts) for block in part.blocks.values()}


def _check_block(file: SpkFile, number: int, part: Part | None) -> None:
    if file.blocks[number]["type"] != BlockType.TILE or part is None:
        file.payload(number)
        return
    stream = int(file.blocks[number]["stream"])
    if stream == 0:
        read_presence(file, part)
    elif file.header.streams[stream - 1].per == "correction":
        read_corrections(file, part)
    else:
        read_tile(file, part, stream)


def _with_rows(problem: str, file: SpkFile, number: int | None) -> str:
    if number is None:
        return problem
    part = file.parts[number]
    return (
        f"{problem} ({part.n_rows} labels of items {part.first_item} to {part.first_item + part.span_items - 1}, "
        f"views {part.first_view} to {part.first_view + part.span_views - 1}, cannot be read)"
    )

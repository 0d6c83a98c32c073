"""Files that make up one label set: a single one, the shards in a folder, or shards by a pattern of their numbers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from softpack.errors import DataError

DIGITS = re.compile(r"(\d+)")
OF_ALL = re.compile(r"-(\d+)-of-(\d+)(?=\.)")  # which shard it is, and how many there are
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # as shells and WebDataset write numbers: {000000..000012}
PAPERS = re.compile(r"\..*|README.*|LICENSE.*|.*\.(md|txt|json|csv)", re.IGNORECASE)


def are_shards(names: Iterable[str], suffix: str) -> bool:
    """Tell whether the names in a folder are of files with a suffix, and of what people lay beside them."""
    others = [name for name in names if not PAPERS.fullmatch(name)]
    return bool(others) and all(name.endswith(suffix) for name in others)


def is_pattern(path: Path) -> bool:
    """Tell whether a path names several files by a range of numbers, such as `shard-{000000..000012}.tar`."""
    return RANGE.search(path.name) is not None and not path.exists()


def shards_of(path: Path, suffix: str) -> tuple[Path, ...]:
    """Return the file, those of a pattern, or those of a folder with a suffix, in the order of their numbers.

    Raises:
        DataError: there are none, some are missing by their numbers, or they are of several sets.
    """
    if is_pattern(path):
        return tuple(_of_pattern(path))
    if not path.is_dir():
        return (path,)
    names = sorted(
        (entry.name for entry in os.scandir(path) if entry.name.endswith(suffix) and entry.is_file()),
        key=_natural,
    )
    if not names:
        raise DataError(
            f"{path}: holds no file that ends in {suffix}; expected one or more; name the folder they are in"
        )
    sets = sorted({DIGITS.sub("N", name) for name in names})
    if len(sets) > 1:
        raise DataError(
            f"{path}: holds shards of several sets: {', '.join(sets[:5])}; expected names that differ in numbers "
            "alone; put each set into a folder of its own, by links for example"
        )
    said = [found for name in names if (found := OF_ALL.search(name))]
    there, n_all = {int(found[1]) for found in said}, {int(found[2]) for found in said}
    if said and (len(n_all) > 1 or len(there) < max(n_all)):
        raise DataError(
            f"{path}: holds {len(there)} shards of {' and '.join(map(str, sorted(n_all)))}, by their names; expected "
            "all of one set; copy those that are missing"
        )
    return tuple(path / name for name in names)


def _of_pattern(path: Path) -> Iterator[Path]:
    """Yield the files that a pattern names."""
    first, last = RANGE.search(path.name).groups()  # type: ignore[union-attr]
    if int(last) < int(first):
        raise DataError(f"{path}: names no file; expected a range that goes up, such as {{000000..000012}}")
    for number in range(int(first), int(last) + 1):
        file = path.with_name(RANGE.sub(f"{number:0{len(first)}}", path.name))
        if not file.is_file():
            raise DataError(f"{path}: names {file.name}, which is not there; copy it, or name those that are")
        yield file


def _natural(name: str) -> list[str | int]:
    """Return a key by which shard 9 comes before shard 10."""
    return [int(part) if part.isdecimal() else part for part in DIGITS.split(name)]

"""Sources that are many files of a few rows each: a batch of a sampler, or the views of an image.

Shapes in names: F files, B rows of one.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from softpack.checks import Place, as_label_rows, check_labels, check_mix
from softpack.errors import DataError
from softpack.records import RowBlock
from softpack.sources.base import Source
from softpack.sources.columns import Around, read_column
from softpack.sources.pickles.pool import PicklePool

T = TypeVar("T")
SIZED_FILES = 5  # that are asked how large files are, where some may be damaged
READERS = max(1, min(4, (os.cpu_count() or 1)))


@dataclass(frozen=True, eq=False)
class Files:
    """Files of rows, in the order of these.

    Args:
        n_F: int64, rows of each.
        path_of: gives the path of each by its number.
    """

    n_F: np.ndarray
    path_of: Callable[[int], Path]

    @cached_property
    def starts(self) -> np.ndarray:
        """Number of the first row of each file among all, int64 [F + 1]; and of all."""
        return np.concatenate([[0], np.cumsum(self.n_F)])


class Cells(ABC):
    """Which (item, view) the rows of files are of."""

    how: str = ""  # it is known, where files do not say it

    @abstractmethod
    def of_file(self, number: int, n_rows: int) -> tuple[np.ndarray | None, np.ndarray]:
        """Return items and views of the rows of a file, int64 [B]; no items where the file itself says them."""

    @abstractmethod
    def views(self, file_B: np.ndarray, row_B: np.ndarray) -> np.ndarray:
        """Return the views of rows, by their files and their numbers in these."""


@dataclass(frozen=True, eq=False)
class ItemFiles(Cells):
    """Every file is of one item, and its rows are the views of it.

    Args:
        item_F: of each file.
        how: their order is known.
    """

    item_F: np.ndarray
    how: str = ""

    def of_file(self, number: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return items and views of the rows of a file."""
        return np.full(n_rows, self.item_F[number]), np.arange(n_rows)

    def views(self, file_B: np.ndarray, row_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        return row_B


@dataclass(frozen=True)
class Rows:
    """What a file says of its rows, as sources of arrays would hold it.

    Args:
        labels_BC: float16 or float32.
        columns: replay columns [B, ...].
        item_B: items, where the file says them.
    """

    labels_BC: np.ndarray
    columns: dict[str, np.ndarray]
    item_B: np.ndarray | None = None


# From what a file holds and the items of its rows, where they are known, to these rows.
Taken = Callable[[Any, np.ndarray | None], Rows]


@dataclass(frozen=True, eq=False)
class RowFiles(Source):
    """Files of rows.

    Args:
        files: in the order of their rows.
        cells: of the rows.
        take: makes rows of what a file holds.
        skip_bad: leave out files that cannot be used.
        left_out: what is wrong with those, by their paths; grows as they are met.
    """

    files: Files
    cells: Cells
    take: Taken
    skip_bad: bool = False
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Bytes of the files on disk."""
        paths = (self.files.path_of(number) for number in range(len(self.files.n_F)))
        return sum(path.stat().st_size for path in paths)

    @property
    def parts(self) -> np.ndarray:
        """Number of the first row of each file, and of all."""
        return self.files.starts

    @property
    def skipped(self) -> Mapping[str, str]:
        """What is wrong with files that were left out so far."""
        return self.left_out

    @property
    def order_known_by(self) -> str:
        """How it is known which item a row is of."""
        return self.cells.how

    def views_of(self, rows_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        file_B = self._files_of(rows_B)
        return self.cells.views(file_B, rows_B - self.files.starts[file_B])

    def blocks(self, n_rows: int) -> Iterator[RowBlock]:
        """Yield all rows in stored order, whole files together, at most `n_rows` at a time if a file has no more."""
        groups, start, starts = [], 0, self.files.starts
        while start < self.n_rows:
            stop = starts[np.searchsorted(starts, start + max(n_rows, 1), "right") - 1]
            stop = stop if stop > start else min(start + n_rows, self.n_rows)
            groups.append(np.arange(start, stop))
            start = int(stop)
        return self.read_rows(iter(groups))

    def read_rows(self, groups: Iterator[np.ndarray]) -> Iterator[RowBlock]:
        """Yield one block for each group of ascending row numbers; each file is read once where groups ascend.

        Rows of files that are left out are left out of their blocks, and a block of none is.
        """
        waiting: deque[_Group] = deque()
        wanted: deque[int] = deque()

        def paths() -> Iterator[Path]:
            last = -1
            for rows_B in filter(len, groups):
                group = _Group(rows_B, self._files_of(rows_B))
                waiting.append(group)
                for number in group.numbers.tolist():
                    if number != last:
                        wanted.append(last := number)
                        yield self.files.path_of(number)

        number, block = -1, None
        with PicklePool(READERS) as pool:
            for path, found in pool.each(paths()):
                yield from self._done_with(waiting, number, block)  # groups of the same file that came later
                number, block = wanted.popleft(), None
                with leaving_out(path, self.skip_bad, self.left_out):
                    if isinstance(found, DataError):
                        raise found
                    block = self._block(number, path, found)
                yield from self._done_with(waiting, number, block)
            yield from self._done_with(waiting, number, block)

    def _done_with(self, waiting: deque[_Group], number: int, block: RowBlock | None) -> Iterator[RowBlock]:
        """Give a file to the groups that wait for it, and yield those that wait for no other."""
        while waiting and waiting[0].needs == number:
            group = waiting[0]
            group.take(block, int(self.files.starts[number]))
            if group.needs is not None:
                return
            waiting.popleft()
            if group.parts:  # or all of its files were left out
                yield joined(group.parts)

    def _block(self, number: int, path: Path, found: Any) -> RowBlock:
        """Return the rows of a file, checked."""
        n = int(self.files.n_F[number])
        item_B, view_B = self.cells.of_file(number, n)
        try:
            rows = self.take(found, item_B)
        except Exception as error:
            raise DataError(_named(path, error)) from None
        item_B = rows.item_B if item_B is None else item_B
        if item_B is None:
            raise DataError(f"{path}: does not say of which images its rows are, as the first file does")
        if len(rows.labels_BC) != n or rows.labels_BC.shape[1] != self.spec.classes:
            raise DataError(
                f"{path}: holds {rows.labels_BC.shape[0]} rows of {rows.labels_BC.shape[1]} classes; expected {n} of "
                f"{self.spec.classes}, as in the other files"
            )
        if rows.columns.keys() != set(self.columns_stored):
            raise DataError(
                f"{path}: has {', '.join(rows.columns) or 'no columns'}; expected "
                f"{', '.join(self.columns_stored) or 'none'}, as in the first file"
            )
        place = Place(str(path), np.arange(n), item_B, view_B)
        place.check("item", (item_B >= 0) & (item_B < self.items), item_B, f"0 to {self.items - 1}")
        labels_BC = as_label_rows(rows.labels_BC)
        check_labels(labels_BC, self.spec, str(rows.labels_BC.dtype), place)
        around = Around(place, self.items, self.item_columns.get("source_hw"))
        replay = dict(read_column(name, values_B, around) for name, values_B in rows.columns.items())
        check_mix(replay, place)
        return RowBlock(labels_BC, item_B, view_B, replay)

    @property
    def columns_stored(self) -> tuple[str, ...]:
        """The columns as files have them, with crops that are fractions."""
        return tuple("crop_xywh" if name == "crop_xywh_fraction" else name for name in self.columns)

    def _files_of(self, rows_B: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.files.starts, rows_B, "right") - 1


def columns_of(rows: Rows, item_columns: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the names of the columns that rows get: crops stay fractions where sizes of images are not known."""
    stay = {"crop_xywh"} if "source_hw" not in item_columns else set()
    return tuple(
        "crop_xywh_fraction" if name in stay and values_B.dtype.kind == "f" else name
        for name, values_B in rows.columns.items()
    )


class _Group:
    """Rows that are wanted together, and what there is of them.

    Args:
        rows_B: their numbers, ascending.
        file_B: number of the file of each.
    """

    def __init__(self, rows_B: np.ndarray, file_B: np.ndarray) -> None:
        first_F = np.flatnonzero(np.diff(file_B, prepend=-1))
        self.numbers = file_B[first_F]
        self._rows_of_F = iter(np.split(rows_B, first_F[1:]))
        self._left = iter(self.numbers.tolist())
        self.needs: int | None = next(self._left)
        self.parts: list[RowBlock] = []

    def take(self, block: RowBlock | None, start: int) -> None:
        """Take the rows of the file that is needed, which begins with row `start`; None where it was left out."""
        rows_B = next(self._rows_of_F)
        if block is not None:
            self.parts.append(_part(block, rows_B - start))
        self.needs = next(self._left, None)


def _part(block: RowBlock, rows_B: np.ndarray) -> RowBlock:
    is_all = len(rows_B) == len(block) and rows_B[0] == 0 and rows_B[-1] == len(block) - 1
    return block if is_all else block.take(rows_B)


def joined(blocks: list[RowBlock]) -> RowBlock:
    """Return the rows of all blocks, of which there is one at least, as one block."""
    if len(blocks) == 1:
        return blocks[0]
    return RowBlock(
        np.concatenate([block.labels_BC for block in blocks]),
        np.concatenate([block.item_B for block in blocks]),
        np.concatenate([block.view_B for block in blocks]),
        {name: np.concatenate([block.replay[name] for block in blocks]) for name in blocks[0].replay},
    )


def first_good(
    root: Path,
    paths: Iterable[Path],
    take: Callable[[Any], T],
    skip_bad: bool,
    left_out: dict[str, str],
    size: Callable[[T], int] | None = None,
) -> T:
    """Return what the first of some files gives; of the first good one, where bad ones are left out.

    Args:
        root: where they lie.
        paths: of the files.
        take: makes what is wanted of what a file holds.
        skip_bad: leave out files that cannot be used.
        left_out: gets what is wrong with those.
        size: of what a file gives, where all have one: of several good ones, that which most have is taken.

    Raises:
        DataError: the first file cannot be used, or none can.
    """
    n_wanted = SIZED_FILES if skip_bad and size is not None else 1
    good: list[T] = []
    said = (
        f"{root}: too few of its files are there to tell what it holds; copy it from where the labels are whole"
    )
    with PicklePool(1) as pool:
        for path in paths:
            try:
                good.append(take(pool.read(path)))
            except Exception as error:
                left_out[str(path)] = said = _named(path, error)
                if not skip_bad:
                    break
            if len(good) == n_wanted:
                break
    if not good:
        raise DataError(said)
    if size is None:
        return good[0]
    sizes = [size(found) for found in good]
    return good[sizes.index(max(sizes, key=sizes.count))]


def _named(path: Path, error: Exception) -> str:
    if not isinstance(error, DataError):  # of numbers that no label set has
        return f"{path}: cannot be used: {type(error).__name__}: {str(error)[:200]}"
    return str(error) if str(error).startswith(str(path)) else f"{path}: {error}"


def refuse_missing(root: Path, missing: list[Path], skip_bad: bool) -> dict[str, str]:
    """Return what there is to say of missing files, where these are to be left out.

    Raises:
        DataError: they are not.
    """
    if missing and not skip_bad:
        names = ", ".join(str(path.relative_to(root)) for path in missing[:5])
        raise DataError(
            f"{root}: {len(missing)} files are missing: {names}{', ...' if len(missing) > 5 else ''}; copy them from "
            "where the labels are whole, or leave them out with --skip-bad"
        )
    return {str(path): f"{path}: is missing" for path in missing}


@contextmanager
def leaving_out(path: Path, skip_bad: bool, left_out: dict[str, str]) -> Iterator[None]:
    """Note what is wrong with a file, where bad ones are left out; else let it be raised."""
    try:
        yield
    except DataError as error:
        if not skip_bad:
            raise
        left_out[str(path)] = str(error)

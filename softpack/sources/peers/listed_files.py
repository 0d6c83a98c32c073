"""Sets of numbered files, `epoch_0.tar` or `batch_0.tar`, with an index beside them that lists the items of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.peers.fkdmix import MAX_BATCH
from softpack.sources.peers.given import Given
from softpack.sources.peers.numbered import numbered_in
from softpack.sources.peers.row_files import (
    Cells,
    Files,
    RowFiles,
    Taken,
    columns_of,
    first_good,
    refuse_missing,
)

SUFFIX = ".tar"


@dataclass(frozen=True)
class Numbered:
    """What lies in the folder of such a set.

    Args:
        path: of the folder.
        before: what the names of files begin with, before their number.
        index: name of the index.
        names: of the files, by their numbers.
        others: names of all else but the index.
    """

    path: Path
    before: str
    index: str
    names: dict[int, str]
    others: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, before: str, index: str) -> Numbered:
        """Look into a folder.

        Raises:
            DataError: it has no such file, or no index.
        """
        names, others = numbered_in(path, before, SUFFIX)
        first = f"{before}0{SUFFIX}"
        if not names or not (path / index).is_file():
            raise DataError(
                f"{path}: has no {index if names else first}; expected {first} and so on, and {index}, which alone "
                "says of which images they are"
            )
        return cls(path, before, index, names, tuple(other for other in others if other != index))


@dataclass(frozen=True, eq=False)
class Listed(Cells):
    """The rows of files as the index lists them.

    Args:
        n_items: one more than the greatest item.
        n_views: of an item.
        view_of: the view of each file, by its number.
        items_of: gives the items of a file, by its number.
        number_F: of each file that is there.
        how: it is known.
    """

    n_items: int
    n_views: int
    view_of: dict[int, int]
    items_of: Callable[[int], np.ndarray]
    number_F: np.ndarray
    how: str = ""

    @cached_property
    def view_F(self) -> np.ndarray:  # it carries its shape
        """The view of each file that is there."""
        return np.array([self.view_of[number] for number in self.number_F.tolist()])

    def of_file(self, number: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return items and views of the rows of a file."""
        return self.items_of(int(self.number_F[number])), np.full(n_rows, self.view_F[number])

    def views(self, file_B: np.ndarray, row_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        views_B: np.ndarray = self.view_F[file_B]
        return views_B


def open_listed(
    found: Numbered, listed: Listed, given: Given, take: Taken, spec: Callable[[int], LabelSpec]
) -> RowFiles:
    """Open the set.

    Args:
        found: its files.
        listed: what its index says of them.
        given: by the caller.
        take: makes rows of what a file holds.
        spec: of the rows, by their classes.

    Raises:
        DataError: the index is of other files, or some are missing.
    """
    names = found.names
    if foreign := sorted(names.keys() - listed.view_of.keys()):
        raise DataError(
            f"{found.path}: {found.index} does not list {names[foreign[0]]}; it may be of another set"
        )
    lost = [found.path / f"{found.before}{n}{SUFFIX}" for n in sorted(listed.view_of) if n not in names]
    left_out = refuse_missing(found.path, lost, given.skip_bad)
    first = first_good(
        found.path,
        (found.path / name for name in names.values()),
        lambda held: take(held, np.arange(MAX_BATCH)),
        given.skip_bad,
        left_out,
    )
    numbers = listed.number_F.tolist()
    n_F = np.array([len(listed.items_of(number)) for number in numbers])
    item_columns = given.item_columns()
    return RowFiles(
        path=found.path,
        spec=spec(first.labels_BC.shape[1]),
        items=listed.n_items if given.folder is None else len(given.folder),
        views=listed.n_views,
        n_rows=int(n_F.sum()),
        columns=columns_of(first, item_columns),
        item_columns=item_columns,
        ignored=found.others,
        files=Files(n_F, lambda number: found.path / names[numbers[number]]),
        cells=listed,
        take=take,
        skip_bad=given.skip_bad,
        left_out=left_out,
    )

"""SRe2L's label sets, and those laid out alike: `epoch_E/batch_B.tar`, each a list as `fkdmix` describes.

SRe2L, CDA and CV-DD (arXiv:2306.13092, 2311.18838, 2503.24267) say nowhere which image a row is of: it follows from the
seed of a sampler and the version of PyTorch. LPLD (arXiv:2410.15919) lists it in a file beside, and may keep the first
batches alone. G-VBSM (arXiv:2311.17950) says it in every batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.peers.fkdmix import MAX_BATCH, of_sides, rows_of
from softpack.sources.peers.given import Given, need, order_of
from softpack.sources.peers.numbered import numbered_in
from softpack.sources.peers.orders import ListedOrder, Order, UnknownOrder
from softpack.sources.peers.row_files import (
    Cells,
    Files,
    RowFiles,
    Rows,
    Taken,
    columns_of,
    first_good,
    refuse_missing,
)  # fmt: skip

N_WITHOUT_ITEMS = 6  # parts of a batch that does not say which images its rows are of
N_OF_EDC = 8
INDEX = "sampler_indices_epoch.json"


@dataclass(frozen=True)
class _Tree:
    """What lies in the folder.

    Args:
        root: the folder.
        batches: numbers of the batches of each epoch, ascending.
        others: names of all else.
    """

    root: Path
    batches: tuple[tuple[int, ...], ...]
    others: tuple[str, ...]

    @property
    def n_files(self) -> int:
        """Batches of a whole epoch."""
        return 1 + max((numbers[-1] for numbers in self.batches if numbers), default=-1)

    def path(self, epoch: int, batch: int) -> Path:
        return self.root / f"epoch_{epoch}" / f"batch_{batch}.tar"

    def paths(self, are_last: bool) -> list[Path]:
        """Return the files that are the last batch of a whole epoch, or those that are not."""
        return [
            self.path(epoch, batch)
            for epoch, numbers in enumerate(self.batches)
            for batch in numbers
            if (batch == self.n_files - 1) == are_last
        ]


def open_sre2l(path: Path, given: Given) -> RowFiles:
    """Open a set of SRe2L, CDA, CV-DD, LPLD or G-VBSM.

    Raises:
        DataError: it is none, a batch is missing, or it does not say which images its rows are of and nobody does.
    """
    tree, left_out = _listed(path), dict[str, str]()
    item_columns = given.item_columns()
    take = partial(_rows, replay=given.replay, source_hw=item_columns.get("source_hw"))
    last, first = (
        first_good(
            path, tree.paths(are_last), partial(_of_any_items, take=take), given.skip_bad, left_out, _n_rows
        )
        for are_last in (True, tree.n_files == 1)
    )
    n_batch = len(first.labels_BC)
    n_epoch = n_batch * (tree.n_files - 1) + len(last.labels_BC)
    order = _order(path, given, n_epoch, len(last.labels_BC) == n_batch) if first.item_B is None else None
    rows_of_epochs = _rows_of_epochs(tree, order, n_batch, n_epoch)
    files, cells = _files(tree, rows_of_epochs, n_batch, order, given, left_out)
    return RowFiles(
        path=path,
        spec=LabelSpec(first.labels_BC.shape[1]),
        items=_n_items(path, order, rows_of_epochs, given),
        views=1 if isinstance(order, UnknownOrder) else len(tree.batches),
        n_rows=int(files.n_F.sum()),
        columns=columns_of(first, item_columns),
        item_columns=item_columns,
        ignored=tuple(other for other in tree.others if other != INDEX),
        files=files,
        cells=cells,
        take=take,
        skip_bad=given.skip_bad,
        left_out=left_out,
    )


def _n_rows(rows: Rows) -> int:
    return len(rows.labels_BC)


def _rows(
    found: Any, item_B: np.ndarray | None, replay: bool = True, source_hw: np.ndarray | None = None
) -> Rows:
    rows = rows_of(found, item_B, replay=replay)
    if len(found) != N_OF_EDC or not replay:
        return rows
    if source_hw is None:
        raise DataError(
            "has crops of EDC, which divides one side by the other's length, and does not say how large images are "
            "(--images DIR; --no-replay takes the labels alone)"
        )
    return of_sides(rows, source_hw)


def _of_any_items(found: Any, take: Taken) -> Rows:
    says_items = isinstance(found, list) and len(found) > N_WITHOUT_ITEMS
    return take(found, None if says_items else np.arange(MAX_BATCH))


def _listed(path: Path) -> _Tree:
    epochs, others = numbered_in(path, "epoch_")
    if not epochs:
        raise DataError(f"{path}: has no epoch_0; expected epoch_0, epoch_1 and so on, each with batch_0.tar")
    batches = []
    for epoch in range(1 + max(epochs)):
        found, more = numbered_in(path / epochs[epoch], "batch_", ".tar") if epoch in epochs else ({}, [])
        others += [f"epoch_{epoch}/{other}" for other in more]
        batches.append(tuple(found))
    if not any(batches):
        raise DataError(f"{path}: has no batch_0.tar in any of its epochs; expected batch_0.tar and so on")
    return _Tree(path, tuple(batches), tuple(others))


def _order(path: Path, given: Given, n_epoch: int, is_full: bool) -> Order | None:
    """Return the order of images.

    How many there are is to be seen where the last batch of an epoch is smaller than others. Where it `is_full`, a last
    batch may be lost of every epoch, and another number of images has another order.
    """
    if (path / INDEX).is_file():
        return ListedOrder(path / INDEX, None if given.folder is None else len(given.folder))
    if given.sampler == "unknown":
        return UnknownOrder(n_epoch)
    need(
        path,
        {
            "in which order images were labelled (--label-seed N; 42 where SRe2L's script was not told another)": (
                given.label_seed is None
            ),
            "by which PyTorch (--sampler new for 1.11 and later, or old; --sampler unknown gives the order up)": (
                given.sampler is None
            ),
            "how many images there are, as the last batch is as large as others (--images DIR)": (
                is_full and given.folder is None
            ),
        },
    )
    return order_of(given, n_epoch)


def _rows_of_epochs(tree: _Tree, order: Order | None, n_batch: int, n_epoch: int) -> list[int]:
    """Return the rows of each epoch, from the index where there is one; else all have as many."""
    found = []
    for epoch, numbers in enumerate(tree.batches):
        n_rows = order.n_rows(epoch) if isinstance(order, ListedOrder) else n_epoch
        n_files = -(-n_rows // n_batch)
        if numbers and numbers[-1] >= n_files:
            raise DataError(
                f"{tree.root / f'epoch_{epoch}'}: has a batch_{numbers[-1]}.tar; expected {n_files} batches of "
                f"{n_batch} rows, for {n_rows} images; {INDEX} may be of another set"
            )
        found.append(n_rows)
    return found


def _n_items(path: Path, order: Order | None, n_rows: list[int], given: Given) -> int:
    n_images = None if given.folder is None else len(given.folder)
    if isinstance(order, ListedOrder):
        return n_images or order.n_items
    n_items = sum(n_rows) if isinstance(order, UnknownOrder) else n_rows[0]
    if n_images is not None and n_images != n_items:
        raise DataError(
            f"{path}: has labels of {n_items} images in an epoch, and {given.images} holds {n_images}; give the images "
            "that were labelled"
        )
    return n_items


def _files(
    tree: _Tree,
    rows_of_epochs: list[int],
    n_batch: int,
    order: Order | None,
    given: Given,
    left_out: dict[str, str],
) -> tuple[Files, Cells]:
    """Return the files, and which rows they have.

    Raises:
        DataError: some are missing, and bad ones are not to be left out.
    """
    cells = [
        (epoch, batch) for epoch, n_rows in enumerate(rows_of_epochs) for batch in range(-(-n_rows // n_batch))
    ]
    there = [set(numbers) for numbers in tree.batches]
    missing = [tree.path(*cell) for cell in cells if cell[1] not in there[cell[0]]]
    left_out |= refuse_missing(tree.root, missing, given.skip_bad)
    found = np.array([cell for cell in cells if cell[1] in there[cell[0]]], np.int64).reshape(-1, 2)
    epoch_F, batch_F = found.T
    first_F = batch_F * n_batch
    n_F = np.minimum(np.array(rows_of_epochs)[epoch_F] - first_F, n_batch)
    files = Files(n_F, lambda number: tree.path(int(epoch_F[number]), int(batch_F[number])))
    return files, _Batches(epoch_F, first_F, order)


@dataclass(frozen=True, eq=False)
class _Batches(Cells):
    """Views are epochs, and items those of the order; or every row is an item, where nobody knows the order.

    Args:
        epoch_F: of each batch.
        first_F: the row of the epoch that its first one is.
        order: of the items; None where the files say them.
    """

    epoch_F: np.ndarray
    first_F: np.ndarray
    order: Order | None

    @property
    def how(self) -> str:  # type: ignore[override]
        """How it is known."""
        return "" if self.order is None else self.order.how

    def of_file(self, number: int, n_rows: int) -> tuple[np.ndarray | None, np.ndarray]:
        """Return items and views of the rows of a batch."""
        epoch, first = int(self.epoch_F[number]), int(self.first_F[number])
        view_B = np.full(n_rows, 0 if isinstance(self.order, UnknownOrder) else epoch)
        return None if self.order is None else self.order.items(epoch)[first : first + n_rows], view_B

    def views(self, file_B: np.ndarray, row_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        return np.zeros_like(file_B) if isinstance(self.order, UnknownOrder) else self.epoch_F[file_B]

"""LPQLD's label sets: `batch_0.tar` and so on, each a list as `fkdmix` describes, and the items of each in a JSON file.

Files hold the k largest logits of each row (arXiv:2604.18135), or all of them. There are no folders of epochs: a batch
is of the next view where it has an item that its view has already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.peers.fkdmix import MAX_BATCH, rows_of
from softpack.sources.peers.given import Given
from softpack.sources.peers.numbered import numbered_in
from softpack.sources.peers.orders import BatchOrder
from softpack.sources.peers.row_files import Cells, Files, RowFiles, columns_of, first_good, refuse_missing

INDEX = "sampler_indices_batch.json"


def open_lpqld(path: Path, given: Given) -> RowFiles:
    """Open a set of LPQLD.

    Raises:
        DataError: it is none, a batch is missing, or it does not say how many classes there are and nobody does.
    """
    found, others = numbered_in(path, "batch_", ".tar")
    if not found or not (path / INDEX).is_file():
        lacks = INDEX if found else "batch_0.tar"
        raise DataError(
            f"{path}: has no {lacks}; expected batch_0.tar and so on, and {INDEX}, which alone says of which "
            "images they are"
        )
    order = BatchOrder(path / INDEX, None if given.folder is None else len(given.folder))
    if foreign := sorted(found.keys() - set(order.batches)):
        raise DataError(f"{path}: {INDEX} does not list batch_{foreign[0]}.tar; it may be of another set")
    left_out = refuse_missing(
        path, [path / f"batch_{b}.tar" for b in order.batches if b not in found], given.skip_bad
    )
    batches = sorted(found)
    take = partial(rows_of, classes=given.classes, replay=given.replay)
    first = first_good(
        path,
        (path / found[batch] for batch in batches),
        lambda held: take(held, np.arange(MAX_BATCH)),
        given.skip_bad,
        left_out,
    )
    item_columns = given.item_columns()
    return RowFiles(
        path=path,
        spec=LabelSpec(first.labels_BC.shape[1]),
        items=order.n_items if given.folder is None else len(given.folder),
        views=order.n_epochs,
        n_rows=sum(len(order.items_of(batch)) for batch in batches),
        columns=columns_of(first, item_columns),
        item_columns=item_columns,
        ignored=tuple(other for other in others if other != INDEX),
        files=Files(
            np.array([len(order.items_of(batch)) for batch in batches]),
            lambda number: path / found[batches[number]],
        ),
        cells=_Batches(order, np.array(batches), np.array([order.epoch_of[batch] for batch in batches])),
        take=take,
        skip_bad=given.skip_bad,
        left_out=left_out,
    )


@dataclass(frozen=True, eq=False)
class _Batches(Cells):
    """Items are those that the index lists.

    Args:
        order: as it lists them.
        batch_F: number of each file.
        epoch_F: its view.
    """

    order: BatchOrder
    batch_F: np.ndarray
    epoch_F: np.ndarray

    @property
    def how(self) -> str:  # type: ignore[override]
        """How it is known."""
        return self.order.how

    def of_file(self, number: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return items and views of the rows of a batch."""
        return self.order.items_of(int(self.batch_F[number])), np.full(n_rows, self.epoch_F[number])

    def views(self, file_B: np.ndarray, row_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        views_B: np.ndarray = self.epoch_F[file_B]
        return views_B

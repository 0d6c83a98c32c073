"""HALD's label sets: `epoch_0.tar` and so on, each a list of batches as `fkdmix` describes (arXiv:2512.15647).

Labels are probabilities, at a temperature that no file says. `sampler_indices_dict.pt` has the items of each epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.peers.fkdmix import MAX_BATCH, rows_of
from softpack.sources.peers.given import Given, need
from softpack.sources.peers.numbered import numbered_in
from softpack.sources.peers.orders import ListedOrder
from softpack.sources.peers.row_files import (
    Cells,
    Files,
    RowFiles,
    Rows,
    columns_of,
    first_good,
    refuse_missing,
)
from softpack.sources.pickles.pool import PicklePool

INDEX = "sampler_indices_dict.pt"


def open_hald(path: Path, given: Given) -> RowFiles:
    """Open a set of HALD.

    Raises:
        DataError: it is none, an epoch is missing, or it does not say its temperature and nobody does.
    """
    found, others = numbered_in(path, "epoch_", ".tar")
    if not found or not (path / INDEX).is_file():
        lacks = INDEX if found else "epoch_0.tar"
        raise DataError(
            f"{path}: has no {lacks}; expected epoch_0.tar and so on, and {INDEX}, which alone says of which "
            "images they are"
        )
    need(
        path,
        {
            "at which temperature probabilities were taken (--source-temperature T; 20 if HALD's script was not told "
            "another)": given.temperature is None
        },
    )
    with PicklePool(1) as pool:
        lists = pool.read(path / INDEX)
    order = ListedOrder(path / INDEX, None if given.folder is None else len(given.folder), lists)
    if foreign := sorted(found.keys() - set(order.numbers)):
        raise DataError(f"{path}: {INDEX} does not list epoch_{foreign[0]}.tar; it may be of another set")
    left_out = refuse_missing(
        path, [path / f"epoch_{e}.tar" for e in order.numbers if e not in found], given.skip_bad
    )
    epoch_F = np.array(sorted(found))
    n_F = np.array([order.n_rows(epoch) for epoch in found])
    take = partial(_rows, replay=given.replay)
    first = first_good(
        path,
        (path / name for name in found.values()),
        lambda held: take(held, np.arange(MAX_BATCH)),
        given.skip_bad,
        left_out,
    )
    item_columns = given.item_columns()
    return RowFiles(
        path=path,
        spec=LabelSpec(first.labels_BC.shape[1], "probs", given.temperature or 1.0),
        items=order.n_items if given.folder is None else len(given.folder),
        views=1 + max(order.numbers),
        n_rows=int(n_F.sum()),
        columns=columns_of(first, item_columns),
        item_columns=item_columns,
        ignored=tuple(other for other in others if other != INDEX),
        files=Files(n_F, lambda number: path / found[int(epoch_F[number])]),
        cells=_Epochs(order, epoch_F),
        take=take,
        skip_bad=given.skip_bad,
        left_out=left_out,
    )


def _rows(found: Any, item_B: np.ndarray | None, replay: bool) -> Rows:
    """Return the rows of one epoch."""
    if not isinstance(found, list) or not found or item_B is None:
        raise DataError(f"holds a {type(found).__name__}; expected a list of batches, as HALD writes it")
    parts: list[Rows] = []
    start = 0
    for number, batch in enumerate(found):
        try:
            parts.append(rows_of(batch, item_B[start:], replay=replay))
        except DataError as error:
            raise DataError(f"batch {number}: {error}") from None
        start += len(parts[-1].labels_BC)
        if parts[-1].columns.keys() != parts[0].columns.keys():
            raise DataError(
                f"batch {number}: has {', '.join(parts[-1].columns)}; expected the columns of batch 0"
            )
    return Rows(
        np.concatenate([part.labels_BC for part in parts]),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
    )


@dataclass(frozen=True, eq=False)
class _Epochs(Cells):
    """Views are epochs, and items those that the index lists.

    Args:
        order: as it lists them.
        epoch_F: of each file.
    """

    order: ListedOrder
    epoch_F: np.ndarray

    @property
    def how(self) -> str:  # type: ignore[override]
        """How it is known."""
        return self.order.how

    def of_file(self, number: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return items and views of the rows of an epoch."""
        epoch = int(self.epoch_F[number])
        return self.order.items(epoch), np.full(n_rows, epoch)

    def views(self, file_B: np.ndarray, row_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        views_B: np.ndarray = self.epoch_F[file_B]
        return views_B

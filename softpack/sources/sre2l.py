"""SRe2L's label sets, and those laid out alike: `epoch_E/batch_B.tar`, each a list as `fkdmix` describes.

SRe2L, CDA and CV-DD (arXiv:2306.13092, 2311.18838, 2503.24267) say nowhere which image a row is of: it follows from the
seed of a sampler and the version of PyTorch. LPLD (arXiv:2410.15919) lists it in a file beside, and may keep the first
batches alone. G-VBSM (arXiv:2311.17950) says it in every batch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.batches import BatchFiles, Files, Rows, numbered
from softpack.sources.fkdmix import rows_of
from softpack.sources.given import Given, need, order_of
from softpack.sources.orders import ListedOrder, Order, UnknownOrder
from softpack.sources.pickles.pool import PicklePool

INDEX = "sampler_indices_epoch.json"


@dataclass(frozen=True)
class _Tree:
    """What lies in the folder.

    Args:
        root: the folder.
        batches: of each epoch, how many.
        others: names of all else.
    """

    root: Path
    batches: tuple[int, ...]
    others: tuple[str, ...]

    def path(self, epoch: int, batch: int) -> Path:
        return self.root / f"epoch_{epoch}" / f"batch_{batch}.tar"


def open_sre2l(path: Path, given: Given) -> BatchFiles:
    """Open a set of SRe2L, CDA, CV-DD, LPLD or G-VBSM.

    Raises:
        DataError: it is none, a batch is missing, or it does not say which images its rows are of and nobody does.
    """
    tree = _listed(path)
    first, last = _probed(tree)
    n_batch, n_last = len(first.labels_BC), len(last.labels_BC)
    index = path / INDEX
    order: Order | None = None
    if first.item_B is None:
        order = _order(path, index, given, tree.batches[0], n_batch, n_last)
    n_rows = _rows_of_epochs(tree, order, n_batch, n_last)
    item_columns = given.item_columns()
    n_items = _n_items(path, order, n_rows, given)
    has_sizes = "source_hw" in item_columns
    return BatchFiles(
        path=path,
        spec=LabelSpec(first.labels_BC.shape[1]),
        items=n_items,
        views=1 if isinstance(order, UnknownOrder) else len(tree.batches),
        n_rows=int(sum(n_rows)),
        columns=tuple("crop_xywh_fraction" if n == "crop_xywh" and not has_sizes else n for n in first.columns),
        item_columns=item_columns,
        ignored=tuple(other for other in tree.others if other != INDEX),
        files=_files(tree, n_rows, n_batch),
        order=order,
        take=rows_of,
    )


def _listed(path: Path) -> _Tree:
    epochs, others = numbered(_names(path), "epoch_")
    if not epochs or list(epochs) != list(range(len(epochs))):
        lost = next(number for number in range(len(epochs) + 1) if number not in epochs)
        raise DataError(
            f"{path}: has no epoch_{lost}; expected epoch_0, epoch_1 and so on, each with batch_0.tar"
        )
    counts = []
    for name in epochs.values():
        batches, more = numbered(_names(path / name), "batch_", ".tar")
        others += [f"{name}/{other}" for other in more]
        lost = next(number for number in range(len(batches) + 1) if number not in batches)
        if lost < len(batches) or not batches:
            raise DataError(
                f"{path / name}: has no batch_{lost}.tar, but {len(batches)} others; copy it from where the labels "
                "are whole"
            )
        counts.append(len(batches))
    return _Tree(path, tuple(counts), tuple(others))


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder of batch_0.tar, batch_1.tar and so on")
    return [entry.name for entry in os.scandir(folder)]


def _probed(tree: _Tree) -> tuple[Rows, Rows]:
    """Return the rows of the first batch and of the last one of the first epoch."""
    found = []
    with PicklePool(1) as pool:
        for batch in (0, tree.batches[0] - 1):
            path = tree.path(0, batch)
            try:
                found.append(rows_of(pool.read(path), np.arange(1 << 20)))
            except DataError as error:
                raise DataError(
                    str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
                ) from None
    return found[0], found[1]


def _order(path: Path, index: Path, given: Given, n_files: int, n_batch: int, n_last: int) -> Order | None:
    n_epoch = n_batch * (n_files - 1) + n_last
    if index.is_file():
        return ListedOrder(index, None if given.folder is None else len(given.folder))
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
        },
    )
    return order_of(given, n_epoch)


def _rows_of_epochs(tree: _Tree, order: Order | None, n_batch: int, n_last: int) -> list[int]:
    """Return the rows of each epoch, from the index where there is one, or as many as in the first."""
    n_epoch = n_batch * (tree.batches[0] - 1) + n_last
    found = []
    for epoch, n_files in enumerate(tree.batches):
        n_rows = order.n_rows(epoch) if isinstance(order, ListedOrder) else n_epoch
        if -(-n_rows // n_batch) != n_files:
            raise DataError(
                f"{tree.root / f'epoch_{epoch}'}: has {n_files} batches; expected {-(-n_rows // n_batch)} of "
                f"{n_batch} rows, for {n_rows} images; copy it from where the labels are whole"
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


def _files(tree: _Tree, n_rows: list[int], n_batch: int) -> Files:
    """Return the files with their rows."""
    epoch_F = np.repeat(np.arange(len(tree.batches)), tree.batches)
    batch_F = np.concatenate([np.arange(n) for n in tree.batches])
    first_F = batch_F * n_batch
    n_F = np.minimum(np.repeat(np.array(n_rows), tree.batches) - first_F, n_batch)
    return Files(epoch_F, batch_F, first_F, n_F, tree.path)

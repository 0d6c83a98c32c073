"""A torch Dataset of images with the soft labels of their views.

Shapes in names: B rows of a batch, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from softpack.container.reader import open as open_labels
from softpack.container.resident import ResidentLabels
from softpack.data.batch import Batch, Sample
from softpack.data.draws import Draws
from softpack.data.inputs import PlainInputs, ReplayedInputs, check_count, check_dataset, images_of
from softpack.data.replay import Replay, check_replayable
from softpack.data.source import LabelSource
from softpack.data.thumbprint import check_images
from softpack.errors import DataError

RESIDENT_BYTES = 1 << 30  # files up to here are held in memory unless the caller says otherwise


class OutOfRangeError(DataError, IndexError):
    """No such item. Also an IndexError, by which Python's loops know where a sequence ends."""


class SoftLabelDataset(Dataset[Sample]):
    """Give images with the soft labels of their views, to any PyTorch DataLoader.

    A sample is (image, target, label) where the image dataset or the file has targets, else (image, label).
    The label is float32 [C], of the very view that the image was replayed to. Targets of the image dataset
    go before those of the file, where -1 stands for none.

    `dataset[item]` draws the next view of the item, so that every ordinary epoch gives other views than the
    one before, and after the last view the first again. How often each item was drawn stands in memory that
    worker processes share. Not so the processes of distributed training, and an epoch that was left early has
    drawn ahead: there, call `set_epoch` at the beginning of each. Where two workers draw one item at the
    same moment, which takes a sampler that repeats items, both may get the same view.

    `dataset[item, view]` gives that very view and draws nothing. A sampler may yield such pairs.

    Args:
        images: any map-style dataset with the labelled images, in the order of the items; it gives an image,
            or (image, target). For replay, images are what `Replay` takes.
        labels: path of an .spk file, or labels that `softpack.open` gave.
        transform: `softpack.replay(size)`. For labels of unchanged images, any callable, or None.
        resident: hold all codes in memory, once for all workers. None does so for a path to a file of up to
            1 GiB, and takes opened labels as they are.
        ignore_replay: apply `transform` to whole images although the labels belong to augmented ones, for
            `images` that give the augmented pixels themselves.

    Raises:
        DataError: images and labels do not belong together, or the transform would not give the pixels that were
            labelled. Later, when an item is drawn: its image has another size, its augmentation does not fit it, or
            some item has no view.
    """

    def __init__(
        self,
        images: Any,
        labels: str | os.PathLike[str] | LabelSource,
        transform: Callable[[Any], Any] | None = None,
        *,
        resident: bool | None = None,
        ignore_replay: bool = False,
    ) -> None:
        if isinstance(labels, (str, os.PathLike)):
            path, labels = labels, open_labels(labels)
            resident = Path(path).stat().st_size <= RESIDENT_BYTES if resident is None else resident
        check_dataset(images)
        check_count(images, labels)
        if not ignore_replay:
            _check_transform(transform, labels)
            check_images(images_of(images), labels.images)
        self._draws = Draws(labels)
        self._inputs: PlainInputs
        if isinstance(transform, Replay) and not ignore_replay:
            self._inputs = ReplayedInputs(images, labels, transform)
        else:
            self._inputs = PlainInputs(images, labels, transform)
        self.labels = labels if isinstance(labels, ResidentLabels) or not resident else labels.load()

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> Batch:
        """Return the samples of a batch, decoded at once.

        Args:
            indices: items, or (item, view) pairs.

        Raises:
            DataError: they are neither, or a row is not there; OutOfRangeError if an item is not.
        """
        if len(indices) == 0:
            return Batch([], torch.empty(0, self.labels.shape[2]))
        items_B, views_B = self._rows(indices)
        return self._batch(items_B, views_B, self.labels.read(items_B, views_B))

    def undecoded(self, indices: Sequence[int | tuple[int, int]]) -> Batch:
        """Return the same with item and view in place of each label, int64 [B, 2], to be decoded elsewhere."""
        items_B, views_B = self._rows(indices)
        return self._batch(items_B, views_B, torch.from_numpy(np.stack([items_B, views_B], 1)))

    def _batch(self, items_B: np.ndarray, views_B: np.ndarray, labels_BX: Tensor) -> Batch:
        inputs = self._inputs.of(items_B, views_B, self.labels)
        return Batch([(*given, label) for given, label in zip(inputs, labels_BX, strict=True)], labels_BX)

    def set_epoch(self, epoch: int) -> None:
        """Make the `epoch`-th of its views the next of every item, counted from 0 and round again.

        Raises:
            DataError: `epoch` is negative.
        """
        if epoch < 0:
            raise DataError(f"set_epoch: epoch is {epoch}; expected 0 or more")
        self._draws.restart(epoch)

    def _rows(self, indices: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return items and views [B] of what a sampler gave."""
        try:
            rows = np.asarray(indices)
        except ValueError:  # items and pairs in one batch
            rows = np.empty(0)
        is_pairs = rows.ndim == 2 and rows.shape[1] == 2
        if rows.dtype.kind not in "iu" or not (rows.ndim == 1 or is_pairs):
            raise DataError(
                f"the dataset was asked for {str(list(indices))[:80]}; expected items, or (item, view) pairs, "
                "all whole numbers"
            )
        rows = rows.astype(np.int64, copy=False)
        if not is_pairs:
            items_B = self._checked_items(rows)
            return items_B, self._draws.next_views(items_B, self.labels)
        return self._checked_items(rows[:, 0]), self._checked_views(rows[:, 1])

    def _checked_items(self, items_B: np.ndarray) -> np.ndarray:
        n_items = len(self)
        outside_B = (items_B < -n_items) | (items_B >= n_items)
        if outside_B.any():
            raise OutOfRangeError(f"there is no item {items_B[outside_B][0]}; the dataset has {n_items} items")
        return np.where(items_B < 0, items_B + n_items, items_B)

    def _checked_views(self, views_B: np.ndarray) -> np.ndarray:
        n_views = self.labels.shape[1]
        outside_B = (views_B < 0) | (views_B >= n_views)
        if outside_B.any():
            raise DataError(f"there is no view {views_B[outside_B][0]}; expected 0 to {n_views - 1}")
        return views_B


def _check_transform(transform: Any, labels: LabelSource) -> None:
    columns = labels.columns
    if not columns and labels.recipe is None:
        return
    if not isinstance(transform, Replay):
        fault = (
            "no transform was given" if transform is None else f"{transform!r} does not redo the augmentation"
        )
        raise DataError(
            f"the labels belong to augmented images ({', '.join(columns) or 'resized'}), but {fault}; "
            "give transform=softpack.replay(size), or ignore_replay=True if the images are augmented already"
        )
    check_replayable(columns)
    if labels.recipe is not None and labels.recipe.size != transform.size:
        raise DataError(
            f"the labels belong to views of {labels.recipe.size} x {labels.recipe.size} pixels, and transform makes "
            f"them {transform.size} x {transform.size}; give transform=softpack.replay({labels.recipe.size})"
        )
    if "mix_item" in columns and not {"mix_lam", "mix_box_xyxy"} & set(columns):
        raise DataError(
            "the labels have mix_item, but no mix_box_xyxy or mix_lam to mix by; encode one of them"
        )
    if "mix_box_xyxy" in columns and "mix_item" not in columns:
        raise DataError("the labels have mix_box_xyxy, but no mix_item to say with which image; encode it too")

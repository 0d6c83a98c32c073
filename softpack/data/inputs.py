"""What a student sees beside the label: the image, transformed or replayed, and the target.

Shapes in names: B rows of a batch, N items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack.data.batch import Sample
from softpack.data.pixels import image_hw
from softpack.data.replay import Augmentation, Replay, augmentations
from softpack.data.source import Views
from softpack.errors import DataError


class PlainInputs:
    """Give every item's image through any callable, the same for all of its views.

    Args:
        images: map-style dataset of images, or of (image, target).
        labels: theirs; they may have targets.
        transform: makes an input of an image; None leaves it as it is.
    """

    def __init__(self, images: Any, labels: Views, transform: Callable[[Any], Any] | None) -> None:
        self.images = images
        self.transform = transform
        self.target_N = item_tensor(labels, "target")

    def of(self, items_B: np.ndarray, views_B: np.ndarray, labels: Views) -> list[Sample]:
        """Return (image,) or (image, target) of each row."""
        images, items = self.images, items_B.tolist()
        samples = [images[item] for item in items]
        if {*map(type, samples)} != {tuple} or {*map(len, samples)} != {
            2
        }:  # else they are ready, at no cost a row
            samples = [self.with_target(sample, item) for sample, item in zip(samples, items, strict=True)]
        transform = self.transform
        return samples if transform is None else [(transform(image), *target) for image, *target in samples]

    def with_target(self, sample: Any, item: int) -> Sample:
        """Return what the image dataset gave as (image,) or (image, target)."""
        given = _split(sample, item)
        if len(given) == 1 and self.target_N is not None:
            return (*given, int(self.target_N[item]))
        return given


class ReplayedInputs(PlainInputs):
    """Give every view's own pixels.

    Args:
        images: map-style dataset of images, or of (image, target).
        labels: theirs, with the augmentations.
        transform: redoes them.
    """

    transform: Replay

    def __init__(self, images: Any, labels: Views, transform: Replay) -> None:
        super().__init__(images, labels, transform)
        self.source_hw_N2 = item_tensor(labels, "source_hw")

    def of(self, items_B: np.ndarray, views_B: np.ndarray, labels: Views) -> list[Sample]:
        """Return (image,) or (image, target) of each row.

        Raises:
            DataError: an image is not the one that was labelled, or its mix partner's view is not there.
        """
        done_B = _augmentations(labels, items_B, views_B)
        partners_B = np.array([done.mix_item for done in done_B], np.int64)
        partner_done = _partners_done(labels, items_B, views_B, partners_B)
        samples = _Samples(self.images, [*items_B.tolist(), *partners_B[partners_B >= 0].tolist()])
        return [
            self._of_row(samples, item, view, done, partner_done.get(row, done))
            for row, (item, view, done) in enumerate(
                zip(items_B.tolist(), views_B.tolist(), done_B, strict=True)
            )
        ]

    def _of_row(
        self, samples: _Samples, item: int, view: int, done: Augmentation, partner_done: Augmentation
    ) -> Sample:
        image, *target = self.with_target(samples.take(item), item)
        partner = None
        if done.mix_item >= 0:
            partner = image_of(samples.take(done.mix_item), done.mix_item)
        try:
            self._check_size(image, item)
            if partner is not None:
                self._check_size(partner, done.mix_item)
            return (self.transform(image, done, partner, partner_done), *target)
        except DataError as error:
            raise DataError(f"item {item}, view {view}: {error}") from error

    def _check_size(self, image: Any, item: int) -> None:
        if self.source_hw_N2 is None:
            return
        found, expected = image_hw(image), tuple(self.source_hw_N2[item].tolist())
        if found != expected:
            raise DataError(
                f"the image of item {item} is {found[1]} x {found[0]} pixels, expected {expected[1]} x "
                f"{expected[0]}; give the images that were labelled, unresized and in the same order"
            )


class _Samples:
    """The samples of a batch, each loaded once and let go after its last use."""

    def __init__(self, images: Any, uses: Iterable[int]) -> None:
        self.images = images
        self.uses_left = Counter(uses)
        self.held: dict[int, Any] = {}

    def take(self, item: int) -> Any:
        sample = self.held.pop(item) if item in self.held else self.images[item]
        self.uses_left[item] -= 1
        if self.uses_left[item]:
            self.held[item] = sample
        return sample


def item_tensor(labels: Views, name: str) -> Tensor | None:
    """Return a column of the items as a tensor [N, ...], which spawned workers share; None if there is none."""
    return torch.from_numpy(np.array(labels.item_column(name))) if name in labels.item_columns else None


def check_dataset(images: Any) -> None:
    """Check that images are a map-style dataset.

    Raises:
        DataError: they are not.
    """
    if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise DataError(f"images is a {type(images).__name__}; expected a map-style dataset, with a length")


def check_count(images: Any, labels: Views) -> None:
    """Check that there are as many images as items.

    Raises:
        DataError: there are not.
    """
    if len(images) != labels.shape[0]:
        raise DataError(
            f"there are {len(images)} images, but labels of {labels.shape[0]} items; "
            "give the images that were labelled, in the same order"
        )


def images_of(samples: Any) -> Callable[[int], Any]:
    """Return what gives the image of an item, of a dataset of images or of (image, target)."""
    return lambda item: image_of(samples[item], item)


def image_of(sample: Any, item: int) -> Any:
    """Return the image of what an image dataset gave.

    Raises:
        DataError: it gave neither an image nor (image, target).
    """
    return _split(sample, item)[0]


def _split(sample: Any, item: int) -> Sample:
    if not isinstance(sample, (tuple, list)):
        return (sample,)
    if len(sample) not in (1, 2):
        raise DataError(
            f"the image dataset gave {len(sample)} values for item {item}; "
            "expected an image, or (image, target)"
        )
    return tuple(sample)


def _augmentations(labels: Views, items_B: np.ndarray, views_B: np.ndarray) -> list[Augmentation]:
    return augmentations(labels.replay(items_B, views_B) if labels.columns else {}, len(items_B))


def _partners_done(
    labels: Views, items_B: np.ndarray, views_B: np.ndarray, partners_B: np.ndarray
) -> dict[int, Augmentation]:
    """Return what was done to the mix partner of each mixed row, by the row's place in the batch."""
    rows = np.flatnonzero(partners_B >= 0)
    if not len(rows):
        return {}
    partners, views = partners_B[rows], views_B[rows]
    is_there = partners < labels.shape[0]
    is_there[is_there] = labels.has(partners[is_there], views[is_there])
    if not is_there.all():
        lost = np.flatnonzero(~is_there)[0]
        raise DataError(
            f"item {items_B[rows[lost]]}, view {views[lost]}: it is mixed with item {partners[lost]}, whose "
            "view of that number is not among the labels; its pixels cannot be made without, so keep that row"
        )
    return dict(zip(rows.tolist(), _augmentations(labels, partners, views), strict=True))

"""What there is to know of the images before they are labelled: sizes, targets, and how some of them look.

Shapes in names: N items.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from softpack.data.inputs import check_dataset, image_of, images_of
from softpack.data.pixels import image_hw
from softpack.data.thumbprint import thumbprints
from softpack.errors import DataError

AT_ONCE = 64
NO_TARGET = -1


@dataclass(frozen=True)
class Survey:
    """Facts of all images.

    Args:
        source_hw_N2: height and width in pixels, int32.
        target_N: classes, int32; None where the images have none.
        thumbprints: of some images by their items; see `softpack.data.thumbprint`.
    """

    source_hw_N2: np.ndarray
    target_N: np.ndarray | None
    thumbprints: dict[int, bytes]

    def __len__(self) -> int:
        return len(self.source_hw_N2)


def survey(
    images: Any,
    seed: int,
    workers: int = 0,
    counted: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Look at every image once.

    Args:
        images: map-style dataset of images, or of (image, target).
        seed: chooses whose thumbprints are kept.
        workers: processes that load images.
        counted: is told (images done, images in all).

    Raises:
        DataError: it is no such dataset, or is empty.
    """
    check_dataset(images)
    n_items = len(images)
    if not n_items:
        raise DataError("there are no images to label")
    found_N3 = np.empty((n_items, 3), np.int64)
    loader = DataLoader(_Facts(images), batch_size=AT_ONCE, num_workers=workers, collate_fn=np.array)
    for number, facts in enumerate(loader):
        done = number * AT_ONCE
        found_N3[done : done + len(facts)] = facts
        counted(done + len(facts), n_items)
    has_targets = (found_N3[:, 2] >= 0).any()
    return Survey(
        found_N3[:, :2].astype(np.int32),
        found_N3[:, 2].astype(np.int32) if has_targets else None,
        thumbprints(images_of(images), n_items, seed),
    )


def _class(target: Any, item: int) -> int:
    """Return a target that is a whole number, and that there is none for anything else.

    Raises:
        DataError: it is too large.
    """
    try:
        found = operator.index(target.item() if hasattr(target, "item") else target)
    except (TypeError, ValueError, RuntimeError):
        return NO_TARGET
    if not -(1 << 31) < found < 1 << 31:
        raise DataError(f"the target of item {item} is {found}; expected a class of 32 bits")
    return found


class _Facts(Dataset[tuple[int, int, int]]):
    """Height, width and target of each image; -1 where it has no target."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> tuple[int, int, int]:
        if hasattr(self.images, "facts"):  # without decoding
            hw, target = self.images.facts(item)
            return *hw, _class(target, item)
        sample = self.images[item]
        has_target = isinstance(sample, (tuple, list)) and len(sample) == 2
        return *image_hw(image_of(sample, item)), _class(sample[1], item) if has_target else NO_TARGET

"""How a few of the labelled images look, kept in the file so that other images are refused.

A thumbprint is the image's brightness in 4 x 4 fields. Decoders of JPEG differ by a level or two, other images by many.

Shapes in names: C channels, H high, W wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from softpack import chance
from softpack.data.pixels import image_hw, resized
from softpack.errors import DataError

SIDE = 4
N_IMAGES = 8
CLOSE = 6  # levels of 255 that fields of the same image may differ by
ON_AVERAGE = 3


def thumbprint(image: Any) -> bytes:
    """Return the brightness of an image in 4 x 4 fields, row by row, 0 to 255 each.

    Raises:
        DataError: it is of no kind that can be replayed.
    """
    height, width = image_hw(image)
    fields_CHW = resized(image, (0, 0, width, height), SIDE)
    levels_HW = fields_CHW.float().mean(0) * (255 if fields_CHW.is_floating_point() else 1)
    return bytes(levels_HW.round().clamp(0, 255).byte().flatten().tolist())


def chosen_items(n_items: int, seed: int) -> list[int]:
    """Return the items whose thumbprints are kept."""
    order = np.argsort(chance.hashed(seed, -3, np.arange(n_items)), kind="stable")
    return sorted(order[:N_IMAGES].tolist())


def thumbprints(image_of: Callable[[int], Any], n_items: int, seed: int) -> dict[int, bytes]:
    """Return thumbprints of some images by their items."""
    return {item: thumbprint(image_of(item)) for item in chosen_items(n_items, seed)}


def check_images(image_of: Callable[[int], Any], known: Mapping[int, bytes]) -> None:
    """Check that images are those that were labelled, as far as thumbprints tell.

    Raises:
        DataError: one looks otherwise.
    """
    for item, expected in known.items():
        found = np.frombuffer(thumbprint(image_of(item)), np.uint8).astype(int)
        apart = np.abs(found - np.frombuffer(expected, np.uint8).astype(int))
        if apart.max() > CLOSE or apart.mean() > ON_AVERAGE:
            raise DataError(
                f"the image of item {item} is not the one that was labelled: its brightness in 4 x 4 fields is "
                f"{found.mean():.0f} of 255 on average, and differs by up to {apart.max()} from that of the labelled "
                "one; give the images that were labelled, in the same order"
            )

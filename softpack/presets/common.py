"""What presets share: settings, the size of JPEG images, and of text that lists images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softpack.accounting import Entry
from softpack.presets.budget import IMAGES
from softpack.presets.settings import Setting

CLASSES = Setting("classes", "classes", 1000, least=2)
IPC = Setting("ipc", "images a class", 10)
ITEMS = Setting("items", "images [default: classes times ipc]")
EPOCHS = Setting("epochs", "epochs of the student, each with its own view of every image", 300)
SIZE = Setting("size", "side of a square image in pixels", 224)
PICTURE = Setting("picture", "bytes of an image [default: of size, at LPLD's measured JPEG rate]")
FP16_OR_32 = {"fp16": 2, "fp32": 4}
DTYPE = Setting("dtype", "of a number", "fp16", choices=tuple(FP16_OR_32))
DISTILLED = (CLASSES, IPC, ITEMS, EPOCHS, SIZE, PICTURE)

# Measured: LPLD's 200,000 images of ImageNet-1K take 2.98 GiB, its 10,000 of Tiny-ImageNet 21 MB and 20,000 40 MB.
JPEG = {224: 16_000, 64: 2_060}
IMAGENET_1K = 1_281_167
IMAGENET_22K = 14_197_122


def jpeg_bytes(values: Mapping[str, Any]) -> int:
    """Return the bytes of one JPEG image, given or by the measured rate of the next smaller size."""
    if values["picture"] is not None:
        return int(values["picture"])
    size = values["size"]
    measured = max((one for one in JPEG if one <= size), default=min(JPEG))
    return int(-(-JPEG[measured] * size**2 // measured**2))


def images(values: Mapping[str, Any], items: int | None = None) -> Entry:
    """Return the entry of JPEG images."""
    each = jpeg_bytes(values)
    rate = " as LPLD's" if values["picture"] is None else ""
    return Entry(
        f"images, JPEG of {each:,} bytes{rate}",
        8 * each * (values["items"] if items is None else items),
        IMAGES,
    )


def digits(n: int) -> int:
    """Return how many digits the numbers from 0 to n - 1 have together."""
    total, width, low = 0, 1, 0
    while low < n:
        high = min(n, 10**width)
        total, width, low = total + width * (high - low), width + 1, high
    return total

"""The valid vectors of version 1.4: a rectangle that is cut out and seeds of other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from vectors_valid import CLASSES, grid, logits

import softpack

CUTOUT = np.array([(0.5, 0.25, 0.5, 0.5, 0, 128, 255), [-1] * 7, (0, 1, 0.25, 1, 255, 0, 1)] * 2, np.float32)
SEEDS = np.array([0, 1, -1, (1 << 31) - 1, 1 - (1 << 31), 42])


def columns(path: Path) -> None:
    """Write rows of which two have a rectangle cut out, each drawn from a seed."""
    item, view = grid(2, 3)
    with softpack.create(path, "raw", classes=CLASSES, items=2, views=3) as w:
        w.append(logits(6), item=item, view=view, cutout=CUTOUT, aug_seed=SEEDS)


VALID: dict[str, tuple[str, Callable[[Path], None]]] = {
    "cutout": ("rectangles of a colour over views, and seeds of another program", columns),
}

"""What all folders need that labels are written to as others lay them out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from softpack.container.reader import Labels
from softpack.container.resident import ResidentLabels
from softpack.errors import DataError
from softpack.sources.replacing import replacing_folder

RESIDENT_BYTES = 1 << 30
Held = Labels | ResidentLabels


def held(path: Path) -> Held:
    """Open a file for reading view by view: a view lies in all tiles, and in memory each of them is read once."""
    on_disk = Labels(path)
    return on_disk.load() if path.stat().st_size <= RESIDENT_BYTES else on_disk


def name_of(labels: Held) -> str:
    """Return the name of the file, for messages."""
    return (labels.labels if isinstance(labels, ResidentLabels) else labels).file.name


@contextmanager
def label_folder(path: Path, out: Path, force: bool, files: str) -> Iterator[Path]:
    """Give a new folder that becomes `out`, as `replacing_folder` does.

    Args:
        path: of the file that is written out.
        out: of the folder.
        force: replace it if it is there.
        files: a regular expression of the names that the layout has in a folder.

    Raises:
        DataError: `out` cannot be written, holds something else, or `path` lies in it.
    """
    with replacing_folder(out, force, files) as folder:
        if out.resolve() in path.resolve().parents:
            raise DataError(f"{out}: holds {path}, which would be lost; take another folder")
        yield folder


def items_of_view(labels: Held, view: int) -> np.ndarray:
    """Return the items that have a view, ascending."""
    items_N = np.arange(labels.shape[0])
    found_R: np.ndarray = items_N[labels.has(items_N, np.full_like(items_N, view))]
    return found_R


def crop_fractions(labels: Held, columns: dict[str, np.ndarray], items_B: np.ndarray) -> np.ndarray:
    """Return top, left, height and width as shares of the image, float64 [B, 4]; all of it where nothing is cropped."""
    if "crop_xywh_fraction" in columns:
        crop_B4 = columns["crop_xywh_fraction"].astype(np.float64)
    elif "crop_xywh" not in columns:
        crop_B4 = np.tile([0.0, 0.0, 1.0, 1.0], (len(items_B), 1))
    else:
        size_hw_B2 = labels.item_column("source_hw")[items_B].astype(np.float64)
        crop_B4 = columns["crop_xywh"] / np.tile(size_hw_B2[:, ::-1], 2)
    return np.ascontiguousarray(crop_B4[:, [1, 0, 3, 2]])

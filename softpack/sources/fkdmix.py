"""The list that SRe2L pickles for each batch, and those who came after it: crops, flips, the batch's mix, logits.

    [coords, flip, mix_index, mix_lam, mix_bbox, logits]              SRe2L, CDA, CV-DD, LPLD
    [coords, flip, mix_index, mix_lam, mix_bbox, logits, items]       G-VBSM

Crops are (top, left, height, width) as fractions of the image. A batch is mixed as a whole or not at all: `mix_index`
is a permutation of its rows, and the box (row, column, row, column) or the share are one for all of them.

Shapes in names: B rows of a batch, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sources.row_files import Rows

LENGTHS = (6, 7)
MAX_PIXELS = 1 << 20  # of a picture's side


def rows_of(found: Any, item_B: np.ndarray | None) -> Rows:
    """Return the rows of one batch.

    Args:
        found: what the file holds.
        item_B: int64, the items of its rows; None where the file says them.

    Raises:
        DataError: it is no such list, or its parts do not fit each other.
    """
    if not isinstance(found, list) or len(found) not in LENGTHS:
        what = f"a list of {len(found)}" if isinstance(found, list) else f"a {type(found).__name__}"
        raise DataError(
            f"holds {what}; expected coords, flip, mix_index, mix_lam, mix_bbox and logits, perhaps items"
        )
    coords_B4, flip_B, mix_index, mix_lam, mix_bbox, labels_BC, *more = found
    labels_BC = _array(labels_BC, "logits", 2)
    if labels_BC.dtype.kind != "f" or not len(labels_BC):
        raise DataError(
            f"logits are {list(labels_BC.shape)} of type {labels_BC.dtype}; expected rows of floats"
        )
    n = len(labels_BC)
    if more:
        said_B = _rows_array(more[0], "items", n, (), "iu").astype(np.int64)
        if len(np.unique(said_B)) < n:
            raise DataError("names an item twice in one batch; expected each image once")
        if item_B is not None and not np.array_equal(said_B, item_B):
            raise DataError(
                "says of which images its rows are, and the first batch does not; they are of two sets"
            )
        item_B = said_B
    crop_B4 = _rows_array(coords_B4, "coords", n, (4,), "f")
    columns = {
        "crop_xywh": crop_B4[:, [1, 0, 3, 2]],  # (top, left, height, width)
        "flip": _flip(flip_B, n),
    }
    if mix_index is not None:
        columns |= _mix(mix_index, mix_lam, mix_bbox, item_B, n)
    return Rows(labels_BC, columns, item_B if more else None)


def _mix(mix_index: Any, lam: Any, box: Any, item_B: np.ndarray | None, n: int) -> dict[str, np.ndarray]:
    """Return the columns of a batch that is mixed; the share of one with a box is not that of the box, and is left."""
    index_B = _rows_array(mix_index, "mix_index", n, (), "iu").astype(np.int64)
    if not np.array_equal(np.sort(index_B), np.arange(n)):
        raise DataError(f"mix_index is no permutation of the {n} rows of the batch; it may be of another batch")
    if item_B is None:
        raise DataError("is mixed, but does not say which items its rows are")
    mix_item_B = item_B[index_B]
    if box is None:
        if type(lam) is not float or not 0 <= lam <= 1:
            raise DataError(f"mix_lam is {lam!r}; expected a share from 0 to 1, where there is no mix_bbox")
        return {"mix_item": mix_item_B, "mix_lam": np.full(n, lam, np.float32)}
    y1, x1, y2, x2 = _box(box)
    return {
        "mix_item": mix_item_B,
        "mix_box_xyxy": np.tile(np.array([[x1, y1, x2, y2]], np.int32), (n, 1)),
    }


def _box(box: Any) -> list[int]:
    """Return first row, first column, last row and last column; the first pair counts rows of pixels."""
    found = np.array(box) if isinstance(box, (list, np.ndarray)) else np.empty(0)
    if (
        found.shape != (4,)
        or found.dtype.kind not in "iu"
        or not (found >= 0).all()
        or found.max() > MAX_PIXELS
    ):
        raise DataError(f"mix_bbox is {str(box)[:80]}; expected row, column, row and column of pixels")
    y1, x1, y2, x2 = (int(number) for number in found)
    if y1 > y2 or x1 > x2:
        raise DataError(f"mix_bbox is {str(box)[:80]}; expected the last row and column not below the first")
    return [y1, x1, y2, x2]


def _flip(flip: Any, n: int) -> np.ndarray:
    if isinstance(flip, np.ndarray) and flip.shape == (n, 7):
        raise DataError(
            "has 7 numbers of a cutout where flips are expected, as LPLD's sets of ImageNet-21K have; softpack "
            "cannot replay a cutout"
        )
    return _rows_array(flip, "flip", n, ())


def _rows_array(values: Any, name: str, n: int, shape: tuple[int, ...], kinds: str = "biuf") -> np.ndarray:
    array = _array(values, name, 1 + len(shape))
    if array.dtype.kind not in kinds:
        raise DataError(
            f"{name} has numbers of type {array.dtype}; expected {'whole numbers' if 'i' in kinds else 'floats'}"
        )
    if array.shape != (n, *shape):
        raise DataError(f"{name} has shape {list(array.shape)}; expected {[n, *shape]}, for {n} rows of logits")
    return array


def _array(values: Any, name: str, ndim: int) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.ndim != ndim:
        what = f"of {values.ndim} axes" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
        raise DataError(f"{name} is {what}; expected an array of {ndim}")
    return values

"""The list that SRe2L pickles for each batch, and those who came after it: crops, flips, the batch's mix, logits.

    [coords, flip, mix_index, mix_lam, mix_bbox, logits]                    SRe2L, CDA, CV-DD, LPLD
    [coords, flip, mix_index, mix_lam, mix_bbox, logits, items]             G-VBSM
    [coords, flip, mix_index, mix_lam, mix_bbox, logits, items, strips]     EDC
    [coords, flip, mix_index, mix_lam, mix_bbox, values, ids]               LPQLD: the k largest logits
    [coords, flip, mix_index, mix_lam, mix_bbox, probs]                     HALD, each of a file's batches

Crops are (top, left, height, width) as fractions of the image. A batch is mixed as a whole or not at all: `mix_index`
is a permutation of its rows, and the box (row, column, row, column) or the share are one for all of them. Sets of
ImageNet-21K have a cutout (row, column, height, width, red, green, blue) in the place of the flip. EDC's strips are
those that stand in each place, from the left, then from the top; all 0 where they were not shuffled.

Shapes in names: B rows of a batch, C classes, k classes that are kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sources.peers.kept import class_numbers, spread
from softpack.sources.peers.row_files import Rows

LENGTHS = (6, 7, 8)
MAX_BATCH = 1 << 20  # rows of a batch
MAX_PIXELS = 1 << 20  # of a picture's side


def rows_of(found: Any, item_B: np.ndarray | None, classes: int | None = None, replay: bool = True) -> Rows:
    """Return the rows of one batch.

    Args:
        found: what the file holds.
        item_B: int64, the items of its rows; None where the file says them.
        classes: C, where files hold the k largest logits alone.
        replay: whether the columns are wanted.

    Raises:
        DataError: it is no such list, or its parts do not fit each other.
    """
    if not isinstance(found, list) or len(found) not in LENGTHS:
        what = f"a list of {len(found)}" if isinstance(found, list) else f"a {type(found).__name__}"
        raise DataError(
            f"holds {what}; expected coords, flip, mix_index, mix_lam, mix_bbox and logits, perhaps items"
        )
    if isinstance(found[2], list):
        if replay:
            raise DataError(
                "has draws of RandAugment as its third part, which softpack cannot replay; --no-replay takes the "
                "labels alone"
            )
        found = [*found[:2], *found[3:]]
    coords_B4, flip_B, mix_index, mix_lam, mix_bbox, labels_BC, *more = found
    labels_BC = _array(labels_BC, "logits", 2)
    if labels_BC.dtype.kind != "f" or not len(labels_BC):
        raise DataError(
            f"logits are {list(labels_BC.shape)} of type {labels_BC.dtype}; expected rows of floats"
        )
    n, said_B = len(labels_BC), None
    if item_B is not None and len(item_B) < n:
        raise DataError(
            f"holds {n} rows, and {len(item_B)} are left of those that are listed; expected no more"
        )
    if more and getattr(more[0], "ndim", 1) == 2:
        labels_BC = _all_logits(labels_BC, more.pop(0), classes)
    if more:
        said_B = _rows_array(more[0], "items", n, (), "iu").astype(np.int64)
        if len(np.unique(said_B)) < n:
            raise DataError("names an item twice in one batch; expected each image once")
        if item_B is not None and not np.array_equal(said_B, item_B):
            raise DataError(
                "says of which images its rows are, and the first batch does not; they are of two sets"
            )
        item_B = said_B
    if not replay:
        return Rows(labels_BC, {}, said_B)
    crop_B4 = _rows_array(coords_B4, "coords", n, (4,), "f")
    columns = {"crop_xywh": crop_B4[:, [1, 0, 3, 2]]} | _flip(flip_B, n)  # (top, left, height, width)
    if mix_index is not None:
        columns |= _mix(mix_index, mix_lam, mix_bbox, item_B, n)
    if len(more) > 1:
        columns |= _strips(more[1], n)
    return Rows(labels_BC, columns, said_B)


def _all_logits(values_Bk: np.ndarray, ids: Any, classes: int | None) -> np.ndarray:
    """Return all logits [B, C] of the k largest: -inf, which is no probability, where there are none.

    LPQLD's softmax is over those that it keeps.

    Raises:
        DataError: ids do not fit the values or the classes, or nobody says how many classes there are.
    """
    n, k = values_Bk.shape
    if classes is None:
        raise DataError(f"holds {k} logits of each row, and does not say of how many classes (--classes C)")
    stored_Bk = _rows_array(ids, "ids", n, (k,), "iu")
    return spread(values_Bk, class_numbers(stored_Bk, classes), np.full((n, 1), -np.inf), classes)


def of_sides(rows: Rows, source_hw: np.ndarray) -> Rows:
    """Return rows of EDC with crops as fractions of the sides that they run along.

    It divides rows of pixels by the width and columns by the height, which shows where images are not square.
    """
    if rows.item_B is None:
        return rows
    size_hw_B2 = source_hw[np.clip(rows.item_B, 0, len(source_hw) - 1)].astype(np.float64)
    crop_B4 = rows.columns["crop_xywh"] * side_ratios(size_hw_B2)
    return replace(rows, columns=rows.columns | {"crop_xywh": crop_B4})


def side_ratios(size_hw_B2: np.ndarray) -> np.ndarray:
    """Return height over width and width over height, twice, [B, 4].

    So much larger are x, y, width and height than EDC has them, and its top, left, height and width than the crop's.
    """
    h_B1, w_B1 = size_hw_B2.T[:, :, None]
    return np.tile(np.concatenate([h_B1 / w_B1, w_B1 / h_B1], 1), 2)


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


def _flip(flip: Any, n: int) -> dict[str, np.ndarray]:
    if isinstance(flip, np.ndarray) and flip.ndim == 2:
        cutout_B7 = _rows_array(flip, "cutout, in the place of the flip,", n, (7,), "f")
        return {"cutout": cutout_B7[:, [1, 0, 3, 2, 4, 5, 6]]}  # (row, column, height, width, colour)
    return {"flip": _rows_array(flip, "flip", n, ())}


def _strips(strips: Any, n: int) -> dict[str, np.ndarray]:
    """Return strips as `patch_order`, rows of pixels first; none where none were shuffled."""
    places_B2f = _array(strips, "strips", 3)
    factor = places_B2f.shape[2]
    if (
        len(places_B2f) != n
        or places_B2f.dtype.kind not in "iu"
        or places_B2f.shape[1] != 2
        or not 0 < factor < 8
    ):
        raise DataError(
            f"strips are {list(places_B2f.shape)} of type {places_B2f.dtype}; expected whole numbers [{n}, 2, 1 to 7]"
        )
    if not places_B2f.any() and factor > 1:
        return {}
    if (np.sort(places_B2f, 2) != np.arange(factor)).any():
        raise DataError(f"strips are no order of {factor}; expected each once")
    digits_f = 16 ** np.arange(factor - 1, -1, -1, dtype=np.int64)
    return {"patch_order": (16**factor + (places_B2f[:, ::-1] * digits_f).sum(2)).astype(np.int32)}


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

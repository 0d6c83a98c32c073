"""Stored columns -> replay columns of `softpack.records.COLUMNS`, checked as they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from softpack.checks import Place
from softpack.errors import DataError
from softpack.recipe import is_order

MAX_PIXEL_ERROR = 0.25  # of a fraction times the image's size, against the nearest pixel
FRACTION_TOLERANCE = 1e-6
INT32_MAX = 2**31 - 1
LEAST = {"source_hw": 1, "length": 0, "first_token": -1, "token_hash": -INT32_MAX - 1}  # of columns of items


@dataclass(frozen=True)
class Around:
    """What a column's numbers are checked against.

    Args:
        place: where the rows are.
        items: items of the source.
        source_hw: int32 [items, 2] if the images' sizes are known.
    """

    place: Place
    items: int
    source_hw: np.ndarray | None

    def image_sizes(self, source_hw: np.ndarray) -> np.ndarray:
        """Return width, height, width, height of each row's image, int64 [B, 4]."""
        wh_B2 = source_hw[self.place.item_B, ::-1].astype(np.int64)
        return np.concatenate([wh_B2, wh_B2], axis=1)


def read_column(name: str, values_B: np.ndarray, around: Around) -> tuple[str, np.ndarray]:
    """Check a stored column, and return it as a replay column with that column's name.

    Args:
        name: of the stored array.
        values_B: [B, ...] as stored.
        around: what to check them against.

    Raises:
        DataError: naming the first row with a bad entry.
    """
    if name == "crop_xywh" and values_B.dtype.kind == "f":
        if around.source_hw is None:
            return "crop_xywh_fraction", _crop_fraction(values_B, around)
        values_B = _pixels(values_B, around.image_sizes(around.source_hw), around)
    return name, CHECKS[name](values_B, around)


def _int32(name: str, values_B: np.ndarray, around: Around) -> np.ndarray:
    axes = tuple(range(1, values_B.ndim))
    in_range = np.less_equal(values_B, INT32_MAX) & np.greater_equal(values_B, -INT32_MAX)
    good_B = np.asarray(in_range.all(axis=axes))
    around.place.check(name, good_B, values_B, "integers of 32 bits")
    return values_B.astype(np.int32)


def _pixels(fraction_B4: np.ndarray, size_B4: np.ndarray, around: Around) -> np.ndarray:
    _check_finite(fraction_B4, around)
    exact_B4 = fraction_B4.astype(np.float64) * size_B4
    pixels_B4 = np.rint(exact_B4)
    good_B = (np.abs(exact_B4 - pixels_B4) < MAX_PIXEL_ERROR).all(1)
    expected = (
        f"fractions that are whole pixels of source_hw, within {MAX_PIXEL_ERROR}; "
        "store pixels as integers, or fractions as float32, or leave source_hw out to keep fractions"
    )
    around.place.check("crop_xywh times the image's size", good_B, exact_B4, expected)
    clipped_B4: np.ndarray = np.clip(pixels_B4, -INT32_MAX, INT32_MAX)
    return clipped_B4.astype(np.int64)


def _check_finite(fraction_B4: np.ndarray, around: Around) -> None:
    finite_B = np.isfinite(fraction_B4).all(1)
    around.place.check("crop_xywh", finite_B, fraction_B4, "finite fractions of width and height")


def _crop(values_B4: np.ndarray, around: Around) -> np.ndarray:
    crop_B4 = _int32("crop_xywh", values_B4, around).astype(np.int64)
    good_B = (crop_B4[:, :2] >= 0).all(1) & (crop_B4[:, 2:] >= 1).all(1)
    around.place.check("crop_xywh", good_B, crop_B4, "x and y from 0 on, width and height from 1 pixel on")
    if around.source_hw is not None:
        size_B2 = around.image_sizes(around.source_hw)[:, :2]
        good_B = (crop_B4[:, :2] + crop_B4[:, 2:] <= size_B2).all(1)
        shown_B6 = np.concatenate([crop_B4, size_B2], axis=1)
        array = "crop_xywh with the image's width and height"
        around.place.check(array, good_B, shown_B6, "a crop inside of its image")
    return crop_B4.astype(np.int32)


def _crop_fraction(crop_B4: np.ndarray, around: Around) -> np.ndarray:
    _check_finite(crop_B4, around)
    slack = FRACTION_TOLERANCE + float(np.finfo(crop_B4.dtype).eps)
    start_B2, size_B2 = crop_B4[:, :2].astype(np.float64), crop_B4[:, 2:].astype(np.float64)
    good_B = ((start_B2 >= -slack) & (size_B2 > 0) & (start_B2 + size_B2 <= 1 + slack)).all(1)
    expected = "fractions of width and height that stay within 0 and 1; pixels are stored as integers"
    around.place.check("crop_xywh", good_B, crop_B4, expected)
    return crop_B4.astype(np.float32)


def _flip(values_B: np.ndarray, around: Around) -> np.ndarray:
    around.place.check("flip", (values_B == 0) | (values_B == 1), values_B, "0 or 1")
    return values_B.astype(np.bool_)


def _mix_item(values_B: np.ndarray, around: Around) -> np.ndarray:
    good_B = (values_B >= -1) & (values_B < around.items)
    expected = f"an item from 0 to {around.items - 1}, or -1 if it is not mixed"
    around.place.check("mix_item", good_B, values_B, expected)
    return values_B.astype(np.int32)


def _mix_lam(values_B: np.ndarray, around: Around) -> np.ndarray:
    good_B = (values_B >= 0) & (values_B <= 1)
    around.place.check("mix_lam", good_B, values_B, "0 to 1; give 1 to rows that are not mixed")
    return values_B.astype(np.float32)


def _mix_box(values_B4: np.ndarray, around: Around) -> np.ndarray:
    box_B4 = _int32("mix_box_xyxy", values_B4, around)
    none_B = (box_B4 == -1).all(1)
    good_B = (box_B4[:, :2] >= 0).all(1) & (box_B4[:, 2:] >= box_B4[:, :2]).all(1)
    expected = "x1, y1 from 0 on and x2, y2 not below them, or -1 four times for none"
    around.place.check("mix_box_xyxy", none_B | good_B, box_B4, expected)
    return box_B4


def _patch_order(values_B2: np.ndarray, around: Around) -> np.ndarray:
    codes_B2 = _int32("patch_order", values_B2, around)
    orders = [code for code in np.unique(codes_B2).tolist() if is_order(code)]
    good_B = np.isin(codes_B2, orders).all(1)
    expected = (
        "for rows and columns of pixels 0, or a 1 and then each strip once as hexadecimal digits, such as 0x120"
    )
    around.place.check("patch_order", good_B, codes_B2, expected)
    return codes_B2


def _cutout(values_B7: np.ndarray, around: Around) -> np.ndarray:
    none_B = (values_B7 == -1).all(1)
    place_B4, colour_B3 = values_B7[:, :4].astype(np.float64), values_B7[:, 4:]
    good_B = ((place_B4 >= 0) & (place_B4 <= 1)).all(1) & ((colour_B3 >= 0) & (colour_B3 <= 255)).all(1)
    expected = "x, y, width and height from 0 to 1, and a colour from 0 to 255; or -1 seven times for none"
    around.place.check("cutout", none_B | good_B, values_B7, expected)
    return values_B7.astype(np.float32)


def _aug_seed(values_B: np.ndarray, around: Around) -> np.ndarray:
    return _int32("aug_seed", values_B, around)


def _token(values_B: np.ndarray, around: Around) -> np.ndarray:
    around.place.check("token", values_B >= 0, values_B, "the id of a token, from 0 on")
    return _int32("token", values_B, around)


def _log_z(values_B: np.ndarray, around: Around) -> np.ndarray:
    around.place.check("log_z", np.isfinite(values_B), values_B, "a finite number")
    return values_B.astype(np.float32)


CHECKS: dict[str, Callable[[np.ndarray, Around], np.ndarray]] = {
    "crop_xywh": _crop,
    "flip": _flip,
    "mix_item": _mix_item,
    "mix_lam": _mix_lam,
    "mix_box_xyxy": _mix_box,
    "patch_order": _patch_order,
    "cutout": _cutout,
    "aug_seed": _aug_seed,
    "token": _token,
    "log_z": _log_z,
}


def check_item_column(name: str, values_N: np.ndarray) -> np.ndarray:
    """Return a column that each item has as int32, checked."""
    lowest = LEAST.get(name, -INT32_MAX)
    bad = np.flatnonzero(((values_N < lowest) | (values_N > INT32_MAX)).reshape(len(values_N), -1).any(1))
    if len(bad):
        raise DataError(
            f"{name} of item {bad[0]} is {values_N[bad[0]].tolist()}; expected {lowest} to {INT32_MAX}"
        )
    return values_N.astype(np.int32)

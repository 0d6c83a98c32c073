"""How views are made of images, so that any of them can be drawn again from a seed: alone, and in any order. No torch.

What is drawn are replay columns (`softpack.records.COLUMNS`); `softpack.data.replay` makes pixels by them.

Shapes in names: B views, A attempts, N items, F strips.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from softpack import chance
from softpack.errors import DataError

VERSION = 1  # of how columns are drawn, for ever
MIXES = ("none", "cutmix", "mixup")
ATTEMPTS = 10  # at a crop inside the image
MAX_SIZE, MAX_PATCHES = 1 << 15, 7
MOST_RATIO = float(1 << 16)
LEAST_ALPHA, MOST_ALPHA = 0.05, 2.0
# What a number is drawn for.
AREA, RATIO, LEFT, TOP, FLIP, IS_MIXED, PARTNER, LAMBDA, BOX_X, BOX_Y, ROWS, COLUMNS = range(12)


@dataclass(frozen=True)
class Recipe:
    """The augmentations of a label set, drawn by hashes of (seed, item, view).

    Crops are those of torchvision's RandomResizedCrop, boxes of CutMix and shuffled strips those of SRe2L and RDED
    (arXiv:2306.13092, arXiv:2312.03526), with two differences: each view is drawn by itself, where they draw for a
    batch; and mix partners of a view make one ring of all items, so that each is partner once, whatever the batches.

    Args:
        size: height and width of a view in pixels.
        scale: least and most of the image's area that a crop has; None takes the whole image.
        ratio: least and most width of a crop over its height.
        flip: share of the views that are flipped left to right.
        mix: "cutmix", "mixup" or "none".
        alpha: of Beta(alpha, alpha), of which the image's own share is drawn; 0.05 to 2.
        mixed: share of the views that are mixed.
        patches: strips that images are cut into, both ways, and that are shuffled before the crop; 1: none.
        seed: of all of it.
        items: in the label set, which partners are drawn from; whoever labels says it.

    Raises:
        DataError: a setting is out of range.
    """

    size: int = 224
    scale: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    mix: str = "none"
    alpha: float = 1.0
    mixed: float = 1.0
    patches: int = 1
    seed: int = 0
    items: int = 0

    def __post_init__(self) -> None:
        try:
            self._check_all()
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"recipe: a setting is of the wrong kind: {error}") from None

    def _check_all(self) -> None:
        for name in ("scale", "ratio"):  # lists of a command line or of JSON
            if isinstance(pair := getattr(self, name), Iterable):
                object.__setattr__(self, name, tuple(float(number) for number in pair))
        self._check("size", _is_whole(self.size, 1, MAX_SIZE), f"1 to {MAX_SIZE} pixels")
        is_scale = self.scale is None or (_is_range(self.scale) and self.scale[1] <= 1)
        self._check("scale", is_scale, "two shares of the area above 0 and up to 1, or None")
        is_ratio = _is_range(self.ratio) and self.ratio[0] >= 1 / MOST_RATIO and self.ratio[1] <= MOST_RATIO
        self._check("ratio", is_ratio, "two numbers from 1/65536 to 65536, the second no less than the first")
        for name in ("flip", "mixed"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        self._check("mix", self.mix in MIXES, " or ".join(MIXES))
        self._check("alpha", LEAST_ALPHA <= self.alpha <= MOST_ALPHA, f"{LEAST_ALPHA:g} to {MOST_ALPHA:g}")
        self._check("patches", _is_whole(self.patches, 1, MAX_PATCHES), f"1 to {MAX_PATCHES}")
        self._check("seed", _is_whole(self.seed, -(1 << 63), (1 << 63) - 1), "a whole number of 64 bits")
        self._check("items", _is_whole(self.items, 0, (1 << 31) - 1), "a number of items")

    def _check(self, name: str, is_good: bool, expected: str) -> None:
        if not is_good:
            raise DataError(f"recipe: {name} is {getattr(self, name)!r}; expected {expected}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the replay columns that it draws."""
        mixes = self.mix != "none" and self.mixed > 0
        drawn = {
            "crop_xywh": self.scale is not None,
            "flip": self.flip > 0,
            "mix_item": mixes,
            "mix_lam": mixes and self.mix == "mixup",
            "mix_box_xyxy": mixes and self.mix == "cutmix",
            "patch_order": self.patches > 1,
        }
        return tuple(name for name, is_drawn in drawn.items() if is_drawn)

    def draw(self, item_B: np.ndarray, view_B: np.ndarray, source_hw_B2: np.ndarray) -> dict[str, np.ndarray]:
        """Return the replay columns of views, each [B, ...] in the dtype of `COLUMNS`.

        Args:
            item_B: int64.
            view_B: int64.
            source_hw_B2: height and width of the images in pixels.
        """
        keys_B = self._keys(item_B, view_B)
        drawn: dict[str, np.ndarray] = {}
        if self.scale is not None:
            drawn["crop_xywh"] = self._crops(keys_B, source_hw_B2.astype(np.float64))
        if self.flip > 0:
            drawn["flip"] = chance.uniform(keys_B, FLIP) < self.flip
        if "mix_item" in self.columns:
            drawn |= self._mix(keys_B, item_B, view_B)
        if self.patches > 1:
            orders = [self._strips(keys_B, axis) for axis in (ROWS, COLUMNS)]
            drawn["patch_order"] = np.stack(orders, 1).astype(np.int32)
        return drawn

    def crops(self, item_B: np.ndarray, view_B: np.ndarray, source_hw_B2: np.ndarray) -> np.ndarray:
        """Return x, y, width and height of the crops of views, int32 [B, 4]; see `draw`."""
        return self._crops(self._keys(item_B, view_B), source_hw_B2.astype(np.float64))

    def partners(self, item_B: np.ndarray, view_B: np.ndarray) -> np.ndarray:
        """Return the next item of each view's ring, int64 [B], whether or not the view is mixed.

        Raises:
            DataError: an item is none of those that partners are drawn among.
        """
        if item_B.max(initial=-1) >= self.items:
            raise DataError(f"recipe: found item {item_B.max()}; partners are drawn among {self.items} items")
        numbers, n = (self.seed, PARTNER, view_B), max(self.items, 1)
        place_B = chance.shuffled_place(n, numbers, item_B)
        return chance.place_before(n, numbers, (place_B + 1) % n)

    def _keys(self, item_B: np.ndarray, view_B: np.ndarray) -> np.ndarray:
        return chance.hashed(self.seed, item_B, view_B).view(np.int64)

    def _crops(self, keys_B: np.ndarray, source_hw_B2: np.ndarray) -> np.ndarray:
        """Return x, y, width and height [B, 4]: of the first attempt that lies inside the image, or the middle."""
        high_B, wide_B = np.maximum(source_hw_B2, 1).T
        w_B = np.clip(np.rint(np.minimum(wide_B, high_B * self.ratio[1])), 1, wide_B)
        h_B = np.clip(np.rint(np.minimum(high_B, wide_B / self.ratio[0])), 1, high_B)
        x_B, y_B = np.floor((wide_B - w_B) / 2), np.floor((high_B - h_B) / 2)
        left = np.arange(len(keys_B))
        for attempt in range(ATTEMPTS):
            w, h = self._sides(keys_B[left], attempt, high_B[left] * wide_B[left])
            fits = (w >= 1) & (h >= 1) & (w <= wide_B[left]) & (h <= high_B[left])
            found, left = left[fits], left[~fits]
            w_B[found], h_B[found] = w[fits], h[fits]
            x_B[found] = np.floor(chance.uniform(keys_B[found], LEFT) * (wide_B[found] - w[fits] + 1))
            y_B[found] = np.floor(chance.uniform(keys_B[found], TOP) * (high_B[found] - h[fits] + 1))
            if not len(left):
                break
        return np.stack([x_B, y_B, w_B, h_B], 1).astype(np.int32)

    def _sides(self, keys_B: np.ndarray, attempt: int, area_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return width and height of a crop, which may be larger than the image."""
        least, most = self.scale or (1.0, 1.0)
        area_B = area_B * (least + (most - least) * chance.uniform(keys_B, AREA, attempt))
        exponent_B = (chance.uniform(keys_B, RATIO, attempt) * (1 << chance.POWER_BITS)).astype(np.int64)
        ratio_B = self.ratio[0] * chance.powers(self.ratio[1] / self.ratio[0])[exponent_B]
        return np.rint(np.sqrt(area_B * ratio_B)), np.rint(np.sqrt(area_B / ratio_B))

    def _mix(self, keys_B: np.ndarray, item_B: np.ndarray, view_B: np.ndarray) -> dict[str, np.ndarray]:
        partner_B = self.partners(item_B, view_B)
        is_mixed_B = (chance.uniform(keys_B, IS_MIXED) < self.mixed) & (partner_B != item_B)
        lam_B = chance.beta(self.alpha, keys_B, LAMBDA)
        drawn = {"mix_item": np.where(is_mixed_B, partner_B, -1).astype(np.int32)}
        if self.mix == "mixup":
            return drawn | {"mix_lam": np.where(is_mixed_B, lam_B, 1).astype(np.float32)}
        side_B = np.floor(self.size * np.sqrt(1 - lam_B))
        edges = []
        for axis in (BOX_X, BOX_Y):
            middle_B = np.floor(chance.uniform(keys_B, axis) * self.size)
            low_B = middle_B - np.floor(side_B / 2)
            edges.append(np.clip([low_B, low_B + side_B], 0, self.size))
        box_B4 = np.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], 1)
        return drawn | {"mix_box_xyxy": np.where(is_mixed_B[:, None], box_B4, -1).astype(np.int32)}

    def _strips(self, keys_B: np.ndarray, axis: int) -> np.ndarray:
        """Return an order of the strips as hexadecimal digits after a 1, int64 [B]."""
        order_BF = np.argsort(
            chance.hashed(keys_B[:, None], axis, np.arange(self.patches)), axis=1, kind="stable"
        )
        code_B = np.ones(len(keys_B), np.int64)
        for strip_B in order_BF.T:
            code_B = code_B << 4 | strip_B
        return code_B


def strips_of(code: int) -> list[int]:
    """Return which strip of the image comes 1st, 2nd, ... by one number of `patch_order`; [] where it is 0.

    Raises:
        DataError: it is no order.
    """
    if not is_order(code):
        raise DataError(f"patch_order is {code:#x}; expected 0, or a 1 and then each strip once, such as 0x120")
    return _digits(code)[1:]


def is_order(code: int) -> bool:
    """Return whether a number is one of `patch_order`."""
    first, *order = _digits(code)
    return code == 0 or (first == 1 and len(order) > 0 and sorted(order) == list(range(len(order))))


def _digits(code: int) -> list[int]:
    return [int(digit, 16) for digit in f"{max(code, 0):x}"]


SETTINGS = tuple(field.name for field in fields(Recipe))


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_range(pair: tuple[float, ...]) -> bool:
    return len(pair) == 2 and all(map(math.isfinite, pair)) and 0 < pair[0] <= pair[1]

"""Make the pixels again that a label was given to.

Shuffle strips, crop, resize, cut out, flip, scale to [0, 1], normalise, then CutMix or Mixup: the order and the
rounding of SRe2L (Yin et al., 2023, arXiv:2306.13092), whose crops are torchvision's RandomResizedCrop on PIL images.

Nothing is drawn at random here. PIL images come out bit for bit as PIL's own crop and resize give them.
Arrays and uint8 tensors go through torch's integer resize, which differs from PIL's by at most one level
of 255; no PIL is needed for them.

Shapes in names: C channels, H high, W wide; sizes and boxes are in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from softpack.data.pixels import image_hw, painted, resized, shuffled
from softpack.errors import DataError
from softpack.recipe import strips_of


class Augmentation(NamedTuple):
    """What was done to an image to make one view of it. The fields are the replay columns.

    Args:
        crop_xywh: x, y, width and height of the crop in pixels of the image; None is the whole image.
        crop_xywh_fraction: the same as fractions of the image's width and height; `crop_xywh` goes before it.
        flip: whether the crop was flipped left to right.
        mix_item: the partner of CutMix or Mixup; -1 is none.
        mix_lam: weight of the image itself in Mixup. CutMix does not use it.
        mix_box_xyxy: x1, y1, x2, y2 of CutMix in output pixels, half-open; None or -1 is no CutMix.
        patch_order: in which order strips of the image stand, from the top and from the left, as RDED shuffles them
            before the crop; hexadecimal digits after a 1 (`softpack.recipe.strips_of`), 0 is as they are.
        cutout: a rectangle that was painted over the resized crop, as LPLD does for ImageNet-21K: x and y of its
            middle, width and height as fractions of the output, red, green and blue; None or -1 is none.
    """

    crop_xywh: Sequence[int] | None = None
    crop_xywh_fraction: Sequence[float] | None = None
    flip: bool = False
    mix_item: int = -1
    mix_lam: float | None = None
    mix_box_xyxy: Sequence[int] | None = None
    patch_order: Sequence[int] = (0, 0)
    cutout: Sequence[float] | None = None


UNCHANGED = Augmentation()


def check_replayable(columns: Collection[str]) -> None:
    """Refuse views that were drawn by another program, from seeds that softpack does not know the meaning of.

    Raises:
        DataError: the columns, by their names, have such seeds.
    """
    if "aug_seed" in columns:
        raise DataError(
            "the views were drawn from seeds (aug_seed) by the program that made the labels, and it alone can draw "
            "them again: transform images by it, with the seeds of labels.replay(items, views), and give "
            "ignore_replay=True"
        )


def augmentations(columns: Mapping[str, np.ndarray], n_rows: int) -> list[Augmentation]:
    """Return the augmentation of each of `n_rows` rows from their replay columns [n_rows, ...].

    Raises:
        DataError: they cannot be replayed.
    """
    check_replayable(columns)
    names = [name for name in Augmentation._fields if name in columns]
    if not names:
        return [UNCHANGED] * n_rows
    rows = zip(*(columns[name].tolist() for name in names), strict=True)
    return [Augmentation(**dict(zip(names, row, strict=True))) for row in rows]


@dataclass(frozen=True)
class Replay:
    """Redo stored augmentations on images. Holds no state, and can be pickled.

    An image is a PIL image of any mode, or uint8 [H, W] or [H, W, C] of numpy with 1, 3 or 4 channels:
    these come out with three channels, as PIL's `convert("RGB")` gives them. Or it is a tensor [C, H, W]
    or [H, W], uint8, or floating point in [0, 1]: its channels are kept.

    Args:
        size: height and width of what comes out.
        mean: one number a channel, subtracted from pixels in [0, 1]; with `std`, or not at all.
        std: one number a channel, by which they are then divided.

    Raises:
        DataError: the settings are out of range.
    """

    size: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise DataError(f"replay: size is {self.size!r}; expected a whole number of pixels, 1 or more")
        if (self.mean is None) != (self.std is None):
            missing = "mean" if self.mean is None else "std"
            raise DataError(f"replay: {missing} is missing; give mean and std, or neither")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise DataError(
                    f"replay: mean has {len(self.mean)} numbers and std has {len(self.std)}; "
                    "expected one a channel in both"
                )
            are_finite = all(math.isfinite(number) for number in self.mean + self.std)
            if not are_finite or min(self.std, default=1) <= 0:
                raise DataError(
                    f"replay: mean is {self.mean} and std is {self.std}; expected finite numbers, std above 0"
                )

    def __call__(
        self,
        image: Any,
        done: Augmentation = UNCHANGED,
        partner: Any = None,
        partner_done: Augmentation = UNCHANGED,
    ) -> Tensor:
        """Return the pixels of one view, float32 [C, size, size]; of the whole image if nothing was done to it.

        Args:
            image: the image that was labelled.
            done: what was done to it.
            partner: the image of `done.mix_item`, where there is one.
            partner_done: what was done to the partner in the same view. Its own mix is left out.

        Raises:
            DataError: the image is of no known kind, or the augmentation does not fit it.
        """
        pixels_CHW = self.unmixed(image, done)
        if done.mix_item < 0:
            return pixels_CHW
        if partner is None:
            raise DataError(f"the view is mixed with item {done.mix_item}, whose image was not given")
        return self._mixed(pixels_CHW, self.unmixed(partner, partner_done), done)

    def unmixed(self, image: Any, done: Augmentation) -> Tensor:
        """Return the pixels of a view before it was mixed, float32 [C, size, size]."""
        if any(done.patch_order):
            image = shuffled(image, *(strips_of(code) for code in done.patch_order))
        pixels_CHW = resized(image, _crop(done, *image_hw(image)), self.size)
        if done.cutout is not None and done.cutout[2] >= 0:
            pixels_CHW = painted(pixels_CHW, done.cutout)
        if done.flip:
            pixels_CHW = pixels_CHW.flip(-1)
        is_bytes = pixels_CHW.dtype == torch.uint8
        pixels_CHW = pixels_CHW.contiguous().float()  # in this order: bytes are cheaper to move
        if is_bytes:
            pixels_CHW.div_(255)
        return self._normalised(pixels_CHW)

    def _normalised(self, pixels_CHW: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return pixels_CHW
        if len(pixels_CHW) != len(self.mean):
            raise DataError(
                f"the image has {len(pixels_CHW)} channels, but replay has a mean and std of {len(self.mean)}"
            )
        mean_C11, std_C11 = self._mean_std
        return pixels_CHW.sub_(mean_C11).div_(std_C11)

    @cached_property
    def _mean_std(self) -> tuple[Tensor, Tensor]:
        mean_C, std_C = (torch.tensor(numbers, dtype=torch.float32) for numbers in (self.mean, self.std))
        return mean_C[:, None, None], std_C[:, None, None]

    def _mixed(self, own_CHW: Tensor, partner_CHW: Tensor, done: Augmentation) -> Tensor:
        if own_CHW.shape != partner_CHW.shape:
            raise DataError(
                f"the image has {len(own_CHW)} channels, its mix partner {len(partner_CHW)}; expected as many"
            )
        box, lam = done.mix_box_xyxy, done.mix_lam
        if box is not None and any(edge != -1 for edge in box):
            x1, y1, x2, y2 = box
            if not (0 <= x1 <= x2 <= self.size and 0 <= y1 <= y2 <= self.size):
                raise DataError(
                    f"mix_box_xyxy is {tuple(box)}, outside the output of {self.size} x {self.size} pixels; "
                    "replay at the size that the labels were made at"
                )
            mixed_CHW = own_CHW.clone()
            mixed_CHW[:, y1:y2, x1:x2] = partner_CHW[:, y1:y2, x1:x2]
            return mixed_CHW
        if lam is None or not 0 <= lam <= 1:
            raise DataError(
                f"the view is mixed with item {done.mix_item}, but has no mix_box_xyxy, and mix_lam is {lam}; "
                "expected a box, or a mix_lam from 0 to 1"
            )
        return lam * own_CHW + (1 - lam) * partner_CHW


def replay(size: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Replay:
    """Return the transform that redoes the augmentations of a label file, for `SoftLabelDataset`.

    Args:
        size: height and width in pixels of what comes out: that which the labels were made at.
        mean: one number a channel, subtracted from pixels in [0, 1].
        std: one number a channel, by which they are then divided.

    Raises:
        DataError: the settings are out of range.
    """
    return Replay(size, None if mean is None else tuple(mean), None if std is None else tuple(std))


def _crop(done: Augmentation, height: int, width: int) -> tuple[int, int, int, int]:
    """Return x, y, width and height of the crop in pixels, checked against the image."""
    if done.crop_xywh is not None:
        x, y, w, h = done.crop_xywh
    elif done.crop_xywh_fraction is not None:
        x, y, w, h = _crop_of_fractions(done.crop_xywh_fraction, height, width)
    else:
        return 0, 0, width, height
    if min(x, y) < 0 or min(w, h) < 1 or x + w > width or y + h > height:
        raise DataError(
            f"the crop (x {x}, y {y}, {w} wide, {h} high) is not inside the image of {width} x {height}; "
            "give the images that were labelled, in the same order"
        )
    return x, y, w, h


def _crop_of_fractions(fractions: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
    if not all(math.isfinite(fraction) for fraction in fractions):
        raise DataError(f"crop_xywh_fraction is {tuple(fractions)}; expected fractions from 0 to 1")
    x, w = round(fractions[0] * width), round(fractions[2] * width)
    y, h = round(fractions[1] * height), round(fractions[3] * height)
    # Two numbers that are rounded up can reach one pixel past the edge that their sum keeps to.
    return x, y, w - (x + w == width + 1), h - (y + h == height + 1)

"""Cut a rectangle out of an image and resize it, whatever kind of image it is.

Shapes in names: C channels, H high, W wide; sizes and boxes are in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack.errors import DataError

PIL_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, without importing PIL


def image_hw(image: Any) -> tuple[int, int]:
    """Return height and width of an image.

    Raises:
        DataError: it is of no kind that can be replayed.
    """
    if isinstance(image, Tensor):
        if image.ndim in (2, 3) and (image.dtype == torch.uint8 or image.is_floating_point()):
            return image.shape[-2], image.shape[-1]
        found = f"tensor of {image.dtype} {list(image.shape)}"
    elif isinstance(image, np.ndarray):
        n_channels = image.shape[2] if image.ndim == 3 else 1
        if image.ndim in (2, 3) and image.dtype == np.uint8 and n_channels in (1, 3, 4):
            return image.shape[0], image.shape[1]
        found = f"array of {image.dtype} {list(image.shape)}"
    elif _is_pil(image):
        width, height = image.size
        return height, width
    else:
        found = type(image).__name__
    raise DataError(
        f"the image is a {found}; expected a PIL image, a numpy array of uint8 [H, W] or [H, W, 3], "
        "or a tensor of uint8 or floats [C, H, W]"
    )


def _is_pil(image: Any) -> bool:
    return all(hasattr(image, name) for name in ("crop", "resize", "convert", "mode", "size"))


def resized(image: Any, crop_xywh: tuple[int, int, int, int], size: int) -> Tensor:
    """Return the crop as a tensor [C, size, size], uint8 or float32.

    Crops before it resizes, because a filter that sees the whole image reads pixels outside the crop.
    """
    x, y, w, h = crop_xywh
    if isinstance(image, Tensor):
        return _interpolated(image[..., y : y + h, x : x + w], size)
    if isinstance(image, np.ndarray):
        return _interpolated(_as_rgb(image[y : y + h, x : x + w]), size)
    crop = image.crop((x, y, x + w, y + h))
    if crop.mode != "RGB":
        crop = crop.convert("RGB")
    return torch.from_numpy(np.array(crop.resize((size, size), PIL_BILINEAR))).permute(2, 0, 1)


def shuffled(image: Any, rows: list[int], columns: list[int]) -> Any:
    """Return an image whose strips stand in another order, of the same kind.

    Args:
        image: any that can be replayed.
        rows: which strip from the top comes 1st, 2nd, ...; [] leaves them.
        columns: the same from the left. The last strip of the image has what is left over.
    """
    height, width = image_hw(image)
    at_y, at_x = _places(height, rows), _places(width, columns)
    if isinstance(image, Tensor):
        return image[..., at_y[:, None], at_x]
    if isinstance(image, np.ndarray):
        return image[at_y[:, None], at_x]
    from PIL import Image

    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return Image.fromarray(pixels[at_y[:, None], at_x])


def painted(pixels_CHW: Tensor, cutout: Sequence[float]) -> Tensor:
    """Return pixels with a rectangle of one colour over them.

    Args:
        pixels_CHW: uint8, or floating point in [0, 1].
        cutout: x and y of its middle, width and height, as fractions; red, green and blue, 0 to 255.

    Raises:
        DataError: the image has neither one channel nor three, which the colour is of.
    """
    n_channels, height, width = pixels_CHW.shape
    if n_channels not in (1, 3):
        raise DataError(f"the image has {n_channels} channels; expected 3, to cut out a rectangle of a colour")
    x, y, wide, high, *colour = cutout
    rows, columns = _span(y, high, height), _span(x, wide, width)
    colour_C11 = torch.tensor(colour[:n_channels])[:, None, None]
    pixels_CHW = pixels_CHW.clone()
    pixels_CHW[:, rows, columns] = (
        colour_C11.to(torch.uint8) if pixels_CHW.dtype == torch.uint8 else colour_C11 / 255
    )
    return pixels_CHW


def _span(middle: float, length: float, n: int) -> slice:
    """Return the pixels of a side of n that are painted: the last one too, as PIL draws rectangles."""
    at, half = round(middle * n), round(length * n) // 2
    return slice(max(at - half, 0), min(at + half, n) + 1)


def _places(length: int, order: list[int]) -> np.ndarray:
    """Return from which row or column of the image each of the shuffled one comes."""
    if not order:
        return np.arange(length)
    edges = [*(strip * (length // len(order)) for strip in range(len(order))), length]
    return np.concatenate([np.arange(edges[strip], edges[strip + 1]) for strip in order])


def _as_rgb(pixels: np.ndarray) -> Tensor:
    """Return numpy pixels [H, W] or [H, W, 1, 3 or 4] as a tensor [3, H, W] of its own."""
    pixels_HWC = pixels.reshape(*pixels.shape[:2], -1)[..., :3]
    return torch.from_numpy(np.array(pixels_HWC)).permute(2, 0, 1).expand(3, -1, -1)


def _interpolated(pixels: Tensor, size: int) -> Tensor:
    pixels_CHW = pixels if pixels.ndim == 3 else pixels[None]
    if pixels_CHW.dtype != torch.uint8:
        pixels_CHW = pixels_CHW.float()
    return torch.nn.functional.interpolate(
        pixels_CHW[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )[0]

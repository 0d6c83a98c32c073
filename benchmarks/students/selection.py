"""Which images a student has: some of the training images, or crops that a teacher finds realistic, as RDED takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import softpack
from softpack.data.replay import augmentations
from students.networks import logits_of, normalised
from students.pictures import Part, Pictures

CANDIDATES = 300  # images of a class that RDED looks at
CROPS = 5  # of each
CROP_SCALE = (0.5, 1.0)


def chosen(pictures: Pictures, source: str, per_class: int, teacher: nn.Module, seed: int) -> Part:
    """Return so many images of each class, class after class.

    Args:
        pictures: whose training images they are.
        source: "random" takes training images as they are; "rded" crops.
        per_class: images of a class.
        teacher: judges crops.
        seed: of the draw.
    """
    take = {"random": _random, "rded": _rded}[source]
    return take(pictures, per_class, teacher, seed)


def _random(pictures: Pictures, per_class: int, teacher: nn.Module, seed: int) -> Part:
    return pictures.train.take(_some_of_each_class(pictures, per_class, seed).reshape(-1))


def _rded(pictures: Pictures, per_class: int, teacher: nn.Module, seed: int) -> Part:
    """Return the crops with the least loss, one of an image (Sun et al., 2024, arXiv:2312.03526, factor 1)."""
    rows_CN = _some_of_each_class(pictures, CANDIDATES, seed)
    part = pictures.train.take(rows_CN.reshape(-1).repeat_interleave(CROPS))
    height = part.images_NCHW.shape[-1]
    crops_NCHW = _crops(part.images_NCHW, height, seed)
    logits_NC = logits_of(teacher, normalised(crops_NCHW, pictures.mean_std))
    loss_N = nn.functional.cross_entropy(logits_NC, part.targets_N, reduction="none")
    least_CN, crop_CN = loss_N.view(len(rows_CN), CANDIDATES, CROPS).min(2)
    best_CP = least_CN.argsort(1)[:, :per_class]
    at_CP = torch.arange(len(rows_CN))[:, None] * CANDIDATES + best_CP
    taken = (at_CP * CROPS + crop_CN.gather(1, best_CP)).reshape(-1)
    return Part((crops_NCHW[taken] * 255).round().to(torch.uint8), part.targets_N[taken])


def _some_of_each_class(pictures: Pictures, n: int, seed: int) -> Tensor:
    """Return rows of training images [classes, n], drawn by the seed."""
    order_N = torch.randperm(len(pictures.train), generator=torch.Generator().manual_seed(seed))
    by_class_N = order_N[pictures.train.targets_N[order_N].argsort(stable=True)]
    starts_C = pictures.train.targets_N.bincount().cumsum(0).roll(1)
    starts_C[0] = 0
    return by_class_N[starts_C[:, None] + torch.arange(n)]


def _crops(images_NCHW: Tensor, size: int, seed: int) -> Tensor:
    n = len(images_NCHW)
    recipe = softpack.Recipe(size=size, scale=CROP_SCALE, flip=0.0, seed=seed, items=n)
    drawn = recipe.draw(np.arange(n), np.zeros(n, np.int64), np.full((n, 2), size))
    transform = softpack.replay(size)
    return torch.stack(
        [transform(i, done) for i, done in zip(images_NCHW, augmentations(drawn, n), strict=True)]
    )

"""The valid vectors of version 1.3: columns that are drawn from a seed, strips of images, and how images look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vectors_valid import CLASSES, grid, logits
from vectors_valid_1_1 import ITEMS, VIEWS

import softpack
from softpack.codecs.registry import make_codec
from softpack.container.model import Model, fit_prototype_codec
from softpack.container.viewpoint import ViewBasis, n_functions, viewpoints_of
from softpack.recipe import Recipe
from softpack.records import LabelSpec

SIZES = np.array([(30, 40), (41, 17), (9, 200), (224, 224), (1, 1), (64, 65)], np.int32)
IMAGES = {0: bytes(range(16)), 4: bytes([255] * 16)}


def drawn(path: Path, recipe: Recipe, images: dict[int, bytes] | None = None, stored: bool = False) -> None:
    """Write rows in fp16 whose columns a recipe draws."""
    item, view = grid(ITEMS, VIEWS)
    how: dict[str, Any] = {"recipe": recipe, "images": images, "replay": stored}
    with softpack.create(path, "raw", classes=CLASSES, items=ITEMS, views=VIEWS, **how) as w:
        w.set_items(source_hw=SIZES)
        w.append(logits(len(item)), item=item, view=view)


def by_crop(path: Path, recipe: Recipe, degree: int) -> None:
    """Write rows given prototypes that are weighted by drawn crops, and mixed as the recipe mixes."""
    item, view = grid(ITEMS, VIEWS)
    columns = recipe.draw(item, view, SIZES[item])
    basis = ViewBasis.fitted(viewpoints_of(columns, SIZES[item]), degree) if degree else None
    near = torch.from_numpy(logits(ITEMS * n_functions(degree), seed=21).reshape(ITEMS, -1, CLASSES))
    near -= near.mean(2, keepdim=True)
    rows = torch.from_numpy(logits(len(item), seed=22))
    codec = make_codec("klt", LabelSpec(CLASSES), {"context": True, "bits": 12.0})
    codec = codec.fit([rows], contexts=[torch.from_numpy(logits(len(rows), seed=23))])
    model = Model(codec, fit_prototype_codec(near.flatten(0, 1), 20.0), {}, basis)
    how: dict[str, Any] = {"recipe": recipe, "replay": False, "mix_wh": (recipe.size, recipe.size)}
    with softpack.create(path, model, prototypes=near, items=ITEMS, views=VIEWS, **how) as w:
        w.set_items(source_hw=SIZES)
        w.append(rows, item=item, view=view)


def strips(path: Path) -> None:
    """Write rows whose images' strips were shuffled, as columns."""
    item, view = grid(2, 3)
    order = np.array(
        [(0, 0), (0x10, 0x10), (0x110, 0x101), (0x1201, 0), (0x10, 0x13201), (0x16543210, 0x10123456)]
    )
    with softpack.create(path, "raw", classes=CLASSES, items=2, views=3) as w:
        w.append(logits(6), item=item, view=view, patch_order=order)


CUTMIX = Recipe(size=32, mix="cutmix", mixed=0.75, seed=7, items=ITEMS)
VALID: dict[str, tuple[str, Callable[[Path], None]]] = {
    "recipe": ("crops and flips that are drawn, of images of all shapes", lambda path: drawn(path, Recipe(size=32))),
    "recipe_whole_images": ("flips alone, and a seed beyond 2^53", lambda path: drawn(
        path, Recipe(scale=None, flip=0.25, seed=-(1 << 60)))),
    "recipe_cutmix": ("boxes and partners that are drawn", lambda path: drawn(path, CUTMIX, IMAGES)),
    "recipe_mixup_patches": ("shares by Beta(0.8, 0.8), strips, narrow crops", lambda path: drawn(
        path, Recipe(48, (0.5, 1.0), (1.0, 3.0), 1.0, "mixup", 0.8, 1.0, 7, 3, ITEMS))),
    "recipe_mixup": ("shares by Beta(2, 2), without flips", lambda path: drawn(
        path, Recipe(64, mix="mixup", alpha=2.0, seed=1, items=ITEMS, flip=0.0))),
    "recipe_stored": ("columns that are stored although a recipe draws them", lambda path: drawn(
        path, CUTMIX, stored=True)),
    "recipe_context": ("rows given prototypes that are mixed as the recipe says", lambda path: by_crop(
        path, CUTMIX, 0)),
    "recipe_by_crop": ("prototypes that are weighted by drawn crops", lambda path: by_crop(path, CUTMIX, 2)),
    "patch_order": ("strips of images in another order", strips),
}  # fmt: skip

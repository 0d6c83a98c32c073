"""The valid vectors of version 1.2: prototypes that are weighted by crops, and corrections, in small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vectors_valid import CLASSES, grid, logits, probs
from vectors_valid_1_1 import ITEMS, MIX_WH, VIEWS, WITH_CONTEXT, Labels, boxes, partners, table

import softpack
from softpack.codecs.registry import make_codec
from softpack.container.model import Model, fit_prototype_codec
from softpack.container.viewpoint import ViewBasis, ViewpointTable, n_functions, viewpoints_of
from softpack.records import LabelSpec


def corrected(
    path: Path,
    codec: str = "quantize",
    max_kl: float = 0.05,
    space: str = "logits",
    temperature: float = 1.0,
    temperatures: tuple[float, ...] = (1.0, 4.0),
    zeros: bool = False,
    **settings: Any,
) -> None:
    """Write 4 items x 5 views, and hold them to a promise."""
    item, view = grid(4, 5)
    rows = logits(20)
    if space != "logits":
        rows = probs(rows, temperature)
        if zeros:
            rows[::3, 5] = 0
            rows /= rows.sum(1, keepdims=True)
        if space == "log_probs":
            rows = np.log(rows)
    with softpack.create(
        path,
        codec,
        classes=CLASSES,
        space=space,
        temperature=temperature,
        max_kl=max_kl,
        temperatures=temperatures if codec != "quantize" else None,
        **settings,
    ) as w:
        w.append(rows, item=item, view=view)


def parts(path: Path) -> None:
    """Write ragged rows in tiles of 2 x 4, by three commits; those of one tile need no corrections."""
    item, view = np.repeat([0, 2, 3], [7, 1, 3]), np.concatenate([np.arange(7), [0], np.arange(3)])
    rows = logits(11)
    rows[item > 1] = [1, *[0] * (CLASSES - 1)]
    options = {"classes": CLASSES, "items": 4, "views": 7, "tile": (2, 4), "appendable": True, "bits": 2}
    with softpack.create(path, "quantize", max_kl=0.1, **options) as w:
        w.set_items(target=np.array([3, 1, 4, 1]))
        w.append(rows[:4], item=item[:4], view=view[:4], flip=np.arange(4) % 2)
        w.commit()
        w.append(rows[4:], item=item[4:], view=view[4:], flip=np.arange(7) % 2)
    with softpack.append(path) as w:
        w.set_items(target=np.array([3, 1, 4, 1]))
        w.append(logits(1, seed=3), item=1, view=6, flip=[0])


def given_context(path: Path, **settings: Any) -> None:
    """Write rows by vqae with context, held to a promise."""
    labels = Labels({"mix_item": partners(), "mix_box_xyxy": boxes()}, 0.3)
    model, _ = labels.model(**{**WITH_CONTEXT, **settings})
    labels.write(path, model, max_kl=0.5, temperatures=(1.0, 20.0))


def crops(in_pixels: bool = False) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return crops of all rows, a few of them none or beyond the picture, and the sizes of the pictures."""
    item, view = grid(ITEMS, VIEWS)
    hw = np.stack([40 + 3 * np.arange(ITEMS), 50 - 2 * np.arange(ITEMS)], 1)
    crop = np.stack([item + view, 2 * view, 30 - view - item, 15 + view + item], 1)
    crop[view == 5] = (-30, 5, 200, 100)
    crop[(view == 4) & (item > 2)] = (3, 4, -5, 10)
    if in_pixels:
        return {"crop_xywh": crop}, hw
    fractions = (crop / np.tile(hw[item][:, ::-1], 2)).astype(np.float32)
    fractions[8] = (np.nan, 0.5, np.inf, 0.25)
    return {"crop_xywh_fraction": fractions}, hw


def by_crop(
    path: Path,
    degree: int,
    codec_id: str = "klt",
    known: int = ITEMS,
    in_pixels: bool = False,
    tables: bool = False,
    columns: dict[str, Any] | None = None,
    space: str = "logits",
    temperature: float = 1.0,
    **settings: Any,
) -> None:
    """Write rows whose items have a prototype for each function of where views look."""
    found, hw = crops(in_pixels)
    block = Labels({**found, **(columns or {})}, 0.3, known, space, temperature).block
    viewpoints = viewpoints_of(block.replay, hw[block.item_B])
    basis = ViewBasis.fitted(viewpoints, degree)
    near = torch.from_numpy(logits(known * n_functions(degree), seed=11).reshape(known, -1, CLASSES))
    near -= near.mean(2, keepdim=True)
    of_items = fit_prototype_codec(near.flatten(0, 1), 20.0)
    codec = make_codec(codec_id, LabelSpec(CLASSES, space, temperature), {"context": True, **settings})
    rows = torch.from_numpy(block.labels_BC)
    codec = codec.fit([rows], contexts=[torch.from_numpy(logits(len(rows), seed=12))])
    known_tables = {}
    if tables:
        codes = of_items.encode(near.flatten(0, 1))
        known_tables = {
            f"prototype.{a.name}": table(codes[a.name].numpy().reshape(known, -1), a.levels)
            for a in of_items.codes
        }
    model, looks = Model(codec, of_items, known_tables, basis), ViewpointTable()
    looks.add(block.item_B, block.view_B, viewpoints)
    sizes = {"items": ITEMS, "views": VIEWS, "mix_wh": MIX_WH}
    with softpack.create(path, model, prototypes=near, viewpoints=looks, **sizes) as w:
        if in_pixels:
            w.set_items(source_hw=hw)
        w.add(block)


def no_rows_by_crop(path: Path) -> None:
    """Write a model whose prototypes are weighted by crops, without rows."""
    by_crop(path, 1)
    model = softpack.open(path).model
    path.unlink()
    softpack.save_model(path, model)


def every_class(path: Path) -> None:
    """Write rows of two classes, one of a million, that a single bit does not tell."""
    rows = np.float32([[0, 3.5], [1e6, 0], [-2, 2], [0.5, 0.25]])
    rows = np.concatenate([rows, -rows])
    with softpack.create(path, "lowrank", classes=2, rank=1, bits=1, max_kl=1e-3) as w:
        w.append(rows, item=np.arange(8), view=np.zeros(8, int))


MIXED = {"mix_item": partners(), "mix_box_xyxy": boxes()}
VALID: dict[str, tuple[str, Callable[[Path], None]]] = {
    "crops": (
        "4 prototypes of an item, weighted by crops, some of which are none",
        lambda path: by_crop(path, 1),
    ),
    "crops_pixels": ("the same by crops in pixels", lambda path: by_crop(path, 1, in_pixels=True)),
    "crops_mixed": (
        "rows mixed by boxes, of partners that look elsewhere; the last item has no prototypes",
        lambda path: by_crop(path, 2, known=ITEMS - 1, columns=MIXED),
    ),
    "crops_mixed_pixels_degree_3": (
        "20 prototypes of an item, entropy-coded, of rows mixed by shares and crops in pixels",
        lambda path: by_crop(
            path, 3, in_pixels=True, tables=True, columns={"mix_item": partners(), "mix_lam": np.full(42, 0.7)}
        ),
    ),
    "crops_vqae_log_probs_t4": (
        "log-probabilities at T = 4 by vqae, given prototypes that are weighted by crops",
        lambda path: by_crop(
            path,
            1,
            "vqae",
            space="log_probs",
            temperature=4.0,
            columns=MIXED,
            **{name: value for name, value in WITH_CONTEXT.items() if name != "context"},
        ),
    ),
    "crops_no_rows": ("a model without rows whose prototypes are weighted by crops", no_rows_by_crop),
    "correction": ("some rows corrected", lambda path: corrected(path, max_kl=0.3, bits=2)),
    "correction_none": ("a promise that needs no corrections", lambda path: corrected(path, "raw", 0.3)),
    "correction_log_probs_t4": (
        "corrected log-probabilities at T = 4",
        lambda path: corrected(path, "topk", 0.25, "log_probs", 4.0, k=4),
    ),
    "correction_probs_t2": (
        "corrected probabilities at T = 2, some of them 0",
        lambda path: corrected(path, "raw", 4e-6, "probs", 2.0, dtype="bf16", zeros=True),
    ),
    "correction_parts": ("corrections of some parts of ragged tiles", parts),
    "correction_context": ("corrected rows given the prototypes of their items", given_context),
    "correction_stages": (
        "corrections of rows in two stages, of which a reader of the first alone knows none",
        lambda path: given_context(path, stages=2, context=False, d_x=0),
    ),
    "correction_2_classes": ("corrections of nearly every number, large ones among them", every_class),
}

"""The valid vectors of version 1.2: corrections, in small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from vectors_valid import CLASSES, grid, logits, probs
from vectors_valid_1_1 import WITH_CONTEXT, Labels, boxes, partners

import softpack


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


def every_class(path: Path) -> None:
    """Write rows of two classes, one of a million, that a single bit does not tell."""
    rows = np.float32([[0, 3.5], [1e6, 0], [-2, 2], [0.5, 0.25]])
    rows = np.concatenate([rows, -rows])
    with softpack.create(path, "lowrank", classes=2, rank=1, bits=1, max_kl=1e-3) as w:
        w.append(rows, item=np.arange(8), view=np.zeros(8, int))


VALID: dict[str, tuple[str, Callable[[Path], None]]] = {
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

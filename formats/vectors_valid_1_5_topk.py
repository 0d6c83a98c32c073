"""The valid vectors of version 1.5: codec `topk` with sets of ids, values in steps, masses of tails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vectors_valid import CLASSES, grid, logits, probs

import softpack


def rows(space: str = "logits", temperature: float = 1.0, **settings: Any) -> Callable[[Path], None]:
    """Write rows of three items and four views."""

    def write(path: Path) -> None:
        item, view = grid(3, 4)
        labels = logits(12)
        if space == "probs":
            labels = probs(labels, temperature)
            labels[0] = [0.5, 0.25, 0.25] + [0] * (CLASSES - 3)
        with softpack.create(
            path, "topk", classes=CLASSES, items=3, views=4, space=space, temperature=temperature, **settings
        ) as w:
            w.append(labels, item=item, view=view)

    return write


LANGUAGE = {"ids": "set", "value": "steps", "tail": "mass"}
VALID: dict[str, tuple[str, Callable[[Path], None]]] = {
    "topk_set": (
        "ids as gaps in two orders of the classes, of which some are common",
        rows(k=3, ids="set", tail="bucket", orders=2, listed=2, common=3),
    ),
    "topk_set_of_one_order": (
        "ids as gaps, in one order",
        rows(k=2, ids="set", orders=1, listed=4, common=CLASSES),
    ),
    "topk_steps": (
        "values in steps of a half, others get the least",
        rows(k=3, value="steps", tail="min", step=0.5),
    ),
    "topk_mass": (
        "masses of tails at two temperatures; a row of fewer classes than are kept",
        rows("probs", 2.0, k=4, tail="mass", tail_temperatures="2,1"),
    ),
    "topk_language": (
        "sets, steps and masses at three temperatures",
        rows(k=3, tail_temperatures="1,2,4", step=0.125, orders=3, listed=3, common=2, **LANGUAGE),
    ),
    "topk_all_classes": ("all classes, so that there is no tail", rows(k=CLASSES, orders=1, **LANGUAGE)),
}

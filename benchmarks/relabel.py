"""What relabelling takes beyond the teacher's forward pass of the same views, where both have the same cores.

The teacher is EfficientNet-Lite0 of random weights (speed does not depend on them) at 224 pixels; images are noise in
memory, and the rows that are coded are real ones. `forward` is the teacher on ready pixels, `pixels` also draws, crops
and mixes the views, and the others also code and write a row for each. Everything goes one after the other here;
`softpack.relabel` codes beside the teacher's next batch, and worker processes make pixels, so that this is the most
that they can take.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Results, Spread, beyond, options, turns, use_threads
from efficientnet_lite_pytorch import EfficientNet

import softpack
from softpack.container.writer import Writer
from softpack.relabelling.teacher import Teacher
from softpack.relabelling.views import DrawnViews, ViewPixels, in_order
from softpack.sources.encoding import fit_model
from softpack.sources.opening import open_source

IMAGES, BATCH, SIZE, TURNS = 64, 32, 224, 40
CODECS = {
    "raw": ("raw", {}),
    "klt": ("klt", {"bits": 64.0}),
    "vqae": ("vqae", {"slots": 8, "steps": 20}),
    "vqae, search=8": ("vqae", {"slots": 8, "steps": 20, "search": 8}),
}


def main() -> None:
    """Measure and write the table."""
    given = options("relabel", __doc__ or "")
    use_threads(given.threads)
    results, random = Results(given), np.random.default_rng(given.seed)
    n_turns = 2 if given.quick else TURNS
    n_views = (n_turns + 1) * BATCH // IMAGES + 1
    images = [random.integers(0, 256, (300, 400, 3), np.uint8) for _ in range(IMAGES)]
    recipe = softpack.Recipe(size=SIZE, mix="cutmix", seed=given.seed, items=IMAGES)
    sizes_N2 = np.tile([[300, 400]], (IMAGES, 1))
    pixels = ViewPixels(images, DrawnViews(recipe, sizes_N2, n_views))
    teacher, source = Teacher(EfficientNet.from_name("efficientnet-lite0")), open_source(given.lite0)
    rows_BC = next(iter(source.blocks(BATCH))).labels_BC
    batches = [
        [(item, view) for item in in_order(recipe, view, IMAGES)[at : at + BATCH].tolist()]
        for view in range(n_views)
        for at in range(0, IMAGES, BATCH)
    ]
    ready_BCHW = pixels.__getitems__(batches[0])[0]
    ways: dict[str, Callable[[int], int]] = {
        "forward": lambda _: len(teacher(ready_BCHW)),
        "pixels": lambda n: len(teacher(pixels.__getitems__(batches[n])[0])),
    }
    with teacher.at_work(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        writers = {}
        for name, (codec, settings) in CODECS.items():
            model = fit_model(source, codec, settings, seed=given.seed)
            writers[name] = softpack.create(
                Path(folder) / f"{len(writers)}.spk", model, items=IMAGES, views=n_views, recipe=recipe
            )
            writers[name].set_items(source_hw=sizes_N2)
            ways[f"coded: {name}"] = _coding(teacher, ready_BCHW, writers[name], rows_BC, batches)
        found = turns(ways, 0.0, n_turns)
        for writer in writers.values():
            writer.abandon()
    for name, rates in found.items():
        over = beyond(rates, found["forward"]).columns("over_forward")
        results.add(what=name, **Spread.of(rates).columns("rows_per_s"), **over)


def _coding(
    teacher: Teacher,
    ready_BCHW: torch.Tensor,
    writer: Writer,
    rows_BC: np.ndarray,
    batches: list[list[tuple[int, int]]],
) -> Callable[[int], int]:
    def step(number: int) -> int:
        teacher(ready_BCHW)
        items_B, views_B = np.array(batches[number]).T
        writer.append(rows_BC, item=items_B, view=views_B)
        return len(items_B)

    return step


if __name__ == "__main__":
    main()

"""How much longer relabelling takes than the teacher's forward pass of the same views alone.

The teacher is EfficientNet-Lite0 of random weights (speed does not depend on them) at 224 pixels; images are noise in
memory. `forward` is the teacher on ready pixels; `pixels` also draws, crops and mixes the views; `relabel` codes them
into a file besides, after codec and prototypes have been learned from the first views. All in one process, whose
threads the codec takes from the teacher: where the teacher has a device of its own, they do not meet.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Results, options, use_threads
from efficientnet_lite_pytorch import EfficientNet

import softpack
from softpack.container.create import append
from softpack.rate.choose import Wanted
from softpack.relabelling.labeller import Labeller
from softpack.relabelling.run import Run
from softpack.relabelling.survey import survey
from softpack.relabelling.teacher import Teacher
from softpack.relabelling.views import DrawnViews, ViewPixels, in_order

IMAGES, VIEWS, BATCH, SIZE = 48, 5, 32, 224
CODECS = ("raw", "klt", "vqae")


def main() -> None:
    """Measure and write the table."""
    given = options("relabel", __doc__ or "")
    use_threads(given.threads)
    results, random = Results(given), np.random.default_rng(given.seed)
    n_images, n_views = (8, 2) if given.quick else (IMAGES, VIEWS)
    images = [random.integers(0, 256, (300, 400, 3), np.uint8) for _ in range(n_images)]
    recipe = softpack.Recipe(size=SIZE, mix="cutmix", seed=given.seed, items=n_images)
    found = survey(images, given.seed)
    pixels = ViewPixels(images, DrawnViews(recipe, found.source_hw_N2, n_views))
    teacher = Teacher(EfficientNet.from_name("efficientnet-lite0"))
    with teacher.at_work(), tempfile.TemporaryDirectory() as folder:
        ready = [pixels.__getitems__(cells) for cells in _batches(recipe, n_images, range(1, n_views))]
        teacher(ready[0][0])  # warm
        for repeat in range(1 if given.quick else 3):
            forward = _timed(lambda: [teacher(batch[0]) for batch in ready])
            drawn = _timed(
                lambda: [
                    teacher(pixels.__getitems__(c)[0]) for c in _batches(recipe, n_images, range(1, n_views))
                ]
            )
            rows = n_images * (n_views - 1)
            results.add(what="forward", codec="", repeat=repeat, rows_per_s=rows / forward, over_forward=0.0)
            results.add(
                what="pixels",
                codec="",
                repeat=repeat,
                rows_per_s=rows / drawn,
                over_forward=drawn / forward - 1,
            )
            for codec in CODECS:
                whole = _relabelled(teacher, images, pixels, recipe, codec, n_views, Path(folder) / "a.spk")
                results.add(
                    what="relabel",
                    codec=codec,
                    repeat=repeat,
                    rows_per_s=rows / whole,
                    over_forward=whole / forward - 1,
                )


def _batches(recipe: softpack.Recipe, n_images: int, views: range) -> list[list[tuple[int, int]]]:
    """Return the cells of batches, in the order of relabelling."""
    cells = []
    for view in views:
        items = in_order(recipe, view, n_images).tolist()
        cells += [[(item, view) for item in items[at : at + BATCH]] for at in range(0, n_images, BATCH)]
    return cells


def _relabelled(
    teacher: Teacher,
    images: list[np.ndarray],
    pixels: ViewPixels,
    recipe: softpack.Recipe,
    codec: str,
    views: int,
    out: Path,
) -> float:
    """Return the seconds that views after the first, which the codec is fitted to, take."""
    settings = {"vqae": {"steps": 20, "slots": 8}, "klt": {"bits": 64.0}}.get(codec, {})
    run = Run(
        out,
        Wanted(codec, settings, None, (), None, recipe.seed),
        views,
        BATCH,
        0,
        False,
        True,
        None,
        lambda *_: None,
    )
    run.prepare(restart=True)
    labeller, found = Labeller(teacher, pixels, BATCH, 0, run.bar), survey(images, recipe.seed)
    run.begin_spool(labeller, found)
    with append(run.spool) as writer:
        labeller.write(writer, run.spool, range(1), "")
    run.begin_coded(labeller, found)
    with append(run.unfinished) as writer:
        seconds = _timed(lambda: labeller.write(writer, run.unfinished, range(views), ""))
    run.unfinished.unlink()
    run.spool.unlink()
    return seconds


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

"""Label images straight into a file: what the teacher says of a view is coded as it comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from softpack.codecs.abc import Stage
from softpack.errors import DataError
from softpack.rate.choose import Wanted
from softpack.rate.target import Target, parse_size
from softpack.rate.trial import Trial
from softpack.recipe import Recipe
from softpack.relabelling.run import Run
from softpack.relabelling.teacher import Teacher


def relabel(
    teacher: nn.Module | Sequence[nn.Module],
    images: Any,
    views: int,
    replay: Recipe,
    out: str | os.PathLike[str],
    codec: str | None = None,
    *,
    target_bits: float | None = None,
    target_kl: float | None = None,
    budget: str | int | None = None,
    max_kl: float | None = None,
    temperatures: Sequence[float] | float = (),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "cpu",
    store_replay: bool = False,
    spool_views: int | None = None,
    force: bool = False,
    restart: bool = False,
    stage: Stage | None = None,
    say: Callable[[Trial, str], None] = lambda trial, what: None,
    **settings: Any,
) -> None:
    """Write the labels that a teacher gives to views of images into a new `.spk` file.

    Interrupted, it goes on where it was when it is called again with the same arguments.

    Args:
        teacher: torch module that gives logits [B, classes] of pixels [B, C, H, W], or several whose logits are
            averaged. It works in eval mode.
        images: map-style dataset of images, or of (image, target), as `softpack.replay` takes them.
        views: of each image.
        replay: how views are made: `softpack.Recipe(size=224, mix="cutmix", seed=0)`.
        out: of the file.
        codec: id; None takes vqae, or whichever meets the target best.
        target_bits: marginal bits a label at most.
        target_kl: mean KL at most, at the first temperature.
        budget: size of the file at most, such as "64MB".
        max_kl: no label's KL is to be above this at any of the temperatures.
        temperatures: that students train at; 1, 4 and 20 by default.
        mean: of each channel, subtracted from pixels in [0, 1] for the teacher; with `std`, or not at all.
        std: of each channel, by which they are divided.
        batch_size: views that the teacher sees at once.
        workers: processes that load images.
        device: of the teacher and the codec.
        store_replay: store crops, flips and mixes; else the seed says them again.
        spool_views: of each image, that codec and prototypes are learned from; enough by default.
        force: overwrite `out`.
        restart: throw away what an interrupted run left.
        stage: makes a progress bar for each stage of the work.
        say: is told of each plan that rate control tries.
        settings: the codec's own.

    Raises:
        DataError: images, recipe or teacher do not fit one another, or an interrupted run was another.
        CodecError: the target cannot be met.
        ExistsError: the file is there and `force` is not given.
    """
    if not isinstance(replay, Recipe):
        raise DataError(f"relabel: replay is a {type(replay).__name__}; expected softpack.Recipe(size=...)")
    if isinstance(temperatures, (int, float)):
        temperatures = (temperatures,)
    targets = (target_bits, target_kl, parse_size(budget) if isinstance(budget, str) else budget)
    target = Target(*targets) if any(given is not None for given in targets) else None
    wanted = Wanted(codec, settings, target, tuple(temperatures), max_kl, replay.seed, device)
    run = Run(Path(out), wanted, views, batch_size, workers, store_replay, force, stage, say)
    with run.alone():
        run.prepare(restart)
        with Teacher(teacher, device).at_work() as at_work:
            run.label(at_work, images, replay, mean, std, spool_views)

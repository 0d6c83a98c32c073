"""Whether a file says what its teacher says: a sample of rows, asked again.

Shapes in names: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from softpack import chance
from softpack.codecs.abc import Progress
from softpack.codecs.spaces import to_logits
from softpack.container.reader import Labels
from softpack.data.batch import Sample
from softpack.data.inputs import ReplayedInputs, check_count, images_of
from softpack.data.replay import replay
from softpack.data.thumbprint import check_images
from softpack.errors import DataError
from softpack.eval.fidelity import Fidelity, FidelityMeter
from softpack.records import TEMPERATURES
from softpack.relabelling.teacher import Teacher

CHOOSES = -4  # among the numbers that draws are made of


@dataclass(frozen=True)
class Checked:
    """What the teacher says of rows, against what the file says.

    Args:
        labels: of the file, against the teacher.
        control: of the teacher asked again in other batches, against itself: what no file could do better.
    """

    labels: Fidelity
    control: Fidelity

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a JSON object."""
        return {"labels": self.labels.to_json(), "control": self.control.to_json()}


def check(
    labels: Labels | str,
    teacher: nn.Module | Sequence[nn.Module],
    images: Any,
    *,
    rows: int = 1024,
    temperatures: Sequence[float] = TEMPERATURES,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda done, total, seen: None,
) -> Checked:
    """Ask the teacher again for some rows of a file, twice, and compare.

    Args:
        labels: of the file, or its path.
        teacher: that labelled; one module or a committee.
        images: that were labelled.
        rows: how many to ask for; all where there are fewer.
        temperatures: to compare at.
        mean: of each channel, as when the labels were made.
        std: the same.
        size: of the views in pixels, where the file has no recipe that says it.
        batch_size: views that the teacher sees at once.
        seed: chooses the rows.
        device: of the teacher.
        progress: is told (rows done, rows in all, "").

    Raises:
        DataError: the images are others, or the teacher gives other classes.
    """
    labels = labels if isinstance(labels, Labels) else Labels(labels)
    check_count(images, labels)
    check_images(images_of(images), labels.images)
    size = size if labels.recipe is None else labels.recipe.size
    if size is None:
        raise DataError(f"{labels.file.name}: does not say how large the views are; say size= (--size)")
    inputs = ReplayedInputs(images, labels, replay(size, mean, std))
    chosen = np.sort(np.argsort(chance.hashed(seed, CHOOSES, np.arange(labels.n_rows)), kind="stable")[:rows])
    meters = FidelityMeter(temperatures), FidelityMeter(temperatures)
    with Teacher(teacher, device).at_work() as at_work:
        for start in range(0, len(chosen), batch_size):
            items_B, views_B = labels.cells(chosen[start : start + batch_size])
            samples: list[Sample] = inputs.of(items_B, views_B, labels)
            pixels_BCHW = torch.stack([sample[0] for sample in samples])
            said_BC = at_work(pixels_BCHW).cpu()
            half = (len(samples) + 1) // 2
            again_BC = torch.cat([at_work(part).cpu() for part in torch.split(pixels_BCHW, half)])
            check_classes(said_BC.shape[1], labels)
            decoded_BC = to_logits(labels.read(items_B, views_B), labels.spec)
            meters[0].update(said_BC, decoded_BC)
            meters[1].update(said_BC, again_BC)
            progress(start + len(items_B), len(chosen), "")
    return Checked(meters[0].result(), meters[1].result())


def check_classes(n: int, labels: Labels) -> None:
    """Check that a teacher gives as many classes as labels have.

    Raises:
        DataError: it does not.
    """
    if n != labels.shape[2]:
        raise DataError(
            f"the teacher gives {n} classes, and {labels.file.name} has labels of {labels.shape[2]}; give the teacher "
            "that labelled"
        )

"""What is trained: images, teachers, views, schedules, and which arms at which temperatures and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from students.arms import Arm, for_classes
from students.glyphs import glyphs
from students.pictures import Pictures, cifar10, fashion_mnist
from students.student import Schedule
from students.teacher import Training


@dataclass(frozen=True)
class Data:
    """A set of images, who labels them and how.

    Args:
        load: gives the images, from a folder that keeps what was fetched.
        classes: how many there are.
        teacher: how it is trained.
        recipe: settings of `softpack.Recipe`, by which views are drawn.
        widths: of students.
    """

    load: Callable[[Path], Pictures]
    classes: int
    teacher: Training
    recipe: Mapping[str, Any]
    widths: tuple[int, ...]


DATA = {
    "glyphs": Data(
        glyphs, 1000, Training((64, 128, 256), 5, 0.5, flip=False),
        {"size": 16, "scale": (0.7, 1.0), "flip": 0.0, "mix": "cutmix", "mixed": 0.5}, (32, 64, 128),
    ),
    "cifar10": Data(
        cifar10, 10, Training((48, 96, 192), 5, 0.3, flip=True), {"size": 32, "mix": "cutmix"}, (16, 32, 64)
    ),
    "fashion-mnist": Data(
        fashion_mnist, 10, Training((32, 64, 128), 3, 0.5, flip=True), {"size": 28, "mix": "cutmix"}, (16, 32, 64)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class LabelSet:
    """Images that a student has, with the views that were labelled.

    Args:
        data: of which images.
        source: how they were chosen: "random" or "rded".
        per_class: images of a class.
        views: of each image.
        draw: of images and views.
    """

    data: str
    source: str
    per_class: int
    views: int
    draw: int

    @property
    def slug(self) -> str:
        """The name of its folder."""
        return f"{self.data}-{self.source}-{self.per_class}-{self.views}-{self.draw}"

    @property
    def batch(self) -> int:
        """Images of a step: what RDED takes for so many images a class, or CDA and LPLD; no more than there are."""
        if self.data == "glyphs":
            return 100
        return {10: 50, 50: 100}[self.per_class] if self.source == "rded" else min(128, 10 * self.per_class)


@dataclass(frozen=True)
class Job:
    """One student.

    Args:
        label_set: of images and views.
        arm: what is kept of their labels.
        temperature: of the loss, or "falling".
        seed: of the student.
    """

    label_set: LabelSet
    arm: Arm
    temperature: str
    seed: int

    @property
    def schedule(self) -> Schedule:
        """How the student is trained; for ten classes scaled down in epochs alone."""
        label_set = self.label_set
        if label_set.data == "glyphs":
            passes = 1 if label_set.per_class > 1 or label_set.views > 28 else 2
            epochs = passes * label_set.views * (2 if self.temperature == "1" else 1)
            return Schedule("own", epochs, label_set.batch, 2e-2, "one cycle")
        if label_set.source == "rded":
            return Schedule("RDED", label_set.views, label_set.batch, 1e-3, "half cosine")
        return Schedule("SRe2L/CDA, LPLD", label_set.views, label_set.batch, 1e-3, "cosine")


SEEDS = (0, 1, 2)
GLYPH_DRAWS = (0, 0, 1)  # of images and views, for each seed
AT_1 = ("fp16", "FKD MS-10", "TinyViT top-100", "LPQLD MR-10", "LPLD 40x", "softpack 1/100", "softpack 1/250",
        "softpack 1/500")  # fmt: skip
FALLING = ("fp16", "LPQLD MR-50", "LPQLD MR-10", "LPQLD 10x, MR-50", "softpack 1/250", "softpack 1/500")
MORE = ("hard", "fp16", "LPQLD MR-10", "LPLD 100x", "softpack 1/250")


def jobs(data: str) -> Iterator[Job]:
    """Yield the students of a set of images, the most telling first."""
    arms = for_classes(DATA[data].classes)
    if DATA[data].classes == 1000:
        main = [LabelSet(data, "random", 1, 28, draw) for draw in GLYPH_DRAWS]
        yield from _jobs(main, arms, "4")
        yield from _jobs(main, [arm for arm in arms if arm.rows != "target"], "20")
        yield from _jobs(main, [arm for arm in arms if arm.name in AT_1], "1")
        yield from _jobs(main, [arm for arm in arms if arm.name in FALLING], "falling")
        for per_class, views in ((2, 28), (5, 28), (1, 112)):
            more = [LabelSet(data, "random", per_class, views, 0) for _ in SEEDS]
            yield from _jobs(more, [arm for arm in arms if arm.name in MORE], "4")
        return
    for per_class, views in ((10, 150), (50, 60)):
        for source in ("random", "rded"):
            yield from _jobs([LabelSet(data, source, per_class, views, 0) for _ in SEEDS], arms, "20")


def _jobs(label_sets: list[LabelSet], arms: Any, temperature: str) -> Iterator[Job]:
    for seed, label_set in zip(SEEDS, label_sets, strict=True):
        for arm in arms:
            yield Job(label_set, arm, "1" if arm.rows == "target" else temperature, seed)

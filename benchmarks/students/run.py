"""Make all files, train the students that are not in the table yet, and draw what was found."""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from common import Options, facts, read_csv, use_threads, write_csv
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file

import softpack
from students import arms, report
from students.experiments import DATA, Job, LabelSet, jobs
from students.networks import autocast
from students.pictures import Part
from students.selection import chosen
from students.student import trained_accuracy, views_of
from students.teacher import pixels_of, top1, trained

FOLDER = Path(__file__).parent
_room: Room  # of a process that trains students
KEY = ("data", "source", "per_class", "views", "draw", "arm", "T", "seed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="students", description="Accuracy of students over bits a label.")
    parser.add_argument("data", nargs="*", choices=[*DATA, []], help=f"[default: {', '.join(DATA)}]")
    parser.add_argument("--work", type=Path, default=FOLDER / "work", metavar="DIR",
                        help="keeps packages, teachers and labels [default: benchmarks/students/work]")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, default=FOLDER / "results", metavar="DIR",
                        help="tables and pictures; students that are in the tables are not trained again "
                             "[default: benchmarks/students/results]")  # fmt: skip
    parser.add_argument("--threads", type=int, default=2,
                        help="of fits; as many students are trained at once [default: 2]")  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: two students of each set, one epoch"
    )
    given = parser.parse_args(arguments)
    use_threads(given.threads)
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    names = given.data or list(DATA)
    options = Options("students", given.work, given.out, 0, given.threads, given.quick)
    for name in names:
        rows = train_all(name, options)
        report.write(given.out, name, rows)
    report.write_tables(given.out)


def train_all(name: str, options: Options) -> list[dict[str, str]]:
    """Train the students of one set of images, and return the rows of the table."""
    table = options.out / f"{name}.csv"  # type: ignore[operator]
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = read_csv(table)[1] if table.is_file() else []
    known = {tuple(row[column] for column in KEY) for row in rows}
    todo = [job for job in jobs(name) if tuple(map(str, _key(job).values())) not in known]
    if options.quick:
        todo = [job for job in todo if job.arm.name in ("fp16", "int4") and job.seed == 0][:2]
    if not todo:
        return rows
    room = Room(name, options.data, options.quick)
    files = list(dict.fromkeys((job.label_set, job.arm) for job in todo))
    for label_set in dict.fromkeys(label_set for label_set, _ in files):
        room.views(label_set)
    about = facts(options) | {"command": f"python benchmarks/students {name}", "precision": _precision()}
    about["teacher_top1"] = f"{room.teacher_top1:.4f}"
    spawn = multiprocessing.get_context("spawn")
    of_a_process = (name, options.data, options.quick)
    with ProcessPoolExecutor(options.threads, spawn, _begin, of_a_process) as pool, _bar() as bar:
        task = bar.add_task(f"{name}: labels", total=len(files))
        for done in as_completed([pool.submit(_coded, *file) for file in files]):
            done.result()
            bar.advance(task)
        task = bar.add_task(f"{name}: students", total=len(todo))
        for done in as_completed([pool.submit(_row, job) for job in todo]):
            rows.append(done.result())
            write_csv(table, about, rows)
            bar.advance(task)
    return rows


def _begin(name: str, work: Path, quick: bool) -> None:
    """Make what the students of a process share."""
    global _room
    use_threads(1)  # two students at once are faster than one with two threads
    _room = Room(name, work, quick)


def _coded(label_set: LabelSet, arm: arms.Arm) -> None:
    _room.coded(label_set, arm)


def _row(job: Job) -> dict[str, str]:
    return _room.row(job)


def _key(job: Job) -> dict[str, Any]:
    return {**asdict(job.label_set), "arm": job.arm.name, "T": job.temperature, "seed": job.seed}


class Room:
    """What students of one set of images share: images, teacher and files, each made when it is first needed.

    Args:
        name: of the images.
        work: folder where all of it is kept.
        quick: whether everything is cut short.
    """

    def __init__(self, name: str, work: Path, quick: bool) -> None:
        self.data, self.quick = DATA[name], quick
        if quick:
            self.data = replace(self.data, teacher=replace(self.data.teacher, epochs=1))
        self.work, self.name = work / ("quick" if quick else ""), name
        self.pictures = self.data.load(work / "packages")
        self._images: dict[LabelSet, Part] = {}

    @cached_property
    def teacher(self) -> torch.nn.Module:
        """The teacher, in evaluation mode."""
        path = self.work / f"{self.name}-teacher.safetensors"
        with _bar() as bar:
            task = bar.add_task(f"{self.name}: teacher")
            return trained(
                self.pictures,
                self.data.teacher,
                path,
                lambda done, n: bar.update(task, completed=done, total=n),
            )

    @cached_property
    def teacher_top1(self) -> float:
        """The teacher's accuracy on the test images."""
        return top1(self.teacher, self.pictures.test, self.pictures)

    @cached_property
    def tests(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Pixels and classes of test and validation images."""
        parts = (self.pictures.test, self.pictures.validation)
        return tuple((pixels_of(part, self.pictures), part.targets_N) for part in parts)

    def images(self, label_set: LabelSet) -> Part:
        """Return the images that a student has; kept, for a teacher judges thousands of crops."""
        if label_set not in self._images:
            self._images[label_set] = chosen(
                self.pictures, label_set.source, label_set.per_class, self.teacher, label_set.draw
            )
        return self._images[label_set]

    def views(self, label_set: LabelSet) -> torch.Tensor:
        """Return the pixels of all views, uint8 [N, V, C, H, W]."""
        path = self.folder(label_set) / "views.safetensors"
        if not path.is_file():
            pixels = views_of(self.images(label_set), path.with_name("full.spk"), self.pictures.size)
            save_file({"views": pixels}, path)
        return _views(path)

    def folder(self, label_set: LabelSet) -> Path:
        """Return the folder of a label set, with all labels and with one an image."""
        folder = self.work / label_set.slug
        full = softpack.Recipe(seed=label_set.draw, **self.data.recipe)
        whole = softpack.Recipe(size=full.size, scale=None, flip=0.0)
        for name, recipe, views in (("full", full, label_set.views), ("image", whole, 1)):
            if not (out := folder / f"{name}.spk").is_file():
                folder.mkdir(parents=True, exist_ok=True)
                mean, std = self.pictures.mean_std
                softpack.relabel(
                    self.teacher, self.images(label_set), views, recipe, out, "raw", dtype="fp16", mean=mean, std=std,
                    batch_size=500,
                )  # fmt: skip
        return folder

    def coded(self, label_set: LabelSet, arm: arms.Arm) -> tuple[Path, arms.Cost]:
        """Return the file of an arm, and what it costs."""
        folder = self.folder(label_set)
        full, per_image = folder / "full.spk", folder / "image.spk"
        out = full if arm == arms.FP16 else folder / f"{arm.slug}.spk"
        known = folder / f"{arm.slug}.json"
        if not known.is_file():
            if out != full:
                arms.write(arm, full, per_image, out, label_set.batch, label_set.draw)
            known.write_text(json.dumps(asdict(arms.cost(arm, full, per_image, out))))
        return out, arms.Cost(**json.loads(known.read_text()))

    def row(self, job: Job) -> dict[str, str]:
        """Train a student and return its row of the table."""
        path, cost = self.coded(job.label_set, job.arm)
        schedule = job.schedule
        if self.quick:
            schedule = replace(schedule, epochs=1)
        begun = time.perf_counter()
        test, validation = trained_accuracy(
            self.views(job.label_set), self.pictures.mean_std, path, self.tests, schedule, self.data.widths,
            job.temperature, job.seed, job.arm.is_pool,
        )  # fmt: skip
        kl1, kl4, kl20 = cost.kl or ("", "", "")
        found = {
            **_key(job), "ours": int(job.arm.ours), "schedule": schedule.known_as, "epochs": schedule.epochs,
            "batch": schedule.batch, "lr": schedule.lr, "accuracy": test, "validation": validation,
            "all_in_bits": cost.all_in, "marginal_bits": cost.marginal, "model_bits": cost.model,
            "replay_bits": cost.replay, "kl1": kl1, "kl4": kl4, "kl20": kl20,
            "seconds": round(time.perf_counter() - begun, 1),
        }  # fmt: skip
        return {
            name: f"{value:.5g}" if isinstance(value, float) else str(value) for name, value in found.items()
        }


def _precision() -> str:
    with autocast():
        return "bfloat16" if torch.is_autocast_enabled("cpu") else "float32"


@lru_cache(maxsize=2)
def _views(path: Path) -> torch.Tensor:
    return load_file(path)["views"]


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not os.isatty(2)) as bar:
        yield bar

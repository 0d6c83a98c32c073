"""Make what is not there yet, measure what is not in the tables yet, draw, and throw away what must not stay."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from common import Options, facts, read_csv, use_threads, write_csv
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from language import distillkit, fidelity, report, targets
from language.arms import FIDELITY, HARD, STUDENTS, Arm
from language.decoded import bytes_a_token
from language.network import autocast
from language.room import TOGETHER, Room
from language.student import Hard, Recipe, measured, trained
from language.text import FULL, QUICK, Sizes

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Args:
        sizes: of the text.
        fit: sequences of training text that codecs are fitted to, and those that hold no whole rows of them.
        fidelity: sequences of the test that labels are compared on.
        classes: of the student's vocabulary, without the one for all others.
        recipe: of students.
        seeds: of students.
    """

    sizes: Sizes = FULL
    fit: tuple[int, int] = (8, 80)
    fidelity: int = 16
    classes: int = 4096
    recipe: Recipe = field(default_factory=Recipe)
    seeds: tuple[int, ...] = (0, 1, 2)

    @classmethod
    def quick(cls) -> Plan:
        """Return one that shows that everything works; its figures mean nothing."""
        return cls(QUICK, (2, 2), 2, 64, Recipe(width=32, depth=1, epochs=2, batch=4), (0,))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    given = _parser().parse_args(arguments)
    use_threads(given.threads)
    distillkit.use(given.distillkit)
    work = given.work / "quick" if given.quick else given.work
    plan = Plan.quick() if given.quick else Plan()
    room = Room(work, plan.sizes, plan.fit, _bar)
    options = Options("language", given.work, None, 0, given.threads, given.quick)
    about = facts(options) | {"command": _command(given), "precision": _precision()}
    out = given.out or (Path("quick-results") if given.quick else FOLDER / "results")
    out.mkdir(parents=True, exist_ok=True)
    room.prepare()
    if given.table != "students":
        add_fidelity(room, plan, _wanted(FIDELITY, room, given), out / "fidelity.csv", about)
    if given.table != "fidelity":
        arms = _wanted(STUDENTS, room, given)
        add_students(room, plan, arms, out / "students.csv", about, given.threads)
    report.write(out)
    if not (given.keep or given.table or given.arms != [""]):  # what another run may want
        shutil.rmtree(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="language", description="Bytes a token over KL, and what students learn from them."
    )

    add = parser.add_argument
    add("--work", type=Path, default=FOLDER / "work", metavar="DIR",
        help="keeps text, teacher and labels until all is done [default: benchmarks/language/work]")  # fmt: skip
    add("-o", "--out", type=Path, metavar="DIR",
        help="tables and pictures; what is in the tables is not measured again "
             "[default: benchmarks/language/results; with --quick ./quick-results]")  # fmt: skip
    add("--table", choices=("fidelity", "students"), help="only this one")
    add("--arms", nargs="+", default=[""], metavar="TEXT", help="only arms in whose name one of these stands")
    add("--distillkit", type=Path, metavar="DIR",
        help="a clone of github.com/arcee-ai/DistillKit, whose own program then makes its arms")  # fmt: skip
    add("--threads", type=int, default=2,
        help="of products; as many students are trained at once [default: 2]")  # fmt: skip
    add("--quick", action="store_true", help="a smoke test of minutes, whose figures mean nothing")
    add("--keep", action="store_true",
        help="leave the work folder, as runs for a part of the tables do; by the teacher's terms nothing in it may be "
             "given away")  # fmt: skip
    return parser


def _wanted(arms: Sequence[Arm], room: Room, given: argparse.Namespace) -> list[Arm]:
    """Return the arms that are asked for and can be made here, and say why others cannot."""
    found: list[Arm] = []
    for arm in arms:
        if not any(text in arm.name for text in given.arms):
            continue
        if given.quick and (arm.codec, arm.layout) in {(other.codec, other.layout) for other in found}:
            continue  # one of each is enough to show that it works
        why = distillkit.why_not() if arm.codec == "distillkit" else room.why_not(arm)
        if why:
            print(f"left out: {arm.name}: {why}", flush=True)
        else:
            found.append(arm)
    return found


# -- fidelity ------------------------------------------------------------------------------------------


def add_fidelity(room: Room, plan: Plan, arms: Sequence[Arm], table: Path, about: dict[str, str]) -> None:
    """Measure the arms that are not in the table, and add them one by one."""
    rows = read_csv(table)[1] if table.is_file() else []
    known = {row["arm"] for row in rows}
    todo = [arm for arm in arms if arm.name not in known]
    for arm in todo:
        rows.append(_shown(fidelity.compare(room, arm, plan.fidelity)))
        write_csv(table, about, rows)
        room.path(arm, "test").unlink(missing_ok=True)  # gigabytes, where whole rows are kept


# -- students ------------------------------------------------------------------------------------------


def add_students(
    room: Room, plan: Plan, arms: Sequence[Arm], table: Path, about: dict[str, str], threads: int
) -> None:
    """Train the students that are not in the table, and add them one by one."""
    rows = read_csv(table)[1] if table.is_file() else []
    known = {(row["arm"], int(row["seed"])) for row in rows}
    todo = {arm: [seed for seed in plan.seeds if (arm.name, seed) not in known] for arm in arms}
    todo = {arm: seeds for arm, seeds in todo.items() if seeds}
    if not todo:
        return
    vocabulary = vocabulary_of(room, plan)
    about = about | _text_facts(room, vocabulary)
    missing = {arm.slug: arm for arm in todo if arm.codec != HARD.codec and not _targets(room, arm).is_dir()}
    everyone = range(len(room.tokens("train")))
    direct = [_writer(room, arm, vocabulary) for arm in missing.values() if not arm.has_file]
    room.write(list(missing.values()), "train", everyone, direct)
    for writer in direct:
        writer.close()
    left = [arm.slug for arm in todo]
    with _pool(threads) as run:
        for arm, seeds in todo.items():
            if arm.codec != HARD.codec and not _targets(room, arm).is_dir():
                writer = _writer(room, arm, vocabulary)
                with _bar(f"targets: {arm.name}", len(everyone)) as step:
                    step(writer.n_done)
                    for number in everyone[writer.n_done :]:
                        writer.add(number, torch.empty(0))
                        step()
                        if (number + 1) % TOGETHER == 0:
                            writer.commit(number + 1)
                writer.commit(len(everyone))
                writer.close()
            with _bar(f"students: {arm.name}", len(seeds)) as step:
                for row in run(student_row, [(room.work, plan, arm, seed) for seed in seeds]):
                    rows.append(_shown(row))
                    write_csv(table, about, rows)
                    step()
            left.remove(arm.slug)
            if arm.slug not in left:
                shutil.rmtree(_targets(room, arm), ignore_errors=True)  # gigabytes


def _targets(room: Room, arm: Arm) -> Path:
    return room.work / "targets" / arm.slug


def _writer(room: Room, arm: Arm, vocabulary: targets.Vocabulary) -> targets.Writer:
    return targets.Writer(room, arm, vocabulary, _targets(room, arm))


@contextmanager
def _pool(n: int) -> Iterator[Callable[..., Iterator[dict[str, Any]]]]:
    """Give what calls a function with many arguments, in so many processes, and yields what is done as it comes."""
    if n == 1:
        yield lambda work, jobs: (work(*job) for job in jobs)
        return
    with ProcessPoolExecutor(n, multiprocessing.get_context("spawn")) as pool:
        yield lambda work, jobs: (
            done.result() for done in as_completed([pool.submit(work, *job) for job in jobs])
        )


def vocabulary_of(room: Room, plan: Plan) -> targets.Vocabulary:
    """Return the tokens that students know."""
    return targets.Vocabulary.of_text(room.tokens("train"), room.output.shape[0], plan.classes)


def student_row(work: Path, plan: Plan, arm: Arm, seed: int) -> dict[str, Any]:
    """Train one student and return its row of the table."""
    use_threads(1)  # two students at once are faster than one with two threads
    room = Room(work, plan.sizes, plan.fit, _no_bar)
    vocabulary = vocabulary_of(room, plan)
    tokens_NL = vocabulary.of_tokens(room.tokens("train"))
    labels = (
        Hard(tokens_NL[:, 1:])
        if arm.codec == HARD.codec
        else targets.Soft(_targets(room, arm), vocabulary, arm.tail)
    )
    recipe = replace(plan.recipe, epochs=arm.epochs or plan.recipe.epochs)
    begun = time.perf_counter()
    student = trained(tokens_NL, labels, vocabulary.classes, recipe, seed)
    taken = time.perf_counter() - begun
    found = {
        part: measured(student, vocabulary.of_tokens(room.tokens(part))) for part in ("test", "validation")
    }
    n_bytes, shared = bytes_a_token(arm, room, "train")
    return {
        "arm": arm.name, "seed": seed, "ours": int(arm.ours), "codec": arm.codec,
        "settings": " ".join(f"{name}={value}" for name, value in arm.settings.items()), "layout": arm.layout,
        "tail": arm.tail, "bytes": n_bytes, "shared_MB": shared, **asdict(found["test"]),
        "validation": found["validation"].cross_entropy, **asdict(recipe),
        "parameters": sum(p.numel() for p in student.parameters()), "seconds": round(taken, 1),
    }  # fmt: skip


def _text_facts(room: Room, vocabulary: targets.Vocabulary) -> dict[str, str]:
    n_tokens = {part: room.tokens(part)[:, 1:].size for part in ("train", "validation", "test")}
    known = (vocabulary.of_tokens(room.tokens("test"))[:, 1:] < vocabulary.classes - 1).double().mean()
    return {f"{part}_tokens": str(n) for part, n in n_tokens.items()} | {
        "student_classes": str(vocabulary.classes), "test_tokens_known": f"{float(known):.4f}"
    }  # fmt: skip


# -- how it is said ------------------------------------------------------------------------------------


def _shown(row: dict[str, Any]) -> dict[str, str]:
    return {name: f"{value:.5g}" if isinstance(value, float) else str(value) for name, value in row.items()}


def _command(given: argparse.Namespace) -> str:
    words = ["python", "benchmarks/language", "--threads", str(given.threads)]
    return shlex.join(words + ["--distillkit", "DIR"] * bool(given.distillkit) + ["--quick"] * given.quick)


def _precision() -> str:
    with autocast():
        return "bfloat16" if torch.is_autocast_enabled("cpu") else "float32"


@contextmanager
def _no_bar(what: str, n: int) -> Iterator[Callable[..., None]]:
    yield lambda n=1: None


@contextmanager
def _bar(what: str, n: int) -> Iterator[Callable[..., None]]:
    if not os.isatty(2):
        yield _Lines(what, n)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=n)
        yield lambda n=1: bar.advance(task, n)


class _Lines:
    """Progress for a file of output: a line for every tenth that is done."""

    def __init__(self, what: str, n: int) -> None:
        self._what, self._n, self._done, self._begun = what, n, 0, time.perf_counter()

    def __call__(self, n: int = 1) -> None:
        tenths = 10 * self._done // self._n
        self._done += n
        if 10 * self._done // self._n > tenths:
            taken = time.perf_counter() - self._begun
            print(f"{self._what}: {self._done}/{self._n}, {taken:.0f} s", file=sys.stderr, flush=True)

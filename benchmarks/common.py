"""What all benchmarks share: options, the label set, timing, and CSV files that say how they were made."""

from __future__ import annotations

import argparse
import csv
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LITE0 = "imagenet_lite0.npz"  # 18,600 rows: 300 photos x 62 views, 1000 classes
CLASSES = 1000


@dataclass(frozen=True)
class Options:
    """What every benchmark is told.

    Args:
        name: of the benchmark.
        data: folder of the label sets.
        out: CSV to write; None writes nothing.
        seed: of fits and of random orders.
        threads: of torch.
        quick: a smoke test: little data, few repeats, figures of no worth.
    """

    name: str
    data: Path
    out: Path | None
    seed: int
    threads: int
    quick: bool

    @property
    def lite0(self) -> Path:
        """The path of the real label set; ends the program with advice where it is not there."""
        path = self.data / LITE0
        if not path.is_file():
            sys.exit(f"{self.name}: {path} is not there; give the folder that holds {LITE0} with --data DIR")
        return path

    @property
    def command(self) -> str:
        """The command that gives the same figures, without the paths of this machine."""
        words = [
            "python",
            f"benchmarks/{self.name}.py",
            "--seed",
            str(self.seed),
            "--threads",
            str(self.threads),
        ]
        return shlex.join(words + ["--quick"] * self.quick)


def options(name: str, about: str, arguments: Sequence[str] | None = None) -> Options:
    """Return the options of a benchmark from the command line."""
    parser = argparse.ArgumentParser(prog=f"{name}.py", description=about)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="DIR",
                        help=f"folder that holds {LITE0} [default: ../shared/data beside the repository]")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, metavar="CSV",
                        help=f"[default: benchmarks/results/{name}.csv; nothing with --quick]")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of fits and random orders [default: 0]")
    parser.add_argument("--threads", type=int, default=2, help="of torch [default: 2]")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test of seconds, whose figures mean nothing"
    )
    given = parser.parse_args(arguments)
    default = None if given.quick else ROOT / "benchmarks" / "results" / f"{name}.csv"
    return Options(name, given.data, given.out or default, given.seed, given.threads, given.quick)


def use_threads(n_threads: int) -> None:
    """Hold torch to so many threads."""
    import torch

    torch.set_num_threads(n_threads)


# -- figures -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A figure that was taken several times.

    Args:
        median: of them.
        least: of them.
        most: of them.
    """

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values."""
        return cls(statistics.median(values), min(values), max(values))

    def columns(self, name: str) -> dict[str, float]:
        """Return the columns `name`, `name_min` and `name_max`."""
        return {name: self.median, f"{name}_min": self.least, f"{name}_max": self.most}


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rates(steps: Mapping[str, Callable[[int], int]], at_least: float, repeats: int) -> dict[str, Spread]:
    """Return rows a second of several ways to do the same, as `turns` does them."""
    return {name: Spread.of(values) for name, values in turns(steps, at_least, repeats).items()}


def turns(steps: Mapping[str, Callable[[int], int]], at_least: float, repeats: int) -> dict[str, list[float]]:
    """Return rows a second of several ways to do the same, in each turn.

    The ways take turns, so that a slow spell of the machine meets all of them.

    Args:
        steps: by name, a function that does step 0, 1, 2, ... and returns how many rows it did.
        at_least: seconds that each way works in each turn; 0 for one step.
        repeats: turns that count; one before warms up.
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    number = dict.fromkeys(steps, 0)
    for turn in range(repeats + 1):
        for name, step in steps.items():
            rows, start = 0, time.perf_counter()
            while not rows or time.perf_counter() - start < at_least:
                rows += step(number[name])
                number[name] += 1
            if turn:
                found[name].append(rows / (time.perf_counter() - start))
    return found


def beyond(rates: Sequence[float], base: Sequence[float]) -> Spread:
    """Return what a way takes beyond another as a share, turn by turn: the median, and 95% bounds of it.

    What two ways take in one turn is told apart far below what the machine changes between turns. The bounds are the
    order statistics between which the median lies 95 times in 100, whatever the distribution.

    Args:
        rates: rows a second of the way in each turn.
        base: of the other.
    """
    ratios = sorted(b / a - 1 for a, b in zip(rates, base, strict=True))
    low = max(0, math.floor(len(ratios) / 2 - 0.98 * math.sqrt(len(ratios))))
    return Spread(statistics.median(ratios), ratios[low], ratios[-1 - low])


def process_cost(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Return seconds and peak megabytes of a process and its helpers; ends the program where it fails."""
    peaks_kb: dict[int, int] = {}
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            for pid in [process.pid, *_children(process.pid)]:
                peaks_kb[pid] = _peak_kb(pid) or peaks_kb.get(pid, 0)
            time.sleep(0.02)
        took = time.perf_counter() - start
        said.seek(0)
        if process.returncode:
            sys.exit(said.read().decode())
    return took, sum(peaks_kb.values()) / 1000


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _peak_kb(pid: int) -> int:
    """Return the most memory that a process has held; not that of the process that began it, as wait4 would."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0] if "VmHWM:" in status else 0)


# -- results -------------------------------------------------------------------------------------------


@dataclass
class Results:
    """Rows of a table, printed and written as they come.

    Args:
        given: how the benchmark was called.
        rows: so far, all with the same columns.
    """

    given: Options
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.facts = facts(self.given)

    def add(self, **row: Any) -> None:
        """Add a row, print it, and write the table so far."""
        shown = {
            name: f"{value:.5g}" if isinstance(value, float) else str(value) for name, value in row.items()
        }
        self.rows.append(shown)
        print("  ".join(f"{name}={value}" for name, value in shown.items() if value), flush=True)
        if self.given.out is not None:
            self.given.out.parent.mkdir(parents=True, exist_ok=True)
            write_csv(self.given.out, self.facts, self.rows)


def write_csv(path: Path, facts: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that have the same columns, below `# key: value` lines."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in facts.items())
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the facts and the rows of a CSV that `write_csv` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    n_facts = next((n for n, line in enumerate(lines) if not line.startswith("# ")), len(lines))
    facts = dict(line[2:].split(": ", 1) for line in lines[:n_facts])
    return facts, list(csv.DictReader(lines[n_facts:]))


def facts(given: Options) -> dict[str, str]:
    """Return what must be known to read or repeat a figure: command, commit, machine, versions."""
    packages = ("torch", "numpy", "zstandard")
    return {
        "command": given.command,
        "seed": str(given.seed),
        "threads": str(given.threads),
        "commit": _commit(),
        "cpu": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "system": platform.system(),
        "python": platform.python_version(),
        "softpack": _softpack_version(),
        **{name: _installed(name) for name in packages},
    }


def _softpack_version() -> str:
    from softpack import __version__

    return __version__


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return the commit of the code, with -dirty where softpack or the benchmarks differ from it."""
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "softpack", "benchmarks/*.py")
    return "unknown" if not head else f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()

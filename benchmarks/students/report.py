"""Tables and pictures of accuracy over bits: means over seeds and draws, with their ranges."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from common import read_csv

Row = Mapping[str, str]
GROUP = ("data", "source", "per_class", "views", "T")
SLACK = 1.02  # bits that count as equal
COLORS = {"softpack": "#b2182b", "vqae": "#ef8a62", "LPLD": "#2166ac", "LPQLD": "#67a9cf", "FKD": "#1b7837",
          "TinyViT": "#5aae61", "PCA": "#762a83", "int": "#999999"}  # fmt: skip
COLUMNS = 4  # of panels beside each other
OTHER = "#4d4d4d"
LINE = 0.032  # of the height of a panel, that a line of text takes


@dataclass(frozen=True)
class Point:
    """An arm under one setting.

    Args:
        arm: its name.
        ours: whether it is softpack's own.
        n: students.
        accuracy: their mean; `least` and `most` are the range.
        kept: mean of the share of the accuracy that fp16 labels give under the same seed, nan without these.
        marginal: bits a label; `all_in` with model and replay.
        kl: at T = 1, 4 and 20, or blanks.
        better: the best peer that takes no more marginal bits and is more accurate, or "".
    """

    group: tuple[str, ...]
    arm: str
    ours: bool
    n: int
    accuracy: float
    least: float
    most: float
    kept: float
    marginal: float
    all_in: float
    kl: tuple[str, str, str]
    better: str = ""


def points(rows: Iterable[Row]) -> list[Point]:
    """Return the arms of a table, hard labels beside every temperature."""
    rows = list(rows)
    groups = dict.fromkeys(tuple(row[name] for name in GROUP) for row in rows if row["arm"] != "hard")
    found = []
    for group in groups:
        here = [row for row in rows if _in(row, group)]
        full = {(row["draw"], row["seed"]): float(row["accuracy"]) for row in here if row["arm"] == "fp16"}
        arms = dict.fromkeys(row["arm"] for row in here)
        found += _compared([_point(group, [row for row in here if row["arm"] == arm], full) for arm in arms])
    return found


def _in(row: Row, group: tuple[str, ...]) -> bool:
    own = tuple(row[name] for name in GROUP)
    return own == group or (row["arm"] == "hard" and own[:-1] == group[:-1])


def _point(group: tuple[str, ...], rows: Sequence[Row], full: Mapping[tuple[str, str], float]) -> Point:
    accuracies = [float(row["accuracy"]) for row in rows]
    pairs = [(float(row["accuracy"]), full.get((row["draw"], row["seed"]))) for row in rows]
    kept = [accuracy / of for accuracy, of in pairs if of]
    mean = {name: fmean(float(row[name]) for row in rows) for name in ("marginal_bits", "all_in_bits")}
    kl = tuple(_mean_or_blank([row[name] for row in rows]) for name in ("kl1", "kl4", "kl20"))
    return Point(
        group, rows[0]["arm"], rows[0]["ours"] == "1", len(rows), fmean(accuracies), min(accuracies), max(accuracies),
        fmean(kept) if kept else float("nan"), mean["marginal_bits"], mean["all_in_bits"], kl,
    )  # fmt: skip


def _mean_or_blank(values: Sequence[str]) -> str:
    return "" if "" in values else f"{fmean(map(float, values)):.4f}"


def _compared(here: list[Point]) -> list[Point]:
    """Return points of one group, ours with the best peer that beats them at no more bits."""
    found = []
    for point in here:
        rivals = [peer for peer in here if not peer.ours and peer.marginal <= point.marginal * SLACK]
        peers = [peer for peer in rivals if point.ours and peer.accuracy > point.accuracy]
        best = max(peers, key=lambda peer: peer.accuracy, default=None)
        found.append(point if best is None else replace(point, better=best.arm))
    return found


def write(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Draw the picture of one set of images."""
    try:
        import matplotlib
    except ImportError:
        print("students: pictures need matplotlib: pip install 'softpack[plots]'")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = points(rows)
    groups = [
        group for group in dict.fromkeys(p.group for p in found) if sum(p.group == group for p in found) > 4
    ]
    if not groups:
        return
    columns = min(len(groups), COLUMNS)
    rows = -(-len(groups) // columns)
    figure, panels = pyplot.subplots(
        rows, columns, figsize=(6.4 * columns, 5.6 * rows), layout="constrained", squeeze=False, sharey=True
    )
    for panel, group in itertools.zip_longest(panels.flat, groups):
        if group is None:
            panel.remove()
        else:
            _draw(panel, [point for point in found if point.group == group])
    for panel in panels[:, 0]:
        panel.set_ylabel("test accuracy of the last epoch, %")
    for suffix in ("png", "svg"):
        figure.savefig(
            folder / f"{name}.{suffix}", dpi=110, metadata={"Date": None} if suffix == "svg" else None
        )
    pyplot.close(figure)


def _draw(panel: Any, here: Sequence[Point]) -> None:
    _, source, per_class, views, temperature = here[0].group
    panel.set(
        xscale="log", xlabel="bits a label, all in",
        title=f"{source} images, {per_class} a class, {views} views, T = {temperature}",
    )  # fmt: skip
    for point in here:
        spread = [[100 * (point.accuracy - point.least)], [100 * (point.most - point.accuracy)]]
        style = {"fmt": "o" if point.ours else "s", "ms": 7 if point.ours else 5, "capsize": 2}
        panel.errorbar(point.all_in, 100 * point.accuracy, spread, color=_color(point), **style)
    heights = _apart(
        [100 * point.accuracy for point in here], LINE * (panel.get_ylim()[1] - panel.get_ylim()[0])
    )
    right = max(point.all_in for point in here)
    for point, height in zip(here, heights, strict=True):
        panel.annotate(
            point.arm, (point.all_in, 100 * point.accuracy), (2.5 * right, height), fontsize=7, color=_color(point),
            va="center", annotation_clip=False, arrowprops={"arrowstyle": "-", "color": _color(point), "lw": 0.3},
        )  # fmt: skip
    panel.grid(alpha=0.25)


def _color(point: Point) -> str:
    return next((color for start, color in COLORS.items() if point.arm.startswith(start)), OTHER)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Return heights of lines of text, each near its own and none nearer to another than a gap."""
    found = list(heights)
    order = sorted(range(len(found)), key=lambda n: -heights[n])
    for above, n in itertools.pairwise(order):
        found[n] = min(found[n], found[above] - gap)
    return found


HEADER = (
    "labels",
    "marginal",
    "all in",
    "accuracy",
    "range",
    "of fp16",
    "KL T=1",
    "T=4",
    "T=20",
    "better peer",
)


def write_tables(folder: Path) -> None:
    """Write all tables as one CSV and as Markdown."""
    every: list[Point] = []
    parts = ["Written by `python benchmarks/students`; not by hand.\n"]
    for table in sorted(folder.glob("*.csv")):
        if table.stem == "summary":
            continue
        facts, rows = read_csv(table)
        found = points(rows)
        every += found
        parts += _tables(table.stem, facts, rows, found)
    (folder / "tables.md").write_text("\n".join(parts), encoding="utf-8")
    names = (
        *GROUP,
        "arm",
        "n",
        "accuracy",
        "least",
        "most",
        "kept",
        "marginal_bits",
        "all_in_bits",
        "better_peer",
    )
    with (folder / "summary.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for p in every:
            writer.writerow([*p.group, p.arm, p.n, f"{p.accuracy:.4f}", f"{p.least:.4f}", f"{p.most:.4f}",
                             f"{p.kept:.4f}", f"{p.marginal:.5g}", f"{p.all_in:.5g}", p.better])  # fmt: skip


def _tables(name: str, facts: Mapping[str, str], rows: Sequence[Row], found: Sequence[Point]) -> list[str]:
    minutes = sum(float(row["seconds"]) for row in rows) / 60
    parts = [
        f"## {name}\n",
        f"Teacher: {100 * float(facts['teacher_top1']):.1f}% on the test images. {len(rows)} students, "
        f"{minutes:.0f} minutes of students' time; {facts['cpu']}, {facts['threads']} threads, {facts['precision']}, "
        f"torch {facts['torch']}.\n",
    ]
    for group in dict.fromkeys(point.group for point in found):
        _, source, per_class, views, temperature = group
        schedule = next(row["schedule"] for row in rows if _in(row, group))
        parts.append(
            f"### {name}, {source} images, {per_class} a class, {views} views, T = {temperature} ({schedule})\n"
        )
        parts += ["| " + " | ".join(HEADER) + " |", "|---|" + "--:|" * (len(HEADER) - 2) + "---|"]
        here = [point for point in found if point.group == group]
        parts += [_line(point) for point in sorted(here, key=lambda point: -point.marginal)] + [""]
    return parts


def _bits(n_bits: float) -> str:
    return f"{n_bits:,.0f}" if n_bits >= 100 else f"{n_bits:.3g}"


def _line(point: Point) -> str:
    name = f"**{point.arm}**" if point.ours else point.arm
    cells = (
        name, _bits(point.marginal), _bits(point.all_in), f"{100 * point.accuracy:.1f}",
        f"{100 * point.least:.1f} to {100 * point.most:.1f}", f"{100 * point.kept:.1f}%", *point.kl, point.better,
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"

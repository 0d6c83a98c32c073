"""Tables and pictures, from the two CSV files alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from common import read_csv

Row = Mapping[str, str]
COLORS = {"head": "#b2182b", "klt": "#ef8a62", "topk": "#1b7837", "sample": "#762a83", "polyk": "#2166ac",
          "distillkit": "#67a9cf", "lowrank": "#8c6d31", "vqae": "#e08214"}  # fmt: skip
OTHER = "#6b6b6b"
DENSE, HARD = "dense", "hard"  # codecs of the two students that all others stand between
MOST_SHOWN = 2000  # bytes a token: what takes more would leave no room for the others, and is in the table
LINE = 0.034  # of the height of a panel, that a line of text takes


@dataclass(frozen=True)
class Point:
    """The students of one arm.

    Args:
        arm: its name.
        codec: its codec.
        ours: whether it is softpack's own.
        n: students.
        n_bytes: of a token.
        shared: megabytes that all tokens share.
        nats: cross-entropy of held-out text, its mean; `least` and `most` are the range.
        beyond: mean of what it is above dense logits under the same seed, nan without these.
        ece: mean of the expected calibration error.
        top1: mean share of tokens that are guessed.
    """

    arm: str
    codec: str
    ours: bool
    n: int
    n_bytes: float
    shared: float
    nats: float
    least: float
    most: float
    beyond: float
    ece: float
    top1: float


def points(rows: Sequence[Row]) -> list[Point]:
    """Return the arms of the table of students, least cross-entropy first."""
    dense = {row["seed"]: float(row["cross_entropy"]) for row in rows if row["codec"] == DENSE}
    names = dict.fromkeys(row["arm"] for row in rows)
    found = [_point([row for row in rows if row["arm"] == name], dense) for name in names]
    return sorted(found, key=lambda point: point.nats)


def _point(rows: Sequence[Row], dense: Mapping[str, float]) -> Point:
    nats = [float(row["cross_entropy"]) for row in rows]
    pairs = [float(row["cross_entropy"]) - dense[row["seed"]] for row in rows if row["seed"] in dense]
    first = rows[0]
    return Point(
        first["arm"], first["codec"], first["ours"] == "1", len(rows), _mean(rows, "bytes"), _mean(rows, "shared_MB"),
        fmean(nats), min(nats), max(nats), fmean(pairs) if pairs else math.nan, _mean(rows, "ece"), _mean(rows, "top1"),
    )  # fmt: skip


def _mean(rows: Sequence[Row], name: str) -> float:
    return fmean(float(row[name]) for row in rows)


# -- tables --------------------------------------------------------------------------------------------


def write(folder: Path) -> None:
    """Write `tables.md` and the pictures beside the CSV files."""
    parts = ["Written by `python benchmarks/language`; not by hand.\n"]
    tables = {path.stem: read_csv(path) for path in sorted(folder.glob("*.csv"))}
    if "fidelity" in tables:
        parts += _fidelity(*tables["fidelity"])
    if "students" in tables:
        parts += _students(*tables["students"])
    (folder / "tables.md").write_text("\n".join(parts), encoding="utf-8")
    _draw(folder, {name: rows for name, (_, rows) in tables.items()})


def _fidelity(facts: Mapping[str, str], rows: Sequence[Row]) -> list[str]:
    head = (
        "labels",
        "bytes a token",
        "shared MB",
        "KL T=1",
        "99%",
        "KL T=2",
        "top-1",
        "fit s",
        "write ms",
        "read ms",
    )
    lines = [
        (_name(row["arm"], row["ours"] == "1"), _size(float(row["bytes"])), f"{float(row['shared_MB']):.3g}",
         *(_kl(row[name]) for name in ("kl1", "kl1_p99", "kl2")), f"{float(row['top1']):.3f}",
         *(_time(row[name]) for name in ("fit_s", "write_ms", "read_ms")))
        for row in sorted(rows, key=lambda row: float(row["bytes"]))
    ]  # fmt: skip
    product = median(float(row["product_ms"]) for row in rows)
    about = (
        f"{rows[0]['rows']} tokens of documents that no codec was fitted to; times to write and read are a token's. "
        f"The teacher's product alone takes {product:.3g} ms a token. No process took more than "
        f"{max(float(row['peak_GiB']) for row in rows):.1f} GiB. {_machine(facts)}\n"
    )
    return ["## Bytes over KL\n", about, *_grid(head, lines)]


def _students(facts: Mapping[str, str], rows: Sequence[Row]) -> list[str]:
    head = (
        "labels",
        "bytes a token",
        "shared MB",
        "cross-entropy",
        "range",
        "above dense",
        "ECE",
        "top-1",
        "n",
    )
    lines = [
        (_name(p.arm, p.ours), _size(p.n_bytes), f"{p.shared:.3g}", f"{p.nats:.4f}", f"{p.least:.4f} to {p.most:.4f}",
         f"{p.beyond:+.4f}", f"{p.ece:.4f}", f"{p.top1:.4f}", str(p.n))
        for p in points(rows)
    ]  # fmt: skip
    first = rows[0]
    minutes = sum(float(row["seconds"]) for row in rows) / 60
    about = (
        f"{int(facts['train_tokens']):,} tokens to train with, {int(facts['test_tokens']):,} to test; students of "
        f"{int(first['parameters']) / 1e6:.1f} million parameters over {facts['student_classes']} classes, which "
        f"{100 * float(facts['test_tokens_known']):.1f}% of the test's tokens are; {first['epochs']} epochs. "
        f"{len(rows)} students, {minutes:.0f} minutes of students' time. {_machine(facts)}\n"
    )
    return ["## Students\n", about, *_grid(head, lines)]


def _machine(facts: Mapping[str, str]) -> str:
    return f"{facts['cpu']}, {facts['threads']} threads, {facts['precision']}, torch {facts['torch']}."


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = "|---|" + "--:|" * (len(head) - 1)
    return ["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines), ""]


def _name(name: str, ours: bool) -> str:
    return f"**{name}**" if ours else name


def _size(n_bytes: float) -> str:
    return f"{n_bytes:,.0f}" if n_bytes >= 100 else f"{n_bytes:.3g}"


def _time(text: str) -> str:
    return "-" if math.isnan(float(text)) else f"{float(text):.3g}"


def _kl(text: str) -> str:
    return "inf" if math.isinf(float(text)) else f"{float(text):.4f}"


# -- pictures ------------------------------------------------------------------------------------------


def _draw(folder: Path, tables: Mapping[str, Sequence[Row]]) -> None:
    try:
        import matplotlib
    except ImportError:
        print("language: pictures need matplotlib: pip install 'softpack[plots]'")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing = {"fidelity": _draw_fidelity, "students": _draw_students}
    for name, rows in tables.items():
        if name not in drawing or len({row["arm"] for row in rows}) < 2:  # nothing to compare
            continue
        figure, panel = pyplot.subplots(figsize=(9, 5.6), layout="constrained")
        drawing[name](panel, rows)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        for suffix in ("png", "svg"):
            figure.savefig(
                folder / f"{name}.{suffix}", dpi=130, metadata={"Date": None} if suffix == "svg" else None
            )
        pyplot.close(figure)


def _draw_fidelity(panel: Any, rows: Sequence[Row]) -> None:
    panel.set(
        xscale="log", yscale="log", xlabel="bytes a token", ylabel="KL(teacher || label), T = 1, nats a token"
    )
    shown = [row for row in rows if 0 < float(row["kl1"]) < math.inf and float(row["bytes"]) < MOST_SHOWN]
    for codec in dict.fromkeys(row["codec"] for row in shown):
        line = _best([(float(row["bytes"]), float(row["kl1"])) for row in shown if _is_ours(row, codec)])
        panel.plot(*zip(*line, strict=True), color=_color(codec), lw=1) if len(line) > 1 else None
    for row in shown:
        _mark(panel, float(row["bytes"]), float(row["kl1"]), row["ours"] == "1", row["codec"])
    ticks = [n for n in (20, 50, 100, 200, 500, 1000) if panel.get_xlim()[0] <= n <= panel.get_xlim()[1]]
    panel.set_xticks(ticks, [str(n) for n in ticks])
    panel.set_xticks([], minor=True)
    heights = [math.log10(float(row["kl1"])) for row in shown]
    low, high = (math.log10(edge) for edge in panel.get_ylim())
    places = [10**height for height in _apart(heights, LINE * (high - low))]
    _name_all(
        panel, [(row["arm"], float(row["bytes"]), float(row["kl1"]), row["codec"]) for row in shown], places
    )


def _is_ours(row: Row, codec: str) -> bool:
    return row["codec"] == codec and row["ours"] == "1"


def _best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return those that have less KL than all of fewer bytes."""
    found: list[tuple[float, float]] = []
    for n_bytes, kl in sorted(points):
        if not found or kl < found[-1][1]:
            found.append((n_bytes, kl))
    return found


def _draw_students(panel: Any, rows: Sequence[Row]) -> None:
    found = points(rows)
    panel.set(xscale="log", xlabel="bytes a token", ylabel="cross-entropy of held-out text, nats a token")
    hard = [point for point in found if point.codec == HARD][:1]  # the best of them
    for point in found:
        if point in hard:
            panel.axhline(point.nats, color=OTHER, lw=1, ls="--")
        if point.codec == DENSE:
            panel.axhspan(point.nats, point.nats + 0.02, color="#fddbc7", lw=0, zorder=0)
    shown = [point for point in found if point.n_bytes > 0]
    for point in shown:
        spread = [[point.nats - point.least], [point.most - point.nats]]
        panel.errorbar(point.n_bytes, point.nats, spread, color=_color(point.codec), capsize=2, fmt="none")
        _mark(panel, point.n_bytes, point.nats, point.ours, point.codec)
    at = min((point.n_bytes for point in shown), default=1.0)
    low, high = panel.get_ylim()
    places = _apart([point.nats for point in shown + hard], LINE * (high - low))
    _name_all(panel, [(p.arm, p.n_bytes or at, p.nats, p.codec) for p in shown + hard], places)


def _mark(panel: Any, x: float, y: float, ours: bool, codec: str) -> None:
    panel.plot(x, y, "o" if ours else "s", ms=7 if ours else 5, color=_color(codec))


def _name_all(panel: Any, named: Sequence[tuple[str, float, float, str]], places: Sequence[float]) -> None:
    """Write names to the right of all points, each at its place and with a line to its point."""
    right = panel.get_xlim()[1] * 1.3
    for (name, x, y, codec), place in zip(named, places, strict=True):
        panel.annotate(
            name, (x, y), (right, place), fontsize=7.5, color=_color(codec), va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": _color(codec), "lw": 0.3, "relpos": (0, 0.5)},
        )  # fmt: skip


def _color(codec: str) -> str:
    return COLORS.get(codec, OTHER)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Return heights of lines of text, each near its own and none nearer to another than a gap."""
    found = list(heights)
    order = sorted(range(len(found)), key=lambda n: -heights[n])
    for above, n in itertools.pairwise(order):
        found[n] = min(found[n], found[above] - gap)
    return found

"""Draw `results/fidelity.png` from `results/fidelity.csv`: KL over marginal bits at three temperatures."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common import ROOT, read_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, str]
Point = tuple[float, float]
TEMPERATURES = (1, 4, 20)
KL_SHOWN = (0.008, 2)  # what lies below is left out
TICKS = (4, 16, 64, 256, 1024, 4096)


@dataclass(frozen=True)
class Curve:
    """One line of the figure.

    Args:
        label: that stands beside it.
        colour: of both.
        wanted: tells its rows.
        end: the point that the label stands at, 0 or -1.
        offset: of the label from that point, in points.
        anchor: the side of the label that is there, horizontally and vertically.
    """

    label: str
    colour: str
    wanted: Callable[[Row], bool]
    end: int
    offset: tuple[int, int]
    anchor: tuple[str, str]


CURVES = (
    Curve("vqae", "#c1272d", lambda row: row["codec"] == "vqae", 0, (0, 6), ("left", "bottom")),
    Curve("low rank", "#0b6e4f", lambda row: row["codec"] == "lowrank", -1, (6, 2), ("left", "bottom")),
    Curve("top-k", "#1f4e9e", lambda row: "tail=uniform" in row["settings"], -1, (7, 0), ("left", "center")),
    Curve("quantised", "#6b6b6b", lambda row: row["codec"] == "quantize", 0, (0, 6), ("left", "bottom")),
)


def main() -> None:
    """Draw the figure."""
    results = ROOT / "benchmarks" / "results"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path, nargs="?", default=results / "fidelity.csv")
    parser.add_argument("-o", "--out", type=Path, default=results / "fidelity.png")
    given = parser.parse_args()
    draw(read_csv(given.csv)[1], given.out)
    print(given.out)


def draw(rows: Sequence[Row], out: Path) -> None:
    """Draw the rows that were fitted and encoded whole."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.8), sharex=True, sharey=True, layout="constrained")
    for panel, temperature in zip(panels, TEMPERATURES, strict=True):
        for curve in CURVES:
            _draw_curve(panel, curve, points(rows, curve, temperature))
        _finish(panel, temperature)
    panels[0].set_ylabel("KL(teacher || decoded) · T²  [nats a label]")
    figure.savefig(out, dpi=200)
    plt.close(figure)


def points(rows: Sequence[Row], curve: Curve, temperature: int) -> list[Point]:
    """Return (marginal bits, mean KL) of the settings that no other of the curve beats, by rising bits.

    Seeds of one setting are averaged; infinite KL is left out.
    """
    seeds: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        kl = float(row[f"kl{temperature}_mean"])
        if row["rows"] == "all" and curve.wanted(row) and math.isfinite(kl):
            seeds[row["settings"]].append((float(row["marginal_bits"]), kl))
    means = sorted(
        tuple(sum(axis) / len(axis) for axis in zip(*found, strict=True)) for found in seeds.values()
    )
    best: list[Point] = []
    for bits, kl in means:
        if not best or kl < best[-1][1]:
            best.append((bits, kl))
    return best


def _draw_curve(panel: Axes, curve: Curve, found: list[Point]) -> None:
    if not found:
        return
    bits, kl = zip(*found, strict=True)
    panel.plot(bits, kl, color=curve.colour, marker="o", markersize=3.5, linewidth=1.4)
    panel.annotate(
        curve.label, found[curve.end], xytext=curve.offset, textcoords="offset points", color=curve.colour,
        ha=curve.anchor[0], va=curve.anchor[1],
    )  # fmt: skip


def _finish(panel: Axes, temperature: int) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(TICKS, [str(tick) for tick in TICKS])
    panel.minorticks_off()
    panel.yaxis.set_major_formatter("{x:g}")
    panel.set_xlim(4, 12_000)
    panel.set_ylim(*KL_SHOWN)
    panel.grid(color="#e6e6e6", linewidth=0.6)
    panel.set_title(f"T = {temperature}", fontsize=10)
    panel.set_xlabel("marginal bits a label")


if __name__ == "__main__":
    main()

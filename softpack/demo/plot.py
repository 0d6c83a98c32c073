"""The demo's picture: KL over bits at each temperature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softpack.demo.run import Point
from softpack.demo.teacher import demo_import
from softpack.records import TEMPERATURES

COLORS = {"quantize": "#1b7837", "topk": "#b35806", "lowrank": "#762a83", "klt": "#b2182b", "vqae": "#2166ac"}
TICKS = (200, 500, 1000, 2000, 5000, 10_000)
MARKERS = "osD^vP"  # of a codec's settings, in the order of the table


def plot_points(points: Sequence[Point], path: Path) -> None:
    """Draw mean KL over all-in bits a label, a panel for each temperature, as a PNG; `raw` has no KL to draw.

    Raises:
        DataError: matplotlib is not installed.
    """
    matplotlib = demo_import("matplotlib")
    matplotlib.use("Agg")
    pyplot = demo_import("matplotlib.pyplot")
    figure, panels = pyplot.subplots(1, len(TEMPERATURES), figsize=(14, 4.4), sharey=True, layout="constrained")
    drawn: dict[str, int] = {}
    for point in points:
        if point.codec_id not in COLORS:
            continue
        marker = MARKERS[drawn.setdefault(point.codec_id, 0)]
        drawn[point.codec_id] += 1
        for panel, kl in zip(panels, point.kl, strict=True):
            panel.scatter(
                point.account.all_in_bits_per_label, kl, s=60, zorder=3, label=point.name,
                color=COLORS[point.codec_id], marker=marker, edgecolor="white", linewidth=0.6,
            )  # fmt: skip
    for T, panel in zip(TEMPERATURES, panels, strict=True):
        panel.set(xscale="log", yscale="log", title=f"T = {T:g}", xlabel="bits a label, whole file")
        panel.set_xticks(TICKS, [f"{tick:,}" for tick in TICKS])
        panel.minorticks_off()
        panel.grid(alpha=0.35)
    panels[0].set_ylabel("KL(teacher || decoded) x T^2, nats")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(
        "Soft labels of real photos, 1,000 classes: bits against fidelity (down and left is better)"
    )
    figure.savefig(path, dpi=140)
    pyplot.close(figure)

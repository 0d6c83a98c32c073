"""The demo's picture: KL over bits at each temperature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softpack.demo.run import TEMPERATURES, Point
from softpack.demo.teacher import demo_import

COLORS = {"raw": "#555555", "quantize": "#1b7837", "topk": "#b35806", "lowrank": "#762a83", "vqae": "#2166ac"}
OFFSET = (5, 4)  # points, of a label from its dot


def plot_points(points: Sequence[Point], path: Path) -> None:
    """Draw mean KL over all-in bits a label, a panel for each temperature, as a PNG.

    Raises:
        DataError: matplotlib is not installed.
    """
    matplotlib = demo_import("matplotlib")
    matplotlib.use("Agg")
    pyplot = demo_import("matplotlib.pyplot")
    figure, panels = pyplot.subplots(1, len(TEMPERATURES), figsize=(13, 4.4), sharex=True, layout="constrained")
    for i, (T, panel) in enumerate(zip(TEMPERATURES, panels, strict=True)):
        for point in points:
            bits, kl = point.account.all_in_bits_per_label, point.kl[i]
            panel.scatter(bits, max(kl, 1e-6), color=COLORS[point.codec_id], s=34, zorder=3)
            panel.annotate(point.name, (bits, max(kl, 1e-6)), OFFSET, textcoords="offset points", fontsize=7)
        panel.set(xscale="log", yscale="log", title=f"T = {T:g}", xlabel="bits a label, whole file")
        panel.grid(which="both", alpha=0.25)
        panel.margins(x=0.2, y=0.12)
    panels[0].set_ylabel("KL(teacher || decoded) × T², nats")
    figure.suptitle("Real ImageNet-1K soft labels: bits against fidelity (down and left is better)")
    figure.savefig(path, dpi=140)
    pyplot.close(figure)

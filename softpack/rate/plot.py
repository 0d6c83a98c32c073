"""Rate-distortion curves as pictures that a paper can print."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.rate.bound import gaussian_bound
from softpack.rate.curve import BASELINES, Curves

COLORS = {
    "vqae with context by crop": "#053061", "vqae with context": "#2166ac", "vqae": "#92c5de",
    "vqae with context by crop, degree 2": "#000000", "klt with context by crop, degree 2": "#40000f",
    "klt with context by crop": "#67001f", "klt with context": "#b2182b", "klt": "#f4a582",
    "lowrank": "#762a83", "topk": "#b35806", "quantize": "#1b7837", "raw": "#4d4d4d",
}  # fmt: skip
BOUNDS = {
    None: (":", "Gaussian bound"),
    0: ("--", "Gaussian bound, with context"),
    1: ("-.", "Gaussian bound, with context by crop"),
    2: ((0, (1, 3)), "Gaussian bound, with that of degree 2"),
}
OTHER = "#4d4d4d"
LEAST_KL = 1e-4  # drawn


def draw(curves: Curves, folder: Path, title: str) -> list[Path]:
    """Draw KL at each temperature and squared error over marginal and over all-in bits; PNG and SVG of each.

    Raises:
        DataError: matplotlib is not installed.
    """
    drawn = []
    for rate, name in (("marginal_bits", "marginal"), ("all_in_bits", "all_in")):
        for suffix in ("png", "svg"):
            drawn.append(folder / f"rd_{name}.{suffix}")
        _draw(curves, rate, title, drawn[-2:])
    return drawn


def _draw(curves: Curves, rate: str, title: str, paths: list[Path]) -> None:
    pyplot = _pyplot()
    columns = [name for name in curves.points[0] if name.startswith("kl_") and name.count("_") == 1]
    figure, panels = pyplot.subplots(
        1, len(columns) + 1, figsize=(4.4 * (len(columns) + 1), 5), layout="constrained"
    )
    for panel, column in zip(panels, [*columns, "mse"], strict=True):
        _curves(panel, curves.points, rate, column)
        at = column.removeprefix("kl_")
        what = (
            "squared error a class"
            if column == "mse"
            else "KL(teacher || decoded) x T\N{SUPERSCRIPT TWO}, nats"
        )
        panel.set(
            xscale="log", yscale="log", title="logits" if column == "mse" else f"T = {at}", ylabel=what,
            xlabel="marginal bits a label" if rate == "marginal_bits" else "bits a label, whole file",
        )  # fmt: skip
        panel.grid(alpha=0.35, which="both", linewidth=0.4)
    _bounds(panels[-1], curves)
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(title)
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _curves(panel: Any, points: list[dict[str, Any]], rate: str, column: str) -> None:
    singles = {name for name, *_ in BASELINES}
    for curve in dict.fromkeys(point["curve"] for point in points):
        own = sorted(((p[rate], p[column]) for p in points if p["curve"] == curve), key=lambda xy: xy[0])
        own = [(x, y) for x, y in own if np.isfinite(y) and y > LEAST_KL]
        color = COLORS.get(curve) or COLORS.get(_codec(points, curve), OTHER)
        xs, ys = [x for x, _ in own], [y for _, y in own]
        if curve in singles:
            panel.scatter(xs, ys, color=color, marker="x", s=30)
            for x, y in own:
                panel.annotate(
                    curve, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6, color=color
                )
        else:
            panel.plot(xs, ys, color=color, marker="o", markersize=4, linewidth=1.4, label=curve)


def _codec(points: list[dict[str, Any]], curve: str) -> str:
    return next(str(point["codec"]) for point in points if point["curve"] == curve)


def _bounds(panel: Any, curves: Curves) -> None:
    least, most = panel.get_ylim()
    errors = np.geomspace(least, most, 200)
    for degree, spectrum in curves.spectra.items():
        style, label = BOUNDS[degree]
        bits = gaussian_bound(spectrum, errors)
        shown = bits > 1
        panel.plot(bits[shown], errors[shown], style, color="black", linewidth=1, label=label)


def _pyplot() -> Any:
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise DataError("pictures need matplotlib: `pip install softpack[plots]`") from None

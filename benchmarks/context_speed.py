"""Rows a second decoded given context, from resident codes, and codes a second of the entropy decoder.

Real labels with their crops and mix partners. `d_h` is the width of vqae's network, `prototypes` how many an item
has, `matmul` what `torch.set_float32_matmul_precision` was told: "medium" lets processors that can multiply in
bfloat16. Fits are of a few steps: speed does not depend on them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Results, options, rates, use_threads

import softpack
from softpack.entropy import ans
from softpack.sources.base import Source
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.learning import learn
from softpack.sources.opening import open_source

BATCHES = (256, 1024, 4096)
TARGET = 250_000
CODES = (10_000_000, 256)  # codes a second that entropy decoding is held to; levels
SLOTS, ROWS = 8, 8192


def main() -> None:
    """Measure and write the table."""
    given = options("context_speed", __doc__ or "")
    use_threads(given.threads)
    results = Results(given)
    source, at_least, repeats = open_source(given.lite0), 0.1 if given.quick else 1.0, 1 if given.quick else 5
    for codec, settings in (("vqae", {"d_h": 96}), ("vqae", {"d_h": 256}), ("klt", {"search": 0})):
        for degree in (0, 1):
            with tempfile.TemporaryDirectory() as folder:
                labels = _labels(source, Path(folder), codec, settings, degree)
                for batch in BATCHES[:1] if given.quick else BATCHES:
                    for name, rate in rates(_ways(labels, batch, given.seed), at_least, repeats).items():
                        results.add(
                            what="decode", codec=codec, d_h=settings.get("d_h", ""),
                            prototypes=labels.model.n_prototypes, matmul=name, batch=batch,
                            **{column: round(value) for column, value in rate.columns("per_s").items()},
                            target=TARGET,
                        )  # fmt: skip
    rate = rates({"": _entropy_decoding(given.seed)}, at_least, repeats)[""]
    results.add(
        what="entropy decoding", codec="", d_h="", prototypes="", matmul="", batch=ROWS,
        **{column: round(value) for column, value in rate.columns("per_s").items()}, target=CODES[0],
    )  # fmt: skip


def _labels(source: Source, folder: Path, codec: str, settings: dict[str, Any], degree: int) -> softpack.Labels:
    """Write a file of 64 marginal bits a label, 14 or 26 of them for prototypes, and open it."""
    items = (14, 26)[degree]
    settings = {**settings, "context": True} | ({"steps": 20} if codec == "vqae" else {})
    learned = learn(source, degree)
    model = fit_model(source, codec, settings, target_bits=62 - items, learned=learned, item_bits=62 * items)
    encode_source(source, folder / "a.spk", model, learned=learned)
    return softpack.open(folder / "a.spk")


def _ways(labels: softpack.Labels, batch: int, seed: int) -> dict[str, Callable[[int], int]]:
    resident, (items, views) = labels.load(), labels.cells()
    order = np.random.default_rng(seed).permutation(len(items))
    drawn = [order[start : start + batch] for start in range(0, len(order) - batch + 1, batch)]

    def reads(precision: str) -> Callable[[int], int]:
        def step(number: int) -> int:
            rows = drawn[number % len(drawn)]
            torch.set_float32_matmul_precision(precision)
            return len(resident.read(items[rows], views[rows]))

        return step

    return {precision: reads(precision) for precision in ("highest", "medium")}


def _entropy_decoding(seed: int) -> Callable[[int], int]:
    """Return a step that decodes an array of codes of uneven frequency, by one thread."""
    codes_NS = (np.random.default_rng(seed).normal(128, 20, (ROWS, SLOTS)) % CODES[1]).astype(np.uint8)
    tables_SL = ans.fit_tables(ans.count_codes(codes_NS, CODES[1]))
    data = ans.encode_columns(np.ascontiguousarray(codes_NS.T), tables_SL)
    return lambda number: ans.decode_columns(data, tables_SL, ROWS, "benchmark").size


if __name__ == "__main__":
    main()

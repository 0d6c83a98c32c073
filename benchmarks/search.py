"""What the search for codes buys, and what it costs: one model, encoding with different searches, one file each.

The model is `vqae` at 64 bits a label given the prototypes of items. `search` is how many codewords each slot tries;
rows that are still told badly are tried among eight times as many, but where `again` is no.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import Results, options, use_threads

import softpack
from softpack.codecs.vqae import search
from softpack.rate.control import SEARCH, full_steps
from softpack.rate.shares import shares
from softpack.records import TEMPERATURES
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.learning import learn
from softpack.sources.opening import open_source

BITS = 64
SEARCHES = ((0, True), (2, True), (8, False), (8, True), (32, True))


def main() -> None:
    """Measure and write the table."""
    given = options("search", __doc__ or "")
    use_threads(given.threads)
    results, source = Results(given), open_source(given.lite0)
    settings: dict[str, Any] = {
        "context": True,
        "d_h": 256,
        "search": SEARCH,
        "steps": full_steps(source.n_rows),
    }
    if given.quick:
        settings |= {"steps": 20}
    views = source.n_rows / source.items
    learned, shared = learn(source, 1), shares(BITS - 1.3, "vqae", settings, source.spec, views, 1)
    model = fit_model(
        source, "vqae", settings, target_bits=shared.codes, item_bits=shared.items * views, learned=learned,
        seed=given.seed,
    )  # fmt: skip
    bad = search.BAD
    with tempfile.TemporaryDirectory() as folder:
        spk = Path(folder) / "a.spk"
        for n, again in SEARCHES[:1] if given.quick else SEARCHES:
            search.BAD = bad if again else math.inf
            codec = replace(model.codec, search=n).with_tensors(model.codec.tensors)
            begun = time.perf_counter()
            encode_source(source, spk, replace(model, codec=codec), learned=learned, force=True)
            row: dict[str, Any] = {"search": n, "again": "yes" if n and again else "no"}
            row |= {"rows_per_s": source.n_rows / (time.perf_counter() - begun)}
            found = softpack.fidelity(spk, source, TEMPERATURES)
            row |= {"marginal_bits": softpack.ledger(spk).marginal_bits_per_label}
            for T, at in found.temperatures.items():
                row |= {f"kl{T:g}": at.kl_mean, f"kl{T:g}_p99": at.kl_p99, f"kl{T:g}_max": at.kl_max}
            results.add(**row)


if __name__ == "__main__":
    main()

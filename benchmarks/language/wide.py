"""`klt` and `vqae` on logits over a vocabulary: bytes a token of a real file over KL, held out by document.

    python benchmarks/language/wide.py hidden.npz matrix.npy [-o wide.csv]

`hidden.npz` holds `H` float32 [rows, D], the teacher's last hidden states; `L`, the tokens of each sequence, which has
one row fewer; and `D`, the document of each sequence. `matrix.npy` is its output matrix [vocabulary, D]. Rows are the
products of the two; they are written to a temporary folder and deleted.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import Options, Results, use_threads

import softpack
from softpack.container.model import Model
from softpack.sources import open_source
from softpack.sources.base import Source
from softpack.sources.encoding import encode_source, fit_model

HELD_OUT = 5  # of so many documents one is held out
AT_ONCE = 64  # rows that are made together
TOKENS = 10_000_000  # that a file would hold: what shared tensors are worth is told by it
CASES: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("klt", 64, {"weighted": True, "search": 3}),
    ("klt", 64, {"weighted": True, "search": 0}),
    ("klt", 64, {"weighted": False, "search": 0}),
    ("klt", 120, {"weighted": True, "search": 3}),
    ("klt", 120, {"weighted": True, "search": 0}),
    ("klt", 120, {"weighted": False, "search": 0}),
    ("vqae", 64, {"steps": 400}),
)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("hidden", type=Path)
    parser.add_argument("matrix", type=Path)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--fit-rows", type=int, default=2048)
    parser.add_argument("--test-rows", type=int, default=1024)
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of those to run [default: all]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    said = parser.parse_args()
    use_threads(said.threads)
    default = Path(__file__).resolve().parents[1] / "results" / "language" / "wide.csv"
    results = Results(
        Options("language/wide", said.hidden.parent, said.out or default, said.seed, said.threads, False)
    )
    with tempfile.TemporaryDirectory() as folder:
        fit_on, test_on = _sources(said, Path(folder))
        for number in range(len(CASES)) if said.cases is None else said.cases:
            codec_id, n_bytes, settings = CASES[number]
            _measure(results, codec_id, n_bytes, settings, fit_on, test_on, Path(folder) / "labels.spk")


def _sources(said: argparse.Namespace, folder: Path) -> tuple[Source, Source]:
    """Write rows of the documents that are fitted to and of those held out, and return both."""
    hidden = np.load(said.hidden)
    document_R = np.repeat(hidden["D"], hidden["L"] - 1)
    is_held_out_R = document_R % HELD_OUT == 0
    random = np.random.default_rng(said.seed)
    matrix_CD = torch.from_numpy(np.load(said.matrix, mmap_mode="r").astype(np.float32))
    sources = []
    for name, rows, n in (("fit", ~is_held_out_R, said.fit_rows), ("test", is_held_out_R, said.test_rows)):
        chosen_B = np.sort(random.permutation(np.flatnonzero(rows))[:n])
        hidden_BD = torch.from_numpy(hidden["H"][chosen_B])
        out_BVC = open_memmap(folder / f"{name}.npy", "w+", np.float16, (len(chosen_B), 1, len(matrix_CD)))
        for start in range(0, len(chosen_B), AT_ONCE):
            rows_BC = hidden_BD[start : start + AT_ONCE] @ matrix_CD.T
            out_BVC[start : start + AT_ONCE, 0] = rows_BC.half().numpy()
        del out_BVC
        sources.append(open_source(folder / f"{name}.npy"))
    return sources[0], sources[1]


def _measure(
    results: Results,
    codec_id: str,
    n_bytes: float,
    settings: dict[str, Any],
    fit_on: Source,
    test_on: Source,
    path: Path,
) -> None:
    seed = results.given.seed
    settings = {"temperatures": "1", **settings}
    start = time.perf_counter()
    model: Model = fit_model(
        fit_on, codec_id, settings, target_bits=8 * n_bytes, n_rows=TOKENS, seed=seed, progress=_say
    )
    fitted = time.perf_counter()
    encode_source(test_on, path, model, seed=seed, force=True)
    encoded = time.perf_counter()
    found = softpack.fidelity(str(path), test_on, temperatures=(1,))
    compared = time.perf_counter()
    account = softpack.ledger(path)
    at_1 = found.temperatures[1.0]
    results.add(
        codec=codec_id, settings=json.dumps(settings).replace(",", ";"), classes=fit_on.spec.classes,
        fit_rows=fit_on.n_rows, rows=test_on.n_rows, bytes_asked=n_bytes,
        codes_bytes=account.bits_of("codes") / 8 / test_on.n_rows,
        marginal_bytes=account.marginal_bits_per_label / 8,
        kl_mean=at_1.kl_mean, kl_p99=at_1.kl_p99, kl_max=at_1.kl_max, top1_agreement=found.top1_agreement,
        model_bytes=account.bits_of("model") // 8, fit_s=fitted - start,
        encode_ms_a_row=(encoded - fitted) * 1e3 / test_on.n_rows,
        decode_and_compare_ms_a_row=(compared - encoded) * 1e3 / test_on.n_rows,
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )  # fmt: skip


def _say(done: int, total: int, seen: str) -> None:
    print(f"  {done}/{total} {seen}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""`head`: bytes a token of a real file over KL, held out by document, and what decoding takes beside its product.

    python benchmarks/language/head.py hidden.npz matrix.npy [-o head.csv]

`hidden.npz` holds `H` float32 [rows, D], the teacher's last hidden states; `L`, the tokens of each sequence, which has
one row fewer; and `D`, the document of each sequence. `matrix.npy` is its output matrix [vocabulary, D]. The matrix is
named by its hash, so that the model is what labels cost beside the teacher's own checkpoint.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import Options, Results, use_threads

import softpack
from softpack.codecs.head import Head
from softpack.container.model import Model
from softpack.container.tables import fit_tables
from softpack.container.tile_writer import code_arrays
from softpack.eval.fidelity import FidelityMeter

HELD_OUT = 5  # of so many documents one is held out
AT_ONCE = 64  # rows that are decoded together
TABLE_ROWS = 2048
TOKENS = 10_000_000  # that a file would hold: what tables are worth is told by it
CASES = ((64, 3), (120, 3), (32, 3), (64, 0), (120, 0), (60, 3), (114, 3))  # bytes asked, rounds of the search
TEMPERATURES = (1.0, 2.0)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("hidden", type=Path)
    parser.add_argument("matrix", type=Path)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--fit-rows", type=int, default=20_000)
    parser.add_argument("--test-rows", type=int, default=2048)
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of those to run [default: all]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    said = parser.parse_args()
    use_threads(said.threads)
    default = Path(__file__).resolve().parents[1] / "results" / "language" / "head.csv"
    results = Results(
        Options("language/head", said.hidden.parent, said.out or default, said.seed, said.threads, False)
    )
    hidden = np.load(said.hidden)
    is_held_out_R = np.repeat(hidden["D"], hidden["L"] - 1) % HELD_OUT == 0
    random = np.random.default_rng(said.seed)
    states_RH = torch.from_numpy(hidden["H"])
    fit_BH, test_BH = (
        states_RH[np.sort(random.permutation(np.flatnonzero(rows_R))[:n])]
        for rows_R, n in ((~is_held_out_R, said.fit_rows), (is_held_out_R, said.test_rows))
    )
    matrix_VH = torch.from_numpy(np.load(said.matrix))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(len(CASES)) if said.cases is None else said.cases:
            _measure(results, *CASES[number], fit_BH, test_BH, matrix_VH, Path(folder) / "labels.spk")


def _measure(
    results: Results,
    n_bytes: float,
    rounds: int,
    fit_BH: Tensor,
    test_BH: Tensor,
    matrix_VH: Tensor,
    path: Path,
) -> None:
    start = time.perf_counter()
    unfitted = Head.of_matrix(matrix_VH, named=True, bits=8.0 * n_bytes, search=rounds)
    codec = unfitted.fit([fit_BH], progress=_say)
    fitted = time.perf_counter()
    with torch.no_grad():
        sample = code_arrays(codec.encode(fit_BH[:: -(-len(fit_BH) // TABLE_ROWS)]))
        model = Model(codec, None, fit_tables(codec.codes, sample, TOKENS, "codes"))
        item_B, view_B = np.divmod(np.arange(len(test_BH)), 256)
        encoding = time.perf_counter()
        with softpack.create(path, model, force=True) as writer:
            writer.append(test_BH, item=item_B, view=view_B)
        encoded = time.perf_counter()
        labels = softpack.open(path, matrix=matrix_VH)
        meter = FidelityMeter(TEMPERATURES)
        float_VH = matrix_VH.float()
        for rows in range(0, len(test_BH), AT_ONCE):
            part = slice(rows, rows + AT_ONCE)
            meter.update(test_BH[part] @ float_VH.T, labels.read(item_B[part], view_B[part]))
        codes = labels.read_codes(item_B[:AT_ONCE], view_B[:AT_ONCE])
        decode_ms = _ms(lambda: labels.codec.decode(codes))
        product_ms = _ms(lambda: test_BH[:AT_ONCE] @ float_VH.T)
    found, account = meter.result(), softpack.ledger(path)
    at_1, at_2 = (found.temperatures[T] for T in TEMPERATURES)
    results.add(
        bytes_asked=n_bytes, search=rounds, vocabulary=len(matrix_VH), fit_rows=len(fit_BH), rows=len(test_BH),
        codes_bytes=account.bits_of("codes") / 8 / len(test_BH),
        marginal_bytes=account.marginal_bits_per_label / 8,
        kl_t1_mean=at_1.kl_mean, kl_t1_p99=at_1.kl_p99, kl_t1_max=at_1.kl_max, kl_t2_mean=at_2.kl_mean,
        top1_agreement=found.top1_agreement, model_bytes=account.bits_of("model") // 8,
        matrix_bytes=account.matrix_bytes, axes=codec.rank, fit_s=fitted - start,
        encode_ms_a_row=(encoded - encoding) * 1e3 / len(test_BH), decode_ms=decode_ms, product_ms=product_ms,
        decode_over_product=decode_ms / product_ms,
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )  # fmt: skip


def _ms(work: Callable[[], object], times: int = 7) -> float:
    """Return the median time of some work on `AT_ONCE` rows, in milliseconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1e3)
    return float(np.median(taken))


def _say(done: int, total: int, seen: str) -> None:
    print(f"  {done}/{total} {seen}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""What `topk` costs of a language model's rows, before 1.5 and since, and how fast it reads.

    python benchmarks/language/topk_ids.py STATES.npz HEAD.npy [-o CSV] [--seed N] [--fit-rows 4096] [--rows 5120]

STATES.npz: `H` float32 [rows, d], last hidden states; `L` the tokens of each sequence, which has a row less; `D` the
document of each sequence. HEAD.npy: [classes, d]; logits are H @ HEAD.T. Whole documents are held out from the fit.
The outputs of a teacher may not be ours to give away: only figures leave this program.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common import Options, Results, Spread  # noqa: E402

import softpack  # noqa: E402
from softpack.codecs.abc import Codec  # noqa: E402
from softpack.codecs.registry import make_codec  # noqa: E402
from softpack.entropy.arrays import DESCRIPTOR, describe  # noqa: E402
from softpack.format.layout import BlockType  # noqa: E402
from softpack.records import LabelSpec  # noqa: E402

BLOCK = 128  # rows whose logits are in memory
TEMPERATURES = (1.0, 2.0, 4.0)
VIEWS = 64
PASSES = 7
MANY_ROWS = 10_000_000  # of the file that orders are chosen for
LAYOUTS: dict[str, dict[str, Any]] = {
    "1.0: fp16, uniform": {},
    "1.5: set, steps, mass": {"ids": "set", "value": "steps", "tail": "mass", "tail_temperatures": "1,2,4"},
}


@dataclass(frozen=True)
class Teacher:
    """The rows of a language model.

    Args:
        states_ND: last hidden states.
        head_DC: the output matrix.
        doc_N: the document of each row.
    """

    states_ND: np.ndarray
    head_DC: Tensor
    doc_N: np.ndarray

    @classmethod
    def read(cls, states: Path, head: Path) -> Teacher:
        """Return what the files hold."""
        with np.load(states) as data:
            states_ND, doc_N = data["H"], np.repeat(data["D"], data["L"] - 1)
        return cls(states_ND, torch.from_numpy(np.load(head)).float().t().contiguous(), doc_N)

    @property
    def spec(self) -> LabelSpec:
        """What the rows are."""
        return LabelSpec(self.head_DC.shape[1])

    def blocks(self, rows: np.ndarray) -> Iterator[Tensor]:
        """Yield the logits of rows, float32 [B, C]."""
        for start in range(0, len(rows), BLOCK):
            yield torch.from_numpy(self.states_ND[rows[start : start + BLOCK]]) @ self.head_DC

    def split(self, n_fit: int, n_held: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows to fit to, and rows of other documents, in their order."""
        random = np.random.default_rng(seed)
        documents = random.permutation(np.unique(self.doc_N))
        sizes = np.array([(self.doc_N == document).sum() for document in documents])
        n_documents = int(np.searchsorted(np.cumsum(sizes), n_held)) + 1
        is_held_N = np.isin(self.doc_N, documents[:n_documents])
        fit = random.permutation(np.flatnonzero(~is_held_N))[:n_fit]
        return np.sort(fit), np.flatnonzero(is_held_N)[:n_held]


def main() -> None:
    """Fit, write one file for each k and layout, and measure them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("states", type=Path)
    parser.add_argument("head", type=Path)
    parser.add_argument(
        "-o", "--out", type=Path, default=ROOT / "benchmarks" / "results" / "language" / "topk_ids.csv"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--k", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--fit-rows", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=5120)
    parser.add_argument("--threads", type=int, default=2, help="of the teacher and the fit; reading takes one")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    teacher = Teacher.read(given.states, given.head)
    fit, held = teacher.split(given.fit_rows, given.rows, given.seed)
    results = Results(Options("language/topk_ids", Path(), given.out, given.seed, given.threads, quick=False))
    results.facts["command"] += f" STATES.npz HEAD.npy --fit-rows {given.fit_rows} --rows {given.rows}"
    spec = teacher.spec
    unfitted = {
        (k, name): make_codec("topk", spec, {"k": k, **layout})
        for k in given.k
        for name, layout in LAYOUTS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        files = _write(teacher, fit, held, unfitted, Path(folder), given.seed)
        kls = _divergences(teacher, held, {key: softpack.open(path) for key, path in files.items()})
        torch.set_num_threads(1)
        for (k, name), path in files.items():
            results.add(
                k=k, layout=name, **_figures(path, k), **kls[k, name], **_speed(path).columns("rows_per_cpu_s")
            )


Key = tuple[int, str]


def _write(
    teacher: Teacher, fit: np.ndarray, held: np.ndarray, unfitted: dict[Key, Codec], folder: Path, seed: int
) -> dict[Key, Path]:
    """Write the held-out rows under each codec, fitted to the others; the logits are made twice in all."""
    most = max(k for k, _ in unfitted)
    keeper = make_codec("topk", teacher.spec, {"k": most, "value": "fp32", "tail": "zero"})
    rows = [keeper.decode_sparse(keeper.encode(block)) for block in teacher.blocks(fit)]
    codecs = {key: codec.fit_sparse(rows, seed=seed, n_rows=MANY_ROWS) for key, codec in unfitted.items()}
    paths = {key: folder / f"{number}.spk" for number, key in enumerate(codecs)}
    writers = {key: softpack.create(paths[key], codec) for key, codec in codecs.items()}
    for number, block in enumerate(teacher.blocks(held)):
        at = np.arange(number * BLOCK, number * BLOCK + len(block))
        for writer in writers.values():
            writer.append(block, item=at // VIEWS, view=at % VIEWS)
        print(f"{at[-1] + 1} of {len(held)} rows", end="\r", file=sys.stderr, flush=True)
    for writer in writers.values():
        writer.close()
    return paths


def _divergences(teacher: Teacher, held: np.ndarray, files: dict[Key, Any]) -> dict[Key, dict[str, float]]:
    """Return the mean KL(teacher || decoded) in nats at each temperature, and top-1 agreement."""
    sums = {key: dict.fromkeys([*(f"kl{T:g}" for T in TEMPERATURES), "top1"], 0.0) for key in files}
    for number, block in enumerate(teacher.blocks(held)):
        at = np.arange(number * BLOCK, number * BLOCK + len(block))
        read = {key: labels.read_sparse(at // VIEWS, at % VIEWS) for key, labels in files.items()}
        best_B = block.argmax(dim=1)
        for T in TEMPERATURES:
            log_probs_BC = torch.log_softmax(block / T, dim=1)
            entropy_B = torch.special.entr(log_probs_BC.exp()).sum(dim=1)
            for key, rows in read.items():
                kept_BK, tail_B = rows.at(T)
                true_BK = log_probs_BC.gather(1, rows.ids_BK).exp()
                each_B = tail_B - np.log(block.shape[1] - kept_BK.shape[1])
                said_B = (true_BK * kept_BK).sum(dim=1) + (1 - true_BK.sum(dim=1)) * each_B
                sums[key][f"kl{T:g}"] += float((-entropy_B - said_B).sum())
        for key, rows in read.items():
            found_B = rows.ids_BK.gather(1, rows.log_probs_BK.argmax(dim=1, keepdim=True))[:, 0]
            sums[key]["top1"] += float((found_B == best_B).sum())
    return {key: {name: value / len(held) for name, value in of_key.items()} for key, of_key in sums.items()}


def _figures(path: Path, k: int) -> dict[str, float | int]:
    """Return bits of an id and of a value, bytes of a row, and those of the model."""
    labels = softpack.open(path)
    stored = dict.fromkeys((a.name for a in labels.file.header.streams[0].arrays), 0)
    for part in labels.file.parts:
        data = memoryview(labels.file.payload(part.blocks[1]))
        for name in stored:
            size = DESCRIPTOR.size + describe(data, name).stored_len
            stored[name] += size
            data = data[size:]
    of_ids = sum(size for name, size in stored.items() if name in ("ids", "order", "gaps"))
    blocks = labels.file.blocks
    return {
        "bits_per_id": 8 * of_ids / labels.n_rows / k,
        "bits_per_value": 8 * stored["values"] / labels.n_rows / k,
        "bytes_per_row": sum(stored.values()) / labels.n_rows,
        "model_bytes": int(blocks["stored_len"][blocks["type"] == BlockType.MODEL].sum()),
    }


def _speed(path: Path) -> Spread:
    """Return rows that a processor reads in a second: whole tiles, in order, from the file to SparseRows."""
    rates = []
    for number in range(PASSES + 1):
        labels = softpack.open(path)
        labels.codec  # noqa: B018
        parts = [np.indices((part.span_items, part.span_views)) for part in labels.file.parts]
        cells = [
            (part.first_item + item.ravel(), part.first_view + view.ravel())
            for part, (item, view) in zip(labels.file.parts, parts, strict=True)
        ]
        labels.read_sparse(*(index[:1] for index in cells[-1]))  # tables are made once a file, not once a tile
        start = time.process_time()
        n_rows = sum(len(labels.read_sparse(item, view)) for item, view in cells[:-1] or cells)
        if number:
            rates.append(n_rows / (time.process_time() - start))
    return Spread.of(rates)


if __name__ == "__main__":
    main()

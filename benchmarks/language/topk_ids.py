"""What `topk` costs of a language model's rows, before 1.5 and since, and how fast one thread reads it.

    python benchmarks/language/topk_ids.py [--work DIR] [-o CSV] [--k 16 64 128] [--threads 2]

Text and teacher are those of `python benchmarks/language`, made in its work folder where they are not there yet. Orders
are fitted to training text, and files are of text of other documents.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import Options, Results, Spread

import softpack
from language import fidelity
from language.arms import Arm
from language.room import Room
from language.run import FOLDER, Plan, _bar
from softpack.container.tiles import read_presence
from softpack.entropy.arrays import DESCRIPTOR, describe
from softpack.format.layout import BlockType

COMPARED = 16  # sequences, for KL
PASSES = 7
SETS = {"ids": "set", "value": "steps", "tail": "mass"}
LAYOUTS: dict[str, dict[str, Any]] = {
    "1.0: fp16, uniform": {},
    "1.5: set, steps, mass at T=1": SETS,
    "1.5: set, steps, mass at T=1, 2 and 4": {**SETS, "tail_temperatures": "1,2,4"},
}


def main() -> None:
    """Fit, write one file for each k and layout, and measure them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = FOLDER.parent / "results" / "language" / "topk_ids.csv"
    parser.add_argument("--work", type=Path, default=FOLDER / "work", metavar="DIR")
    parser.add_argument("-o", "--out", type=Path, default=default, metavar="CSV")
    parser.add_argument("--k", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--threads", type=int, default=2, help="of the teacher and the fit; reading takes one")
    given = parser.parse_args()
    plan = Plan()
    room = Room(given.work, plan.sizes, plan.fit, _bar)
    room.prepare()
    arms = {
        Arm(f"topk {k}, {name}", "topk", {"k": k, **layout}): (k, name)
        for k in given.k
        for name, layout in LAYOUTS.items()
    }
    results = Results(Options("language/topk_ids", given.work, given.out, 0, given.threads, quick=False))
    torch.set_num_threads(given.threads)
    room.write(list(arms), "test", range(len(room.tokens("test"))))
    for arm, (k, layout) in arms.items():
        found = fidelity.compare(room, arm, COMPARED)
        torch.set_num_threads(1)
        speed = _speed(room.path(arm, "test"))
        torch.set_num_threads(given.threads)
        results.add(
            k=k, layout=layout, **_figures(room.path(arm, "test"), k),
            **{name: found[name] for name in ("kl1", "kl2", "top1")}, **speed.columns("rows_per_cpu_s"),
        )  # fmt: skip
        room.path(arm, "test").unlink()


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
        *tiles, (item, view) = _tiles(labels)
        labels.read_sparse(item[:1], view[:1])  # tables are made once a file, not once a tile
        start, n_rows = time.process_time(), 0
        for item, view in tiles:
            rows = labels.read_sparse(item, view)  # kept until the next ones are there, as a trainer does
            n_rows += len(rows)
        if number:
            rates.append(n_rows / (time.process_time() - start))
    return Spread.of(rates)


def _tiles(labels: softpack.Labels) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return items and views of each tile that is full, and of the smallest.

    Where writing could be interrupted and go on, tiles are cut off; files of more rows have few of these.
    """
    header, cells = labels.file.header, []
    for part in sorted(labels.file.parts, key=lambda part: part.n_rows):
        item, view = np.nonzero(read_presence(labels.file, part))
        cells.append((part.first_item + item, part.first_view + view))
    full = [cell for cell in cells if len(cell[0]) > 0.9 * header.tile_items * header.tile_views]
    return [*(full or cells[1:] or cells), cells[0]]


if __name__ == "__main__":
    main()

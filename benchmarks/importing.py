"""A label set of SRe2L's layout going in, beside the same rows from one `.npy` and beside torch.load of its files.

300,000 rows of 1000 classes, fp16: 10,000 images, 30 epochs, batches of 1024, mixed by CutMix; the rows are real ones,
over and over. Each way is a process of its own, `softpack encode` as a user types it, and is timed from start to exit;
`peak_mb` is the most memory that it held, and each of its helpers. All files are in the page cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import CLASSES, ROOT, Results, Spread, options, process_cost, use_threads
from torch.utils.data import RandomSampler

from softpack.sources.opening import open_source

IMAGES, EPOCHS, BATCH, REPEATS = 10_000, 30, 1024, 3
LOAD = """
import glob, sys, numpy, torch
torch.set_num_threads(int(sys.argv[2]))
torch.serialization.add_safe_globals([numpy._core.multiarray.scalar, numpy.dtype, type(numpy.dtype("int64"))])
for path in glob.glob(sys.argv[1] + "/*/*.tar"):
    torch.load(path, weights_only=True)
"""


def main() -> None:
    """Measure and write the table."""
    given = options("importing", __doc__ or "")
    use_threads(given.threads)
    results = Results(given)
    images, epochs = (512, 2) if given.quick else (IMAGES, EPOCHS)
    rows_RC = np.concatenate([block.labels_BC for block in open_source(given.lite0).blocks(1 << 20)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, rows_RC.astype(np.float16), images, epochs, given.seed)
        model = folder / "model.spkm"
        _softpack("fit", given.lite0, "-o", model, "--codec", "vqae", "--set", "slots=8", "--set", "steps=200")
        order = ("--label-seed", "42", "--sampler", "new")
        ways = {
            "torch.load": (sys.executable, "-c", LOAD, str(folder / "set"), str(given.threads)),
            "raw, npy": _encode(folder / "rows.npy", "--codec", "raw", "--set", "dtype=fp16"),
            "raw, sre2l": _encode(folder / "set", *order, "--codec", "raw", "--set", "dtype=fp16"),
            "raw, sre2l, no replay": _encode(
                folder / "set", *order, "--no-replay", "--codec", "raw", "--set", "dtype=fp16"
            ),
            "vqae, npy": _encode(folder / "rows.npy", "--model", model),
            "vqae, sre2l": _encode(folder / "set", *order, "--model", model),
        }
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(1 if given.quick else REPEATS):
            for way, command in ways.items():
                found[way].append(process_cost(command, _environment()))
    for way, runs in found.items():
        rates = [images * epochs / seconds for seconds, _ in runs]
        results.add(way=way, **Spread.of(rates).columns("rows_per_s"), peak_mb=max(peak for _, peak in runs))


def _write(folder: Path, rows_RC: np.ndarray, images: int, epochs: int, seed: int) -> None:
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(42)
    labels = np.lib.format.open_memmap(
        folder / "rows.npy", mode="w+", dtype=np.float16, shape=(images, epochs, CLASSES)
    )
    for epoch in range(epochs):
        (folder / "set" / f"epoch_{epoch}").mkdir(parents=True)
        order = list(RandomSampler(range(images), generator=generator))
        for number, start in enumerate(range(0, images, BATCH)):
            items_B = order[start : start + BATCH]
            n = len(items_B)
            logits_BC = rows_RC[random.integers(0, len(rows_RC), n)]
            labels[items_B, epoch] = logits_BC
            size_B2 = random.uniform(0.3, 1, (n, 2))
            coords_B4 = np.concatenate([random.random((n, 2)) * (1 - size_B2), size_B2], 1).astype(np.float32)
            box = list(np.sort(random.integers(0, 225, (2, 2)), 0).reshape(-1))
            batch = [
                torch.from_numpy(coords_B4), torch.rand(n) < 0.5, torch.from_numpy(random.permutation(n)), 0.5, box,
                torch.from_numpy(logits_BC),
            ]  # fmt: skip
            torch.save(batch, folder / "set" / f"epoch_{epoch}" / f"batch_{number}.tar")


def _encode(source: Path, *more: object) -> tuple[str, ...]:
    out = source.with_name("out.spk")
    return (sys.executable, "-m", "softpack", "encode", str(source), "-o", str(out), "--force", *map(str, more))


def _softpack(*arguments: object) -> None:
    command = [sys.executable, "-m", "softpack", *map(str, arguments)]
    subprocess.run(
        command, check=True, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}


if __name__ == "__main__":
    main()

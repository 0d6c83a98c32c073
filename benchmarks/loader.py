"""Samples a second of a DataLoader over soft labels, and the processor time that a sample takes.

Images are single numbers, so that only labels cost. Beside it the same loader over a memory map of fp16 rows.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Options, Results, Spread, options, use_threads
from labelsets import as_float32, fitted, real_rows, write_npy
from torch.utils.data import DataLoader, Dataset

import softpack
from softpack.data.batch import collate
from softpack.sources.encoding import encode_source
from softpack.sources.opening import open_source

BITS = (64, 384)
ITEMS, VIEWS = 25_000, 4
EPOCHS = 4  # that count; one before warms up


class Numbers(Dataset[tuple[torch.Tensor, int]]):
    """Images of a single number, with a target.

    Args:
        n_items: how many.
    """

    def __init__(self, n_items: int) -> None:
        self.numbers_N = torch.arange(n_items, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.numbers_N)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        return self.numbers_N[item], item % 1000


class Mapped(Dataset[tuple[torch.Tensor, int, torch.Tensor]]):
    """The same images with rows of a memory map: the views of an item in turn.

    Args:
        images: to go with.
        path: of a `.npy` [items, views, classes].
    """

    def __init__(self, images: Numbers, path: Path) -> None:
        self.images = images
        self.rows_NVC = np.load(path, mmap_mode="c")  # as "r", but torch does not warn of it
        self.drawn_N = np.zeros(len(images), np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int, torch.Tensor]:
        view = self.drawn_N[item] % self.rows_NVC.shape[1]
        self.drawn_N[item] += 1
        return *self.images[item], as_float32(self.rows_NVC[item, view])


def main() -> None:
    """Measure and write the table."""
    given = options("loader", __doc__ or "")
    use_threads(given.threads)
    results = Results(given)
    n_items = 500 if given.quick else ITEMS
    with tempfile.TemporaryDirectory() as name:
        sets = _datasets(given, Path(name), n_items)
        for n_workers in (0, 2):
            for batch in (128,) if given.quick else (128, 1024):
                for what, (dataset, collate_with) in sets.items():
                    loader = DataLoader(
                        dataset, batch, shuffle=True, num_workers=n_workers, collate_fn=collate_with,
                        persistent_workers=n_workers > 0, generator=torch.Generator().manual_seed(given.seed),
                    )  # fmt: skip
                    rate, cpu_s = _epochs(loader, 1 if given.quick else EPOCHS)
                    results.add(
                        dataset=what, workers=n_workers, batch=batch,
                        **{column: round(value) for column, value in rate.columns("samples_per_s").items()},
                        cpu_us_per_sample=1e6 * cpu_s,
                    )  # fmt: skip


def _datasets(
    given: Options, folder: Path, n_items: int
) -> dict[str, tuple[Dataset[Any], Callable[[Any], Any] | None]]:
    """Return by name each dataset and the function that collates its samples."""
    images, rows_RC, n_rows = Numbers(n_items), real_rows(given), n_items * VIEWS
    write_npy(folder / "rows.npy", rows_RC, n_rows, VIEWS)
    sets: dict[str, tuple[Dataset[Any], Callable[[Any], Any] | None]] = {
        "fp16 memory map": (Mapped(images, folder / "rows.npy"), None)
    }
    for bits in BITS:
        spk = folder / f"{bits}.spk"
        codec = fitted(given, rows_RC, bits, n_rows, steps=20)
        encode_source(open_source(folder / "rows.npy"), spk, codec)
        for resident in (True, False):
            dataset = softpack.SoftLabelDataset(images, spk, resident=resident)
            held = "resident" if resident else "from the file"
            sets[f"vqae {bits} bits, {held}, default collate"] = (dataset, None)
            sets[f"vqae {bits} bits, {held}, softpack's collate"] = (dataset, collate)
    return sets


def _epochs(loader: DataLoader[Any], n_epochs: int) -> tuple[Spread, float]:
    """Return samples a second of each epoch, and processor seconds a sample of this process and its workers."""
    n_samples, found, before = len(loader.dataset), [], _cpu_seconds()  # type: ignore[arg-type]
    for epoch in range(n_epochs + 1):
        start = time.perf_counter()
        for *_, labels_BC in loader:
            labels_BC.sum()  # touch them as a loss would
        if epoch:
            found.append(n_samples / (time.perf_counter() - start))
    loader._iterator = None  # ends the workers, whose processor time then counts
    return Spread.of(found), (_cpu_seconds() - before) / (n_samples * (n_epochs + 1))


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()

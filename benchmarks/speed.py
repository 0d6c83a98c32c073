"""Rows a second: encoding after the fit, and decoding beside what people read labels from today.

All ways to read give float32 tensors [B, 1000] in random order, from files that are in the page cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from common import CLASSES, Results, Spread, options, rates, seconds, use_threads
from labelsets import VIEWS, as_float32, batches, fitted, real_rows, repeated, write_npy

import softpack
from softpack.codecs.abc import Codec
from softpack.container.resident import ResidentLabels
from softpack.sources.encoding import encode_source
from softpack.sources.opening import open_source

BITS = (64, 384)
BATCHES = (256, 1024, 4096)
ENCODE_BATCH = 4096
PEER_BATCH = 128  # rows in a label file of SRe2L's format, as CDA and LPLD write them
TARGETS = {("encode", 64): 50_000, ("decode", 64): 250_000, ("decode", 384): 120_000}

Step = Callable[[int], int]


def main() -> None:
    """Measure and write the table, then say where the time goes."""
    given = options("speed", __doc__ or "")
    use_threads(given.threads)
    results = Results(given)
    n_rows = 2_000 if given.quick else 120_000
    rows_RC = real_rows(given)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_npy(folder / "rows.npy", rows_RC, n_rows)
        for bits in BITS:
            _encoding(results, fitted(given, rows_RC, bits, n_rows), bits, rows_RC, folder, n_rows)
        _reading(results, folder, rows_RC, n_rows)
        for bits in () if given.quick else BITS:
            _say_where_time_goes(softpack.open(folder / f"{bits}.spk").load(), bits)


def _encoding(
    results: Results, codec: Codec, bits: int, rows_RC: np.ndarray, folder: Path, n_rows: int
) -> None:
    given, floats_RC = results.given, as_float32(rows_RC)
    starts = range(0, max(1, len(rows_RC) - ENCODE_BATCH + 1), ENCODE_BATCH)

    def encode(number: int) -> int:
        start = starts[number % len(starts)]
        codes = codec.encode(floats_RC[start : start + ENCODE_BATCH])
        return len(codes["index"])

    alone = rates({"": encode}, 0.1 if given.quick else 2, 2 if given.quick else 5)[""]
    _add(results, "encode", f"vqae {bits} bits, codec alone", ENCODE_BATCH, alone, bits)
    source, spk = open_source(folder / "rows.npy"), folder / f"{bits}.spk"
    whole = [
        seconds(lambda: encode_source(source, spk, codec, force=True)) for _ in range(1 if given.quick else 3)
    ]
    rate = Spread.of([n_rows / taken for taken in whole])
    _add(results, "encode", f"vqae {bits} bits, from .npy to .spk", ENCODE_BATCH, rate, bits)


def _reading(results: Results, folder: Path, rows_RC: np.ndarray, n_rows: int) -> None:
    given = results.given
    at_least, repeats = (0.05, 1) if given.quick else (1.0, 5)
    _write_peers(folder, rows_RC, n_rows)
    shape = n_rows // VIEWS, VIEWS
    for size in BATCHES[1:2] if given.quick else BATCHES:
        drawn = batches(shape, size, given.seed)
        ways: dict[str, Step] = {}
        for bits in BITS:
            labels = softpack.open(folder / f"{bits}.spk")
            ways[f"vqae {bits} bits, resident"] = _reads(labels.load().read, drawn)
            ways[f"vqae {bits} bits, from the file"] = _reads(labels.read, drawn)
        ways["fp16 memory map"] = _reads(_mapped(folder / "rows.npy"), drawn)
        with h5py.File(folder / "rows.h5", "r") as file:
            ways["HDF5 gzip, chunks of one row"] = _hdf5_rows(file["rows"], drawn)
            for name, rate in rates(ways, at_least, repeats).items():
                bits = int(name.split()[1]) if "resident" in name else 0
                _add(results, "decode", name, size, rate, bits)
    with h5py.File(folder / "rows.h5", "r") as file:
        rng = np.random.default_rng(given.seed)
        ways = {
            "HDF5 gzip, chunks of 128 rows read whole": _hdf5_chunks(file["batches"], rng),
            "torch.load of label files of 128 rows": _label_files(folder, n_rows // PEER_BATCH, rng),
        }
        for name, rate in rates(ways, at_least, repeats).items():
            _add(results, "decode", name, PEER_BATCH, rate, 0)


def _add(results: Results, what: str, how: str, batch: int, rate: Spread, bits: int) -> None:
    target = TARGETS.get((what, bits))
    results.add(
        what=what, how=how, batch=batch,
        **{name: round(value) for name, value in rate.columns("rows_per_s").items()},
        target=target or "", met="" if target is None else "yes" if rate.median >= target else "no",
    )  # fmt: skip


# -- what people have today ----------------------------------------------------------------------------


def _write_peers(folder: Path, rows_RC: np.ndarray, n_rows: int) -> None:
    """Write the rows as HDF5 in two layouts, and as label files in the format of SRe2L."""
    n_files = n_rows // PEER_BATCH
    with h5py.File(folder / "rows.h5", "w") as file:
        layouts = {"rows": (1, CLASSES), "batches": (PEER_BATCH, CLASSES)}
        for name, chunks in layouts.items():
            n_stored = n_files * PEER_BATCH
            stored = file.create_dataset(name, (n_stored, CLASSES), "f2", chunks=chunks, compression="gzip")
            start = 0
            for block_BC in repeated(rows_RC, n_stored):
                stored[start : start + len(block_BC)] = block_BC
                start += len(block_BC)
    for number in range(n_files):
        first = number * PEER_BATCH
        rows_BC = rows_RC[np.arange(first, first + PEER_BATCH) % len(rows_RC)]
        torch.save(_label_file(rows_BC), folder / f"batch_{number}.tar")


def _label_file(rows_BC: np.ndarray) -> list[object]:
    """Return what a file of SRe2L's format holds: crops, flips, permutation, lambda, box, logits."""
    n = len(rows_BC)
    box = [np.int64(edge) for edge in (10, 20, 110, 120)]
    return [torch.rand(n, 4), torch.rand(n) < 0.5, torch.randperm(n), 0.5, box, torch.from_numpy(rows_BC)]


def _reads(
    read: Callable[[np.ndarray, np.ndarray], torch.Tensor], drawn: list[tuple[np.ndarray, np.ndarray]]
) -> Step:
    return lambda number: len(read(*drawn[number % len(drawn)]))


def _mapped(path: Path) -> Callable[[np.ndarray, np.ndarray], torch.Tensor]:
    rows = np.load(path, mmap_mode="r")
    return lambda items, views: as_float32(rows[items, views])


def _hdf5_rows(rows: h5py.Dataset, drawn: list[tuple[np.ndarray, np.ndarray]]) -> Step:
    def step(number: int) -> int:
        items, views = drawn[number % len(drawn)]
        # h5py's own list selection is slower than a loop, and refuses repeats.
        read = np.stack([rows[row] for row in ((items * VIEWS + views) % len(rows)).tolist()])
        return len(as_float32(read))

    return step


def _hdf5_chunks(rows: h5py.Dataset, rng: np.random.Generator) -> Step:
    order = rng.permutation(len(rows) // PEER_BATCH) * PEER_BATCH

    def step(number: int) -> int:
        start = order[number % len(order)]
        return len(as_float32(rows[start : start + PEER_BATCH]))

    return step


def _label_files(folder: Path, n_files: int, rng: np.random.Generator) -> Step:
    order = rng.permutation(n_files)

    def step(number: int) -> int:
        path = folder / f"batch_{order[number % n_files]}.tar"
        # The boxes are numpy numbers, which only the unsafe loader takes.
        return len(torch.load(path, weights_only=False)[5].float())

    return step


# -- where the time goes -------------------------------------------------------------------------------


def _say_where_time_goes(labels: ResidentLabels, bits: int, size: int = 1024, calls: int = 50) -> None:
    """Print the stages of a resident read, and torch's own account of it."""
    items, views = batches(labels.shape[:2], size, 0, 1)[0]
    rows_B = torch.from_numpy(labels.labels.row_numbers(items, views))
    codes, codec = labels.codes_of_rows(rows_B), labels.labels.codec
    stages: dict[str, Callable[[], object]] = {
        "all": lambda: labels.read(items, views),
        "find the rows": lambda: labels.labels.row_numbers(items, views),
        "unpack the codes": lambda: labels.codes_of_rows(rows_B),
        "decode": lambda: codec.decode(codes),
        "a float32 output, written once": lambda: torch.zeros(size, CLASSES),
    }
    print(f"\nresident read of {size} rows at {bits} bits:")
    for name, stage in stages.items():
        start = time.perf_counter()
        for _ in range(calls):
            stage()
        print(f"  {name:<31} {(time.perf_counter() - start) / calls * 1e6:8.0f} us")
    with torch.profiler.profile() as profile:
        for _ in range(calls):
            labels.read(items, views)
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=8, max_name_column_width=40))


if __name__ == "__main__":
    main()

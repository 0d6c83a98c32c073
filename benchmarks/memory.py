"""Peak resident memory of `softpack encode` and `softpack decode`, from ten thousand rows to 300,000.

Each figure is the greatest resident size of one process of its own. The first row is Python with softpack and
torch imported, which is below all others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from common import CLASSES, Results, options, use_threads
from labelsets import VIEWS, fitted, real_rows, repeated, write_npy

import softpack

BITS = 64
ROWS = (10_000, 30_000, 100_000, 300_000)
FIT_STEPS = 20  # memory does not grow with them
# A process starts with the peak of the one that forked it, so that a small one stands between.
LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.executable, sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([os.waitstatus_to_exitcode(status), peak, time.perf_counter() - start]))
"""


def main() -> None:
    """Measure and write the table."""
    given = options("memory", __doc__ or "")
    use_threads(given.threads)
    results = Results(given)
    rows_RC = real_rows(given)
    idle = "import torch, softpack.container.writer, softpack.sources.encoding"
    _measure(results, "imports", "", "", 0, ["-c", idle])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        softpack.save_model(folder / "model.spkm", fitted(given, rows_RC, BITS, ROWS[-1], FIT_STEPS))
        for n_rows in (1_000,) if given.quick else ROWS:
            write_npy(folder / "rows.npy", rows_RC, n_rows)
            for suffix in (".npy",) if given.quick else (".npy", ".npz", ".h5"):
                source = _source(folder, suffix, rows_RC, n_rows)
                for how, words in list(_encodings(folder))[: 1 if given.quick else None]:
                    out = ["-m", "softpack", "encode", str(source), "-o", str(folder / "out.spk"), "--force"]
                    _measure(results, "encode", how, suffix, n_rows, [*out, *words])
                source.unlink()
            _encode_once(folder, rows_RC, n_rows)
            for suffix in (".npy",) if given.quick else (".npy", ".h5"):
                decoded = folder / f"decoded{suffix}"
                command = ["-m", "softpack", "decode", str(folder / "out.spk"), "-o", str(decoded)]
                _measure(results, "decode", f"vqae {BITS} bits", suffix, n_rows, command)
                decoded.unlink()


def _encodings(folder: Path) -> Iterator[tuple[str, list[str]]]:
    yield f"vqae {BITS} bits, with a model", ["--model", str(folder / "model.spkm")]
    yield f"vqae {BITS} bits, with the fit", ["--target-bits", str(BITS), "--set", f"steps={FIT_STEPS}"]
    yield "raw", ["--codec", "raw"]


def _source(folder: Path, suffix: str, rows_RC: np.ndarray, n_rows: int) -> Path:
    """Write the rows as a file of another kind; in bounded time and without compression."""
    path = folder / f"rows{suffix}"
    if suffix == ".npy" and not path.exists():
        write_npy(path, rows_RC, n_rows)
    if suffix == ".npz":
        write_npy(folder / "rows.npy", rows_RC, n_rows)
        np.savez(path, logits=np.load(folder / "rows.npy", mmap_mode="r"))
        (folder / "rows.npy").unlink()
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            stored = file.create_dataset("logits", (n_rows // VIEWS, VIEWS, CLASSES), "f2")
            start = 0
            for block_BC in repeated(rows_RC, n_rows):
                items = block_BC.reshape(-1, VIEWS, CLASSES)
                stored[start : start + len(items)] = items
                start += len(items)
    return path


def _encode_once(folder: Path, rows_RC: np.ndarray, n_rows: int) -> None:
    write_npy(folder / "rows.npy", rows_RC, n_rows)
    words = ["encode", str(folder / "rows.npy"), "-o", str(folder / "out.spk"), "--force"]
    words += ["--model", str(folder / "model.spkm"), "--json"]
    subprocess.run([sys.executable, "-m", "softpack", *words], check=True, capture_output=True)
    (folder / "rows.npy").unlink()


def _measure(results: Results, command: str, how: str, kind: str, n_rows: int, words: list[str]) -> None:
    """Run Python with these words and add a row of its peak memory and its wall time."""
    launched = subprocess.run(
        [sys.executable, "-c", LAUNCHER, sys.executable, *words], check=True, capture_output=True, text=True
    )
    code, peak, wall = json.loads(launched.stdout.splitlines()[-1])
    if code:
        sys.exit(f"{command} {how} of {n_rows} rows failed with exit code {code}:\n{launched.stderr}")
    results.add(
        command=command, how=how, file=kind, n_rows=n_rows, source_bytes=2 * CLASSES * n_rows, peak_bytes=peak,
        peak_mib=round(peak / 2**20), wall_s=wall,
    )  # fmt: skip


if __name__ == "__main__":
    main()

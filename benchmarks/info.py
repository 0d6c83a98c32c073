"""Wall time of `softpack info`, the whole process, on large files; and proof that torch is not imported."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Results, Spread, options, seconds, use_threads
from labelsets import VIEWS, fitted, real_rows, repeated

import softpack
from softpack.codecs.abc import Codec

BITS = 64
ROWS = (300_000, 3_000_000)
RUNS = 10
# Runs a command as `softpack` does, then says which heavy packages it has imported.
LOADED = """
import sys
from softpack.cli import main
main(sys.argv[1:], standalone_mode=False)
print(",".join(name for name in ("torch", "h5py", "safetensors") if name in sys.modules), file=sys.stderr)
"""


def main() -> None:
    """Measure and write the table."""
    given = options("info", __doc__ or "")
    use_threads(given.threads)
    results = Results(given)
    runs = 2 if given.quick else RUNS
    for what, words in {
        "python alone": ["-c", "pass"],
        "softpack --help": ["-m", "softpack", "--help"],
    }.items():
        _add(results, what, 0, None, _timed(words, runs), "")
    with tempfile.TemporaryDirectory() as name:
        rows_RC = real_rows(given)
        for n_rows in (1_000,) if given.quick else ROWS:
            spk = Path(name) / "labels.spk"
            _write(spk, fitted(given, rows_RC, BITS, n_rows, steps=20), rows_RC, n_rows)
            taken = _timed(["-m", "softpack", "info", str(spk)], runs)
            _add(results, "softpack info", n_rows, spk, taken, _loaded(["info", str(spk)]))
            spk.unlink()


def _write(path: Path, codec: Codec, rows_RC: np.ndarray, n_rows: int) -> None:
    """Encode repeated rows, item by item."""
    with softpack.create(path, codec, items=n_rows // VIEWS, views=VIEWS) as writer:
        start = 0
        for block_BC in repeated(rows_RC, n_rows):
            row_B = np.arange(start, start + len(block_BC))
            writer.append(block_BC, item=row_B // VIEWS, view=row_B % VIEWS)
            start += len(block_BC)


def _timed(words: list[str], runs: int) -> Spread:
    """Return the seconds that Python takes with these words, after one run that fills the page cache."""
    command = [sys.executable, *words]
    taken = [seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(runs + 1)]
    return Spread.of(taken[1:])


def _loaded(words: list[str]) -> str:
    """Return which of the heavy packages a command imports."""
    command = [sys.executable, "-c", LOADED, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stderr.strip() or "none"


def _add(results: Results, what: str, n_rows: int, spk: Path | None, taken: Spread, loaded: str) -> None:
    results.add(
        what=what, n_rows=n_rows, file_bytes=spk.stat().st_size if spk else 0, **taken.columns("wall_s"),
        heavy_imports=loaded,
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Wall time of `softpack info`, the whole process, on large files; and proof that torch is not imported.

Besides, of ten million rows of sequences that differ in length: how long `softpack.open` and a first row take.
"""

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
SEQUENCES, POSITIONS = 46_000, 256  # of the ragged file; a sequence has 180 positions or more
AT_ONCE = 500  # sequences that are written together
TILES = (None, (16, 64))  # as they are chosen, and small, as codes of many bytes have them
# Opens a file and reads a row, in a process of its own; says the seconds and the memory that both took.
FIRST_ROW = """
import sys, time
from pathlib import Path
from softpack.container.reader import open
def most_kib():  # so far; what `resource` says is of the process that began this one, too
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if "VmHWM" in line).split()[1])
before, start = most_kib(), time.perf_counter()
open(sys.argv[1]).read([0, int(sys.argv[2])], [7, 100])
print(time.perf_counter() - start, (most_kib() - before) / 2**10)
"""
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
        sequences = AT_ONCE if given.quick else SEQUENCES
        for tile in TILES:
            n_rows = _write_ragged(spk, sequences, tile, given.seed)
            sizes = "chosen" if tile is None else f"{tile[0]}x{tile[1]}"
            taken = _timed(["-m", "softpack", "info", str(spk)], runs)
            _add(
                results,
                f"softpack info, ragged, tiles {sizes}",
                n_rows,
                spk,
                taken,
                _loaded(["info", str(spk)]),
            )
            first = [_first_row(spk, sequences - 1) for _ in range(runs)]
            _add(results, f"open and first rows, ragged, tiles {sizes}", n_rows, spk,
                 Spread.of([taken for taken, _ in first]), "torch", max(mib for _, mib in first))  # fmt: skip
            spk.unlink()


def _write_ragged(path: Path, sequences: int, tile: tuple[int, int] | None, seed: int) -> int:
    """Write rows of two classes for sequences that differ in length, some of them full; return how many."""
    random = np.random.default_rng(seed)
    shape = {"items": sequences, "views": POSITIONS, "classes": 2, "space": "logits"}
    with softpack.create(path, "raw", dtype="fp16", tile=tile, **shape) as writer:
        for start in range(0, sequences, AT_ONCE):
            length_S = random.integers(180, POSITIONS + 8, AT_ONCE).clip(max=POSITIONS)
            item_B = np.repeat(np.arange(start, start + AT_ONCE), length_S)
            view_B = np.arange(len(item_B)) - np.repeat(length_S.cumsum() - length_S, length_S)
            rows_BC = random.standard_normal((len(item_B), 2), np.float32).astype(np.float16)
            writer.append(rows_BC, item=item_B, view=view_B)
        return writer.n_rows


def _first_row(path: Path, last: int) -> tuple[float, float]:
    """Return the seconds and the MiB that opening a file and reading two rows take, in a new process."""
    command = [sys.executable, "-c", FIRST_ROW, str(path), str(last)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    taken, mib = map(float, done.stdout.split())
    return taken, mib


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


def _add(
    results: Results, what: str, n_rows: int, spk: Path | None, taken: Spread, loaded: str, mib: float = 0.0
) -> None:
    results.add(
        what=what, n_rows=n_rows, file_bytes=spk.stat().st_size if spk else 0, **taken.columns("wall_s"),
        heavy_imports=loaded, mib_taken=mib or "",
    )  # fmt: skip


if __name__ == "__main__":
    main()

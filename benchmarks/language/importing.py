"""Caches of a language model's log-probabilities going in and out: rows a second and memory, of every layout.

131,072 rows (16,384 as JSON) of 128 tokens of 262,144 (131,072 for Megatron-LM), in sequences of 256 rows; the
log-probabilities fall with the rank as words of a text do, p ~ rank ** -a, a drawn between 1.05 and 4 for each row.
Each way is a process of its own, `softpack encode` or `decode` as a user types it, into or from codec topk, timed from
start to exit; `rows_per_cpu_s` is over the time that processors worked for it; `peak_mb` is the most memory that it
held, and each of its helpers. All files are in the page cache.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, Options, Results, Spread, options, process_cost

ROWS, JSON_ROWS, LENGTH, K, REPEATS = 1 << 17, 1 << 14, 256, 128, 3
VOCABULARY, SMALL_VOCABULARY = 1 << 18, 1 << 17
BATCH = 8


def main() -> None:
    """Measure and write the table."""
    given = options("language/importing", __doc__ or "")
    results, n_repeats = Results(given), 1 if given.quick else REPEATS
    n_rows, n_json = (2 * BATCH * LENGTH, BATCH * LENGTH) if given.quick else (ROWS, JSON_ROWS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for classes, rows, out in (
            (VOCABULARY, n_rows, "large"),
            (SMALL_VOCABULARY, n_rows, "small"),
            (VOCABULARY, n_json, "few"),
        ):
            np.savez(folder / f"{out}.npz", **_arrays(rows, classes, given.seed))
            source = (folder / f"{out}.npz", "--from", "vllm", "--classes", classes)
            _run(given, "encode", *source, "-o", folder / f"{out}.spk")
        for way, rows, peer, command in _ways(folder, n_rows, n_json):
            before = _processor_seconds()
            costs = [process_cost(_command(*command), _environment(given)) for _ in range(n_repeats)]
            rates = [rows / seconds for seconds, _ in costs]
            results.add(
                way=way,
                rows=rows,
                peer_bytes_per_row=_bytes(folder / peer) / rows,
                **Spread.of(rates).columns("rows_per_s"),
                rows_per_cpu_s=rows * n_repeats / (_processor_seconds() - before),
                peak_mb=max(peak for _, peak in costs),
            )


def _ways(folder: Path, n_rows: int, n_json: int) -> list[tuple[str, int, str, tuple[object, ...]]]:
    """Return each way: its name, the rows, the file or folder of the peer, and the arguments of softpack."""
    run = folder / "run.json"
    run.write_text(
        json.dumps({"seed": 0, "sequence_length": LENGTH, "train_samples": n_rows // LENGTH, "blend": None})
    )
    meta = ("--batch-size", BATCH, "--micro-batch", BATCH, "--meta", run)
    layouts = [
        ("distillkit", n_rows, "large", "distillkit", (), ()),
        ("megatron", n_rows, "small", "megatron", meta, ("--classes", SMALL_VOCABULARY)),
        ("vllm, arrays", n_rows, "large", "out.npz", (), ("--classes", VOCABULARY)),
        ("vllm, JSON lines", n_json, "few", "out.jsonl", (), ("--classes", VOCABULARY)),
    ]
    if find_spec("array_record"):
        layouts.append(("maxtext", n_rows, "large", "maxtext", (), ("--classes", VOCABULARY)))
    ways: list[tuple[str, int, str, tuple[object, ...]]] = []
    for name, rows, source, peer, more_out, more_in in layouts:
        kind = name.partition(",")[0]
        out = ("decode", folder / f"{source}.spk", "-o", folder / peer, "--to", kind, "--force", *more_out)
        back = ("encode", folder / peer, "-o", folder / "back.spk", "--from", kind, "--force", *more_in)
        ways += [(f"{name}, out", rows, peer, out), (f"{name}, in", rows, peer, back)]
    return ways


def _arrays(n_rows: int, classes: int, seed: int) -> dict[str, np.ndarray]:
    """Return what a teacher says of random tokens."""
    rng, ranks = np.random.default_rng(seed), np.arange(1, classes + 1)
    exponents = np.linspace(1.05, 4.05, 301)
    log_sums = np.log([(ranks**-a).sum() for a in exponents])
    kind_B = rng.integers(len(exponents), size=n_rows)
    values_BK = -exponents[kind_B, None] * np.log(ranks[:K]) - log_sums[kind_B, None]
    # Words of a text are common or rare; a row has each once.
    ids_BK = rng.integers(classes, size=(n_rows, 1)) + np.cumsum(rng.geometric(0.01, (n_rows, K)), axis=1)
    return {
        "token_ids": (ids_BK % classes).astype(np.int32),
        "logprobs": values_BK.astype(np.float32),
        "lengths": np.full(n_rows // LENGTH, LENGTH),
        "tokens": rng.integers(classes, size=n_rows).astype(np.int32),
        "first_tokens": rng.integers(classes, size=n_rows // LENGTH).astype(np.int32),
    }


def _processor_seconds() -> float:
    """Return what all processes took that this one began and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "softpack", *map(str, arguments)]


def _run(given: Options, *arguments: object) -> None:
    subprocess.run(
        _command(*arguments),
        check=True,
        env=_environment(given),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _environment(given: Options) -> dict[str, str]:
    """Return the environment of this process, with so many threads, and softpack of this repository first."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(given.threads)}


if __name__ == "__main__":
    main()

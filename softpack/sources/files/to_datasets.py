"""Rows as a folder that `datasets.load_from_disk` of Hugging Face reads, written without that package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64

from softpack.sources.files.arrow import import_pyarrow
from softpack.sources.files.arrow_rows import batch_of, schema_of
from softpack.sources.files.hf_datasets import INFO, STATE
from softpack.sources.files.plans import Append, ArrayPlan, Plans
from softpack.sources.files.portions import Portions

FILES = r"data-\d{5}-of-\d{5}\.arrow|state\.json|dataset_info\.json"  # that such a folder may hold
SHARD_BYTES = 500 << 20  # of a file, as datasets has them
BATCH_ROWS = 1000  # as datasets has them


@contextmanager
def datasets_sink(path: Path, plans: Plans, temperature: float | None) -> Iterator[Append]:
    """Write batches of rows to as many files as their bytes ask for, and beside them what names files and columns."""
    features = {name: _feature(plan) for name, plan in plans.items()}
    schema = schema_of(plans, temperature, {"huggingface": json.dumps({"info": {"features": features}})})
    shards = _Shards(path, plans, schema)
    portions = Portions(plans, BATCH_ROWS, shards.write)
    try:
        yield portions.append
        portions.flush()
    finally:
        shards.close()
    _write(
        path / INFO, {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    )
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in shards.names],
        "_fingerprint": shards.hash.hexdigest(),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    _write(path / STATE, state)


class _Shards:
    """The files of rows, which are written one after another.

    Args:
        path: of the folder.
        plans: of the arrays.
        schema: of the rows.
    """

    def __init__(self, path: Path, plans: Plans, schema: Any) -> None:
        self._pa, self._path, self._schema = import_pyarrow(), path, schema
        row_bytes = sum(plan.n_bytes // plan.shape[0] for plan in plans.values())
        self._n_batches = max(1, SHARD_BYTES // (row_bytes * BATCH_ROWS))  # of a file
        n = -(-plans["item"].shape[0] // (self._n_batches * BATCH_ROWS))
        self.names = [f"data-{number:05d}-of-{n:05d}.arrow" for number in range(n)]
        self.hash = xxh3_64()  # of all rows: datasets tells sets apart by it
        self._done = 0
        self._writer: Any = None

    def write(self, arrays: dict[str, np.ndarray]) -> None:
        """Write a batch, the last or one of `BATCH_ROWS`."""
        if self._done % self._n_batches == 0:
            self.close()
            path = self._path / self.names[self._done // self._n_batches]
            self._writer = self._pa.ipc.new_stream(str(path), self._schema)
        self._writer.write_batch(batch_of(self._schema, arrays))
        self._done += 1
        for values in arrays.values():
            self.hash.update(values.data)

    def close(self) -> None:
        """Mark the end of the file that is open."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def _feature(plan: ArrayPlan) -> dict[str, Any]:
    """Return what datasets calls a column; lists by the name that its versions before 4 know too."""
    value = {"dtype": plan.dtype, "_type": "Value"}
    return value if len(plan.shape) == 1 else {"feature": value, "length": plan.shape[1], "_type": "Sequence"}


def _write(path: Path, facts: dict[str, Any]) -> None:
    path.write_text(json.dumps(facts, indent=2), encoding="utf-8")

"""Rows as a `.parquet`: a list of numbers of one length for each label, beside its item, view and columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from softpack.sources.files.arrow import import_pyarrow
from softpack.sources.files.arrow_rows import batch_of, schema_of
from softpack.sources.files.plans import Append, Plans
from softpack.sources.files.portions import Portions

GROUP_BYTES = 16 << 20  # of a row group, before it is compressed
ZSTD_LEVEL = 3


@contextmanager
def parquet_sink(path: Path, plans: Plans, temperature: float | None) -> Iterator[Append]:
    """Write row groups of one size, compressed by zstd with the bytes of floats apart, and a checksum in each page."""
    parquet = import_pyarrow().parquet
    schema = schema_of(plans, temperature)
    floats = [_leaf(name, plans) for name, plan in plans.items() if plan.numbers.kind == "f"]
    others = [_leaf(name, plans) for name, plan in plans.items() if plan.numbers.kind == "i"]
    writer = parquet.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_byte_stream_split=floats,
        use_dictionary=others,
        write_statistics=["item", "view"],
        write_page_checksum=True,
    )
    with writer:

        def write(arrays: dict[str, np.ndarray]) -> None:
            writer.write_batch(batch_of(schema, arrays))

        row_bytes = sum(plan.n_bytes // plan.shape[0] for plan in plans.values())
        portions = Portions(plans, max(1, GROUP_BYTES // row_bytes), write)
        yield portions.append
        portions.flush()


def _leaf(name: str, plans: Plans) -> str:
    """Return what Parquet calls the numbers of a column."""
    return name if len(plans[name].shape) == 1 else f"{name}.list.element"

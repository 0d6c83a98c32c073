"""Rows of labels and their columns as Arrow sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from softpack.sources.files.arrow import import_pyarrow
from softpack.sources.files.plans import Plans


def schema_of(plans: Plans, temperature: float | None, metadata: dict[str, str] | None = None) -> Any:
    """Return the schema of rows: numbers, or lists of them of one length.

    Args:
        plans: of arrays that have an entry for each row.
        temperature: of log_probs and probs, which the metadata says.
        metadata: what else it says.
    """
    pa = import_pyarrow()
    fields = []
    for name, plan in plans.items():
        kind = pa.from_numpy_dtype(plan.numbers)
        fields.append(pa.field(name, kind if len(plan.shape) == 1 else pa.list_(kind, plan.shape[1])))
    said = {} if temperature is None else {"temperature": repr(float(temperature))}
    return pa.schema(fields, metadata=said | (metadata or {}))


def batch_of(schema: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return rows as a batch of a schema; numbers are not copied."""
    pa = import_pyarrow()
    columns = []
    for field in schema:
        values = arrays[field.name]
        numbers = pa.array(values.reshape(-1))
        columns.append(
            numbers if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(numbers, type=field.type)
        )
    return pa.record_batch(columns, schema=schema)

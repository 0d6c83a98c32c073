"""Rows and columns as callers give them -> arrays of the dtypes that are stored. No torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from softpack.checks import lonely_mix
from softpack.errors import DataError
from softpack.records import COLUMNS, Column, RowBlock


def row_block(labels_BC: Any, item: Any, view: Any, columns: Mapping[str, Any], where: str) -> RowBlock:
    """Return rows as a block; numbers and columns are copied, since they wait for their tile.

    Raises:
        DataError: an unknown column, half of how rows are mixed, or another shape or kind of numbers.
    """
    labels_BC = as_array(labels_BC, "labels", where)
    if labels_BC.ndim != 2:
        raise DataError(f"{where}: labels have the shape {labels_BC.shape}, expected [rows, classes]")
    if labels_BC.dtype not in (np.float16, np.float32):
        if not np.issubdtype(labels_BC.dtype, np.floating):
            raise DataError(f"{where}: labels are of {labels_BC.dtype}, expected floating-point numbers")
        labels_BC = _float32(labels_BC)
    n = len(labels_BC)
    replay = {}
    for name in columns:
        if name not in COLUMNS or COLUMNS[name].per_item:
            known = ", ".join(c.name for c in COLUMNS.values() if not c.per_item)
            raise DataError(f"{where}: rows have no column {name!r}; expected one of {known}")
    if fault := lonely_mix([name for name in columns if columns[name] is not None]):
        raise DataError(f"{where}: {fault}")
    for name, column in COLUMNS.items():  # in one order, whatever the caller's
        if columns.get(name) is not None:
            replay[name] = column_values(column, columns[name], n, where)
    return RowBlock(labels_BC, _index(item, n, "item", where), _index(view, n, "view", where), replay)


def item_values(columns: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    """Return what items have as arrays [items, ...].

    Raises:
        DataError: an unknown column, or another shape or kind of numbers.
    """
    values = {}
    for name, given in columns.items():
        column = COLUMNS.get(name)
        if column is None or not column.per_item:
            known = ", ".join(c.name for c in COLUMNS.values() if c.per_item)
            raise DataError(f"{where}: items have no column {name!r}; expected one of {known}")
        values[name] = column_values(column, given, None, where)
    return values


def column_values(column: Column, values: Any, n_rows: int | None, where: str) -> np.ndarray:
    """Return a column in its dtype, [n, *shape]; whole numbers stay whole.

    Raises:
        DataError: another shape, fractions where whole numbers belong, or numbers outside 32 bits.
    """
    array = as_array(values, column.name, where)
    n = len(array) if n_rows is None and array.ndim else n_rows
    if array.shape != (n, *column.shape):
        raise DataError(
            f"{where}: column {column.name} has the shape {array.shape}, expected {(n, *column.shape)}"
        )
    if column.dtype == "int32":
        whole = array.dtype.kind in "iub" or (array.dtype.kind == "f" and (array == np.rint(array)).all())
        if not whole or (array.size and not -(1 << 31) <= array.min() <= array.max() < 1 << 31):
            raise DataError(f"{where}: column {column.name}: expected whole numbers of 32 bits")
    if column.dtype == "float32" and not (array.dtype.kind in "iuf" and np.isfinite(_float32(array)).all()):
        raise DataError(
            f"{where}: column {column.name} holds NaN, infinite or no numbers; expected finite ones"
        )
    if column.dtype == "bool" and not (array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all()):
        raise DataError(f"{where}: column {column.name}: expected true or false (1 or 0)")
    return array.astype(column.dtype)


def _index(values: Any, n_rows: int, name: str, where: str) -> np.ndarray:
    array = as_array(values, name, where)
    if array.ndim == 0:
        array = np.full(n_rows, array)
    if array.shape != (n_rows,) or (n_rows and array.dtype.kind not in "iu"):
        raise DataError(
            f"{where}: {name} is {array.dtype} of shape {array.shape}; expected {n_rows} integers, or one for all rows"
        )
    return array.astype(np.int64)


def _float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # too large becomes infinite, which is refused
        return array.astype(np.float32)


def as_array(values: Any, name: str = "an argument", where: str = "softpack") -> np.ndarray:
    """Return what a caller gave as an array: of a list, an array, or a tensor wherever it is.

    Raises:
        DataError: it is none.
    """
    if hasattr(values, "detach"):  # a tensor, wherever it is
        values = values.detach().cpu()
        values = values.float().numpy() if str(values.dtype) == "torch.bfloat16" else values.numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"{where}: {name} is no array: {error}") from None

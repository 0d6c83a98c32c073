"""The tables of a file <-> bytes: safetensors of 32-bit frequencies. No torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from softpack.errors import CorruptError

MAX_TABLES = 4096


def table_name(stream: str, array: str) -> str:
    """Return the name of the table of an array."""
    return f"{stream}.{array}"


def pack_tables(tables: Mapping[str, np.ndarray]) -> bytes:
    """Return tables, uint32 [S, levels] by name, as safetensors."""
    from safetensors.numpy import save

    data: bytes = save({name: np.ascontiguousarray(table, np.uint32) for name, table in sorted(tables.items())})
    return data


def read_tables(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Read tables; what is in them is for `ans.check_tables` to check.

    Raises:
        CorruptError: they are not valid safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tables: dict[str, np.ndarray] = load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError, TypeError) as error:
        raise CorruptError(f"{where}: the tables are not valid safetensors: {error}") from None
    if len(tables) > MAX_TABLES:
        raise CorruptError(f"{where}: found {len(tables)} tables, expected at most {MAX_TABLES}")
    return tables

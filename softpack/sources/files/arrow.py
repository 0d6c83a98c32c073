"""pyarrow, which is imported when a format needs it, and which not everybody has installed."""

from __future__ import annotations

from typing import Any

from softpack.extras import imported


def import_pyarrow() -> Any:
    """Return pyarrow, with its reader and writer of Parquet.

    Raises:
        DataError: it cannot be imported.
    """
    imported("pyarrow.parquet", "takes pyarrow", "parquet")
    return imported("pyarrow", "takes pyarrow", "parquet")

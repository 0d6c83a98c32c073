"""pyarrow, which is imported when a format needs it, and which not everybody has installed."""

from __future__ import annotations

from typing import Any

from softpack.errors import DataError


def import_pyarrow() -> Any:
    """Return pyarrow, with its reader and writer of Parquet.

    Raises:
        DataError: it cannot be imported.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"takes pyarrow, which cannot be imported ({error}): pip install 'softpack[parquet]'"
        ) from None
    return pyarrow

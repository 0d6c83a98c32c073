"""`.parquet`: a file, or a folder of shards, read by row groups.

A row group is read from front to back in pieces, as it may be all of a file, so that memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sources.columns import INT32_MAX
from softpack.sources.files.arrays import ArraySource
from softpack.sources.files.arrow import import_pyarrow
from softpack.sources.files.layout import WANTED
from softpack.sources.files.parquet_pages import check_declared
from softpack.sources.files.shards import shards_of
from softpack.sources.files.stored import reading
from softpack.sources.files.tables import Chunks, Table, check_alike, open_table

BUFFER_BYTES = 1 << 20  # of a column that are read from the disk at once


def open_parquet(path: Path, space: str | None, temperature: float | None) -> ArraySource:
    """Open a `.parquet`, or a folder of them.

    Raises:
        DataError: it is no source of labels.
    """
    files, schema, groups = shards_of(path, ".parquet"), None, list[_Group]()
    for number, file in enumerate(files):
        with reading(file):
            import_pyarrow()  # a file is not blamed for what is not installed
            check_declared(file, WANTED)
            with opened_file(file) as parquet:
                schema = parquet.schema_arrow if schema is None else schema
                check_alike(parquet.schema_arrow, schema, files[0])
                groups += _groups(parquet.metadata, number)
    starts = np.concatenate([[0], np.cumsum([group.n_rows for group in groups])]).astype(np.int64)
    file_of = np.array([group.file for group in groups], np.int64)
    return open_table(
        Table(path, files, starts, file_of, schema, partial(_RowGroups, files, groups)), space, temperature
    )


@dataclass(frozen=True)
class _Group:
    """A row group.

    Args:
        file: number of its file.
        number: among those of the file.
        n_rows: in it.
    """

    file: int
    number: int
    n_rows: int


def _groups(metadata: Any, file: int) -> list[_Group]:
    """Return the row groups of a file that hold any rows."""
    n_rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    for n in n_rows:
        if not 0 <= n <= INT32_MAX:
            raise DataError(f"declares {n} rows in a row group; expected at most {INT32_MAX}; make it again")
    return [_Group(file, number, n) for number, n in enumerate(n_rows) if n]


def opened_file(path: Path, metadata: Any = None) -> Any:
    """Open a file such that no column of a row group is read whole, and checksums of pages are checked."""
    return import_pyarrow().parquet.ParquetFile(
        path, metadata=metadata, pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True
    )


class _RowGroups(Chunks):
    """Row groups. Every column is read through an opened file of its own, as only one can be read through each."""

    def __init__(self, files: tuple[Path, ...], groups: list[_Group]) -> None:
        self._files, self._groups = files, groups
        self._number, self._metadata = -1, None  # of the file that was opened last

    def pieces(self, chunk: int, name: str, n_rows: int) -> Iterator[Any]:
        """Yield the rows of a column in a row group."""
        group = self._groups[chunk]
        path = self._files[group.file]
        known = self._metadata if group.file == self._number else None
        with reading(path), opened_file(path, known) as file:
            self._number, self._metadata = group.file, file.metadata
            is_there = group.number < file.metadata.num_row_groups
            if not is_there or file.metadata.row_group(group.number).num_rows != group.n_rows:
                raise DataError("has changed since it was opened; open it again")
            for batch in file.iter_batches(n_rows, [group.number], [name], use_threads=False):
                yield batch.column(0)

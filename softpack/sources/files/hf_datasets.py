"""A folder that `Dataset.save_to_disk` of Hugging Face's `datasets` wrote, read without that package.

`state.json` names files of Arrow's stream format in their order: a schema, and then batches of rows one after another.
Where batches begin is found at the start; a batch is mapped when it is read, so that columns that nobody asks for, such
as images, are not touched, and unmapped after, so that what was touched does not stay.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sources.files.arrays import ArraySource
from softpack.sources.files.arrow import import_pyarrow
from softpack.sources.files.stored import reading
from softpack.sources.files.tables import Chunks, Table, check_alike, open_table

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
MAX_STATE_BYTES = 16 << 20
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream
HEADER, COMPRESSION = 2, 3  # fields of a message, and of a batch of rows in it


def open_datasets(path: Path, space: str | None, temperature: float | None) -> ArraySource:
    """Open what `Dataset.save_to_disk` wrote.

    Raises:
        DataError: it is no such folder, or no source of labels.
    """
    files, schemas, batches = _files(path), list[Any](), list[_Batch]()
    for number, file in enumerate(files):
        with reading(file):
            schemas.append(_schema(file))
            check_alike(schemas[-1], schemas[0], files[0])
            batches += _batches(file, number)
    starts = np.concatenate([[0], np.cumsum([batch.n_rows for batch in batches])]).astype(np.int64)
    file_of = np.array([batch.file for batch in batches], np.int64)
    chunks = partial(_Batches, files, schemas, batches)
    return open_table(Table(path, files, starts, file_of, schemas[0], chunks), space, temperature)


def _files(path: Path) -> tuple[Path, ...]:
    """Return the files that the state names."""
    if not (path / STATE).is_file():
        if (path / SPLITS).is_file():
            splits = sorted(str(state.parent) for state in path.glob(f"*/{STATE}"))
            raise DataError(f"{path}: holds splits, a folder for each; name one of them: {', '.join(splits)}")
        raise DataError(f"{path}: has no {STATE}; expected a folder that Dataset.save_to_disk wrote")
    if (path / STATE).stat().st_size > MAX_STATE_BYTES:
        raise DataError(f"{path / STATE}: has more than {MAX_STATE_BYTES} bytes; expected a list of files")
    try:
        state = json.loads((path / STATE).read_bytes())
        names = [entry["filename"] for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path / STATE}: is no state of a dataset: {type(error).__name__}: {error}; save it to disk again"
        ) from None
    if state.get("_indices_data_files"):
        raise DataError(
            f"{path}: keeps rows in an order of their own; call flatten_indices() and save it to disk again"
        )
    for name in names:
        if not (isinstance(name, str) and Path(name).name == name):
            raise DataError(
                f"{path / STATE}: names the file {str(name)[:80]!r}; expected names of files beside it"
            )
        if not (path / name).is_file():
            raise DataError(
                f"{path / name}: is missing, and {STATE} names it; copy it, or save the dataset to disk again"
            )
    if not names:
        raise DataError(f"{path}: holds no rows; expected a row for each label")
    return tuple(path / name for name in names)


@dataclass(frozen=True)
class _Batch:
    """A batch of rows.

    Args:
        file: number of its file.
        offset: where it begins in that.
        n_rows: in it.
    """

    file: int
    offset: int
    n_rows: int


def _schema(path: Path) -> Any:
    pa = import_pyarrow()
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_stream(
            file
        ).schema  # which checks that the first message is one, as read_schema does not


def _batches(path: Path, number: int) -> list[_Batch]:
    """Return the batches of a file that hold any rows; nothing is read but what says where they are."""
    pa = import_pyarrow()
    found = []
    with pa.memory_map(str(path)) as file:
        messages = pa.ipc.MessageReader.open_stream(file)
        offset = 0
        while (message := _next(messages)) is not None:
            if message.type == "record batch":
                found.append(_Batch(number, offset, _n_rows(message)))
            elif message.type != "schema":
                raise DataError(
                    f"holds a {message.type}; expected rows alone; cast the column that it is of to its values"
                )
            offset = file.tell()
        file.seek(offset)
        rest = file.read(len(END) + 1)
    if rest != END:
        raise DataError(
            f"ends at byte {offset} without the mark of its end; it is cut off: copy it or save it again"
        )
    return [batch for batch in found if batch.n_rows]


def _next(messages: Any) -> Any:
    try:
        return messages.read_next_message()
    except StopIteration:
        return None


def _n_rows(message: Any) -> int:
    """Return how many rows a batch has, from a table of flatbuffers, whose bytes the reader has verified."""
    data = message.metadata.to_pybytes()
    batch = _follow(data, _field(data, _follow(data, 0), HEADER))
    if _field(data, batch, COMPRESSION):
        raise DataError(
            "holds compressed rows, which datasets does not write; load it and save it to disk again"
        )
    at = _field(data, batch, 0)
    (n_rows,) = struct.unpack_from("<q", data, at) if at else (0,)
    n_bytes = message.body.size
    if not 0 <= n_rows <= n_bytes:  # as each row has a label
        raise DataError(f"declares {n_rows} rows in {n_bytes} bytes; it is damaged: copy it or save it again")
    return int(n_rows)


def _follow(data: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Return where a field of a table is, 0 where it has none."""
    fields = table - int(struct.unpack_from("<i", data, table)[0])
    (n_bytes,) = struct.unpack_from("<H", data, fields)
    place = 4 + 2 * number
    (offset,) = struct.unpack_from("<H", data, fields + place) if place < n_bytes else (0,)
    return table + offset if offset else 0


@dataclass(frozen=True)
class _Batches(Chunks):
    """Batches of rows.

    Args:
        files: that they are in.
        schemas: of the files.
        batches: in order.
    """

    files: tuple[Path, ...]
    schemas: list[Any]
    batches: list[_Batch]

    def pieces(self, chunk: int, name: str, n_rows: int) -> Iterator[Any]:
        """Yield the rows of a column in a batch; each piece maps it anew."""
        batch = self.batches[chunk]
        for start in range(0, batch.n_rows, n_rows):
            with reading(self.files[batch.file]):
                piece = self._column(batch, name)[start : start + n_rows]
                piece.validate(full=True)  # or lists that reach beyond their numbers would read what lies there
            yield piece

    def _column(self, batch: _Batch, name: str) -> Any:
        path, schema = self.files[batch.file], self.schemas[batch.file]
        pa = import_pyarrow()
        file = pa.memory_map(str(path))
        file.seek(batch.offset)
        rows = pa.ipc.read_record_batch(pa.ipc.read_message(file), schema)
        if rows.num_rows != batch.n_rows:
            raise DataError("has changed since it was opened; open it again")
        return rows.column(schema.get_field_index(name))

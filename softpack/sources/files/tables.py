"""Tables of Arrow columns as arrays: what Parquet files and the files of Hugging Face's `datasets` have in common.

A table comes in chunks, such as row groups, of which a column is read from front to back, some rows at a time.

Shapes in names: R rows of a table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sources.files.arrays import ArraySource, open_arrays
from softpack.sources.files.arrow import import_pyarrow
from softpack.sources.files.layout import INDEX, ITEM_COLUMNS, WANTED
from softpack.sources.files.per_item import one_of_each_item
from softpack.sources.files.stored import HeldArray, Stored, StoredArray, reading

PIECE_VALUES = 1 << 20  # numbers of a column that are unpacked at once
# Arrow's names of numbers, and those of numpy.
NUMBERS = {"halffloat": "float16", "float": "float32", "double": "float64", "bool": "bool"}
NUMBERS |= {name: name for name in (f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


class Chunks(ABC):
    """The chunks of a table, open for reading."""

    @abstractmethod
    def pieces(self, chunk: int, name: str, n_rows: int) -> Iterator[Any]:
        """Yield the rows of a column in a chunk as Arrow arrays, at most `n_rows` at a time."""


@dataclass(frozen=True, eq=False)
class Table:
    """What is known of a table before its rows are read.

    Args:
        path: of the file or folder that it is.
        files: that it is in, in order.
        starts: number of the first row of each chunk, and of all, int64 [chunks + 1]; no chunk is empty.
        file_of: number of the file of each chunk.
        schema: its pyarrow.Schema.
        chunks: opens its chunks.
    """

    path: Path
    files: tuple[Path, ...]
    starts: np.ndarray
    file_of: np.ndarray
    schema: Any
    chunks: Callable[[], Chunks]

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return int(self.starts[-1])

    def row_name(self, row: int) -> str:
        """Return what people call a row."""
        if len(self.files) == 1:
            return f"row {row}"
        number = self.file_of[np.searchsorted(self.starts, row, "right") - 1]
        first = self.starts[np.searchsorted(self.file_of, number)]
        return f"row {row} (row {row - first} of {self.files[number].name})"


def check_alike(schema: Any, first: Any, path: Path) -> None:
    """Refuse a file of a table whose columns of labels are not those of its first.

    Args:
        schema: of the file.
        first: schema of the first.
        path: of the first.

    Raises:
        DataError: they are not.
    """
    found, expected = _shown(schema), _shown(first)
    if found != expected:
        raise DataError(f"has {', '.join(found)}; expected {', '.join(expected)} as in {path.name}")


def _shown(schema: Any) -> list[str]:
    """Return what must be the same in all files of a table, as people read it."""
    said = [f"{field.name} ({_numbers_in(field.type)})" for field in schema if field.name in WANTED]
    return sorted(said) + [f"temperature {value:g}" for value in _attributes(schema).values()]


def _numbers_in(kind: Any) -> str:
    """Return what a column holds, whatever kind of list it is in."""
    kind = _stored_as(kind)
    return f"lists of {_numbers_in(kind.value_type)}" if _is_list(kind) else str(kind)


def _stored_as(kind: Any) -> Any:
    """Return what an extension type is stored as, and other types as they are."""
    return kind.storage_type if isinstance(kind, import_pyarrow().BaseExtensionType) else kind


def _is_list(kind: Any) -> bool:
    pa = import_pyarrow()
    return isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType))


def open_table(table: Table, space: str | None, temperature: float | None) -> ArraySource:
    """Open a table as a source: a row for each label, or for all labels of an item.

    Args:
        table: with columns of the names that arrays of a source have.
        space: what the labels must be, if given.
        temperature: of log_probs and probs, where the table does not say it.

    Raises:
        DataError: its columns are no labels, or do not fit each other.
    """
    with reading(table.path):
        if not table.n_rows:
            raise DataError("holds no rows; expected a row for each label")
        names = [name for name in table.schema.names if name in WANTED]
        if len(set(names)) < len(names):
            raise DataError(f"has several columns of one name: {', '.join(sorted(names))}; expected each once")
        if "temperature" in names:
            raise DataError(
                "has a column temperature; expected it in the metadata of the schema, or by --source-temperature; "
                "leave the column out"
            )
        chunks = table.chunks()
        columns = {name: _form(table, chunks, name) for name in names}
        per_item = _per_item(table, chunks, columns)
    opener = partial(_stored, table, columns, per_item)
    return open_arrays(opener, table.path, space, temperature)


@contextmanager
def _stored(
    table: Table,
    columns: Mapping[str, _Form],
    per_item: Mapping[str, StoredArray],
    path: Path,
    wanted: frozenset[str],
) -> Iterator[Stored]:
    chunks = table.chunks()
    arrays: dict[str, StoredArray] = {n: _column(table, chunks, n, form) for n, form in columns.items()}
    arrays |= per_item
    others = tuple(name for name in table.schema.names if name not in arrays)
    yield Stored(arrays, others, _attributes(table.schema), files=table.files, starts=table.starts)


def _attributes(schema: Any) -> dict[str, float]:
    said = (schema.metadata or {}).get(b"temperature")
    if said is None:
        return {}
    try:
        return {"temperature": float(said)}
    except ValueError:
        raise DataError(f"metadata temperature is {said[:40]!r}; expected a number") from None


def _per_item(table: Table, chunks: Chunks, columns: Mapping[str, _Form]) -> dict[str, StoredArray]:
    """Return what there is one of for each item, of a table that has it beside each row."""
    if any(name not in columns for name in INDEX):
        return {}
    found: dict[str, StoredArray] = {}
    item = _column(table, chunks, "item", columns["item"])
    for name in ITEM_COLUMNS:
        if name in columns:
            found[name] = HeldArray.of(
                one_of_each_item(name, item, _column(table, chunks, name, columns[name]))
            )
    return found


# -- columns -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """What a column holds of each row.

    Args:
        sizes: of the lists in each other, the outermost first.
        shape: of the numbers in them.
        dtype: of the numbers, a numpy name.
    """

    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str


def _form(table: Table, chunks: Chunks, name: str) -> _Form:
    """Find what a column holds, from its type and its first row."""
    kind, n_lists, tensor = table.schema.field(name).type, 0, ()
    while _is_list(_stored_as(kind)):
        if isinstance(kind, import_pyarrow().FixedShapeTensorType):
            if kind.permutation not in (None, list(range(len(kind.shape)))):
                raise DataError(f"{name} holds tensors whose axes are permuted; expected them in C order")
            tensor = tuple(kind.shape)
        kind, n_lists = _stored_as(kind).value_type, n_lists + 1
    kind = str(_stored_as(kind))
    if kind not in NUMBERS:
        found = table.schema.field(name).type
        raise DataError(f"{name} is a column of {found}; expected numbers, or lists of them")
    sizes = _sizes_of_first(next(chunks.pieces(0, name, 1)), name, n_lists)
    shape = (*sizes[:-1], *tensor) if tensor else sizes
    return _Form(sizes, shape, NUMBERS[kind])


def _sizes_of_first(array: Any, name: str, n_lists: int) -> tuple[int, ...]:
    """Return how many values the lists of the first row have, which lie in each other."""
    sizes = []
    for _ in range(n_lists):
        array = _storage(array)
        if array.null_count or not len(array):
            raise DataError(f"{name} of row 0 is null or empty; expected numbers in every row")
        sizes.append(len(array[0]))
        array = array[:1].flatten()
    return tuple(sizes)


def _storage(array: Any) -> Any:
    pa = import_pyarrow()
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _column(table: Table, chunks: Chunks, name: str, form: _Form) -> _Column:
    n_rows = max(1, PIECE_VALUES // max(1, prod(form.sizes)))
    stream = _Stream(table.starts, lambda chunk: chunks.pieces(chunk, name, n_rows))
    return _Column((table.n_rows, *form.shape), form.dtype, name, table, form, stream)


@dataclass(frozen=True, eq=False)
class _Column(StoredArray):
    """A column of a table.

    Args:
        name: of the column.
        table: that it is of.
        form: of its rows.
        stream: from which they are read.
    """

    name: str
    table: Table
    form: _Form
    stream: _Stream

    def read(self, start: int, stop: int, lead: int) -> np.ndarray:
        """Return rows `start` to `stop` of the column with its first `lead` axes taken as one."""
        n_inner = prod(self.shape[1:lead])
        first, last = start // n_inner, -(-stop // n_inner)
        rows_R = np.empty((last - first, *self.shape[1:]), self.dtype)
        done = 0
        for piece in self.stream.read(first, last):
            rows_R[done : done + len(piece)] = self._numbers(piece, first + done)
            done += len(piece)
        return rows_R.reshape(-1, *self.shape[lead:])[start - first * n_inner : stop - first * n_inner]

    def _numbers(self, array: Any, row: int) -> np.ndarray:
        """Return the numbers of an Arrow array, refusing the first row that is not whole."""
        n_rows, n_each = len(array), 1  # lists, or numbers, of a row
        for size in self.form.sizes:
            array = _storage(array)
            self._check_nulls(array, row, n_each)
            self._check_sizes(array, row, n_each, size)
            array, n_each = array.flatten(), n_each * size
        array = _storage(array)
        self._check_nulls(array, row, n_each)
        return array.to_numpy(zero_copy_only=False).reshape(n_rows, *self.form.shape)  # type: ignore[no-any-return]

    def _check_nulls(self, array: Any, row: int, n_each: int) -> None:
        if array.null_count:
            first = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
            raise DataError(
                f"{self.name} of {self.table.row_name(row + first // n_each)} is null, or holds one; expected numbers "
                "in every row; leave such rows out"
            )

    def _check_sizes(self, array: Any, row: int, n_each: int, size: int) -> None:
        if isinstance(array, import_pyarrow().FixedSizeListArray):
            n_values = np.full(len(array), array.type.list_size)
        else:
            n_values = np.diff(array.offsets.to_numpy())
        wrong = np.flatnonzero(n_values != size)
        if len(wrong):
            raise DataError(
                f"{self.name} of {self.table.row_name(row + wrong[0] // n_each)} holds {n_values[wrong[0]]} values; "
                f"expected {size} as in row 0; lists of each their own length are no rows of labels"
            )


class _Stream:
    """A column from front to back. Where a row is wanted that has gone by, its chunk begins anew."""

    def __init__(self, starts: np.ndarray, pieces: Callable[[int], Iterator[Any]]) -> None:
        self._starts, self._pieces = starts, pieces
        self._coming: Iterator[Any] = iter(())
        self._chunk = -1
        self._piece, self._first, self._stop = None, 0, 0  # what is held, and its rows

    def read(self, start: int, stop: int) -> Iterator[Any]:
        """Yield rows `start` to `stop` as Arrow arrays."""
        while start < stop:
            self._go_to(start)
            piece = self._piece[start - self._first : min(stop, self._stop) - self._first]  # type: ignore[index]
            start += len(piece)
            yield piece

    def _go_to(self, row: int) -> None:
        """Hold the piece that a row is in."""
        chunk = int(np.searchsorted(self._starts, row, "right")) - 1
        if chunk != self._chunk or row < self._first:
            self._coming, self._chunk, self._stop = self._pieces(chunk), chunk, int(self._starts[chunk])
        while row >= self._stop:
            self._piece = next((piece for piece in self._coming if len(piece)), None)
            if self._piece is None:
                raise DataError(
                    f"ends before row {row}; expected {self._starts[-1]} rows; copy it or make it again"
                )
            self._first, self._stop = self._stop, self._stop + len(self._piece)

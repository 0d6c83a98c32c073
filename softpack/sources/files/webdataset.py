"""WebDataset: a `.tar`, or a folder of shards, with the labels of a sample in `KEY.logits.npy`.

A sample is one label [classes], or the labels of the views of an item [views, classes]. Beside them, in `KEY.json` or
as members such as `KEY.flip.npy`, stand `item`, `view`, replay columns, `target` (or `KEY.cls`) and `source_hw`.
Samples that do not say their item are numbered in order. Archives are gone through once; then numbers are read where
they are.

Shapes in names: S samples, R rows, B rows that are read.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.records import COLUMNS, SPACES
from softpack.sources.files.arrays import MAX_ITEM_BYTES, ArraySource, open_arrays
from softpack.sources.files.layout import ITEM_COLUMNS
from softpack.sources.files.per_item import one_of_each_item
from softpack.sources.files.sample_parts import OF_SAMPLE, UNNAMED, Part, Parts
from softpack.sources.files.shards import shards_of
from softpack.sources.files.stored import ByteArray, FileBytes, HeldArray, Stored, StoredArray, reading
from softpack.sources.files.tars import samples_of

SUFFIX = ".tar"
MAX_OPEN = 8  # shards at a time


def open_webdataset(path: Path, space: str | None, temperature: float | None) -> ArraySource:
    """Open a shard, or a folder of shards.

    Raises:
        DataError: one is no tar archive, or a sample is not as the others.
    """
    shards, index = shards_of(path, SUFFIX), _Index()
    for number, shard in enumerate(shards):
        with reading(shard), open(shard, "rb", buffering=0) as file:
            parts = Parts(FileBytes(file, 0, shard.stat().st_size))
            for sample in samples_of(shard):
                index.add(sample.key, number, parts.of(sample))
            index.ignored |= parts.ignored
    with reading(path):
        return open_arrays(index.samples(shards).opened, path, space, temperature)


# -- from samples to arrays ----------------------------------------------------------------------------


class _Index:
    """What is known of all samples: a few numbers of each, and where the others are."""

    def __init__(self) -> None:
        self.ignored: dict[str, None] = {}
        self._columns: dict[str, _Located | _Held] = {}
        self._shard_S, self._n_S = array("q"), array("q")

    def add(self, key: str, shard: int, parts: dict[str, Part]) -> None:
        """Take in a sample.

        Raises:
            DataError: it is not as those before.
        """
        spaces = [name for name in SPACES if name in parts]
        if len(spaces) > 1:
            raise DataError(f"{key} has {' and '.join(spaces)}; expected one of them")
        if spaces and parts.pop(UNNAMED, None) is not None:
            self.ignored["npy"] = None
        labels = spaces[0] if spaces else UNNAMED
        lead, classes = parts[labels].shape[:-1], parts[labels].shape[-1:]
        if not classes or len(lead) > 1 or not prod(lead):
            raise DataError(
                f"{key} has labels of shape {parts[labels].shape}; expected [classes] or [views, classes]"
            )
        if not self._n_S:
            self._columns = {
                name: _Held() if isinstance(part, np.ndarray) else _Located() for name, part in parts.items()
            }
        if parts.keys() != self._columns.keys():
            raise DataError(
                f"{key} has {_shown(parts)}; expected {_shown(self._columns)}, as the first sample has"
            )
        for name, part in parts.items():
            of_row = classes if name == labels else COLUMNS[name].shape if name in COLUMNS else ()
            self._columns[name].add(
                part, (() if name in OF_SAMPLE else lead), of_row, f"{name or 'the array'} of {key}"
            )
        self._shard_S.append(shard)
        self._n_S.append(prod(lead))

    def samples(self, shards: tuple[Path, ...]) -> _Samples:
        """Return what is known of all of them."""
        if not self._n_S:
            raise DataError("holds no samples; expected some with KEY.logits.npy")
        held = {name: column.array() for name, column in self._columns.items() if isinstance(column, _Held)}
        item = held.pop("item", None) or HeldArray.of(np.arange(len(self._n_S)))
        held |= {
            name: HeldArray.of(one_of_each_item(name, item, held[name]))
            for name in ITEM_COLUMNS
            if name in held
        }
        temperature = held.pop("temperature", None)
        return _Samples(
            shards,
            np.array(self._shard_S),
            np.concatenate([[0], np.cumsum(self._n_S)]),
            item.values,
            held,
            {name: column for name, column in self._columns.items() if isinstance(column, _Located)},
            {} if temperature is None else {"temperature": _only(temperature.values)},
            tuple(self.ignored),
        )


def _shown(names: Iterable[str]) -> str:
    return ", ".join(sorted(name or "an array" for name in names))


def _only(temperature_S: np.ndarray) -> float:
    found = np.unique(temperature_S)
    if len(found) > 1:
        raise DataError(
            f"has samples of temperatures {found[0]:g} and {found[1]:g}; expected one of all labels"
        )
    return float(found[0])


class _Located:
    """A column whose numbers stay in the shards."""

    def __init__(self) -> None:
        self.first: ByteArray | None = None
        self.of_row: tuple[int, ...] = ()
        self.offset_S = array("q")

    def add(self, part: Part, lead: tuple[int, ...], of_row: tuple[int, ...], where: str) -> None:
        """Take in the numbers of a sample."""
        if not isinstance(part, ByteArray):
            raise DataError(f"{where} is not in a .npy; expected one, as the first sample has")
        if self.first is None:
            self.first, self.of_row = part, of_row
        if part.shape != (*lead, *self.of_row) or part.numbers != self.first.numbers:
            raise DataError(
                f"{where} has shape {part.shape} of {part.dtype}; expected {(*lead, *self.of_row)} of "
                f"{self.first.dtype}, to fit the first sample"
            )
        self.offset_S.append(part.offset)


class _Held:
    """A column that is held, as it is small."""

    def __init__(self) -> None:
        self._dtype: np.dtype | None = None
        self._of_row: tuple[int, ...] = ()
        self._numbers = bytearray()

    def add(self, part: Part, lead: tuple[int, ...], of_row: tuple[int, ...], where: str) -> None:
        """Take in the numbers of a sample."""
        if not isinstance(part, np.ndarray):
            raise DataError(f"{where} is in a .npy; expected it in the JSON, as the first sample has it")
        if self._dtype is None:
            self._dtype, self._of_row = part.dtype, of_row
        if part.shape != (*lead, *of_row) or not np.can_cast(part.dtype, self._dtype, "safe"):
            raise DataError(
                f"{where} has shape {part.shape} of {part.dtype}; expected {(*lead, *of_row)} of {self._dtype}, to fit "
                "the first sample"
            )
        self._numbers += part.astype(self._dtype).tobytes()
        if len(self._numbers) > MAX_ITEM_BYTES:
            raise DataError(
                f"{where} is in JSON, which is held; expected less than {MAX_ITEM_BYTES >> 30} GiB; give it as .npy"
            )

    def array(self) -> HeldArray:
        """Return all numbers."""
        return HeldArray.of(np.frombuffer(self._numbers, self._dtype).reshape(-1, *self._of_row))


# -- reading -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Samples:
    """All samples.

    Args:
        shards: that they are in.
        shard_S: number of the shard of each.
        starts: number of the first row of each, and of all, int64 [S + 1].
        item_S: of each.
        held: columns that are held.
        located: columns whose numbers are in the shards.
        attributes: the temperature, if it is said.
        ignored: what else samples have.
    """

    shards: tuple[Path, ...]
    shard_S: np.ndarray
    starts: np.ndarray
    item_S: np.ndarray
    held: dict[str, HeldArray]
    located: dict[str, _Located]
    attributes: dict[str, float]
    ignored: tuple[str, ...]

    def of_rows(self, start: int, stop: int) -> np.ndarray:
        """Return the samples of rows, int64 [B]."""
        return np.searchsorted(self.starts, np.arange(start, stop), "right") - 1

    def items(self, start: int, stop: int) -> np.ndarray:
        """Return the items of rows, int64 [B]."""
        return self.item_S[self.of_rows(start, stop)]  # type: ignore[no-any-return]

    def views(self, start: int, stop: int) -> np.ndarray:
        """Return the views of rows by their places in samples, int64 [B]."""
        return np.arange(start, stop) - self.starts[self.of_rows(start, stop)]  # type: ignore[no-any-return]

    @contextmanager
    def opened(self, path: Path, wanted: frozenset[str]) -> Iterator[Stored]:
        """Open the samples as arrays of rows."""
        n_rows = int(self.starts[-1])
        with ExitStack() as stack:
            shards = _OpenShards(self.shards, stack)
            arrays: dict[str, StoredArray] = {
                "item": _Computed((n_rows,), "int64", self.items),
                "view": _Computed((n_rows,), "int64", self.views),
            }
            arrays |= self.held
            arrays |= {name: _members(column, self, shards) for name, column in self.located.items()}
            unnamed = arrays.pop(UNNAMED, None)
            if unnamed is not None:
                arrays["logits"] = unnamed
            yield Stored(arrays, self.ignored, self.attributes, unnamed is not None, self.shards)


@dataclass(frozen=True, eq=False)
class _Computed(StoredArray):
    """A column that follows from where rows are.

    Args:
        of: gives it of some rows.
    """

    of: Callable[[int, int], np.ndarray]

    def read(self, start: int, stop: int, lead: int) -> np.ndarray:
        """Return rows `start` to `stop`."""
        return self.of(start, stop)


def _members(column: _Located, samples: _Samples, shards: _OpenShards) -> _Members:
    assert column.first is not None
    shape, offset_S = (int(samples.starts[-1]), *column.of_row), np.array(column.offset_S)
    return _Members(shape, column.first.dtype, column.first.numbers, offset_S, samples, shards)


@dataclass(frozen=True, eq=False)
class _Members(StoredArray):
    """A column whose rows lie in the members of many samples.

    Args:
        numbers: numpy dtype of the stored bytes.
        offset_S: of the numbers of each sample in its shard.
        samples: all of them.
        shards: that they are in.
    """

    numbers: np.dtype
    offset_S: np.ndarray
    samples: _Samples
    shards: _OpenShards

    def read(self, start: int, stop: int, lead: int) -> np.ndarray:
        """Return rows `start` to `stop`."""
        starts, inner = self.samples.starts, self.shape[1:]
        parts = []
        for number in np.unique(self.samples.of_rows(start, stop)).tolist():
            first, n = int(starts[number]), int(starts[number + 1] - starts[number])
            data = self.shards.data(int(self.samples.shard_S[number]))
            array = ByteArray((n, *inner), self.dtype, self.numbers, data, int(self.offset_S[number]))
            parts.append(array.read(max(start - first, 0), min(stop - first, n), 1))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class _OpenShards:
    """Shards that are opened when they are read, of which few stay open.

    Args:
        paths: of the shards.
        stack: closes them in the end.
    """

    def __init__(self, paths: tuple[Path, ...], stack: ExitStack) -> None:
        self._paths = paths
        self._open: dict[int, FileBytes] = {}
        stack.callback(self._close, 0)

    def data(self, number: int) -> FileBytes:
        """Return the bytes of a shard."""
        if number not in self._open:
            self._close(MAX_OPEN - 1)
            file = open(self._paths[number], "rb", buffering=0)  # noqa: SIM115  # stays open for the next rows
            self._open[number] = FileBytes(file, 0, self._paths[number].stat().st_size)
        return self._open[number]

    def _close(self, n_left: int) -> None:
        """Close those that were opened first."""
        for number in list(self._open)[: max(0, len(self._open) - n_left)]:
            self._open.pop(number).file.close()

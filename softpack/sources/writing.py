"""Rows -> a file of arrays that `open_source` reads again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.records import COLUMNS, LabelSpec, RowBlock
from softpack.sources.files.plans import Append, ArrayPlan, Plans
from softpack.sources.files.sinks import NAMED, SINKS, Sink
from softpack.sources.replacing import replacing, replacing_folder

STORED_NAMES = {"crop_xywh_fraction": "crop_xywh"}  # where a file's array has another name than its column


@dataclass(frozen=True)
class Contents:
    """What a file of arrays will hold.

    Args:
        spec: what the rows are.
        n_rows: rows in all.
        grid: (items, views) where every item has every view, and the file gets [items, views, classes]; None
            for [rows, classes] with `item` and `view`.
        labels_dtype: "float16" or "float32".
        columns: replay columns that every row has.
        item_columns: `target` [items] and `source_hw` [items, 2], those that are there.
    """

    spec: LabelSpec
    n_rows: int
    grid: tuple[int, int] | None = None
    labels_dtype: str = "float32"
    columns: tuple[str, ...] = ()
    item_columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def plans(self) -> Plans:
        """The arrays of the file by name, the labels first."""
        lead_shape = self.grid or (self.n_rows,)
        plans = {self.spec.space: self._plan((*lead_shape, self.spec.classes), self.labels_dtype)}
        if not self.grid:
            plans |= {name: self._plan(lead_shape, "int32") for name in ("item", "view")}
        for name in self.columns:
            column = COLUMNS[name]
            plans[STORED_NAMES.get(name, name)] = self._plan((*lead_shape, *column.shape), column.dtype)
        for name, values in self.item_columns.items():
            plans[name] = ArrayPlan(values.shape, COLUMNS[name].dtype, 1)
        return plans

    def _plan(self, shape: tuple[int, ...], dtype: str) -> ArrayPlan:
        return ArrayPlan(shape, dtype, 2 if self.grid else 1)

    def dropped(self, path: str | os.PathLike[str], kind: str | None = None) -> tuple[str, ...]:
        """Return what an output of that name or kind has no place for: all but the labels in a `.npy`.

        What `encode` must then be told has the option beside it.
        """
        if sink_of(path, kind).has_columns:
            return ()
        names, spec = list(self.plans)[1:], self.spec
        if spec.space != "logits":
            names.append(f"space (encode it with --space {spec.space})")
            names.append(f"temperature (--source-temperature {spec.temperature:g})")
        return tuple(names)


def kind_of(path: Path, kind: str | None) -> str:
    """Return the suffix that says a file's kind: the one asked for, else the one of its name."""
    return f".{kind.lower().lstrip('.')}" if kind else path.suffix.lower()


def sink_of(path: str | os.PathLike[str], kind: str | None = None) -> Sink:
    """Return what writes a kind of output.

    Raises:
        DataError: there is no such kind.
    """
    suffix = kind_of(Path(path), kind)
    sink = SINKS.get(suffix) or (NAMED.get(kind) if kind else None)
    if sink is None:
        found = f"{kind!r} is no kind of output" if kind else f"ends in {suffix or 'nothing'}"
        remedy = f", {', '.join(NAMED)}" if kind else "; name it so, or say --to FORMAT"
        raise DataError(f"{path}: {found}; expected one of {', '.join(SINKS)}{remedy}")
    return sink


def write_arrays(
    path: str | os.PathLike[str],
    contents: Contents,
    blocks: Iterable[RowBlock],
    *,
    force: bool = False,
    kind: str | None = None,
) -> None:
    """Write rows as an output of any kind of `SINKS` and `NAMED`, in memory that does not grow with them.

    Args:
        path: of the output, whose suffix says its kind. It appears when all rows are written, or not at all.
        contents: what it will hold; `contents.dropped(path)` says what it cannot.
        blocks: the rows; for a grid in the order of (item, view).
        force: overwrite what is there.
        kind: "npz" and so on, for an output whose name does not say it.

    Raises:
        ExistsError: the output is there, and `force` is not given.
        DataError: the kind is unknown, the rows are not those of `contents`, or the disk is full.
    """
    path, sink = Path(path), sink_of(path, kind)
    if contents.grid and contents.n_rows != contents.grid[0] * contents.grid[1]:
        raise DataError(
            f"{path}: a grid of {contents.grid} was to have {contents.n_rows} rows; expected all of it"
        )
    stored = contents if sink.has_grid else replace(contents, grid=None)
    with _begun(path, sink, stored, force) as append:
        append(dict(contents.item_columns) if sink.has_columns else {})
        done = 0
        for block in blocks:
            _check(block, contents, done, path)
            arrays = _arrays(block, stored)
            append(arrays if sink.has_columns else {contents.spec.space: block.labels_BC})
            done += len(block)
        if done != contents.n_rows:
            raise DataError(f"{path}: got {done} rows to write; expected {contents.n_rows}")


@contextmanager
def _begun(path: Path, sink: Sink, contents: Contents, force: bool) -> Iterator[Append]:
    temperature = None if contents.spec.space == "logits" else contents.spec.temperature
    beside = replacing(path, force) if sink.files is None else replacing_folder(path, force, sink.files)
    with beside as temporary, ExitStack() as stack:
        try:
            append = stack.enter_context(sink.open(temporary, contents.plans, temperature))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        yield append


def _arrays(block: RowBlock, contents: Contents) -> dict[str, np.ndarray]:
    """Return a block's arrays by the names that they have in a file."""
    arrays = {contents.spec.space: block.labels_BC}
    if not contents.grid:
        arrays |= {"item": block.item_B, "view": block.view_B}
    return arrays | {STORED_NAMES.get(name, name): block.replay[name] for name in contents.columns}


def _check(block: RowBlock, contents: Contents, start: int, path: Path) -> None:
    stop = start + len(block)
    if stop > contents.n_rows or block.labels_BC.shape[1:] != (contents.spec.classes,):
        raise DataError(
            f"{path}: got rows {start} to {stop} of {block.labels_BC.shape[1:]} classes; expected at most "
            f"{contents.n_rows} rows of {contents.spec.classes}"
        )
    if missing := [name for name in contents.columns if name not in block.replay]:
        raise DataError(
            f"{path}: rows {start} to {stop} lack {', '.join(missing)}; expected all columns in each block"
        )
    if contents.grid:
        n_views = contents.grid[1]
        place_B = block.item_B * n_views + block.view_B
        if (block.view_B >= n_views).any() or (place_B != np.arange(start, stop)).any():
            raise DataError(
                f"{path}: rows {start} to {stop} are not in the order of (item, view), which a grid of "
                f"{contents.grid} needs; write them as rows with item and view"
            )

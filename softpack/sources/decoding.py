"""From an `.spk` file to arrays, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from softpack.codecs.spaces import convert
from softpack.container.reader import Labels
from softpack.errors import DataError
from softpack.records import LabelSpec, RowBlock
from softpack.sources.base import block_rows
from softpack.sources.writing import Contents, write_arrays

Range = tuple[int, int | None]


@dataclass(frozen=True)
class Selection:
    """Which rows: items and views from the first number up to the second, without it; None for all."""

    items: Range | None = None
    views: Range | None = None


def decode_to(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    selection: Selection | None = None,
    *,
    space: str | None = None,
    temperature: float | None = None,
    dtype: str = "float32",
    kind: str | None = None,
    replay: bool = True,
    matrix: str | os.PathLike[str] | None = None,
    force: bool = False,
    counted: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """Write labels as `encode` reads them; arrays have three dimensions where every (item, view) is there.

    Args:
        path: of the `.spk` file.
        out: of the file or folder.
        selection: which rows; they are counted from 0 again.
        space: "logits", "log_probs" or "probs"; what the file gives by default.
        temperature: of log_probs and probs; the file's by default.
        dtype: "float32" or "float16".
        kind: suffix that says the kind of `out` where its name does not.
        replay: write the replay columns.
        matrix: safetensors with the output matrix that labels are decoded by, of files that name it by its hash.
        force: overwrite `out`.
        counted: is told (rows done, rows in all).

    Returns:
        The names of arrays that `out` has no place for.

    Raises:
        SoftpackError: the file, the selection or the disk refuses.
    """
    labels = Labels(path, matrix=matrix)
    if not labels.n_rows:
        raise DataError(f"{path}: holds no labels; expected some to decode; a .spkm is a model without them")
    gives = _asked(labels.spec, space, temperature)
    rows, first, shape = _select(labels, selection or Selection())
    grid = shape if len(rows) == shape[0] * shape[1] else None
    items = slice(first[0], first[0] + shape[0])
    contents = Contents(
        spec=gives,
        n_rows=len(rows),
        grid=grid,
        labels_dtype=dtype,
        columns=labels.columns if replay else (),
        item_columns={n: labels.item_column(n)[items] for n in labels.item_columns if replay or n == "target"},
    )
    blocks = _blocks(labels, rows, first, shape, contents, counted)
    write_arrays(out, contents, blocks, force=force, kind=kind)
    return contents.dropped(out, kind)


def _asked(spec: LabelSpec, space: str | None, temperature: float | None) -> LabelSpec:
    space = space or spec.space
    if space == "logits":
        if temperature not in (None, 1.0):
            raise DataError(
                f"logits have no temperature, but {temperature:g} was asked for; take log_probs or probs"
            )
        return LabelSpec(spec.classes, "logits")
    return LabelSpec(spec.classes, space, spec.temperature if temperature is None else temperature)


def _select(labels: Labels, selection: Selection) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """Return the row numbers, the first item and view, and how many of each."""
    bounds = []
    for name, total, wanted in (
        ("items", labels.shape[0], selection.items),
        ("views", labels.shape[1], selection.views),
    ):
        start, stop = wanted or (0, None)
        stop = total if stop is None else stop
        if not 0 <= start < stop <= total:
            raise DataError(
                f"{labels.file.name}: {name} {start}:{stop} were asked for; expected a part of 0:{total}"
            )
        bounds.append((start, stop))
    item, view = labels.cells()
    inside = (item >= bounds[0][0]) & (item < bounds[0][1]) & (view >= bounds[1][0]) & (view < bounds[1][1])
    first, shape = (bounds[0][0], bounds[1][0]), (bounds[0][1] - bounds[0][0], bounds[1][1] - bounds[1][0])
    rows = np.flatnonzero(inside)
    if not len(rows):
        raise DataError(f"{labels.file.name}: none of its labels lies in the items and views asked for")
    return rows, first, shape


def _blocks(
    labels: Labels,
    rows: np.ndarray,
    first: tuple[int, int],
    shape: tuple[int, int],
    contents: Contents,
    counted: Callable[[int, int], None] | None,
) -> Iterator[RowBlock]:
    gives, dtype = contents.spec, getattr(torch, contents.labels_dtype)
    step = block_rows(gives.classes)
    for start in range(0, len(rows), step):
        item, view = labels.cells(rows[start : start + step])
        labels_BC = convert(labels.read(item, view), labels.spec, gives).to(dtype).numpy()
        replay = labels.replay(item, view) if contents.columns else {}
        replay = _partners_kept(replay, first[0], shape[0], labels.file.name)
        yield RowBlock(labels_BC, item - first[0], view - first[1], replay)
        if counted is not None:
            counted(min(start + step, len(rows)), len(rows))


def _partners_kept(replay: dict[str, np.ndarray], first: int, items: int, where: str) -> dict[str, np.ndarray]:
    """Count mix partners from the first item selected; they must be among the selected."""
    if "mix_item" not in replay:
        return replay
    partner = replay["mix_item"]
    outside = (partner >= 0) & ((partner < first) | (partner >= first + items))
    if outside.any():
        raise DataError(
            f"{where}: item {partner[outside][0]} is a mix partner of a selected row, but is not selected; "
            "select the items that are mixed together, or leave the columns out with --no-replay"
        )
    return {**replay, "mix_item": np.where(partner >= 0, partner - first, -1).astype(np.int32)}

"""TinyViT's label sets: the k largest probabilities of every image in every epoch, and a seed (arXiv:2207.10666).

`logits_topK_epochE/rankR-keys.txt` has a line for each record of `rankR-values.bin`, which is, in little-endian:

    int32 seed | int16 classes [k] | float16 probabilities [k], at T=1

All other classes share what is left of 1. TinyViT alone can draw crop, flip and mix from the seed. A key is the number
of an image, or, of ImageNet-22k, its name without the suffix. Numbers are those of an ImageFolder; images out of a
`train.tar` are in the order of timm instead, which sorts digits by the number that they make. Images that fill up the
last batch have a second record, with a seed of its own: the first one of a key counts.

Shapes in names: R rows or records, B those that are read at once, k classes that are kept, C classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from softpack.checks import Place, check_labels
from softpack.errors import DataError
from softpack.records import LabelSpec, RowBlock
from softpack.sources.base import Source, block_rows
from softpack.sources.files.stored import ByteArray, FileBytes, gathered, reading
from softpack.sources.peers.given import Given, need
from softpack.sources.peers.kept import class_numbers, share_of_others, spread
from softpack.sources.peers.numbered import numbered_in
from softpack.sources.peers.row_files import joined, leaving_out, refuse_missing
from softpack.sources.peers.tinyvit_keys import Keys, keys_of

FOLDERS = r"logits_top(0|[1-9][0-9]*)_epoch(0|[1-9][0-9]*)"
KEYS, VALUES = "-keys.txt", "-values.bin"


def record_of(k: int) -> np.dtype:
    """Return what a record of k classes is."""
    record: np.dtype = np.dtype([("seed", "<i4"), ("classes", "<i2", (k,)), ("probs", "<f2", (k,))])
    return record


def folder_of(k: int, epoch: int | str = "") -> str:
    """Return the name of the folder of an epoch."""
    return f"logits_top{k}_epoch{epoch}"


def looks_like(names: set[str]) -> bool:
    """Return whether one of the names is that of an epoch's folder."""
    return any(re.fullmatch(FOLDERS, name) for name in names)


def open_tinyvit(path: Path, given: Given) -> TinyVitRows:
    """Open a set of TinyViT.

    Raises:
        DataError: it is none, a file is missing or does not fit the others, or nobody says how many classes there are.
    """
    need(path, {"how many classes there are (--classes C)": given.classes is None})
    spec = LabelSpec(given.classes or 0, "probs")
    k, ignored = _kept(path)
    if not 0 < k <= spec.classes:
        raise DataError(
            f"{path}: keeps {k} classes of a row, as its folders are called; expected 1 to {spec.classes}, of --classes"
        )
    epochs, _ = numbered_in(path, folder_of(k))
    left_out = refuse_missing(
        path, [path / folder_of(k, e) for e in range(max(epochs)) if e not in epochs], given.skip_bad
    )
    ranks = []
    for epoch in epochs:
        found, others = _ranks(path / folder_of(k, epoch), epoch, k, given.skip_bad, left_out)
        ranks += found
        ignored += [f"{folder_of(k, epoch)}/{other}" for other in others]
    keys = keys_of({rank.keys: rank.n for rank in ranks}, given, left_out)
    items = _items(ranks, keys, spec, given.skip_bad, left_out)
    item_R, repeated_D = _first_of_keys(items)
    if len(repeated_D):
        ignored.append(f"{len(repeated_D):,} records of keys that their epoch has already")
    return TinyVitRows(
        path=path,
        spec=spec,
        items=int(item_R.max()) + 1 if keys.n_items is None else keys.n_items,
        views=1 + max(epochs),
        n_rows=len(item_R),
        columns=("aug_seed",) if given.replay else (),
        item_columns=given.item_columns(),
        ignored=tuple(ignored),
        ranks=tuple(items),
        item_R=item_R,
        repeated_D=repeated_D,
        how=keys.how,
        left_out=left_out,
    )


@dataclass(frozen=True, eq=False)
class TinyVitRows(Source):
    """Records, by their epochs and ranks. Of each, only its item is held.

    Args:
        ranks: files of records.
        item_R: int32, of all rows.
        repeated_D: ascending int64, the records among those of all files that are no rows.
        how: it is known which item a row is of.
        left_out: what is wrong with files that are left out, by their paths.
    """

    ranks: tuple[_Rank, ...]
    item_R: np.ndarray
    repeated_D: np.ndarray
    how: str
    left_out: dict[str, str]

    @property
    def n_bytes(self) -> int:
        """Bytes of the files on disk."""
        return sum(path.stat().st_size for rank in self.ranks for path in (rank.values, rank.keys))

    @property
    def skipped(self) -> Mapping[str, str]:
        """What is wrong with files that were left out."""
        return self.left_out

    @property
    def order_known_by(self) -> str:
        """How it is known which item a row is of."""
        return self.how

    def views_of(self, rows_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        rank_B, _ = self._places(rows_B)
        view_B: np.ndarray = np.array([rank.epoch for rank in self.ranks])[rank_B]
        return view_B

    def read_rows(self, groups: Iterator[np.ndarray]) -> Iterator[RowBlock]:
        """Yield one block for each group of ascending row numbers."""
        for rows_B in filter(len, groups):
            rank_B, record_B = self._places(rows_B)
            yield joined(
                [
                    self._block(self.ranks[rank], record_B[rank_B == rank], rows_B[rank_B == rank])
                    for rank in np.unique(rank_B).tolist()
                ]
            )

    def _block(self, rank: _Rank, record_B: np.ndarray, rows_B: np.ndarray) -> RowBlock:
        block = rank.rows(record_B, self.item_R[rows_B].astype(np.int64), self.spec)
        return block if self.columns else RowBlock(block.labels_BC, block.item_B, block.view_B)

    def _places(self, rows_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rank and the record of rows."""
        before_D = self.repeated_D - np.arange(len(self.repeated_D))  # rows before each record that is none
        record_B = rows_B + np.searchsorted(before_D, rows_B, "right")
        starts = np.cumsum([0, *(rank.n for rank in self.ranks)])
        rank_B = np.searchsorted(starts, record_B, "right") - 1
        return rank_B, record_B - starts[rank_B]


@dataclass(frozen=True)
class _Rank:
    """What one process wrote in one epoch.

    Args:
        values: path of the records.
        epoch: of them.
        k: classes that they keep.
        n: how many there are.
    """

    values: Path
    epoch: int
    k: int
    n: int

    @property
    def keys(self) -> Path:
        """Path of the keys."""
        return self.values.with_name(self.values.name.removesuffix(VALUES) + KEYS)

    def rows(self, record_B: np.ndarray, item_B: np.ndarray, spec: LabelSpec) -> RowBlock:
        """Return some of the rows, checked.

        Args:
            record_B: ascending numbers of their records.
            item_B: of them.
            spec: what they are.
        """
        size, view_B = record_of(self.k).itemsize, np.full(len(item_B), self.epoch)
        with reading(self.values), open(self.values, "rb", buffering=0) as file:
            stored = ByteArray(
                (self.n, size), "uint8", np.dtype("u1"), FileBytes(file, 0, self.n * size), offset=0
            )
            records = gathered(stored, record_B).view(record_of(self.k))[:, 0]
            id_Bk = class_numbers(records["classes"].astype(np.int16), spec.classes, record_B)
        prob_Bk = records["probs"].astype(np.float32)
        probs_BC = spread(prob_Bk, id_Bk, share_of_others(prob_Bk, spec.classes), spec.classes)
        check_labels(probs_BC, spec, "float32", Place(str(self.values), record_B, item_B, view_B))
        return RowBlock(probs_BC, item_B, view_B, {"aug_seed": records["seed"].astype(np.int32)})

    def check(self, item_R: np.ndarray, spec: LabelSpec) -> None:
        """Refuse records that are none, reading all of them."""
        step = block_rows(spec.classes)
        for start in range(0, self.n, step):
            record_B = np.arange(start, min(start + step, self.n))
            self.rows(record_B, item_R[record_B], spec)


# -- files ---------------------------------------------------------------------------------------------


def _items(
    ranks: list[_Rank], keys: Keys, spec: LabelSpec, skip_bad: bool, left_out: dict[str, str]
) -> dict[_Rank, np.ndarray]:
    """Return the items of the records of each rank that is good; one with a bad record is left out as a whole."""
    items = {}
    for rank in ranks:
        with leaving_out(rank.keys, skip_bad, left_out):
            items[rank] = keys.items(rank.keys, rank.n).astype(np.int32)
    for rank in list(items) if skip_bad else []:
        with leaving_out(rank.values, skip_bad, left_out):
            rank.check(items[rank], spec)
        if str(rank.values) in left_out:
            del items[rank]
    if not items:
        raise DataError(next(iter(left_out.values())))
    return items


def _first_of_keys(items: dict[_Rank, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the items of rows, and which of all records are none: their epoch has an earlier one of their item."""
    kept, repeated, start = [], [], 0
    for _, ranks in groupby(items, key=lambda rank: rank.epoch):
        item_R = np.concatenate([items[rank] for rank in ranks])
        is_first_R = np.zeros(len(item_R), bool)
        is_first_R[np.unique(item_R, return_index=True)[1]] = True
        kept.append(item_R[is_first_R])
        repeated.append(start + np.flatnonzero(~is_first_R))
        start += len(item_R)
    return np.concatenate(kept), np.concatenate(repeated)


def _kept(path: Path) -> tuple[int, list[str]]:
    """Return how many classes a set keeps, and the names of what else is there."""
    found = {entry.name: re.fullmatch(FOLDERS, entry.name) for entry in os.scandir(path)}
    kept = sorted({int(parts[1]) for parts in found.values() if parts})
    if len(kept) != 1:
        what = f"keeps {' and '.join(map(str, kept))} classes of a row" if kept else "has no logits_topK_epoch0"
        raise DataError(
            f"{path}: {what}; expected logits_topK_epoch0, logits_topK_epoch1 and so on, with one K, and in each "
            f"rank0{KEYS} and rank0{VALUES}"
        )
    return kept[0], sorted(name for name, parts in found.items() if not parts)


def _ranks(
    folder: Path, epoch: int, k: int, skip_bad: bool, left_out: dict[str, str]
) -> tuple[list[_Rank], list[str]]:
    """Return the ranks of an epoch whose files are there and are of whole records, and what else is there."""
    (keys, others), (values, more) = (numbered_in(folder, "rank", after) for after in (KEYS, VALUES))
    numbers = range(1 + max([*keys, *values], default=0))
    missing = [
        folder / f"rank{number}{after}"
        for number in numbers
        for found, after in ((keys, KEYS), (values, VALUES))
        if number not in found
    ]
    left_out |= refuse_missing(folder.parent, missing, skip_bad)
    ranks, size = [], record_of(k).itemsize
    for number in sorted(keys.keys() & values.keys()):
        file = folder / values[number]
        with leaving_out(file, skip_bad, left_out):
            n, n_over = divmod(file.stat().st_size, size)
            if n_over or not n:
                raise DataError(
                    f"{file}: has {file.stat().st_size} bytes; expected records of {size}, for the {k} classes that "
                    "the name of its folder says; it may be cut off"
                )
            ranks.append(_Rank(file, epoch, k, n))
    return ranks, sorted(set(others) & set(more))

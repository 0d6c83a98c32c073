"""Sources of which an item is a sequence of tokens, a view a position of it, and a row what is said of the next token.

Some tokens of each row are known. Files are read in parts of a few sequences each.

Shapes in names: N sequences, P parts, Q runs of rows, B rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import xxhash

from softpack.checks import Place, check_sparse
from softpack.errors import DataError
from softpack.records import COLUMNS, RowBlock, SparseLabels
from softpack.sources.base import SAMPLE_BLOCK_BYTES, SAMPLE_PARTS, Source
from softpack.sources.columns import INT32_MAX
from softpack.sources.peers.settled import Tally

TOKEN = "token"
NO_TOKEN = -1
PART_ROWS = 4096  # in a part, about


@dataclass(frozen=True, eq=False)
class Runs:
    """Which (item, view) rows are of: runs of positions that follow one another.

    Args:
        item_Q: int64, of each run; none is empty.
        view_Q: int64, of its first row.
        starts: int64 [Q + 1], number of its first row, and of all.
    """

    item_Q: np.ndarray
    view_Q: np.ndarray
    starts: np.ndarray

    @classmethod
    def of_lengths(cls, n_N: np.ndarray) -> Runs:
        """Return the runs of whole sequences of so many rows each, one after another."""
        item_Q = np.flatnonzero(n_N)
        return cls(
            item_Q, np.zeros_like(item_Q), np.concatenate([[0], np.cumsum(n_N[item_Q])]).astype(np.int64)
        )

    def cells(self, rows_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return items and views of rows, int64 [B]."""
        run_B = np.searchsorted(self.starts, rows_B, "right") - 1
        return self.item_Q[run_B], self.view_Q[run_B] + rows_B - self.starts[run_B]

    @property
    def n_views(self) -> int:
        """Of an item, at most."""
        return int((self.view_Q + np.diff(self.starts)).max(initial=0))


@dataclass(frozen=True)
class PartRows:
    """The rows of a part.

    Args:
        sparse: what is known of them.
        token_B: int32, the token that each is about; None where files do not say it.
    """

    sparse: SparseLabels
    token_B: np.ndarray | None = None


class Parts(ABC):
    """Reads the parts of files, best in their order. It may hold files open, and `close` closes them."""

    @abstractmethod
    def read(self, number: int) -> PartRows:
        """Return the rows of a part.

        Raises:
            DataError: it is damaged, or no such part.
        """

    @abstractmethod
    def name(self, number: int) -> str:
        """Return which part of which file it is, for messages."""

    def close(self) -> None:  # noqa: B027  # most have nothing to close
        """Close what is open."""


@dataclass(frozen=True, eq=False)
class SequenceSource(Source):
    """Sequences in parts.

    Args:
        runs: of the rows.
        part_starts: int64 [P + 1], number of the first row of each part, and of all; no part is empty.
        parts_of: opens them, and is given what tells of rows that were changed.
        n_kept: tokens of a row that are known.
        said: what there is to say of all rows, for people.
        before_P: int64, parts that are read on the way to each; None where each is read alone.
        n_stored_bytes: of the files.
        skip_bad: leave out parts that cannot be used.
        left_out: what is wrong with those, by their names; grows as they are met.
        tally: of rows that were changed.
    """

    runs: Runs
    part_starts: np.ndarray
    parts_of: Callable[[Tally], Parts]
    n_kept: int
    n_stored_bytes: int
    said: tuple[str, ...] = ()
    before_P: np.ndarray | None = None
    skip_bad: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    @property
    def kept(self) -> int:
        """Tokens of a row that are known."""
        return self.n_kept

    @property
    def n_bytes(self) -> int:
        """Bytes of the files on disk."""
        return self.n_stored_bytes

    @property
    def parts(self) -> np.ndarray:
        """Number of the first row of each part, and of all."""
        return self.part_starts

    @property
    def skipped(self) -> Mapping[str, str]:
        """What is wrong with parts that were left out so far."""
        return self.left_out

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was done to rows."""
        return self.said + self.tally.remarks()

    def views_of(self, rows_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        return self.runs.cells(rows_B)[1]

    def blocks(self, n_rows: int) -> Iterator[RowBlock]:
        """Yield all rows in stored order, whole parts together, at most `n_rows` at a time if a part has no more."""
        self.tally.restart()
        groups, start, starts = [], 0, self.part_starts
        while start < self.n_rows:
            stop = starts[np.searchsorted(starts, start + max(n_rows, 1), "right") - 1]
            stop = stop if stop > start else min(start + n_rows, self.n_rows)
            groups.append(np.arange(start, stop))
            start = int(stop)
        return self.read_rows(iter(groups))

    def sample(self, n_rows: int, seed: int) -> Iterator[RowBlock]:
        """Yield `n_rows` rows as `Source.sample` does; of parts that are soon reached, where others lie before them.

        Sequences that are read from front to back stand in no order, where those who make such files shuffle them.
        """
        if self.before_P is None or n_rows >= self.n_rows:
            return super().sample(n_rows, seed)
        random, n_P = np.random.default_rng(seed), np.diff(self.part_starts)
        shuffled = random.permutation(len(n_P))
        soonest = shuffled[np.argsort(self.before_P[shuffled], kind="stable")]
        n_parts = max(SAMPLE_PARTS, int(np.searchsorted(np.cumsum(n_P[soonest]), 2 * n_rows)) + 1)
        rows = np.concatenate(
            [np.arange(self.part_starts[p], self.part_starts[p + 1]) for p in np.sort(soonest[:n_parts])]
        )
        taken = np.sort(rows[random.permutation(len(rows))[:n_rows]])
        step = max(1, SAMPLE_BLOCK_BYTES // (self.row_numbers * 4))
        return self.read_rows(taken[start : start + step] for start in range(0, n_rows, step))

    def read_rows(self, groups: Iterator[np.ndarray]) -> Iterator[RowBlock]:
        """Yield one block for each group of ascending row numbers; each part is read once where groups ascend.

        Rows of parts that are left out are left out of their blocks, and a block of none is.
        """
        parts = self.parts_of(self.tally)
        number, block = -1, None
        try:
            for rows_B in filter(len, groups):
                part_B = np.searchsorted(self.part_starts, rows_B, "right") - 1
                found = []
                for wanted in np.unique(part_B).tolist():
                    if wanted != number:
                        number, block = wanted, self._block(parts, wanted)
                    if block is not None:
                        found.append(block.take(rows_B[part_B == wanted] - self.part_starts[wanted]))
                if found:
                    yield joined(found)
        finally:
            parts.close()

    def _block(self, parts: Parts, number: int) -> RowBlock | None:
        """Return the rows of a part, checked; None where it is left out."""
        rows_B = np.arange(self.part_starts[number], self.part_starts[number + 1])
        item_B, view_B = self.runs.cells(rows_B)
        name = parts.name(number)
        try:
            rows = parts.read(number)
            if len(rows.sparse) != len(rows_B):
                raise DataError(
                    f"{name}: has {len(rows.sparse)} rows; expected {len(rows_B)}, as when it was opened"
                )
            check_sparse(rows.sparse, self.spec, Place(name, rows_B, item_B, view_B))
        except DataError as error:
            if not self.skip_bad:
                raise
            self.left_out[name] = f"{error} ({len(rows_B)} rows, of items {item_B[0]} to {item_B[-1]})"
            return None
        columns = {}
        if TOKEN in self.columns and rows.token_B is not None:
            columns[TOKEN] = rows.token_B
        return RowBlock.of_sparse(rows.sparse, item_B, view_B, columns)


def joined(blocks: list[RowBlock]) -> RowBlock:
    """Return the rows of all blocks, of which there is one at least, as one block."""
    if len(blocks) == 1:
        return blocks[0]
    sparse = [block.sparse for block in blocks if block.sparse is not None]
    tails = [labels.tail_B for labels in sparse if labels.tail_B is not None]
    width = max(labels.ids_BK.shape[1] for labels in sparse)
    return RowBlock.of_sparse(
        SparseLabels(
            np.concatenate([widened(labels.ids_BK, width, -1) for labels in sparse]),
            np.concatenate([widened(labels.log_probs_BK, width, -np.inf) for labels in sparse]),
            np.concatenate(tails) if tails else None,
        ),
        np.concatenate([block.item_B for block in blocks]),
        np.concatenate([block.view_B for block in blocks]),
        {name: np.concatenate([block.replay[name] for block in blocks]) for name in blocks[0].replay},
    )


def widened(values_BK: np.ndarray, width: int, missing: float) -> np.ndarray:
    """Return rows of so many numbers, filled up with what stands for none."""
    return np.pad(values_BK, ((0, 0), (0, width - values_BK.shape[1])), constant_values=missing)


def token_columns(are_known: bool) -> tuple[str, ...]:
    """Return the replay columns of rows whose tokens are known."""
    return (TOKEN,) if are_known and TOKEN in COLUMNS else ()


class SequenceColumns:
    """What is stored of each sequence: how many tokens it has, the first of them, and a hash of them all.

    A file is bound by it to one label less than tokens of each sequence, so sources say it of none where parts may be
    left out.
    """

    def __init__(self) -> None:
        self._facts: list[tuple[int, int, bytes]] = []

    def add(self, tokens: np.ndarray) -> None:
        """Take the next sequence."""
        first = int(tokens[0]) if len(tokens) else NO_TOKEN
        self._facts.append((len(tokens), first, xxhash.xxh64(tokens.astype("<i4").tobytes()).digest()))

    def columns(self) -> dict[str, np.ndarray]:
        """Return the item columns, those that files have a place for."""
        hashes = np.frombuffer(b"".join(fact[2] for fact in self._facts), ">u8").astype("<u8")
        found = {
            "length": np.array([fact[0] for fact in self._facts], np.int32),
            "first_token": np.array([fact[1] for fact in self._facts], np.int32),
            "token_hash": hashes.view("<i4").reshape(-1, 2).astype(np.int32),
        }
        return {name: values for name, values in found.items() if name in COLUMNS}


def check_tokens(tokens: np.ndarray, classes: int, where: str) -> None:
    """Refuse tokens that the vocabulary does not have.

    Raises:
        DataError: naming the first.
    """
    bad = np.flatnonzero((tokens < 0) | (tokens >= min(classes, INT32_MAX)))
    if len(bad):
        raise DataError(
            f"{where}: token {tokens[bad[0]]} at place {bad[0]}; expected 0 to {classes - 1}, as there are {classes} "
            "tokens in the vocabulary"
        )

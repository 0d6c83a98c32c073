"""What a source is: rows of labels that are read in blocks, whatever holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.recipe import Recipe
from softpack.records import LabelSpec, RowBlock

BLOCK_VALUES = 1 << 22  # numbers in a block that is read at once
WIDE_BLOCK_ROWS = (
    64  # where classes are so many that these are more: products of fewer rows wait for their matrix
)
WIDE_BLOCK_VALUES = 1 << 24
SAMPLE_BLOCK_BYTES = 4 << 20  # of labels, in one block of a sample
SAMPLE_PARTS = 64  # at least, of which a sample is drawn where parts are read whole


def block_rows(classes: int) -> int:
    """Return how many rows are read at once."""
    return max(1, BLOCK_VALUES // classes, min(WIDE_BLOCK_ROWS, WIDE_BLOCK_VALUES // classes))


@dataclass(frozen=True, eq=False)
class Source(ABC):
    """Rows of labels on disk. Nothing is read before it is asked for, and no file is held open between reads.

    Args:
        path: where the rows are.
        spec: what the rows are.
        items: items that rows and item columns speak of; some may have no row.
        views: views that an item has at most.
        n_rows: rows in all.
        columns: replay columns that every row has, by their names in `softpack.records.COLUMNS`.
        item_columns: `target` int32 [items] and `source_hw` int32 [items, 2], those that are there.
        ignored: names of what else is there and is not understood.
    """

    path: Path
    spec: LabelSpec
    items: int
    views: int
    n_rows: int
    columns: tuple[str, ...]
    item_columns: dict[str, np.ndarray]
    ignored: tuple[str, ...]

    @property
    def recipe(self) -> Recipe | None:
        """What drew the replay columns, so that they need not be stored; None where nobody says it."""
        return None

    @property
    def n_bytes(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    @property
    def skipped(self) -> Mapping[str, str]:
        """What is wrong with files that were left out so far, by their paths."""
        return {}

    @property
    def order_known_by(self) -> str:
        """How it is known which item a row is of, where the rows themselves do not say it; else ""."""
        return ""

    @property
    def images(self) -> Mapping[int, bytes]:
        """What some of the labelled images look like, by their items."""
        return {}

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """SHA-256 of the teacher, the tokenizer and the data of labels of language, those that are known."""
        return {}

    @property
    def forced(self) -> tuple[int, ...]:
        """Classes whose log-probabilities are kept exactly beside the rows."""
        return ()

    @property
    def parts(self) -> np.ndarray | None:
        """Number of the first row of each part that is read whole, and of all; None where rows are read alone."""
        return None

    @abstractmethod
    def read_rows(self, groups: Iterator[np.ndarray]) -> Iterator[RowBlock]:
        """Yield one block for each group of rows.

        Args:
            groups: int64 arrays of ascending row numbers, from 0 to `n_rows` - 1 in stored order.

        Raises:
            DataError: a row is not what it should be, or the file cannot be read.
        """

    @abstractmethod
    def views_of(self, rows_B: np.ndarray) -> np.ndarray:
        """Return the views of rows by their ascending numbers, int64 [B], without reading their labels."""

    def blocks(self, n_rows: int) -> Iterator[RowBlock]:
        """Yield all rows in stored order, at most `n_rows` at a time, float16 or float32 as they are stored."""
        if n_rows < 1:
            raise DataError(f"blocks of {n_rows} rows were asked for; expected at least 1")
        starts = range(0, self.n_rows, n_rows)
        return self.read_rows(np.arange(start, min(start + n_rows, self.n_rows)) for start in starts)

    def sample(self, n_rows: int, seed: int) -> Iterator[RowBlock]:
        """Yield `n_rows` rows drawn without replacement, in stored order; of some parts, where these are read whole.

        All rows, if there are fewer. The same seed draws the same rows.
        """
        if self.parts is None or n_rows >= self.n_rows:
            drawn = [sample_rows(self.n_rows, n_rows, seed)]
        else:
            drawn = sample_parts(self.parts, n_rows, seed)
        step = min(
            block_rows(self.spec.classes), max(WIDE_BLOCK_ROWS, SAMPLE_BLOCK_BYTES // (self.spec.classes * 4))
        )
        return self.read_rows(
            rows_B[start : start + step] for rows_B in drawn for start in range(0, len(rows_B), step)
        )


def sample_rows(n_rows: int, n_wanted: int, seed: int) -> np.ndarray:
    """Draw row numbers uniformly without replacement; memory grows with `n_wanted`, not with `n_rows`.

    Returns:
        Ascending int64 [min(n_wanted, n_rows)].
    """
    if n_wanted >= n_rows:
        return np.arange(n_rows)
    rng = np.random.default_rng(seed)
    if 2 * n_wanted > n_rows:
        return np.sort(rng.permutation(n_rows)[:n_wanted])
    drawn = np.empty(0, np.int64)
    while len(drawn) < n_wanted:
        more = rng.integers(n_rows, size=2 * (n_wanted - len(drawn)))
        drawn = np.unique(np.concatenate([drawn, more]))
    # No row is likelier among the drawn than another, so a random part of them is a uniform sample.
    return np.sort(rng.permutation(drawn)[:n_wanted])


def sample_parts(starts: np.ndarray, n_wanted: int, seed: int) -> list[np.ndarray]:
    """Draw rows of some parts that are drawn without replacement, as a part is read whole whatever is taken of it.

    Of as many parts as hold twice the rows, and 64 at least.

    Args:
        starts: number of the first row of each part, and of all, int64 [parts + 1]; no part is empty.
        n_wanted: rows, fewer than there are.
        seed: the same draws the same rows.

    Returns:
        Ascending int64 row numbers, one array for each part that any is of.
    """
    random, n_rows = np.random.default_rng(seed), np.diff(starts)
    drawn = random.permutation(len(n_rows))
    n_parts = max(SAMPLE_PARTS, int(np.searchsorted(np.cumsum(n_rows[drawn]), 2 * n_wanted)) + 1)
    parts = [np.arange(starts[number], starts[number + 1]) for number in np.sort(drawn[:n_parts])]
    rows = np.concatenate(parts)
    taken = np.sort(rows[random.permutation(len(rows))[:n_wanted]])
    edges = np.searchsorted(taken, [part[0] for part in parts])
    return [rows for rows in np.split(taken, edges[1:]) if len(rows)]

"""A part of a source: the first views of every item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from softpack.errors import DataError
from softpack.recipe import Recipe
from softpack.records import SEQUENCE_COLUMNS, RowBlock
from softpack.sources.base import Source

CHUNK = 1 << 20  # rows whose views are looked at together


@dataclass(frozen=True, eq=False)
class FirstViews(Source):
    """The rows of a source whose view is one of the first. Mix partners are of the same view, so they stay too.

    Args:
        of: the source.
        rows_R: int64 numbers of its rows that stay, ascending.
    """

    of: Source
    rows_R: np.ndarray

    @property
    def recipe(self) -> Recipe | None:
        """The source's: views keep their numbers."""
        return self.of.recipe

    @property
    def n_bytes(self) -> int:
        """Those of the source, all of it."""
        return self.of.n_bytes

    @property
    def skipped(self) -> Mapping[str, str]:
        """Those of the source."""
        return self.of.skipped

    @property
    def order_known_by(self) -> str:
        """As of the source."""
        return self.of.order_known_by

    @property
    def images(self) -> Mapping[int, bytes]:
        """Those of the source."""
        return self.of.images

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Those of the source."""
        return self.of.fingerprints

    @property
    def forced(self) -> tuple[int, ...]:
        """Those of the source."""
        return self.of.forced

    def views_of(self, rows_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        return self.of.views_of(self.rows_R[rows_B])

    def read_rows(self, groups: Iterator[np.ndarray]) -> Iterator[RowBlock]:
        """Yield one block for each group of ascending row numbers."""
        return self.of.read_rows(self.rows_R[rows_B] for rows_B in groups)


def first_views(source: Source, n_views: int | None) -> Source:
    """Return the part of a source that is of views 0 to `n_views` - 1; all of it for None.

    Raises:
        DataError: no row is left.
    """
    if n_views is None or n_views >= source.views:
        return source
    chunks = (np.arange(start, min(start + CHUNK, source.n_rows)) for start in range(0, source.n_rows, CHUNK))
    kept = [rows_B[source.views_of(rows_B) < n_views] for rows_B in chunks]
    rows_R = np.concatenate([np.empty(0, np.int64), *kept])
    if not len(rows_R):
        raise DataError(
            f"{source.path}: no row is of the first {n_views} views; keep more of its {source.views}"
        )
    # A sequence is bound to all of its rows.
    item_columns = {
        name: values for name, values in source.item_columns.items() if name not in SEQUENCE_COLUMNS
    }
    return FirstViews(
        source.path, source.spec, source.items, n_views, len(rows_R), source.columns, item_columns,
        source.ignored, source, rows_R,
    )  # fmt: skip

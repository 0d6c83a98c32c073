"""What prototypes weigh in the labels of a file: who is mixed into them, and where their views look. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from softpack.container.mixing import Mixing, mixing_of, weighted
from softpack.container.viewpoint import ViewpointTable, viewpoints_of
from softpack.errors import CorruptError

if TYPE_CHECKING:
    from softpack.container.reader import Labels


class Weighing:
    """Finds it in the columns of a file.

    Args:
        labels: of the file.
        sizes: returns height and width of the pictures of items, [B, 2].
    """

    def __init__(self, labels: Labels, sizes: Callable[[np.ndarray], np.ndarray]) -> None:
        self._labels, self._sizes = labels, sizes

    def mixing(self, items_B: np.ndarray, views_B: np.ndarray) -> Mixing:
        """Return who is mixed into labels, and what prototypes weigh in them, where their context depends on it."""
        header = self._labels.file.header
        if header.context is None:
            return Mixing.none(len(items_B))
        found = header.stream("mix")
        if found is not None:
            columns = self._labels.stored(found[0], items_B, views_B)
        else:
            columns = self._labels.replay(items_B, views_B)
        if not columns:
            return Mixing.none(len(items_B))
        mixing = mixing_of(columns, (header.context.width, header.context.height), len(items_B))
        basis = self._labels.model.basis
        if basis is None:
            return mixing
        own_B3 = self._viewpoints_of(columns, items_B)
        return weighted(mixing, basis, own_B3, self._of_partners(mixing.partner_B, views_B, own_B3))

    def viewpoints(self, items_B: np.ndarray, views_B: np.ndarray) -> np.ndarray:
        """Return where views look, float64 [B, 3]; see `softpack.container.viewpoint`."""
        return self._viewpoints_of(self._labels.replay(items_B, views_B), items_B)

    def table(self) -> ViewpointTable:
        """Return where all views look, in files whose prototypes are weighted by it; an empty table of others."""
        table = ViewpointTable()
        if self._labels.model.basis is not None and self._labels.n_rows:
            items_R, views_R = self._labels.cells()
            table.add(items_R, views_R, self.viewpoints(items_R, views_R))
        return table

    def _viewpoints_of(self, columns: dict[str, np.ndarray], items_B: np.ndarray) -> np.ndarray:
        needs_size = "crop_xywh_fraction" not in columns
        return viewpoints_of(columns, self._sizes(items_B) if needs_size else None)

    def _of_partners(self, partner_B: np.ndarray, views_B: np.ndarray, own_B3: np.ndarray) -> np.ndarray:
        """Return where the rows of the mix partners look; of rows without a partner their own."""
        rows, labels = np.flatnonzero(partner_B >= 0), self._labels
        partners, found_B3 = partner_B[rows], own_B3.copy()
        is_there = partners < labels.shape[0]
        is_there[is_there] = labels.has(partners[is_there], views_B[rows][is_there])
        if not is_there.all():
            lost = rows[np.flatnonzero(~is_there)[0]]
            raise CorruptError(
                f"{labels.file.name}: view {views_B[lost]} of item {partner_B[lost]} is not there, with which a row is "
                "mixed that is coded given where both look; that row cannot be decoded"
            )
        found_B3[rows] = self.viewpoints(partners, views_B[rows])
        return np.asarray(found_B3)

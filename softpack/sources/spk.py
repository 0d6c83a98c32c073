"""An `.spk` file as a source: its labels as they decode."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from softpack.container.file import SpkFile
from softpack.errors import DataError
from softpack.recipe import Recipe
from softpack.records import RowBlock
from softpack.sources.base import Source

if TYPE_CHECKING:
    from softpack.container.reader import Labels


@dataclass(frozen=True, eq=False)
class SpkSource(Source):
    """The rows of an `.spk` file, by item and then view.

    Args:
        labels: the open file.
    """

    labels: Labels

    @property
    def recipe(self) -> Recipe | None:
        """The file's, if it draws the columns: where they are stored, they stay so."""
        return None if self.labels.file.header.stream("replay") else self.labels.recipe

    @property
    def images(self) -> Mapping[int, bytes]:
        """Those of the file."""
        return self.labels.images

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Those of the file."""
        return self.labels.fingerprints

    @property
    def forced(self) -> tuple[int, ...]:
        """Those of the file."""
        return self.labels.forced_tokens

    def views_of(self, rows_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        return self.labels.cells(rows_B)[1]

    def read_rows(self, groups: Iterator[np.ndarray]) -> Iterator[RowBlock]:
        """Yield one block for each group of ascending row numbers."""
        for rows_B in groups:
            item_B, view_B = self.labels.cells(rows_B)
            labels_BC = self.labels.read(item_B, view_B).numpy()
            forced_BF = self.labels.forced(item_B, view_B).numpy() if self.forced else None
            yield RowBlock(labels_BC, item_B, view_B, self.labels.replay(item_B, view_B), forced_BF)


def open_spk(
    path: Path, space: str | None, temperature: float | None, matrix: str | os.PathLike[str] | None = None
) -> SpkSource:
    """Open an `.spk` file as a source; `matrix` is the safetensors of the output matrix that it names by its hash.

    Raises:
        DataError: it holds another space or temperature than asked for.
        FormatError: it is damaged.
    """
    SpkFile(path)  # refuses a bad one at once, before torch is imported, which other sources do not need
    from softpack.container.reader import Labels

    labels = Labels(path, matrix=matrix)
    spec = labels.spec
    if space not in (None, spec.space) or temperature not in (None, spec.temperature):
        raise DataError(
            f"{path}: holds {spec.space} at temperature {spec.temperature:g}, not {space or spec.space} at "
            f"{temperature or spec.temperature:g}; leave --space and --source-temperature out"
        )
    return SpkSource(
        path=path,
        spec=spec,
        items=labels.shape[0],
        views=labels.shape[1],
        n_rows=labels.n_rows,
        columns=labels.columns,
        item_columns={name: labels.item_column(name) for name in labels.item_columns},
        ignored=(),
        labels=labels,
    )

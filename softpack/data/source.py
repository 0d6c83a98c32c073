"""Labels that a dataset can be made of: read from the file as they are asked for, or held in memory."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np

from softpack.container.reader import Indices, Labels
from softpack.container.resident import ResidentLabels

LabelSource: TypeAlias = Labels | ResidentLabels


class Views(Protocol):
    """What says how views were made: labels, or a recipe before there are labels."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Items, views and classes."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the replay columns."""

    @property
    def item_columns(self) -> tuple[str, ...]:
        """Names of what each item has."""

    def has(self, items: Indices, views: Indices) -> np.ndarray:
        """Return which views are there, bool [B]."""

    def replay(self, items: Indices, views: Indices) -> dict[str, np.ndarray]:
        """Return the replay columns of views."""

    def item_column(self, name: str) -> np.ndarray:
        """Return what each item has."""

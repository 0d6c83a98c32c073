"""What the files of a layout do not say, and the caller does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.folder import ImageFolder
from softpack.sources.peers.orders import SeededOrder

SAMPLERS = ("new", "old", "unknown")


@dataclass(frozen=True)
class Given:
    """What a caller says of labels that others have written.

    Args:
        images: folder of the images that were labelled, a folder for each class.
        label_seed: of the sampler in whose order they were labelled.
        sampler: "new", of PyTorch 1.11 and later, or "old"; "unknown" takes every row for an item of its own.
        skip_bad: leave out files that are missing or cannot be used.
        classes: of the labels, where files hold some of them alone.
        label_type: what labels are, where that is not to be seen.
        temperature: that probabilities were taken at.
        replay: whether the replay columns are wanted; without, sets are taken whose views softpack cannot make again.
        space: what labels are, where files may leave that open.
        config: file that says how labels were compressed.
        sequence_length: rows of each sequence, where files do not say where sequences end.
    """

    images: Path | None = None
    label_seed: int | None = None
    sampler: str | None = None
    skip_bad: bool = False
    classes: int | None = None
    label_type: str | None = None
    temperature: float | None = None
    replay: bool = True
    space: str | None = None
    config: Path | None = None
    sequence_length: int | None = None

    @cached_property
    def folder(self) -> ImageFolder | None:
        """The images."""
        return None if self.images is None else ImageFolder(self.images)

    def item_columns(self) -> dict[str, np.ndarray]:
        """Return `source_hw` and `target` of the images; nothing where none are given."""
        if self.folder is None:
            return {}
        facts = [self.folder.facts(item) for item in range(len(self.folder))]
        return {
            "source_hw": np.array([size_hw for size_hw, _ in facts], np.int32),
            "target": np.array([target for _, target in facts], np.int32),
        }


def order_of(given: Given, n_items: int) -> SeededOrder | None:
    """Return the order that a seed and a sampler give; None where neither is named.

    Raises:
        DataError: one is named without the other.
    """
    if given.label_seed is None and given.sampler in (None, "unknown"):
        return None
    if given.label_seed is None or given.sampler in (None, "unknown"):
        raise DataError("--label-seed N and --sampler new or old go together: both say the order of the images")
    return SeededOrder(given.label_seed, n_items, given.sampler == "new")


def need(path: Path, missing: dict[str, bool]) -> None:
    """Refuse a set of labels of which something must be known that its files do not say.

    Args:
        path: of the labels.
        missing: what must be known, with the option that says it -> whether it is not.

    Raises:
        DataError: naming all that is missing.
    """
    lacks = [what for what, is_missing in missing.items() if is_missing]
    if lacks:
        raise DataError(f"{path}: its files do not say {'; nor '.join(lacks)}")

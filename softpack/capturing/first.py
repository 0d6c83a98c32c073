"""The rows that a codec is fitted to: those of some batches, in memory, never on disk.

Shapes in names: B rows, C numbers of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softpack.capturing.asking import Asker
from softpack.codecs.abc import Codec, Progress
from softpack.container.gathering import fit_rows
from softpack.records import RowBlock
from softpack.sources.base import Source

LEARNED_VALUES, PLAIN_VALUES = (
    1 << 29,
    1 << 26,
)  # numbers in memory, for a codec that learns and one that does not
LEAST_ROWS = 256


@dataclass(frozen=True, eq=False)
class FirstRows(Source):
    """Rows that are in memory.

    Args:
        rows: all of them.
    """

    rows: RowBlock

    def views_of(self, rows_B: np.ndarray) -> np.ndarray:
        """Return the views of rows."""
        view_B: np.ndarray = self.rows.view_B[rows_B]
        return view_B

    def read_rows(self, groups: Iterator[np.ndarray]) -> Iterator[RowBlock]:
        """Yield one block for each group of ascending row numbers."""
        for rows_B in groups:
            yield self.rows.take(rows_B)


def n_first(codec: Codec) -> int:
    """Return how many rows a codec is fitted to: fewer where they are as wide as a vocabulary."""
    classes = codec.spec.classes
    most = (LEARNED_VALUES if codec.learns else PLAIN_VALUES) // classes
    return min(fit_rows(classes), max(most, LEAST_ROWS))


def first_rows(
    asker: Asker, batches: list[np.ndarray], n_rows: int, seed: int, path: Path, bar: Progress
) -> FirstRows:
    """Ask for the rows of some batches that a seed draws, until there are enough.

    Args:
        asker: of the teacher.
        batches: items of each.
        n_rows: at most.
        seed: draws the batches.
        path: of the file that is written, for messages.
        bar: is told how far it is.
    """
    n_rows, done = min(n_rows, asker.sequences.n_rows), 0
    labels_BC = np.empty((n_rows, asker.spec.classes), np.float32)
    blocks: list[RowBlock] = []
    for batch in np.random.default_rng(seed).permutation(len(batches)):
        for block in asker.ask(batches[batch]):
            block = block.take(slice(n_rows - done))
            labels_BC[done : done + len(block)] = block.labels_BC
            nothing_B0 = np.empty((len(block), 0), np.float32)  # a part of labels_BC would keep them all
            blocks.append(RowBlock(nothing_B0, block.item_B, block.view_B, block.replay, block.forced_BF))
            done += len(block)
            bar(done, n_rows, "")
            if done == n_rows:
                break
        if done == n_rows:
            break
    rows = RowBlock(
        labels_BC,
        np.concatenate([block.item_B for block in blocks]),
        np.concatenate([block.view_B for block in blocks]),
        {name: np.concatenate([block.replay[name] for block in blocks]) for name in blocks[0].replay},
        np.concatenate([np.asarray(block.forced_BF) for block in blocks]) if asker.forced else None,
    )
    return FirstRows(
        path,
        asker.spec,
        len(asker.sequences),
        asker.sequences.n_views,
        n_rows,
        tuple(rows.replay),
        {},
        (),
        rows,
    )

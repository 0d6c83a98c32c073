"""Ask the teacher for the rows that a file does not have, and write what it says while it says the next.

Shapes in names: N items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch

from softpack.codecs.abc import Progress
from softpack.container.reader import Labels
from softpack.container.writer import Writer
from softpack.relabelling.teacher import Teacher
from softpack.relabelling.views import ViewPixels, in_order

COMMIT_S = 60.0  # between two commits, about
Stage = Callable[[str, str], AbstractContextManager[Progress]]  # (what is done, unit) -> a bar


class Labeller:
    """Asks the teacher and writes what it says.

    Args:
        teacher: at work.
        pixels: of the views.
        batch_size: views that the teacher sees at once.
        workers: processes that load images.
        bar: shows how far it is.
    """

    def __init__(self, teacher: Teacher, pixels: ViewPixels, batch_size: int, workers: int, bar: Stage) -> None:
        self._teacher, self._pixels = teacher, pixels
        self._batch_size, self._workers, self._bar = batch_size, workers, bar
        self.recipe = pixels.views.recipe
        first, _, _ = pixels[0, 0]
        self.classes = teacher(first).shape[1]

    def write(self, writer: Writer, path: Path, views: range, what: str) -> None:
        """Write the rows of these views that the file does not have."""
        labels = Labels(path)
        cells = [pair for view in views for pair in self._batches(labels, view)]
        n_rows = sum(map(len, cells))
        done, committed = 0, time.monotonic()
        with self._bar(what, "row") as bar, ThreadPoolExecutor(1) as pool:
            pending: Future[None] | None = None
            try:
                for pixels_BCHW, items_B, views_B in self._pixels.batches(iter(cells), self._workers):
                    logits_BC = self._teacher(pixels_BCHW).cpu()
                    if pending is not None:
                        pending.result()
                    due = time.monotonic() - committed > COMMIT_S
                    committed = time.monotonic() if due else committed
                    pending = pool.submit(_add, writer, logits_BC, items_B, views_B, due)
                    done += len(items_B)
                    bar(done, n_rows, f"view {views_B[0]}")
                if pending is not None:
                    pending.result()
            except KeyboardInterrupt:
                if pending is not None:
                    pending.result()
                writer.commit()
                raise

    def _batches(self, labels: Labels, view: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the (item, view) that are missing of a view, partners beside each other."""
        items_N = in_order(self.recipe, view, len(self._pixels.views.source_hw_N2))
        n_there = labels.shape[0] if view < labels.shape[1] else 0
        is_there_N = items_N < n_there
        is_there_N[is_there_N] = labels.has(items_N[is_there_N], np.full(is_there_N.sum(), view))
        left = items_N[~is_there_N].tolist()
        for start in range(0, len(left), self._batch_size):
            yield [(item, view) for item in left[start : start + self._batch_size]]


def _add(
    writer: Writer, logits_BC: torch.Tensor, items_B: np.ndarray, views_B: np.ndarray, commit: bool
) -> None:
    writer.append(logits_BC, item=items_B, view=views_B)
    if commit:
        writer.commit()

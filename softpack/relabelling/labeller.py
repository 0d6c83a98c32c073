"""Ask the teacher for the rows that a file does not have, and write what it says while it says the next.

Shapes in names: N items.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from softpack.codecs.abc import Stage
from softpack.container.reader import Labels
from softpack.container.writer import Writer
from softpack.recipe import Recipe
from softpack.relabelling.teacher import Teacher
from softpack.relabelling.views import ViewPixels, in_order

COMMIT_S = 60.0  # between two commits, about
PROBED = 4  # views, and logits of each, that tell a teacher from another


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
        n_items, n_views, _ = pixels.views.shape
        cells = [(item, n_views - 1) for item in range(min(n_items, PROBED))]
        probed_BC = teacher(pixels.__getitems__(cells)[0])
        self.classes = probed_BC.shape[1]
        self.probe = ",".join(f"{number:.5g}" for number in probed_BC[:, :PROBED].flatten().tolist())

    def write(self, writer: Writer, path: Path, views: range, what: str) -> None:
        """Write the rows of these views that the file does not have."""
        missing = _Missing(Labels(path), self.recipe, views, self._batch_size)
        n_rows, done, committed = missing.n_rows, 0, time.monotonic()
        with self._bar(what, "row") as bar, ThreadPoolExecutor(1) as pool:
            pending: Future[None] | None = None
            try:
                for pixels_BCHW, items_B, views_B in self._pixels.batches(missing, self._workers):
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
                pool.shutdown(wait=True)  # what was said is written first
                writer.commit()
                raise


class _Missing:
    """Batches of the (item, view) that a file does not have, partners beside each other, one view at a time.

    Args:
        labels: of the file.
        recipe: of the views.
        views: to look at.
        batch_size: of a batch at most.
    """

    def __init__(self, labels: Labels, recipe: Recipe, views: range, batch_size: int) -> None:
        self._labels, self._recipe, self._views, self._batch_size = labels, recipe, views, batch_size

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return sum(int((~self._is_there(np.arange(self._recipe.items), view)).sum()) for view in self._views)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for view in self._views:
            items_N = in_order(self._recipe, view, self._recipe.items)
            left = items_N[~self._is_there(items_N, view)].tolist()
            for start in range(0, len(left), self._batch_size):
                yield [(item, view) for item in left[start : start + self._batch_size]]

    def _is_there(self, items_N: np.ndarray, view: int) -> np.ndarray:
        n_there = self._labels.shape[0] if view < self._labels.shape[1] else 0
        is_there_N = items_N < n_there
        is_there_N[is_there_N] = self._labels.has(items_N[is_there_N], np.full(is_there_N.sum(), view))
        return is_there_N


def same_logits(probe: str, other: str) -> bool:
    """Return whether two probes are of the same teacher, as near as machines are to each other."""
    try:
        one, two = (np.array([float(number) for number in text.split(",")]) for text in (probe, other))
    except ValueError:
        return False
    if one.shape != two.shape:
        return False
    known = np.isfinite(one) & np.isfinite(two)  # -inf is a class that cannot come
    near = 2e-2 * np.abs(one[known]).max(initial=0)
    return np.array_equal(one[~known], two[~known]) and np.allclose(
        one[known], two[known], rtol=2e-2, atol=near
    )


def _add(
    writer: Writer, logits_BC: torch.Tensor, items_B: np.ndarray, views_B: np.ndarray, commit: bool
) -> None:
    writer.append(logits_BC, item=items_B, view=views_B)
    if commit:
        writer.commit()

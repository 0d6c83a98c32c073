"""Rows that come in any portions and go on in portions of one size, with what their items have beside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from softpack.sources.files.plans import Plans


class Portions:
    """Collects rows.

    Args:
        plans: of all arrays, `item` among them; an array of items comes before the rows, and becomes one of rows.
        n_rows: of a portion; the last has what is left.
        take: is given each portion, arrays by name, which are overwritten afterwards.
    """

    def __init__(self, plans: Plans, n_rows: int, take: Callable[[dict[str, np.ndarray]], None]) -> None:
        self._buffers = {
            name: np.empty((n_rows, *plan.shape[1:]), plan.numbers) for name, plan in plans.items()
        }
        self._n_rows, self._take = n_rows, take
        self._of_items: dict[str, np.ndarray] = {}
        self._n = 0

    def append(self, arrays: dict[str, np.ndarray]) -> None:
        """Take in rows; or, before them, what items have."""
        if "item" not in arrays:
            self._of_items = arrays
            return
        item_B = arrays["item"]
        arrays = arrays | {name: values[item_B] for name, values in self._of_items.items()}
        done = 0
        while done < len(item_B):
            n = min(len(item_B) - done, self._n_rows - self._n)
            for name, buffer in self._buffers.items():
                buffer[self._n : self._n + n] = arrays[name][done : done + n]
            self._n, done = self._n + n, done + n
            if self._n == self._n_rows:
                self.flush()

    def flush(self) -> None:
        """Let go of the rows that are held."""
        if self._n:
            self._take({name: buffer[: self._n] for name, buffer in self._buffers.items()})
        self._n = 0

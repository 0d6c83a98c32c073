"""Where a bad number is: the file, the array, and the first row that has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softpack.errors import DataError


@dataclass(frozen=True)
class Place:
    """The rows that a block was read from.

    Args:
        path: of the file.
        row_B: int64 [B], their numbers in stored order.
        item_B: int64 [B], their items.
        view_B: int64 [B], their views.
    """

    path: Path
    row_B: np.ndarray
    item_B: np.ndarray
    view_B: np.ndarray

    def check(self, array: str, good_B: np.ndarray | np.bool_, values_B: np.ndarray, expected: str) -> None:
        """Refuse the first row that is not good.

        Args:
            array: name of the array that the values are from.
            good_B: bool [B].
            values_B: [B, ...], what is shown of a bad row.
            expected: of every row, and what to do about one that is otherwise.
        """
        good_B = np.asarray(good_B)
        if good_B.all():
            return
        first = int(np.argmin(good_B))
        others = len(good_B) - int(good_B.sum()) - 1
        more = f" (and {others} more of the {len(good_B)} rows read with it)" if others else ""
        raise DataError(
            f"{self.path}: {array} of row {self.row_B[first]} (item {self.item_B[first]}, "
            f"view {self.view_B[first]}){more} is {_show(values_B[first])}; expected {expected}"
        )


def _show(value: np.ndarray) -> str:
    return np.array2string(np.asarray(value), threshold=8, separator=", ")

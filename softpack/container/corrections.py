"""Corrections as a sparse list: which number of which row is moved, and by how many steps. No torch.

Stored, the numbers of a part are counted row by row, n_rows x C of them, and each entry says how far its number is
from that of the entry before. Classes near each other cost few bits then, and rows without corrections none.

Shapes in names: E corrections, B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softpack.container.file import Part, SpkFile
from softpack.container.tiles import decode_tile
from softpack.errors import CorruptError
from softpack.format.streams import column_stream

CORRECTION_STREAM = column_stream("correction")


@dataclass(frozen=True)
class Corrections:
    """Some corrections, by row and then class.

    Args:
        row_E: int64, the row that each is of, rising; of whatever the rows are counted in.
        class_E: int64, rising within a row.
        value_E: int32, in steps; not 0.
    """

    row_E: np.ndarray
    class_E: np.ndarray
    value_E: np.ndarray

    def __len__(self) -> int:
        return len(self.row_E)

    @property
    def n_bytes(self) -> int:
        """Bytes that they take in memory."""
        return self.row_E.nbytes + self.class_E.nbytes + self.value_E.nbytes

    @property
    def n_rows(self) -> int:
        """Rows that are corrected."""
        return int(np.count_nonzero(np.diff(self.row_E, prepend=-1)))

    @classmethod
    def join(cls, parts: Sequence[Corrections]) -> Corrections:
        """Return those of all parts, put in order; no row is of two parts."""
        if len(parts) == 1:
            return parts[0]
        row_E = np.concatenate([np.zeros(0, np.int64), *(part.row_E for part in parts)])
        order_E = np.argsort(row_E, kind="stable")  # classes rise in each row already
        class_E = np.concatenate([np.zeros(0, np.int64), *(part.class_E for part in parts)])
        value_E = np.concatenate([np.zeros(0, np.int32), *(part.value_E for part in parts)])
        return cls(row_E[order_E], class_E[order_E], value_E[order_E])

    def take(self, rows_B: np.ndarray) -> Corrections:
        """Return those of some rows, in any order and perhaps several times, counted 0, 1, 2, ... as they come."""
        place_B = np.searchsorted(self.row_E, rows_B)
        count_B = np.searchsorted(self.row_E, rows_B, "right") - place_B
        end_B = np.cumsum(count_B)
        at_E = np.arange(end_B[-1] if len(end_B) else 0) + np.repeat(place_B - (end_B - count_B), count_B)
        return Corrections(np.repeat(np.arange(len(rows_B)), count_B), self.class_E[at_E], self.value_E[at_E])

    def numbered(self, numbers_B: np.ndarray) -> Corrections:
        """Return them with row n counted as `numbers_B[n]`, which need not rise."""
        return Corrections.join(
            [NONE, Corrections(numbers_B[self.row_E], self.class_E, self.value_E)]
        )  # with another part, so that they are put in order


NONE = Corrections(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))


def stored_arrays(corrections: Corrections, classes: int) -> dict[str, np.ndarray]:
    """Return the arrays of a part's corrections, whose rows are counted within the part."""
    cell_E = corrections.row_E * classes + corrections.class_E
    return {"gap": np.diff(cell_E, prepend=-1), "value": corrections.value_E}


def read_corrections(file: SpkFile, part: Part) -> Corrections:
    """Return the corrections of a part, its rows counted within it; none where it has no block of them.

    Raises:
        CorruptError: they are not in order, of rows that the part does not have, or of nothing.
    """
    found = file.header.stream(CORRECTION_STREAM.name)
    if found is None or found[0] not in part.blocks:
        return NONE
    block = part.blocks[found[0]]
    where, entry = f"{file.name}, block {block}", file.blocks[block]
    classes = file.header.gives.classes
    arrays = decode_tile(file.payload(block), found[1], int(entry["n_rows"]), int(entry["raw_len"]), where)
    cell_E = np.cumsum(arrays["gap"], dtype=np.int64) - 1
    if int(arrays["gap"].min()) < 1 or int(cell_E[-1]) >= part.n_rows * classes:
        raise CorruptError(
            f"{where}: the gaps between corrections are {arrays['gap'].min()} or more and lead to number "
            f"{cell_E.max()}; expected gaps of 1 or more and the numbers 0 to {part.n_rows * classes - 1}"
        )
    if not arrays["value"].all():
        raise CorruptError(f"{where}: a correction by nothing; expected values other than 0")
    row_E, class_E = np.divmod(cell_E, classes)
    return Corrections(row_E, class_E, arrays["value"])


class WaitingCorrections:
    """Corrections of rows that wait for their tile; taken when it is written."""

    def __init__(self) -> None:
        self._parts: list[Corrections] = []

    @property
    def n_bytes(self) -> int:
        """Bytes that they take in memory."""
        return sum(part.n_bytes for part in self._parts)

    def add(self, corrections: Corrections, item_B: np.ndarray, view_B: np.ndarray) -> None:
        """Take the corrections of rows in any order."""
        if len(corrections):
            self._parts.append(corrections.numbered(_keys(item_B, view_B)))

    def take(self, item_B: np.ndarray, view_B: np.ndarray) -> Corrections:
        """Return the corrections of these rows, counted 0, 1, 2, ..."""
        return self._sorted().take(_keys(item_B, view_B)) if self._parts else NONE

    def keep(self, item_B: np.ndarray, view_B: np.ndarray) -> None:
        """Forget all but the corrections of these rows, which wait on."""
        if self._parts:
            waiting, keys_B = self._sorted(), np.sort(_keys(item_B, view_B))
            kept = waiting.take(keys_B).numbered(keys_B)
            self._parts = [kept] if len(kept) else []

    def _sorted(self) -> Corrections:
        self._parts = [Corrections.join(self._parts)]
        return self._parts[0]


def _keys(item_B: np.ndarray, view_B: np.ndarray) -> np.ndarray:
    keys_B: np.ndarray = item_B.astype(np.int64) << 31 | view_B
    return keys_B

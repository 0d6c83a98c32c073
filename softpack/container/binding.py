"""Holds the rows of a file to the tokens of their sequences. No torch.

Tokens wait until their sequence is whole, and are then compared with its hash, so that memory is bounded by the
sequences that have begun.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from softpack.errors import DataError
from softpack.records import SEQUENCE_COLUMNS
from softpack.sequences import NO_TOKEN, Sequences, refuse_row, token_hash


class Binding:
    """The sequences of a file that is being written.

    Args:
        columns: `length` [N], `first_token` [N] and `token_hash` [N, 2].
        name: of the file.

    Raises:
        DataError: some of the columns are missing, or contradict one another.
    """

    def __init__(self, columns: Mapping[str, np.ndarray], name: str) -> None:
        missing = [column for column in SEQUENCE_COLUMNS if column not in columns]
        if missing:
            raise DataError(
                f"{name}: says of sequences {', '.join(sorted(columns))}, but not {', '.join(missing)}; expected "
                f"{', '.join(SEQUENCE_COLUMNS)} together; give sequences= to softpack.create"
            )
        self._lengths_N, self._first_N, self._hash_N2 = (columns[column] for column in SEQUENCE_COLUMNS)
        self._name = name
        self._begun: dict[int, list[np.ndarray]] = {}  # views and tokens so far, [2, n] each
        self._is_whole_N = np.zeros(len(self._lengths_N), bool)
        wrong_N = (self._lengths_N < 0) | ((self._lengths_N == 0) != (self._first_N == NO_TOKEN))
        if wrong_N.any():
            item = int(np.argmax(wrong_N))
            raise DataError(
                f"{name}: sequence {item} has length {self._lengths_N[item]} and first_token {self._first_N[item]}; "
                f"expected {NO_TOKEN} for a sequence without tokens, and for no other"
            )
        for item in np.flatnonzero(self._lengths_N <= 1).tolist():
            self._check_hash(item, self._first_N[item : item + self._lengths_N[item]])

    @classmethod
    def of(cls, sequences: Sequences, name: str) -> Binding:
        """Return the binding to sequences that are at hand."""
        return cls(sequences.columns(), name)

    def add(self, item_B: np.ndarray, view_B: np.ndarray, token_B: np.ndarray) -> None:
        """Take the tokens of rows, each row once.

        Raises:
            DataError: a row is of no sequence, or a sequence has other tokens than its hash says.
        """
        order = np.argsort(item_B, kind="stable")
        starts = np.flatnonzero(np.diff(item_B[order], prepend=-2))
        for rows in np.split(order, starts[1:]) if len(order) else ():
            item, view_L = int(item_B[rows[0]]), view_B[rows]
            inside = 0 <= item < len(self._lengths_N) and view_L.max() < self._lengths_N[item] - 1
            if not inside or view_L.min() < 0:
                try:
                    refuse_row(item, int(view_L.max()), self._lengths_N)
                except DataError as error:
                    raise DataError(f"{self._name}: {error}") from None
            found = [*self._begun.pop(item, []), np.stack([view_L, token_B[rows]])]
            n_rows = int(self._lengths_N[item]) - 1
            if (
                sum(part.shape[1] for part in found) < n_rows
            ):  # the length may be a lie: no memory is taken for it
                self._begun[item] = found
                continue
            view_L, token_L = np.concatenate(found, axis=1)
            order_L = np.argsort(view_L)
            if not np.array_equal(
                view_L[order_L], np.arange(n_rows)
            ):  # a row is there twice, which others refuse
                self._begun[item] = found
                continue
            self._check_hash(item, np.concatenate([[self._first_N[item]], token_L[order_L]]))

    def check_whole(self) -> None:
        """Check that every sequence has all of its rows.

        Raises:
            DataError: names the first that has not.
        """
        if self._is_whole_N.all():
            return
        item = int(np.argmin(self._is_whole_N))
        n_rows = int(self._lengths_N[item]) - 1
        views = np.unique([view for part in self._begun.get(item, []) for view in part[0]])
        gaps = np.flatnonzero(views != np.arange(len(views)))
        missing = int(gaps[0]) if len(gaps) else len(views)
        raise DataError(
            f"{self._name}: sequence {item} of {n_rows + 1} tokens has {len(views)} rows; expected {n_rows}, of the "
            f"views 0 to {n_rows - 1}; view {missing} is missing"
        )

    def _check_hash(self, item: int, tokens_L: np.ndarray) -> None:
        if token_hash(tokens_L) != tuple(self._hash_N2[item].tolist()):
            raise DataError(
                f"{self._name}: sequence {item} has other tokens than its token_hash was made of; the rows are of "
                "another sequence, or a token further or less; make `token` and `token_hash` from one array"
            )
        self._is_whole_N[item] = True

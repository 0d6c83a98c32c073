"""The tokens of sequences, and how rows of labels are bound to them. No torch.

Row v of a sequence is what the teacher said after tokens 0 to v, so its token is v + 1: a sequence of L tokens has
L - 1 rows, of the views 0 to L - 2.

Shapes in names: N sequences, T tokens of all of them, L of one, B rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from softpack.errors import DataError
from softpack.records import COLUMNS

NO_TOKEN = int(COLUMNS["first_token"].missing or 0)
MOST = (1 << 31) - 1


@dataclass(frozen=True)
class Sequences:
    """The tokens of many sequences, one after the other in one array.

    Args:
        tokens_T: int32.
        starts_N: int64 [N + 1], where each begins, and where the last ends.
    """

    tokens_T: np.ndarray
    starts_N: np.ndarray

    @classmethod
    def of(cls, given: Sequences | Iterable[Any]) -> Sequences:
        """Return sequences that are given as lists, arrays or tensors of tokens.

        Raises:
            DataError: one of them is no list of whole numbers from 0.
        """
        if isinstance(given, Sequences):
            return given
        found = [as_tokens(tokens, f"sequence {item}") for item, tokens in enumerate(given)]
        starts_N = np.cumsum([0, *map(len, found)], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, np.int32), *found]), starts_N)

    def __len__(self) -> int:
        return len(self.starts_N) - 1

    def __getitem__(self, item: int) -> np.ndarray:
        """Return the tokens of a sequence, int32 [L]."""
        tokens_L: np.ndarray = self.tokens_T[self.starts_N[item] : self.starts_N[item + 1]]
        return tokens_L

    @property
    def lengths_N(self) -> np.ndarray:
        """Tokens of each, int64."""
        return np.diff(self.starts_N)

    @property
    def n_rows(self) -> int:
        """Rows that all of them have together."""
        return int(np.maximum(self.lengths_N - 1, 0).sum())

    @property
    def n_views(self) -> int:
        """Rows of the longest."""
        return max(int(self.lengths_N.max(initial=0)) - 1, 0)

    def next_tokens(self, item_B: np.ndarray, view_B: np.ndarray) -> np.ndarray:
        """Return the token that each row predicts, int32 [B].

        Raises:
            DataError: a row is of no sequence, or behind the last of its.
        """
        inside_B = (item_B >= 0) & (item_B < len(self)) & (view_B >= 0)
        inside_B[inside_B] = view_B[inside_B] < self.lengths_N[item_B[inside_B]] - 1
        if not inside_B.all():
            first = int(np.argmin(inside_B))
            refuse_row(int(item_B[first]), int(view_B[first]), self.lengths_N)
        next_B: np.ndarray = self.tokens_T[self.starts_N[item_B] + view_B + 1]
        return next_B

    def columns(self) -> dict[str, np.ndarray]:
        """Return what the items of a file have: `length`, `first_token` and `token_hash`."""
        first_N = np.full(len(self), NO_TOKEN, np.int32)
        has_N = self.lengths_N > 0
        first_N[has_N] = self.tokens_T[self.starts_N[:-1][has_N]]
        hash_N2 = np.array([token_hash(self[item]) for item in range(len(self))], np.int32).reshape(-1, 2)
        return {"length": self.lengths_N.astype(np.int32), "first_token": first_N, "token_hash": hash_N2}

    def check_vocabulary(self, n_tokens: int, of: str) -> None:
        """Check that all tokens are below `n_tokens`.

        Raises:
            DataError: names the first that is not.
        """
        outside_T = self.tokens_T >= n_tokens
        if outside_T.any():
            at = int(np.argmax(outside_T))
            item = int(np.searchsorted(self.starts_N, at, "right")) - 1
            raise DataError(
                f"sequence {item}: token {at - self.starts_N[item]} is {self.tokens_T[at]}; expected 0 to "
                f"{n_tokens - 1}, as {of} has {n_tokens} tokens; tokenize with the teacher's own tokenizer"
            )

    def check_longest(self, n_tokens: int, of: str) -> None:
        """Check that no sequence has more than `n_tokens`.

        Raises:
            DataError: names the first that has.
        """
        longer_N = self.lengths_N > n_tokens
        if longer_N.any():
            item = int(np.argmax(longer_N))
            raise DataError(
                f"sequence {item} has {self.lengths_N[item]} tokens; expected {n_tokens} at most, as {of} has "
                f"positions for no more; give max_length={n_tokens} (--max-length {n_tokens})"
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the lengths as int64 and then all tokens as int32, little-endian, in hexadecimal."""
        digest = hashlib.sha256(self.lengths_N.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(self.tokens_T, "<i4").data)
        return digest.hexdigest()


def as_tokens(given: Any, where: str) -> np.ndarray:
    """Return tokens of one sequence as int32 [L].

    Raises:
        DataError: they are no list of whole numbers from 0.
    """
    values = given.detach().cpu().numpy() if hasattr(given, "detach") else given
    try:
        tokens_L = np.asarray(values)
    except ValueError:  # lists in lists
        tokens_L = np.empty((0, 0))
    if tokens_L.ndim == 1 and not len(tokens_L):
        return np.empty(0, np.int32)
    if tokens_L.ndim != 1 or tokens_L.dtype.kind not in "iu":
        raise DataError(
            f"{where}: is {tokens_L.dtype} of shape {tokens_L.shape}; expected the ids of its tokens, a list of "
            "whole numbers"
        )
    if not 0 <= tokens_L.min() <= tokens_L.max() <= MOST:
        at = int(np.argmax((tokens_L < 0) | (tokens_L > MOST)))
        raise DataError(f"{where}: token {at} is {tokens_L[at]}; expected 0 to {MOST}; leave padding out")
    return tokens_L.astype(np.int32)


def token_hash(tokens_L: np.ndarray) -> tuple[int, int]:
    """Return XXH64 of tokens as int32, little-endian: its low half, then its high half, as signed numbers."""
    digest = xxhash.xxh64_intdigest(np.ascontiguousarray(tokens_L, "<i4").data)
    low, high = np.array([digest], "<u8").view("<i4").tolist()
    return low, high


def refuse_row(item: int, view: int, lengths_N: np.ndarray) -> None:
    """Refuse a row that no sequence has.

    Raises:
        DataError: says which rows there are.
    """
    if not 0 <= item < len(lengths_N):
        raise DataError(
            f"item {item}, view {view}: is of no sequence; expected items 0 to {len(lengths_N) - 1}, of "
            f"{len(lengths_N)} sequences"
        )
    n_rows = max(int(lengths_N[item]) - 1, 0)
    expected = f"views 0 to {n_rows - 1}" if n_rows else "no row"
    raise DataError(
        f"item {item}, view {view}: its sequence has {lengths_N[item]} tokens, so {expected}; row v is what the "
        "teacher says after tokens 0 to v, and the last token has no next one"
    )

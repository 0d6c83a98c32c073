"""What a file of labels of language says beside its rows: tokens of its sequences, fingerprints.

Shapes in names: L tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from softpack.errors import CorruptError, DataError
from softpack.fingerprints import teacher_fingerprint, tokenizer_fingerprint
from softpack.sequences import NO_TOKEN, as_tokens, token_hash

if TYPE_CHECKING:
    from softpack.container.reader import Labels

FINGERPRINT_OF: dict[str, Callable[[Any], str]] = {
    "teacher": teacher_fingerprint,
    "tokenizer": tokenizer_fingerprint,
}


class TokenReader:
    """The sequences of a file.

    Args:
        labels: the open file.

    Raises:
        DataError: it has none.
    """

    def __init__(self, labels: Labels) -> None:
        self._labels, self._name = labels, labels.file.name
        if "length" not in labels.item_columns:
            raise DataError(
                f"{self._name}: holds no tokens of sequences; give sequences= to softpack.create, or capture labels "
                "with softpack.capture"
            )
        self.lengths_N = labels.item_column("length")
        self._first_N, self._hash_N2 = labels.item_column("first_token"), labels.item_column("token_hash")

    def tokens(self, item: int) -> np.ndarray:
        """Return all tokens of a sequence, int32 [L].

        Raises:
            DataError: there is no such item, or the file lacks rows of it.
            CorruptError: they are not those that its hash was made of, or fewer than none.
        """
        if not 0 <= item < len(self.lengths_N):
            raise DataError(
                f"{self._name}: there is no item {item}; it holds items 0 to {len(self.lengths_N) - 1}"
            )
        length, first = int(self.lengths_N[item]), int(self._first_N[item])
        if length < 0:
            raise CorruptError(f"{self._name}: sequence {item} has {length} tokens; expected 0 or more")
        if (length == 0) != (first == NO_TOKEN):
            raise CorruptError(
                f"{self._name}: sequence {item} has {length} tokens and first_token {first}; expected {NO_TOKEN} for "
                "one without tokens, and for no other"
            )
        n_views = self._labels.n_views(item)
        last = int(self._labels.nth_view([item], [n_views - 1])[0]) if n_views else -1
        if last >= max(length - 1, 0):
            raise CorruptError(
                f"{self._name}: sequence {item} has {length} tokens and a row of view {last}; expected one less at most"
            )
        is_known = length - 1 <= n_views  # else it lacks rows, or is a lie: no memory for it
        views = np.arange(max(length - 1, 0) if is_known else 0)
        items = np.full(len(views), item)
        if not is_known or not self._labels.has(items, views).all():
            raise DataError(
                f"{self._name}: lacks rows of sequence {item}, which has {length} tokens: its writer was stopped, or "
                "it was damaged and recovered; its tokens are not all known"
            )
        columns = self._labels.replay(items, views) if length > 1 else {"token": np.empty(0, np.int32)}
        tokens_L = np.concatenate([self._first_N[item : item + min(length, 1)], columns["token"]])
        if token_hash(tokens_L) != tuple(self._hash_N2[item].tolist()):
            raise CorruptError(
                f"{self._name}: sequence {item} has other tokens than its token_hash was made of; the file was not "
                "written by softpack, or not as it should be"
            )
        return tokens_L

    def check(self, items: Sequence[int] | int, tokens: Sequence[Any], whole: bool) -> None:
        """Check that sequences are those of the file; of one, its item and its tokens will do.

        Raises:
            DataError: names the first that differs, and where.
        """
        if isinstance(items, int | np.integer):
            items, tokens = [int(items)], [tokens]
        if len(items) != len(tokens):
            raise DataError(
                f"{self._name}: found {len(items)} items and {len(tokens)} sequences; expected as many"
            )
        for item, given in zip(items, tokens, strict=True):
            self._check(int(item), as_tokens(given, f"sequence {item}"), whole)

    def _check(self, item: int, given_L: np.ndarray, whole: bool) -> None:
        stored_L = self.tokens(item)
        n = min(len(stored_L), len(given_L))
        differs = given_L[:n] != stored_L[:n]
        if differs.any():
            at = int(np.argmax(differs))
            raise DataError(
                f"{self._name}: sequence {item} differs at position {at}: found token {given_L[at]}, the labels are "
                f"of {stored_L[at]}; give the sequences that the teacher saw, as labels.tokens(item) has them"
            )
        if len(given_L) > n or (whole and len(stored_L) > n):
            raise DataError(
                f"{self._name}: sequence {item} differs at position {n}: found {len(given_L)} tokens, the labels are "
                f"of {len(stored_L)}; give the sequences that the teacher saw, as labels.tokens(item) has them"
            )


def check_fingerprints(found: Mapping[str, str], given: Mapping[str, Any], where: str) -> None:
    """Check that what labels come from is what somebody has.

    Args:
        found: fingerprints of the file.
        given: fingerprints by name, or the module or tokenizer itself; None is not checked.
        where: the file.

    Raises:
        DataError: one is another, or the file does not say it.
    """
    for name, value in given.items():
        if value is None:
            continue
        digest = value if isinstance(value, str) else FINGERPRINT_OF[name](value)
        if name not in found:
            raise DataError(f"{where}: does not say what {name} its labels come from, so it cannot be checked")
        if digest != found[name]:
            remedy = {
                "teacher": "give the checkpoint that labelled, in the same dtype",
                "tokenizer": "tokens would mean something else; take the tokenizer that labelled",
                "data": "give the sequences that were labelled, in their order",
            }[name]
            raise DataError(
                f"{where}: its labels come from another {name}: found {digest[:16]}..., expected "
                f"{found[name][:16]}...; {remedy}"
            )

"""The labels of an `.spk` file sequence by sequence, as all layouts of language models are written.

Shapes in names: R rows of a sequence, k tokens of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from softpack.codecs.spaces import convert
from softpack.codecs.sparse import SparseRows
from softpack.container.reader import Labels
from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.base import block_rows
from softpack.sources.encoding import Counted
from softpack.sources.peers.sequences import TOKEN

READ_ROWS = 8192  # whose kept tokens are read at once
FIRST = "first_token"


@dataclass(frozen=True)
class Sequence:
    """What a file says of a sequence.

    Args:
        item: its number.
        ids_Rk: int64, most likely first; -1 where a row has fewer than k.
        log_probs_Rk: float32, -inf where there is no token; of all tokens, so that what is left of 1 is the others'.
        tokens: int64 [R + 1], all of its tokens; None where the file does not say them.
    """

    item: int
    ids_Rk: np.ndarray
    log_probs_Rk: np.ndarray
    tokens: np.ndarray | None

    def check_full(self, where: str) -> None:
        """Refuse rows of fewer tokens than k.

        Raises:
            DataError: naming the first.
        """
        n_R = (self.ids_Rk >= 0).sum(axis=1)
        if len(n_R) and n_R.min() < self.ids_Rk.shape[1]:
            bad = int(np.argmin(n_R))
            raise DataError(
                f"{where}: item {self.item}, view {bad} has {n_R[bad]} tokens; the layout has "
                f"{self.ids_Rk.shape[1]} of every row; ask for --k {n_R[bad]} or fewer"
            )


@dataclass(frozen=True)
class Sequences:
    """All sequences of a file.

    Args:
        labels: the open file.
        k: tokens of each row.
        need_tokens: refuse a file that does not say them.
        counted: is told (rows done, rows in all).
    """

    labels: Labels
    k: int
    need_tokens: bool = False
    counted: Counted | None = None

    @classmethod
    def of(
        cls, path: Path, k: int | None, need_tokens: bool, counted: Counted | None, matrix: Path | None = None
    ) -> Sequences:
        """Open a file, with the output matrix if it needs one; `k` is by default what it keeps of each row.

        Raises:
            DataError: it does not keep so many tokens, or does not say what the layout needs.
        """
        labels = Labels(path, matrix=matrix)
        spec = labels.spec
        if not labels.n_rows:
            raise DataError(f"{path}: holds no labels; expected some to decode")
        if spec.space != "logits" and spec.temperature != 1:
            raise DataError(
                f"{path}: holds {spec.space} at temperature {spec.temperature:g}; the layout has log-probabilities at 1"
            )
        if labels.codec.is_sparse:
            kept = cls._read_sparse(labels, *labels.cells(np.arange(1))).ids_BK.shape[1]
            k = kept if k is None else k
            if k > kept:
                raise DataError(f"{path}: keeps {kept} tokens of a row; --k {k} asks for more")
        if k is None or k > spec.classes:
            raise DataError(
                f"{path}: holds all of {spec.classes} tokens of a row; say how many to keep, such as --k 64"
            )
        if need_tokens and (TOKEN not in labels.columns or FIRST not in labels.item_columns):
            raise DataError(
                f"{path}: does not say which tokens its rows are about, by the columns {TOKEN} and {FIRST}, and the "
                "layout has them; encode with them, from a source that has them"
            )
        return cls(labels, k, need_tokens, counted)

    @staticmethod
    def _read_sparse(labels: Labels, items: np.ndarray, views: np.ndarray) -> SparseRows:
        return labels.read_sparse(items, views)

    @property
    def n_rows_N(self) -> np.ndarray:  # it carries its shape
        """Rows of each sequence."""
        return self.labels.view_counts()

    def __iter__(self) -> Iterator[Sequence]:
        """Yield all sequences, those without rows too, read some at a time.

        Raises:
            DataError: a position is missing.
        """
        n_N = self.n_rows_N
        ends = np.cumsum(n_N)
        firsts = self.labels.item_column(FIRST) if FIRST in self.labels.item_columns else None
        start = 0
        while start < len(n_N):
            base = int(ends[start] - n_N[start])
            stop = max(start + 1, int(np.searchsorted(ends, base + READ_ROWS, "right")))
            rows = np.arange(base, ends[stop - 1])
            items_B, views_B = self.labels.cells(rows)
            self._check_whole(items_B, views_B, ends - n_N)
            ids_Bk, log_probs_Bk = self._kept(items_B, views_B)
            has_tokens = TOKEN in self.labels.columns and firsts is not None
            tokens_B = self.labels.replay(items_B, views_B)[TOKEN] if has_tokens else None
            for item in range(start, stop):
                part = slice(int(ends[item] - n_N[item]) - base, int(ends[item]) - base)
                tokens = None
                if tokens_B is not None and firsts is not None:
                    first = firsts[item : item + 1]  # below 0 where the sequence is empty
                    tokens = np.concatenate([first[first >= 0], tokens_B[part]]).astype(np.int64)
                yield Sequence(item, ids_Bk[part], log_probs_Bk[part], tokens)
            if self.counted is not None:
                self.counted(int(ends[stop - 1]), self.labels.n_rows)
            start = stop

    def check_one_length(self, whose: str) -> None:
        """Refuse sequences of several lengths, which a layout does not have.

        Raises:
            DataError: there are some.
        """
        lengths_N = self.n_rows_N
        if (lengths_N != lengths_N[0]).any():
            bad = int(np.argmax(lengths_N != lengths_N[0]))
            raise DataError(
                f"{self.labels.file.name}: item 0 has {lengths_N[0]} rows and item {bad} has {lengths_N[bad]}; "
                f"{whose}'s are of one length"
            )

    def _check_whole(self, items_B: np.ndarray, views_B: np.ndarray, starts_N: np.ndarray) -> None:
        first = int(starts_N[items_B[0]]) if len(items_B) else 0
        expected_B = np.arange(first, first + len(items_B)) - starts_N[items_B]
        if (views_B != expected_B).any():
            bad = int(np.argmax(views_B != expected_B))
            raise DataError(
                f"{self.labels.file.name}: item {items_B[bad]} has no view {expected_B[bad]}; the layout has all "
                "positions of a sequence from the first on"
            )

    def _kept(self, items_B: np.ndarray, views_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the k likeliest tokens of rows, and their log-probabilities."""
        labels, parts = self.labels, []
        if labels.codec.is_sparse:
            rows = self._read_sparse(labels, items_B, views_B)
            kept_BK, _ = rows.at(rows.spec.temperature)
            values_Bk, order_Bk = kept_BK.sort(dim=1, descending=True, stable=True)
            ids_BK = rows.ids_BK.gather(1, order_Bk)
            ids_BK = ids_BK.masked_fill(values_Bk == -torch.inf, -1)
            return ids_BK[:, : self.k].numpy(), values_Bk[:, : self.k].numpy()
        step = block_rows(labels.spec.classes)
        for start in range(0, len(items_B), step):
            part = slice(start, start + step)
            rows_BC = convert(
                labels.read(items_B[part], views_B[part]),
                labels.spec,
                LabelSpec(labels.spec.classes, "log_probs"),
            )
            values_Bk, ids_Bk = rows_BC.topk(self.k, dim=1)
            parts.append((ids_Bk.numpy(), values_Bk.numpy()))
        if not parts:
            return np.empty((0, self.k), np.int64), np.empty((0, self.k), np.float32)
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

"""Rows of labels of a batch of sequences: what the teacher says after each token but the last.

Shapes in names: B sequences of a batch, L tokens of the longest, N positions, S of a slice of them, V tokens of the
vocabulary, F of those that are kept exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpack.capturing.teacher import LanguageTeacher
from softpack.errors import DataError
from softpack.records import LabelSpec, RowBlock
from softpack.sequences import Sequences

SLICE_VALUES = 1 << 26  # logits that are there at once


@dataclass(frozen=True)
class Asker:
    """Asks the teacher for rows.

    Args:
        teacher: at work, and probed.
        sequences: to label.
        forced: tokens whose log-probabilities are kept exactly.
        spec: of the rows: logits, or hidden states.
    """

    teacher: LanguageTeacher
    sequences: Sequences
    forced: tuple[int, ...]
    spec: LabelSpec

    def ask(self, items_B: np.ndarray) -> Iterator[RowBlock]:
        """Yield the rows of sequences, some at a time, by item and then view.

        The rows and the tokens that they predict come from one array of tokens: row v is what is said at position v,
        and its token the one at position v + 1.

        Raises:
            DataError: the teacher says nothing that can be a label.
        """
        lengths_B = self.sequences.lengths_N[items_B]
        tokens_BL = np.zeros((len(items_B), int(lengths_B.max())), np.int64)
        is_token_BL = np.arange(tokens_BL.shape[1]) < lengths_B[:, None]
        tokens_BL[is_token_BL] = np.concatenate([self.sequences[int(item)] for item in items_B])
        row_N, position_N = np.nonzero(is_token_BL[:, 1:])  # those that have a next one
        next_N = tokens_BL[row_N, position_N + 1].astype(np.int32)
        device = self.teacher.device
        with torch.inference_mode():
            tokens, mask = (
                torch.from_numpy(array).to(device) for array in (tokens_BL, is_token_BL.astype(np.int64))
            )
            states_BLX = self.teacher.states(tokens, mask)
            at = (torch.from_numpy(index_N).to(states_BLX.device) for index_N in (row_N, position_N))
            states_NX = states_BLX[tuple(at)]
        del states_BLX
        step = max(1, SLICE_VALUES // self.teacher.classes)
        for start in range(0, len(row_N), step):
            part = slice(start, start + step)
            yield self._rows(states_NX[part], items_B[row_N[part]], position_N[part], next_N[part])

    def _rows(self, states_SX: Tensor, item_S: np.ndarray, view_S: np.ndarray, next_S: np.ndarray) -> RowBlock:
        with torch.inference_mode():
            logits_SV = self.teacher.logits(states_SX)
            log_z_S = logits_SV.logsumexp(1)
            self._check(logits_SV, log_z_S, item_S, view_S)
            forced_SF = (
                (logits_SV[:, list(self.forced)] - log_z_S[:, None]).cpu().numpy() if self.forced else None
            )
            labels_SX = logits_SV if self.spec.space == "logits" else states_SX.float()
            columns = {"token": next_S, "log_z": log_z_S.cpu().numpy()}
            return RowBlock(labels_SX.cpu().numpy(), item_S, view_S, columns, forced_SF)

    def _check(self, logits_SV: Tensor, log_z_S: Tensor, item_S: np.ndarray, view_S: np.ndarray) -> None:
        """Refuse NaN and infinity; -inf is a token that cannot come, but not all of them."""
        good_S = torch.isfinite(log_z_S)
        if bool(good_S.all()):
            return
        row = int(good_S.int().argmin())
        bad_V = ~torch.isfinite(logits_SV[row]) & (logits_SV[row] != -torch.inf)
        what = "-inf for every token" if not bool(bad_V.any()) else "nan or inf"
        token = f", first for token {int(bad_V.int().argmax())}" if bool(bad_V.any()) else ""
        raise DataError(
            f"the teacher gives {what} after token {view_S[row]} of sequence {item_S[row]}{token}; expected finite "
            "logits, or -inf for tokens that cannot come; compute in float32 or bfloat16 (--dtype), or leave the "
            "sequence out"
        )

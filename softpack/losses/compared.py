"""A formula over blocks of the student's logits beside labels of any kind.

Shapes: B rows, C classes, K classes known of a row, M = K + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softpack.codecs.spaces import to_logits
from softpack.codecs.sparse import NO_CLASS, SparseRows
from softpack.losses.blocks import Block, RowLoss, working_dtype
from softpack.losses.formulas import Formula
from softpack.records import LabelSpec


def compared(formula: Formula, label: Tensor | SparseRows, temperature: float, spec: LabelSpec) -> RowLoss:
    """Return the loss of rows beside these labels.

    Args:
        formula: of the loss.
        label: rows [B, C] of `spec`, or of some of their classes.
        temperature: by which logits are divided.
        spec: of the labels.

    Raises:
        DataError: sparse labels do not say what the other classes have at this temperature.
    """
    if isinstance(label, Tensor):
        return _Whole((label,), formula, temperature, label, spec)
    # Where the others have no mass, they need not be told apart.
    if label.fill_B is not None and not label.sampled and bool((label.fill_B > -torch.inf).any()):
        return _Whole((label.ids_BK, label.log_probs_BK, label.fill_B), formula, temperature, label, spec)
    known_BK, others_B = label.at(temperature)
    label_BM = torch.cat([known_BK, others_B[:, None]], 1)
    return _Known((label.ids_BK,), formula, temperature, label.ids_BK, label_BM)


@dataclass(frozen=True)
class _Whole(RowLoss):
    """Class by class; of sparse labels, whole rows are made of a block at a time."""

    tensors: tuple[Tensor, ...]
    formula: Formula
    temperature: float
    label: Tensor | SparseRows
    spec: LabelSpec

    def rows(self, student_RC: Tensor, block: Block) -> Tensor:
        return self.formula.rows(*self._logits(student_RC, block))

    def gradient(self, student_RC: Tensor, block: Block, weight_R1: Tensor) -> Tensor:
        return self.formula.gradient(*self._logits(student_RC, block)).mul_(weight_R1 / self.temperature)

    def _logits(self, student_RC: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        """Return the logits at the temperature, of the student and of the labels."""
        dtype = working_dtype(student_RC)
        label_RC = self.label[block] if isinstance(self.label, Tensor) else self.label.take(block).dense()
        return tuple(  # type: ignore[return-value]
            logits_RC if self.temperature == 1.0 else logits_RC / self.temperature
            for logits_RC in (student_RC.to(dtype), to_logits(label_RC.to(dtype), self.spec))
        )


@dataclass(frozen=True)
class _Known(RowLoss):
    """The known classes one by one, and all others as one class; its logit is the logsumexp of theirs."""

    tensors: tuple[Tensor, ...]
    formula: Formula
    temperature: float
    ids_BK: Tensor
    label_BM: Tensor

    def rows(self, student_RC: Tensor, block: Block) -> Tensor:
        _, student_RM = self._split(student_RC, self._places(student_RC, block))
        return self.formula.rows(student_RM, self._label(student_RM, block))

    def gradient(self, student_RC: Tensor, block: Block, weight_R1: Tensor) -> Tensor:
        places_RK = self._places(student_RC, block)
        shares_RD, student_RM = self._split(student_RC, places_RK)
        gradient_RM = self.formula.gradient(student_RM, self._label(student_RM, block))
        gradient_RM.mul_(weight_R1 / self.temperature)
        # Each of the others has its share of what they have together.
        gradient_RD = shares_RD.mul_(gradient_RM[:, -1:])
        return gradient_RD.scatter_(1, places_RK, gradient_RM[:, :-1])[:, :-1]

    def _places(self, student_RC: Tensor, block: Block) -> Tensor:
        """Return the ids, and C, one class more than there are, where a row has no further class."""
        ids_RK = self.ids_BK[block]
        return ids_RK.masked_fill(ids_RK == NO_CLASS, student_RC.shape[1])

    def _label(self, student_RM: Tensor, block: Block) -> Tensor:
        return self.label_BM[block].to(student_RM.dtype)

    def _split(self, student_RC: Tensor, places_RK: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares of the other classes among themselves, [R, C + 1], and the logits of M classes, [R, M]."""
        n_rows, n_classes = student_RC.shape
        logits_RD = student_RC.new_full((n_rows, n_classes + 1), -torch.inf, dtype=working_dtype(student_RC))
        logits_RD[:, :-1] = student_RC
        if self.temperature != 1.0:
            logits_RD.div_(self.temperature)
        known_RK = logits_RD.gather(1, places_RK)
        logits_RD.scatter_(1, places_RK, -torch.inf)
        shares_RD = logits_RD.softmax(1)
        # Their logsumexp; one of torch would take twice the time of the softmax, which gradients need anyway.
        most_R1 = logits_RD.amax(1, keepdim=True)
        others_R1 = most_R1 - shares_RD.amax(1, keepdim=True).log_()
        others_R1 = torch.where(most_R1 == -torch.inf, most_R1, others_R1)
        # Where there are no others, or none has mass, they have no shares either.
        return shares_RD.nan_to_num_(nan=0.0), torch.cat([known_RK, others_R1], 1)

"""A formula over blocks of the student's logits beside labels of any kind.

Shapes: B rows, C classes, K classes known of a row, M = K + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softpack.codecs.spaces import to_logits
from softpack.codecs.sparse import SparseRows
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
    if label.fill_B is not None and not label.sampled:
        return _Whole((label.ids_BK, label.log_probs_BK, label.fill_B), formula, temperature, label, spec)
    known_BK, others_B = label.at(temperature)
    label_BM = torch.cat([known_BK, others_B[:, None]], 1)
    return _Known((label.ids_BK, label.log_probs_BK), formula, temperature, label.ids_BK, label_BM)


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
        others_RD, known_RK, others_R1 = self._split(student_RC, self._places(student_RC, block))
        return self.formula.rows(torch.cat([known_RK, others_R1], 1), self._label(block, others_RD.dtype))

    def gradient(self, student_RC: Tensor, block: Block, weight_R1: Tensor) -> Tensor:
        places_RK = self._places(student_RC, block)
        others_RD, known_RK, others_R1 = self._split(student_RC, places_RK)
        student_RM = torch.cat([known_RK, others_R1], 1)
        gradient_RM = self.formula.gradient(student_RM, self._label(block, others_RD.dtype))
        gradient_RM.mul_(weight_R1 / self.temperature)
        # Each of the others has its share of what they have together; where there are none, of nothing.
        finite_R1 = others_R1.clamp_min(torch.finfo(others_RD.dtype).min)
        gradient_RD = others_RD.sub_(finite_R1).exp_().mul_(gradient_RM[:, -1:])
        return gradient_RD.scatter_(1, places_RK, gradient_RM[:, :-1])[:, :-1]

    def _places(self, student_RC: Tensor, block: Block) -> Tensor:
        """Return the ids, and C, one class more than there are, where a row has no further class."""
        ids_RK = self.ids_BK[block]
        return ids_RK.masked_fill(ids_RK < 0, student_RC.shape[1])

    def _split(self, student_RC: Tensor, places_RK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the student's logits at the temperature.

        Returns:
            Of the other classes, [R, C + 1], -inf elsewhere; of the known ones, [R, K]; of the others as one, [R, 1].
        """
        n_rows, n_classes = student_RC.shape
        logits_RD = student_RC.new_full((n_rows, n_classes + 1), -torch.inf, dtype=working_dtype(student_RC))
        logits_RD[:, :-1] = student_RC
        logits_RD.div_(self.temperature)
        known_RK = logits_RD.gather(1, places_RK)
        logits_RD.scatter_(1, places_RK, -torch.inf)
        return logits_RD, known_RK, logits_RD.logsumexp(1, keepdim=True)

    def _label(self, block: Block, dtype: torch.dtype) -> Tensor:
        return self.label_BM[block].to(dtype)

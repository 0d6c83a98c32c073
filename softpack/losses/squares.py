"""The squared error of logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from softpack.codecs.spaces import to_logits
from softpack.codecs.sparse import SparseRows
from softpack.errors import DataError
from softpack.losses.blocks import Block, RowLoss, mean_of, row_losses, working_dtype
from softpack.losses.checks import check_pair
from softpack.records import IGNORED, LabelSpec


def logits_mse(
    student_BC: Tensor,
    label_BC: Tensor,
    target_B: Tensor | None = None,
    hard: float = 0.0,
    *,
    spec: LabelSpec | None = None,
) -> Tensor:
    """Return the squared error of logits, the mean over classes, and `hard` times the cross-entropy of hard labels.

    So train G-VBSM (arXiv:2311.17950) and EDC (arXiv:2404.13733). Logits are taken less their mean over the classes:
    the constant of a row, which codecs do not keep and no softmax sees, does not count.

    Args:
        student_BC: logits of the student.
        label_BC: soft labels.
        target_B: int64 classes; needed where `hard` is not 0.
        hard: weight of the hard labels, whose cross-entropy takes the student's logits as float32 at once.
        spec: of the labels; logits by default.

    Raises:
        DataError: shapes differ, hard labels are missing, a label has a class without mass, or labels are sparse.
    """
    if isinstance(label_BC, SparseRows):  # type: ignore[unreachable]
        raise DataError(
            "logits_mse: the labels are sparse, and the logits of the classes that were not kept are not known; take "
            "kl, or soft_cross_entropy"
        )
    check_pair(student_BC, label_BC, spec)
    loss = _Squares((label_BC,), label_BC, spec or LabelSpec(label_BC.shape[1]))
    rows_B = row_losses(student_BC, loss)
    _check_labels(rows_B, loss)
    if not hard:
        return mean_of(rows_B, None)
    if target_B is None:
        raise DataError(f"logits_mse: hard is {hard:g}, but there are no hard labels; give target_B")
    with torch.autocast(student_BC.device.type, enabled=False):
        hard_B = F.cross_entropy(student_BC.to(working_dtype(student_BC)), target_B, reduction="none")
        return mean_of(rows_B, None) + hard * mean_of(hard_B, target_B != IGNORED)


@dataclass(frozen=True)
class _Squares(RowLoss):
    tensors: tuple[Tensor, ...]
    label_BC: Tensor
    spec: LabelSpec

    def rows(self, student_RC: Tensor, block: Block) -> Tensor:
        return self._error(student_RC, block).square_().mean(1)

    def gradient(self, student_RC: Tensor, block: Block, weight_R1: Tensor) -> Tensor:
        return self._error(student_RC, block).mul_(weight_R1 * (2 / student_RC.shape[1]))

    def logits(self, block: Block, dtype: torch.dtype) -> Tensor:
        """Return the labels as logits, [R, C]."""
        return to_logits(self.label_BC[block].to(dtype), self.spec)

    def _error(self, student_RC: Tensor, block: Block) -> Tensor:
        """Return by how much the student is above the labels, less the mean over the classes."""
        dtype = working_dtype(student_RC)
        error_RC = student_RC.to(dtype) - self.logits(block, dtype)
        return error_RC.sub_(error_RC.mean(1, keepdim=True))


def _check_labels(rows_B: Tensor, loss: _Squares) -> None:
    """Refuse labels that are not finite: what they make of a row is neither, and only such rows are looked at."""
    strange = (~torch.isfinite(rows_B)).nonzero()[:, 0]
    if len(strange) and not bool(torch.isfinite(loss.logits(strange, rows_B.dtype)).all()):
        raise DataError(
            "logits_mse: a label gives a class no mass at all, which is a logit of -inf; take kl, or "
            "soft_cross_entropy"
        )

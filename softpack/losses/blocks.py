"""A loss of every row, a few rows at a time, and the one gradient that it makes.

A block is some whole rows: over them a softmax is one pass, so that the classes need not be gone through twice, and
what a block needs besides stays in a processor's cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from softpack.errors import DataError

# Numbers in a block: four rows of 262,144 classes. Graphics processors idle on so few.
CPU_NUMBERS = 1 << 20
DEVICE_NUMBERS = 1 << 23

Block = slice | Tensor  # the rows from one to another, or int64 numbers of rows


class RowLoss(ABC):
    """What is computed of a block of rows.

    Args:
        tensors: the labels, which may not be changed in place before the gradient is computed.
    """

    tensors: tuple[Tensor, ...]

    @abstractmethod
    def rows(self, student_RC: Tensor, block: Block) -> Tensor:
        """Return the loss of each row [R] of the student's logits, which are those of `block`."""

    @abstractmethod
    def gradient(self, student_RC: Tensor, block: Block, weight_R1: Tensor) -> Tensor:
        """Return the gradient of the weighted sum of the rows' losses [R, C]."""


def row_losses(student_BC: Tensor, loss: RowLoss, mask_B: Tensor | None = None) -> Tensor:
    """Return the loss of each row [B], in `working_dtype`.

    Args:
        student_BC: logits.
        loss: of the rows.
        mask_B: bool, the rows that count; by default all. The others are not looked at, and have a loss of 0.
    """
    rows_B: Tensor = _RowLosses.apply(student_BC, loss, mask_B)  # type: ignore[no-untyped-call]
    return rows_B


def mean_of(rows_B: Tensor, mask_B: Tensor | None) -> Tensor:
    """Return the mean loss of the rows that count; 0 where none does, or there is none."""
    return rows_B.sum() / (max(1, len(rows_B)) if mask_B is None else mask_B.sum().clamp_min(1))


def working_dtype(student_BC: Tensor) -> torch.dtype:
    """Return the dtype that blocks are computed in: float32, or float64 where the student's is."""
    return torch.promote_types(student_BC.dtype, torch.float32)


def blocks_of(student_BC: Tensor, mask_B: Tensor | None) -> tuple[Block, ...]:
    """Return the rows that count, in blocks of a bounded size."""
    n_rows, n_classes = student_BC.shape
    n_numbers = CPU_NUMBERS if student_BC.device.type == "cpu" else DEVICE_NUMBERS
    each = max(1, n_numbers // n_classes)
    if mask_B is None:
        return tuple(slice(start, start + each) for start in range(0, n_rows, each))
    return torch.split(mask_B.nonzero()[:, 0], each)


class _RowLosses(Function):
    @staticmethod
    def forward(ctx: Any, student_BC: Tensor, loss: RowLoss, mask_B: Tensor | None) -> Tensor:
        ctx.save_for_backward(student_BC, *loss.tensors)
        ctx.loss, ctx.blocks, ctx.all_count = loss, blocks_of(student_BC, mask_B), mask_B is None
        rows_B = student_BC.new_zeros(len(student_BC), dtype=working_dtype(student_BC))
        with torch.autocast(student_BC.device.type, enabled=False):
            for block in ctx.blocks:
                rows_B[block] = loss.rows(student_BC[block], block)
        return rows_B

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # as it is under create_graph=True; what follows would count as constant
            raise DataError(
                "the gradients of softpack.losses cannot be differentiated again; leave out create_graph=True, or take "
                "torch.nn.functional.kl_div on whole rows"
            )
        student_BC, *_ = ctx.saved_tensors
        dtype = student_BC.dtype
        gradient_BC = torch.empty_like(student_BC) if ctx.all_count else torch.zeros_like(student_BC)
        with torch.autocast(student_BC.device.type, enabled=False):
            for block in ctx.blocks:
                # In one line, so that a block is gone before the next is made.
                gradient_BC[block] = ctx.loss.gradient(student_BC[block], block, grad_B[block, None]).to(dtype)
        return gradient_BC, None, None

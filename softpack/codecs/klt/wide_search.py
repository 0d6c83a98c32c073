"""Search codes for KL as `search` does, where classes are too many to follow every one along every axis.

A vocabulary has hundreds of thousands of tokens, of which a row gives hundreds nearly all of its mass, and other rows
others. Around a row's present codes KL is close to a quadratic form again: the likeliest classes of this row are
followed one by one, and what is left is taken to lie as it does in the average row. All steps along axes are made on
those few classes; whole rows are only looked at between rounds, when the form is drawn again, because a class that
was not followed may have become likely.

A coefficient counts for as much as KL feels it in this row: it pays for its bits, or becomes 0. So rows that are sure
of few classes take fewer bits than rows that are not.

Shapes: B rows, C classes, R axes, K classes followed one by one, A axes of a block, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softpack.codecs.klt.levels import PRICE, Levels
from softpack.codecs.klt.search import Softmaxes, search

MOST_CLASSES = 1 << 14  # for which every class is followed
LIKELY = 192
TRUST = 0.7  # share of the decoded row's curvature beside the teacher's: what it makes likely counts too
BLOCK_AXES = 32  # moved between two looks at the classes
CHUNK = 1 << 24  # numbers in the rows that are searched together


def best_codes(
    codes_RB: Tensor,
    rows_BC: Tensor,
    base_BC: Tensor,
    basis_RC: Tensor,
    levels: Levels,
    temperatures: Sequence[float],
    rounds: int,
    weighted: bool,
) -> Tensor:
    """Return better codes int64 [R, B] of rows than those given, by the search that suits the number of classes.

    Args:
        codes_RB: int64, to begin with.
        rows_BC: float32 logits.
        base_BC: what all-zero coefficients decode to.
        basis_RC: axes.
        levels: of the coefficients.
        temperatures: at which KL * T^2 counts.
        rounds: times that every coefficient is looked at.
        weighted: the axes are of unit length where classes count as the average row has them, not where all count 1.
    """
    classes = rows_BC.shape[1]
    if not weighted and classes <= MOST_CLASSES:
        return search(codes_RB, rows_BC, base_BC, basis_RC, levels, temperatures, rounds)
    axes = _Axes.of(basis_RC, levels, 1.0 if weighted else 1 / classes, len(temperatures))
    step = max(1, CHUNK // classes)
    parts = [
        _searched(codes_RB[:, rows].T, rows_BC[rows], base_BC[rows], axes, sorted(temperatures), rounds)
        for rows in (slice(start, start + step) for start in range(0, len(rows_BC), step))
    ]
    return torch.cat(parts).T.contiguous() if parts else codes_RB


@dataclass(frozen=True)
class _Axes:
    """The axes, and what their levels stand for and cost.

    Args:
        basis_RC: the axes.
        value_RL: what levels stand for.
        middle_RL: between two levels, [R, L - 1]; infinite beyond the last.
        cost_RL: KL that the bits of a level are worth.
        zero_R: int64, the level nearest to 0.
        spread: curvature along an axis for each unit of the mass of the classes that are not followed.
    """

    basis_RC: Tensor
    value_RL: Tensor
    middle_RL: Tensor
    cost_RL: Tensor
    zero_R: Tensor
    spread: float

    @classmethod
    def of(cls, basis_RC: Tensor, levels: Levels, spread: float, n_temperatures: int) -> _Axes:
        """Return them for levels: a bit is worth what `Levels` says it is, for the curvature of an average row."""
        value_RL = levels.values()
        middle_RL = (value_RL[:, 1:] + value_RL[:, :-1]) / 2
        middle_RL = middle_RL.masked_fill(~levels.inside()[:, 1:], torch.inf)
        worth = PRICE * levels.step**2 / 2 * spread * n_temperatures
        zero_R = torch.searchsorted(middle_RL, torch.zeros_like(middle_RL[:, :1]))[:, 0]
        return cls(basis_RC, value_RL, middle_RL, levels.bits() * worth, zero_R, spread)

    def blocks(self) -> list[slice]:
        """Return the axes in blocks, the widest last: they see what the others left."""
        n = len(self.basis_RC)
        return [slice(start, min(start + BLOCK_AXES, n)) for start in range(0, n, BLOCK_AXES)][::-1]

    def cost(self, code_BR: Tensor) -> Tensor:
        """Return the KL that the bits of rows are worth, [B]."""
        return self.cost_RL.gather(1, code_BR.T).sum(dim=0)


def _searched(
    code_BR: Tensor,
    rows_BC: Tensor,
    base_BC: Tensor,
    axes: _Axes,
    temperatures: Sequence[float],
    rounds: int,
) -> Tensor:
    """Return better codes int64 [B, R]: of those seen between rounds, each row's best."""
    teacher = Softmaxes.of(rows_BC, temperatures)
    code_BR = code_BR.clone()
    best_BR, least_B = code_BR, torch.full_like(teacher.level_B, torch.inf)
    for n_done in range(rounds + 1):
        value_BR = axes.value_RL.gather(1, code_BR.T).T
        decoded_BC = torch.addmm(base_BC, value_BR, axes.basis_RC)
        decoded = Softmaxes.of(decoded_BC, temperatures)
        # But for a constant of the row it is KL * T^2, summed over temperatures, and the price of the bits.
        told_B = decoded.level_B - torch.einsum("bc,bc->b", teacher.slope_BC, decoded_BC)
        total_B = told_B + axes.cost(code_BR)
        is_better_B = total_B < least_B
        least_B = torch.where(is_better_B, total_B, least_B)
        best_BR = torch.where(is_better_B[:, None], code_BR, best_BR)
        if n_done < rounds:
            code_BR = _moved(code_BR, teacher, decoded, axes)
    return best_BR


def _moved(code_BR: Tensor, teacher: Softmaxes, decoded: Softmaxes, axes: _Axes) -> Tensor:
    """Return codes that are lowest, axis by axis, in the form around decoded rows."""
    mixed_BC = teacher.sum_BC.lerp(decoded.sum_BC, TRUST)
    weight_BK, class_BK = mixed_BC.topk(min(LIKELY, mixed_BC.shape[1]), dim=1, sorted=False)
    other_B = (mixed_BC.sum(dim=1) - weight_BK.sum(dim=1)).clamp_min(0) * axes.spread
    del mixed_BC
    lowest_BK = teacher.lowest_BC.gather(1, class_BK).lerp(decoded.lowest_BC.gather(1, class_BK), TRUST)
    slope_BR = (decoded.slope_BC - teacher.slope_BC) @ axes.basis_RC.T
    code_BR, moved_BK = code_BR.clone(), torch.zeros_like(weight_BK)
    for block in axes.blocks():
        axis_ABK = axes.basis_RC[block][:, class_BK]
        axis_BAK = axis_ABK.transpose(0, 1).contiguous()
        mean_BA = torch.bmm(axis_BAK, lowest_BK[:, :, None])[:, :, 0]
        form_BAA = torch.bmm(axis_BAK * weight_BK[:, None], axis_BAK.mT)
        form_BAA -= mean_BA[:, :, None] * mean_BA[:, None]
        form_BAA.diagonal(dim1=1, dim2=2).add_(other_B[:, None])
        moved_mean_B1 = (lowest_BK * moved_BK).sum(dim=1, keepdim=True)
        slope_BA = torch.bmm(axis_BAK, (weight_BK * moved_BK)[:, :, None])[:, :, 0]
        slope_BA += slope_BR[:, block] - mean_BA * moved_mean_B1
        by_BA = _lowest_in_block(code_BR, block, form_BAA, slope_BA, axes)
        moved_BK += torch.bmm(by_BA[:, None], axis_BAK)[:, 0]
    return code_BR


def _lowest_in_block(code_BR: Tensor, block: slice, form_BAA: Tensor, slope_BA: Tensor, axes: _Axes) -> Tensor:
    """Choose the codes of a block of axes in place, one axis after the other; return how far each has moved, [B, A]."""
    by_BA = torch.zeros_like(slope_BA)
    for axis in reversed(range(by_BA.shape[1])):
        number = block.start + axis
        value_L, cost_L, zero = axes.value_RL[number], axes.cost_RL[number], axes.zero_R[number]
        code_B, curvature_B = code_BR[:, number], form_BAA[:, axis, axis].clamp_min(1e-12)
        at_B = value_L[code_B]
        lowest_B = at_B - slope_BA[:, axis] / curvature_B
        near_B = torch.bucketize(lowest_B, axes.middle_RL[number])
        # Between the nearest level and 0 there are cheaper ones, of which the first and the last are tried.
        tried_4B = torch.stack([near_B, near_B + (zero - near_B).sign(), code_B, zero.expand_as(code_B)])
        total_4B = (value_L[tried_4B] - lowest_B).square_().mul_(curvature_B / 2).add_(cost_L[tried_4B])
        chosen_B = tried_4B.gather(0, total_4B.argmin(dim=0, keepdim=True))[0]
        by_B = value_L[chosen_B] - at_B
        slope_BA += form_BAA[:, axis] * by_B[:, None]
        by_BA[:, axis] = by_B
        code_BR[:, number] = chosen_B
    return by_BA

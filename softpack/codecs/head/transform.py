"""What all rows share: axes of the hidden states in the order of how much KL feels them, and a grid on each.

Shapes: B rows, H numbers of a hidden state, R axes, L levels of the axis that has most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from softpack.codecs.abc import Codes, code_dtype, code_values
from softpack.codecs.widths import Group

MOST_ENTRY = (1 << 15) - 1  # of a hidden number in an axis, in int16


@dataclass(frozen=True)
class Transform:
    """How coefficients become hidden states, as files hold it.

    Args:
        mean_H: float32.
        axes_RH: int16.
        scale_R: float32, what each axis is multiplied with.
        first_R: int32, what level 0 of each axis stands for, in steps.
        step: between levels.
    """

    mean_H: Tensor
    axes_RH: Tensor
    scale_R: Tensor
    first_R: Tensor
    step: float

    @property
    def synthesis(self) -> Tensor:
        """What one coefficient of each axis adds to a hidden state, float32 [R, H]."""
        return self.axes_RH * self.scale_R[:, None]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """As they are stored."""
        return {"mean": self.mean_H, "axes": self.axes_RH, "scale": self.scale_R, "first": self.first_R}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], step: float) -> Transform:
        """Return what stored tensors stand for."""
        return cls(tensors["mean"], tensors["axes"], tensors["scale"], tensors["first"], step)

    def coefficients(self, levels_BR: Tensor) -> Tensor:
        """Return what levels stand for, float32 [B, R]."""
        return (levels_BR + self.first_R) * self.step

    def hidden(self, levels_BR: Tensor, synthesis_RH: Tensor) -> Tensor:
        """Return hidden states [B, H]."""
        return torch.addmm(self.mean_H, self.coefficients(levels_BR), synthesis_RH)


def rounded(synthesis_RH: Tensor) -> tuple[Tensor, Tensor]:
    """Return axes as int16 [R, H], and the float32 [R] that each is to be multiplied with."""
    scale_R = synthesis_RH.abs().amax(dim=1).clamp_min(1e-30) / MOST_ENTRY
    return (synthesis_RH / scale_R[:, None]).round().to(torch.int16), scale_R


def to_codes(levels_RB: Tensor, groups: tuple[Group, ...]) -> Codes:
    """Return levels as arrays of codes, one for the axes of each width."""
    return {group.name: levels_RB[group.axes].T.to(code_dtype(group.bits)).contiguous() for group in groups}


def to_levels(codes: Codes, groups: tuple[Group, ...]) -> Tensor:
    """Return the levels int64 [B, R] of arrays of codes."""
    return torch.cat([code_values(codes[group.name], group.bits) for group in groups], dim=1)

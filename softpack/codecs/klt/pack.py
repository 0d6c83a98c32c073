"""Fitted levels <-> the tensors of a file: axes by the bits that their levels take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from softpack.codecs.klt.fit import Fitted
from softpack.codecs.klt.levels import SHIFTS, Levels, window
from softpack.codecs.widths import Group, widths_of

def pack(fitted: Fitted, keep_still: bool) -> tuple[str, dict[str, Tensor]]:
    """Return the setting `widths` and the tensors of a codec.

    Args:
        fitted: by `fit`.
        keep_still: keep axes of which every row of the sample has 0.
    """
    used_RL = fitted.used_RL > 0
    low_R = used_RL.int().argmax(dim=1)
    n_used_R = used_RL.shape[1] - used_RL.flip(1).int().argmax(dim=1) - low_R
    width_R = torch.frexp((n_used_R - 1).clamp_min(1).double()).exponent.long()
    order_R = width_R.argsort(descending=True, stable=True)
    is_still_R = (n_used_R == 1) & (fitted.levels.first_R + low_R == 0)
    moving_R = order_R[~is_still_R[order_R]]
    order_R = order_R if keep_still else moving_R if len(moving_R) else order_R[:1]
    levels = _to_widths(fitted, order_R, low_R - (2**width_R - n_used_R) // 2, 2**width_R)
    both_S = pad(order_R + 1, (1, 0))
    inside_RL = levels.inside()
    tensors = {
        "axes": fitted.axis_SC[both_S].contiguous(),
        "scale": fitted.scale_S[both_S].contiguous(),
        "first": levels.first_R.to(torch.int32),
        "shift": (levels.shift_RL[inside_RL] * SHIFTS).round().to(torch.int8),
        "threshold": levels.threshold_RL[inside_RL[:, 1:]],
    }
    return widths_of(width_R[order_R].tolist()), tensors


@dataclass(frozen=True)
class Transform:
    """What the tensors of a codec stand for.

    Args:
        mean_C: float32.
        axes_RC: float32, nearly orthonormal.
        values: what all levels of the first axis stand for, then all of the second and so on.
        start_R: int64, where those of an axis begin.
    """

    mean_C: Tensor
    axes_RC: Tensor
    values: Tensor
    start_R: Tensor


def unpack(tensors: Mapping[str, Tensor], groups: tuple[Group, ...], step: float) -> Transform:
    """Return what the tensors of `pack` stand for. Memory grows with them alone, whatever the groups are."""
    axes_SC = tensors["axes"] * tensors["scale"][:, None]
    count_R = _counts(groups).to(axes_SC.device)
    start_R = count_R.cumsum(dim=0) - count_R
    origin_R = tensors["first"] - start_R
    number = torch.arange(len(tensors["shift"]), device=axes_SC.device)
    grid = origin_R.repeat_interleave(count_R) + number
    return Transform(axes_SC[0], axes_SC[1:], (grid + tensors["shift"] / SHIFTS) * step, start_R)


def unpack_levels(tensors: Mapping[str, Tensor], groups: tuple[Group, ...], step: float) -> Levels:
    """Return the levels that `pack` was given, for which `threshold` must be among the tensors."""
    count_R = _counts(groups).to(tensors["first"].device)
    shift_RL = torch.zeros(len(count_R), int(count_R.max()), device=count_R.device)
    threshold_RL = torch.full_like(shift_RL[:, 1:], torch.inf)
    levels = Levels(step, tensors["first"].long(), count_R, shift_RL, threshold_RL)
    inside_RL = levels.inside()
    shift_RL[inside_RL] = tensors["shift"] / SHIFTS
    threshold_RL[inside_RL[:, 1:]] = tensors["threshold"]
    return levels


def _counts(groups: tuple[Group, ...]) -> Tensor:
    """Return how many levels each axis has, int64 [R]."""
    levels = torch.tensor([1 << group.bits for group in groups])
    return levels.repeat_interleave(torch.tensor([group.n_axes for group in groups]))


def _to_widths(fitted: Fitted, order_R: Tensor, start_R: Tensor, count_R: Tensor) -> Levels:
    """Return the levels of some axes, `count_R` from `start_R` on, of which the fit may have had fewer."""
    old, start_R, count_R = fitted.levels, start_R[order_R], count_R[order_R]
    most = int(count_R.max())
    shift_RL = window(old.shift_RL[order_R], start_R, most)
    levels = Levels(old.step, old.first_R[order_R] + start_R, count_R, shift_RL, shift_RL[:, 1:])
    levels = levels.priced(window(fitted.used_RL[order_R], start_R, most))
    # What the fit measured it measured with its own thresholds: they stay, where it had some.
    had_RL = window(torch.isfinite(old.threshold_RL[order_R]).float(), start_R, most - 1) > 0
    old_RL = window(old.threshold_RL[order_R].nan_to_num(posinf=0.0), start_R, most - 1)
    threshold_RL = torch.where(had_RL, old_RL, levels.threshold_RL)
    return replace(levels, threshold_RL=threshold_RL.cummax(dim=1).values)

"""Choose codes for the least KL(teacher || decoded) plus the price of their bits, not only for squared error.

Rounding errors of many coefficients meet in every class. Which way each of them is rounded is free, and where the
teacher's few likely classes are it should be so that the errors cancel: a student at T=1 sees little else. Around
a row's present codes KL is close to a quadratic form, the same for all classes but the likeliest; coefficient by
coefficient its minimum is found and rounded (coordinate descent), then the form is drawn again.

Shapes: B rows, C classes, R axes, K classes looked at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from softpack.codecs.klt.levels import Levels

LIKELY = 8  # classes whose errors are followed one by one
TRUST = 0.7  # share of the decoded row's curvature beside the teacher's: what it makes likely counts too
SLACK = 1.25  # of a row's KL above the least that it had, for fewer bits
CHUNK = 1 << 20  # numbers in the largest temporary


def search(
    codes_RB: Tensor,
    rows_BC: Tensor,
    base_BC: Tensor,
    basis_RC: Tensor,
    levels: Levels,
    temperatures: Sequence[float],
    rounds: int,
) -> Tensor:
    """Return better codes int64 [R, B] of rows than those given.

    Args:
        codes_RB: int64, to begin with.
        rows_BC: float32 logits.
        base_BC: what all-zero coefficients decode to.
        basis_RC: nearly orthonormal axes.
        levels: of the coefficients.
        temperatures: at which KL * T^2 counts.
        rounds: times that every coefficient is looked at.
    """
    n_rows = max(1, CHUNK // max(LIKELY * len(basis_RC), rows_BC.shape[1]))
    parts = [
        _search(
            codes_RB[:, start : start + n_rows],
            rows_BC[start : start + n_rows],
            base_BC[start : start + n_rows],
            basis_RC,
            levels,
            temperatures,
            rounds,
        )
        for start in range(0, len(rows_BC), n_rows)
    ]
    return torch.cat(parts, dim=1) if parts else codes_RB


def _search(
    codes_RB: Tensor,
    rows_BC: Tensor,
    base_BC: Tensor,
    basis_RC: Tensor,
    levels: Levels,
    temperatures: Sequence[float],
    rounds: int,
) -> Tensor:
    form = KLForm(rows_BC, basis_RC, temperatures)
    codes_RB = codes_RB.clone()
    value_RL = levels.values()
    coefficients_RB = value_RL.gather(1, codes_RB)
    axes = list(zip(value_RL, levels.threshold_RL, codes_RB, coefficients_RB, strict=True))
    kl_B = form.go_to(torch.addmm(base_BC, coefficients_RB.T, basis_RC))
    least_B, best_RB = kl_B, codes_RB.clone()
    for _ in range(rounds):
        form.draw()
        for axis in reversed(range(len(axes))):  # the wide axes last: they see what the others left
            value_L, threshold_L, code_B, coefficient_B = axes[axis]
            torch.bucketize(form.lowest(axis, coefficient_B), threshold_L, out=code_B)
            chosen_B = value_L.take(code_B)
            form.move(axis, chosen_B - coefficient_B)
            coefficient_B.copy_(chosen_B)
        kl_B = form.go_to(torch.addmm(base_BC, coefficients_RB.T, basis_RC))
        best_RB = torch.where(kl_B < least_B, codes_RB, best_RB)
        least_B = torch.minimum(kl_B, least_B)
    # A little more KL than before is the price of fewer bits; much more is a form that was no good.
    return torch.where(kl_B > SLACK * least_B, best_RB, codes_RB)


class Softmaxes(NamedTuple):
    """Softmaxes of some logits at all temperatures T.

    Args:
        lowest_BC: at the lowest T.
        sum_BC: over T.
        slope_BC: the sum over T of T times each; the derivative of `level_B`.
        level_B: the sum over T of T^2 * ln sum exp(logits / T).
    """

    lowest_BC: Tensor
    sum_BC: Tensor
    slope_BC: Tensor
    level_B: Tensor

    @classmethod
    def of(cls, logits_BC: Tensor, temperatures: Sequence[float]) -> Softmaxes:
        """Return them; the first of the temperatures is the lowest."""
        top_B1, class_B1 = logits_BC.max(dim=1, keepdim=True)
        lowest_BC = logits_BC
        sum_BC, slope_BC, level_B1 = (
            torch.zeros_like(logits_BC),
            torch.zeros_like(logits_BC),
            torch.zeros_like(top_B1),
        )
        for t in temperatures:
            share_BC = torch.softmax(logits_BC / t, dim=1)
            lowest_BC = share_BC if t == temperatures[0] else lowest_BC
            sum_BC += share_BC
            slope_BC.add_(share_BC, alpha=t)
            level_B1 += t * top_B1 - t * t * share_BC.gather(1, class_B1).log()
        return cls(lowest_BC, sum_BC, slope_BC, level_B1.squeeze(1))


class KLForm:
    """The quadratic form that the sum of KL * T^2 over temperatures is close to, around decoded rows.

    For errors e its value is slope . e + e H e / 2, with H = sum over T of diag(p) - p p', where p is a softmax at T.
    All classes but the K likeliest share one number in the diagonal, and only at the lowest temperature do the
    products matter.

    Args:
        rows_BC: the teacher's logits.
        basis_RC: axes along which decoded rows move.
        temperatures: of the KL.
    """

    def __init__(self, rows_BC: Tensor, basis_RC: Tensor, temperatures: Sequence[float]) -> None:
        self._basis_CR = basis_RC.T.contiguous()
        self._temperatures = sorted(temperatures)
        self._n_likely = min(LIKELY, rows_BC.shape[1] - 1)
        self._teacher = Softmaxes.of(rows_BC, self._temperatures)
        self._least_B = self._teacher.level_B - _dot(self._teacher.slope_BC, rows_BC)

    def go_to(self, decoded_BC: Tensor) -> Tensor:
        """Take note of decoded rows, and return their KL * T^2, summed over temperatures, [B]."""
        self._decoded = Softmaxes.of(decoded_BC, self._temperatures)
        return self._decoded.level_B - _dot(self._teacher.slope_BC, decoded_BC) - self._least_B

    def draw(self) -> None:
        """Draw the form around the decoded rows that were noted last."""
        teacher, decoded = self._teacher, self._decoded
        weight_BC = teacher.sum_BC.lerp(decoded.sum_BC, TRUST)
        likely_BK, class_BK = weight_BC.topk(self._n_likely, dim=1, sorted=False)
        n_others = weight_BC.shape[1] - self._n_likely
        flat_B = (len(self._temperatures) - likely_BK.sum(dim=1)).clamp_min_(0) / n_others
        lowest_BK = teacher.lowest_BC.gather(1, class_BK).lerp_(decoded.lowest_BC.gather(1, class_BK), TRUST)
        lowest_KB = lowest_BK.T.contiguous()
        self._axis_RKB = self._basis_CR[class_BK].permute(2, 1, 0).contiguous()
        mean_RB = (self._axis_RKB * lowest_KB).sum(dim=1)
        self._pull_RKB = self._axis_RKB * (likely_BK - flat_B[:, None]).T
        self._pull_RKB.addcmul_(mean_RB[:, None], lowest_KB, value=-1)
        curvature_RB = (self._pull_RKB * self._axis_RKB).sum(dim=1).add_(flat_B)
        self._inverse_RB = curvature_RB.clamp_min_(1e-12).reciprocal_()
        self._slope_RB = self._basis_CR.T @ (decoded.slope_BC - teacher.slope_BC).T
        self._moved_KB = torch.zeros_like(lowest_KB)

    def lowest(self, axis: int, at_B: Tensor) -> Tensor:
        """Return where along an axis the form is lowest, for rows that are at `at_B` after the moves so far."""
        slope_B = (self._axis_RKB[axis] * self._moved_KB).sum(dim=0).add_(self._slope_RB[axis])
        return torch.addcmul(at_B, slope_B, self._inverse_RB[axis], value=-1)

    def move(self, axis: int, by_B: Tensor) -> None:
        """Take note that rows have moved along an axis."""
        self._moved_KB.addcmul_(self._pull_RKB[axis], by_B)


def _dot(left_BC: Tensor, right_BC: Tensor) -> Tensor:
    return torch.einsum("bc,bc->b", left_BC, right_BC)

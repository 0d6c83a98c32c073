"""Choose the axes, the step and the levels for a sample of rows and a number of bits.

Shapes: B rows of the sample, C classes, R axes, L levels, S = 1 + R: the mean, then the axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import itemgetter

import torch
from torch import Tensor

from softpack.codecs.klt.axes import analysis, axis_bits, axis_step, round_axes
from softpack.codecs.klt.levels import PRICE, Levels, Sample, count, entropy_of, even_levels, window
from softpack.codecs.klt.wide_search import best_codes
from softpack.codecs.principal import principal_axes

MOST_AXES = 1024  # of those that are looked at where the rank is left open
MOST_LEVELS = 1 << 12
TABLE_ROWS = 1 << 14  # rows that levels are fitted to
TRIAL_ROWS = 1 << 12  # rows that the step is searched with first
TRIAL_VALUES = 1 << 25  # numbers in them: fewer rows of very many classes
FULL_VALUES = 1 << 27  # and in the rows that it is settled with
LEAST_WEIGHT = 1e-3  # of a class, beside what all would have if they had the same
ROWS_AT_ONCE = 64
HALVINGS = 14  # of the range of steps
TRIALS = 7
FULL_TRIALS = 4
CLOSE = 0.99  # share of the bits asked for that is near enough


@dataclass(frozen=True)
class Plan:
    """What the fit is to reach; most names are those of the settings.

    Args:
        rank: axes, 0 = as many as pay.
        bits: entropy of a label.
        step: between levels, 0 = chosen for `bits`.
        axis_price: of a bit of the axes in bits of the codes.
        temperatures: that the search looks at.
        rounds: of the search, 0 = none.
        weighted: whether errors count by the mass that the average row gives to their class.
        n_rows: of the file.
        seed: of the axes.
        report: is told what is seen, at most `n_reports` times.
    """

    rank: int
    bits: float
    step: float
    axis_price: float
    temperatures: tuple[float, ...]
    rounds: int
    weighted: bool
    n_rows: int
    seed: int
    report: Callable[[str], None]

    @property
    def n_reports(self) -> int:
        """How often `report` is called at most."""
        return 1 + (TRIALS + FULL_TRIALS if self.rounds else 1)


@dataclass(frozen=True)
class Fitted:
    """What a fit found.

    Args:
        axis_SC: int8, the mean and then the axes.
        scale_S: float32, what each of them is multiplied with.
        levels: of the coefficients.
        used_RL: int64, how often rows took each level.
        weight_C: float32, of the errors of each class, their sum is 1; None where all count the same.
    """

    axis_SC: Tensor
    scale_S: Tensor
    levels: Levels
    used_RL: Tensor
    weight_C: Tensor | None


def fit(rows_BC: Tensor, context_BC: Tensor | None, plan: Plan) -> Fitted:
    """Return axes and levels for rows.

    Args:
        rows_BC: float32 logits whose mean is zero; where there is no context, to be used no more.
        context_BC: the same of what is known of them, or None.
        plan: what to reach.
    """
    # What a vocabulary has for rows fills much of a memory: they are worked on where they stand.
    residual_BC = rows_BC if context_BC is None else rows_BC - context_BC
    weight_C = _weights(rows_BC, plan.temperatures) if plan.weighted else None
    if weight_C is not None:
        residual_BC -= (residual_BC @ weight_C)[:, None]
    mean_1C, mean_scale_1 = round_axes(residual_BC.mean(dim=0, keepdim=True))
    mean_C = (mean_1C * mean_scale_1)[0]
    residual_BC -= mean_C
    n_axes = min(plan.rank or MOST_AXES, len(residual_BC), residual_BC.shape[1] - 1)
    if weight_C is not None:
        residual_BC *= weight_C.sqrt()
    axes_RC = principal_axes([residual_BC], n_axes, plan.seed)
    some = _evenly(len(residual_BC), TABLE_ROWS)
    residual_BC = _rows(residual_BC, some)
    sample = Sample((axes_RC @ residual_BC.T).contiguous())
    step = plan.step or _step_for(sample, plan.bits)
    keep_R = _worthwhile(sample, step, plan, residual_BC.shape[1])
    plan.report(f"{int(keep_R.sum())} axes")
    price = plan.axis_price / plan.n_rows
    axes_RC, step_R = axes_RC[keep_R], axis_step(sample.spread_R[keep_R], step, price)
    if weight_C is not None:
        residual_BC /= weight_C.sqrt()
        axes_RC /= weight_C.sqrt()
        step_R *= len(weight_C) ** 0.5  # an entry's error counts by its weight, which is that much less
    axes_RC, scale_R = round_axes(axes_RC, step_R)
    axis_SC, scale_S = torch.cat([mean_1C, axes_RC]), torch.cat([mean_scale_1, scale_R])
    axes_RC = axes_RC * scale_R[:, None]
    coefficients_RB = (residual_BC @ analysis(axes_RC, weight_C)).T.contiguous()
    if plan.rounds:
        base_BC = mean_C.expand_as(residual_BC)
        if context_BC is not None:
            base_BC = _rows(context_BC, some) + mean_C
        trials = _Trials(residual_BC.add_(base_BC), base_BC, axes_RC, coefficients_RB, plan)
        return Fitted(axis_SC, scale_S, *trials.settle(step), weight_C)
    sample = Sample(coefficients_RB)
    levels, used_RL = sample.fit(plan.step or _step_for(sample, plan.bits), MOST_LEVELS)
    plan.report(_seen(levels, used_RL))
    return Fitted(axis_SC, scale_S, levels, used_RL, weight_C)


def _weights(logits_BC: Tensor, temperatures: tuple[float, ...]) -> Tensor:
    """Return the mass [C] that the average row gives to classes, over temperatures, and a little for all.

    It is the average Fisher information of a logit but for what classes have in common: KL feels a small error by it.
    """
    weight_C = torch.zeros_like(logits_BC[0])
    for rows_BC in torch.split(logits_BC, ROWS_AT_ONCE):
        for temperature in temperatures:
            weight_C += torch.softmax(rows_BC / temperature, dim=1).sum(dim=0)
    weight_C /= len(logits_BC) * len(temperatures)
    return (weight_C + LEAST_WEIGHT / len(weight_C)) / (1 + LEAST_WEIGHT)


class _Trials:
    """Search a sample of rows at one step after another, until their bits are those asked for."""

    def __init__(
        self, rows_BC: Tensor, base_BC: Tensor, axes_RC: Tensor, coefficients_RB: Tensor, plan: Plan
    ) -> None:
        self._rows_BC, self._base_BC, self._axes_RC = rows_BC, base_BC, axes_RC
        self._coefficients_RB, self._plan = coefficients_RB, plan

    def settle(self, step: float) -> tuple[Levels, Tensor]:
        """Return levels, and how often the rows take each of them.

        They start at those of squared error. What the search takes changes the bits of levels, these the
        thresholds, and these what it takes: after some trials all are of one mind.
        """
        levels, used_RL = Sample(self._coefficients_RB).fit(step, MOST_LEVELS)
        levels = replace(levels, shift_RL=torch.zeros_like(levels.shift_RL)).priced(used_RL)
        n_all, asked, classes = len(self._rows_BC), self._plan.bits, self._rows_BC.shape[1]
        n_rows = min(n_all, max(1, FULL_VALUES // classes))
        n_trial = min(TRIAL_ROWS, n_rows, max(1, TRIAL_VALUES // classes))
        best = ((True, math.inf), levels, used_RL)
        for trial in range(TRIALS + FULL_TRIALS):
            some = _evenly(n_all, n_trial if trial < TRIALS else n_rows)
            used_RL = self._used(levels, some)
            bits = float(entropy_of(used_RL).sum())
            self._plan.report(_seen(levels, used_RL))
            if len(some) == n_rows:
                # Too many bits are worse than too few; where the step is given, the last are the best.
                off = (bits > asked, abs(asked - bits)) if not self._plan.step else (False, -trial)
                best = min(best, (off, levels, used_RL), key=itemgetter(0))
            if trial >= TRIALS and (self._plan.step or CLOSE * asked <= bits <= asked):
                break
            levels = self._next(levels, used_RL, bits)
        return best[1], best[2]

    def _next(self, levels: Levels, used_RL: Tensor, bits: float) -> Levels:
        """Return levels that should come nearer to the bits asked for, with thresholds for what was used."""
        if self._plan.step:
            return levels.priced(used_RL)
        ratio = (bits / (self._plan.bits * (1 + CLOSE) / 2)) ** 0.5
        step = max(levels.step * min(max(ratio, 0.5), 2.0), _finest(self._coefficients_RB))
        found = even_levels(self._coefficients_RB, _rounded(step), MOST_LEVELS)
        return found.priced(window(used_RL, found.first_R - levels.first_R, found.shift_RL.shape[1]))

    def _used(self, levels: Levels, some: Tensor) -> Tensor:
        codes_RB = levels.nearest(self._coefficients_RB[:, some].contiguous())
        found_RB = best_codes(
            codes_RB,
            _rows(self._rows_BC, some),
            _rows(self._base_BC, some),
            self._axes_RC,
            levels,
            self._plan.temperatures,
            self._plan.rounds,
            self._plan.weighted,
        )
        return count(found_RB, levels.shift_RL.shape[1])


def _seen(levels: Levels, used_RL: Tensor) -> str:
    return f"step {levels.step:.4g}, {float(entropy_of(used_RL).sum()):.1f} bits"


def _finest(coefficients_RB: Tensor) -> float:
    """Return the least step at which all coefficients are within `MOST_LEVELS`."""
    return float(coefficients_RB.abs().amax()) * 2 / (MOST_LEVELS - 2)


def _rounded(step: float) -> float:
    """Return a step of four digits, so that it does not depend on the order of sums; never a finer one."""
    unit = 10.0 ** (math.floor(math.log10(step)) - 3)
    return float(f"{math.ceil(step / unit) * unit:.4g}")


def _step_for(sample: Sample, bits: float) -> float:
    """Return the least step at which coefficients, rounded for squared error, have at most so many bits."""
    fine = _finest(sample.sorted_RB)
    coarse = fine * MOST_LEVELS
    if fine == 0:
        return 1.0
    if sample.bits(fine, MOST_LEVELS) <= bits:
        return _rounded(fine)
    for _ in range(HALVINGS):
        step = (fine * coarse) ** 0.5
        fine, coarse = (step, coarse) if sample.bits(step, MOST_LEVELS) > bits else (fine, step)
    return _rounded(coarse)


def _worthwhile(sample: Sample, step: float, plan: Plan, n_classes: int) -> Tensor:
    """Return which axes [R] save more bits than they take in the file: one at least, all if `rank` says how many."""
    levels, used_RL = sample.fit(step, MOST_LEVELS)
    rounded_RB = levels.values().gather(1, levels.nearest(sample.sorted_RB))
    left_R = (rounded_RB - sample.sorted_RB).square().mean(dim=1)
    saved_R = (sample.spread_R.square() - left_R) / (PRICE * step**2) - entropy_of(used_RL)
    price = plan.axis_price / plan.n_rows
    keep_R = saved_R > price * n_classes * axis_bits(axis_step(sample.spread_R, step, price), n_classes)
    keep_R[: max(plan.rank, 1)] = True
    return keep_R


def _rows(rows_BC: Tensor, some: Tensor) -> Tensor:
    """Return some rows, which are not copied where they are all of them."""
    return rows_BC if len(some) == len(rows_BC) else rows_BC[some]


def _evenly(n_rows: int, most: int) -> Tensor:
    """Return the numbers of at most `most` rows, evenly spread."""
    n_some = min(n_rows, most)
    return torch.arange(n_some) * n_rows // n_some

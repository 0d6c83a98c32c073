"""Choose axes, step and levels for a sample of hidden states, an output matrix and a number of bits.

Shapes: B rows, H numbers of a hidden state, V tokens, R axes, L levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from softpack.codecs.head.search import FOLLOWED, Space, search
from softpack.codecs.head.tokens import CHUNK, Said, Tokens
from softpack.codecs.head.transform import Transform, rounded
from softpack.codecs.widths import MOST_WIDTH

METRIC_ROWS = 4096  # whose tokens say how much KL feels a direction
SEARCH_ROWS = 1024  # that the step is searched with
LIKELY = 1 << 15  # tokens that most rows are searched among
FLATTEST = 1e-6  # of the largest eigenvalue of the metric, the least that a direction counts
DEAD_ZONE = 0.35  # of a step, below which a coefficient is rounded towards 0 to begin with
PRICE = 0.12  # of a bit in squared steps, as KL is half a squared coefficient on average
TRIALS = 7
SETTLED = 3  # trials at least: each searches by what levels cost in the one before
CLOSE = 0.985  # share of the bits asked for that is near enough
UNSEEN = 0.5  # counts of a level that the sample never took
LEAST_BITS = 0.01  # of an axis in the sample's rows, below which it is left out
LEAST_SPREAD = 0.1  # of coefficients: rows that differ by less are all the same to KL
REPORTS = 1 + TRIALS  # at most


@dataclass(frozen=True)
class Metric:
    """How much KL feels the directions of hidden states, and which tokens it looks at.

    Args:
        root_HH: symmetric; |root @ e|^2 / 2 is the mean KL of small errors e.
        inverse_HH: its inverse.
        likely_V: int64, the tokens with most mass in the sample, ascending.
        tail_TH: mean of the vectors of the tokens that are not followed one by one, at each temperature.
        temperatures: at which KL * T^2 counts.
    """

    root_HH: Tensor
    inverse_HH: Tensor
    likely_V: Tensor
    tail_TH: Tensor
    temperatures: tuple[float, ...]


def metric_of(hidden_BH: Tensor, matrix_VH: Tensor, temperatures: tuple[float, ...]) -> Metric:
    """Return the mean Fisher information of hidden states in the teacher's own distributions at temperatures."""
    n_tokens, width = matrix_VH.shape
    mass_V, tail_TV = matrix_VH.new_zeros(n_tokens), matrix_VH.new_zeros(len(temperatures), n_tokens)
    mean_HH = matrix_VH.new_zeros(width, width)
    step = max(1, CHUNK // n_tokens)
    for start in range(0, len(hidden_BH), step):
        logits_BV = hidden_BH[start : start + step] @ matrix_VH.T
        for tail_V, T in zip(tail_TV, temperatures, strict=True):
            mass_BV = (logits_BV / T).softmax(dim=1)
            mean_BH = mass_BV @ matrix_VH
            mean_HH.addmm_(mean_BH.T, mean_BH)
            mass_V += mass_BV.sum(dim=0)
            followed_BS = mass_BV.topk(min(FOLLOWED, n_tokens), dim=1).indices
            tail_V += mass_BV.scatter_(1, followed_BS, 0.0).sum(dim=0)
    squares_HH = matrix_VH.new_zeros(width, width)
    for start in range(0, n_tokens, LIKELY):
        part_VH = matrix_VH[start : start + LIKELY]
        squares_HH.addmm_((part_VH * mass_V[start : start + LIKELY, None]).T, part_VH)
    # Of KL * T^2, which is what counts, this is the curvature at any temperature.
    fisher_HH = (squares_HH - mean_HH).double() / (len(hidden_BH) * len(temperatures))
    value_H, axes_HH = torch.linalg.eigh(fisher_HH)
    root_H = value_H.clamp_min(float(value_H.max()) * FLATTEST).clamp_min(1e-12).sqrt()
    likely_V = mass_V.topk(min(LIKELY, n_tokens)).indices.sort().values
    tail_TH = (tail_TV @ matrix_VH) / tail_TV.sum(dim=1, keepdim=True).clamp_min(1e-9)
    root_HH, inverse_HH = (((axes_HH * by_H) @ axes_HH.T).float() for by_H in (root_H, 1 / root_H))
    return Metric(root_HH, inverse_HH, likely_V, tail_TH, temperatures)


@dataclass(frozen=True)
class Fitted:
    """What a fit found.

    Args:
        transform: for the decoder.
        bits_R: of the levels of each axis, falling.
        analysis_HR: turns hidden states less their mean into coefficients.
        cost_RL: bits of levels, float32.
        metric: of the search.
    """

    transform: Transform
    bits_R: list[int]
    analysis_HR: Tensor
    cost_RL: Tensor
    metric: Metric


@dataclass(frozen=True)
class Plan:
    """What the fit is to reach; names are those of the settings.

    Args:
        rank: axes at most; 0 = as many as are worth it.
        bits: of a label after entropy coding.
        step: between levels; 0 = chosen for `bits`.
        rounds: of the search.
        temperatures: at which KL * T^2 counts.
        report: is told what is seen, `REPORTS` times at most.
    """

    rank: int
    bits: float
    step: float
    rounds: int
    temperatures: tuple[float, ...]
    report: Callable[[str], None]


def fit(hidden_BH: Tensor, matrix_VH: Tensor, plan: Plan) -> Fitted:
    """Return axes and levels for hidden states [B, H] of a teacher with this output matrix, float32."""
    metric = metric_of(
        hidden_BH[_evenly(len(hidden_BH), METRIC_ROWS, hidden_BH.device)], matrix_VH, plan.temperatures
    )
    mean_H = hidden_BH.mean(dim=0)
    felt_BH = (hidden_BH - mean_H) @ metric.root_HH
    _, axes_HR = torch.linalg.eigh((felt_BH.T @ felt_BH).double())
    axes_HR = axes_HR.flip(1)[:, : plan.rank or len(mean_H)].float()
    axes_RH, scale_R = rounded(axes_HR.T @ metric.inverse_HH)
    analysis_HR = metric.root_HH @ axes_HR
    coefficients_RB = (felt_BH @ axes_HR).T.contiguous()
    # Grids have levels of their own; those of the one that is kept fill in the last two.
    transform = Transform(mean_H, axes_RH, scale_R, torch.zeros_like(scale_R, dtype=torch.int32), 1.0)
    some = _evenly(len(hidden_BH), SEARCH_ROWS, hidden_BH.device)
    trial = _Trial(hidden_BH[some], matrix_VH, coefficients_RB[:, some], transform, metric)
    step = plan.step or _step_for(coefficients_RB, plan.bits)
    plan.report(f"{len(axes_RH)} axes")
    best_off = (True, math.inf)
    best = grid = Grid.of(coefficients_RB, step)
    best_RL = trial.counts(grid, 0)
    for n_tried in range(1, TRIALS + 1):
        counts_RL = trial.counts(grid, plan.rounds)
        grid = grid.priced(counts_RL)
        bits = grid.bits(counts_RL)
        plan.report(f"step {grid.step:.4g}, {bits:.1f} bits")
        off = (bits > plan.bits, abs(plan.bits - bits))
        if plan.step or off < best_off:  # of the same step the last, whose prices have settled
            best_off, best, best_RL = off, grid, counts_RL
        if n_tried >= SETTLED and (plan.step or CLOSE * plan.bits <= bits <= plan.bits):
            break
        if not plan.step:
            ratio = bits / (plan.bits * (1 + CLOSE) / 2)  # bits go with some -0.6th power of the step
            # Counts of other levels say what levels cost near 0, where nearly all are.
            grid = Grid.of(coefficients_RB, grid.step * min(max(ratio, 0.6), 1.6)).priced_as(grid)
    is_kept_R = best.entropy(best_RL) >= (0 if plan.rank else LEAST_BITS)
    return _packed(best, is_kept_R, transform, analysis_HR, metric)


@dataclass(frozen=True)
class Grid:
    """Levels of the axes: multiples of one step.

    Args:
        step: between levels.
        first_R: int64, the multiple that level 0 is.
        count_R: int64, levels of each axis.
        cost_RL: bits of levels; infinity of those that are not there.
    """

    step: float
    first_R: Tensor
    count_R: Tensor
    cost_RL: Tensor

    @classmethod
    def of(cls, coefficients_RB: Tensor, step: float) -> Grid:
        """Return levels that cover coefficients, priced by how often these fall on them."""
        step = max(step, _spread(coefficients_RB) * 2 / ((1 << MOST_WIDTH) - 4))
        low_R = (coefficients_RB.amin(dim=1) / step).round().long().clamp_max(-1)
        count_R = (coefficients_RB.amax(dim=1) / step).round().long().clamp_min(1) - low_R + 1
        grid = cls(step, low_R, count_R, coefficients_RB.new_zeros(len(low_R), int(count_R.max())))
        return grid.priced(grid.counted(grid.nearest(coefficients_RB)))

    def nearest(self, coefficients_RB: Tensor) -> Tensor:
        """Return the levels [R, B] of coefficients, rounded towards 0 a little."""
        return nearest(coefficients_RB, self.first_R, self.count_R, self.step)

    def counted(self, levels_RB: Tensor) -> Tensor:
        """Return how often each level came, [R, L]."""
        counts_RL = torch.zeros_like(self.cost_RL)
        return counts_RL.scatter_add_(1, levels_RB, torch.ones_like(levels_RB, dtype=counts_RL.dtype))

    def priced(self, counts_RL: Tensor) -> Grid:
        """Return the grid with the bits of levels that came so often."""
        inside_RL = torch.arange(counts_RL.shape[1], device=counts_RL.device) < self.count_R[:, None]
        weight_RL = (counts_RL + UNSEEN) * inside_RL
        share_RL = weight_RL / weight_RL.sum(dim=1, keepdim=True)
        return replace(self, cost_RL=share_RL.log2().neg())

    def priced_as(self, other: Grid) -> Grid:
        """Return the grid with what the same multiples cost in another; what is not there costs what the ends do."""
        number_RL = self.first_R[:, None] + torch.arange(self.cost_RL.shape[1], device=self.first_R.device)
        there_RL = number_RL - other.first_R[:, None]
        there_RL = torch.minimum(there_RL.clamp_min(0), other.count_R[:, None] - 1)
        share_RL = other.cost_RL.gather(1, there_RL).neg().exp2()
        share_RL = share_RL * (torch.arange(share_RL.shape[1], device=share_RL.device) < self.count_R[:, None])
        share_RL = share_RL / share_RL.sum(dim=1, keepdim=True)
        return replace(self, cost_RL=share_RL.log2().neg())

    def bits(self, counts_RL: Tensor) -> float:
        """Return the bits of a row whose levels come so often, under an ideal entropy code for just that."""
        return float(self.entropy(counts_RL).sum())

    def entropy(self, counts_RL: Tensor) -> Tensor:
        """Return the same of each axis [R]."""
        share_RL = counts_RL.double() / counts_RL.sum(dim=1, keepdim=True).clamp_min(1)
        nats_R: Tensor = torch.special.entr(share_RL).sum(dim=1)
        return nats_R / math.log(2)


def nearest(coefficients_RB: Tensor, first_R: Tensor, count_R: Tensor, step: float) -> Tensor:
    """Return levels int64 [R, B] of coefficients, rounded towards 0 a little."""
    steps_RB = coefficients_RB / step
    multiple_RB = steps_RB.sign() * (steps_RB.abs() + DEAD_ZONE).floor()
    levels_RB = multiple_RB.long() - first_R[:, None]
    return torch.minimum(levels_RB.clamp_min(0), count_R[:, None] - 1)


class _Trial:
    """Rows that are searched at one grid after another."""

    def __init__(
        self, hidden_BH: Tensor, matrix_VH: Tensor, wanted_RB: Tensor, transform: Transform, metric: Metric
    ) -> None:
        self._hidden_BH, self._wanted_RB, self._mean_H = hidden_BH, wanted_RB, transform.mean_H
        self._tokens = Tokens(
            matrix_VH, metric.likely_V, transform.synthesis, metric.tail_TH, metric.temperatures
        )

    @cached_property
    def _said(self) -> list[Said]:
        return list(self._tokens.said_of(self._hidden_BH))

    def counts(self, grid: Grid, rounds: int) -> Tensor:
        """Return how often each level is chosen, [R, L]."""
        levels_RB = grid.nearest(self._wanted_RB)
        if rounds:
            price = PRICE * grid.step**2
            space = Space(self._tokens, self._mean_H, grid.first_R, grid.step, grid.cost_RL, price)
            levels_RB = search(levels_RB, self._wanted_RB, self._said, space, rounds)
        return grid.counted(levels_RB)


def _step_for(coefficients_RB: Tensor, bits: float) -> float:
    """Return the step at which coefficients, merely rounded, have about so many bits."""
    some_RB = coefficients_RB[:, _evenly(coefficients_RB.shape[1], SEARCH_ROWS, coefficients_RB.device)]
    coarse = _spread(some_RB)
    fine = coarse / (1 << 10)
    for _ in range(12):
        step = (fine * coarse) ** 0.5
        grid = Grid.of(some_RB, step)
        more = grid.bits(grid.counted(grid.nearest(some_RB))) > bits
        fine, coarse = (step, coarse) if more else (fine, step)
    return coarse


def _spread(coefficients_RB: Tensor) -> float:
    return max(float(coefficients_RB.abs().amax()), LEAST_SPREAD)


def _packed(grid: Grid, is_kept_R: Tensor, transform: Transform, analysis_HR: Tensor, metric: Metric) -> Fitted:
    """Return what is stored: the axes that are kept, by the bits of their levels; the first at least."""
    is_kept_R[0] = True
    width_R = torch.frexp((grid.count_R - 1).double()).exponent.long()
    order_R = width_R.argsort(descending=True, stable=True)
    order_R = order_R[is_kept_R[order_R]]
    bits_R: list[int] = width_R[order_R].tolist()
    count_R = 2 ** width_R[order_R]
    first_R = grid.first_R[order_R] - (count_R - grid.count_R[order_R]) // 2
    no_cost_RL = grid.cost_RL.new_zeros(len(order_R), int(count_R.max()))
    moved = replace(grid, first_R=first_R, count_R=count_R, cost_RL=no_cost_RL)
    old = replace(
        grid, first_R=grid.first_R[order_R], count_R=grid.count_R[order_R], cost_RL=grid.cost_RL[order_R]
    )
    stored = replace(
        transform, axes_RH=transform.axes_RH[order_R].contiguous(), scale_R=transform.scale_R[order_R].contiguous(),
        first_R=first_R.to(torch.int32), step=grid.step,
    )  # fmt: skip
    return Fitted(stored, bits_R, analysis_HR[:, order_R].contiguous(), moved.priced_as(old).cost_RL, metric)


def _evenly(n_rows: int, most: int, device: torch.device) -> Tensor:
    """Return the numbers of at most `most` rows, evenly spread."""
    n_some = min(n_rows, most)
    return torch.arange(n_some, device=device) * n_rows // n_some

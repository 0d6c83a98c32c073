"""The levels of coefficients: what each stands for, and from where to where it is chosen.

An entropy-constrained scalar quantiser (Chou, Lookabaugh and Gray, "Entropy-constrained vector quantization",
1989) over an even grid: a level that is rare must be nearer to win, so that most coefficients are 0 and cost
next to nothing. Level q of axis r stands for (first[r] + q + shift[r, q]) * step.

Shapes: R axes, L levels of the axis that has most, B rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

PRICE = 0.12  # of a bit in squared steps: what it is worth where steps are small, 2 ln 2 / 12
MOST_BITS = 14.0  # that a level is taken to cost, however rare
SHIFTS = 128  # of a level from the grid, in a step; files hold them in 8 bits
ROUNDS = 6  # of bits, levels and thresholds for one another


@dataclass(frozen=True)
class Levels:
    """What the levels of some axes stand for.

    Args:
        step: between levels.
        first_R: int64, grid number of the first level.
        count_R: int64, levels of each axis; entries of the tables beyond them are never chosen.
        shift_RL: float32, from the grid to what a level stands for, in steps.
        threshold_RL: float32 [R, L - 1], rising; a level is chosen above that many of them.
    """

    step: float
    first_R: Tensor
    count_R: Tensor
    shift_RL: Tensor
    threshold_RL: Tensor

    def inside(self) -> Tensor:
        """Return which entries [R, L] of the tables are levels."""
        return torch.arange(self.shift_RL.shape[1], device=self.shift_RL.device) < self.count_R[:, None]

    def values(self) -> Tensor:
        """Return what each level stands for, float32 [R, L]."""
        codes_L = torch.arange(self.shift_RL.shape[1], device=self.shift_RL.device)
        return (self.first_R[:, None] + codes_L + self.shift_RL) * self.step

    def nearest(self, coefficients_RB: Tensor) -> Tensor:
        """Return the levels int64 [R, B] that cost least."""
        return torch.searchsorted(self.threshold_RL, coefficients_RB)

    def bits(self) -> Tensor:
        """Return the bits [R, L] for which the thresholds are right, 0 for the cheapest level of each axis."""
        value_RL = self.values()
        apart_RL = value_RL.diff(dim=1).clamp_min(self.step / 16)
        middle_RL = (value_RL[:, 1:] + value_RL[:, :-1]) / 2
        more_RL = (self.threshold_RL - middle_RL) * apart_RL / (PRICE / 2 * self.step**2)
        inside_RL = self.inside()
        more_RL = more_RL.masked_fill(~inside_RL[:, 1:], 0.0).clamp(-MOST_BITS, MOST_BITS)
        bits_RL = pad(more_RL.cumsum(dim=1), (1, 0)).masked_fill(~inside_RL, torch.inf)
        return bits_RL - bits_RL.amin(dim=1, keepdim=True)

    def priced(self, counts_RL: Tensor) -> Levels:
        """Return the levels with thresholds for how often each was chosen: error^2 + PRICE * step^2 * bits is least."""
        value_RL, bits_RL = self.values(), bits_of(counts_RL)
        apart_RL = value_RL.diff(dim=1).clamp_min(self.step / 16)
        middle_RL = (value_RL[:, 1:] + value_RL[:, :-1]) / 2
        threshold_RL = middle_RL + bits_RL.diff(dim=1) * (PRICE / 2 * self.step**2) / apart_RL
        threshold_RL = threshold_RL.masked_fill(~self.inside()[:, 1:], torch.inf)
        # Where thresholds would fall, the level between them is never the cheapest, and nothing is left for it.
        from_below_RL = threshold_RL.cummax(dim=1).values
        from_above_RL = threshold_RL.flip(1).cummin(dim=1).values.flip(1)
        return replace(self, threshold_RL=(from_below_RL + from_above_RL) / 2)


def even_levels(coefficients_RB: Tensor, step: float, most: int) -> Levels:
    """Return levels on the grid that cover the coefficients, at least -1, 0 and 1 and at most `most`."""
    low_R = (coefficients_RB.amin(dim=1) / step).floor().clamp(-(most // 2), -1).long()
    high_R = (coefficients_RB.amax(dim=1) / step).ceil().clamp(1, most - most // 2 - 1).long()
    count_R = high_R - low_R + 1
    shift_RL = torch.zeros(len(low_R), int(count_R.max()), device=low_R.device)
    return Levels(step, low_R, count_R, shift_RL, shift_RL[:, 1:]).priced(torch.zeros_like(shift_RL))


def bits_of(counts_RL: Tensor) -> Tensor:
    """Return what an ideal entropy code takes for each level, float32 [R, L], at most `MOST_BITS`."""
    shares_RL = counts_RL / counts_RL.sum(dim=1, keepdim=True).clamp_min(1)
    return shares_RL.clamp_min(2**-MOST_BITS).log2().neg()


def entropy_of(counts_RL: Tensor) -> Tensor:
    """Return the bits [R] that an ideal entropy code takes for a coefficient, by how often levels were chosen."""
    shares_RL = counts_RL.double() / counts_RL.sum(dim=1, keepdim=True).clamp_min(1)
    nats_R: Tensor = torch.special.entr(shares_RL).sum(dim=1)
    return nats_R / math.log(2)


def window(table_RL: Tensor, start_R: Tensor, n_columns: int) -> Tensor:
    """Return columns of each row from its start on, which may lie outside the table: there it has zeros."""
    column_RL = start_R[:, None] + torch.arange(n_columns, device=start_R.device)
    inside_RL = (column_RL >= 0) & (column_RL < table_RL.shape[1])
    return table_RL.gather(1, column_RL.clamp(0, table_RL.shape[1] - 1)) * inside_RL


def count(codes_RB: Tensor, n_levels: int) -> Tensor:
    """Return how often each level was chosen, int64 [R, n_levels]."""
    counts_RL = torch.zeros(len(codes_RB), n_levels, dtype=torch.int64, device=codes_RB.device)
    return counts_RL.scatter_add_(1, codes_RB, torch.ones_like(codes_RB))


class Sample:
    """Coefficients of a sample, sorted, so that any thresholds are tried without a look at the rows.

    Args:
        coefficients_RB: float32.
    """

    def __init__(self, coefficients_RB: Tensor) -> None:
        self.sorted_RB = coefficients_RB.sort(dim=1).values
        self.spread_R = coefficients_RB.square().mean(dim=1).sqrt()
        self.sums_RB = pad(self.sorted_RB.double().cumsum(dim=1), (1, 0))

    def cells(self, threshold_RL: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many coefficients lie between thresholds, and their sums, [R, L] each."""
        edges_RL = torch.searchsorted(self.sorted_RB, threshold_RL)
        edges_RL = pad(edges_RL, (1, 0))
        edges_RL = pad(edges_RL, (0, 1), value=self.sorted_RB.shape[1])
        return edges_RL.diff(dim=1), self.sums_RB.gather(1, edges_RL).diff(dim=1)

    def bits(self, step: float, most: int) -> float:
        """Return the bits of all coefficients of a row at a step."""
        return float(entropy_of(self.fit(step, most)[1]).sum())

    def fit(self, step: float, most: int) -> tuple[Levels, Tensor]:
        """Return levels of least squared error plus price of their bits, and the counts int64 [R, L] of each."""
        levels = even_levels(self.sorted_RB, step, most)
        for _ in range(ROUNDS):
            counts_RL, sums_RL = self.cells(levels.threshold_RL)
            grid_RL = replace(levels, shift_RL=torch.zeros_like(levels.shift_RL)).values()
            off_RL = (sums_RL / counts_RL.clamp_min(1) - grid_RL) / step * (counts_RL > 0)
            shift_RL = (off_RL * SHIFTS).round().clamp(1 - SHIFTS, SHIFTS - 1).float() / SHIFTS
            levels = replace(levels, shift_RL=shift_RL).priced(counts_RL)
        return levels, self.cells(levels.threshold_RL)[0]

"""Choose levels for the least KL(teacher || decoded) plus the price of their bits.

A row's likely tokens are followed one by one: which way each of some hundred coefficients is rounded is
free, and they are rounded so that the errors of these tokens' logits cancel. The decoder need not know which tokens
these are (Martinian, Wornell and Zamir, "Source coding with distortion side information", 2008: an encoder that alone
knows what matters loses next to nothing). All other tokens are one bucket, whose mass moves with the coefficients as
that of an average tail. Coefficient by coefficient, one step up or down is taken where it makes the sum less, so that
it only ever falls; then the likely tokens are looked up anew.

Shapes: B rows, H numbers of a hidden state, R axes, L levels, T temperatures, V tokens, U likely in any row, M in one,
A = U + M that are seen of a row, S followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

FOLLOWED = 128  # tokens of a row
OWN = 512  # of a row's likeliest tokens that are not among those likely in any row
# How the mass of the rest grows with squared coefficients, and how much more at T = 1, where a few tokens have most of
# it: without that there is a tenth more KL.
TAIL, TAIL_COLD = 1.5, 3.5
CHUNK = 1 << 24  # logits at a time
ROWS, VECTORS = 256, 1 << 27  # searched together at most, and numbers in the vectors of their own tokens
NEVER = math.inf  # bits of a level that is not there
LEAST_GAIN = 1e-5  # nats: less is rounding, and no reason to move
LEAST_LEFT = 1e-4  # mass of the bucket: less is a difference of rounded sums


@dataclass(frozen=True)
class Space:
    """What a search moves in.

    Args:
        matrix_VH: float32.
        likely_U: int64, the tokens with most mass in all rows together.
        mean_H: what all-zero coefficients decode to.
        synthesis_RH: what a coefficient adds.
        tail_TH: mean of the vectors of tokens beyond each row's likeliest, as they come, at each temperature.
        temperatures: at which KL * T^2 counts, averaged.
        first_R: what level 0 stands for, in steps.
        step: between levels.
        cost_RL: bits of levels.
        price: of a bit, in nats.
    """

    matrix_VH: Tensor
    likely_U: Tensor
    mean_H: Tensor
    synthesis_RH: Tensor
    tail_TH: Tensor
    temperatures: tuple[float, ...]
    first_R: Tensor
    step: float
    cost_RL: Tensor
    price: float

    @cached_property
    def T(self) -> Tensor:
        """The temperatures, [T, 1]."""
        return torch.tensor(self.temperatures, device=self.matrix_VH.device)[:, None]

    @cached_property
    def likely_UH(self) -> Tensor:
        """The vectors of the likely tokens."""
        return self.matrix_VH[self.likely_U]

    @cached_property
    def moves_UR(self) -> Tensor:
        """What a coefficient of 1 adds to the logits of the likely tokens."""
        return self.likely_UH @ self.synthesis_RH.T


@dataclass(frozen=True)
class Seen:
    """What is seen of some rows: U tokens that are likely in any row, and M more that are likely in each.

    Of the mass of all other tokens it is taken for granted that the decoder keeps it: at T=2 it is a sixth of all, but
    estimating how it moves made no difference.

    Args:
        teacher_TBA: log-probabilities of these A = U + M tokens at each temperature.
        own_BMH: vectors of each row's own.
        space: of the search.
    """

    teacher_TBA: Tensor
    own_BMH: Tensor
    space: Space

    @classmethod
    def of(cls, hidden_BH: Tensor, space: Space) -> Seen:
        """Return what is seen of the teacher's rows."""
        n_tokens, n_likely = len(space.matrix_VH), len(space.likely_U)
        parts = []
        for some_BH in torch.split(hidden_BH, max(1, CHUNK // n_tokens)):
            rows_BV = some_BH @ space.matrix_VH.T
            level_TB1 = torch.stack([(rows_BV / T).logsumexp(dim=1, keepdim=True) for T in space.temperatures])
            likely_BU = rows_BV[:, space.likely_U]
            own_BM = rows_BV.index_fill_(1, space.likely_U, -torch.inf).topk(
                min(OWN, n_tokens - n_likely), dim=1
            )
            seen_BA = torch.cat([likely_BU, own_BM.values], dim=1)
            parts.append((seen_BA / space.T[:, None] - level_TB1, own_BM.indices))
        teacher, ids = zip(*parts, strict=True)
        return cls(torch.cat(teacher, dim=1), space.matrix_VH[torch.cat(ids)], space)

    @cached_property
    def mass_TB(self) -> Tensor:
        """The logarithm of their mass."""
        return self.teacher_TBA.logsumexp(dim=2, keepdim=True)

    def decoded(self, hidden_BH: Tensor) -> Tensor:
        """Return the log-probabilities [T, B, A] of decoded hidden states."""
        likely_BU = hidden_BH @ self.space.likely_UH.T
        own_BM = (self.own_BMH @ hidden_BH[:, :, None])[:, :, 0]
        seen_BA = torch.cat([likely_BU, own_BM], dim=1)
        return (seen_BA / self.space.T[:, None]).log_softmax(dim=2).add_(self.mass_TB)

    def moves(self, which_BS: Tensor) -> Tensor:
        """Return what a coefficient of 1 adds to the logits of some of the tokens, [B, S, R]."""
        n_likely = len(self.space.likely_U)
        moves_BSR = self.space.moves_UR[which_BS.clamp_max(n_likely - 1)]
        row_N, place_N = (which_BS >= n_likely).nonzero(as_tuple=True)
        own_NH = self.own_BMH[row_N, which_BS[row_N, place_N] - n_likely]
        moves_BSR[row_N, place_N] = own_NH @ self.space.synthesis_RH.T
        return moves_BSR


def search(levels_RB: Tensor, hidden_BH: Tensor, wanted_RB: Tensor, space: Space, rounds: int) -> Tensor:
    """Return better levels int64 [R, B] than those given.

    Args:
        levels_RB: int64, to begin with.
        hidden_BH: the teacher's.
        wanted_RB: their coefficients.
        space: to search in.
        rounds: times that every coefficient is looked at.
    """
    n_rows, parts = max(1, min(ROWS, VECTORS // (OWN * hidden_BH.shape[1]))), []
    for start in range(0, len(hidden_BH), n_rows):
        rows = slice(start, start + n_rows)
        seen = Seen.of(hidden_BH[rows], space)
        parts.append(_searched(levels_RB[:, rows], seen, wanted_RB[:, rows], space, rounds))
    return torch.cat(parts, dim=1) if parts else levels_RB


def _searched(levels_RB: Tensor, seen: Seen, wanted_RB: Tensor, space: Space, rounds: int) -> Tensor:
    teacher_TBA = seen.teacher_TBA
    best_RB, best_B = levels_RB, torch.full_like(teacher_TBA[0, :, 0], torch.inf)
    bits_RL = torch.nn.functional.pad(space.cost_RL, (1, 1), value=NEVER)  # of level n at n + 1
    for turn in range(rounds + 1):
        coefficients_RB = (levels_RB + space.first_R[:, None]) * space.step
        decoded_TBA = seen.decoded(torch.addmm(space.mean_H, coefficients_RB.T, space.synthesis_RH))
        kl_TB = torch.einsum("tba,tba->tb", teacher_TBA.exp(), teacher_TBA - decoded_TBA)
        kl_B = (kl_TB * space.T.square()).mean(dim=0)
        sum_B = kl_B + space.price * bits_RL.gather(1, levels_RB + 1).sum(dim=0)
        best_RB = torch.where(sum_B < best_B, levels_RB, best_RB)
        best_B = torch.minimum(sum_B, best_B)
        if turn < rounds:
            # The tokens that are likeliest in either; nearly the same ones at all temperatures.
            n_followed = min(FOLLOWED, teacher_TBA.shape[2])
            which_BS = torch.maximum(teacher_TBA[0], decoded_TBA[0]).topk(n_followed, dim=1).indices
            which_TBS = which_BS.expand(len(teacher_TBA), -1, -1)
            teacher_TSB, decoded_TSB = (
                rows_TBA.gather(2, which_TBS).mT.contiguous() for rows_TBA in (teacher_TBA, decoded_TBA)
            )
            off_RB = coefficients_RB - wanted_RB
            levels_RB = _sweep(
                levels_RB, off_RB, teacher_TSB, decoded_TSB, seen.moves(which_BS), bits_RL, space
            )
    return best_RB


def _sweep(
    levels_RB: Tensor,
    off_RB: Tensor,
    teacher_TSB: Tensor,
    decoded_TSB: Tensor,
    moves_BSR: Tensor,
    bits_RL: Tensor,
    space: Space,
) -> Tensor:
    """Return levels after one look at every coefficient, those that vary least first.

    Of a row it minimises ln(sum of e^logit over tokens followed, and the bucket) - sum of the teacher's mass x logit
    + price x bits, which is KL but for a constant; where there are several temperatures, the mean of these x T^2.
    """
    step, price, T = space.step, space.price, space.T
    share_T1, growth_T1 = T.square() / len(T), (TAIL + TAIL_COLD / T.square()) / T.square()
    levels_RB, off_RB = levels_RB.clone(), off_RB.clone()
    # What a step up of each coefficient does to the logit of each token, [R, S, B], and to the bucket's.
    moves_RSB = moves_BSR.permute(2, 1, 0).contiguous().mul_(step)
    tail_RT = space.synthesis_RH @ space.tail_TH.T * step
    mass_TSB = teacher_TSB.exp()
    left_TB = (1 - mass_TSB.sum(dim=1)).clamp_min(LEAST_LEFT)
    pull_T1 = T / len(T)
    pull_SB = (mass_TSB * pull_T1[:, None]).sum(dim=0)
    gain_RB = torch.einsum("rsb,sb->rb", moves_RSB, pull_SB).addmm_(tail_RT, left_TB * pull_T1)
    factor_RTSB = _factors(moves_RSB, space.temperatures)  # what a step up multiplies the token's weight with
    weight_TSB = decoded_TSB.exp()
    sum_TB = weight_TSB.sum(dim=1)
    spread_B = off_RB.square().sum(dim=0) / 2
    # The bucket's weight so that it is what the decoded row has outside of the tokens followed.
    tail_TB = (1 - sum_TB).clamp_min(LEAST_LEFT).log() - spread_B * growth_T1
    move_RT1 = (tail_RT / T[:, 0])[:, :, None]

    def told(sum_TB: Tensor, tail_TB: Tensor, spread_B: Tensor) -> Tensor:
        return (torch.log(sum_TB + (tail_TB + spread_B * growth_T1).exp()) * share_T1).sum(dim=0)

    for axis in range(len(levels_RB) - 1, -1, -1):
        level_B, off_B, move_T1 = levels_RB[axis], off_RB[axis], move_RT1[axis]
        up_TSB, down_TSB = weight_TSB * factor_RTSB[axis], weight_TSB / factor_RTSB[axis]
        up_sum_TB, down_sum_TB = up_TSB.sum(dim=1), down_TSB.sum(dim=1)
        slope_B, bend = off_B * step, step * step / 2
        up_spread_B, down_spread_B = spread_B + slope_B + bend, spread_B - slope_B + bend
        bits_L, gain_B = bits_RL[axis], gain_RB[axis]
        stay_B = told(sum_TB, tail_TB, spread_B) + price * bits_L[level_B + 1] - LEAST_GAIN
        up_B = told(up_sum_TB, tail_TB + move_T1, up_spread_B) - gain_B + price * bits_L[level_B + 2]
        down_B = told(down_sum_TB, tail_TB - move_T1, down_spread_B) + gain_B + price * bits_L[level_B]
        goes_up_B = (up_B < stay_B) & (up_B <= down_B)
        goes_down_B = (down_B < stay_B) & ~goes_up_B
        weight_TSB = torch.where(goes_up_B, up_TSB, torch.where(goes_down_B, down_TSB, weight_TSB))
        sum_TB = torch.where(goes_up_B, up_sum_TB, torch.where(goes_down_B, down_sum_TB, sum_TB))
        spread_B = torch.where(goes_up_B, up_spread_B, torch.where(goes_down_B, down_spread_B, spread_B))
        by_B = goes_up_B.long() - goes_down_B.long()
        tail_TB += move_T1 * by_B
        off_B += step * by_B
        level_B += by_B
    return levels_RB


def _factors(moves_RSB: Tensor, temperatures: tuple[float, ...]) -> Tensor:
    """Return e^(moves / T), [R, T, S, B]; the moves are gone after that."""
    if len(temperatures) == 1:
        return moves_RSB.div_(temperatures[0]).exp_()[:, None]
    return torch.stack([(moves_RSB / T).exp_() for T in temperatures], dim=1)

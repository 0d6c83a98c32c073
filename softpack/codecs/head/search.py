"""Choose levels for the least KL(teacher || decoded) plus the price of their bits.

A row's likely tokens are followed one by one: which way each of some hundred coefficients is rounded is
free, and they are rounded so that the errors of these tokens' logits cancel. The decoder need not know which tokens
these are (Martinian, Wornell and Zamir, "Source coding with distortion side information", 2008: an encoder that alone
knows what matters loses next to nothing). All other tokens are one bucket, whose mass moves with the coefficients as
that of an average tail. Coefficient by coefficient, one step up or down is taken where it makes the sum less, so that
it only ever falls; then the likely tokens are looked up anew.

Shapes: B rows, H numbers of a hidden state, R axes, L levels, T temperatures, A tokens that are looked at (see
`tokens`), M of them of that row alone, S followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from softpack.codecs.head.tokens import Said, Tokens, over

FOLLOWED = 128  # tokens of a row
# How the mass of the rest grows with squared coefficients, and how much more at T = 1, where a few tokens have most of
# it: without that there is a tenth more KL.
TAIL, TAIL_COLD = 1.5, 3.5
NEVER = math.inf  # bits of a level that is not there
LEAST_GAIN = 1e-5  # nats: less is rounding, and no reason to move
LEAST_LEFT = 1e-4  # mass of the bucket: less is a difference of rounded sums


@dataclass(frozen=True)
class Space:
    """What a search moves in.

    Args:
        tokens: that it looks at.
        mean_H: what all-zero coefficients decode to.
        first_R: what level 0 stands for, in steps.
        step: between levels.
        cost_RL: bits of levels.
        price: of a bit, in nats.
    """

    tokens: Tokens
    mean_H: Tensor
    first_R: Tensor
    step: float
    cost_RL: Tensor
    price: float


class _Seen:
    """What is compared of some rows: said by the teacher, and by what they decode to."""

    def __init__(self, said: Said, tokens: Tokens) -> None:
        self.teacher_TBA, self._tokens = said.log_probs_TBA, tokens
        self._own_BMH = tokens.matrix_VH[said.own_BM]
        self._mass_TB1 = self.teacher_TBA.logsumexp(dim=2, keepdim=True)  # its logarithm
        self._probs_TBA = self.teacher_TBA.exp()
        self._least_TB = (self._probs_TBA * self.teacher_TBA).sum(dim=2)

    def kl(self, decoded_TBA: Tensor) -> Tensor:
        """Return KL(teacher || decoded) [T, B]."""
        return self._least_TB - (self._probs_TBA * decoded_TBA).sum(dim=2)

    def decoded(self, hidden_BH: Tensor) -> Tensor:
        """Return the log-probabilities [T, B, A] of decoded hidden states."""
        likely_BU = hidden_BH @ self._tokens.likely_UH.T
        own_BM = torch.bmm(hidden_BH[:, None], self._own_BMH.mT)[:, 0]
        seen_BA = torch.cat([likely_BU, own_BM], dim=1)
        seen_TBA = torch.stack([over(seen_BA, T) for T in self._tokens.temperatures])
        return seen_TBA.log_softmax(dim=2).add_(self._mass_TB1)

    def moves(self, which_BS: Tensor) -> Tensor:
        """Return what a coefficient of 1 adds to the logits of some of the tokens, [R, S, B]."""
        n_likely, which_SB = len(self._tokens.likely_U), which_BS.T
        moves_RN = self._tokens.moves_RU.index_select(1, which_SB.clamp_max(n_likely - 1).flatten())
        moves_RSB = moves_RN.view(-1, *which_SB.shape)
        place_N, row_N = (which_SB >= n_likely).nonzero(as_tuple=True)
        own_NH = self._own_BMH[row_N, which_SB[place_N, row_N] - n_likely]
        moves_RSB[:, place_N, row_N] = self._tokens.synthesis_RH @ own_NH.T
        return moves_RSB


def search(levels_RB: Tensor, wanted_RB: Tensor, said: Iterable[Said], space: Space, rounds: int) -> Tensor:
    """Return better levels int64 [R, B] than those given.

    Args:
        levels_RB: int64, to begin with.
        wanted_RB: the teacher's coefficients.
        said: by the teacher of all rows, those that are searched together in each, as `Tokens.said_of` gives it.
        space: to search in.
        rounds: times that every coefficient is looked at.
    """
    parts, start = [], 0
    for some in said:
        rows = slice(start, start + len(some))
        seen = _Seen(some, space.tokens)
        parts.append(_searched(levels_RB[:, rows], seen, wanted_RB[:, rows], space, rounds))
        start += len(some)
    return torch.cat(parts, dim=1) if parts else levels_RB


def _searched(levels_RB: Tensor, seen: _Seen, wanted_RB: Tensor, space: Space, rounds: int) -> Tensor:
    teacher_TBA, tokens = seen.teacher_TBA, space.tokens
    best_RB, best_B = levels_RB, torch.full_like(teacher_TBA[0, :, 0], torch.inf)
    bits_RL = torch.nn.functional.pad(space.cost_RL, (1, 1), value=NEVER)  # of level n at n + 1
    for turn in range(rounds + 1):
        coefficients_RB = (levels_RB + space.first_R[:, None]) * space.step
        decoded_TBA = seen.decoded(torch.addmm(space.mean_H, coefficients_RB.T, tokens.synthesis_RH))
        kl_B = (seen.kl(decoded_TBA) * tokens.T.square()).mean(dim=0)
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
    moves_RSB: Tensor,
    bits_RL: Tensor,
    space: Space,
) -> Tensor:
    """Return levels after one look at every coefficient, those that vary least first.

    Of a row it minimises ln(sum of e^logit over tokens followed, and the bucket) - sum of the teacher's mass x logit
    + price x bits, which is KL but for a constant; where there are several temperatures, the mean of these x T^2.
    """
    step, price, tokens = space.step, space.price, space.tokens
    T = tokens.T
    share_T1, growth_T1 = T.square() / len(T), (TAIL + TAIL_COLD / T.square()) / T.square()
    levels_RB, off_RB = levels_RB.clone(), off_RB.clone()
    # What a step up of each coefficient does to the logit of each token, [R, S, B], and to the bucket's.
    moves_RSB.mul_(step)
    tail_RT = tokens.synthesis_RH @ tokens.tail_TH.T * step
    mass_TSB = teacher_TSB.exp()
    left_TB = (1 - mass_TSB.sum(dim=1)).clamp_min(LEAST_LEFT)
    pull_T1 = T / len(T)
    pull_SB = (mass_TSB * pull_T1[:, None]).sum(dim=0)
    gain_RB = torch.einsum("rsb,sb->rb", moves_RSB, pull_SB).addmm_(tail_RT, left_TB * pull_T1)
    factor_RTSB = _factors(moves_RSB, tokens.temperatures)  # what a step up multiplies the token's weight with
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

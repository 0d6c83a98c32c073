"""Choose levels for the least KL(teacher || decoded) plus the price of their bits.

A row's likely tokens are followed one by one: which way each of some hundred coefficients is rounded is
free, and they are rounded so that the errors of these tokens' logits cancel. The decoder need not know which tokens
these are (Martinian, Wornell and Zamir, "Source coding with distortion side information", 2008: an encoder that alone
knows what matters loses next to nothing). All other tokens are one bucket, whose mass moves with the coefficients as
that of an average tail. Coefficient by coefficient, one step up or down is taken where it makes the sum less, so that
it only ever falls; then the likely tokens are looked up anew.

Shapes: B rows, H numbers of a hidden state, R axes, L levels, V tokens, U likely in any row, M in one, A = U + M that
are seen of a row, S followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

FOLLOWED = 128  # tokens of a row
OWN = 512  # of a row's likeliest tokens that are not among those likely in any row
TAIL = 1.5  # squared spread of an average tail's logits for a coefficient of 1
CHUNK = 1 << 24  # logits at a time
ROWS = 256  # searched together
NEVER = math.inf  # bits of a level that is not there
LEAST_GAIN = 1e-5  # nats: less is rounding, and no reason to move


@dataclass(frozen=True)
class Space:
    """What a search moves in.

    Args:
        matrix_VH: float32.
        likely_U: int64, the tokens with most mass in all rows together.
        mean_H: what all-zero coefficients decode to.
        synthesis_RH: what a coefficient adds.
        tail_H: mean of the vectors of tokens that are not likely, as they come.
        first_R: what level 0 stands for, in steps.
        step: between levels.
        cost_RL: bits of levels.
        price: of a bit, in nats.
    """

    matrix_VH: Tensor
    likely_U: Tensor
    mean_H: Tensor
    synthesis_RH: Tensor
    tail_H: Tensor
    first_R: Tensor
    step: float
    cost_RL: Tensor
    price: float

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

    Of the mass of all other tokens it is taken for granted that the decoder keeps it.

    Args:
        teacher_BA: log-probabilities of these A = U + M tokens.
        own_BMH: vectors of each row's own.
        space: of the search.
    """

    teacher_BA: Tensor
    own_BMH: Tensor
    space: Space

    @classmethod
    def of(cls, hidden_BH: Tensor, space: Space) -> Seen:
        """Return what is seen of the teacher's rows."""
        n_tokens, n_likely = len(space.matrix_VH), len(space.likely_U)
        parts = []
        for some_BH in torch.split(hidden_BH, max(1, CHUNK // n_tokens)):
            rows_BV = some_BH @ space.matrix_VH.T
            rows_BV -= rows_BV.logsumexp(dim=1, keepdim=True)
            likely_BU = rows_BV[:, space.likely_U]
            own_BM = rows_BV.index_fill_(1, space.likely_U, -torch.inf).topk(
                min(OWN, n_tokens - n_likely), dim=1
            )
            parts.append((torch.cat([likely_BU, own_BM.values], dim=1), own_BM.indices))
        teacher_BA, ids_BM = (torch.cat(part) for part in zip(*parts, strict=True))
        return cls(teacher_BA, space.matrix_VH[ids_BM], space)

    @cached_property
    def mass_B(self) -> Tensor:
        """The logarithm of their mass."""
        return self.teacher_BA.logsumexp(dim=1, keepdim=True)

    def decoded(self, hidden_BH: Tensor) -> Tensor:
        """Return the log-probabilities [B, A] of decoded hidden states."""
        likely_BU = hidden_BH @ self.space.likely_UH.T
        own_BM = (self.own_BMH @ hidden_BH[:, :, None])[:, :, 0]
        return torch.cat([likely_BU, own_BM], dim=1).log_softmax(dim=1).add_(self.mass_B)

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
    parts = []
    for start in range(0, len(hidden_BH), ROWS):
        rows = slice(start, start + ROWS)
        seen = Seen.of(hidden_BH[rows], space)
        parts.append(_searched(levels_RB[:, rows], seen, wanted_RB[:, rows], space, rounds))
    return torch.cat(parts, dim=1)


def _searched(levels_RB: Tensor, seen: Seen, wanted_RB: Tensor, space: Space, rounds: int) -> Tensor:
    teacher_BA = seen.teacher_BA
    best_RB, best_B = levels_RB, torch.full_like(teacher_BA[:, 0], torch.inf)
    bits_RL = torch.nn.functional.pad(space.cost_RL, (1, 1), value=NEVER)  # of level n at n + 1
    for turn in range(rounds + 1):
        coefficients_RB = (levels_RB + space.first_R[:, None]) * space.step
        decoded_BA = seen.decoded(torch.addmm(space.mean_H, coefficients_RB.T, space.synthesis_RH))
        kl_B = torch.einsum("ba,ba->b", teacher_BA.exp(), teacher_BA - decoded_BA)
        sum_B = kl_B + space.price * bits_RL.gather(1, levels_RB + 1).sum(dim=0)
        best_RB = torch.where(sum_B < best_B, levels_RB, best_RB)
        best_B = torch.minimum(sum_B, best_B)
        if turn < rounds:
            # The tokens that are likeliest in either.
            n_followed = min(FOLLOWED, teacher_BA.shape[1])
            which_BS = torch.maximum(teacher_BA, decoded_BA).topk(n_followed, dim=1).indices
            teacher_SB, decoded_SB = (
                rows_BA.gather(1, which_BS).T.contiguous() for rows_BA in (teacher_BA, decoded_BA)
            )
            off_RB = coefficients_RB - wanted_RB
            levels_RB = _sweep(levels_RB, off_RB, teacher_SB, decoded_SB, seen.moves(which_BS), bits_RL, space)
    return best_RB


def _sweep(
    levels_RB: Tensor,
    off_RB: Tensor,
    teacher_SB: Tensor,
    decoded_SB: Tensor,
    moves_BSR: Tensor,
    bits_RL: Tensor,
    space: Space,
) -> Tensor:
    """Return levels after one look at every coefficient, those that vary least first.

    Of a row it minimises ln(sum of e^logit over tokens followed, and the bucket) - sum of the teacher's mass x logit
    + price x bits, which is KL but for a constant.
    """
    step, price = space.step, space.price
    levels_RB, off_RB = levels_RB.clone(), off_RB.clone()
    # What a step up of each coefficient does to the logit of each token, [R, S, B].
    moves_RSB = moves_BSR.permute(2, 1, 0).contiguous().mul_(step)
    mass_SB = teacher_SB.exp()
    left_B = (1 - mass_SB.sum(dim=0)).clamp_min(1e-9)
    tail_R = space.synthesis_RH @ space.tail_H * step
    gain_RB = torch.einsum("rsb,sb->rb", moves_RSB, mass_SB).addcmul_(tail_R[:, None], left_B)
    factor_RSB = moves_RSB.exp_()  # e^ of it: what a step up multiplies the token's weight with
    weight_SB = decoded_SB.exp()
    sum_B = weight_SB.sum(dim=0)
    spread_B = off_RB.square().sum(dim=0).mul_(TAIL / 2)
    # The bucket's weight so that it is what the decoded row has outside of the tokens followed.
    tail_B = (1 - sum_B).clamp_min(1e-9).log() - spread_B
    tail = tail_R.tolist()
    for axis in range(len(levels_RB) - 1, -1, -1):
        level_B, off_B, factor_SB, move = levels_RB[axis], off_RB[axis], factor_RSB[axis], tail[axis]
        up_SB, down_SB = weight_SB * factor_SB, weight_SB / factor_SB
        up_sum_B, down_sum_B = up_SB.sum(dim=0), down_SB.sum(dim=0)
        slope_B, bend = off_B * (TAIL * step), TAIL / 2 * step * step
        up_spread_B, down_spread_B = spread_B + slope_B + bend, spread_B - slope_B + bend
        bits_L = bits_RL[axis]
        stay_B = torch.log(sum_B + (tail_B + spread_B).exp()) + price * bits_L[level_B + 1] - LEAST_GAIN
        up_B = (
            torch.log(up_sum_B + (tail_B + up_spread_B + move).exp())
            - gain_RB[axis]
            + price * bits_L[level_B + 2]
        )
        down_B = (
            torch.log(down_sum_B + (tail_B + down_spread_B - move).exp())
            + gain_RB[axis]
            + price * bits_L[level_B]
        )
        goes_up_B = (up_B < stay_B) & (up_B <= down_B)
        goes_down_B = (down_B < stay_B) & ~goes_up_B
        weight_SB = torch.where(goes_up_B, up_SB, torch.where(goes_down_B, down_SB, weight_SB))
        sum_B = torch.where(goes_up_B, up_sum_B, torch.where(goes_down_B, down_sum_B, sum_B))
        spread_B = torch.where(goes_up_B, up_spread_B, torch.where(goes_down_B, down_spread_B, spread_B))
        by_B = goes_up_B.long() - goes_down_B.long()
        tail_B += move * by_B
        off_B += step * by_B
        level_B += by_B
    return levels_RB

"""Choose levels for the least KL(teacher || decoded) plus the price of their bits.

A row's few hundred likely tokens are followed one by one: which way each of some hundred coefficients is rounded is
free, and they are rounded so that the errors of these tokens' logits cancel. The decoder need not know which tokens
these are (Martinian, Wornell and Zamir, "Source coding with distortion side information", 2008: an encoder that alone
knows what matters loses next to nothing). All other tokens are one bucket, whose mass moves with the coefficients as
that of an average tail. Coefficient by coefficient, one step up or down is taken where it makes the sum less, so that
it only ever falls; then the likely tokens are looked up anew.

Shapes: B rows, H numbers of a hidden state, R axes, L levels, V tokens, S tokens followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

FOLLOWED = 128  # tokens of a row
TAIL = 1.5  # squared spread of an average tail's logits for a coefficient of 1
OUTSIDE = 0.01  # of a row's mass: where more lies outside the likely tokens, all tokens are looked at
CHUNK = 1 << 24  # logits at a time
ROWS = 256  # searched together
NEVER = math.inf  # bits of a level that is not there
LEAST_GAIN = 1e-5  # nats: less is rounding, and no reason to move


@dataclass(frozen=True)
class Tokens:
    """Tokens among which rows are searched.

    Args:
        matrix_UH: float32, their vectors.
        moves_UR: what a coefficient of 1 adds to their logits; None where it is computed for those followed alone.
    """

    matrix_UH: Tensor
    moves_UR: Tensor | None = None


@dataclass(frozen=True)
class Space:
    """What a search moves in.

    Args:
        matrix_VH: float32.
        likely_V: int64, the tokens that rows may make likely; all that are looked at for most rows.
        mean_H: what all-zero coefficients decode to.
        synthesis_RH: what a coefficient adds.
        tail_H: mean of the vectors of tokens that are not likely, as they come.
        first_R: what level 0 stands for, in steps.
        step: between levels.
        cost_RL: bits of levels.
        price: of a bit, in nats.
    """

    matrix_VH: Tensor
    likely_V: Tensor
    mean_H: Tensor
    synthesis_RH: Tensor
    tail_H: Tensor
    first_R: Tensor
    step: float
    cost_RL: Tensor
    price: float

    @cached_property
    def likely(self) -> Tokens:
        """The likely tokens."""
        matrix_UH = self.matrix_VH[self.likely_V]
        return Tokens(matrix_UH, matrix_UH @ self.synthesis_RH.T)

    @property
    def all(self) -> Tokens:
        """All tokens."""
        return Tokens(self.matrix_VH)


def search(levels_RB: Tensor, hidden_BH: Tensor, wanted_RB: Tensor, space: Space, rounds: int) -> Tensor:
    """Return better levels int64 [R, B] than those given.

    Args:
        levels_RB: int64, to begin with.
        hidden_BH: the teacher's.
        wanted_RB: their coefficients.
        space: to search in.
        rounds: times that every coefficient is looked at.
    """
    out_RB = levels_RB.clone()

    def look(rows: Tensor, teacher_BU: Tensor, tokens: Tokens) -> None:
        out_RB[:, rows] = _searched(levels_RB[:, rows], teacher_BU, wanted_RB[:, rows], tokens, space, rounds)

    n_whole = max(1, CHUNK // len(space.matrix_VH))  # rows whose logits are all held
    for start in range(0, len(hidden_BH), ROWS):
        teacher_BU, outside_B = _teacher(hidden_BH[start : start + ROWS], space, n_whole)
        inside, outside = (start + is_B.nonzero()[:, 0] for is_B in (~outside_B, outside_B))
        if len(inside):
            look(inside, teacher_BU[inside - start], space.likely)
        for rows in torch.split(outside, n_whole) if len(outside) else ():
            look(rows, (hidden_BH[rows] @ space.matrix_VH.T).log_softmax(dim=1), space.all)
    return out_RB


def _teacher(hidden_BH: Tensor, space: Space, n_rows: int) -> tuple[Tensor, Tensor]:
    """Return log-probabilities among the likely tokens [B, U], and which rows have mass outside of them, bool [B].

    Args:
        hidden_BH: the teacher's.
        space: of the search.
        n_rows: whose logits of all tokens are made at a time.
    """
    parts = []
    for some_BH in torch.split(hidden_BH, n_rows):
        logits_BV = some_BH @ space.matrix_VH.T
        logits_BU = logits_BV[:, space.likely_V]
        inside_B = logits_BU.logsumexp(dim=1) - logits_BV.logsumexp(dim=1)
        parts.append((logits_BU.log_softmax(dim=1), inside_B < math.log1p(-OUTSIDE)))
    teacher_BU, outside_B = (torch.cat(part) for part in zip(*parts, strict=True))
    return teacher_BU, outside_B


def _searched(
    levels_RB: Tensor, teacher_BU: Tensor, wanted_RB: Tensor, tokens: Tokens, space: Space, rounds: int
) -> Tensor:
    best_RB, best_B = levels_RB, torch.full_like(teacher_BU[:, 0], torch.inf)
    bits_RL = torch.nn.functional.pad(space.cost_RL, (1, 1), value=NEVER)  # of level n at n + 1
    for turn in range(rounds + 1):
        coefficients_RB = (levels_RB + space.first_R[:, None]) * space.step
        decoded_BH = torch.addmm(space.mean_H, coefficients_RB.T, space.synthesis_RH)
        decoded_BU = (decoded_BH @ tokens.matrix_UH.T).log_softmax(dim=1)
        kl_B = torch.einsum("bu,bu->b", teacher_BU.exp(), teacher_BU - decoded_BU)
        sum_B = kl_B + space.price * bits_RL.gather(1, levels_RB + 1).sum(dim=0)
        best_RB = torch.where(sum_B < best_B, levels_RB, best_RB)
        best_B = torch.minimum(sum_B, best_B)
        if turn < rounds:
            # The tokens that are likeliest in either.
            n_followed = min(FOLLOWED, teacher_BU.shape[1])
            ids_BS = torch.maximum(teacher_BU, decoded_BU).topk(n_followed, dim=1).indices
            teacher_SB, decoded_SB = (
                rows_BU.gather(1, ids_BS).T.contiguous() for rows_BU in (teacher_BU, decoded_BU)
            )
            if tokens.moves_UR is None:
                moves_BSR = tokens.matrix_UH[ids_BS] @ space.synthesis_RH.T
            else:
                moves_BSR = tokens.moves_UR[ids_BS]
            off_RB = coefficients_RB - wanted_RB
            levels_RB = _sweep(levels_RB, off_RB, teacher_SB, decoded_SB, moves_BSR, bits_RL, space)
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

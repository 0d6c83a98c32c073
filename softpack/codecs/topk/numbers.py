"""Log-probabilities in steps above the least of their row, and masses of tails as log-odds in fixed point.

Both are relative, so that what is decoded sums to one whatever was rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEFAULT_STEP = 0.25  # nats: costs about 0.001 in KL
NONE = 255  # in place of steps: a probability of zero
MOST_STEPS = 254
ODDS_PER_NAT = 1024
NO_ODDS = 0  # the tail has nothing
EVEN_ODDS = 1 << 15


def to_steps(log_probs_Bk: Tensor, step: float) -> Tensor:
    """Return how many steps each class lies above the least that was kept: uint8 [B, k].

    Numbers stay in their order, and the first, the likeliest, lies above all others even where they round alike: at
    most half a step of error for the others, and one and a half for it. What lies further below the likeliest than 253
    steps is raised to that.

    Args:
        log_probs_Bk: in descending order; -inf becomes `NONE`.
        step: in nats.
    """
    has_none_Bk = log_probs_Bk == -torch.inf
    most_B1 = log_probs_Bk[:, :1]
    least_B1 = log_probs_Bk.masked_fill(has_none_Bk, torch.inf).amin(dim=1, keepdim=True)
    least_B1 = torch.maximum(least_B1, most_B1 - (MOST_STEPS - 1) * step)
    steps_Bk = ((log_probs_Bk - least_B1) / step).round().clamp(0, MOST_STEPS - 1)
    if steps_Bk.shape[1] > 1:
        is_tied_B = (steps_Bk[:, 0] == steps_Bk[:, 1]) & ~has_none_Bk[:, 1]
        steps_Bk[:, 0] += is_tied_B
    return steps_Bk.masked_fill(has_none_Bk, NONE).to(torch.uint8)


def from_steps(codes_Bk: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Return how far log-probabilities lie above the likeliest of their row, and that above the least that was kept.

    The first is float32 [B, k], at most 0, -inf for `NONE`; the second [B], -inf in a row of `NONE` alone, whose others
    are nan.
    """
    steps_Bk = codes_Bk.float()
    if codes_Bk.numel() and int(codes_Bk.max()) == NONE:
        steps_Bk.masked_fill_(codes_Bk == NONE, -torch.inf)
    most_B = steps_Bk.amax(dim=1)
    return steps_Bk.sub_(most_B[:, None]).mul_(step), most_B * step


def to_odds(log_odds: Tensor) -> Tensor:
    """Return codes of 16 bits, within 1/2048 nat from -31.99 to 31.99, and the nearest beyond; 0 for -inf."""
    codes = (log_odds * ODDS_PER_NAT + EVEN_ODDS).round().clamp(1, (1 << 16) - 1)
    return torch.where(log_odds == -torch.inf, NO_ODDS, codes.nan_to_num()).to(torch.int32).to(torch.int16)


def from_odds(codes: Tensor) -> Tensor:
    """Return the log-odds, float32, of int64 codes."""
    log_odds = (codes.float() - EVEN_ODDS) / ODDS_PER_NAT
    return log_odds.masked_fill(codes == NO_ODDS, -torch.inf)


def as_int32(codes: Tensor, bits: int) -> Tensor:
    """Return codes of less than 32 bits as int32 numbers: half the memory of `code_values`."""
    return codes.int() & ((1 << bits) - 1) if codes.dtype == torch.int16 else codes.int()

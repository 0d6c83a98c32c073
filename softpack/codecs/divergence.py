"""How far one row is from another: KL(teacher || decoded) at a temperature, in float64.

Shapes: B rows, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_softmax_at(logits_BC: Tensor, temperature: float) -> Tensor:
    """Return log(softmax(logits / T)) of rows, float64 [B, C]; nan in rows that are no distribution."""
    return (logits_BC.double() / temperature).log_softmax(1)


def kl_of_rows(log_p_BC: Tensor, log_q_BC: Tensor) -> Tensor:
    """Return KL(p || q) of each row [B], in nats; 0 * log 0 is 0, and what rounding takes below 0 is 0."""
    p_BC = log_p_BC.exp()
    terms_BC = torch.where(p_BC > 0, p_BC * (log_p_BC - log_q_BC), 0.0)
    return terms_BC.sum(1).clamp_min(0.0)

"""Floating-point numbers as codes: their bit patterns, in fp32, fp16 or bf16."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def float_bits(kind: str) -> int:
    """Return the bits that one number of this kind takes."""
    return 32 if kind == "fp32" else 16


def to_float_codes(values: Tensor, kind: str) -> Tensor:
    """Return the bit patterns of the nearest numbers of this kind, in memory of their own.

    What is too large for the kind becomes inf; `overflows` says whether that happens.
    """
    patterns = torch.int32 if kind == "fp32" else torch.int16
    return values.to(FLOATS[kind], copy=True).contiguous().view(patterns)


def from_float_codes(codes: Tensor, kind: str) -> Tensor:
    """Return the numbers of these bit patterns as float32, in memory of their own."""
    return codes.contiguous().view(FLOATS[kind]).to(torch.float32, copy=True)


def overflows(values: Tensor, kind: str) -> bool:
    """Return whether a finite value is too large for this kind."""
    most = torch.finfo(FLOATS[kind]).max
    if not values.numel() or all(-most <= end <= most for end in map(float, values.aminmax())):
        return False
    return bool((torch.isinf(values.to(FLOATS[kind])) & torch.isfinite(values)).any())

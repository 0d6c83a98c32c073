"""Curves over ranks: weighted sums of a few terms, fitted by least squares.

Shapes in names: B rows, N ranks, T terms.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from softpack.errors import CodecError

MOST_POWER = 16
LEAST_SINGULAR = 1e-5  # singular values up to it count as 0, as DistillKit has it
SOLVED_IN = {"fp32": torch.float32, "fp64": torch.float64}


def terms_of(codec_id: str, text: Any, n: int) -> tuple[str, ...]:
    """Return the terms that a setting such as "0,1,2,sqrt" names, for curves over `n` ranks, or refuse it.

    Raises:
        CodecError: a term is unknown, given twice, or too large for float32 at the last rank.
    """
    terms = tuple(str(text).split(","))
    known = {"sqrt", "exp", *map(str, range(MOST_POWER + 1))}
    if not {*terms} <= known or len({*terms}) < len(terms):
        raise CodecError(
            f"{codec_id}: terms is {text!r}; expected different powers from 0 to {MOST_POWER}, sqrt and exp with "
            'commas between, such as "0,1,2,sqrt"'
        )
    last = max(n - 1, 1)
    for term in terms:
        size = last if term == "exp" else int(term) * math.log(last) if term != "sqrt" else 0
        if size > math.log(torch.finfo(torch.float32).max):
            raise CodecError(
                f"{codec_id}: the term {term} is beyond float32 at rank {last} of the curve; leave it out, or make k - "
                "exact_k smaller"
            )
    return terms


def values_of(terms: tuple[str, ...], n: int, dtype: torch.dtype) -> Tensor:
    """Return the terms at ranks 0 to n - 1: [N, T]."""
    rank_N = torch.arange(n, dtype=dtype)
    special = {"sqrt": rank_N.sqrt(), "exp": rank_N.exp()}
    return torch.stack([special[term] if term in special else rank_N ** int(term) for term in terms], dim=1)


def fit_curve(values_BN: Tensor, terms: tuple[str, ...], solved_in: str) -> Tensor:
    """Return the coefficients [B, T] of least squared error, float32, by a pseudo-inverse.

    In fp32 the powers of large ranks are too unlike for a right answer: the matrix has a condition of 10**9. The one
    that comes out is then what DistillKit's would be with this library of linear algebra, and another with another.
    """
    terms_NT = values_of(terms, values_BN.shape[1], SOLVED_IN[solved_in])
    left_NS, size_S, right_ST = torch.linalg.svd(terms_NT, full_matrices=False)
    per_size_S = torch.where(size_S > LEAST_SINGULAR, 1 / size_S, 0)
    left_NS, per_size_S, right_ST = (part.to(values_BN.device) for part in (left_NS, per_size_S, right_ST))
    return ((values_BN.to(left_NS.dtype) @ left_NS) * per_size_S @ right_ST).float()


def curve(coefficients_BT: Tensor, terms: tuple[str, ...], n: int) -> Tensor:
    """Return the curves at ranks 0 to n - 1: float32 [B, N], the same everywhere: sums in one order, in binary64."""
    terms_TN = values_of(terms, n, torch.float32).to(coefficients_BT.device).double().t()
    curve_BN = torch.zeros(len(coefficients_BT), n, dtype=torch.float64, device=coefficients_BT.device)
    for coefficient_B, term_N in zip(coefficients_BT.double().t(), terms_TN, strict=True):
        curve_BN += coefficient_B[:, None] * term_N
    return curve_BN.float()

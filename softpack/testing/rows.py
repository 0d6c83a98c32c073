"""Random rows that look like a classifier's."""

from __future__ import annotations

import torch
from torch import Tensor

from softpack.codecs.spaces import convert
from softpack.records import LabelSpec

N_FACTORS = 24  # directions in which logits vary together, as similar classes make them
SPREAD = 2.0  # standard deviation of a logit, about that of an ImageNet classifier
NOISE = 0.6  # share of it that is a class's own


def random_rows(spec: LabelSpec, n_rows: int, seed: int = 0) -> Tensor:
    """Return float32 rows [n_rows, C] in the space of `spec`, the same for the same seed.

    The logits are those of a classifier at T=1: decaying common factors, noise, and one class in front.
    """
    generator = torch.Generator().manual_seed(seed)
    n_factors = min(N_FACTORS, spec.classes)
    strengths_F = torch.arange(1, n_factors + 1).pow(-0.5)
    strengths_F *= SPREAD / strengths_F.norm()
    factors_FC = torch.randn(n_factors, spec.classes, generator=generator) * strengths_F[:, None]
    rows_BC = torch.randn(n_rows, n_factors, generator=generator) @ factors_FC
    rows_BC += NOISE * torch.randn(n_rows, spec.classes, generator=generator)
    winners_B1 = torch.randint(spec.classes, (n_rows, 1), generator=generator)
    margins_B1 = 12 * torch.rand(n_rows, 1, generator=generator)
    rows_BC.scatter_add_(1, winners_B1, margins_B1)
    return convert(rows_BC, LabelSpec(spec.classes), spec)

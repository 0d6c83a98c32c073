"""The axes along which rows vary most: principal component analysis."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

MOST_CLASSES_EXACT = 4096  # up to here a classes x classes matrix is cheap: 64 MiB
EXTRA_AXES = 16
POWER_ROUNDS = 6


def principal_axes(blocks: list[Tensor], rank: int, seed: int) -> Tensor:
    """Return the `rank` orthonormal axes [rank, C] along which centred rows vary most, the first the most.

    Up to 4096 classes from their covariance; above by subspace iteration from a seeded random start
    (Halko, Martinsson and Tropp 2011), which needs memory for the sample and a few times rank x C.
    """
    classes = blocks[0].shape[1]
    if classes <= MOST_CLASSES_EXACT:
        covariance_CC = total(rows_BC.T @ rows_BC for rows_BC in blocks)
        axes_CC: Tensor = torch.linalg.eigh(covariance_CC.double()).eigenvectors
        return axes_CC[:, -rank:].flip(1).T.float().contiguous()
    width = min(rank + EXTRA_AXES, classes)
    start_CR = torch.randn(classes, width, generator=torch.Generator().manual_seed(seed))
    axes_CR: Tensor = torch.linalg.qr(start_CR.to(blocks[0].device)).Q
    for _ in range(POWER_ROUNDS):
        pulled_CR = total(rows_BC.T @ (rows_BC @ axes_CR) for rows_BC in blocks)
        axes_CR = torch.linalg.qr(pulled_CR).Q
    # The subspace is found; within it the covariance is small, and its eigenvectors order the axes.
    within = [rows_BC @ axes_CR for rows_BC in blocks]
    turned_RR = principal_axes(within, rank, seed)
    return turned_RR @ axes_CR.T


def total(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors, which are added up in the first."""
    return functools.reduce(torch.Tensor.add_, parts)

"""The axes along which rows vary most: principal component analysis."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

MOST_CLASSES_EXACT = 4096  # up to here a classes x classes matrix is cheap: 64 MiB
MOST_ROWS_EXACT = 4096  # and so is one of rows x rows
CLASSES_AT_ONCE = 1 << 14
RESOLUTION = 1e-7  # of a variance, relative to the largest: below it is what float32 has left of the products
EXTRA_AXES = 16
POWER_ROUNDS = 6


def principal_axes(blocks: list[Tensor], rank: int, seed: int) -> Tensor:
    """Return the `rank` orthonormal axes [rank, C] along which centred rows vary most, the first the most.

    Up to 4096 classes from their covariance, and up to 4096 rows from the products of all pairs of rows; above by
    subspace iteration from a seeded random start (Halko, Martinsson and Tropp 2011), which needs memory for the
    sample and a few times rank x C.
    """
    classes = blocks[0].shape[1]
    if classes <= MOST_CLASSES_EXACT:
        covariance_CC = total(rows_BC.T @ rows_BC for rows_BC in blocks)
        axes_CC: Tensor = torch.linalg.eigh(covariance_CC.double()).eigenvectors
        return axes_CC[:, -rank:].flip(1).T.float().contiguous()
    if rank <= sum(map(len, blocks)) <= MOST_ROWS_EXACT:
        return _axes_by_rows(blocks, rank)
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


def _axes_by_rows(blocks: list[Tensor], rank: int) -> Tensor:
    """Return the axes as the sums of rows that they are: memory for rows x rows beside them.

    Axes along which the rows do not vary are no sums of them, and are zero.
    """
    classes = blocks[0].shape[1]
    parts = [slice(start, start + CLASSES_AT_ONCE) for start in range(0, classes, CLASSES_AT_ONCE)]

    def columns(part: slice) -> Tensor:
        return torch.cat([rows_BC[:, part] for rows_BC in blocks])

    gram_NN = total((columns(part) @ columns(part).T).double() for part in parts)
    variance_N, turn_NN = torch.linalg.eigh(gram_NN)
    variance_R, turn_NR = variance_N[-rank:].flip(0), turn_NN[:, -rank:].flip(1)
    is_there_R = variance_R > RESOLUTION * variance_R[0].clamp_min(1e-30)
    by_rows_NR = (turn_NR * is_there_R / variance_R.clamp_min(1e-30).sqrt()).float()
    axes_RC = torch.empty(rank, classes, device=gram_NN.device)
    for part in parts:
        axes_RC[:, part] = by_rows_NR.T @ columns(part)
    return axes_RC


def joined(parts: list[Tensor]) -> Tensor:
    """Return the rows of parts in one tensor, and leave the list empty: each is let go as it is taken over."""
    rows_BC = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
    stop = len(rows_BC)
    while parts:
        part_BC = parts.pop()
        rows_BC[stop - len(part_BC) : stop] = part_BC
        stop -= len(part_BC)
    return rows_BC


def total(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors, which are added up in the first."""
    return functools.reduce(torch.Tensor.add_, parts)

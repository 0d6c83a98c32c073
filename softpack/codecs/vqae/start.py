"""Where the training starts: the principal directions of the rows, dealt out to slots, and their k-means.

A linear decoder and one quantiser for each slot is the product quantiser of Ge, He, Ke and Sun, "Optimized
Product Quantization" (2013), whose parametric solution this is.
"""

from __future__ import annotations

import torch
from torch import Tensor

EXACT_CLASSES = 2048  # above it no [C, C] matrix is made
OVERSAMPLING = 16
POWER_ITERATIONS = 4
RESOLUTION = 1e-6  # of a variance, relative to the largest: below it is float32 noise
CACHED_ENTRIES = 1 << 20  # distances looked at together: what a cache holds
CHUNK_ENTRIES = 1 << 22  # numbers in the largest other temporary


def principal_directions(rows_RC: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the orthonormal directions [C, rank] of largest variance and the variances [rank], falling.

    Directions that the rows do not have are zero. With many classes it is the randomised method of Halko,
    Martinsson and Tropp (2011), which keeps rank + 16 vectors of C numbers.

    Args:
        rows_RC: float32 [R, C] with columns of mean zero.
        rank: directions to return.
        generator: of the random start, on the CPU.
    """
    n_rows, n_classes = rows_RC.shape
    if n_classes <= EXACT_CLASSES:
        basis_CQ = torch.eye(n_classes, device=rows_RC.device)
        scatter_QQ = rows_RC.T @ rows_RC
    else:
        width = min(rank + OVERSAMPLING, n_rows, n_classes)
        basis_CQ = torch.randn(n_classes, width, generator=generator).to(rows_RC.device)
        for _ in range(POWER_ITERATIONS):
            basis_CQ = torch.linalg.qr(rows_RC.T @ (rows_RC @ basis_CQ)).Q
        projected_RQ = rows_RC @ basis_CQ
        scatter_QQ = projected_RQ.T @ projected_RQ
    values_Q, vectors_QQ = torch.linalg.eigh(scatter_QQ.double())
    kept = min(rank, len(values_Q))
    values_K = values_Q.flip(0)[:kept]
    real_K = values_K > RESOLUTION * values_K[0].clamp_min(1e-30)
    directions_CK = basis_CQ @ vectors_QQ.flip(1)[:, :kept].float() * real_K
    directions_CL = torch.zeros(n_classes, rank, device=rows_RC.device)
    variances_L = torch.zeros(rank, device=rows_RC.device)
    directions_CL[:, :kept] = directions_CK
    variances_L[:kept] = (values_K * real_K).float() / n_rows
    return directions_CL, variances_L


def deal_out(variances_L: Tensor, slots: int) -> Tensor:
    """Return the order of the directions in which every slot has its share, of about the same product.

    Each direction in turn goes to the slot that has room and the smallest product so far.

    Args:
        variances_L: falling; L is a multiple of `slots`.
        slots: S of them.

    Returns:
        int64 [L]: the first L / S entries are the directions of the first slot, and so on.
    """
    logs = variances_L.double().clamp_min(1e-12).log().tolist()
    floor = min(logs) - 1.0  # so that every direction adds to its slot's load
    members: list[list[int]] = [[] for _ in range(slots)]
    loads = [0.0] * slots
    for direction, value in enumerate(logs):
        free = (slot for slot in range(slots) if len(members[slot]) * slots < len(logs))
        slot = min(free, key=lambda s: (loads[s], s))
        members[slot].append(direction)
        loads[slot] += value - floor
    return torch.tensor([direction for slot in members for direction in slot])


def nearest(points_SBD: Tensor, codebooks_SKD: Tensor) -> Tensor:
    """Return the index of the nearest codeword in each slot, int64 [S, B]."""
    n_slots, n_points, _ = points_SBD.shape
    halves_SK1 = codebooks_SKD.square().sum(-1, keepdim=True).mul(0.5)
    targets_SDK = torch.cat([-codebooks_SKD, halves_SK1], -1).mT  # |p - c|^2 / 2 - |p|^2 / 2 in one product
    sources_SBD = torch.cat([points_SBD, points_SBD.new_ones(n_slots, n_points, 1)], -1)
    chunk = max(16, CACHED_ENTRIES // (n_slots * codebooks_SKD.shape[1]))
    parts = torch.split(sources_SBD, chunk, dim=1)
    return torch.cat([torch.bmm(part_SBD, targets_SDK).min(-1).indices for part_SBD in parts], 1)


def sums_of_members(points_SBD: Tensor, index_SB: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return how many points each codeword has, [S, k], and their sum, [S, k, D].

    By a product with one-hot rows: unlike scattered additions it gives the same bits on every run.
    """
    one_hot_SBK = torch.zeros(*index_SB.shape, k, device=points_SBD.device)
    one_hot_SBK.scatter_(-1, index_SB.unsqueeze(-1), 1.0)
    return one_hot_SBK.sum(1), one_hot_SBK.mT @ points_SBD


def k_means(points_SRD: Tensor, k: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Return codebooks [S, k, D], fitted to each slot's points by Lloyd's iterations.

    Codewords without points move to random points. With fewer points than codewords some are equal.

    Args:
        points_SRD: float32, R points of each of S slots.
        k: codewords of a slot.
        iterations: of Lloyd.
        generator: of the starts, on the CPU.
    """
    n_slots, n_points, _ = points_SRD.shape
    codebooks_SKD = points_SRD[:, _draw(n_points, k, generator).to(points_SRD.device)].clone()
    chunk = max(1, CHUNK_ENTRIES // (n_slots * k))
    for _ in range(iterations):
        counts_SK = torch.zeros(n_slots, k, device=points_SRD.device)
        sums_SKD = torch.zeros_like(codebooks_SKD)
        for points_SBD in torch.split(points_SRD, chunk, dim=1):
            counts, sums = sums_of_members(points_SBD, nearest(points_SBD, codebooks_SKD), k)
            counts_SK += counts
            sums_SKD += sums
        strays_SKD = points_SRD[:, _draw(n_points, k, generator).to(points_SRD.device)]
        means_SKD = sums_SKD / counts_SK.clamp_min(1.0).unsqueeze(-1)
        codebooks_SKD = torch.where(counts_SK.unsqueeze(-1) > 0, means_SKD, strays_SKD)
    return codebooks_SKD


def staged_k_means(
    points_SRD: Tensor, stages: int, k: int, iterations: int, generator: torch.Generator
) -> Tensor:
    """Return codebooks [N, S, k, D]: those of each stage fitted to what the stages before leave."""
    codebooks = []
    for _ in range(stages):
        codebooks.append(k_means(points_SRD, k, iterations, generator))
        if len(codebooks) < stages:
            index_SR = nearest(points_SRD, codebooks[-1])
            found_SRD = torch.stack([book[index] for book, index in zip(codebooks[-1], index_SR, strict=True)])
            points_SRD = points_SRD - found_SRD
    return torch.stack(codebooks)


def _draw(n_points: int, k: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n_points, generator=generator).repeat(-(-k // n_points))[:k]

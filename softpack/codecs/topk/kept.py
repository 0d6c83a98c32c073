"""Which classes of a row are kept: the k largest, of whole rows or of rows of which some classes are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from softpack.codecs.sparse import NO_CLASS, SparseRows
from softpack.errors import CodecError


def largest(rows_BC: Tensor, k: int) -> Tensor:
    """Return the ids [B, k] of the largest numbers, in descending order, equal ones by ascending id.

    `torch.topk` alone takes any of equal numbers, and fp16 rows hold many.
    """
    values_BK, ids_BK = rows_BC.float().topk(min(k + 1, rows_BC.shape[1]), dim=1)
    by_id_Bk = ids_BK[:, :k].argsort(dim=1)
    order_Bk = values_BK[:, :k].gather(1, by_id_Bk).argsort(dim=1, descending=True, stable=True)
    ids_Bk = ids_BK.gather(1, by_id_Bk.gather(1, order_Bk))
    is_tied_B = values_BK[:, k - 1] == values_BK[:, -1]  # the last that is kept with the first that is not
    if k < rows_BC.shape[1] and bool(is_tied_B.any()):
        ids_Bk[is_tied_B] = _largest_of_equal(rows_BC[is_tied_B], k)
    return ids_Bk


def _largest_of_equal(rows_BC: Tensor, k: int) -> Tensor:
    """Return what `largest` does, of any rows: number and id become one integer. It takes 30 times as long."""
    bits_BC = (rows_BC.float() + 0.0).view(torch.int32).to(torch.int64)  # + 0.0 makes -0.0 equal to 0.0
    ordered_BC = torch.where(bits_BC < 0, bits_BC ^ 0x7FFFFFFF, bits_BC)  # float order is now integer order
    last = rows_BC.shape[1] - 1
    backwards_C = torch.arange(last, -1, -1, device=rows_BC.device)
    keys_BC = (ordered_BC << 32) | backwards_C
    return last - (keys_BC.topk(k, dim=1).values & 0xFFFFFFFF)


def largest_known(rows: SparseRows, k: int) -> Tensor:
    """Return where in `ids_BK` the k likeliest of a row's classes stand, int64 [B, k], in the order of `largest`.

    Where a row has fewer than k, places of `NO_CLASS` come last.

    Raises:
        CodecError: the rows are draws, have fewer than k places, or hold nan.
    """
    if rows.sampled:
        raise CodecError(
            "topk: these rows are classes that were drawn, and the likeliest of them are a biased choice; "
            "take --codec sample, or encode whole rows"
        )
    n_places = rows.ids_BK.shape[1]
    if n_places < k:
        raise CodecError(
            f"topk: {n_places} classes of a row are known; expected k={k} or more; set k={n_places}"
        )
    if bool((rows.log_probs_BK.isnan() | (rows.log_probs_BK == torch.inf))[rows.is_class_BK].any()):
        raise CodecError("topk: the log-probabilities of a row hold nan or +inf; leave such rows out")
    by_id_BK = torch.where(rows.is_class_BK, rows.ids_BK, rows.spec.classes).argsort(dim=1)
    log_probs_BK = torch.where(rows.is_class_BK, rows.log_probs_BK, -torch.inf).gather(1, by_id_BK)
    return by_id_BK.gather(1, log_probs_BK.argsort(dim=1, descending=True, stable=True)[:, :k])


def knows_tail(rows: SparseRows, temperature: float) -> bool:
    """Return whether rows say how much their other classes have together at a temperature."""
    return rows.fill_B is not None or any(math.isclose(T, temperature, rel_tol=1e-6) for T in rows.tails)


def tail_odds(rows: SparseRows, kept_Bk: Tensor, temperature: float) -> Tensor:
    """Return the log-odds [B] of all classes but the kept ones, against these, at a temperature.

    Args:
        rows: that know their tail.
        kept_Bk: places in `ids_BK`.
        temperature: of the odds.
    """
    log_probs_BK, tail_B = rows.at(temperature)
    dropped_B = log_probs_BK.scatter(1, kept_Bk, -torch.inf).logsumexp(dim=1)
    return torch.logaddexp(tail_B, dropped_B) - log_probs_BK.gather(1, kept_Bk).logsumexp(dim=1)


def pad(ids_Bk: Tensor, candidates_k: Tensor) -> Tensor:
    """Return the ids with classes in place of `NO_CLASS`: the first of the candidates that a row does not have.

    Args:
        ids_Bk: int64.
        candidates_k: k classes, no two alike.
    """
    lacks_B = (ids_Bk == NO_CLASS).any(dim=1)
    if not bool(lacks_B.any()):
        return ids_Bk
    some_Rk = ids_Bk[lacks_B]
    is_free_Rk = (some_Rk.unsqueeze(1) != candidates_k.unsqueeze(1)).all(dim=2)
    free_Rk = candidates_k[is_free_Rk.int().argsort(dim=1, descending=True, stable=True)]
    missing_Rk = some_Rk == NO_CLASS
    number_Rk = (missing_Rk.cumsum(dim=1) - 1).clamp_min(0)
    padded_Bk = ids_Bk.clone()
    padded_Bk[lacks_B] = torch.where(missing_Rk, free_Rk.gather(1, number_Rk), some_Rk)
    return padded_Bk


def sums(log_probs_BC: Tensor, scales: list[float]) -> list[Tensor]:
    """Return ln of the sum of exp(x * s) over each row, [B] for each s; -inf of rows that are -inf everywhere."""
    most_B1 = log_probs_BC.amax(dim=1, keepdim=True).clamp_min(torch.finfo(log_probs_BC.dtype).min)
    below_BC, scaled_BC = log_probs_BC - most_B1, torch.empty_like(log_probs_BC)
    found = []
    for scale in scales:
        torch.mul(below_BC, scale, out=scaled_BC)
        found.append(scaled_BC.exp_().sum(dim=1).log() + most_B1[:, 0] * scale)
    return found

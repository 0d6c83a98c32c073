"""Learn orders of classes from the sets that some rows keep: those by frequency, and those of sorts of rows.

Sorts of rows are a mixture of unigrams with hard assignment: each has frequencies of the classes, a row belongs to
the sort under which its classes are likeliest, and the frequencies are those of its rows (Nigam et al., Text
Classification from Labeled and Unlabeled Documents using EM, Machine Learning 39, 2000). Few rows of a sort say
little of most classes, so all rows together count as some more rows of it.

Lists have classes by how often they come, in powers of two, and those of one power in the base order: so the
differences that are stored are small, and gaps cost no more than in the exact order.

Shapes: N rows, k classes kept of each, C classes, U of them that come at all, M orders, L listed by each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from softpack.codecs.abc import Progress
from softpack.codecs.topk.orders import Orders

ROUNDS = 12
SETTLED = 0.005  # share of the rows that may still move
PRIOR_ROWS = 3.0  # of all rows together, in each sort
LISTED_BITS = 7  # of an entry of a list, in the file
COMMON_BITS = 8  # of an entry of the base order
BITS_SAVED = 3  # by a class that is common rather than among the others, each time it comes
CHOICES: dict[int, tuple[int, ...]] = {  # of M: of L
    1: (64, 256), 4: (256, 1024), 16: (512, 1024), 64: (1024, 2048), 256: (2048, 4096),
}  # fmt: skip
LISTED = (64, 256, 1024, 4096)  # choices of L, where M is given
LEAST_ROWS = 64  # of a sample that is cut in two to choose
HELD_OUT = 4  # every so many rows, the last ones


@dataclass(frozen=True)
class Sizes:
    """How many orders, how many classes in each list, how many in the common order; 0 for the best."""

    orders: int
    listed: int
    common: int


def fit_orders(
    ids_Nk: Tensor, classes: int, sizes: Sizes, n_rows: int, seed: int, progress: Progress | None = None
) -> tuple[Orders, Sizes]:
    """Return orders for the ids of rows, and their sizes: what is not given is chosen for the fewest bytes.

    Args:
        ids_Nk: int64, some rows.
        classes: C.
        sizes: as given.
        n_rows: that the file will have, among which the orders' own bytes are shared.
        seed: of the sorts.
        progress: is told how many choices were tried.
    """
    base_C, n_common = _base(ids_Nk, classes, n_rows)
    n_common = min(sizes.common, classes) or n_common
    base_C = _completed(base_C[:n_common], classes)
    place_C = base_C.argsort()
    places_Nk = place_C[ids_Nk]
    n_orders, n_listed = _chosen(places_Nk, base_C, sizes, n_rows, seed, progress)
    lists_ML = _lists(places_Nk, classes, n_orders, n_listed, seed)
    return Orders(base_C, lists_ML), Sizes(n_orders, n_listed, n_common)


def _base(ids_Nk: Tensor, classes: int, n_rows: int) -> tuple[Tensor, int]:
    """Return the classes by how often they come, and how many of them are worth to be said."""
    count_C = torch.bincount(ids_Nk.reshape(-1), minlength=classes)
    level_C = count_C.float().log2().floor()  # -inf where it never comes
    base_C = level_C.argsort(descending=True, stable=True)
    least = max(1.0, COMMON_BITS / BITS_SAVED * len(ids_Nk) / n_rows)
    return base_C, max(1, int((level_C >= math.ceil(math.log2(least))).sum()))


def _completed(common_N: Tensor, classes: int) -> Tensor:
    is_other_C = torch.ones(classes, dtype=torch.bool, device=common_N.device)
    is_other_C[common_N] = False
    return torch.cat([common_N, is_other_C.nonzero()[:, 0]])


def _chosen(
    places_Nk: Tensor, base_C: Tensor, sizes: Sizes, n_rows: int, seed: int, progress: Progress | None
) -> tuple[int, int]:
    """Return how many orders of how many listed classes cost the fewest bits, in rows that they were not fitted to."""
    n = len(places_Nk)
    choices: dict[int, tuple[int, ...]] = CHOICES
    if sizes.orders:
        choices = {sizes.orders: LISTED}
    if n < LEAST_ROWS:
        choices = {sizes.orders or 1: LISTED[:1]}
    if sizes.listed:
        choices = dict.fromkeys(choices, (sizes.listed,))
    tries = [(orders, min(listed, len(base_C))) for orders, of_it in choices.items() for listed in of_it]
    if len(tries) == 1:
        return tries[0]
    fitted_Nk, held_Nk = places_Nk[: n - n // HELD_OUT], places_Nk[n - n // HELD_OUT :]
    costs = []
    for done, (orders, listed) in enumerate(tries):
        found = Orders(base_C, _lists(fitted_Nk, len(base_C), orders, listed, seed))
        order_B, gaps_Bk, _ = found.gaps(base_C[held_Nk])
        bits = (_entropy(gaps_Bk) + _entropy(order_B[:, None])) / len(held_Nk)
        costs.append(bits * n_rows + LISTED_BITS * orders * listed)
        if progress is not None:
            each = bits / places_Nk.shape[1]
            progress(done + 1, len(tries), f"{orders} orders of {listed}: {each:.2f} bits an id")
    return tries[min(range(len(tries)), key=costs.__getitem__)]


def _entropy(numbers_Bk: Tensor) -> float:
    """Return about the bits that numbers cost, column by column: their lengths by entropy, and then what is below."""
    length_Bk = (numbers_Bk + 1).double().log2().floor().long()
    columns_k = torch.arange(numbers_Bk.shape[1], device=numbers_Bk.device) * 64
    counts_X = torch.bincount((length_Bk + columns_k).flatten())
    nats_X = -torch.special.xlogy(counts_X, counts_X / len(numbers_Bk))
    return float(length_Bk.sum() + nats_X.sum() / math.log(2))


def _lists(places_Nk: Tensor, classes: int, n_orders: int, n_listed: int, seed: int) -> Tensor:
    """Return the lists [M, L] of sorts of rows, places in the base order."""
    used_U, index_X = torch.unique(places_Nk, return_inverse=True)
    rows_Nk = index_X.view(places_Nk.shape)
    log_probs_UM = _sorts(rows_Nk, len(used_U), n_orders, seed)
    level_UM = (log_probs_UM / math.log(2)).floor()
    best_LM = used_U[level_UM.argsort(dim=0, descending=True, stable=True)[:n_listed]]
    if len(used_U) < n_listed:  # then all lists have the same classes, and go on with the same
        rest = _completed(used_U, classes)[len(used_U) : n_listed]
        best_LM = torch.cat([best_LM, rest[:, None].expand(-1, n_orders)])
    lists_ML: Tensor = best_LM.t().contiguous()
    return lists_ML


def _sorts(rows_Nk: Tensor, n_used: int, n_sorts: int, seed: int) -> Tensor:
    """Return the log-probabilities of the classes in each sort of rows, float32 [U, M]."""
    n = len(rows_Nk)
    share_U = torch.bincount(rows_Nk.flatten(), minlength=n_used).float() / n
    generator = torch.Generator().manual_seed(seed)
    first_M = torch.randperm(max(n, n_sorts), generator=generator)[:n_sorts] % n
    every_M = torch.arange(n_sorts, device=rows_Nk.device)
    counts_UM = _counts(rows_Nk[first_M.to(rows_Nk.device)], every_M, n_used, n_sorts)
    sort_N = torch.full((n,), -1, device=rows_Nk.device)
    for _ in range(ROUNDS):
        scores_NM = embedding_bag(rows_Nk, _log_probs(counts_UM, share_U), mode="sum")
        before_N, sort_N = sort_N, scores_NM.argmax(dim=1)
        counts_UM = _counts(rows_Nk, sort_N, n_used, n_sorts)
        if float((before_N != sort_N).float().mean()) < SETTLED:
            break
    return _log_probs(counts_UM, share_U)


def _counts(rows_Nk: Tensor, sort_N: Tensor, n_used: int, n_sorts: int) -> Tensor:
    cells_X = (rows_Nk * n_sorts + sort_N[:, None]).flatten()
    return torch.bincount(cells_X, minlength=n_used * n_sorts).view(n_used, n_sorts).float()


def _log_probs(counts_UM: Tensor, share_U: Tensor) -> Tensor:
    with_prior_UM = counts_UM + PRIOR_ROWS * share_U[:, None]
    return (with_prior_UM / with_prior_UM.sum(dim=0)).log()

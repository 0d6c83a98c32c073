"""In which order items are shown, as pure functions of numbers: the same on every machine and in every version.

Shapes in names: N items, B rows of a batch, V views.
"""

from __future__ import annotations

import numpy as np

from softpack.chance import hashed, place_before


def shuffled(n_items: int, seed: int, epoch: int, block: int = 0, at_once: int = 1) -> np.ndarray:
    """Return a permutation of the items, int64 [N].

    Args:
        n_items: N.
        seed: of the run.
        epoch: each has another order.
        block: items that lie together in the file: so many are shuffled as one, and then within; 0 shuffles all.
        at_once: blocks whose items are shuffled among one another.
    """
    items_N = np.arange(n_items)
    if not block:
        return np.argsort(hashed(seed, epoch, items_N), kind="stable")
    block_N = items_N // block
    place_N = np.argsort(
        np.argsort(hashed(seed, epoch, -1, np.arange(block_N.max(initial=-1) + 1)), kind="stable")
    )
    return np.lexsort((hashed(seed, epoch, items_N), place_N[block_N] // at_once))


def drawn(counts_B: np.ndarray, items_B: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return the number of the view that each item shows in an epoch, int64 [B], below its count.

    In every pass over its views an item shows each once, in an order of its own.

    Args:
        counts_B: views of each item, above 0.
        items_B: the items.
        seed: of the run.
        epoch: from 0.
    """
    passes_B, nth_B = epoch // counts_B, epoch % counts_B
    views_V = np.arange(counts_B.max(initial=1))
    keys_BV = hashed(seed, -2, items_B[:, None], passes_B[:, None], views_V)
    keys_BV[views_V >= counts_B[:, None]] = np.iinfo(np.uint64).max  # views that are not there come last
    order_BV = np.argsort(keys_BV, axis=1, kind="stable")
    return np.take_along_axis(order_BV, nth_B[:, None], 1)[:, 0]


def pooled(n_rows: int, n_drawn: int, seed: int, epoch: int) -> np.ndarray:
    """Return the numbers of the labels that an epoch shows of a pool, int64 [N].

    In every pass over the pool each label is shown once, in an order of that pass; epochs cut passes where they may.

    Args:
        n_rows: labels of the pool.
        n_drawn: N, how many an epoch shows.
        seed: of the run.
        epoch: from 0.
    """
    passes_N, place_N = np.divmod(epoch * n_drawn + np.arange(n_drawn), n_rows)
    return place_before(n_rows, (seed, -3, passes_N), place_N)


def chains(partner_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return groups of items that are mixed with one another, and where each stands in its group: int64 [N] both.

    An item of place p > 0 is mixed with one of place p - 1 of its group; in a ring, whose partners are a permutation,
    each place is there once. Found by following partners 1, 2, 4, ... steps at a time.

    Args:
        partner_N: int64, the partner of each item; itself or -1 where it has none.
    """
    items_N = np.arange(len(partner_N))
    next_N = np.where(partner_N < 0, items_N, partner_N)
    steps = max(len(next_N).bit_length(), 1)
    ring_N = next_N
    for _ in range(steps):
        ring_N = ring_N[ring_N]  # far enough to be in the ring that all ways end in
    least_N, far_N = items_N, next_N
    for _ in range(steps):
        least_N, far_N = np.minimum(least_N, least_N[far_N]), far_N[far_N]
    head_N = least_N[ring_N]  # of the ring, all of whose items are seen from each
    far_N = np.where(head_N == items_N, items_N, next_N)
    place_N = (head_N != items_N).astype(np.int64)
    for _ in range(steps):
        place_N, far_N = place_N + place_N[far_N], far_N[far_N]
    return head_N, place_N


def together(order_N: np.ndarray, group_N: np.ndarray, place_N: np.ndarray) -> np.ndarray:
    """Return the order with all items of a group where its first stands, by place."""
    rank_N = np.empty(len(order_N), np.int64)
    rank_N[order_N] = np.arange(len(order_N))
    first_N = np.full(len(order_N), len(order_N))
    np.minimum.at(first_N, group_N, rank_N)
    return np.lexsort((rank_N, place_N, first_N[group_N]))

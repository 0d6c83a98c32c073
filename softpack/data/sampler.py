"""Which (item, view) come next: an order that seed and epoch alone decide, shared among ranks, resumed anywhere.

Shapes in names: N items, B rows of a batch on one rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import distributed
from torch.utils.data import Sampler

from softpack.data import order
from softpack.data.source import LabelSource
from softpack.errors import DataError

VIEWS = ("epoch", "random", "pool")
UNEVEN = ("refuse", "drop", "repeat")
FORMAT = 1  # of the state


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int
    world_size: int

    @classmethod
    def here(cls, rank: int | None, world_size: int | None) -> Ranks:
        """Return what was given; what was not, of `torch.distributed` where that runs.

        Raises:
            DataError: there is no such rank.
        """
        runs = distributed.is_available() and distributed.is_initialized()
        world_size = (distributed.get_world_size() if runs else 1) if world_size is None else world_size
        rank = (distributed.get_rank() if runs else 0) if rank is None else rank
        if not 0 <= rank < world_size:
            raise DataError(f"rank is {rank} of {world_size}; expected 0 to {world_size - 1}")
        return cls(rank, world_size)


class ViewSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (item, view) for a DataLoader: each epoch shows every item once.

        sampler = softpack.ViewSampler(dataset.labels, batch_size=128, seed=0)
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=2)

    The order is a function of seed and epoch, the same on every machine. All ranks share one order: of each
    `world_size * batch_size` rows that come next, every rank takes its `batch_size`. When an epoch has been given to
    its end, the next one follows; one that is left early begins again.

    `state_dict()` says what has been given. Workers of a DataLoader ask ahead of what a student has seen: take
    `softpack.Loader`, whose state is what came out of it.

    Args:
        labels: which items and views there are: `dataset.labels`, or what `softpack.open` gave.
        batch_size: rows of a batch on each rank.
        seed: of the order.
        shuffle: False shows items in their own order.
        views: at most so many views of each item are shown, a pool as LPLD prunes; None: all.
        draw: "epoch" shows the e-th view of each item in epoch e, and after the last the first again. "random" goes
            through the views of every item in an order of its own, each once before any again. "pool" goes through all
            labels of the file so, whichever items they are of, and an epoch is as many as there are items: for pools
            that were pruned by whole batches, as LPLD's are, where an item can be without labels.
        keep_mixed: items that a view mixes follow one another, so that a batch loads few images twice.
        tiles: shuffle the items of so many tiles of the file among one another, so that labels that are read from
            the disk are read in few pieces; 0: all items.
        uneven: what to do with items that ranks cannot share evenly: "refuse", "drop" some of each epoch, or
            "repeat" some.
        rank: of this process; by default what `torch.distributed` says.
        world_size: processes; by default what `torch.distributed` says.

    Raises:
        DataError: a setting is none, or ranks cannot share the items evenly.
    """

    def __init__(
        self,
        labels: LabelSource,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        views: int | None = None,
        draw: str = "epoch",
        keep_mixed: bool = False,
        tiles: int = 0,
        uneven: str = "refuse",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("views", views, 1), ("tiles", tiles, 0)):
            if value is not None and (type(value) is not int or value < least):
                raise DataError(f"ViewSampler: {name} is {value!r}; expected a whole number from {least}")
        for name, given, known in (("draw", draw, VIEWS), ("uneven", uneven, UNEVEN)):
            if given not in known:
                raise DataError(f"ViewSampler: {name} is {given!r}; expected {' or '.join(known)}")
        if keep_mixed and (draw != "epoch" or "mix_item" not in labels.columns):
            reason = "views are drawn at random" if draw != "epoch" else "the labels have no mix_item"
            raise DataError(
                f"ViewSampler: keep_mixed needs items of the same view that are mixed, but {reason}"
            )
        self.batch_size, self.seed, self.shuffle, self.draw = batch_size, seed, shuffle, draw
        self.keep_mixed, self.tiles, self.uneven = keep_mixed, tiles, uneven
        self.ranks = Ranks.here(rank, world_size)
        self.epoch, self.start, self.position = 0, 0, 0  # rows of the epoch, of all ranks together
        self._labels = labels
        if draw == "pool" and (views is not None or tiles or not shuffle):
            raise DataError("ViewSampler: draw='pool' shuffles all labels; leave out views, tiles and shuffle")
        counts_N = np.array(labels.view_counts(), np.int64)
        if not counts_N.any() or (draw != "pool" and (counts_N < 1).any()):
            lost = int((counts_N < 1).argmax()) if len(counts_N) else 0
            raise DataError(
                f"ViewSampler: item {lost} has no view; a sampler needs one of every item, or draw='pool' to show the "
                "labels that are there"
            )
        self._counts_N = counts_N if views is None else np.minimum(counts_N, views)
        self._views = views
        self._n_left(0)  # for its error

    def __len__(self) -> int:
        """Return the batches that this rank is given of the epoch."""
        return math.ceil(self._n_left(self.start) / (self.ranks.world_size * self.batch_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, self.position = self.epoch, self.start
        items_N, views_N = (
            np.resize(some_N[self.start :], self._n_left(self.start)) for some_N in self._rows()
        )
        rank, begun, done = self.ranks.rank, self.start, 0
        while done < len(items_N):
            n_rows = self.rows_at(begun + done)
            share = n_rows // self.ranks.world_size
            mine = slice(done + rank * share, done + (rank + 1) * share)
            done += n_rows
            self.position = begun + done
            yield list(zip(items_N[mine].tolist(), views_N[mine].tolist(), strict=True))
        if self.epoch == epoch:  # nobody has set another meanwhile
            self.set_epoch(epoch + 1)

    def rows_at(self, position: int) -> int:
        """Return how many rows the batches that begin after so many rows of an epoch have on all ranks together."""
        return min(self._n_left(position), self.ranks.world_size * self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, counted from 0.

        Raises:
            DataError: `epoch` is negative.
        """
        if epoch < 0:
            raise DataError(f"ViewSampler: epoch is {epoch}; expected 0 or more")
        self.epoch, self.start, self.position = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint should keep: numbers and strings."""
        return self.state_at(self.epoch, self.position)

    def state_at(self, epoch: int, position: int) -> dict[str, Any]:
        """Return the state after `position` rows of an epoch have been given to all ranks together."""
        if not self._n_left(position):
            epoch, position = epoch + 1, 0
        return {"format": FORMAT, "epoch": epoch, "position": position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; ranks and batch size may be others than they were.

        Raises:
            DataError: it is of other labels or of another order, or ranks cannot share evenly what is left.
        """
        expected = {"format": FORMAT, **self._identity()}
        if not isinstance(state, dict) or not {"epoch", "position", *expected} <= set(state):
            raise DataError(
                f"the state {str(state)[:60]} is none of a ViewSampler; give what state_dict() gave"
            )
        for name, value in expected.items():
            if state[name] != value:
                what = "labels" if name in ("labels", "items") else "order"
                raise DataError(
                    f"the state is of other {what}: its {name} is {state[name]!r}, here it is {value!r}; resume with "
                    f"the {what} that it was saved with, or begin anew"
                )
        epoch, position = state["epoch"], state["position"]
        if not (type(epoch) is int and type(position) is int and epoch >= 0 and position >= 0):
            raise DataError(f"the state says epoch {epoch!r} and position {position!r}; expected whole numbers")
        self._n_left(position)  # for its error
        self.epoch, self.start, self.position = epoch, position, position

    # -- the order ---------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """Return what decides the order, beside epoch and position."""
        return {
            "labels": self._labels.fingerprint, "items": len(self._counts_N), "seed": self.seed,
            "shuffle": self.shuffle, "views": self._views, "draw": self.draw, "keep_mixed": self.keep_mixed,
            "tiles": self.tiles,
        }  # fmt: skip

    def _n_left(self, position: int) -> int:
        """Return the rows that all ranks are still given of an epoch, a multiple of the ranks.

        Raises:
            DataError: they cannot be shared evenly.
        """
        world, left = self.ranks.world_size, max(len(self._counts_N) - position, 0)
        odd = left % world
        if not odd:
            return left
        if self.uneven == "refuse":
            raise DataError(
                f"ViewSampler: {left} items cannot be shared evenly among {world} ranks; say uneven='drop' to leave "
                f"{odd} of them out of each epoch, or uneven='repeat' to show {world - odd} of them twice"
            )
        return left - odd if self.uneven == "drop" else left - odd + world

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of the epoch as they are shown, and the view of each."""
        if self.draw == "pool":
            n_rows, n_items = int(self._counts_N.sum()), len(self._counts_N)
            return self._labels.cells(order.pooled(n_rows, n_items, self.seed, self.epoch))
        order_N = self._order()
        return order_N, self._views_of(order_N)

    def _order(self) -> np.ndarray:
        n_items = len(self._counts_N)
        order_N = np.arange(n_items)
        if self.shuffle:
            block = self._labels.tile_items if self.tiles else 0
            order_N = order.shuffled(n_items, self.seed, self.epoch, block, max(self.tiles, 1))
        if not self.keep_mixed:
            return order_N
        views_N = self._views_of(np.arange(n_items))
        partner_N = self._labels.replay(np.arange(n_items), views_N)["mix_item"].astype(np.int64)
        return order.together(order_N, *order.chains(np.where(partner_N < n_items, partner_N, -1)))

    def _views_of(self, items_N: np.ndarray) -> np.ndarray:
        counts_N = self._counts_N[items_N]
        nth_N = self.epoch % counts_N
        if self.draw == "random":
            nth_N = order.drawn(counts_N, items_N, self.seed, self.epoch)
        return np.asarray(self._labels.nth_view(items_N, nth_N))

"""Sets of classes as small numbers: gaps between their places in an order that suits the row.

Likely classes are the first of an order, so that places are small and gaps of sorted places smaller still. One order
for all rows has the classes by how often they come at all. But what comes next in a sentence is a noun, or a digit,
or the end of a licence's name: so there are several orders, each with a list of the classes that come first in rows
of one sort and then all classes, and a row says which is its.

The 64 likeliest of 262,144 tokens of Gemma 3 270M, in bits an id: entropy of the gaps, column by column and four to
a power of two, and what the row or the tile says besides. 6,929 rows of other documents than were fitted to.

| ids are sorted by | 4,096 rows fitted | 39,151 rows fitted |
|---|---|---|
| themselves | 9.54 | 9.54 |
| how often they come | 7.37 | 7.25 |
| the same, after those of the row before | 7.18 | 7.07 |
| the same, after a dictionary of the tile | 7.06 + .24 | 7.01 + .24 |
| 16 orders of 2,048 | 6.07 + .06 | 5.64 + .06 |
| 64 orders of 2,048 | 5.70 + .09 | 5.21 + .09 |
| 64 orders, after those of the row before | 5.75 + .09 | 5.31 + .09 |
| 256 orders of 2,048 | 5.62 + .12 | 4.92 + .12 |

So orders are what pays, and what neighbours share they know already. zstd's 16th level takes .3 bits more than this
entropy.

Shapes: B rows, k classes kept of each, C classes, M orders, L listed by each, N0 common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from softpack.errors import CodecError

NEAR = 8  # places from the first that cost about the same: gaps between the likeliest classes are about so wide
TABLE_VALUES = 1 << 24  # of a table of costs, so that it stays small beside the rows


@dataclass(frozen=True)
class Orders:
    """Orders of classes.

    Args:
        base_C: int64, the classes by how often they come in all rows, each once.
        lists_ML: int64, for each order the places in `base_C` of the classes that come first in it.
    """

    base_C: Tensor
    lists_ML: Tensor

    @classmethod
    def stored(cls, tensors: Mapping[str, Tensor], classes: int) -> Orders:
        """Return the orders of the tensors of a file: `common` int32 [N0] and `lists` int32 [M, L], as differences.

        Raises:
            CodecError: they are not classes and places.
        """
        common_N = tensors["common"].long().cumsum(0)
        lists_ML = tensors["lists"].long().cumsum(1)
        for name, values in (("common", common_N), ("lists", lists_ML)):
            if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < classes:
                raise CodecError(
                    f"topk: tensor {name} sums to {int(values.min())} to {int(values.max())}; expected numbers "
                    f"from 0 to {classes - 1}"
                )
        is_common_C = torch.zeros(classes, dtype=torch.bool, device=common_N.device)
        is_common_C[common_N] = True
        others_C = (~is_common_C).nonzero()[:, 0]
        if len(others_C) + len(common_N) != classes:
            raise CodecError("topk: tensor common has a class twice; expected each once")
        return cls(torch.cat([common_N, others_C]), lists_ML)

    def tensors(self, n_common: int) -> dict[str, Tensor]:
        """Return the tensors of a file."""
        common_N = self.base_C[:n_common]
        zero = torch.zeros_like(self.lists_ML[:, :1])
        return {
            "common": common_N.diff(prepend=zero[0]).int(),
            "lists": self.lists_ML.diff(dim=1, prepend=zero).int(),
        }

    def gaps(self, ids_Bk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the order of each row [B], the gaps between its places, and which id each is of [B, k]."""
        order_B = self.cheapest(ids_Bk)
        places_Bk, which_Bk = self._places(ids_Bk, order_B).sort(dim=1)
        before_Bk = torch.nn.functional.pad(places_Bk[:, :-1], (1, 0), value=-1)
        return order_B, places_Bk - before_Bk - 1, which_Bk

    def ids(self, order_B: Tensor, gaps_Bk: Tensor) -> Tensor:
        """Return the ids, int64 [B, k], in the order of their places; a place beyond the last is the last.

        Args:
            order_B: int32, below M.
            gaps_Bk: int32, at least 0.
        """
        (n_orders, n_listed), (k,) = self.lists_ML.shape, gaps_Bk.shape[1:]
        last = n_listed + len(self.base_C) - 1
        steps_k = torch.arange(k, dtype=torch.int32, device=gaps_Bk.device)
        # Sums of a damaged file may pass the last place, and 32 bits. A row's last is its greatest.
        is_wide = k * (last + 1) >= 1 << 31
        places_Bk = gaps_Bk.cumsum(dim=1, dtype=torch.int64 if is_wide else torch.int32).add_(steps_k)
        if len(places_Bk) and int(places_Bk[:, -1].max()) > last:
            places_Bk.clamp_(max=last)
        # Behind a list is what all orders share. Not by torch.where, which guesses at each id whether it is listed.
        start_B1 = (order_B * n_listed)[:, None]
        is_shared_Bk = places_Bk.clamp(n_listed - 1, n_listed).sub_(n_listed - 1)
        starts_Bk = is_shared_Bk.mul_((n_orders - 1) * n_listed)
        at_X = torch.maximum(starts_Bk, start_B1, out=starts_Bk).add_(places_Bk).reshape(-1)
        return self._table.index_select(0, at_X).long().view(gaps_Bk.shape)

    def cheapest(self, ids_Bk: Tensor) -> Tensor:
        """Return the order [B] in which the ids of a row lie nearest to the front.

        A place p costs about log2(p + NEAR) bits: gaps of sorted places are the wider the further back they are, as
        classes further back come less often (Zipf).
        """
        if len(self.lists_ML) == 1:
            return torch.zeros_like(ids_Bk[:, 0])
        rows_Bk = self._cost_row[self._base_place[ids_Bk]]
        costs = [
            torch.nn.functional.embedding_bag(rows_Bk, self._costs(part), mode="sum") for part in self._parts
        ]
        return torch.cat(costs, dim=1).argmin(dim=1)

    @cached_property
    def _table(self) -> Tensor:
        """The ids of all lists, one after the other, and then all ids: int32, more of which lie near at hand."""
        return torch.cat([self.base_C[self.lists_ML].flatten(), self.base_C]).int()

    @cached_property
    def _base_place(self) -> Tensor:
        return self.base_C.argsort()

    @cached_property
    def _listed(self) -> tuple[Tensor, Tensor]:
        """All (order, place in the base order) that are listed, as one rising number, and their places in the lists."""
        n_orders, n_listed = self.lists_ML.shape
        orders_M1 = torch.arange(n_orders, device=self.lists_ML.device)[:, None]
        keys_X, by_key_X = (orders_M1 * len(self.base_C) + self.lists_ML).flatten().sort(stable=True)
        return keys_X, by_key_X % n_listed

    def _places(self, ids_Bk: Tensor, order_B: Tensor) -> Tensor:
        base_Bk, (keys_X, place_X) = self._base_place[ids_Bk], self._listed
        wanted_Bk = order_B[:, None] * len(self.base_C) + base_Bk
        at_Bk = torch.searchsorted(keys_X, wanted_Bk).clamp_max(len(keys_X) - 1)
        return torch.where(keys_X[at_Bk] == wanted_Bk, place_X[at_Bk], base_Bk + self.lists_ML.shape[1])

    @cached_property
    def _any_listed(self) -> Tensor:
        """The places in the base order that any list has."""
        listed_U: Tensor = torch.unique(self.lists_ML)
        return listed_U

    @cached_property
    def _cost_row(self) -> Tensor:
        """The row of a class in `_costs`, by its place in the base order; the last for those that no list has."""
        listed_U = self._any_listed
        row_C = torch.full_like(self.base_C, len(listed_U))
        row_C[listed_U] = torch.arange(len(listed_U), device=row_C.device)
        return row_C

    @cached_property
    def _parts(self) -> list[range]:
        """Orders whose costs make one table."""
        n_orders, most = len(self.lists_ML), max(1, TABLE_VALUES // (len(self._any_listed) + 1))
        return [range(start, min(start + most, n_orders)) for start in range(0, n_orders, most)]

    def _costs(self, part: range) -> Tensor:
        """Return what a class costs in each of these orders: [U + 1, orders]."""
        if part not in self._cost_tables:
            lists_mL = self.lists_ML[part.start : part.stop]
            n_listed, listed_U = lists_mL.shape[1], self._any_listed
            costs_Um = (listed_U + n_listed + NEAR).float().log2()[:, None].repeat(1, len(part))
            listed_L = (torch.arange(n_listed, device=listed_U.device) + NEAR).float().log2()
            costs_Um.scatter_(0, self._cost_row[lists_mL].t(), listed_L[:, None].expand(-1, len(part)))
            # What no list has costs the same in all of them.
            self._cost_tables[part] = torch.nn.functional.pad(costs_Um, (0, 0, 0, 1))
        return self._cost_tables[part]

    @cached_property
    def _cost_tables(self) -> dict[range, Tensor]:
        return {}

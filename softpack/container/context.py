"""What the decoder knows of rows before their codes: the prototypes of their items, mixed as the rows are.

Shapes in names: B rows, C classes, N items, P prototypes of an item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.abc import Codec, Codes
from softpack.container.correcting import full_precision
from softpack.container.mixing import Mixing

DECODE_ROWS = 1024
KEPT_VALUES = 1 << 26  # numbers of prototypes that are kept decoded; where there are more, they are when needed


@dataclass(frozen=True)
class Weights:
    """What the prototypes of the rows' items and of their mix partners weigh, on the device of the prototypes.

    Args:
        partner_B: integers, -1 for none; None where no row is mixed.
        share_B: float32 share of the partner.
        own_BP: float32, of each prototype of the item; None where it has one.
        partner_BP: the same of the partner.
    """

    partner_B: Tensor | None = None
    share_B: Tensor | None = None
    own_BP: Tensor | None = None
    partner_BP: Tensor | None = None

    @classmethod
    def of(cls, mixing: Mixing, device: torch.device) -> Weights:
        """Return them from numpy facts."""
        of_rows = (mixing.partner_B, mixing.share_B, mixing.own_BP, mixing.partner_BP)
        return cls(*(None if facts is None else torch.from_numpy(facts).to(device) for facts in of_rows))

    def rows(self, which_B: Tensor) -> Weights:
        """Return those of some rows."""
        return self._each(lambda facts: facts.index_select(0, which_B))

    def to(self, device: torch.device) -> Weights:
        """Return them on a device."""
        return self._each(lambda facts: facts.to(device))

    @classmethod
    def joined(cls, parts: Sequence[Weights]) -> Weights:
        """Return those of all rows, without what is the same for all of them, nor what the partners' rows say."""
        if not parts:
            return cls()
        of_name = [[f for part in parts if (f := getattr(part, name)) is not None] for name in FACTS]
        partner_R, share_R, own_RP, _ = (torch.cat(some) if some else None for some in of_name)
        if partner_R is None or not bool((partner_R >= 0).any()):
            return cls(own_BP=own_RP)
        return cls(partner_R.int(), share_R, own_RP)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Weights:
        facts = (getattr(self, name) for name in FACTS)
        return Weights(*(None if each is None else change(each) for each in facts))


FACTS = tuple(field.name for field in fields(Weights))


@dataclass(frozen=True)
class Prototypes:
    """The prototypes of all items, as their codes say them.

    Args:
        codec: of the prototypes, which are logits whose mean is zero.
        codes: [N, ...] of the items that have some, the first ones; [N, P, ...] where they have several.
        n: P, prototypes of an item.
        rows_RC: float32, the same decoded, those of an item one after the other; None where they are too many.
        features_RX: what the codec of the rows sees of them, if it was asked.
    """

    codec: Codec
    codes: Codes
    n: int = 1
    rows_RC: Tensor | None = None
    features_RX: Tensor | None = None

    @classmethod
    def of_codes(cls, codec: Codec, codes: Codes, n: int = 1) -> Prototypes:
        """Decode them, a block at a time, if they are few enough."""
        n_rows = n * len(next(iter(codes.values())))
        if not 0 < n_rows * codec.spec.classes <= KEPT_VALUES:
            return cls(codec, codes, n)
        flat = {name: values.flatten(0, 1) if n > 1 else values for name, values in codes.items()}
        with full_precision(next(iter(flat.values())).device):
            parts = [
                codec.decode({name: values[start : start + DECODE_ROWS] for name, values in flat.items()})
                for start in range(0, n_rows, DECODE_ROWS)
            ]
        return cls(codec, codes, n, torch.cat(parts))

    @classmethod
    def of_rows(cls, codec: Codec, rows_NPC: Tensor) -> Prototypes:
        """Encode them."""
        n_items, n, _ = rows_NPC.shape
        with full_precision(rows_NPC.device):
            codes = codec.encode(rows_NPC.flatten(0, 1))
        if n > 1:
            codes = {name: values.view(n_items, n, *values.shape[1:]) for name, values in codes.items()}
        return cls.of_codes(codec, codes, n)

    def __len__(self) -> int:
        return len(next(iter(self.codes.values())))

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return next(iter(self.codes.values())).device

    def to(self, device: torch.device) -> Prototypes:
        """Return them on a device."""
        codes = {name: values.to(device) for name, values in self.codes.items()}
        rows_RC = None if self.rows_RC is None else self.rows_RC.to(device)
        features_RX = None if self.features_RX is None else self.features_RX.to(device)
        return Prototypes(self.codec.to(device), codes, self.n, rows_RC, features_RX)

    def seen_by(self, codec: Codec) -> Prototypes:
        """Return them with what the codec of the rows sees of them, so that no row's context is looked through."""
        if self.rows_RC is None:
            return self
        with full_precision(self.device):
            return replace(self, features_RX=codec.features(self.rows_RC))

    def context(self, items_B: Tensor, weights: Weights) -> Tensor:
        """Return the context of rows [B, C], on the device of the prototypes.

        Items that have no prototype, because they came later, have the context zero.

        Args:
            items_B: int64.
            weights: of the rows.
        """
        return self._summed(_terms(items_B, weights, len(self)))

    def context_of(self, items_B: np.ndarray, mixing: Mixing) -> Tensor:
        """Return the context of rows [B, C] from numpy facts."""
        items = torch.tensor(items_B, device=self.device)  # copied: the caller's may be read-only
        return self.context(items, Weights.of(mixing, self.device))

    def decoded(self, codec: Codec, codes: Codes, items_B: Tensor, weights: Weights) -> Tensor:
        """Return rows [B, C] of a codec that takes context, decoded given these prototypes."""
        terms = _terms(items_B, weights, len(self))
        features_BX = None if self.features_RX is None else terms.sum(partial(weighted_sum, self.features_RX))
        return codec.decode_onto(self._summed(terms), codes, features_BX)

    def _summed(self, terms: _Terms) -> Tensor:
        if not len(self):
            return torch.zeros(len(terms.items_B), self.codec.spec.classes, device=terms.items_B.device)
        return terms.sum(self._sum_of_codes if self.rows_RC is None else partial(weighted_sum, self.rows_RC))

    def _sum_of_codes(self, items_B: Tensor, weights_BP: Tensor) -> Tensor:
        codes = {name: values[items_B] for name, values in self.codes.items()}
        if self.n == 1:
            codes = {name: values.unsqueeze(1) for name, values in codes.items()}
        return self.codec.decode_sum(codes, weights_BP)


def context_of_rows(rows_NPC: Tensor, items_B: Tensor, weights: Weights) -> Tensor:
    """Return the context of rows [B, C] from prototypes that are not coded."""
    return _terms(items_B, weights, len(rows_NPC)).sum(partial(weighted_sum, rows_NPC.flatten(0, 1)))


def weighted_sum(rows_RX: Tensor, items_B: Tensor, weights_BP: Tensor) -> Tensor:
    """Return the sum of each item's rows by their weights [B, X], in one pass."""
    n = weights_BP.shape[1]
    which_BP = items_B.unsqueeze(1)
    if n > 1:
        which_BP = which_BP * n + torch.arange(n, device=items_B.device)
    return torch.nn.functional.embedding_bag(which_BP, rows_RX, mode="sum", per_sample_weights=weights_BP)


@dataclass(frozen=True)
class _Terms:
    """What the context of rows is the sum of.

    Args:
        items_B: int64.
        own_BP: what the prototypes of the items weigh, their share included.
        mixed_M: rows that have a partner.
        partner_M: int64, the partners.
        partner_MP: what their prototypes weigh, with their share.
    """

    items_B: Tensor
    own_BP: Tensor
    mixed_M: Tensor
    partner_M: Tensor
    partner_MP: Tensor

    def sum(self, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the sums of what `of` says of items by weights."""
        said_BX = of(self.items_B, self.own_BP)
        if len(self.mixed_M):
            said_BX[self.mixed_M] += of(self.partner_M, self.partner_MP)
        return said_BX


def _terms(items_B: Tensor, weights: Weights, n_items: int) -> _Terms:
    """Return what rows are sums of; items from `n_items` on weigh nothing."""
    own_BP = weights.own_BP
    if own_BP is None:
        own_BP = torch.ones(len(items_B), 1, device=items_B.device)
    items_B, own_BP = _known(items_B, own_BP, n_items)
    if weights.partner_B is None or weights.share_B is None:
        return _Terms(items_B, own_BP, items_B[:0], items_B[:0], own_BP[:0])
    mixed_M = (weights.partner_B >= 0).nonzero()[:, 0]
    partner_MP = weights.share_B[mixed_M].unsqueeze(1)
    if weights.partner_BP is not None:
        partner_MP = partner_MP * weights.partner_BP[mixed_M]
    partner_M, partner_MP = _known(weights.partner_B[mixed_M].long(), partner_MP, n_items)
    own_BP = own_BP * (1 - weights.share_B).unsqueeze(1)  # a share is 0 where there is no partner
    return _Terms(items_B, own_BP, mixed_M, partner_M, partner_MP)


def _known(items_B: Tensor, weights_BP: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    is_known_B = items_B < n_items
    if bool(is_known_B.all()):
        return items_B, weights_BP
    return items_B * is_known_B, weights_BP * is_known_B.unsqueeze(1)

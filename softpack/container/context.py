"""What the decoder knows of rows before their codes: the prototypes of their items, mixed as the rows are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.abc import Codec, Codes
from softpack.container.mixing import Mixing

DECODE_ROWS = 1024
KEPT_VALUES = 1 << 25  # numbers of prototypes that are kept decoded; where there are more, they are when needed


@dataclass(frozen=True)
class Prototypes:
    """The prototypes of all items, as their codes say them.

    Args:
        codec: of the prototypes, which are logits whose mean is zero.
        codes: of the items that have one, the first ones.
        rows_NC: float32, the same decoded; None where they are too many to be kept.
    """

    codec: Codec
    codes: Codes
    rows_NC: Tensor | None = None

    @classmethod
    def of_codes(cls, codec: Codec, codes: Codes) -> Prototypes:
        """Decode them, a block at a time, if they are few enough."""
        n_items = len(next(iter(codes.values())))
        if not 0 < n_items * codec.spec.classes <= KEPT_VALUES:
            return cls(codec, codes)
        parts = [
            codec.decode({name: values[start : start + DECODE_ROWS] for name, values in codes.items()})
            for start in range(0, n_items, DECODE_ROWS)
        ]
        return cls(codec, codes, torch.cat(parts))

    def __len__(self) -> int:
        return len(next(iter(self.codes.values())))

    def to(self, device: torch.device) -> Prototypes:
        """Return them on a device."""
        codes = {name: values.to(device) for name, values in self.codes.items()}
        return Prototypes(
            self.codec.to(device), codes, None if self.rows_NC is None else self.rows_NC.to(device)
        )

    def context(
        self, items_B: Tensor, partner_B: Tensor | None = None, share_B: Tensor | None = None
    ) -> Tensor:
        """Return the context of rows [B, C], on the device of the prototypes.

        Items that have no prototype, because they came later, have the context zero.

        Args:
            items_B: int64.
            partner_B: int64, -1 for none; None where no row is mixed.
            share_B: float32 share of the partner.
        """
        context_BC = self._of(items_B)
        if partner_B is None or share_B is None:
            return context_BC
        mixed_M = (partner_B >= 0).nonzero()[:, 0]
        if len(mixed_M):
            share_M1 = share_B[mixed_M].unsqueeze(1)
            context_BC[mixed_M] = torch.lerp(context_BC[mixed_M], self._of(partner_B[mixed_M]), share_M1)
        return context_BC

    def context_of(self, items_B: np.ndarray, mixing: Mixing) -> Tensor:
        """Return the context of rows [B, C] from numpy facts."""
        device = next(iter(self.codes.values())).device
        return self.context(
            torch.tensor(items_B, device=device),  # copied: the caller's may be read-only
            torch.from_numpy(mixing.partner_B).to(device),
            torch.from_numpy(mixing.share_B).to(device),
        )

    def _of(self, items_B: Tensor) -> Tensor:
        if not len(self):
            return torch.zeros(len(items_B), self.codec.spec.classes, device=items_B.device)
        is_known_B = items_B < len(self)
        known_B = torch.where(is_known_B, items_B, 0)
        if self.rows_NC is not None:
            rows_BC = self.rows_NC.index_select(0, known_B)
        else:
            rows_BC = self.codec.decode({name: values[known_B] for name, values in self.codes.items()})
        return rows_BC if bool(is_known_B.all()) else rows_BC.masked_fill_(~is_known_B.unsqueeze(1), 0)

"""What the decoder knows of rows before their codes: the prototypes of their items, mixed as the rows are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.abc import Codec, Codes
from softpack.container.mixing import Mixing

DECODE_ROWS = 1024


@dataclass(frozen=True)
class Prototypes:
    """The prototypes of all items, as their codes say them.

    Args:
        rows_NC: float32 logits whose mean is zero.
    """

    rows_NC: Tensor

    @classmethod
    def of_codes(cls, codec: Codec, codes: Codes) -> Prototypes:
        """Decode them, a block at a time: the same codes give the same numbers on one machine."""
        n_items = len(next(iter(codes.values())))
        parts = [
            codec.decode({name: values[start : start + DECODE_ROWS] for name, values in codes.items()})
            for start in range(0, n_items, DECODE_ROWS)
        ]
        return cls(torch.cat(parts) if parts else torch.zeros(0, codec.spec.classes))

    def to(self, device: torch.device) -> Prototypes:
        """Return them on a device."""
        return Prototypes(self.rows_NC.to(device))

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
        device = self.rows_NC.device
        return self.context(
            torch.from_numpy(items_B).to(device),
            torch.from_numpy(mixing.partner_B).to(device),
            torch.from_numpy(mixing.share_B).to(device),
        )

    def _of(self, items_B: Tensor) -> Tensor:
        known = len(self.rows_NC)
        if not known:
            return self.rows_NC.new_zeros(len(items_B), self.rows_NC.shape[1])
        is_known_B = items_B < known
        rows_BC = self.rows_NC.index_select(0, torch.where(is_known_B, items_B, 0))
        return rows_BC if bool(is_known_B.all()) else rows_BC * is_known_B.unsqueeze(1)

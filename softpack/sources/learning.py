"""Learn the prototypes of a source's items, in one pass over its rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softpack.codecs.abc import Codec
from softpack.codecs.spaces import centred_logits
from softpack.container.context import Prototypes
from softpack.container.mixing import box_size, mixing_of
from softpack.container.prototypes import PrototypeLearner
from softpack.records import RowBlock
from softpack.sources.base import Source, block_rows

SIZE_ROWS = 1 << 16  # whose boxes say how large the pictures are


@dataclass(frozen=True)
class Learned:
    """What a source says of its items.

    Args:
        rows_NC: their prototypes, float32 logits whose mean is zero.
        mix_wh: width and height of the pictures in which the boxes of mixed rows lie.
    """

    rows_NC: Tensor
    mix_wh: tuple[int, int]

    def prototypes(self, codec: Codec, device: torch.device | str) -> Prototypes:
        """Return the prototypes as they decode, on a device."""
        return Prototypes.of_codes(codec, codec.encode(self.rows_NC)).to(torch.device(device))

    def context_of(self, block: RowBlock, prototypes: Prototypes) -> Tensor:
        """Return the context of rows, from prototypes as they decode."""
        return prototypes.context_of(block.item_B, mixing_of(block.replay, self.mix_wh, len(block)))

    def exact_context_of(self, block: RowBlock) -> Tensor:
        """Return the context of rows, from prototypes that no codec has touched."""
        mixing = mixing_of(block.replay, self.mix_wh, len(block))
        own_BC = self.rows_NC[torch.from_numpy(block.item_B)]
        partner_BC = self.rows_NC[torch.from_numpy(mixing.partner_B).clamp_min(0)]
        return torch.lerp(own_BC, partner_BC, torch.from_numpy(mixing.share_B).unsqueeze(1))


def learn(source: Source) -> Learned:
    """Learn the prototypes, by least squares over all rows; see `softpack.container.prototypes`.

    Memory for one row of every item is taken, whatever the number of rows.

    Raises:
        DataError: the source's rows are not what they should be.
    """
    mix_wh = _picture_size(source)
    learner = PrototypeLearner(source.items, source.spec.classes)
    for block in source.blocks(block_rows(source.spec.classes)):
        rows_BC = centred_logits(torch.from_numpy(block.labels_BC), source.spec).numpy()
        learner.add(rows_BC, block.item_B, mixing_of(block.replay, mix_wh, len(block)))
    return Learned(torch.from_numpy(learner.solve()), mix_wh)


def _picture_size(source: Source) -> tuple[int, int]:
    """Return the size that the boxes of some rows reach: the largest of many touch both edges."""
    size = (1, 1)
    if "mix_box_xyxy" in source.columns:
        for block in source.sample(SIZE_ROWS, 0):
            size = box_size(block.replay["mix_box_xyxy"], size)
    return size

"""Learn the prototypes of a source's items, in one pass over its rows, or two where views are told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.abc import Codec
from softpack.codecs.spaces import centred_logits
from softpack.container.context import Prototypes, Weights, context_of_rows
from softpack.container.mixing import Mixing, box_size, mixing_of, seen
from softpack.container.prototypes import PrototypeLearner
from softpack.container.viewpoint import ViewBasis, ViewpointTable, has_viewpoints, viewpoints_of_block
from softpack.errors import DataError
from softpack.records import RowBlock
from softpack.sources.base import Source

SIZE_ROWS = 1 << 16  # whose boxes say how large the pictures are


@dataclass(frozen=True)
class Learned:
    """What a source says of its items.

    Args:
        rows_NPC: their prototypes, float32 logits whose mean is zero; P of each item.
        mix_wh: width and height of the pictures in which the boxes of mixed rows lie.
        basis: functions that the prototypes of an item are weighted by; None where it has one.
        viewpoints: of all rows, for the functions.
        source_hw_N2: height and width of the pictures, where the source says them.
    """

    rows_NPC: Tensor
    mix_wh: tuple[int, int]
    basis: ViewBasis | None = None
    viewpoints: ViewpointTable = field(default_factory=ViewpointTable)
    source_hw_N2: np.ndarray | None = None

    def prototypes(self, codec: Codec, device: torch.device | str) -> Prototypes:
        """Return the prototypes as they decode, on a device."""
        return Prototypes.of_rows(codec, self.rows_NPC).to(torch.device(device))

    def mixing(self, block: RowBlock) -> Mixing:
        """Return what prototypes rows are mixed of."""
        mixing = mixing_of(block.replay, self.mix_wh, len(block))
        if self.basis is None:
            return mixing
        return seen(mixing, self.basis, self.viewpoints, block, self.source_hw_N2, "the source")

    def context_of(self, block: RowBlock, prototypes: Prototypes) -> Tensor:
        """Return the context of rows, from prototypes as they decode."""
        return prototypes.context_of(block.item_B, self.mixing(block))

    def exact_context_of(self, block: RowBlock) -> Tensor:
        """Return the context of rows, from prototypes that no codec has touched."""
        weights = Weights.of(self.mixing(block), torch.device("cpu"))
        return context_of_rows(self.rows_NPC, torch.from_numpy(block.item_B), weights)


def learn(source: Source, degree: int = 0, basis: ViewBasis | None = None) -> Learned:
    """Learn the prototypes, by least squares over all rows; see `softpack.container.prototypes`.

    Memory for the prototypes of every item is taken, and 20 bytes a row where they are weighted by viewpoints.

    Args:
        source: whose rows they are.
        degree: of the functions of the viewpoint that an item has a prototype for each of; 0: one prototype.
        basis: the functions, where a model has settled them.

    Raises:
        DataError: the source's rows are not what they should be, or do not say where views look.
    """
    mix_wh, viewpoints = _picture_size(source), ViewpointTable()
    if basis is not None or degree:
        viewpoints = _viewpoints(source)
        basis = basis or ViewBasis.fitted(viewpoints.all(), degree)
    learner = PrototypeLearner(source.items, source.spec.classes, None if basis is None else basis.orders)
    nothing = Learned(torch.empty(0), mix_wh, basis, viewpoints, source.item_columns.get("source_hw"))
    for block in _blocks(source):
        rows_BC = centred_logits(torch.from_numpy(block.labels_BC), source.spec).numpy()
        learner.add(rows_BC, block.item_B, nothing.mixing(block))
    return Learned(torch.from_numpy(learner.solve()), mix_wh, basis, viewpoints, nothing.source_hw_N2)


def _blocks(source: Source) -> Iterator[RowBlock]:
    return source.blocks(source.block_rows)


def _viewpoints(source: Source) -> ViewpointTable:
    """Return where all views look: a row is coded given where its mix partner's row looks too."""
    if not has_viewpoints(source.columns, source.item_columns.keys()):
        raise DataError(
            f"{source.path}: does not say where views look; give the replay columns crop_xywh_fraction, or crop_xywh "
            "with source_hw, or fit a model without them"
        )
    table, source_hw_N2 = ViewpointTable(), source.item_columns.get("source_hw")
    for block in _blocks(source):
        table.add(block.item_B, block.view_B, viewpoints_of_block(block, source_hw_N2))
    return table


def _picture_size(source: Source) -> tuple[int, int]:
    """Return the size that the boxes of some rows reach: the largest of many touch both edges."""
    size = (1, 1)
    if "mix_box_xyxy" in source.columns:
        for block in source.sample(SIZE_ROWS, 0):
            size = box_size(block.replay["mix_box_xyxy"], size)
    return size

"""The first rows of a file, held until there are enough to fit its codec to, and the entropy coder's tables."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from softpack.codecs.abc import Codec, Progress
from softpack.codecs.sparse import as_sparse_rows
from softpack.container.context import Prototypes
from softpack.container.correcting import full_precision
from softpack.container.mixing import mixing_of
from softpack.container.model import Model
from softpack.container.tables import tables_of_sample
from softpack.container.tile_writer import codes_of
from softpack.container.tiles import Tables
from softpack.records import RowBlock

FIT_VALUES = 1 << 25  # numbers in the sample that a codec is fitted to
LEAST_FIT_ROWS = 4096
MOST_FIT_VALUES = 1 << 29  # 2 GiB: of a vocabulary of 262,144, 2048 rows
TABLE_ROWS = 2048  # whose codes the entropy coder's tables are made from
TABLE_VALUES = 1 << 28


def fit_rows(classes: int) -> int:
    """Return how many rows a codec is fitted to at most."""
    return max(min(LEAST_FIT_ROWS, MOST_FIT_VALUES // classes), FIT_VALUES // classes, 1)


@dataclass(frozen=True)
class Fit:
    """How a codec is fitted to the rows of a file.

    Args:
        n_rows: that the file will have; None where it is not known.
        seed: of all that is random.
        device: where it is done.
        mix_wh: width and height of the pictures in which `mix_box_xyxy` lies.
        progress: is told how far it is.
    """

    n_rows: int | None
    seed: int
    device: torch.device
    mix_wh: tuple[int, int]
    progress: Progress | None


def wants_rows(codec: Codec) -> bool:
    """Return whether the entropy coder's tables are made from rows of a codec."""
    return codec.wants_tables and not codec.takes_context


class Gathered:
    """Rows that wait for their codec, or for tables alone.

    Args:
        needs_fit: whether the codec is to be fitted.
    """

    def __init__(self, needs_fit: bool) -> None:
        self.needs_fit = needs_fit
        self._blocks: deque[RowBlock] = deque()
        self._n_rows = 0

    def __len__(self) -> int:
        return self._n_rows

    def add(self, block: RowBlock) -> bool:
        """Take copies of rows, and return whether there are enough."""
        self._blocks.append(replace(block, labels_BC=block.labels_BC.copy()))
        self._n_rows += len(block)
        width = block.labels_BC.shape[1] if block.sparse is None else 2 * block.sparse.ids_BK.shape[1]
        return self._n_rows >= (fit_rows(width) if self.needs_fit else TABLE_ROWS)

    def pop(self) -> Iterator[RowBlock]:
        """Yield the rows, and let go of them."""
        while self._blocks:
            block = self._blocks.popleft()
            self._n_rows -= len(block)
            yield block

    def fitted(self, model: Model, prototypes: Prototypes | None, how: Fit) -> Model:
        """Return a model whose codec and tables are fitted to the rows."""
        with full_precision(how.device):
            codec = self._codec(model.codec, prototypes, how) if self.needs_fit else model.codec
        if not wants_rows(codec) or not len(self) or not all(map(len, self._blocks)):
            return replace(model, codec=codec)
        return replace(model, codec=codec, tables=self._tables(codec, how))

    def _codec(self, codec: Codec, prototypes: Prototypes | None, how: Fit) -> Codec:
        sparse = [
            as_sparse_rows(b.sparse, codec.spec, how.device) for b in self._blocks if b.sparse is not None
        ]
        if sparse:
            return codec.fit_sparse(sparse, how.seed, how.n_rows, how.progress)
        rows = (torch.from_numpy(block.labels_BC).to(how.device).float() for block in self._blocks)
        contexts = None if prototypes is None else self._contexts(prototypes.to(how.device), how.mix_wh)
        return codec.fit(rows, how.seed, how.n_rows, how.progress, contexts)

    def _contexts(self, prototypes: Prototypes, mix_wh: tuple[int, int]) -> Iterator[Tensor]:
        for block in self._blocks:
            yield prototypes.context_of(block.item_B, mixing_of(block.replay, mix_wh, len(block)))

    def _tables(self, codec: Codec, how: Fit) -> Tables:
        """Return tables for the entropy coder, by the codes of some of the rows."""
        parts, left = [], max(1, min(TABLE_ROWS, TABLE_VALUES // codec.spec.classes))
        for block in self._blocks:
            some = block.take(slice(0, left))
            parts.append(codes_of(codec, some, how.device))
            left -= len(some)
            if not left:
                break
        return tables_of_sample(codec, parts, how.n_rows or len(self))

"""The samples of one batch, and how to collate them without copying the labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

Sample = tuple[Any, ...]


class Batch(list[Sample]):
    """Samples that remember the tensor [B, C] whose rows their labels are."""

    def __init__(self, samples: Iterable[Sample], labels_BC: Tensor) -> None:
        super().__init__(samples)
        self.labels_BC = labels_BC


def collate(batch: list[Sample]) -> Any:
    """Collate as PyTorch's default does, but without copying labels: `DataLoader(..., collate_fn=collate)`.

    What comes out is the same. The labels of a batch are decoded into one tensor [B, C], which the default
    takes apart and stacks again.
    """
    if not isinstance(batch, Batch) or len(batch) != len(batch.labels_BC) or not batch:
        return default_collate(batch)
    return [*default_collate([sample[:-1] for sample in batch]), batch.labels_BC]

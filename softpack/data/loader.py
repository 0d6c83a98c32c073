"""A DataLoader that knows what has come out of it, and decodes labels where the student is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from softpack.data.batch import Batch, Sample, collate
from softpack.data.dataset import SoftLabelDataset
from softpack.data.sampler import ViewSampler


class Loader(DataLoader[Sample]):
    """PyTorch's DataLoader over a `ViewSampler`, to be stopped at any step and resumed with other workers or ranks.

        sampler = softpack.ViewSampler(dataset.labels, batch_size=128, seed=0)
        loader = softpack.Loader(dataset, sampler, device="cuda", num_workers=2)

    Workers make the pixels alone: which labels belong to them is all they say of these, and the process of the student
    decodes a batch at a time, on `device`. Hold the codes there too by `softpack.open(path).load(device)`.

    `state_dict()` counts the batches that have come out, not those that workers have made ahead. Within the loop it
    says that the present batch is done.

    Args:
        dataset: with soft labels.
        sampler: of its labels.
        device: where labels come out; images stay where the workers made them.
        kwargs: all that a DataLoader takes, but batch_size, shuffle, sampler, batch_sampler and drop_last. What
            `collate_fn` gives must be a sequence that ends with what stands for the labels.
    """

    def __init__(
        self,
        dataset: SoftLabelDataset,
        sampler: ViewSampler,
        *,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> None:
        super().__init__(_Undecoded(dataset), batch_sampler=sampler, **{"collate_fn": collate, **kwargs})
        self.labels, self.views, self.device = dataset.labels, sampler, torch.device(device)
        self.at: tuple[int, int] | None = None  # epoch and rows of it that have come out

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch, position = self.at = self.views.epoch, self.views.start
        for *inputs, rows_B2 in super().__iter__():
            labels_BC = self.labels.read(rows_B2[:, 0], rows_B2[:, 1], self.device)
            position += self.views.rows_at(position)
            self.at = epoch, position
            yield [*inputs, labels_BC]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint should keep: numbers and strings."""
        return self.views.state_at(*(self.at or (self.views.epoch, self.views.start)))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; see `ViewSampler.load_state_dict`."""
        self.views.load_state_dict(state)
        self.at = None


class _Undecoded(Dataset[Sample]):
    """A dataset whose labels are items and views."""

    def __init__(self, dataset: SoftLabelDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        return self.dataset.undecoded([index])[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> Batch:
        return self.dataset.undecoded(indices)

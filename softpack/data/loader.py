"""A DataLoader that knows what has come out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from softpack.data.batch import Sample, collate
from softpack.data.dataset import SoftLabelDataset
from softpack.data.sampler import ViewSampler


class Loader(DataLoader[Sample]):
    """PyTorch's DataLoader over a `ViewSampler`, to be stopped at any step and resumed with other workers or ranks.

        sampler = softpack.ViewSampler(dataset.labels, batch_size=128, seed=0)
        loader = softpack.Loader(dataset, sampler, num_workers=2)

    `state_dict()` counts the batches that have come out, not those that workers have made ahead. Within the loop it
    says that the present batch is done.

    Args:
        dataset: with soft labels.
        sampler: of its labels.
        kwargs: all that a DataLoader takes, but batch_size, shuffle, sampler, batch_sampler and drop_last.
    """

    def __init__(self, dataset: SoftLabelDataset, sampler: ViewSampler, **kwargs: Any) -> None:
        super().__init__(dataset, batch_sampler=sampler, **{"collate_fn": collate, **kwargs})
        self.views = sampler
        self.at: tuple[int, int] | None = None  # epoch and rows of it that have come out

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch, position = self.at = self.views.epoch, self.views.start
        for batch in super().__iter__():
            position += self.views.rows_at(position)
            self.at = epoch, position
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint should keep: numbers and strings."""
        return self.views.state_at(*(self.at or (self.views.epoch, self.views.start)))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; see `ViewSampler.load_state_dict`."""
        self.views.load_state_dict(state)
        self.at = None

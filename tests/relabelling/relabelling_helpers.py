"""A small teacher and small images."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import softpack

N, SIZE, CLASSES = 24, 16, 12
RECIPE = softpack.Recipe(size=SIZE, mix="cutmix", mixed=0.5, seed=4)


class Images:
    """Images of several sizes with targets, which count how often each is loaded."""

    def __init__(self, n: int = N, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        fields = random.integers(0, 256, (n, 6, 6, 3))
        self.pixels = [np.kron(fields[i], np.ones((4 + i % 3, 5, 1))).astype(np.uint8) for i in range(n)]
        self.loads = 0

    def swapped(self) -> Images:
        """Return these with two of one size but other classes in each other's place."""
        self.pixels[0], self.pixels[3] = self.pixels[3][:, ::-1], self.pixels[0][:, :-1]
        return self

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, item: int):
        self.loads += 1
        return self.pixels[item], item % CLASSES


def make_teacher(seed: int = 0, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
    last = nn.Linear(72, classes)
    nn.init.normal_(last.weight, std=4)
    return nn.Sequential(*layers, last)

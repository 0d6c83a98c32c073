"""One student, trained from one file of labels, and its accuracy after the last epoch.

Shapes in names: N items, V views, B a batch, C channels or classes, H high, W wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

import softpack
from students.networks import MeanStd, accuracy, autocast, convnet, normalised
from students.pictures import Part

ITEMS = 100  # whose views are replayed at once
WARM_UP = 0.3  # of the steps of one cycle


@dataclass(frozen=True)
class Schedule:
    """How students are trained; AdamW with weight decay of 0.01.

    Args:
        known_as: whose it is.
        epochs: each shows every image once.
        batch: images of a step.
        lr: the greatest learning rate.
        rate: how it goes: "cosine" to 0, "half cosine" to a half, or "one cycle".
    """

    known_as: str
    epochs: int
    batch: int
    lr: float
    rate: str


def _one_cycle(done: float) -> float:
    if done < WARM_UP:
        return 0.02 + 0.98 * (1 - math.cos(math.pi * done / WARM_UP)) / 2
    return (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


RATES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "half cosine": lambda done: (1 + math.cos(math.pi * done / 2)) / 2,
    "one cycle": _one_cycle,
}


def views_of(images: Part, labels: Path, size: int) -> Tensor:
    """Return the pixels of all views as the file of labels replays them, uint8 [N, V, C, H, W].

    Replayed once for all arms and seeds, to which they are the same.
    """
    dataset = softpack.SoftLabelDataset(images, labels, softpack.replay(size), resident=True)
    n_items, n_views, _ = dataset.labels.shape
    parts = []
    for start in range(0, n_items, ITEMS):
        rows = [(item, view) for item in range(start, min(start + ITEMS, n_items)) for view in range(n_views)]
        parts += [pixels_CHW.mul(255).round().to(torch.uint8) for pixels_CHW, *_ in dataset.undecoded(rows)]
    return torch.stack(parts).view(n_items, n_views, *parts[0].shape)


def trained_accuracy(
    pixels_NVCHW: Tensor,
    mean_std: MeanStd,
    labels: Path,
    tests: tuple[tuple[Tensor, Tensor], ...],
    how: Schedule,
    widths: tuple[int, ...],
    temperature: str,
    seed: int,
    is_pool: bool = False,
) -> tuple[float, ...]:
    """Return the accuracy of a student of the last epoch on each of some tests.

    Args:
        pixels_NVCHW: uint8, all views, as `views_of` replays them.
        mean_std: of each channel.
        labels: file of their labels.
        tests: pixels and classes.
        how: it is trained.
        widths: of its layers.
        temperature: of the loss, or "falling": from 20 by 0.7 after every tenth of the epochs, as LPQLD's.
        seed: of its weights and of the order of images.
        is_pool: labels are missing; an epoch shows as many as there are images, whichever they are.
    """
    opened = softpack.open(labels)
    resident = opened.load()
    sampler = softpack.ViewSampler(resident, how.batch, seed=seed, draw="pool" if is_pool else "epoch")
    network = convnet(pixels_NVCHW.shape[2], opened.shape[2], pixels_NVCHW.shape[-1], widths, seed)
    optimizer = torch.optim.AdamW(network.parameters(), how.lr, weight_decay=0.01, fused=True)
    n_steps = how.epochs * len(sampler)
    schedule = LambdaLR(optimizer, lambda step: RATES[how.rate](step / n_steps))
    network.train()
    for epoch in range(how.epochs):
        T = temperature_at(temperature, epoch, how.epochs)
        for rows in sampler:
            items_B, views_B = np.array(rows).T
            with autocast():
                logits_BC = network(normalised(pixels_NVCHW[items_B, views_B], mean_std))
            label_BC = resident.read(items_B, views_B)
            loss = softpack.losses.kl(logits_BC, label_BC, T, squared=False, spec=opened.spec)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return tuple(accuracy(network, *test) for test in tests)


def temperature_at(temperature: str, epoch: int, epochs: int) -> float:
    """Return the temperature of an epoch."""
    if temperature != "falling":
        return float(temperature)
    return softpack.losses.temperature(epoch, start=20, factor=0.7, every=max(epochs // 10, 1))

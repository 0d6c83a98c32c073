"""A student trained from soft labels: the plain loop of knowledge distillation, and its accuracy.

The loss is `softpack.losses.kl`; AdamW, whose learning rate falls as a cosine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from softpack import losses
from softpack.errors import DataError
from softpack.records import LabelSpec

Batch = Sequence[Tensor]  # images [B, channels, H, W], targets [B], and to train from, labels [B, C]


def train_student(
    model: nn.Module,
    loader: Iterable[Batch],
    spec: LabelSpec,
    *,
    epochs: int,
    temperature: float = 1.0,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    times_t_squared: bool = True,
    seed: int = 0,
) -> list[float]:
    """Train a student in place and return the mean loss of each epoch.

    The student that remains is the one of the last epoch; nothing is selected. Targets are not looked at: hard
    labels are labels too, with -inf in every other class.

    Args:
        model: gives logits [B, C]; its first parameter says the device that batches are taken to.
        loader: gives (images, targets, labels) each time it is iterated.
        spec: what the labels are; log-probabilities and probabilities are taken to logits.
        epochs: passes over the loader.
        temperature: of the loss.
        lr: learning rate of the first epoch; it falls to nearly 0 in the last.
        weight_decay: of AdamW.
        times_t_squared: see `softpack.losses.kl`.
        seed: of torch's generators, which order a shuffling loader; they are restored afterwards. The initial
            weights are those that the model comes with.

    Raises:
        DataError: the loader gives nothing, or the loss is not finite.
    """
    optimizer = AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = CosineAnnealingLR(optimizer, T_max=epochs)
    device = _device(model)
    model.train()
    means = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(epochs):
            total, rows = 0.0, 0
            for images, _, labels_BC in loader:
                logits_BC = model(images.to(device))
                loss = losses.kl(
                    logits_BC, labels_BC.to(device), temperature, squared=times_t_squared, spec=spec
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total, rows = total + loss.item() * len(images), rows + len(images)
            means.append(_mean_loss(total, rows, epoch))
            schedule.step()
    return means


@torch.inference_mode()
def accuracy(model: nn.Module, loader: Iterable[Batch]) -> float:
    """Return the share of images whose target is the model's largest logit, 0 to 1.

    The model is put into evaluation mode and left there.

    Args:
        model: gives logits [B, C].
        loader: gives (images, targets, ...).

    Raises:
        DataError: the loader gives nothing.
    """
    device = _device(model)
    model.eval()
    right, rows = 0, 0
    for images, targets, *_ in loader:
        right += int((model(images.to(device)).argmax(1).cpu() == targets.cpu()).sum())
        rows += len(images)
    if not rows:
        raise DataError("the loader gave no images to measure accuracy on; expected at least one")
    return right / rows


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _mean_loss(total: float, rows: int, epoch: int) -> float:
    if not rows:
        raise DataError(f"the loader gave no rows in epoch {epoch}; expected at least one batch every epoch")
    if not math.isfinite(total):
        raise DataError(
            f"the loss of epoch {epoch} is {total}; expected a finite one: "
            "look for NaN among labels and images, or lower the learning rate"
        )
    return total / rows

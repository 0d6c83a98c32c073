"""Teachers, trained once on all training images with hard labels, and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import softpack
from students.networks import accuracy, autocast, convnet, normalised
from students.pictures import Part, Pictures

BATCH = 250


@dataclass(frozen=True)
class Training:
    """How a teacher is trained.

    Args:
        widths: of its layers.
        epochs: over the training images.
        scale: least share of an image's area that a crop has.
        flip: whether half of the images are flipped.
        lr: the greatest learning rate, of one cycle.
        mixed: share of the batches that are mixed by CutMix.
    """

    widths: tuple[int, ...]
    epochs: int
    scale: float
    flip: bool
    lr: float = 1e-2
    mixed: float = 0.5


def trained(
    pictures: Pictures, how: Training, path: Path, step: Callable[[int, int], None], seed: int = 0
) -> nn.Module:
    """Return the teacher, from its file where there is one. It takes pixels as `pixels_of` gives them.

    Args:
        pictures: of which it learns the training images.
        how: it is trained.
        path: of its weights.
        step: is told (steps done, steps in all).
        seed: of weights and augmentations.
    """
    network = convnet(pictures.train.images_NCHW.shape[1], pictures.classes, pictures.size, how.widths, seed)
    if path.is_file():
        network.load_state_dict(load_file(path))
        return network.eval()
    _train(network, pictures, how, step, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return network.eval()


def pixels_of(part: Part, pictures: Pictures) -> Tensor:
    """Return whole images as networks see them: resized, and normalised."""
    transform = softpack.replay(pictures.size)
    return normalised(torch.stack([transform(image) for image in part.images_NCHW]), pictures.mean_std)


def top1(network: nn.Module, part: Part, pictures: Pictures) -> float:
    """Return a network's accuracy on whole images."""
    return accuracy(network, pixels_of(part, pictures), part.targets_N)


def _train(
    network: nn.Module, pictures: Pictures, how: Training, step: Callable[[int, int], None], seed: int
) -> None:
    generator, mean_std = torch.Generator().manual_seed(seed), pictures.mean_std
    optimizer = torch.optim.AdamW(network.parameters(), how.lr, weight_decay=0.01)
    n_steps = how.epochs * (len(pictures.train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.lr, n_steps)
    network.train()
    for number in range(n_steps):
        if number * BATCH % (len(pictures.train) // BATCH * BATCH) == 0:
            order_N = torch.randperm(len(pictures.train), generator=generator)
        rows_B = order_N[torch.arange(number * BATCH, (number + 1) * BATCH) % (len(order_N) // BATCH * BATCH)]
        part = pictures.train.take(rows_B)
        pixels_BCHW = _cropped(part.images_NCHW.float() / 255, pictures.size, how, generator)
        pixels_BCHW, partner_B, share = _mixed(normalised(pixels_BCHW, mean_std), how, generator)
        with autocast():
            logits_BC = network(pixels_BCHW).float()
        loss = share * F.cross_entropy(logits_BC, part.targets_N)
        loss = loss + (1 - share) * F.cross_entropy(logits_BC, part.targets_N[partner_B])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        step(number + 1, n_steps)


def _cropped(images_BCHW: Tensor, size: int, how: Training, generator: torch.Generator) -> Tensor:
    """Return random crops of images, some flipped, resized."""
    n = len(images_BCHW)
    area_B = how.scale + (1 - how.scale) * torch.rand(n, generator=generator)
    ratio_B = torch.exp((torch.rand(n, generator=generator) - 0.5) * 2 * torch.log(torch.tensor(4 / 3)))
    side_B2 = torch.stack([area_B.mul(ratio_B).sqrt(), area_B.div(ratio_B).sqrt()], 1).clamp_max(1)
    middle_B2 = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - side_B2)
    sign_B = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0) if how.flip else torch.ones(n)
    theta_B23 = torch.zeros(n, 2, 3)
    theta_B23[:, 0, 0], theta_B23[:, 1, 1] = side_B2[:, 0] * sign_B, side_B2[:, 1]
    theta_B23[:, :, 2] = middle_B2
    shape = [n, images_BCHW.shape[1], size, size]
    grid_BHW2 = F.affine_grid(theta_B23, shape, align_corners=False)
    return F.grid_sample(images_BCHW, grid_BHW2, padding_mode="border", align_corners=False)


def _mixed(pixels_BCHW: Tensor, how: Training, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Return images mixed by one box of CutMix, their partners, and the share that is their own."""
    n, size = len(pixels_BCHW), pixels_BCHW.shape[-1]
    partner_B = torch.randperm(n, generator=generator)
    draw, lam, x, y = torch.rand(4, generator=generator).tolist()
    if draw >= how.mixed:
        return pixels_BCHW, partner_B, 1.0
    half = (1 - lam) ** 0.5 * size / 2
    x1, x2, y1, y2 = (round(min(max(at * size + side, 0), size)) for at in (x, y) for side in (-half, half))
    mixed_BCHW = pixels_BCHW.clone()
    mixed_BCHW[:, :, y1:y2, x1:x2] = pixels_BCHW[partner_B, :, y1:y2, x1:x2]
    return mixed_BCHW, partner_B, 1 - (y2 - y1) * (x2 - x1) / size**2

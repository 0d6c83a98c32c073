"""The network of teachers and students: the ConvNet of dataset distillation, with batch norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]
CHUNK = 1000  # images that are judged at once


def convnet(channels: int, classes: int, size: int, widths: Sequence[int], seed: int) -> nn.Module:
    """Return a network of (convolution, batch norm, ReLU, average of 2 x 2) for each width, its weights by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for n_in, n_out in zip((channels, *widths), widths, strict=False):
            layers += [
                nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(n_out),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        n_features = widths[-1] * (size >> len(widths)) ** 2
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(n_features, classes))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def normalised(images_NCHW: Tensor, mean_std: MeanStd) -> Tensor:
    """Return what networks see of uint8 images, or of numbers in [0, 1]: less the mean, over the deviation."""
    mean_C11, std_C11 = (torch.tensor(numbers)[:, None, None] for numbers in mean_std)
    pixels_NCHW = images_NCHW.float() / 255 if images_NCHW.dtype == torch.uint8 else images_NCHW
    return ((pixels_NCHW - mean_C11) / std_C11).contiguous(memory_format=torch.channels_last)


def autocast() -> torch.autocast:
    """Return the precision that networks work in: bfloat16 where the processor multiplies in it, else float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


@torch.inference_mode()
def logits_of(network: nn.Module, pixels_NCHW: Tensor) -> Tensor:
    """Return what a network says of images, float32 [N, classes]; it is left in evaluation mode."""
    network.eval()
    with autocast():
        return torch.cat([network(some_BCHW).float() for some_BCHW in pixels_NCHW.split(CHUNK)])


def accuracy(network: nn.Module, pixels_NCHW: Tensor, targets_N: Tensor) -> float:
    """Return the share of images whose class a network finds."""
    return float((logits_of(network, pixels_NCHW).argmax(1) == targets_N).float().mean())

"""The student: a small transformer over a vocabulary of its own.

Shapes in names: B sequences, V positions, D width, C classes of the student.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

HEAD = 32  # width of a head of attention


class Block(nn.Module):
    """Causal attention and two layers, each added to what comes in."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = width // HEAD, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BVD: Tensor) -> Tensor:
        """Return the sum of what came in and what it adds."""
        qkv = self.attention(self.before(x_BVD)).unflatten(2, (3, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*qkv, is_causal=True).transpose(1, 2).flatten(2)
        x_BVD = x_BVD + F.dropout(self.out(seen), self.dropout, self.training)
        return x_BVD + F.dropout(self.layers(self.between(x_BVD)), self.dropout, self.training)


class Student(nn.Module):
    """A transformer whose input and output share their matrix.

    Args:
        classes: of its vocabulary.
        positions: of a sequence at most.
        width: of its layers.
        depth: blocks.
        dropout: share of numbers that training leaves out.
        seed: of the weights.
    """

    def __init__(self, classes: int, positions: int, width: int, depth: int, dropout: float, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.tokens, self.places = nn.Embedding(classes, width), nn.Embedding(positions, width)
            self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(depth))
            self.last, self.bias_C = nn.LayerNorm(width), nn.Parameter(torch.zeros(classes))
            self.dropout = dropout
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    is_last = name.endswith(("out.weight", "layers.2.weight"))
                    nn.init.normal_(parameter, std=0.02 / ((2 * depth) ** 0.5 if is_last else 1))

    def forward(self, tokens_BV: Tensor) -> Tensor:
        """Return float32 logits [B, V, C]."""
        x_BVD = self.tokens(tokens_BV) + self.places.weight[: tokens_BV.shape[1]]
        x_BVD = F.dropout(x_BVD, self.dropout, self.training)
        for block in self.blocks:
            x_BVD = block(x_BVD)
        return F.linear(self.last(x_BVD), self.tokens.weight, self.bias_C).float()


def autocast() -> AbstractContextManager[object]:
    """Return bfloat16 where the processor has products of it, which are six times faster; else float32."""
    if torch.cpu._is_avx512_bf16_supported():
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext()

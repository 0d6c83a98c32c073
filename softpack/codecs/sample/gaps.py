"""Sorted numbers <-> the gaps between them, as the bit length of each and all the other bits packed.

A gap of n bits says its highest bit by its length, and its n - 1 others follow those of the gap before. So a row of D
numbers takes D lengths, which an entropy coder makes small, and a string of bits that is as long as it must be.

Shapes in names: B rows, D numbers of a row, N bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 4  # bytes in which the bits of a gap lie: up to 24, and 7 before them


def n_bytes(n_numbers: int, n_values: int) -> int:
    """Return the bytes that hold the bits of any `n_numbers` gaps whose sum is at most `n_values`.

    The bits of a gap g are at most b - 2 + g / 2**(b - 1), for any b; this b makes the sum of these least.
    """
    b = max(2, (n_values // n_numbers).bit_length())
    return max(1, -(-(n_numbers * (b - 2) + (n_values >> (b - 1))) // 8))


def to_gaps(numbers_BD: Tensor, n_bytes: int) -> tuple[Tensor, Tensor]:
    """Return lengths [B, D] and bytes [B, n_bytes], both uint8, of numbers from 0 on.

    Args:
        numbers_BD: int64, rising; equal ones have a gap of 0, whose length is 0.
        n_bytes: of each row, as `n_bytes` gives them.
    """
    gaps_BD = numbers_BD.diff(dim=1, prepend=torch.full_like(numbers_BD[:, :1], -1))
    lengths_BD = torch.frexp(gaps_BD.double()).exponent.long()
    start_BD, n_bits_BD = _places(lengths_BD)
    bits_BD = (gaps_BD & ((1 << n_bits_BD) - 1)) << (start_BD & 7)
    bytes_BN = torch.zeros((len(gaps_BD), n_bytes + WINDOW), dtype=torch.int64, device=gaps_BD.device)
    for place in range(WINDOW):
        bytes_BN.scatter_add_(1, (start_BD >> 3) + place, bits_BD >> 8 * place & 255)
    return lengths_BD.to(torch.uint8), bytes_BN[:, :n_bytes].to(torch.uint8)


def from_gaps(lengths_BD: Tensor, bytes_BN: Tensor) -> Tensor:
    """Return the numbers [B, D] of lengths and bytes, int64; of any lengths to 25 some numbers."""
    start_BD, n_bits_BD = _places(lengths_BD.long())
    more_BN = torch.nn.functional.pad(bytes_BN.long(), (0, WINDOW))
    first_BD = (start_BD >> 3).clamp_max(bytes_BN.shape[1])  # what lies behind the bytes is 0
    window_BD = sum(more_BN.gather(1, first_BD + place) << 8 * place for place in range(WINDOW))
    bits_BD = (window_BD >> (start_BD & 7)) & ((1 << n_bits_BD) - 1)
    gaps_BD = torch.where(lengths_BD > 0, bits_BD | (1 << n_bits_BD), 0)
    return gaps_BD.cumsum(dim=1) - 1


def _places(lengths_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the bits of each gap begin, and how many they are."""
    n_bits_BD = (lengths_BD - 1).clamp_min(0)
    return n_bits_BD.cumsum(dim=1) - n_bits_BD, n_bits_BD

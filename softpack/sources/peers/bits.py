"""Numbers of a few bits each, one after another in bytes: the highest bit first.

Shapes in names: R rows, N numbers of each, Y bytes of each.
"""

from __future__ import annotations

from math import gcd

import numpy as np

MOST_BITS = 32


def packed_bytes(n: int, bits: int) -> int:
    """Return the bytes that n numbers take."""
    return -(-n * bits // 8)


def unpack(packed_RY: np.ndarray, n: int, bits: int) -> np.ndarray:
    """Return the first n numbers of each row, int64 [R, n].

    A few numbers fill a few bytes exactly, such as four of 18 bits nine; the same numbers of all groups are shifted out
    together.

    Args:
        packed_RY: uint8, rows of at least `packed_bytes(n, bits)`.
        n: numbers of a row.
        bits: of a number, 1 to 32.
    """
    in_group = 8 // gcd(bits, 8)
    group_bytes, n_groups = in_group * bits // 8, -(-n // in_group)
    padded_RY = np.zeros((len(packed_RY), n_groups * group_bytes), np.uint8)
    n_bytes = packed_bytes(n, bits)
    padded_RY[:, :n_bytes] = packed_RY[:, :n_bytes]
    bytes_RGY = padded_RY.reshape(-1, n_groups, group_bytes)
    out_RGN = np.empty((len(packed_RY), n_groups, in_group), np.int64)
    for place in range(in_group):
        first, stop = place * bits // 8, -(-(place + 1) * bits // 8)
        total_RG = bytes_RGY[:, :, first].astype(np.int64)
        for byte in range(first + 1, stop):
            total_RG = (total_RG << 8) | bytes_RGY[:, :, byte]
        total_RG >>= 8 * stop - (place + 1) * bits
        out_RGN[:, :, place] = total_RG & ((1 << bits) - 1)
    return np.ascontiguousarray(out_RGN.reshape(len(packed_RY), -1)[:, :n])


def pack(numbers_RN: np.ndarray, bits: int) -> np.ndarray:
    """Return numbers below 2**bits as bytes, uint8 [R, Y]."""
    n_rows, n = numbers_RN.shape
    places = np.arange(bits - 1, -1, -1, dtype=np.uint32)
    bits_RNb = (numbers_RN.astype(np.uint32)[:, :, None] >> places) & np.uint32(1)
    packed_RY: np.ndarray = np.packbits(bits_RNb.astype(np.uint8).reshape(n_rows, n * bits), axis=1)
    return packed_RY

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
    return np.ascontiguousarray(out_RGN.reshape(len(packed_RY), n_groups * in_group)[:, :n])


def pack(numbers_RN: np.ndarray, bits: int) -> np.ndarray:
    """Return numbers below 2**bits as bytes, uint8 [R, Y]; 1 to 32 bits."""
    n_rows, n = numbers_RN.shape
    in_group = 8 // gcd(bits, 8)
    group_bytes, n_groups = in_group * bits // 8, -(-n // in_group)
    padded_RN = np.zeros((n_rows, n_groups * in_group), np.int64)
    padded_RN[:, :n] = numbers_RN
    numbers_RGN = padded_RN.reshape(n_rows, n_groups, in_group)
    out_RGY = np.zeros((n_rows, n_groups, group_bytes), np.uint8)
    for byte in range(group_bytes):
        for place in range(8 * byte // bits, -(-8 * (byte + 1) // bits)):
            shift = (place + 1) * bits - 8 * (byte + 1)
            part_RG = numbers_RGN[:, :, place] >> shift if shift > 0 else numbers_RGN[:, :, place] << -shift
            out_RGY[:, :, byte] |= part_RG.astype(np.uint8)  # the lowest 8 bits of it
    packed_RY: np.ndarray = out_RGY.reshape(n_rows, n_groups * group_bytes)[:, : packed_bytes(n, bits)]
    return packed_RY

"""Pack unsigned integers of any width into planes of bits, and back. numpy only.

A width of w = 8a + r bits becomes a byte planes (lowest byte first) and then, for r = 4 + 2 + 1, one plane
of 4-bit, of 2-bit and of 1-bit fields as r needs them, from low to high; fields fill a byte from its low
end. Every plane begins on a byte. Planes need only shift, mask and or, on any device, and bytes of one
significance lie together, which zstd likes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from softpack.errors import CorruptError

MAX_WIDTH = 32
FIELDS = {  # by bits: the fields of each byte, as the bytes of one integer
    bits: (np.arange(256)[:, None] >> np.arange(0, 8, bits) & (1 << bits) - 1)
    .astype(np.uint8)
    .view(f"u{8 // bits}")[:, 0]
    for bits in (1, 2, 4)
}


def field_widths(width: int) -> Iterator[tuple[int, int]]:
    """Yield (shift, bits) of each plane that `width` bits are split into."""
    shift = 0
    while width - shift >= 8:
        yield shift, 8
        shift += 8
    for bits in (4, 2, 1):
        if (width - shift) & bits:
            yield shift, bits
            shift += bits


def packed_size(n_values: int, width: int) -> int:
    """Return the bytes that `n_values` values of `width` bits take."""
    return sum((n_values * bits + 7) // 8 for _, bits in field_widths(width))


def needed_width(largest: int) -> int:
    """Return the bits that hold every value from 0 to `largest`."""
    return int(largest).bit_length()


def pack(values: np.ndarray, width: int) -> bytes:
    """Pack unsigned `values` [n], each below 2**width, into planes."""
    values = values.reshape(-1)
    if width <= 8:
        values = values.astype(np.uint8, copy=False)
    planes = []
    bytes_BN = (
        np.ascontiguousarray(values, values.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, values.itemsize)
    )
    for shift, bits in field_widths(width):
        if bits == 8:
            plane = np.ascontiguousarray(bytes_BN[:, shift // 8])
        else:
            plane = ((values >> shift) & ((1 << bits) - 1)).astype(np.uint8)
        planes.append(_pack_fields(plane, bits).tobytes())
    return b"".join(planes)


def unpack(data: bytes | memoryview, width: int, n_values: int) -> np.ndarray:
    """Unpack `n_values` values; uint8, uint16 or uint32, the narrowest that holds `width` bits.

    Raises:
        CorruptError: `data` is not exactly as long as the values need.
    """
    expected = packed_size(n_values, width)
    if len(data) != expected:
        raise CorruptError(
            f"packed array: found {len(data)} bytes, expected {expected} for {n_values} values of {width} bits"
        )
    source = np.frombuffer(data, np.uint8)
    dtype = np.dtype("<u1" if width <= 8 else "<u2" if width <= 16 else "<u4")
    values = np.zeros(n_values, dtype)
    bytes_NB = values.view(np.uint8).reshape(n_values, dtype.itemsize)
    start = 0
    for shift, bits in field_widths(width):
        stop = start + (n_values * bits + 7) // 8
        byte, within = divmod(shift, 8)
        if bits == 8:
            bytes_NB[:, byte] = source[start:stop]
        elif source[start:stop].any():  # high planes of small numbers are often empty
            bytes_NB[:, byte] |= _unpack_fields(source[start:stop], bits, n_values) << np.uint8(within)
        start = stop
    return values.astype(dtype.newbyteorder("="), copy=False)


def _pack_fields(fields: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return fields
    per_byte = 8 // bits
    padded = np.zeros(-(-len(fields) // per_byte) * per_byte, np.uint8)
    padded[: len(fields)] = fields
    columns = padded.reshape(-1, per_byte)
    packed: np.ndarray = columns[:, 0].copy()
    for position in range(1, per_byte):
        packed |= columns[:, position] << np.uint8(position * bits)
    return packed


def _unpack_fields(plane: np.ndarray, bits: int, n_values: int) -> np.ndarray:
    return plane if bits == 8 else FIELDS[bits].take(plane).view(np.uint8)[:n_values]

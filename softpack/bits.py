"""Pack unsigned integers of any width into planes of bits, and back. numpy only.

A width of w = 8a + r bits becomes a byte planes (lowest byte first) and then, for r = 4 + 2 + 1, one plane
of 4-bit, of 2-bit and of 1-bit fields as r needs them, from low to high; fields fill a byte from its low
end. Every plane begins on a byte. Planes need only shift, mask and or, on any device, and bytes of one
significance lie together, which zstd likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from softpack.errors import CorruptError

MAX_WIDTH = 32
CACHE_LINE = 64  # bytes that a processor writes at once
BLOCK_VALUES = 1 << 14  # turned to rows together, at least: as many as stay near at hand
FIELDS = {  # by bits and place: the fields of each byte, where they belong, as the bytes of one integer
    (bits, place): ((np.arange(256)[:, None] >> np.arange(0, 8, bits) & (1 << bits) - 1) << place)
    .astype(np.uint8)
    .view(f"u{8 // bits}")[:, 0]
    for bits in (1, 2, 4)
    for place in range(0, 8, 2 * bits)
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
    return _values(_planes(data, width, n_values), 0, n_values).astype(unsigned_dtype(width), copy=False)


def unpack_rows(data: bytes | memoryview, width: int, n_rows: int, per_row: int) -> np.ndarray:
    """Unpack rows that are packed number by number, the first of all rows, then the second: [n_rows, per_row].

    Raises:
        CorruptError: `data` is not exactly as long as the values need.
    """
    if n_rows < 2 or per_row < 2:
        return unpack(data, width, n_rows * per_row).reshape(n_rows, per_row)
    planes, rows = _planes(data, width, n_rows * per_row), np.empty((n_rows, per_row), unsigned_dtype(width))
    per_line = CACHE_LINE // rows.itemsize  # a line is written once so, not once for each of its numbers
    n_columns = per_line * -(-BLOCK_VALUES // (per_line * n_rows))
    for first in range(0, per_row, n_columns):
        n_values = min(n_columns, per_row - first) * n_rows
        columns = _values(planes, first * n_rows, n_values).astype(rows.dtype, copy=False)
        rows[:, first : first + n_columns] = columns.reshape(-1, n_rows).T
    return rows


class _Plane(NamedTuple):
    packed: np.ndarray  # fields, several a byte where they are of less than 8 bits
    bits: int
    byte: int  # of the value, that they belong to, and
    place: int  # the bit of it that they begin at


def _planes(data: bytes | memoryview, width: int, n_values: int) -> list[_Plane]:
    """Return the planes that are not empty, as high ones of small numbers often are."""
    expected = packed_size(n_values, width)
    if len(data) != expected:
        raise CorruptError(
            f"packed array: found {len(data)} bytes, expected {expected} for {n_values} values of {width} bits"
        )
    source, planes, start = np.frombuffer(data, np.uint8), [], 0
    for shift, bits in field_widths(width):
        stop = start + (n_values * bits + 7) // 8
        if source[start:stop].any():
            planes.append(_Plane(source[start:stop], bits, *divmod(shift, 8)))
        start = stop
    return planes


def _values(planes: list[_Plane], first: int, n_values: int) -> np.ndarray:
    """Return values, from number `first`, which stands on a byte of every plane, as narrow as these need."""
    values = np.zeros(n_values, np.uint8)
    for packed, bits, byte, place in planes:
        start = first * bits // 8
        fields = packed[start : start + (n_values * bits + 7) // 8]
        if bits < 8:
            fields = FIELDS[bits, place].take(fields).view(np.uint8)[:n_values]
        if byte:
            fields = fields.astype(unsigned_dtype(8 * byte + 8))
            np.left_shift(fields, 8 * byte, out=fields)
            values = values.astype(fields.dtype, copy=False)
        np.bitwise_or(values, fields, out=values)
    return values


def unsigned_dtype(width: int) -> np.dtype:
    """Return the narrowest dtype of numpy that holds numbers of `width` bits, up to 32."""
    return np.dtype("u1" if width <= 8 else "u2" if width <= 16 else "u4")


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

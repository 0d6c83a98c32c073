from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpack.bits import MAX_WIDTH, field_widths, needed_width, pack, packed_size, unpack, unpack_rows
from softpack.errors import CorruptError

widths = st.integers(0, MAX_WIDTH)


@st.composite
def values_of_a_width(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    width = draw(widths)
    values = draw(st.lists(st.integers(0, (1 << width) - 1), max_size=40))
    return width, np.array(values, np.uint64)


@given(values_of_a_width())
def test_unpack_gives_back_what_was_packed(drawn):
    width, values = drawn

    data = pack(values, width)

    assert len(data) == packed_size(len(values), width)
    assert unpack(data, width, len(values)).tolist() == values.tolist()


@pytest.mark.parametrize("n_rows", [0, 1, 2, 7, 1000, 2050])
@pytest.mark.parametrize("per_row", [1, 3, 16, 17, 64, 130])
def test_rows_come_back_from_numbers_that_stand_by_number(n_rows, per_row):
    for width in (1, 3, 7, 8, 9, 15, 16, 18, 19, 23, 32):
        low, high = np.random.default_rng(width).integers(0, 1 << width, (2, n_rows, per_row), np.uint64)
        for rows in (high, np.minimum(low, 1), np.zeros_like(low)):  # the others have planes that are empty
            found = unpack_rows(pack(rows.T.copy(), width), width, n_rows, per_row)

            assert found.flags.c_contiguous
            assert found.dtype == unpack(b"", width, 0).dtype
            assert np.array_equal(found, rows)


def test_rows_of_another_size_are_refused():
    with pytest.raises(CorruptError, match="found 5 bytes, expected 6 for 6 values of 8 bits"):
        unpack_rows(bytes(5), 8, 3, 2)


@given(values_of_a_width())
def test_bytes_are_those_of_the_bit_by_bit_definition(drawn):
    width, values = drawn
    expected = bytearray()
    for shift, bits in field_widths(width):
        plane = 0
        for position, value in enumerate(values.tolist()):
            plane |= (value >> shift & (1 << bits) - 1) << position * bits
        expected += plane.to_bytes((len(values) * bits + 7) // 8, "little")

    assert pack(values, width) == bytes(expected)


@given(widths)
def test_planes_cover_every_bit_once(width):
    covered = [bit for shift, bits in field_widths(width) for bit in range(shift, shift + bits)]

    assert covered == list(range(width))


@pytest.mark.parametrize("width", range(MAX_WIDTH + 1))
def test_all_ones_survive_in_the_narrowest_dtype(width):
    largest = (1 << width) - 1

    found = unpack(pack(np.full(11, largest, np.uint64), width), width, 11)

    assert found.tolist() == [largest] * 11
    assert found.dtype == (np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32)


@pytest.mark.parametrize(("signed", "width"), [(np.int16, 16), (np.int32, 32)])
def test_negative_codes_pack_as_their_twos_complement(signed, width):
    codes = np.array([-1, 0, 1, np.iinfo(signed).min, np.iinfo(signed).max], signed)

    found = unpack(pack(codes, width), width, len(codes))

    assert found.astype(signed).tolist() == codes.tolist()


def test_shapes_are_flattened_in_order():
    assert pack(np.arange(6, dtype=np.uint8).reshape(2, 3), 4) == pack(np.arange(6, dtype=np.uint8), 4)


def test_a_five_bit_plane_is_four_bits_and_one():
    assert pack(np.array([0b10001, 0b00010]), 5) == bytes([0b0010_0001, 0b01])


@given(widths.filter(bool), st.integers(1, 40), st.integers(-3, 3).filter(bool))
def test_a_wrong_length_is_refused(width, n_values, change):
    size = packed_size(n_values, width)
    data = bytes(max(0, size + change))

    with pytest.raises(CorruptError, match=f"found {len(data)} bytes, expected {size} for {n_values} values"):
        unpack(data, width, n_values)


@given(st.integers(0, (1 << MAX_WIDTH) - 1))
def test_needed_width_is_the_least_that_holds_the_value(largest):
    width = needed_width(largest)

    assert largest < 1 << width
    assert width == 0 or largest >= 1 << (width - 1)

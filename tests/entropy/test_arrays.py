from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpack.bits import packed_size
from softpack.entropy.arrays import DESCRIPTOR, PLANES, ZSTD_PLANES, decode_array, describe, encode_array
from softpack.errors import CorruptError, DataError, UnsupportedError

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)


@st.composite
def codes(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    width = draw(st.integers(1, 32))
    n, per_row = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    dtype = np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32
    few = draw(st.lists(st.integers(0, (1 << width) - 1), min_size=1, max_size=5))
    return width, np.resize(np.array(few, dtype), (n, per_row))


@given(codes())
def test_codes_come_back(drawn):
    width, values = drawn

    data, raw_len = encode_array(values, width)
    found, used = decode_array(memoryview(data + b"more"), *values.shape, width, 1 << width, "here")

    assert used == len(data)
    assert raw_len == DESCRIPTOR.size + packed_size(values.size, width)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype
    assert describe(data, "here").base == 0


@given(st.lists(st.tuples(INT32, INT32), min_size=1, max_size=20))
def test_integers_come_back_in_the_fewest_bits(drawn):
    values = np.array(drawn, np.int32)

    data, _ = encode_array(values)
    found, used = decode_array(memoryview(data), *values.shape, 32, None, "here")

    assert used == len(data)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.int32
    described = describe(data, "here")
    assert described.base == values.min()
    assert described.width == (int(values.max()) - int(values.min())).bit_length()


def test_equal_numbers_take_no_bits():
    data, raw_len = encode_array(np.full((1000, 2), 7, np.int32))

    assert len(data) == raw_len == DESCRIPTOR.size
    found, _ = decode_array(memoryview(data), 1000, 2, 32, None, "here")
    np.testing.assert_array_equal(found, np.full((1000, 2), 7))


def test_zstd_is_taken_where_it_helps():
    same, _ = encode_array(np.full((1000, 4), 9, np.uint8), 8)
    noise, _ = encode_array(np.random.default_rng(0).integers(0, 256, (1000, 4), np.uint8), 8)

    assert describe(same, "here").coding == ZSTD_PLANES
    assert describe(noise, "here").coding == PLANES
    assert len(same) < 100 < 4000 < len(noise)


def test_numbers_of_one_slot_lie_together():
    data, _ = encode_array(np.array([[1, 2], [3, 4], [5, 6]], np.uint8), 8)

    assert data[DESCRIPTOR.size :] == bytes([1, 3, 5, 2, 4, 6])


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"short", CorruptError, "found 5 bytes, expected the 16 that describe it"),
        (DESCRIPTOR.pack(2, 8, 0, 0, 0), UnsupportedError, "coding 2 is not known"),
        (DESCRIPTOR.pack(0, 33, 0, 0, 0), CorruptError, "width 33"),
        (DESCRIPTOR.pack(0, 8, 1, 0, 0), CorruptError, "reserved field 1"),
        (DESCRIPTOR.pack(0, 7, 0, 3, 0) + b"abc", CorruptError, "numbers of 7 bits, expected 8"),
        (DESCRIPTOR.pack(0, 9, 0, 3, 0) + b"abc", CorruptError, "numbers of 9 bits, expected 8"),
        (DESCRIPTOR.pack(0, 8, 0, 4, 0) + b"abc", CorruptError, "says 4 bytes, but 3 follow"),
        (DESCRIPTOR.pack(0, 8, 0, 2, 0) + b"abc", CorruptError, "found 2 bytes of planes, expected 3"),
        (DESCRIPTOR.pack(0, 8, 0, 3, 1) + b"abc", CorruptError, "codes have base 1, expected 0"),
        (DESCRIPTOR.pack(0, 8, 0, 3, 0) + b"abd", CorruptError, "found the code 100, expected codes below 100"),
        (DESCRIPTOR.pack(1, 8, 0, 3, 0) + b"abc", CorruptError, "zstd cannot read a frame"),
    ],
)
def test_bad_codes_are_refused(data, error, says):
    with pytest.raises(error, match=f"here: .*{says}"):
        decode_array(memoryview(data), 3, 1, 8, 100, "here")


@pytest.mark.parametrize("base", [(1 << 31) - 1, -(1 << 31) - 1, 1 << 62, -(1 << 63)])
def test_numbers_beyond_32_bits_are_refused(base):
    data = DESCRIPTOR.pack(0, 8, 0, 3, base) + b"\0\1\2"

    with pytest.raises(CorruptError, match="expected 32-bit integers"):
        decode_array(memoryview(data), 3, 1, 32, None, "here")


def test_bits_beyond_the_last_number_are_no_numbers():
    data, _ = encode_array(np.ones((3, 1), np.uint8), 1)

    assert data[DESCRIPTOR.size :] == b"\x07"


def test_numbers_too_far_apart_are_refused():
    values_NS = np.array([[0], [1 << 32]])
    with pytest.raises(DataError, match="numbers from 0 to 4294967296 are too far apart for 32 bits"):
        encode_array(values_NS)
    data, _ = encode_array(np.array([[-1], [(1 << 31) - 1]]))
    found_NS, _ = decode_array(memoryview(data), 2, 1, 32, None, "here")
    assert found_NS.tolist() == [[-1], [(1 << 31) - 1]]

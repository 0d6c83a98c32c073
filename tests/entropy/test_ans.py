from __future__ import annotations

import struct
import subprocess
import sys
from bisect import bisect
from itertools import accumulate, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from softpack.entropy.ans import (
    MAX_LEVELS,
    TABLE_BITS,
    check_tables,
    cost_bits,
    count_codes,
    decode_columns,
    encode_columns,
    fit_tables,
)
from softpack.errors import CodecError, CorruptError

ALL = 1 << TABLE_BITS
WORD = 1 << 32
SMALL_TABLES = np.array([[ALL // 2, ALL // 4, ALL // 4], [1, ALL - 2, 1]], np.uint32)
SMALL_CODES = np.array([[0, 1, 2, 0, 2, 2, 1, 0], [1, 0, 1, 2, 1, 1, 0, 1]], np.uint8)
SMALL_BYTES = bytes.fromhex("0614000112000009010002ef02002000")


def plain_encode(columns, tables) -> bytes:
    """The coder of the specification in plain integers, the last code first."""
    state, words = WORD, []
    for column, table in zip(columns[::-1], tables.tolist()[::-1], strict=True):
        first = [0, *accumulate(table)]
        for code in column.tolist()[::-1]:
            if state >> 40 >= table[code]:
                words.append(state % WORD)
                state >>= 32
            state = (state // table[code] << 24) + first[code] + state % table[code]
    return struct.pack(f"<{len(words) + 2}I", *words, state % WORD, state >> 32)


def plain_decode(data, tables, n):
    """The decoder of the specification in plain integers; IndexError where words are missing."""
    words, out = [*struct.unpack(f"<{len(data) // 4}I", data)], []
    state = words.pop() * WORD + words.pop()
    for table in tables.tolist():
        first = [0, *accumulate(table)]
        for _ in range(n):
            place = state % ALL
            code = bisect(first, place) - 1
            out.append(code)
            state = (state >> 24) * table[code] + place - first[code]
            if state < WORD:
                state = state * WORD + words.pop()
    assert (state, words) == (WORD, [])
    return np.array(out, int).reshape(len(tables), n)


def peaked(n_columns: int, levels: int, rng: np.random.Generator) -> np.ndarray:
    """Tables as skewed as can be: one code has all but 1 of each other."""
    tables = np.ones((n_columns, levels), np.uint32)
    tables[np.arange(n_columns), rng.integers(0, levels, n_columns)] = ALL - levels + 1
    return tables


@st.composite
def coded(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    levels = draw(st.sampled_from([1, 2, 3, 255, 256, 257, MAX_LEVELS]) | st.integers(1, MAX_LEVELS))
    n_columns, n = draw(st.integers(1, 4)), draw(st.integers(0, 60))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    skew = draw(st.sampled_from([0, 1, 3, 10, None]))
    if skew is None:
        tables = peaked(n_columns, levels, rng)
    else:
        tables = fit_tables((10 ** (skew * rng.random((n_columns, levels))) - 1).astype(np.int64))
    likely = rng.random((n_columns, n)) < draw(st.sampled_from([0, 0.5, 1]))
    codes = np.where(likely, tables.argmax(1)[:, None], rng.integers(0, levels, (n_columns, n)))
    return codes.astype(np.min_scalar_type(levels - 1)), tables


@given(coded())
@settings(deadline=None)
def test_codes_come_back_as_the_specification_says(drawn):
    codes, tables = drawn

    data = encode_columns(codes, tables)
    found = decode_columns(data, tables, codes.shape[1], "here")

    np.testing.assert_array_equal(found, codes)
    assert found.dtype == codes.dtype
    assert data == plain_encode(codes, tables)
    np.testing.assert_array_equal(plain_decode(data, tables, codes.shape[1]), codes)


def test_bytes_are_those_of_the_first_version():
    assert encode_columns(SMALL_CODES, SMALL_TABLES) == SMALL_BYTES
    np.testing.assert_array_equal(decode_columns(SMALL_BYTES, SMALL_TABLES, 8, "here"), SMALL_CODES)


@pytest.mark.parametrize("shape", [(1, 0), (3, 0), (0, 5)])
def test_no_codes_are_the_first_state(shape):
    tables = fit_tables(np.ones((shape[0], 7), np.int64))

    data = encode_columns(np.zeros(shape, np.uint8), tables)

    assert data == struct.pack("<2I", 0, 1)
    assert decode_columns(data, tables, shape[1], "here").shape == shape


def test_codes_of_one_level_take_nothing():
    tables = fit_tables(count_codes(np.zeros((9, 2), np.uint8), 1))

    data = encode_columns(np.zeros((2, 1000), np.uint8), tables)

    assert tables.tolist() == [[ALL], [ALL]]
    assert len(data) == 8
    assert not decode_columns(data, tables, 1000, "here").any()


@pytest.mark.parametrize("common", [0, 1])
def test_two_levels_are_exact_at_the_ends(common):
    tables = np.array([[1, ALL - 1]], np.uint32)[:, :: 1 if common else -1].copy()
    codes = np.full((1, 70_000), common, np.uint8)
    codes[0, ::7001] = 1 - common

    data = encode_columns(codes, tables)

    np.testing.assert_array_equal(decode_columns(data, tables, 70_000, "here"), codes)
    assert data == plain_encode(codes, tables)


def test_any_layout_and_any_unsigned_dtype_encodes_alike():
    rows = np.ascontiguousarray(SMALL_CODES.T)

    assert encode_columns(rows.T, SMALL_TABLES) == SMALL_BYTES
    assert encode_columns(SMALL_CODES.astype(np.uint32), SMALL_TABLES) == SMALL_BYTES
    np.testing.assert_array_equal(
        decode_columns(memoryview(b"x" + SMALL_BYTES)[1:], SMALL_TABLES, 8, "here"), SMALL_CODES
    )


@pytest.mark.parametrize("levels", [2, 256, 4096])
def test_the_cost_is_what_the_bytes_take(levels):
    rng = np.random.default_rng(0)
    codes = np.minimum(rng.geometric(min(0.9, 8 / levels), (5000, 3)) - 1, levels - 1).astype(np.uint16)
    counts = count_codes(codes, levels)
    tables = fit_tables(counts)

    n_bits = 8 * len(encode_columns(codes.T, tables))

    assert 32 < n_bits - cost_bits(counts, tables) < 64 + 1
    share = np.maximum(counts, 1) / len(codes)
    assert cost_bits(counts, tables) < 1.01 * -(counts * np.log2(share)).sum() + levels


# -- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "found 0 bytes of codes, expected two words of 4 bytes or more"),
        (SMALL_BYTES[-4:], "found 4 bytes of codes, expected two words"),
        (SMALL_BYTES[:-1], "found 15 bytes of codes"),
        (SMALL_BYTES[:-4] + bytes(4), "the last word of codes is 0"),
        (SMALL_BYTES[4:], "after 16 codes found 0 words left and state 0x0, expected none and 0x100000000"),
        (bytes(8) + SMALL_BYTES, "after 16 codes found 2 words left and state 0x100000000, expected none"),
        (
            b"\2" + SMALL_BYTES[1:],
            "found 0 words left and state 0x.*: these are not the words that were written",
        ),
    ],
)
def test_bad_bytes_are_refused(data, says):
    with pytest.raises(CorruptError, match=f"here: .*{says}"):
        decode_columns(data, SMALL_TABLES, 8, "here")


def stream() -> tuple[np.ndarray, np.ndarray, bytes]:
    """Return a few columns of skewed codes, their tables and bytes."""
    rng = np.random.default_rng(1)
    codes = np.minimum(rng.geometric(0.3, (3, 40)) - 1, 8).astype(np.uint8)
    tables = fit_tables(count_codes(codes.T, 9))
    return codes, tables, encode_columns(codes, tables)


@pytest.mark.parametrize("n", range(1, 8))
def test_missing_and_added_words_in_front_are_always_found(n):
    _, tables, data = stream()
    assert len(data) > 4 * (n + 2)

    with pytest.raises(CorruptError, match=r"found 0 words left and state 0x[0-9a-f]{1,8}, "):
        decode_columns(data[4 * n :], tables, 40, "here")
    for word in (bytes(4), data[:4], b"\xff\xff\xff\xff"):
        with pytest.raises(CorruptError, match=f"found {n} words left and state 0x100000000, "):
            decode_columns(n * word + data, tables, 40, "here")


@pytest.mark.parametrize("n", [0, 1, 39, 41, 1000])
def test_another_number_of_rows_is_found(n):
    _, tables, data = stream()

    with pytest.raises(CorruptError, match=f"here: after {3 * n} codes"):
        decode_columns(data, tables, n, "here")


def test_a_changed_byte_is_found_or_gives_other_codes_in_range():
    """What is not found here the block's hash finds: to swap two codes of equal frequency can change one byte."""
    codes, tables, data = stream()
    n_found, changes = 0, [1 << bit for bit in range(8)] + [0xFF]

    for at, change in product(range(len(data)), changes):
        bad = data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]
        try:
            found = decode_columns(bad, tables, 40, "here")
        except CorruptError:
            n_found += 1
            continue
        assert (found != codes).any()
        assert found.max() < 9
        assert encode_columns(found, tables) == bad
    assert n_found > 0.98 * len(data) * len(changes)


@given(st.binary(max_size=12), st.integers(0, 2), st.sampled_from([2, 9, 300, MAX_LEVELS]))
@example(struct.pack("<2I", 0, 1), 0, 2)
@example(SMALL_BYTES, 8, 3)
@settings(deadline=None)
def test_any_bytes_are_refused_or_are_those_of_their_codes(data, n, levels):
    tables = SMALL_TABLES if levels == 3 else peaked(2, levels, np.random.default_rng(n))

    try:
        codes = decode_columns(data, tables, n, "here")
    except CorruptError:
        return
    assert codes.shape == (2, n)
    assert codes.max(initial=0) < levels
    assert encode_columns(codes, tables) == data


# -- tables ------------------------------------------------------------------------------------------------------


def spoiled(row: int, column: int, value: int) -> np.ndarray:
    tables = SMALL_TABLES.copy()
    tables[row, column] = value
    return tables


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (SMALL_TABLES[:1], r"tables are uint32 \[1, 3\]; expected uint32 \[2, 3\] of 1 to 4096 levels"),
        (SMALL_TABLES.astype(np.uint16), r"tables are uint16 \[2, 3\]; expected uint32"),
        (SMALL_TABLES.astype(np.float32), r"tables are float32"),
        (SMALL_TABLES[0], r"tables are uint32 \[3\]; expected uint32"),
        (
            spoiled(1, 1, ALL - 1),
            f"frequencies of column 1 sum to {ALL + 1} and the least is 1; expected {ALL}",
        ),
        (spoiled(1, 1, WORD - 1), f"column 1 sum to {WORD + 1}"),
        (spoiled(0, 0, 0), f"column 0 sum to {ALL // 2} and the least is 0"),
        (
            np.array([[0, ALL, 0], SMALL_TABLES[1]], np.uint32),
            f"sum to {ALL} and the least is 0; .*each at least 1",
        ),
    ],
)
def test_bad_tables_are_refused(tables, says):
    with pytest.raises(CorruptError, match=f"here: .*{says}"):
        check_tables(tables, (2, 3), "here")


@pytest.mark.parametrize("levels", [0, MAX_LEVELS + 1])
def test_tables_of_too_many_levels_are_refused(levels):
    tables = np.ones((1, levels), np.uint32)

    with pytest.raises(CorruptError, match=rf"here: .*expected uint32 \[1, {levels}\] of 1 to 4096 levels"):
        check_tables(tables, (1, levels), "here")


def test_nothing_is_coded_with_bad_tables():
    with pytest.raises(CorruptError, match="tables to encode with: the frequencies of column 0"):
        encode_columns(SMALL_CODES, spoiled(0, 0, 0))
    with pytest.raises(CorruptError, match="here: the frequencies of column 0"):
        decode_columns(SMALL_BYTES, spoiled(0, 0, 0), 8, "here")


@given(st.integers(1, MAX_LEVELS), st.integers(0, 1 << 32), st.floats(0, 9), st.booleans())
@example(1, 0, 0, True)
@example(MAX_LEVELS, 0, 0, False)
def test_fitted_tables_are_tables(levels, seed, magnitude, sparse):
    rng = np.random.default_rng(seed)
    counts = (10 ** (magnitude * rng.random((2, levels)))).astype(np.int64)
    if sparse:
        counts[rng.random(counts.shape) < 0.9] = 0

    tables = fit_tables(counts)

    check_tables(tables, counts.shape, "here")
    np.testing.assert_array_equal(tables, fit_tables(counts))


def test_frequencies_keep_few_bits():
    counts = np.random.default_rng(0).integers(0, 1000, (4, 256))

    freq = fit_tables(counts).astype(np.int64)

    n_bits_kept = np.frexp(freq // (freq & -freq))[1]
    assert (n_bits_kept > 4).sum() <= 4  # the largest of a column takes what is over
    share = counts / counts.sum(1, keepdims=True)
    assert np.abs(freq / ALL - share).max() < share.max() / 8


def held_out_cost(probabilities: np.ndarray, n: int) -> tuple[float, float, float]:
    """Return bits a row of fitted tables, of counts + 1, and of the probabilities, on rows that were not counted."""
    rng = np.random.default_rng(0)
    counts = np.stack([rng.multinomial(n, p) for p in probabilities])
    others = np.stack([rng.multinomial(100_000, p) for p in probabilities])
    plus_1 = (counts + 1) / (counts + 1).sum(1, keepdims=True)
    bits = (
        cost_bits(others, fit_tables(counts)),
        *(-(others * np.log2(p)).sum() for p in (plus_1, probabilities)),
    )
    return tuple(b / 100_000 for b in bits)


def test_few_rows_of_nearly_even_codes_cost_little_more():
    even = np.random.default_rng(1).dirichlet(np.full(256, 8), 8)

    fitted, plus_1, least = held_out_cost(even, 1000)

    assert least < fitted < least + 0.12 * 8 < plus_1


def test_few_rows_of_mostly_zero_coefficients_cost_little_more():
    sizes = np.abs(np.arange(255) - 127.0)
    peaks = np.stack([np.exp(-sizes / scale) for scale in np.geomspace(0.05, 1, 50)])
    peaks = (peaks + 1e-12) / (peaks + 1e-12).sum(1, keepdims=True)

    fitted, plus_1, least = held_out_cost(peaks, 2000)

    assert least < fitted < 1.03 * least < 1.2 * least < plus_1


def test_counts_of_blocks_add_up():
    codes = np.random.default_rng(0).integers(0, 300, (500, 3)).astype(np.uint16)

    counts = count_codes(codes[:200], 300) + count_codes(codes[200:], 300)

    np.testing.assert_array_equal(counts, count_codes(codes, 300))
    assert counts.sum(1).tolist() == [500] * 3
    assert not count_codes(codes[:0], 300).any()


def test_no_counts_make_even_tables():
    assert fit_tables(np.zeros((2, 4), np.int64)).tolist() == [[ALL // 4] * 4] * 2


@pytest.mark.parametrize("levels", [0, MAX_LEVELS + 1])
def test_too_many_levels_are_refused(levels):
    with pytest.raises(
        CodecError, match=f"codes of {levels} levels; tables have 1 to 4096: store them as planes"
    ):
        count_codes(np.zeros((1, 1), np.uint16), levels)


def test_codes_beyond_their_levels_are_refused():
    with pytest.raises(CodecError, match="found the code 3, expected codes below 3"):
        encode_columns(SMALL_CODES + 1, SMALL_TABLES)
    with pytest.raises(CodecError, match="found the code 4000000000, expected codes below 3"):
        count_codes(np.array([[4_000_000_000]], np.uint32), 3)
    with pytest.raises(CodecError, match="found 1 columns of codes, expected 2"):
        encode_columns(SMALL_CODES[:1], SMALL_TABLES)


def test_the_library_is_loaded_when_it_codes():
    code = "import sys, softpack.entropy.ans; print('constriction' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"

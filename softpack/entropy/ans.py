"""Columns of codes <-> bytes by asymmetric numeral systems, with a table of integer frequencies for each column.

Coder and decoder share integers alone, so codes are the same on every platform: a state of 64 bits, words of 32,
and tables that sum to 2**24 (Duda, arXiv:1311.2540). The library `constriction` does it (Bamler,
arXiv:2201.01741); formats/spk.md has it to the bit.

An array costs what `cost_bits` says and 32 to 64 bits more. The state begins at 2**32 and a decoder must come
back to it with no word left. So words that lack in front or were added there are always found, most other damage
too, and what is not found are other codes within their levels, written as the coder would write them. To find
all damage is the work of the block's hash.

Shapes in names: N rows, S columns (numbers of a row), L levels.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from softpack.errors import CodecError, CorruptError, UnsupportedError

TABLE_BITS = 24  # constriction's; the frequencies of a column sum to 2**24
MAX_LEVELS = 4096
KEPT_BITS = 4  # of a frequency: saves two fifths of the tables under zstd, and costs 0.0005 bits a code
PRIORS = 2.0 ** np.arange(-12, 5)
START = 1 << 32  # the state before the first code is coded, and after the last is decoded


def count_codes(codes_NS: np.ndarray, levels: int) -> np.ndarray:
    """Count how often each code comes in each column: int64 [S, L]. Counts of several blocks of rows add up.

    Raises:
        CodecError: a code is not below `levels`, or there are more levels than tables may have.
    """
    if not 1 <= levels <= MAX_LEVELS:
        raise CodecError(f"codes of {levels} levels; tables have 1 to {MAX_LEVELS}: store them as planes")
    _check_codes(codes_NS, levels)
    counts_SL = np.empty((codes_NS.shape[1], levels), np.int64)
    for column, counts_L in zip(codes_NS.T, counts_SL, strict=True):
        counts_L[:] = np.bincount(column, minlength=levels)
    return counts_SL


def fit_tables(counts_SL: np.ndarray) -> np.ndarray:
    """Return the tables that cost further codes of the same source least: uint32 [S, L].

    A code that came n times counts as n + a, with one a for all columns: the power of two under which each code
    of the sample costs least given all the others. So codes that never came are dear where few of them ever come,
    as among coefficients, and cheap where the sample is merely small.
    """
    weights_SL = counts_SL + _best_prior(counts_SL)
    return _round(weights_SL * ((1 << TABLE_BITS) / weights_SL.sum(1, keepdims=True)))


def check_tables(tables_SL: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    """Check tables that were read from a file.

    Raises:
        CorruptError: they are not uint32 of this shape [S, L], or a column's are not frequencies.
    """
    if tables_SL.dtype != np.uint32 or tables_SL.shape != shape or not 1 <= shape[1] <= MAX_LEVELS:
        raise CorruptError(
            f"{where}: tables are {tables_SL.dtype} {[*tables_SL.shape]}; expected uint32 {[*shape]} of "
            f"1 to {MAX_LEVELS} levels"
        )
    sums_S = tables_SL.sum(1, dtype=np.int64)
    bad_S = (sums_S != 1 << TABLE_BITS) | (tables_SL == 0).any(1)
    if bad_S.any():
        column = int(bad_S.argmax())
        raise CorruptError(
            f"{where}: the frequencies of column {column} sum to {sums_S[column]} and the least is "
            f"{tables_SL[column].min()}; expected {1 << TABLE_BITS}, and each at least 1"
        )


def cost_bits(counts_SL: np.ndarray, tables_SL: np.ndarray) -> float:
    """Return the bits that codes with these counts take under these tables; each array takes 32 to 64 more."""
    return float((counts_SL * (TABLE_BITS - np.log2(tables_SL))).sum())


def encode_columns(columns_SN: np.ndarray, tables_SL: np.ndarray) -> bytes:
    """Return the bytes of unsigned codes [S, N], of which a decoder reads column 0 first.

    Raises:
        CodecError: there are more or fewer columns than tables, or a code is not below the levels.
    """
    check_tables(tables_SL, tables_SL.shape, "tables to encode with")
    _check_codes(columns_SN, tables_SL.shape[1])
    if len(columns_SN) != len(tables_SL):
        raise CodecError(f"found {len(columns_SN)} columns of codes, expected {len(tables_SL)}, one a table")
    coder = _coder(np.array([START & 0xFFFFFFFF, START >> 32], np.uint32))
    if tables_SL.shape[1] > 1:  # codes of one level take nothing
        for column_N, table_L in zip(columns_SN[::-1], tables_SL[::-1], strict=True):
            coder.encode_reverse(column_N.astype(np.int32), _model(table_L))
    words: np.ndarray = coder.get_compressed()
    return words.astype("<u4").tobytes()


def decode_columns(data: bytes | memoryview, tables_SL: np.ndarray, n_rows: int, where: str) -> np.ndarray:
    """Return the codes [S, n_rows] of an array, uint8 or uint16. Memory grows with them and `data` alone.

    Raises:
        CorruptError: the bytes are not those of so many codes under these tables, or these are no tables.
    """
    check_tables(tables_SL, tables_SL.shape, where)
    coder = _coder(_read_words(data, where))
    columns_SN = np.zeros((len(tables_SL), n_rows), np.min_scalar_type(tables_SL.shape[1] - 1))
    if tables_SL.shape[1] > 1:
        for column_N, table_L in zip(columns_SN, tables_SL, strict=True):
            column_N[:] = coder.decode(_model(table_L), n_rows)
    n_left, state = coder.pos()
    if (n_left, state) != (0, START):
        raise CorruptError(
            f"{where}: after {columns_SN.size} codes found {n_left} words left and state {state:#x}, expected "
            f"none and {START:#x}: these are not the words that were written, or not of so many codes"
        )
    return columns_SN


def _check_codes(codes: np.ndarray, levels: int) -> None:
    largest = int(codes.max()) if codes.size else 0
    if largest >= levels:
        raise CodecError(f"found the code {largest}, expected codes below {levels}, the levels of their table")


def _best_prior(counts_SL: np.ndarray) -> float:
    """Return the a of `fit_tables`: leave-one-out cross-validation, which needs the counts alone."""
    n_S, others_SL = counts_SL.sum(1), np.maximum(counts_SL - 1, 0)
    others_S = np.maximum(n_S - 1, 0)
    costs = [
        (n_S * np.log2(others_S + a * counts_SL.shape[1])).sum() - (counts_SL * np.log2(others_SL + a)).sum()
        for a in PRIORS
    ]
    return float(PRIORS[np.argmin(costs)])


def _round(want_SL: np.ndarray) -> np.ndarray:
    """Round to integers from 1 that sum to 2**24 in each row, of KEPT_BITS significant bits: uint32.

    All are rounded down, then those up whose fractions are largest, as many as there is room for. The largest of
    the row takes what is left: less than a step, or, where many had to become 1, a little below zero.
    """
    exponent_SL = np.frexp(want_SL)[1].astype(np.int64)
    step_SL = 1 << np.maximum(exponent_SL - KEPT_BITS, 0)
    steps_SL = np.floor(want_SL / step_SL)
    order_SL = np.argsort(steps_SL - want_SL / step_SL, axis=1, kind="stable")
    freq_SL: np.ndarray = np.maximum(steps_SL.astype(np.int64) * step_SL, 1)
    ordered_step_SL = np.take_along_axis(step_SL, order_SL, 1)
    room_S1 = (1 << TABLE_BITS) - freq_SL.sum(1, keepdims=True)
    raised_SL = np.where(np.cumsum(ordered_step_SL, 1) <= room_S1, ordered_step_SL, 0)
    np.put_along_axis(step_SL, order_SL, raised_SL, 1)
    freq_SL += step_SL
    freq_SL[np.arange(len(freq_SL)), freq_SL.argmax(1)] += (1 << TABLE_BITS) - freq_SL.sum(1)
    return freq_SL.astype(np.uint32)


def _read_words(data: bytes | memoryview, where: str) -> np.ndarray:
    if len(data) % 4 or len(data) < 8:
        raise CorruptError(f"{where}: found {len(data)} bytes of codes, expected two words of 4 bytes or more")
    words: np.ndarray = np.frombuffer(data, "<u4").astype(np.uint32)
    if words[-1] == 0:
        raise CorruptError(f"{where}: the last word of codes is 0, expected the upper half of a state, above 0")
    return words


def is_available() -> bool:
    """Return whether the library is installed here; it has no wheels for a few kinds of machine."""
    return importlib.util.find_spec("constriction") is not None


def _constriction() -> Any:
    try:
        import constriction
    except ImportError:
        raise UnsupportedError(
            "the codes are entropy-coded, which takes the library constriction, and it is not installed; "
            "`pip install constriction`, or `softpack transcode` the file where it is installed"
        ) from None
    return constriction


def _coder(words: np.ndarray) -> Any:
    return _constriction().stream.stack.AnsCoder(words)


def _model(table_L: np.ndarray) -> Any:
    """Return the model whose frequencies are exactly `table_L`.

    constriction gives each code 1 of 2**24 and shares the rest in proportion to the numbers that it is given.
    Those here are the frequencies less 1, which sum to that rest: they are multiplied by exactly 1.
    """
    return _constriction().stream.model.Categorical(table_L - 1.0, perfect=False)

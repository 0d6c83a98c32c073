"""The bytes of DistillKit's rows as log-probabilities, and back; see `distillkit_config` for what they are.

A row of the present layout is the exact values, the coefficients, and each bin's scale and numbers, as they lie in
memory; ids are packed with the highest bit first. A legacy row has ids from the lowest bit of 64-bit words, as many in
each as fit, float32 values and coefficients.

Shapes in names: R rows, k tokens of each, N tokens whose log-probabilities come of the polynomial.
"""

from __future__ import annotations

import numpy as np

from softpack.sources.peers.bits import pack, packed_bytes, unpack
from softpack.sources.peers.distillkit_config import BYTES, Config

WORD_BITS = 64


def log_probs_of(bytes_RY: np.ndarray, config: Config) -> np.ndarray:
    """Return what rows of bytes say, float32 [R, k], in the order of their ids.

    Args:
        bytes_RY: uint8 [R, config.row_bytes].
        config: of the set.
    """
    n_rows, at = len(bytes_RY), 0

    def taken(n: int, dtype: str) -> np.ndarray:
        nonlocal at
        part_RY = bytes_RY[:, at : at + n * BYTES[dtype]]
        at += n * BYTES[dtype]
        return _floats(part_RY, dtype)

    exact_Rk = taken(config.exact_k, config.exact_dtype)
    coefficients_RX = taken(len(config.terms), config.term_dtype)
    residual_RN = np.zeros((n_rows, config.k - config.exact_k))
    done = 0
    for one in config.bins:
        scale_R1 = taken(1, one.scale_dtype)
        n_bytes = packed_bytes(one.n, one.bits)
        numbers_Rn = unpack(bytes_RY[:, at : at + n_bytes], one.n, one.bits)
        at += n_bytes
        # One bit is a sign there; more are two's complement from its least number on.
        signed_Rn = 2 * numbers_Rn - 1 if one.bits == 1 else numbers_Rn - (1 << (one.bits - 1))
        residual_RN[:, done : done + one.n] = signed_Rn * scale_R1
        done += one.n
    return _whole(exact_Rk, coefficients_RX, residual_RN, config)


def legacy_log_probs_of(exact_Rk: np.ndarray, coefficients_RX: np.ndarray, config: Config) -> np.ndarray:
    """Return what legacy rows say, float32 [R, k]."""
    residual_RN = np.zeros((len(exact_Rk), config.k - config.exact_k))
    return _whole(exact_Rk.astype(np.float64), coefficients_RX.astype(np.float64), residual_RN, config)


def ids_of(bytes_RY: np.ndarray, config: Config) -> np.ndarray:
    """Return the ids of rows, int64 [R, k]."""
    return unpack(bytes_RY, config.k, config.id_bits)


def legacy_words(config: Config) -> int:
    """Return how many words of 64 bits the ids of a legacy row take."""
    return -(-config.k // (WORD_BITS // config.id_bits))


def legacy_ids_of(words_RW: np.ndarray, config: Config) -> np.ndarray:
    """Return the ids of legacy rows, int64 [R, k], from uint64 words."""
    in_word = WORD_BITS // config.id_bits
    shifts = np.arange(in_word, dtype=np.uint64) * np.uint64(config.id_bits)
    ids_RWn = (words_RW[:, :, None] >> shifts) & np.uint64((1 << config.id_bits) - 1)
    ids_Rk: np.ndarray = ids_RWn.reshape(len(words_RW), -1)[:, : config.k].astype(np.int64)
    return ids_Rk


def _whole(
    exact_Rk: np.ndarray, coefficients_RX: np.ndarray, residual_RN: np.ndarray, config: Config
) -> np.ndarray:
    """Return log-probabilities; sums are made in float64, and not rounded to the exact values' dtype as there."""
    if coefficients_RX.shape[1]:
        residual_RN = residual_RN + coefficients_RX @ config.terms_XN
    values_Rk = np.concatenate([exact_Rk, residual_RN], axis=1)
    if config.delta:
        values_Rk = np.cumsum(values_Rk, axis=1)
    found_Rk: np.ndarray = values_Rk.astype(np.float32)
    return found_Rk


def _floats(bytes_RY: np.ndarray, dtype: str) -> np.ndarray:
    """Return the numbers that bytes are, float64 [R, n]."""
    raw_RY = np.ascontiguousarray(bytes_RY)
    if dtype == "bfloat16":
        bits_Rn = raw_RY.view("<u2").astype(np.uint32) << 16
        return bits_Rn.view(np.float32).astype(np.float64)
    return raw_RY.view(f"<f{BYTES[dtype]}").astype(np.float64)


def _bytes(values_Rn: np.ndarray, dtype: str) -> np.ndarray:
    """Return numbers as bytes, uint8 [R, n * size]; bfloat16 are rounded to the nearest, ties to even."""
    if dtype == "bfloat16":
        bits_Rn = np.ascontiguousarray(values_Rn, np.float32).view(np.uint32)
        rounded_Rn = (bits_Rn + 0x7FFF + ((bits_Rn >> 16) & 1)) >> 16
        return np.ascontiguousarray(rounded_Rn.astype("<u2")).view(np.uint8)
    return np.ascontiguousarray(values_Rn.astype(f"<f{BYTES[dtype]}")).view(np.uint8)


def bytes_of(log_probs_Rk: np.ndarray, config: Config) -> np.ndarray:
    """Return rows of log-probabilities, which descend, as bytes, uint8 [R, config.row_bytes].

    Coefficients are those of least squares. Of configurations without bins and differences alone.
    """
    exact_Rk, rest_RN = np.split(log_probs_Rk.astype(np.float64), [config.exact_k], axis=1)
    parts = [_bytes(exact_Rk, config.exact_dtype)]
    if config.terms:
        parts.append(_bytes(rest_RN @ config.fit_NX, config.term_dtype))
    return np.concatenate(parts, axis=1)


def id_bytes_of(ids_Rk: np.ndarray, config: Config) -> np.ndarray:
    """Return the ids of rows as bytes, uint8 [R, config.id_bytes]."""
    return pack(ids_Rk, config.id_bits)

"""Random numbers that are hashes of what they are for: the same on every machine, and each to be had alone.

No stream has to be at the right place, so any view of any item can be drawn again by itself. Beside whole numbers
only +, -, *, / and square roots of binary64 are used, which IEEE 754 rounds alike everywhere. No torch.

Shapes in names: B draws, N items.
"""

from __future__ import annotations

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
ROUNDS = 4  # of a Feistel network
POWER_BITS = 16  # of the fraction of an exponent
ATTEMPTS = 256  # at a Beta draw; of the alphas that are allowed fewer than 1 in 10**13 need more


def hashed(*numbers: int | np.ndarray) -> np.ndarray:
    """Return uint64 hashes of whole numbers that are broadcast together; each may be any int64.

    They are folded one after the other by the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", 2014).
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for number in numbers:
            state = _finalised(state + GOLDEN + np.asarray(number).astype(np.int64).view(np.uint64))
    return state


def uniform(*numbers: int | np.ndarray) -> np.ndarray:
    """Return multiples of 2**-53 from 0 to below 1, float64, drawn for these numbers."""
    return np.asarray((hashed(*numbers) >> np.uint64(11)) * 2.0**-53)


def power(base: float | np.ndarray, exponent: float | np.ndarray) -> np.ndarray:
    """Return base to the exponent for bases of at least 0 and exponents of at least 0, rounded down to 2**-16.

    By squaring, and by square roots for the fraction.
    """
    scaled = np.floor(np.asarray(exponent, np.float64) * (1 << POWER_BITS)).astype(np.int64)
    used = int(np.bitwise_or.reduce(scaled, axis=None))
    lowest = (used & -used).bit_length() - 1 if used else POWER_BITS
    result = np.ones(np.broadcast_shapes(np.shape(base), scaled.shape))
    root = square = np.asarray(base, np.float64)
    for bit in range(POWER_BITS - 1, lowest - 1, -1):
        root = np.sqrt(root)
        result = np.where(scaled >> bit & 1, result * root, result)
    for bit in range(POWER_BITS, used.bit_length()):
        result = np.where(scaled >> bit & 1, result * square, result)
        square = square * square
    return result


def beta(alpha: float, *numbers: int | np.ndarray) -> np.ndarray:
    """Return draws of Beta(alpha, alpha), float64, for these numbers; for alpha from 0.05 to 2.

    By rejection (Joehnk, "Erzeugung von betaverteilten und gammaverteilten Zufallszahlen", Metrika 8, 1964).
    """
    keys = hashed(*numbers).view(np.int64)
    drawn = np.full(keys.shape, 0.5)
    left = np.flatnonzero(np.ones(keys.size, bool))
    for attempt in range(ATTEMPTS):
        x, y = (power(uniform(keys.flat[left], attempt, side), 1 / alpha) for side in (0, 1))
        good = (x + y <= 1) & (x + y > 0)
        drawn.flat[left[good]] = (x / np.where(good, x + y, 1))[good]
        left = left[~good]
        if not len(left):
            break
    return drawn


def shuffled_place(n: int, numbers: tuple[int | np.ndarray, ...], place_B: np.ndarray) -> np.ndarray:
    """Return where a permutation of 0 to n - 1, drawn for these numbers, puts each place: int64 [B].

    A Feistel network over the least even number of bits, walked until it ends below n (Black and Rogaway, "Ciphers
    with arbitrary finite domains", CT-RSA 2002).
    """
    return _walked(n, numbers, place_B, range(ROUNDS))


def place_before(n: int, numbers: tuple[int | np.ndarray, ...], place_B: np.ndarray) -> np.ndarray:
    """Return what `shuffled_place` puts there: int64 [B]."""
    return _walked(n, numbers, place_B, range(ROUNDS - 1, -1, -1))


def _walked(n: int, numbers: tuple[int | np.ndarray, ...], place_B: np.ndarray, rounds: range) -> np.ndarray:
    half = np.int64(max(1, -(-(n - 1).bit_length() // 2)))
    key_B = np.broadcast_to(hashed(*numbers).view(np.int64), place_B.shape)
    found_B = np.array(place_B, np.int64)
    left = np.arange(len(found_B))
    while len(left):
        found_B[left] = _feistel(found_B[left], key_B[left], half, rounds)
        left = left[found_B[left] >= n]
    return found_B


def _feistel(place_B: np.ndarray, key_B: np.ndarray, half: np.int64, rounds: range) -> np.ndarray:
    mask = (np.int64(1) << half) - 1
    high_B, low_B = place_B >> half, place_B & mask
    backwards = rounds.step < 0
    for number in rounds:
        if backwards:
            high_B, low_B = low_B ^ _round(key_B, number, high_B, mask), high_B
        else:
            high_B, low_B = low_B, high_B ^ _round(key_B, number, low_B, mask)
    return np.asarray(high_B << half | low_B)


def _round(key_B: np.ndarray, number: int, half_B: np.ndarray, mask: np.int64) -> np.ndarray:
    return hashed(key_B, number, half_B).view(np.int64) & mask


def _finalised(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * FIRST
    state = (state ^ (state >> np.uint64(27))) * SECOND
    return np.asarray(state ^ (state >> np.uint64(31)))

"""Random numbers that are hashes of what they are for: the same on every machine, and each to be had alone.

No stream has to be at the right place, so any view of any item can be drawn again by itself. Beside whole numbers
only +, -, *, / and square roots of binary64 are used, which IEEE 754 rounds alike everywhere. No torch.

Shapes in names: B draws, N items.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

ONE_GOLDEN = np.array([0x9E3779B97F4A7C15], np.uint64)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
ROUNDS = 4  # of a Feistel network
POWER_BITS = 16  # of the fraction of an exponent
ATTEMPTS = 256  # at a Beta draw; of the alphas that are allowed fewer than 1 in 10**13 need more


def hashed(*numbers: int | np.ndarray) -> np.ndarray:
    """Return uint64 hashes of whole numbers that are broadcast together; each may be any int64.

    They are folded one after the other by the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", 2014).
    """
    state = np.zeros(1, np.uint64)  # not a scalar: numpy warns where those overflow, and here all do
    for number in numbers:
        state = _folded(state, number)
    return state if any(np.ndim(number) for number in numbers) else state[0]


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


@lru_cache(maxsize=8)
def powers(base: float) -> np.ndarray:
    """Return base to each multiple of 2**-16 below 1, float64 [65536]; kept."""
    return power(base, np.arange(1 << POWER_BITS) / (1 << POWER_BITS))


def beta(alpha: float, *numbers: int | np.ndarray) -> np.ndarray:
    """Return draws of Beta(alpha, alpha), float64, for these numbers; for alpha from 0.05 to 2.

    Uniform ones for alpha 1; else by rejection (Joehnk, "Erzeugung von betaverteilten und gammaverteilten
    Zufallszahlen", Metrika 8, 1964).
    """
    if alpha == 1:
        return uniform(*numbers, 0, 0)
    keys = hashed(*numbers).view(np.int64)
    drawn = np.full(keys.shape, 0.5)
    left = np.arange(keys.size)
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
    begun = {number: hashed(key_B, number) for number in rounds}  # of the hashes of a round
    found_B = np.array(place_B, np.int64)
    left = np.arange(len(found_B))
    while len(left):
        found_B[left] = _feistel(found_B[left], {r: state_B[left] for r, state_B in begun.items()}, half)
        left = left[found_B[left] >= n]
    return found_B


def _feistel(place_B: np.ndarray, begun: dict[int, np.ndarray], half: np.int64) -> np.ndarray:
    mask = (np.int64(1) << half) - 1
    high_B, low_B = place_B >> half, place_B & mask
    backwards = next(iter(begun)) > 0
    for state_B in begun.values():
        if backwards:
            high_B, low_B = low_B ^ (_folded(state_B, high_B).view(np.int64) & mask), high_B
        else:
            high_B, low_B = low_B, high_B ^ (_folded(state_B, low_B).view(np.int64) & mask)
    return np.asarray(high_B << half | low_B)


def _folded(state: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    return _finalised(state + (np.asarray(number).astype(np.int64).view(np.uint64) + ONE_GOLDEN))


def _finalised(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * FIRST
    state = (state ^ (state >> np.uint64(27))) * SECOND
    return np.asarray(state ^ (state >> np.uint64(31)))

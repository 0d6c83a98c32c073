"""Random numbers that are hashes: what they are for ever, and that they are distributed as they should be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpack.chance import ATTEMPTS, beta, hashed, place_before, power, shuffled_place, uniform


def test_numbers_are_these_for_ever():
    """Golden: what a file says is drawn from them."""
    assert uniform(1, 2, 3) == 0.4175580595044027
    assert power(16 / 9, np.array([0.0, 0.25, 0.6])).tolist() == [1.0, 1.1547005383792515, 1.4122910153053039]
    assert beta(0.8, 3, np.arange(3)).tolist() == [0.8621435869620109, 0.8990080698739568, 0.8903537211803371]
    assert shuffled_place(10, (5,), np.arange(10)).tolist() == [5, 3, 6, 0, 8, 2, 4, 9, 1, 7]


def test_uniform_numbers_are_so():
    found = uniform(7, np.arange(100_000))
    assert 0 <= found.min() < found.max() < 1
    assert np.histogram(found, 20, (0, 1))[0].tolist() == pytest.approx([5000] * 20, rel=0.06)
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.01


@given(st.floats(0, 4), st.floats(0, 30))
def test_powers_are_those_of_the_rounded_exponent(base, exponent):
    rounded = np.floor(exponent * 65536) / 65536
    assert power(base, exponent) == pytest.approx(base**rounded, rel=1e-12)


def test_powers_broadcast():
    found = power(np.array([2.0, 3.0])[:, None], np.array([0.0, 1.0, 2.5]))
    np.testing.assert_allclose(found, [[1, 2, 2**2.5], [1, 3, 3**2.5]], rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.4, 0.8, 1.0, 2.0])
def test_beta_has_its_moments(alpha):
    found = beta(alpha, 1, np.arange(50_000))
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.mean() == pytest.approx(0.5, abs=0.01)
    assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_beta_ends_where_no_attempt_succeeds(monkeypatch):
    monkeypatch.setattr("softpack.chance.uniform", lambda *numbers: np.ones(np.shape(numbers[0])))
    assert beta(0.8, np.arange(3)).tolist() == [0.5] * 3
    assert ATTEMPTS >= 100


@given(st.integers(1, 3000), st.integers(-(1 << 62), 1 << 62))
def test_a_permutation_is_one_and_has_its_inverse(n, seed):
    places = np.arange(n)
    found = shuffled_place(n, (seed, 1), places)
    assert sorted(found.tolist()) == places.tolist()
    assert (place_before(n, (seed, 1), found) == places).all()


def test_permutations_of_several_numbers_are_those_of_each():
    views = np.repeat([3, 4], 50)
    together = shuffled_place(50, (9, views), np.tile(np.arange(50), 2))
    alone = [shuffled_place(50, (9, view), np.arange(50)).tolist() for view in (3, 4)]
    assert together.tolist() == alone[0] + alone[1]
    assert alone[0] != alone[1]


def test_every_number_counts():
    assert len({int(hashed(*numbers)) for numbers in [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (1,), (-1,)]}) == 6

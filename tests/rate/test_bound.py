from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpack.rate.bound import gaussian_bound, principal_variances


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 1e-3, 1e-6])
@pytest.mark.parametrize("variance", [1e-4, 1.0, 300.0])
def test_one_component_is_half_a_logarithm(variance, share):
    (bits,) = gaussian_bound(np.array([variance]), np.array([variance * share]))
    assert bits == pytest.approx(-0.5 * np.log2(share), abs=0.01)


def test_equal_components_share_the_error():
    bits = gaussian_bound(np.full(7, 2.0), np.array([1.0, 0.5, 0.125]))
    np.testing.assert_allclose(bits, 7 * 0.5 * np.log2([2, 4, 16]), atol=0.02)


def test_components_below_the_water_cost_nothing():
    """At level 0.5 components of 8 and 2 are told, one of 0.25 is not: 2 + 1 bits, error (0.5 + 0.5 + 0.25) / 3."""
    (bits,) = gaussian_bound(np.array([0.25, 8.0, 2.0]), np.array([1.25 / 3]))
    assert bits == pytest.approx(3.0, abs=0.01)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), st.floats(1e-4, 0.99))
def test_it_is_what_bisection_of_the_water_level_finds(variances, share):
    variances = np.array(variances)
    error = share * variances.mean()
    low, high = 0.0, variances.max()
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(variances, level).mean() < error else (low, level)
    expected = 0.5 * np.log2(np.maximum(variances / level, 1)).sum()
    (bits,) = gaussian_bound(variances, np.array([error]))
    assert bits == pytest.approx(expected, abs=0.02 * len(variances))


def test_more_error_takes_fewer_bits_and_all_of_it_none():
    variances = np.array([3.0, 1, 0.1, 0, 0])
    errors = np.geomspace(1e-5, 0.82, 50)
    bits = gaussian_bound(variances, errors)
    assert (np.diff(bits) < 0).all()
    assert gaussian_bound(variances, np.array([0.82, 0.9, 100])).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_rows_all_alike_take_no_bits():
    assert gaussian_bound(np.zeros(4), np.array([0.1, 1.0])).tolist() == [0, 0]


def test_variances_are_those_of_the_principal_components():
    random = np.random.default_rng(0)
    basis_CC, _ = np.linalg.qr(random.normal(size=(6, 6)))
    spread_C = np.array([5, 3, 2, 1, 0.5, 0])
    rows_RC = (10 + random.normal(size=(20000, 6)) * spread_C) @ basis_CC.T
    found = principal_variances(rows_RC.astype(np.float32))
    np.testing.assert_allclose(found, spread_C**2, rtol=0.05, atol=1e-2)
    assert found.min() >= 0


@pytest.mark.parametrize("rows", [np.zeros((1, 3)), np.full((5, 3), 7.0), np.eye(3)[:1]])
def test_one_row_or_equal_rows_vary_in_nothing(rows):
    np.testing.assert_allclose(principal_variances(rows.astype(np.float32)), 0, atol=1e-12)

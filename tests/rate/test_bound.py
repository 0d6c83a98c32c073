from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpack.rate import bound
from softpack.rate.bound import Spectrum, gaussian_bound, principal_variances


def of_rows(variances):
    return Spectrum(np.asarray(variances), np.ones(len(variances)), len(variances))


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 1e-3, 1e-6])
@pytest.mark.parametrize("variance", [1e-4, 1.0, 300.0])
def test_one_component_is_half_a_logarithm(variance, share):
    (bits,) = gaussian_bound(of_rows(np.array([variance])), np.array([variance * share]))
    assert bits == pytest.approx(-0.5 * np.log2(share), abs=0.01)


def test_equal_components_share_the_error():
    bits = gaussian_bound(of_rows(np.full(7, 2.0)), np.array([1.0, 0.5, 0.125]))
    np.testing.assert_allclose(bits, 7 * 0.5 * np.log2([2, 4, 16]), atol=0.02)


def test_components_below_the_water_cost_nothing():
    """At level 0.5 components of 8 and 2 are told, one of 0.25 is not: 2 + 1 bits, error (0.5 + 0.5 + 0.25) / 3."""
    (bits,) = gaussian_bound(of_rows(np.array([0.25, 8.0, 2.0])), np.array([1.25 / 3]))
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
    (bits,) = gaussian_bound(of_rows(variances), np.array([error]))
    assert bits == pytest.approx(expected, abs=0.02 * len(variances))


def test_more_error_takes_fewer_bits_and_all_of_it_none():
    variances = np.array([3.0, 1, 0.1, 0, 0])
    errors = np.geomspace(1e-5, 0.82, 50)
    bits = gaussian_bound(of_rows(variances), errors)
    assert (np.diff(bits) < 0).all()
    assert gaussian_bound(of_rows(variances), np.array([0.82, 0.9, 100])).tolist() == pytest.approx(
        [0, 0, 0], abs=1e-6
    )


def test_rows_all_alike_take_no_bits():
    assert gaussian_bound(of_rows(np.zeros(4)), np.array([0.1, 1.0])).tolist() == [0, 0]


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


def test_what_rows_of_an_item_share_is_paid_once():
    """Items that say 2 bits beside rows that say one each: 4 views cost 6 bits."""
    spectrum = Spectrum(np.array([16.0, 4.0]), np.array([1 / 4, 1.0]), 1)
    (bits,) = gaussian_bound(spectrum, np.array([1.25]))
    assert bits == pytest.approx(6 / 4, abs=0.01)


@pytest.mark.parametrize("n", [1, 3])
def test_of_items_is_the_spectrum_of_their_rows_joined(n):
    """Against the covariance of an item's rows one after the other, of which it takes the eigenvalues."""
    random = np.random.default_rng(0)
    items, views, classes = 20000, 6, 2
    weight_VP, _ = np.linalg.qr(random.normal(size=(views, n)))
    weight_VP *= np.sqrt(views)
    prototypes_NPC = random.normal(size=(items, n, classes)) * [3, 1]
    rows_NVC = weight_VP @ prototypes_NPC + random.normal(size=(items, views, classes)) * [1, 0.5]
    found_NPC = weight_VP.T @ rows_NVC / views
    left_RC = (rows_NVC - weight_VP @ found_NPC).reshape(-1, classes)
    errors = np.geomspace(0.01, 2, 9)

    bits = gaussian_bound(Spectrum.of_items(left_RC, found_NPC, views, views), errors)

    joined = Spectrum.of_rows(rows_NVC.reshape(items, -1))
    np.testing.assert_allclose(bits, gaussian_bound(joined, errors) / views, rtol=0.02)


def test_of_very_many_classes_and_rows_some_are_taken(monkeypatch):
    rows_RC = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    assert len(principal_variances(rows_RC)) == 30
    monkeypatch.setattr(bound, "MOST_SIDE", 20)
    assert len(principal_variances(rows_RC)) == 20


def test_fewer_rows_than_classes_have_the_same_variances():
    rows_RC = np.random.default_rng(0).normal(size=(8, 30)).astype(np.float32)
    scatter_CC = np.cov(rows_RC.T, bias=True)
    np.testing.assert_allclose(
        principal_variances(rows_RC), np.linalg.eigvalsh(scatter_CC)[::-1][:8], atol=1e-5
    )

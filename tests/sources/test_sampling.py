from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpack.sources.base import sample_parts, sample_rows


@given(n_rows=st.integers(1, 400), n_wanted=st.integers(1, 400), seed=st.integers(0, 99))
def test_a_sample_is_ascending_and_repeats_nothing(n_rows: int, n_wanted: int, seed: int) -> None:
    rows = sample_rows(n_rows, n_wanted, seed)
    assert len(rows) == min(n_rows, n_wanted)
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < n_rows
    np.testing.assert_array_equal(rows, sample_rows(n_rows, n_wanted, seed))


@pytest.mark.parametrize("n_wanted", [3, 8])
def test_every_row_is_as_likely(n_wanted: int) -> None:
    counts = np.zeros(12)
    for seed in range(3000):
        counts[sample_rows(12, n_wanted, seed)] += 1
    expected = 3000 * n_wanted / 12
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_seeds_differ_and_a_huge_source_costs_nothing() -> None:
    first, second = sample_rows(10**12, 1000, 0), sample_rows(10**12, 1000, 1)
    assert len(first) == len(second) == 1000
    assert (first != second).any()


@given(
    n_rows=st.lists(st.integers(1, 9), min_size=1, max_size=200),
    n_wanted=st.integers(1, 400),
    seed=st.integers(0, 99),
)
def test_a_sample_of_parts_is_of_few_parts(n_rows: list[int], n_wanted: int, seed: int) -> None:
    starts = np.concatenate([[0], np.cumsum(n_rows)])
    groups = sample_parts(starts, n_wanted, seed)
    rows = np.concatenate(groups)
    assert (np.diff(rows) > 0).all()
    assert len(rows) == min(n_wanted, starts[-1])
    parts = [np.unique(np.searchsorted(starts, group, "right")) for group in groups]
    assert all(len(part) == 1 for part in parts)  # a group is of one part
    n_least = int(np.searchsorted(np.cumsum(sorted(n_rows)), 2 * n_wanted)) + 1
    assert len(groups) <= max(64, n_least)
    np.testing.assert_array_equal(rows, np.concatenate(sample_parts(starts, n_wanted, seed)))

from __future__ import annotations

import numpy as np
import pytest

from softpack.checks import Place, check_sparse
from softpack.errors import DataError
from softpack.records import LabelSpec, SparseLabels
from softpack.sources.peers.settled import Tally, renormalised, settled

IDS = np.array([[3, 1, 2]])


def probs(*values):
    return np.log(np.array([values], np.float32))


def test_the_tail_has_what_is_left():
    found = settled(IDS, probs(0.5, 0.2, 0.1), Tally())

    assert np.exp(found.tail_B) == pytest.approx([0.2], rel=1e-5)
    np.testing.assert_array_equal(found.log_probs_BK, probs(0.5, 0.2, 0.1))


def test_what_is_approximate_is_made_less():
    tally = Tally()

    found = settled(IDS, probs(0.8, 0.6, 0.2), tally, n_exact=1)

    assert np.exp(found.log_probs_BK)[0] == pytest.approx([0.8, 0.15, 0.05], rel=1e-5)
    assert found.tail_B[0] == -np.inf
    assert "1 of 1 rows that were read had more probability than 1, up to 1.6" in tally.remarks()[0]


@pytest.mark.parametrize("n_exact", [None, 3, 2])
def test_all_is_made_less_where_what_is_exact_has_more(n_exact):
    found = settled(IDS, probs(0.5, 0.52, 0.02), Tally(), n_exact=n_exact)

    assert np.exp(found.log_probs_BK).sum() == pytest.approx(1)
    assert np.exp(found.log_probs_BK)[0, 0] == pytest.approx(0.5 / 1.04, rel=1e-4)


@pytest.mark.parametrize("bad", [probs(0.8, 0.6, 0.2), np.array([[0.9, -3.0, -4.0]], np.float32)])
def test_what_is_no_distribution_is_left_for_the_checks(bad):
    found = settled(IDS, bad, Tally())

    np.testing.assert_array_equal(found.log_probs_BK, bad)
    with pytest.raises(DataError, match=r"a log-probability of row 0|the sum over all classes of row 0"):
        check_sparse(found, LabelSpec(10, "log_probs"), Place("x", *np.zeros((3, 1), int)))


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        ([3, 10, 2], [-1, -2, -3], r"a class of row 0 .* is 10; expected 0 to 9"),
        ([3, -2, 2], [-1, -2, -3], "is -2; expected 0 to 9"),
        ([3, 3, 2], [-1, -2, -3], "expected each class once"),
        ([-1, -1, -1], [-np.inf] * 3, "expected one class at least"),
        ([3, 1, 2], [-1, np.nan, -3], "a log-probability of row 0 .* is nan"),
        ([3, 1, -1], [-1, -2, -3], "is -3.; expected 0 at most"),
        ([3, 1, 2], [-1, -2, -np.inf], "is -inf"),
    ],
)
def test_bad_rows_are_named(ids, values, message):
    labels = SparseLabels(
        np.array([ids], np.int32), np.array([values], np.float32), np.array([-1.0], np.float32)
    )

    with pytest.raises(DataError, match=message):
        check_sparse(labels, LabelSpec(10, "log_probs"), Place("x", *np.zeros((3, 1), int)))


def test_rounding_is_not_told_of():
    tally = Tally()

    settled(IDS, probs(0.9, 0.1, 0.001), tally)

    assert tally.remarks() == ()


def test_logits_are_given_all():
    found = renormalised(np.array([[3, 1, -1]]), np.array([[1.0, 0.0, -np.inf]], np.float32))

    assert np.exp(found.log_probs_BK).sum() == pytest.approx(1)
    assert found.tail_B is None

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpack.container.mixing import SHARE_LEVELS, Mixing, box_size, mix_columns, mixing_of

SIZE = (40, 20)


def mixing(**columns: object) -> Mixing:
    made = {name: np.array(values) for name, values in columns.items()}
    return mixing_of(made, SIZE, len(made["mix_item"]))


def test_rows_without_a_partner_column_are_not_mixed():
    found = mixing_of({"flip": np.ones(3, bool)}, SIZE, 3)
    assert found.partner_B.tolist() == [-1, -1, -1]
    assert found.share_B.tolist() == [0, 0, 0]
    assert (found.partner_B.dtype, found.share_B.dtype) == (np.int64, np.float32)


def test_the_share_is_the_area_of_the_box():
    boxes = [[0, 0, 20, 20], [10, 5, 20, 15], [0, 0, 40, 20], [-1, -1, -1, -1], [0, 0, 20, 20]]
    found = mixing(mix_item=[3, 2, 1, 0, -1], mix_box_xyxy=boxes)
    assert found.share_B.tolist() == [0.5, 0.125, 1, 0, 0]
    assert found.partner_B.tolist() == [3, 2, 1, 0, -1]


@pytest.mark.parametrize("box", [[9, 9, 3, 12], [9, 9, 12, 3], [9, 9, 3, 3], [5, 5, 5, 5]])
def test_a_box_that_is_inside_out_or_empty_has_no_area(box):
    assert mixing(mix_item=[1], mix_box_xyxy=[box]).share_B.tolist() == [0]


def test_a_box_beyond_the_picture_is_all_of_it_at_most():
    most = (1 << 31) - 1
    assert mixing(mix_item=[1], mix_box_xyxy=[[0, 0, most, most]]).share_B.tolist() == [1]


def test_lambda_says_the_share_where_there_is_no_box():
    boxes = [[-1] * 4, [0, 0, 20, 10], [-1] * 4]
    found = mixing(mix_item=[1, 1, -1], mix_lam=[0.75, 0.75, 0.75], mix_box_xyxy=boxes)
    assert found.share_B.tolist() == [0.25, 0.25, 0]
    assert mixing(mix_item=[1, 1], mix_lam=[1.0, 0.0]).share_B.tolist() == [0, 1]


@pytest.mark.parametrize(("lam", "share"), [(np.nan, 0), (-np.inf, 1), (np.inf, 0), (-3.0, 1), (2.0, 0)])
def test_no_lambda_leads_out_of_0_to_1(lam, share):
    assert mixing(mix_item=[1], mix_lam=np.array([lam], "f4")).share_B.tolist() == [share]


def test_a_stored_share_wins():
    found = mixing(mix_item=[1, -1], mix_share=np.array([64, 64], np.uint8), mix_lam=[0.0, 0.0])
    assert found.share_B.tolist() == [0.25, 0]


@given(st.lists(st.tuples(st.integers(-1, 9), st.floats(0, 1, width=32)), min_size=1, max_size=20))
def test_stored_shares_are_near_and_stay_as_they_are(pairs):
    partner, share = np.array([p for p, _ in pairs]), np.array([s for _, s in pairs], np.float32)
    given_ = Mixing(partner.astype(np.int64), np.where(partner >= 0, share, 0).astype(np.float32))

    columns = mix_columns(given_)
    found = mixing_of(columns, SIZE, len(pairs))

    assert (columns["mix_item"].dtype, columns["mix_share"].dtype) == (np.int32, np.uint8)
    np.testing.assert_array_equal(found.partner_B, given_.partner_B)
    assert np.abs(found.share_B - given_.share_B).max() <= 1 / SHARE_LEVELS
    again = mix_columns(found)
    assert all(np.array_equal(again[name], columns[name]) for name in columns)


def test_some_of_the_rows():
    some = mixing(mix_item=[4, 5, 6], mix_lam=[0.5, 0.25, 0.0]).rows(slice(1, 3))
    assert (some.partner_B.tolist(), some.share_B.tolist()) == ([5, 6], [0.75, 1])


def test_a_picture_is_as_large_as_its_boxes_reach():
    boxes = np.array([[0, 3, 9, 12], [2, 0, 30, 4], [-1, -1, -1, -1]])
    assert box_size(boxes) == (30, 12)
    assert box_size(boxes, (8, 99)) == (30, 99)
    assert box_size(np.zeros((0, 4), int), (5, 6)) == (5, 6)
    assert box_size(np.full((2, 4), -1)) == (1, 1)

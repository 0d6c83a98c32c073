"""Where views look, and the functions of it that prototypes are weighted by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from softpack.container.viewpoint import (
    ViewBasis,
    ViewpointTable,
    functions,
    has_viewpoints,
    n_functions,
    viewpoints_of,
)
from softpack.errors import CorruptError, DataError


def crops(n: int = 400, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    sides_B2 = random.uniform(0.2, 1, (n, 2))
    return np.concatenate([random.uniform(0, 1, (n, 2)) * (1 - sides_B2), sides_B2], 1).astype(np.float32)


def seen(n: int = 400, seed: int = 0) -> np.ndarray:
    return viewpoints_of({"crop_xywh_fraction": crops(n, seed)}, None)


def test_a_viewpoint_is_size_and_middle_of_the_crop():
    found = viewpoints_of({"crop_xywh_fraction": np.array([[0, 0, 1, 1], [0.5, 0, 0.5, 0.125]], "f4")}, None)
    assert found.tolist() == [[1, 0, 0], [-0.5, 0.5, -0.875]]


def test_pixels_and_fractions_say_the_same():
    pixels = np.array([[10, 20, 30, 40], [0, 0, 100, 50]], np.int32)
    hw_B2 = np.array([[80, 100], [50, 100]], np.int32)
    fractions = (pixels / np.array([[100, 80, 100, 80], [100, 50, 100, 50]])).astype("f4")
    np.testing.assert_allclose(
        viewpoints_of({"crop_xywh": pixels}, hw_B2),
        viewpoints_of({"crop_xywh_fraction": fractions}, None),
        atol=1e-6,
    )


def test_pixels_of_nobody_knows_how_many_are_refused():
    with pytest.raises(DataError, match="crops are in pixels, and source_hw does not say of how many"):
        viewpoints_of({"crop_xywh": np.zeros((1, 4), "i4")}, None)


@given(st_np.arrays(np.float32, (3, 4), elements=st.floats(width=32)))
def test_any_crop_has_a_viewpoint_within_bounds(crop_B4):
    found_B3 = viewpoints_of({"crop_xywh_fraction": crop_B4}, None)
    assert (np.abs(found_B3) <= 1).all()


@given(st_np.arrays(np.int32, (3, 4)), st_np.arrays(np.int32, (3, 2)))
def test_any_crop_in_pixels_has_one_too(crop_B4, hw_B2):
    assert (np.abs(viewpoints_of({"crop_xywh": crop_B4}, hw_B2)) <= 1).all()


@pytest.mark.parametrize(
    ("columns", "items", "says"),
    [
        ({"crop_xywh_fraction"}, (), True),
        ({"crop_xywh"}, ("source_hw",), True),
        ({"crop_xywh"}, (), False),
        ({"flip"}, ("source_hw",), False),
    ],
)
def test_which_columns_say_where_views_look(columns, items, says):
    assert has_viewpoints(columns, items) is says


def test_functions_are_products_by_degree():
    found = functions(np.array([[2.0, 3.0, 5.0]]), 2)
    assert found.tolist() == [[1, 2, 3, 5, 4, 6, 10, 9, 15, 25]]
    assert [n_functions(degree) for degree in range(4)] == [1, 4, 10, 20]


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_fitted_functions_are_orthonormal_and_the_first_is_one(degree):
    basis = ViewBasis.fitted(seen(), degree)
    weights_BP = basis(seen()).astype(np.float64)
    np.testing.assert_allclose(weights_BP.T @ weights_BP / len(weights_BP), np.eye(len(basis)), atol=1e-3)
    assert (weights_BP[:, 0] == 1).all()
    assert len(basis) == n_functions(degree) == len(basis.orders)


def test_views_that_all_look_alike_have_one_function():
    basis = ViewBasis.fitted(np.repeat(seen(1), 50, 0), 2)
    assert np.count_nonzero(basis.weight_PF.any(1)) == 1
    assert np.isfinite(basis(seen())).all()


def test_views_that_only_differ_in_size_have_functions_of_it_alone():
    viewpoint_B3 = seen()
    viewpoint_B3[:, 1:] = 0
    basis = ViewBasis.fitted(viewpoint_B3, 2)
    kept = basis.weight_PF.any(1).nonzero()[0]
    assert kept.tolist() == [0, 1, 4]  # 1, s and ss


@pytest.mark.parametrize(
    "weight_PF",
    [np.eye(4), np.eye(3, dtype="f4"), np.full((4, 4), np.nan, "f4"), np.zeros((4, 4, 1), "f4")],
)
def test_stored_functions_that_are_none_are_refused(weight_PF):
    with pytest.raises(
        CorruptError, match=r"a.spk: the functions of viewpoints are .* expected finite float32 \[4, 4\]"
    ):
        ViewBasis.stored(1, weight_PF, "a.spk")


def test_a_table_finds_rows_by_item_and_view():
    table = ViewpointTable()
    assert table.find(np.array([0]), np.array([0]))[0].tolist() == [False]
    table.add(np.array([3, 1]), np.array([0, 7]), np.array([[1, 0, 0], [0, 1, 0]]))
    table.add(np.array([2**31 - 1]), np.array([2**31 - 1]), np.array([[0, 0, 1]]))
    is_there, found = table.find(np.array([1, 3, 3, 2**31 - 1, -1]), np.array([7, 0, 1, 2**31 - 1, 0]))
    assert is_there.tolist() == [True, True, False, True, False]
    assert found.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert len(table) == 3
    assert table.all().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_rows_that_come_block_by_block_are_found_and_lie_in_few_runs():
    random = np.random.default_rng(0)
    order_R = random.permutation(4000)
    item_R, view_R, viewpoint_R3 = order_R // 20, order_R % 20, random.uniform(-1, 1, (4000, 3)).astype("f4")
    table = ViewpointTable()
    for start in range(0, 4000, 10):
        new = slice(start, start + 10)
        assert not table.find(item_R[new], view_R[new])[0].any()
        table.add(item_R[new], view_R[new], viewpoint_R3[new])
        is_there_B, found_B3 = table.find(item_R[: start + 10], view_R[: start + 10])
        assert is_there_B.all()
        np.testing.assert_array_equal(found_B3, viewpoint_R3[: start + 10])
        assert len(table._runs) <= 10
    assert len(table) == 4000
    np.testing.assert_array_equal(table.all(), viewpoint_R3[np.argsort(order_R)])

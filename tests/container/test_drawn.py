"""Columns are the same however many of a view are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from softpack.container import drawn
from softpack.container.drawn import DrawnColumns
from softpack.recipe import Recipe

N = 40
RECIPE = Recipe(size=16, mix="cutmix", mixed=0.5, seed=2, items=N)
SIZES = np.tile([[30, 20]], (N, 1))


@pytest.fixture
def counted(monkeypatch):
    """How many rows were drawn in each call."""
    calls = []
    draw = Recipe.draw

    def count(self, item_B, view_B, sizes):
        calls.append(len(item_B))
        return draw(self, item_B, view_B, sizes)

    monkeypatch.setattr(Recipe, "draw", count)
    return calls


def assert_drawn(columns, items, views):
    found, expected = columns.of(items, views), RECIPE.draw(items, views, SIZES[items])
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


def test_every_way_of_asking_gives_the_same():
    columns, random = DrawnColumns(RECIPE, N, SIZES), np.random.default_rng(0)
    for view in (0, 0, 0, 1, 0, 1, 2, 2, 0):
        items = random.integers(0, N, 7)
        assert_drawn(columns, items, np.full(7, view))
        assert_drawn(columns, items, random.integers(0, 3, 7))
    assert_drawn(columns, np.empty(0, int), np.empty(0, int))


def test_a_view_that_is_walked_through_is_drawn_once(counted):
    columns = DrawnColumns(RECIPE, N, SIZES)
    for start in range(0, N, 2):
        columns.of(np.arange(start, start + 2), np.full(2, 3))
    assert counted == [2, N]


def test_single_rows_are_drawn_alone(counted):
    recipe, n = Recipe(seed=1, items=5000), 5000
    columns = DrawnColumns(recipe, n, np.ones((n, 2)))
    for item in range(100):
        columns.of(np.array([item]), np.array([item % 3]))
    assert counted == [1] * 100


def test_two_views_are_kept(counted):
    columns = DrawnColumns(RECIPE, N, SIZES)
    for view in (0, 1, 0, 1, 0, 2, 2, 1):
        columns.of(np.arange(4), np.full(4, view))
    assert counted == [N, N, N, N]
    columns.of(np.arange(4), np.full(4, 2))
    assert len(counted) == 4


def test_of_very_many_items_no_view_is_kept(counted, monkeypatch):
    monkeypatch.setattr(drawn, "MOST_ITEMS", N - 1)
    columns = DrawnColumns(RECIPE, N, SIZES)
    for _ in range(3):
        columns.of(np.arange(4), np.zeros(4, int))
    assert counted == [4, 4, 4]


def test_sizes_need_not_be_known_where_nothing_is_cropped(counted):
    columns = DrawnColumns(Recipe(scale=None, seed=1), 1 << 30, None)
    assert columns.of(np.array([1 << 29]), np.array([0])).keys() == {"flip"}
    assert counted == [1]

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
    columns, random = DrawnColumns(RECIPE, SIZES), np.random.default_rng(0)
    for view in (0, 0, 0, 1, 0, 1, 2, 2, 0):
        items = random.integers(0, N, 7)
        assert_drawn(columns, items, np.full(7, view))
        assert_drawn(columns, items, random.integers(0, 3, 7))
    assert_drawn(columns, np.empty(0, int), np.empty(0, int))


def test_a_view_that_is_walked_through_is_drawn_once(counted):
    columns = DrawnColumns(RECIPE, SIZES)
    for start in range(0, N, 4):
        columns.of(np.arange(start, start + 4), np.full(4, 3))
    assert counted == [4, N]


def test_two_views_are_kept(counted):
    columns = DrawnColumns(RECIPE, SIZES)
    for view in (0, 0, 1, 1, 0, 1, 0, 2, 2, 1):
        columns.of(np.arange(4), np.full(4, view))
    assert counted == [4, N, 4, N, 4, N, 4]
    columns.of(np.arange(4), np.full(4, 0))
    assert counted[-1] == 4


def test_of_very_many_items_no_view_is_kept(counted, monkeypatch):
    monkeypatch.setattr(drawn, "MOST_ITEMS", N - 1)
    columns = DrawnColumns(RECIPE, SIZES)
    for _ in range(3):
        columns.of(np.arange(4), np.zeros(4, int))
    assert counted == [4, 4, 4]

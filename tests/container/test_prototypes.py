from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpack.container import prototypes
from softpack.container.mixing import Mixing
from softpack.container.prototypes import MIXED_WEIGHT, RIDGE, PrototypeLearner

ITEMS, CLASSES = 12, 5


def known(items: int = ITEMS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(items, CLASSES)).astype(np.float32)


def mixed(made_NC: np.ndarray, n_rows: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, Mixing]:
    """Rows that are exactly what two known prototypes add up to."""
    random = np.random.default_rng(seed)
    item_B, partner_B = random.integers(0, len(made_NC), (2, n_rows))
    share_B = random.uniform(0.05, 0.6, n_rows).astype(np.float32)
    rows_BC = (1 - share_B)[:, None] * made_NC[item_B] + share_B[:, None] * made_NC[partner_B]
    return rows_BC, item_B, Mixing(partner_B, share_B)


def learnt(items: int, *parts: tuple[np.ndarray, np.ndarray, Mixing]) -> np.ndarray:
    learner = PrototypeLearner(items, CLASSES)
    for part in parts:
        learner.add(*part)
    return learner.solve()[:, 0]


def test_unmixed_rows_give_their_mean():
    made_NC = known()
    item_B = np.repeat(np.arange(ITEMS), 50)
    noise_BC = np.random.default_rng(2).normal(size=(len(item_B), CLASSES)).astype(np.float32)
    rows_BC = made_NC[item_B] + noise_BC

    found_NC = learnt(ITEMS, (rows_BC, item_B, Mixing.none(len(item_B))))

    mean_NC = rows_BC.reshape(ITEMS, 50, CLASSES).mean(1)
    assert (found_NC.dtype, found_NC.shape) == (np.float32, (ITEMS, CLASSES))
    # A prototype is drawn to the mean of all by a small part of a row.
    assert np.abs(found_NC - mean_NC).max() <= 3 * RIDGE * MIXED_WEIGHT / 50


def test_one_row_is_nearly_its_items_prototype():
    rows_BC = known(2)
    found_NC = learnt(2, (rows_BC, np.arange(2), Mixing.none(2)))
    np.testing.assert_allclose(found_NC, rows_BC, atol=0.02)


def test_least_squares_undo_the_mixing_where_every_row_is_mixed():
    made_NC = known()
    rows_BC, item_B, mixing = mixed(made_NC, 40 * ITEMS)

    found_NC = learnt(ITEMS, (rows_BC, item_B, mixing))

    means_NC = np.stack([rows_BC[item_B == item].mean(0) for item in range(ITEMS)])
    assert np.abs(found_NC - made_NC).max() < 0.05
    assert np.square(means_NC - made_NC).mean() > 100 * np.square(found_NC - made_NC).mean()


@given(st.integers(0, 1000), st.integers(1, 60), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_solution_is_that_of_the_normal_equations(seed, n_rows, share_mixed):
    """Against a dense solver: the design matrix, its weights and the ridge, written out."""
    random = np.random.default_rng(seed)
    rows_BC, item_B, mixing = mixed(known(seed=seed), n_rows, seed)
    is_mixed_B = random.random(n_rows) < share_mixed
    mixing = Mixing(
        np.where(is_mixed_B, mixing.partner_B, -1), np.where(is_mixed_B, mixing.share_B, 0).astype(np.float32)
    )
    found_NC = learnt(ITEMS, (rows_BC, item_B, mixing))

    design_BN = np.zeros((n_rows, ITEMS))
    design_BN[np.arange(n_rows), item_B] += 1 - mixing.share_B
    np.add.at(design_BN, (np.flatnonzero(is_mixed_B), mixing.partner_B[is_mixed_B]), mixing.share_B[is_mixed_B])
    weight_B1 = np.where(is_mixed_B, MIXED_WEIGHT, 1.0)[:, None]
    ridge = RIDGE * MIXED_WEIGHT
    normal_NN = design_BN.T @ (weight_B1 * design_BN) + ridge * np.eye(ITEMS)
    wanted_NC = design_BN.T @ (weight_B1 * rows_BC) + ridge * rows_BC.mean(0)
    expected_NC = np.linalg.solve(normal_NN, wanted_NC)
    left = np.linalg.norm(normal_NN @ found_NC - wanted_NC) / np.linalg.norm(wanted_NC)
    assert left < 1e-3
    np.testing.assert_allclose(found_NC, expected_NC, atol=0.1 * np.abs(expected_NC).max() + 0.05)


def test_an_item_without_rows_has_the_mean_of_all():
    made_NC = known()
    item_B = np.repeat([0, 1, 4], 3)

    found_NC = learnt(ITEMS, (made_NC[item_B], item_B, Mixing.none(9)))

    np.testing.assert_allclose(found_NC[7], made_NC[item_B].mean(0), atol=1e-5)


def test_an_item_that_is_a_partner_alone_is_learnt_too():
    made_NC = known()
    rows_BC, item_B, mixing = mixed(made_NC, 600)
    kept = item_B != 3

    found_NC = learnt(
        ITEMS, (rows_BC[kept], item_B[kept], Mixing(mixing.partner_B[kept], mixing.share_B[kept]))
    )

    np.testing.assert_allclose(found_NC[3], made_NC[3], atol=0.15)


def test_blocks_add_up(monkeypatch):
    made_NC = known()
    parts = [mixed(made_NC, n, seed) for n, seed in ((70, 1), (1, 2), (33, 3))]
    together = tuple(np.concatenate([part[i] for part in parts]) for i in range(2))
    mixing = Mixing(*(np.concatenate([getattr(p[2], f) for p in parts]) for f in ("partner_B", "share_B")))

    whole_NC = learnt(ITEMS, (*together, mixing))
    np.testing.assert_allclose(learnt(ITEMS, *parts), whole_NC, atol=1e-4)
    monkeypatch.setattr(prototypes, "BLOCK_VALUES", 7 * CLASSES)
    np.testing.assert_allclose(learnt(ITEMS, (*together, mixing)), whole_NC, atol=1e-4)


def test_half_precision_rows_are_summed_as_floats():
    """4096 rows of 16 sum to what fp16 cannot hold."""
    rows_BC = np.full((4096, CLASSES), 16, np.float16)
    found_NC = learnt(1, (rows_BC, np.zeros(4096, np.int64), Mixing.none(4096)))
    np.testing.assert_allclose(found_NC, 16, rtol=1e-5)


def test_many_equal_rows_keep_their_prototype():
    """Sums of float32 rows do not drift from what every row says."""
    rows_BC = np.tile(np.float32([0.1, -3.3, 7.7, 0, 1e-3]), (5000, 1))
    learner = PrototypeLearner(1, CLASSES)
    for _ in range(20):
        learner.add(rows_BC, np.zeros(len(rows_BC), np.int64), Mixing.none(len(rows_BC)))
    np.testing.assert_allclose(learner.solve()[0, 0], rows_BC[0], rtol=1e-4, atol=1e-6)


def test_a_row_mixed_with_its_own_item_is_that_item():
    made_NC = known(3)
    item_B = np.repeat(np.arange(3), 200)
    own = Mixing(item_B, np.full(600, 0.4, np.float32))
    np.testing.assert_allclose(learnt(3, (made_NC[item_B], item_B, own)), made_NC, atol=0.05)


def test_no_rows_at_all_give_zeros():
    assert not PrototypeLearner(4, CLASSES).solve().any()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_partner_of_which_nothing_or_all_is_seen(share):
    made_NC = known()
    item_B = np.arange(ITEMS)
    partner_B = np.roll(item_B, 1)
    rows_BC = made_NC[partner_B] if share else made_NC
    found_NC = learnt(ITEMS, (rows_BC, item_B, Mixing(partner_B, np.full(ITEMS, share, np.float32))))
    drawn_NC = (made_NC + RIDGE * rows_BC.mean(0)) / (1 + RIDGE)
    np.testing.assert_allclose(found_NC, drawn_NC, atol=1e-3)


def test_several_prototypes_of_mixed_items_are_undone_too():
    """Rows are exactly what weighted prototypes of two items add up to, and every row is mixed."""
    random, n_rows, n = np.random.default_rng(5), 60 * ITEMS, 4
    made_NPC = random.normal(size=(ITEMS, n, CLASSES)).astype(np.float32)
    item_B, partner_B = random.integers(0, ITEMS, (2, n_rows))
    share_B = random.uniform(0.05, 0.6, n_rows).astype(np.float32)
    own_BP, partner_BP = random.normal(size=(2, n_rows, n)).astype(np.float32)
    own_BP[:, 0] = partner_BP[:, 0] = 1
    own_BC, partner_BC = (
        np.einsum("bp,bpc->bc", weights, made_NPC[items])
        for weights, items in ((own_BP, item_B), (partner_BP, partner_B))
    )
    rows_BC = (1 - share_B)[:, None] * own_BC + share_B[:, None] * partner_BC
    learner = PrototypeLearner(ITEMS, CLASSES, np.array([0, 1, 1, 1]))
    learner.add(rows_BC, item_B, Mixing(partner_B, share_B, own_BP, partner_BP))
    error_NPC = np.abs(learner.solve() - made_NPC)
    assert error_NPC[:, 0].max() < 0.15
    assert error_NPC.mean() < 0.1  # those of functions are drawn to 0, as by a few rows


def test_prototypes_of_functions_are_zero_where_rows_do_not_vary():
    rows_BC, item_B = np.repeat(known(), 20, 0), np.repeat(np.arange(ITEMS), 20)
    weights_BP = np.random.default_rng(0).normal(size=(len(item_B), 4)).astype(np.float32)
    weights_BP[:, 0] = 1
    learner = PrototypeLearner(ITEMS, CLASSES, np.array([0, 1, 1, 1]))
    learner.add(
        rows_BC, item_B, Mixing(np.full(len(item_B), -1), np.zeros(len(item_B), "f4"), weights_BP, weights_BP)
    )
    found_NPC = learner.solve()
    assert np.abs(found_NPC[:, 1:]).max() < 0.01
    np.testing.assert_allclose(found_NPC[:, 0], known(), atol=0.01)

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softpack.errors import DataError
from softpack.eval.fidelity import Divergence, FidelityMeter, fidelity

INF = math.inf


def rows(n: int, classes: int, seed: int) -> torch.Tensor:
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(seed)) * 4


def test_a_case_by_hand() -> None:
    teacher = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    decoded = torch.log(torch.tensor([[0.25, 0.75], [0.9, 0.1]]))

    got = fidelity(decoded, teacher, (1,))

    by_hand = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert got.temperatures[1].kl_mean == pytest.approx(by_hand / 2, rel=1e-6)
    assert got.temperatures[1].kl_max == pytest.approx(by_hand, rel=1e-6)
    assert got.rows == 2


def test_it_is_kl_of_teacher_to_decoded_times_the_squared_temperature() -> None:
    teacher, decoded = rows(7, 50, 0), rows(7, 50, 1)

    got = fidelity(decoded, teacher, (1, 4, 20))

    for T in (1, 4, 20):
        log_p, log_q = (teacher.double() / T).log_softmax(1), (decoded.double() / T).log_softmax(1)
        kl = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        assert got.temperatures[T].kl_mean == pytest.approx(float(kl) * T**2, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(2, 30), st.integers(0, 5), st.integers(1, 40))
def test_blocks_do_not_change_the_figures(n: int, classes: int, seed: int, n_block: int) -> None:
    teacher, decoded = rows(n, classes, seed), rows(n, classes, seed + 100)
    meter = FidelityMeter((1, 20))
    for start in range(0, n, n_block):
        meter.update(teacher[start : start + n_block], decoded[start : start + n_block])

    whole = fidelity(decoded, teacher, (1, 20))

    assert meter.result().top1_agreement == whole.top1_agreement
    for T in (1, 20):
        assert vars(meter.result().temperatures[T]) == pytest.approx(vars(whole.temperatures[T]), rel=1e-6)
        assert 0 <= whole.temperatures[T].kl_p99 <= whole.temperatures[T].kl_max


def test_rows_that_are_the_same_are_at_zero_and_agree() -> None:
    same = rows(20, 1000, 3)

    got = fidelity(same + 5.0, same)  # a constant does not change a distribution

    assert got.top1_agreement == 1.0
    assert all(0 <= d.kl_max < 1e-10 for d in got.temperatures.values())


def test_a_small_divergence_is_not_drowned_by_rounding() -> None:
    teacher = rows(1, 1000, 4)
    decoded = teacher.clone()
    decoded[0, 7] += 1e-3

    got = fidelity(decoded, teacher, (20,)).temperatures[20].kl_mean

    p = float((teacher.double() / 20).softmax(1)[0, 7])
    assert got == pytest.approx(0.5 * p * (1 - p) * 1e-6, rel=2e-3)


def test_mass_that_decoded_lacks_is_infinite_and_null_in_json() -> None:
    teacher = torch.zeros(200, 3)
    decoded = torch.zeros(200, 3)
    decoded[5, 1] = -INF

    got = fidelity(decoded, teacher, (1,))

    assert got.temperatures[1] == Divergence(kl_mean=INF, kl_p99=0.0, kl_max=INF)
    assert json.loads(json.dumps(got.to_json(), allow_nan=False)) == {
        "rows": 200,
        "temperatures": {"1": {"kl_mean": None, "kl_p99": 0.0, "kl_max": None}},
        "top1_agreement": 1.0,
    }


def test_mass_that_the_teacher_lacks_is_no_trouble() -> None:
    teacher = torch.tensor([[0.0, 0.0, -INF], [0.0, 0.0, -INF]])
    decoded = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -INF]])

    got = fidelity(decoded, teacher, (4,)).temperatures[4]

    assert got.kl_max == pytest.approx(16 * math.log(1.5), rel=1e-6)
    assert got.kl_mean == pytest.approx(8 * math.log(1.5), rel=1e-6)


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (99, 99), (100, 99), (101, 100), (200, 198), (1000, 990)])
def test_the_percentile_is_the_nearest_rank(n: int, rank: int) -> None:
    gaps = torch.arange(1, n + 1)[torch.randperm(n, generator=torch.Generator().manual_seed(n))] / 100
    decoded = torch.stack([gaps, torch.zeros(n)], 1)

    got = fidelity(decoded, torch.zeros(n, 2), (1,)).temperatures[1]

    row = torch.tensor([[rank / 100, 0.0]])
    assert got.kl_p99 == fidelity(row, torch.zeros(1, 2), (1,)).temperatures[1].kl_max


def test_ties_go_to_the_lowest_class() -> None:
    teacher = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    decoded = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]])

    assert fidelity(decoded, teacher).top1_agreement == 0.5


def test_it_takes_float16_arrays_of_items_and_views() -> None:
    source = np.zeros((3, 4, 5), np.float16)

    assert fidelity(source.astype(np.float32), source).to_json() == {
        "rows": 12,
        "temperatures": {T: {"kl_mean": 0.0, "kl_p99": 0.0, "kl_max": 0.0} for T in ("1", "4", "20")},
        "top1_agreement": 1.0,
    }


@pytest.mark.parametrize(
    ("row", "whose"), [([math.nan, 0], "teacher"), ([INF, 0], "teacher"), ([-INF, -INF], "decoded")]
)
def test_rows_that_are_no_distribution_are_refused_by_number(row: list[float], whose: str) -> None:
    good, bad = torch.zeros(4, 2), torch.zeros(4, 2)
    bad[2] = torch.tensor(row)
    meter = FidelityMeter()
    meter.update(good, good)

    pair = (bad, good) if whose == "teacher" else (good, bad)
    with pytest.raises(DataError, match=rf"{whose} row 6, .*-inf in every class; so have 1 of the 4 rows"):
        meter.update(*pair)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match=r"shape \[2, 3\] and their source \[2, 4\]; expected the same"):
        fidelity(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(DataError, match=r"teacher rows have shape \[3\] and decoded rows \[3\]"):
        FidelityMeter().update(torch.zeros(3), torch.zeros(3))
    with pytest.raises(DataError, match="fidelity of 0 rows"):
        FidelityMeter().result()
    for bad in ((), (0,), (1, 1), (INF,), (-1,)):
        with pytest.raises(DataError, match=r"temperatures are .*; expected at least one, each positive"):
            FidelityMeter(bad)

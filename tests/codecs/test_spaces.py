from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given

from softpack.codecs.spaces import PROB_FLOOR, convert, log_domain, to_log_domain, to_logits
from softpack.errors import CodecError
from softpack.records import LabelSpec
from softpack.testing import label_rows

SPACES = [LabelSpec(100, "log_probs", 1.0), LabelSpec(100, "log_probs", 20.0), LabelSpec(100, "probs", 4.0)]


@pytest.mark.parametrize("other", SPACES)
def test_distributions_survive_the_way_there_and_back(other, spec, logits_BC):
    back_BC = convert(convert(logits_BC, spec, other), other, spec)

    for temperature in (1, 20):
        expected_BC = torch.softmax(logits_BC / temperature, -1)
        torch.testing.assert_close(torch.softmax(back_BC / temperature, -1), expected_BC, rtol=1e-4, atol=1e-7)


def test_probabilities_are_the_softmax_at_the_temperature(spec, logits_BC):
    found_BC = convert(logits_BC, spec, LabelSpec(100, "probs", 4.0))

    torch.testing.assert_close(found_BC, torch.softmax(logits_BC / 4, -1))


@given(label_rows(spaces=["log_probs", "probs"]))
def test_conversion_normalises(drawn):
    spec, rows_BC = drawn

    for temperature in (2.0, 7.0):  # never the rows' own, at which probs stay as they are
        probs_BC = convert(rows_BC, spec, LabelSpec(spec.classes, "probs", temperature))

        torch.testing.assert_close(probs_BC.sum(-1), torch.ones(len(rows_BC)))


def test_zeros_become_minus_infinity_and_zeros_again():
    probs = LabelSpec(3, "probs")
    rows_BC = torch.tensor([[0.5, 0.5, 0.0]])

    logs_BC = convert(rows_BC, probs, LabelSpec(3, "log_probs"))

    assert logs_BC[0, 2] == -math.inf
    torch.testing.assert_close(convert(logs_BC, LabelSpec(3, "log_probs"), probs), rows_BC)


def test_to_logits_undoes_the_temperature():
    row_BC = torch.tensor([[-1.0, -2.0]])

    assert to_logits(row_BC, LabelSpec(2, "log_probs", 3.0)).tolist() == [[-3.0, -6.0]]


def test_only_probabilities_are_modelled_in_another_space():
    assert log_domain(LabelSpec(5, "probs", 4.0)) == LabelSpec(5, "log_probs", 4.0)
    for spec in (LabelSpec(5), LabelSpec(5, "log_probs", 4.0)):
        assert log_domain(spec) == spec


@given(label_rows())
def test_log_domain_is_finite_and_moves_zeros_alone(drawn):
    spec, rows_BC = drawn

    found_BC = to_log_domain(rows_BC, spec)

    logs_BC = rows_BC.log() if spec.space == "probs" else rows_BC
    is_zero_BC = torch.isinf(logs_BC)
    assert bool(torch.isfinite(found_BC).all())
    assert torch.equal(found_BC[~is_zero_BC], logs_BC[~is_zero_BC])
    assert bool((found_BC[is_zero_BC] <= math.log(PROB_FLOOR) + 1e-5).all())


def test_zeros_are_never_raised_above_what_is_likelier():
    rows_BC = torch.tensor([[0.0, -40.0, -math.inf], [0.0, -5.0, -math.inf]])

    found_BC = to_log_domain(rows_BC, LabelSpec(3, "log_probs"))

    torch.testing.assert_close(found_BC[:, 2], torch.tensor([-40.0, math.log(PROB_FLOOR)]))


def test_rows_of_the_same_space_come_back_as_float32(spec, logits_BC):
    found_BC = convert(logits_BC.half(), spec, spec)

    assert found_BC.dtype == torch.float32
    assert torch.equal(found_BC, logits_BC)


def test_logits_of_minus_infinity_are_refused_by_codecs_that_would_fill_them():
    rows_BC = torch.tensor([[5.0, -40.0, -math.inf], [1.0, 2.0, 3.0]])
    with pytest.raises(CodecError, match=r"logits are -inf for the classes that were not kept, .* tail=zero"):
        to_log_domain(rows_BC, LabelSpec(3))

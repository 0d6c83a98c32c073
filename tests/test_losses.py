"""Losses are what their formulas say, at any temperature and in any space of the labels."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from softpack import losses
from softpack.codecs.spaces import convert
from softpack.errors import DataError
from softpack.records import LabelSpec

SPEC = LabelSpec(12)
GENERATOR = torch.Generator().manual_seed(0)
STUDENT_BC = 3 * torch.randn(50, 12, generator=GENERATOR)
LABEL_BC = 5 * torch.randn(50, 12, generator=GENERATOR)
TARGET_B = torch.randint(12, (50,), generator=GENERATOR)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("squared", [True, False])
def test_kl_is_that_of_torch(temperature, squared):
    found = losses.kl(STUDENT_BC, LABEL_BC, temperature, squared=squared)
    expected = F.kl_div(
        F.log_softmax(STUDENT_BC / temperature, 1), F.softmax(LABEL_BC / temperature, 1), reduction="batchmean"
    )
    torch.testing.assert_close(found, expected * (temperature**2 if squared else 1))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_cross_entropy_is_that_of_torch(temperature):
    found = losses.soft_cross_entropy(STUDENT_BC, LABEL_BC, temperature)
    torch.testing.assert_close(
        found, F.cross_entropy(STUDENT_BC / temperature, F.softmax(LABEL_BC / temperature, 1))
    )


@pytest.mark.parametrize("spec", [LabelSpec(12, "log_probs", 4.0), LabelSpec(12, "probs", 1.0)])
@pytest.mark.parametrize("loss", [losses.kl, losses.soft_cross_entropy])
def test_labels_of_any_space_say_the_same(spec, loss):
    rows_BC = convert(LABEL_BC, SPEC, spec)
    torch.testing.assert_close(
        loss(STUDENT_BC, rows_BC, 20.0, spec=spec), loss(STUDENT_BC, LABEL_BC, 20.0), rtol=1e-3, atol=1e-5
    )


def test_squared_error_does_not_see_the_constant_of_a_row():
    expected = F.mse_loss(STUDENT_BC - STUDENT_BC.mean(1, True), LABEL_BC - LABEL_BC.mean(1, True))
    torch.testing.assert_close(losses.logits_mse(STUDENT_BC + 3, LABEL_BC - 7), expected)
    log_probs = LabelSpec(12, "log_probs", 4.0)
    found = losses.logits_mse(STUDENT_BC, convert(LABEL_BC, SPEC, log_probs), spec=log_probs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_hard_labels_count_as_they_are_weighted():
    alone, both = (losses.logits_mse(STUDENT_BC, LABEL_BC, TARGET_B, hard) for hard in (0.0, 0.1))
    torch.testing.assert_close(both - alone, 0.1 * F.cross_entropy(STUDENT_BC, TARGET_B), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", [losses.kl, losses.soft_cross_entropy])
def test_classes_without_mass_count_for_nothing_and_gradients_are_finite(loss):
    rows_BC = LABEL_BC.clone()
    rows_BC[:, 6:] = -torch.inf
    given_BC = STUDENT_BC.clone().requires_grad_()
    found = loss(given_BC, rows_BC, 4.0)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(given_BC.grad).all()


@pytest.mark.parametrize("loss", [losses.kl, losses.soft_cross_entropy, losses.logits_mse])
def test_a_student_that_says_the_same_has_no_gradient(loss):
    given_BC = LABEL_BC.clone().requires_grad_()
    loss(given_BC, LABEL_BC).backward()
    assert given_BC.grad.abs().max() < 1e-6


@pytest.mark.parametrize("loss", [losses.kl, losses.soft_cross_entropy, losses.logits_mse])
def test_half_precision_and_autocast_change_nothing(loss):
    half_BC = STUDENT_BC.bfloat16()
    expected = loss(half_BC.float(), LABEL_BC)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(half_BC, LABEL_BC)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: losses.kl(STUDENT_BC, LABEL_BC[:3]),
            r"gives \[50, 12\] and the labels are \[3, 12\]; expected the same",
        ),
        (lambda: losses.logits_mse(STUDENT_BC, LABEL_BC[:, :3]), r"the labels are \[50, 3\]"),
        (lambda: losses.kl(STUDENT_BC[0], LABEL_BC[0]), r"expected the same \[rows, classes\] of both"),
        (lambda: losses.kl(STUDENT_BC, LABEL_BC, 0.0), "the temperature is 0.0; expected a number above 0"),
        (lambda: losses.kl(STUDENT_BC, LABEL_BC, float("nan")), "the temperature is nan"),
        (
            lambda: losses.logits_mse(STUDENT_BC, LABEL_BC, hard=0.5),
            "hard is 0.5, but there are no hard labels; give",
        ),
        (
            lambda: losses.logits_mse(STUDENT_BC, LABEL_BC.masked_fill(LABEL_BC > 5, -torch.inf)),
            "gives a class no mass at all, which is a logit of -inf; take kl, or soft_cross_entropy",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(DataError, match=says):
        call()


def test_a_temperature_falls_as_lpqld_lowers_it():
    found = [losses.temperature(epoch, start=20, factor=0.7, every=30) for epoch in (0, 29, 30, 59, 60, 299)]
    assert found == pytest.approx([20, 20, 14, 14, 9.8, 1.0])
    assert losses.temperature(7, start=4) == 4
    assert losses.temperature(7, start=0.5, factor=0.5) == 0.5


WRONG = [{"epoch": -1}, {"start": 0}, {"factor": 1.5}, {"factor": 0}, {"every": 0}, {"least": 0}]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_temperature_of_no_schedule_is_refused(wrong):
    with pytest.raises(DataError, match=r"temperature: epoch is .*expected an epoch from 0, positive"):
        losses.temperature(**{"epoch": 0, "start": 20, "factor": 0.7, "every": 30, **wrong})

"""Which corrections hold rows to a promise."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from softpack.codecs.spaces import convert, to_logits
from softpack.container.correcting import correct_by_list
from softpack.container.corrections import NONE, Corrections
from softpack.container.promise import MARGIN, find_corrections, promise
from softpack.errors import CodecError, DataError
from softpack.eval.fidelity import FidelityMeter
from softpack.records import SPACES, LabelSpec
from softpack.testing import random_rows
from softpack.testing.strategies import label_rows


def worst(teacher_BC, decoded_BC, spec, gives, temperatures=(1.0, 4.0, 20.0)):
    """Return the largest KL * T**2, as `eval` measures it."""
    meter = FidelityMeter(temperatures)
    meter.update(to_logits(teacher_BC, spec), to_logits(decoded_BC, gives))
    return max(found.kl_max for found in meter.result().temperatures.values())


def mended(teacher_BC, decoded_BC, spec, gives, promised):
    found = find_corrections(teacher_BC, decoded_BC, spec, gives, promised)
    return correct_by_list(decoded_BC.clone(), found, gives, promised.step), found


@given(label_rows(max_rows=4, max_logit=60), st.sampled_from([1e-4, 1e-3, 0.01, 0.3, 3.0]), st.data())
def test_hostile_rows_are_held_to_any_promise(spec_and_rows, max_kl, data):
    spec, rows_BC = spec_and_rows
    if not len(rows_BC):
        return
    gives = LabelSpec(spec.classes, data.draw(st.sampled_from(SPACES)))
    logits_BC = to_logits(rows_BC, spec)
    finite_BC = torch.where(logits_BC.isfinite(), logits_BC, logits_BC.amax(1, keepdim=True))
    # Float32 holds no probabilities below 1e-38, which T=20 would see.
    assume(gives.space != "probs" or float((finite_BC.amax(1) - finite_BC.amin(1)).max()) < 80)
    seed = data.draw(st.integers(0, 99))
    noise_BC = torch.randn(rows_BC.shape, generator=torch.Generator().manual_seed(seed))
    size = data.draw(st.sampled_from([0.0, 0.1, 2.0, 20.0]))
    # What decoders give has no infinities: of log-probabilities they are low, of probabilities they would be lost.
    decoded_BC = to_logits(rows_BC, spec).clamp_min(-60) + size * noise_BC
    decoded_BC = convert(decoded_BC, LabelSpec(spec.classes), gives)
    if gives.space == "probs":
        decoded_BC = (decoded_BC + 1e-6) / (decoded_BC + 1e-6).sum(1, keepdim=True)

    labels_BC, found = mended(rows_BC, decoded_BC, spec, gives, promise(max_kl))

    assert worst(rows_BC, labels_BC, spec, gives) <= max_kl
    if gives.space != "logits":
        mass_B = (labels_BC.exp() if gives.space == "log_probs" else labels_BC).sum(1)
        torch.testing.assert_close(mass_B, torch.ones(len(mass_B)), rtol=1e-4, atol=1e-4)
    untouched = np.setdiff1d(np.arange(len(rows_BC)), found.row_E)
    assert torch.equal(labels_BC[untouched], decoded_BC[untouched])
    cells = found.row_E * spec.classes + found.class_E
    assert (np.diff(cells) > 0).all()
    assert found.value_E.all()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("max_kl", [1e-4, 0.01, 0.1, 0.5])
def test_rows_that_are_near_enough_stay_and_the_others_come_just_within(space, max_kl):
    spec = LabelSpec(1000, space, 1.0 if space == "logits" else 2.0)
    rows_BC = random_rows(LabelSpec(1000), 40)
    decoded_BC = rows_BC + torch.linspace(0.01, 1.5, 40)[:, None] * torch.randn_like(rows_BC)
    rows_BC, decoded_BC = (convert(x, LabelSpec(1000), spec) for x in (rows_BC, decoded_BC))
    promised = promise(max_kl)

    labels_BC, found = mended(rows_BC, decoded_BC, spec, spec, promised)

    far = [worst(rows_BC[[n]], decoded_BC[[n]], spec, spec) > max_kl * (1 - MARGIN) for n in range(40)]
    assert np.unique(found.row_E).tolist() == np.flatnonzero(far).tolist()
    assert 0 < len(found) < 40 * 1000
    assert 0.7 * max_kl < worst(rows_BC, labels_BC, spec, spec) <= max_kl


def test_fewer_corrections_for_a_looser_promise():
    spec, rows_BC = LabelSpec(200), random_rows(LabelSpec(200), 30)
    decoded_BC = rows_BC + torch.randn_like(rows_BC)
    counts = [
        len(find_corrections(rows_BC, decoded_BC, spec, spec, promise(kl))) for kl in (0.03, 0.1, 0.3, 1.0)
    ]

    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[-1] >= 0


def test_only_the_temperatures_that_are_named_count():
    spec, rows_BC = LabelSpec(50), random_rows(LabelSpec(50), 20)
    noise_BC = torch.randn(rows_BC.shape, generator=torch.Generator().manual_seed(1))
    decoded_BC = rows_BC + 2 * noise_BC * (rows_BC < 0)  # far from it at T=20 alone

    assert not len(find_corrections(rows_BC, decoded_BC, spec, spec, promise(0.4, (0.05,))))
    assert len(find_corrections(rows_BC, decoded_BC, spec, spec, promise(0.4, (0.05, 20))))


def test_one_row_that_is_far_in_one_class_takes_one_correction():
    rows_BC = torch.zeros(1, 5)
    decoded_BC = torch.tensor([[0.0, 0.0, 9.0, 0.0, 0.0]])
    found = find_corrections(rows_BC, decoded_BC, LabelSpec(5), LabelSpec(5), promise(0.3))

    assert found.row_E.tolist() == [0]
    assert found.class_E.tolist() == [2]


@pytest.mark.parametrize("space", ["log_probs", "probs"])
def test_classes_to_which_nobody_gives_a_probability_keep_none(space):
    spec = LabelSpec(4, space)
    rows_BC = torch.tensor([[0.6, 0.4, 0.0, 0.0]])
    decoded_BC = torch.tensor([[0.1, 0.8, 0.0, 0.1]])
    if space == "log_probs":
        rows_BC, decoded_BC = rows_BC.log(), decoded_BC.log()

    labels_BC, _ = mended(rows_BC, decoded_BC, spec, spec, promise(1e-3))

    assert worst(rows_BC, labels_BC, spec, spec) <= 1e-3
    assert float(labels_BC[0, 2]) == (-np.inf if space == "log_probs" else 0)
    # At T=20 the last class would have a fifth of all, were its logit but little below.
    assert float(convert(labels_BC, spec, LabelSpec(4, "probs", 20.0))[0, 3]) < 1e-5


def test_a_class_that_decodes_to_nothing_cannot_be_mended():
    spec, rows_BC = LabelSpec(3, "log_probs"), torch.tensor([[0.5, 0.3, 0.2]] * 3).log()
    decoded_BC = rows_BC.clone()
    decoded_BC[1] = torch.tensor([0.7, 0.3, 0.0]).log()

    message = "row 1 decodes to a probability of zero .*; take a codec that keeps all classes"
    with pytest.raises(DataError, match=message):
        find_corrections(rows_BC, decoded_BC, spec, spec, promise(100.0))


def test_logits_that_float32_holds_no_closer_cannot_be_mended():
    rows_BC = torch.tensor([[3e7, 3e7 + 2.0, 0.0]])  # numbers of this size are 2 apart
    decoded_BC = torch.tensor([[3e7 + 2.0, 0.0, 1.0]])

    message = r"item 7 cannot be brought to a KL of 1e-05: with all classes corrected it is at .*float32"
    with pytest.raises(DataError, match=message):
        find_corrections(
            rows_BC, decoded_BC, LabelSpec(3), LabelSpec(3), promise(1e-5), lambda row: f"item {row + 7}"
        )


def test_decoded_rows_of_nan_cannot_be_mended():
    rows_BC = torch.zeros(2, 3)
    with pytest.raises(DataError, match=r"row 1 cannot be brought .* it is at nan"):
        find_corrections(
            rows_BC, torch.tensor([[0.0] * 3, [np.nan] * 3]), LabelSpec(3), LabelSpec(3), promise(0.1)
        )


def test_the_same_rows_get_the_same_corrections():
    rows_BC = torch.zeros(8, 16)  # all classes are worth the same
    decoded_BC = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).sign().repeat(8, 1) * 2
    spec = LabelSpec(16)
    found = [find_corrections(rows_BC, decoded_BC, spec, spec, promise(0.2)) for _ in range(2)]

    for name in ("row_E", "class_E", "value_E"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))
    per_row = found[0].class_E.reshape(8, -1)
    assert (per_row == per_row[0]).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_no_rows_and_none_that_are_far(rows):
    rows_BC = random_rows(LabelSpec(7), rows)
    found = find_corrections(rows_BC, rows_BC, LabelSpec(7), LabelSpec(7), promise(1e-4))

    assert (len(found), found.n_rows, found.n_bytes) == (0, 0, 0)


def test_a_smaller_promise_takes_more_corrections_of_more_rows():
    spec, rows_BC = LabelSpec(200), random_rows(LabelSpec(200), 100)
    decoded_BC = rows_BC + torch.linspace(0, 2, 100)[:, None] * torch.randn_like(rows_BC)
    found = [find_corrections(rows_BC, decoded_BC, spec, spec, promise(kl)) for kl in (1.0, 0.3, 0.1)]

    assert [(some.n_rows, len(some)) for some in found] == sorted((some.n_rows, len(some)) for some in found)
    assert 0 < found[0].n_rows < found[2].n_rows < 100


@pytest.mark.parametrize("max_kl", [0, -1, float("nan"), float("inf"), "0.3", None, True])
def test_promises_that_are_none(max_kl):
    with pytest.raises(
        CodecError, match=rf"max_kl is {re.escape(repr(max_kl))}; expected a positive number of nats"
    ):
        promise(max_kl)


@pytest.mark.parametrize("temperatures", [(), (1, 1), (0,), (-1,), (float("nan"),), range(1, 18)])
def test_temperatures_that_are_none(temperatures):
    with pytest.raises(CodecError, match="expected 1 to 16 positive numbers, each given once"):
        promise(0.3, temperatures)


def test_all_corrected_is_within_half_of_the_promise():
    """By Hoeffding's lemma: residuals within a step are within step**2 / 8, whatever the rows are."""
    for max_kl in (1e-4, 0.1, 0.3, 7.0):
        assert promise(max_kl).step ** 2 / 8 <= 0.52 * max_kl


# -- lists of corrections ------------------------------------------------------------------------------------


def listed(*entries):
    rows, classes, values = zip(*entries, strict=True)
    return Corrections(np.array(rows), np.array(classes), np.array(values, np.int32))


def test_take_gives_corrections_of_rows_as_they_are_asked_for():
    found = listed((1, 0, 5), (1, 4, -2), (3, 2, 7)).take(np.array([3, 0, 1, 3, 9]))

    assert found.row_E.tolist() == [0, 2, 2, 3]
    assert found.class_E.tolist() == [2, 0, 4, 2]
    assert found.value_E.tolist() == [7, 5, -2, 7]
    assert len(NONE.take(np.array([1, 2]))) == len(NONE.take(np.array([], int))) == 0


def test_join_and_numbered_put_rows_in_order():
    found = Corrections.join([listed((0, 1, 1), (0, 3, 2)), listed((1, 0, 3))]).numbered(np.array([8, 2]))

    assert found.row_E.tolist() == [2, 8, 8]
    assert found.class_E.tolist() == [0, 1, 3]
    assert found.n_rows == 2

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softpack.codecs.floats import from_float_codes
from softpack.codecs.quantize import Quantize
from softpack.codecs.spaces import convert, to_log_domain
from softpack.errors import CodecError
from softpack.records import LabelSpec
from softpack.testing import check_codec, label_rows, random_rows


def mean_kl(teacher_BC, student_BC, temperature):
    teacher_BC = torch.log_softmax(teacher_BC / temperature, -1)
    student_BC = torch.log_softmax(student_BC / temperature, -1)
    return float((teacher_BC.exp() * (teacher_BC - student_BC)).sum(-1).mean()) * temperature**2


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
def test_keeps_the_contract(bits, space):
    spec = LabelSpec(100, space)
    check_codec(Quantize(spec, bits), random_rows(spec, 64))


@given(label_rows(spaces=["logits"]), st.integers(1, 8))
def test_levels_are_the_nearest_and_reach_up_to_the_maximum(drawn, bits):
    spec, rows_BC = drawn
    codec = Quantize(spec, bits)

    codes = codec.encode(rows_BC)

    error_BC = (codec.decode(codes) - rows_BC).abs()
    low_B1 = from_float_codes(codes["minimum"], "fp16").unsqueeze(-1)
    step_B1 = from_float_codes(codes["step"], "fp16").unsqueeze(-1)
    rounding_B1 = 2**-10 * (rows_BC.abs().amax(-1, keepdim=True) + low_B1.abs() + step_B1 * 2**bits) + 1e-4
    inside_BC = rows_BC >= low_B1
    assert bool((error_BC <= step_B1 / 2 + rounding_B1)[inside_BC].all())
    if bits >= 6:
        assert bool((rows_BC >= low_B1 - rounding_B1).all())


def test_decoding_is_minimum_plus_level_times_step():
    codec = Quantize(LabelSpec(4), bits=2)

    codes = codec.encode(torch.tensor([[-1.0, 0.0, 1.0, 2.0]]))

    assert codes["levels"].tolist() == [[0, 1, 2, 3]]
    assert codec.decode(codes).tolist() == [[-1.0, 0.0, 1.0, 2.0]]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_raising_the_lowest_level_pays(bits, spec, logits_BC):
    codec = Quantize(spec, bits)
    low_B1, high_B1 = logits_BC.aminmax(dim=-1, keepdim=True)
    step_B1 = (high_B1 - low_B1) / (2**bits - 1)
    plain_BC = low_B1 + ((logits_BC - low_B1) / step_B1).round() * step_B1

    decoded_BC = codec.decode(codec.encode(logits_BC))

    searched = sum(mean_kl(logits_BC, decoded_BC, t) for t in (1, 4, 20))
    plain = sum(mean_kl(logits_BC, plain_BC, t) for t in (1, 4, 20))
    assert searched < 0.9 * plain


def test_the_choice_of_levels_does_not_depend_on_the_space(spec, logits_BC):
    # Only the fp16 rounding of the minimum differs, which no softmax sees.
    at_20 = LabelSpec(100, "log_probs", 20.0)
    rows_BC = convert(logits_BC, spec, at_20)

    from_logits_BC = Quantize(spec).decode(Quantize(spec).encode(logits_BC))
    from_logs_BC = Quantize(at_20).decode(Quantize(at_20).encode(rows_BC))

    expected = mean_kl(logits_BC, from_logits_BC, 4)
    assert mean_kl(logits_BC, from_logs_BC * 20, 4) == pytest.approx(expected, rel=0.1)


@given(label_rows(spaces=["log_probs", "probs"]))
def test_probabilities_come_back_as_normalised_log_probabilities(drawn):
    spec, rows_BC = drawn
    codec = Quantize(spec, bits=8)

    decoded_BC = codec.decode(codec.encode(rows_BC))

    assert codec.gives == LabelSpec(spec.classes, "log_probs", spec.temperature)
    torch.testing.assert_close(decoded_BC.exp().sum(-1), torch.ones(len(rows_BC)))
    expected_BC = torch.log_softmax(to_log_domain(rows_BC, spec), -1)
    torch.testing.assert_close(decoded_BC, expected_BC, rtol=0, atol=0.2)


def test_rows_of_equal_numbers_have_no_step(spec):
    codes = Quantize(spec).encode(torch.full((2, 100), 3.0))

    assert codes["step"].tolist() == [0, 0]
    assert Quantize(spec).decode(codes).unique().tolist() == [3.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 70000.0, -70000.0])
def test_what_fp16_cannot_hold_is_refused(bad, spec, logits_BC):
    logits_BC[2, 3] = bad

    with pytest.raises(CodecError, match=r"too large for an fp16 minimum and step \(65504\); mend such rows"):
        Quantize(spec, bits=1).encode(logits_BC)


@pytest.mark.parametrize("bits", [0, 9, 2.0, True, "4"])
def test_settings_out_of_range_are_refused(bits, spec):
    with pytest.raises(CodecError, match=r"quantize: bits is .*; expected a whole number from 1 to 8"):
        Quantize(spec, bits)


@given(st.integers(2, 3000), st.floats(0, 40000))
def test_at_bits_takes_the_most_bits_that_fit(classes, target_bits):
    spec = LabelSpec(classes)
    costs = [Quantize(spec, bits).bits_per_label() for bits in range(1, 9)]
    if target_bits < costs[0]:
        with pytest.raises(CodecError, match=rf"at least {costs[0]} \(bits=1\)"):
            Quantize.at_bits(spec, target_bits)
    else:
        expected = max(cost for cost in costs if cost <= target_bits)
        assert Quantize.at_bits(spec, target_bits).bits_per_label() == expected


@pytest.mark.shared
def test_int4_on_real_rows(shared_data):
    with np.load(shared_data / "imagenet_lite0.npz") as data:
        rows_BC = torch.from_numpy(data["logits"][::60]).float()
    codec = Quantize(LabelSpec(1000), bits=4)

    decoded_BC = codec.decode(codec.encode(rows_BC))

    assert codec.bits_per_label() == 4032
    for temperature, most in ((1, 0.009), (4, 0.023), (20, 0.024)):
        assert mean_kl(rows_BC, decoded_BC, temperature) < most

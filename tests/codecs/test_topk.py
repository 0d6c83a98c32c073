from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from softpack.codecs.abc import code_values
from softpack.codecs.spaces import to_logits
from softpack.codecs.topk import TAILS, TopK
from softpack.errors import CodecError
from softpack.records import LabelSpec
from softpack.testing import check_codec, label_rows, random_rows


def true_log_probs(rows_BC, spec):
    return torch.log_softmax(to_logits(rows_BC, spec) / spec.temperature, -1)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
def test_keeps_the_contract(tail, space):
    spec = LabelSpec(100, space)
    check_codec(TopK(spec, k=7, tail=tail), random_rows(spec, 64))


@pytest.mark.parametrize("value", ["fp32", "bf16"])
def test_keeps_the_contract_with_values_of_other_precision(value, spec, logits_BC):
    check_codec(TopK(spec, value=value), logits_BC)


def test_keeps_the_contract_without_a_tail(spec, logits_BC):
    codec = TopK(spec, k=100, tail="bucket")

    assert [array.name for array in codec.codes] == ["ids", "values"]
    check_codec(codec, logits_BC)


@given(label_rows(), st.data())
def test_kept_classes_are_the_largest_and_ties_go_to_the_lower_id(drawn, data):
    spec, rows_BC = drawn
    codec = TopK(spec, k=data.draw(st.integers(1, spec.classes)))

    ids_Bk = codec.encode(rows_BC)["ids"].long()

    expected_BC = torch.sort(rows_BC, dim=-1, descending=True, stable=True).indices
    assert torch.equal(ids_Bk, expected_BC[:, : codec.k])


def test_negative_zero_ties_with_zero():
    ids = TopK(LabelSpec(3), k=2).encode(torch.tensor([[-0.0, 0.0, -1.0]]))["ids"]

    assert ids.tolist() == [[0, 1]]


@given(label_rows(), st.sampled_from(TAILS), st.data())
def test_decoded_rows_are_normalised_and_never_nan(drawn, tail, data):
    spec, rows_BC = drawn
    codec = TopK(spec, k=data.draw(st.integers(1, spec.classes)), tail=tail)

    decoded_BC = codec.decode(codec.encode(rows_BC))

    assert codec.gives == LabelSpec(spec.classes, "log_probs", spec.temperature)
    torch.testing.assert_close(decoded_BC.exp().sum(-1), torch.ones(len(rows_BC)), rtol=1e-5, atol=1e-5)


@given(label_rows(max_logit=8), st.sampled_from(["uniform", "bucket"]), st.data())
def test_what_is_kept_keeps_its_probability(drawn, tail, data):
    spec, rows_BC = drawn
    codec = TopK(spec, k=data.draw(st.integers(1, spec.classes)), value="fp32", tail=tail)
    kept_Bk = code_values(codec.encode(rows_BC)["ids"], 8)

    decoded_BC = codec.decode(codec.encode(rows_BC))

    probs_BC = true_log_probs(rows_BC, spec).exp()
    assume(tail == "uniform" or spec.temperature == codec.tail_temperature)
    expected_Bk = probs_BC.gather(1, kept_Bk)
    torch.testing.assert_close(decoded_BC.exp().gather(1, kept_Bk), expected_Bk, rtol=2e-3, atol=1e-5)


def test_tails_by_hand():
    # Softmax gives 1/2, 1/4, 1/8, 1/8.
    rows_BC = torch.tensor([[4.0, 2.0, 1.0, 1.0]]).log()
    expected = {
        "uniform": [1 / 2, 1 / 4, 1 / 8, 1 / 8],
        "bucket": [1 / 2, 1 / 4, 1 / 8, 1 / 8],
        "zero": [2 / 3, 1 / 3, 0, 0],
        "min": [2 / 5, 1 / 5, 1 / 5, 1 / 5],
    }
    for tail, probs in expected.items():
        codec = TopK(LabelSpec(4), k=2, tail=tail)

        decoded_BC = codec.decode(codec.encode(rows_BC))

        torch.testing.assert_close(decoded_BC.exp(), torch.tensor([probs]), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("source", [LabelSpec(100), LabelSpec(100, "probs", 4.0)])
def test_bucket_is_exact_at_its_temperature(temperature, source):
    rows_BC = random_rows(source, 16)
    codec = TopK(source, k=5, value="fp32", tail="bucket", tail_temperature=temperature)

    codes = codec.encode(rows_BC)
    decoded_BC = codec.decode(codes)

    def tail_mass(logits_BC):
        probs_BC = torch.softmax(logits_BC / temperature, -1)
        return 1 - probs_BC.gather(1, codes["ids"].long()).sum(-1)

    expected_B = tail_mass(to_logits(rows_BC, source))
    found_B = tail_mass(decoded_BC * source.temperature)
    torch.testing.assert_close(found_B, expected_B, rtol=0.02, atol=1e-5)


def test_zero_tail_is_the_softmax_over_the_kept_logits_at_any_temperature(spec, logits_BC):
    codec = TopK(spec, k=5, value="fp32", tail="zero")
    largest = logits_BC.topk(5)

    decoded_BC = codec.decode(codec.encode(logits_BC))

    for temperature in (1, 20):
        found_BC = torch.softmax(decoded_BC / temperature, -1)
        expected_Bk = torch.softmax(largest.values / temperature, -1)
        torch.testing.assert_close(found_BC.topk(5).values, expected_Bk)
        assert int((found_BC > 0).sum(-1).max()) == 5


@pytest.mark.parametrize("tail", TAILS)
def test_rows_of_one_certain_class_survive(tail):
    spec = LabelSpec(10, "probs")
    rows_BC = torch.eye(10)
    codec = TopK(spec, k=3, tail=tail)

    probs_BC = codec.decode(codec.encode(rows_BC)).exp()

    torch.testing.assert_close(probs_BC, rows_BC, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_without_a_distribution_are_refused(bad, spec, logits_BC):
    logits_BC[1, 99] = bad

    with pytest.raises(CodecError, match="a row of logits holds nan, \\+inf or no probability at all"):
        TopK(spec).encode(logits_BC)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 101}, "topk: k is 101; expected a whole number from 1 to 100"),
        ({"k": 0}, "expected a whole number from 1 to 100"),
        ({"k": 2.5}, "topk: k is 2.5"),
        ({"value": "int8"}, "topk: value is 'int8'; expected one of fp32, fp16, bf16"),
        ({"tail": "fat"}, "topk: tail is 'fat'; expected one of uniform, zero, min, bucket"),
        ({"tail": "bucket", "tail_temperature": 0.0}, "tail_temperature is 0.0; expected a positive number"),
        ({"tail": "zero", "tail_temperature": 4.0}, "tail_temperature is for tail=bucket; found tail=zero"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message, spec):
    with pytest.raises(CodecError, match=message):
        TopK(spec, **settings)


@given(st.integers(2, 70000), st.floats(0, 3000), st.sampled_from(TAILS), st.sampled_from(["fp16", "fp32"]))
def test_at_bits_takes_the_largest_k_that_fits(classes, target_bits, tail, value):
    spec = LabelSpec(classes)
    least = TopK(spec, k=1, tail=tail, value=value).bits_per_label()
    if target_bits < least:
        with pytest.raises(CodecError, match=rf"the least is {least} \(k=1\)"):
            TopK.at_bits(spec, target_bits, tail=tail, value=value)
        return
    codec = TopK.at_bits(spec, target_bits, tail=tail, value=value)
    assert codec.bits_per_label() <= target_bits
    if codec.k < classes:
        assert TopK(spec, k=codec.k + 1, tail=tail, value=value).bits_per_label() > target_bits


@pytest.mark.shared
def test_top_20_on_real_rows(shared_data):
    with np.load(shared_data / "imagenet_lite0.npz") as data:
        rows_BC = torch.from_numpy(data["logits"][::60]).float()
    codec = TopK(LabelSpec(1000))

    decoded_BC = codec.decode(codec.encode(rows_BC))

    assert codec.bits_per_label() == 520
    teacher_BC = torch.log_softmax(rows_BC, -1)
    kl = float((teacher_BC.exp() * (teacher_BC - decoded_BC)).sum(-1).mean())
    assert 0.11 < kl < 0.15

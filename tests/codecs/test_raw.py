from __future__ import annotations

import pytest
import torch
from hypothesis import given

from softpack.codecs.floats import FLOATS
from softpack.codecs.raw import Raw
from softpack.errors import CodecError
from softpack.records import LabelSpec
from softpack.testing import check_codec, label_rows, random_rows


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
def test_keeps_the_contract(dtype, space):
    spec = LabelSpec(100, space)
    check_codec(Raw(spec, dtype), random_rows(spec, 64))


@given(label_rows())
def test_fp32_rows_come_back_bit_for_bit(drawn):
    spec, rows_BC = drawn
    codec = Raw(spec, "fp32")

    decoded_BC = codec.decode(codec.encode(rows_BC))

    assert torch.equal(decoded_BC.view(torch.int32), rows_BC.view(torch.int32))


@pytest.mark.parametrize(("dtype", "relative_error"), [("fp16", 2**-11), ("bf16", 2**-8)])
def test_half_floats_are_the_nearest(dtype, relative_error, spec, logits_BC):
    codec = Raw(spec, dtype)

    error_BC = (codec.decode(codec.encode(logits_BC)) - logits_BC).abs()

    assert bool((error_BC <= relative_error * logits_BC.abs() + 1e-7).all())
    if dtype == "fp16":  # the fixture's own precision
        assert float(error_BC.max()) == 0


def test_minus_infinity_is_kept(spec):
    rows_BC = torch.full((1, 100), -torch.inf)

    codec = Raw(spec)

    assert torch.equal(codec.decode(codec.encode(rows_BC)), rows_BC)


def test_a_number_too_large_for_fp16_is_refused(spec, logits_BC):
    logits_BC[3, 5] = -70000

    with pytest.raises(CodecError, match="a value of size 70000 is too large for fp16; set dtype=fp32"):
        Raw(spec).encode(logits_BC)


def test_an_unknown_dtype_is_refused(spec):
    with pytest.raises(CodecError, match="raw: dtype is 'fp8'; expected one of fp32, fp16, bf16"):
        Raw(spec, "fp8")


@pytest.mark.parametrize(
    ("target_bits", "dtype"), [(1600, "fp16"), (3199, "fp16"), (3200, "fp32"), (9999, "fp32")]
)
def test_at_bits_takes_the_most_precise_that_fits(spec, target_bits, dtype):
    assert Raw.at_bits(spec, target_bits).dtype == dtype


def test_at_bits_names_what_it_costs(spec):
    with pytest.raises(CodecError, match=r"costs 1600 bits a label here .* 1599 were asked for"):
        Raw.at_bits(spec, 1599)

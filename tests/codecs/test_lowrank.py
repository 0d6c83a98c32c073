from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softpack.codecs.lowrank import LowRank
from softpack.errors import CodecError
from softpack.records import LabelSpec
from softpack.testing import check_codec, random_rows


def centred(rows_BC):
    return rows_BC - rows_BC.mean(-1, keepdim=True)


@pytest.mark.parametrize(("rank", "bits"), [(64, 8), (5, 1), (5, 13), (99, 16)])
@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
def test_keeps_the_contract(rank, bits, space):
    spec = LabelSpec(100, space)
    check_codec(LowRank(spec, rank, bits), random_rows(spec, 64))


def test_rows_of_low_rank_come_back(spec):
    generator = torch.Generator().manual_seed(0)
    rows_BC = torch.randn(50, 3, generator=generator) @ torch.randn(3, 100, generator=generator)

    codec = LowRank(spec, rank=10, bits=16).fit([rows_BC])

    assert codec.rank == 3
    decoded_BC = codec.decode(codec.encode(rows_BC))
    torch.testing.assert_close(decoded_BC, centred(rows_BC), rtol=0, atol=0.01)


def test_more_axes_and_more_bits_leave_less_error(spec, logits_BC):
    def error(rank, bits):
        codec = LowRank(spec, rank, bits).fit([logits_BC])
        return float((codec.decode(codec.encode(logits_BC)) - centred(logits_BC)).square().mean())

    by_rank = [error(rank, 8) for rank in (1, 4, 16, 60)]
    by_bits = [error(16, bits) for bits in (1, 2, 4, 8)]

    assert by_rank == sorted(by_rank, reverse=True)
    assert by_bits == sorted(by_bits, reverse=True)


def test_levels_of_few_bits_are_clipped_where_that_pays(spec, logits_BC):
    codec = LowRank(spec, rank=8, bits=2).fit([logits_BC])
    coordinates_BR = (centred(logits_BC) - codec.tensors["mean"].float()) @ codec.tensors["basis"].float().T
    low_R, high_R = coordinates_BR.aminmax(dim=0)
    step_R = (high_R - low_R) / 3
    plain_BR = low_R + ((coordinates_BR - low_R) / step_R).round() * step_R

    levels_BR = codec.encode(logits_BC)["levels"].float()

    found_BR = codec.tensors["offset"] + levels_BR * codec.tensors["step"]
    assert float((found_BR - coordinates_BR).square().sum()) < 0.9 * float(
        (plain_BR - coordinates_BR).square().sum()
    )


@pytest.mark.parametrize(("n_rows", "rank"), [(1, 1), (2, 1), (30, 29), (500, 99)])
def test_rank_is_lowered_to_what_the_sample_bears(n_rows, rank, spec):
    rows_BC = random_rows(spec, n_rows)

    codec = LowRank(spec, rank=5000, bits=16).fit([rows_BC])

    assert codec.rank == rank
    assert codec.codes[0].shape == (rank,)
    decoded_BC = codec.decode(codec.encode(rows_BC))
    torch.testing.assert_close(decoded_BC, centred(rows_BC), rtol=0, atol=0.02)


def test_equal_rows_need_one_axis_of_no_length(spec):
    rows_BC = torch.ones(4, 100) + torch.arange(100) / 100

    codec = LowRank(spec).fit([rows_BC])

    assert codec.rank == 1
    torch.testing.assert_close(codec.decode(codec.encode(rows_BC)), centred(rows_BC), rtol=0, atol=1e-3)


def test_blocks_of_any_size_give_the_same_codec(spec, logits_BC):
    whole = LowRank(spec, rank=8).fit([logits_BC])
    parts = LowRank(spec, rank=8).fit([logits_BC[:0], *logits_BC.split(7)])

    expected_BC = whole.decode(whole.encode(logits_BC))
    torch.testing.assert_close(parts.decode(parts.encode(logits_BC)), expected_BC, rtol=0, atol=0.1)


def test_progress_is_told(spec, logits_BC):
    seen = []

    LowRank(spec, rank=8).fit([logits_BC], progress=lambda *what: seen.append(what))

    assert seen == [(1, 2, "8 axes"), (2, 2, "8 axes of 8 bits")]


def test_encode_needs_axes(spec, logits_BC):
    codec = LowRank(spec)

    assert not codec.can_encode
    with pytest.raises(CodecError, match="has no axes yet; call fit"):
        codec.encode(logits_BC)


@pytest.mark.parametrize("blocks", [[], [torch.zeros(0, 100)]])
def test_no_rows_are_refused(blocks, spec):
    with pytest.raises(CodecError, match="there are no rows to fit to"):
        LowRank(spec).fit(blocks)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e8])
def test_rows_beyond_fp16_are_refused_by_fit(bad, spec, logits_BC):
    logits_BC[:, 5] = bad

    with pytest.raises(CodecError, match=r"too large for fp16 \(65504\); mend such rows"):
        LowRank(spec).fit([logits_BC])


def test_rows_that_are_not_finite_are_refused_by_encode(spec, logits_BC):
    codec = LowRank(spec, rank=8).fit([logits_BC])
    logits_BC[0, 0] = math.nan

    with pytest.raises(CodecError, match="a row holds inf, nan"):
        codec.encode(logits_BC)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "mean",
            lambda tensor: tensor[:-1],
            r"tensor mean is torch.float16 \[99\]; expected torch.float16 \[100\]",
        ),
        (
            "basis",
            lambda tensor: tensor.float(),
            r"tensor basis is torch.float32 \[8, 100\]; expected torch.float16",
        ),
        ("step", lambda tensor: tensor * math.nan, "tensor step holds inf or nan; expected finite numbers"),
        ("offset", lambda tensor: tensor.double(), "tensor offset is torch.float64"),
    ],
)
def test_a_state_that_contradicts_the_settings_is_refused(name, change, message, spec, logits_BC):
    codec = LowRank(spec, rank=8).fit([logits_BC])
    state = codec.state()
    state[name] = change(state[name])

    with pytest.raises(CodecError, match=message):
        LowRank(spec, rank=8).load_state(state)


def test_a_state_without_a_tensor_is_refused(spec):
    with pytest.raises(CodecError, match="found the tensors none; expected basis, mean, offset, step"):
        LowRank(spec).load_state({})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "lowrank: rank is 0; expected a whole number from 1"),
        ({"rank": 1 << 30}, "expected a whole number from 1 to 16777216"),
        ({"bits": 17}, "lowrank: bits is 17; expected a whole number from 1 to 16"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message, spec):
    with pytest.raises(CodecError, match=message):
        LowRank(spec, **settings)


@given(st.integers(2, 3000), st.floats(0, 30000), st.integers(1, 16))
def test_at_bits_takes_the_largest_rank_that_fits(classes, target_bits, bits):
    spec = LabelSpec(classes)
    if target_bits < bits:
        with pytest.raises(CodecError, match=rf"the least is {bits} \(rank=1, bits={bits}\)"):
            LowRank.at_bits(spec, target_bits, bits=bits)
        return
    codec = LowRank.at_bits(spec, target_bits, bits=bits)
    assert codec.bits_per_label() <= target_bits
    assert codec.rank == classes - 1 or codec.bits_per_label() + bits > target_bits


@pytest.mark.shared
def test_rank_64_on_real_rows_of_other_images(shared_data):
    with np.load(shared_data / "imagenet_lite0.npz") as data:
        is_test_B = data["item"] % 5 == 0
        rows_BC, test_BC = (
            torch.from_numpy(data["logits"][rows][::6]).float() for rows in (~is_test_B, is_test_B)
        )
    codec = LowRank(LabelSpec(1000)).fit([rows_BC])

    decoded_BC = codec.decode(codec.encode(test_BC))

    assert codec.bits_per_label() == 512
    left = (decoded_BC - centred(test_BC)).square().sum() / (test_BC - test_BC.mean()).square().sum()
    assert float(left) < 0.6

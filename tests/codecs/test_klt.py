from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softpack.codecs.klt import KLT
from softpack.codecs.klt.axes import analysis, round_axes
from softpack.codecs.klt.levels import PRICE, Sample, count, entropy_of, even_levels
from softpack.codecs.widths import groups_of
from softpack.codecs.klt.search import KLForm
from softpack.codecs.registry import make_codec
from softpack.codecs.spaces import centred_logits
from softpack.errors import CodecError
from softpack.records import LabelSpec
from softpack.testing import check_codec, random_rows
from softpack.testing.codec_checks import made_up_context

SPEC = LabelSpec(50)
QUICK = {"search": 0}


@pytest.fixture(scope="module", name="rows_BC")
def rows():
    """300 rows [300, 50]: enough for their entropy to mean something."""
    return random_rows(SPEC, 300)


def entropy(codes):
    """Bits of a row under an ideal code of each coefficient."""
    return sum(
        float(entropy_of(count(values.T.long(), int(values.max()) + 1)).sum()) for values in codes.values()
    )


def again(codec, rows_BC, context_BC=None):
    return codec.decode(codec.encode(rows_BC, context_BC), context_BC)


def squared_error(codec, rows_BC, context_BC=None):
    return float((again(codec, rows_BC, context_BC) - centred_logits(rows_BC, SPEC)).square().mean())


def kl_sum(rows_BC, decoded_BC):
    """Mean over rows of the sum of KL * T^2 at 1, 4 and 20."""
    total = 0.0
    for t in (1, 4, 20):
        teacher_BC = torch.log_softmax(rows_BC / t, 1)
        total += (
            t
            * t
            * float((teacher_BC.exp() * (teacher_BC - torch.log_softmax(decoded_BC / t, 1))).sum(1).mean())
        )
    return total


# -- the contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, QUICK, {"rank": 5, "search": 1}, {"bits": 300.0, **QUICK}, {"step": 0.5}]
)
@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
def test_keeps_the_contract(settings, space):
    spec = LabelSpec(50, space, 1.0 if space == "logits" else 4.0)
    check_codec(KLT(spec, **settings), random_rows(spec, 40))


@pytest.mark.parametrize("search", [0, 2])
@pytest.mark.parametrize("space", ["logits", "probs"])
def test_keeps_the_contract_with_context(search, space):
    spec = LabelSpec(50, space)
    check_codec(KLT(spec, context=True, search=search), random_rows(spec, 40))


def test_text_becomes_its_settings():
    config = {"bits": "12.5", "context": "true", "widths": "", "search": "0"}

    assert make_codec("klt", SPEC, config) == KLT(SPEC, bits=12.5, context=True, search=0)


# -- rate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [0, 3])
@pytest.mark.parametrize("bits", [10.0, 40.0])
def test_the_entropy_is_what_was_asked_for_and_not_more(bits, search, rows_BC):
    codec = KLT(SPEC, bits=bits, search=search).fit([rows_BC])

    assert 0.9 * bits < entropy(codec.encode(rows_BC)) <= 1.01 * bits


def test_at_bits_sets_the_entropy():
    assert KLT.at_bits(SPEC, 33.5, search=0) == KLT(SPEC, bits=33.5, search=0)


def test_at_bits_refuses_more_than_was_asked_for():
    with pytest.raises(CodecError, match="bits is 50, but 40 bits a label were asked for; leave bits out"):
        KLT.at_bits(SPEC, 40, bits=50.0)


def test_more_bits_leave_less_error(rows_BC):
    errors = [
        squared_error(KLT(SPEC, bits=bits, **QUICK).fit([rows_BC]), rows_BC) for bits in (5.0, 20.0, 100.0)
    ]

    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


def test_more_bits_than_the_rows_hold_give_them_nearly_back(rows_BC):
    codec = KLT(SPEC, bits=1e6, **QUICK).fit([rows_BC])

    torch.testing.assert_close(again(codec, rows_BC), centred_logits(rows_BC, SPEC), rtol=0, atol=0.1)
    assert codec.rank == 49


def test_a_given_step_is_kept(rows_BC):
    codec = KLT(SPEC, step=2.0, rank=7, **QUICK).fit([rows_BC])

    assert (codec.step, codec.rank) == (2.0, 7)


def test_arrays_are_no_wider_than_their_levels(rows_BC):
    codec = KLT(SPEC, bits=60.0, **QUICK).fit([rows_BC])
    codes = codec.encode(rows_BC)

    assert [array.name for array in codec.codes] == [
        f"levels_{group.bits}" for group in groups_of(codec.widths)
    ]
    for array in codec.codes:
        spread = int(codes[array.name].amax(0).int().sub(codes[array.name].amin(0)).max())
        assert array.bits == max(1, spread.bit_length())


def test_axes_that_do_not_pay_are_left_out(rows_BC):
    few, more = (KLT(SPEC, bits=40.0, axis_price=price, **QUICK).fit([rows_BC]) for price in (1.0, 0.01))

    assert 1 <= few.rank < more.rank < 49
    sizes = [len(np.unique(codec.state()["axes"].numpy())) for codec in (few, more)]
    assert sizes[0] < sizes[1]  # and those that are kept are rounded more


def test_a_larger_file_has_more_and_better_axes(rows_BC):
    small, large = (KLT(SPEC, bits=40.0, **QUICK).fit([rows_BC], n_rows=n_rows) for n_rows in (300, 1 << 20))

    assert small.rank < large.rank
    assert squared_error(small, rows_BC) > squared_error(large, rows_BC)


# -- distortion --------------------------------------------------------------------------------------------


def test_thresholds_weigh_bits_against_squared_error():
    generator = torch.Generator().manual_seed(0)
    coefficients_RB = torch.randn(1, 20000, generator=generator)

    def cost(levels, used_RL):
        rounded_RB = levels.values().gather(1, levels.nearest(coefficients_RB))
        error = float((rounded_RB - coefficients_RB).square().mean())
        return error + PRICE * levels.step**2 * float(entropy_of(used_RL))

    found, used_RL = Sample(coefficients_RB).fit(1.5, 64)
    plain = even_levels(coefficients_RB, 1.5, 64)

    assert cost(found, used_RL) < 0.96 * cost(
        plain, count(plain.nearest(coefficients_RB), plain.shift_RL.shape[1])
    )
    middle = int(-found.first_R[0])
    assert found.threshold_RL[0, middle - 1] < -0.75 * 1.05  # the zone of 0 is wider than a step
    assert found.threshold_RL[0, middle] > 0.75 * 1.05


@given(st.integers(0, 2**31), st.floats(0.05, 50.0))
def test_thresholds_rise(seed, step):
    coefficients_RB = torch.randn(3, 200, generator=torch.Generator().manual_seed(seed)).pow(3)

    levels, used_RL = Sample(coefficients_RB).fit(step, 64)

    threshold_RL = torch.where(torch.isfinite(levels.threshold_RL), levels.threshold_RL, 1e9)
    assert bool((threshold_RL.diff(dim=1) >= 0).all())
    assert used_RL.sum(1).tolist() == [200, 200, 200]
    assert torch.equal(used_RL, count(levels.nearest(coefficients_RB), used_RL.shape[1]))


def test_the_search_leaves_less_kl_at_the_same_bits(rows_BC):
    without, with_search = (KLT(SPEC, bits=40.0, search=search).fit([rows_BC]) for search in (0, 3))

    assert entropy(with_search.encode(rows_BC)) <= 1.01 * entropy(without.encode(rows_BC))
    rows_BC = centred_logits(rows_BC, SPEC)
    assert kl_sum(rows_BC, again(with_search, rows_BC)) < 0.8 * kl_sum(rows_BC, again(without, rows_BC))


def test_the_form_is_the_kl_around_decoded_rows(rows_BC):
    generator = torch.Generator().manual_seed(0)
    basis_RC = torch.linalg.qr(torch.randn(50, 6, generator=generator)).Q.T
    decoded_BC = rows_BC + torch.randn(rows_BC.shape, generator=generator)
    form = KLForm(rows_BC, basis_RC, (20.0, 1.0, 4.0))

    kl_B = form.go_to(decoded_BC)
    form.draw()

    assert float(kl_B.mean()) == pytest.approx(kl_sum(rows_BC, decoded_BC), rel=1e-4)
    lowest_B = form.lowest(2, torch.zeros(300))
    nearer_B = form.go_to(decoded_BC + lowest_B[:, None] * basis_RC[2])
    assert float((nearer_B < kl_B).float().mean()) > 0.9
    assert float(form.go_to(rows_BC).abs().max()) < 1e-3


def test_the_search_makes_no_row_much_worse(rows_BC):
    rows_BC = centred_logits(rows_BC, SPEC) * 20
    codec = KLT(SPEC, bits=20.0, search=3).fit([rows_BC])
    without = KLT(SPEC, **{**codec.get_config(), "search": 0}).load_state(
        {**codec.state(), **codec.encoder_state()}
    )

    form = KLForm(rows_BC, torch.zeros(1, 50), (1.0, 4.0, 20.0))

    assert bool((form.go_to(again(codec, rows_BC)) <= 1.26 * form.go_to(again(without, rows_BC))).all())


def test_the_search_looks_at_the_temperatures_that_it_is_told(rows_BC):
    hot, cold = (KLT(SPEC, bits=40.0, temperatures=t).fit([rows_BC]) for t in ("20", "1"))

    def kl(codec, t):
        teacher_BC, decoded_BC = (torch.log_softmax(x / t, 1) for x in (rows_BC, again(codec, rows_BC)))
        return float((teacher_BC.exp() * (teacher_BC - decoded_BC)).sum(1).mean())

    assert kl(hot, 20) < kl(cold, 20)
    assert kl(cold, 1) < kl(hot, 1)


def test_context_saves_error(rows_BC):
    context_BC = made_up_context(KLT(SPEC, context=True), rows_BC)
    alone = KLT(SPEC, bits=20.0, **QUICK).fit([rows_BC])
    given_it = KLT(SPEC, bits=20.0, context=True, **QUICK).fit([rows_BC], contexts=[context_BC])

    assert squared_error(given_it, rows_BC, context_BC) < 0.6 * squared_error(alone, rows_BC)


def test_rounded_axes_are_taken_for_what_they_are():
    axes_RC = torch.linalg.qr(torch.randn(30, 6, generator=torch.Generator().manual_seed(0))).Q.T
    rounded_RC, scale_R = round_axes(axes_RC, torch.full((6,), 0.1))
    decoder_RC = rounded_RC * scale_R[:, None]
    coefficients_BR = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))

    found_BR = (coefficients_BR @ decoder_RC) @ analysis(decoder_RC)

    assert int(rounded_RC.abs().max()) < 10
    torch.testing.assert_close(found_BR, coefficients_BR, rtol=0, atol=1e-5)


# -- odd rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [0, 3])
@pytest.mark.parametrize(("n_rows", "n_different"), [(1, 1), (50, 1), (2, 2), (12, 12)])
def test_few_rows_or_rows_all_alike_come_back(n_rows, n_different, search):
    rows_BC = random_rows(SPEC, n_different)[torch.arange(n_rows) % n_different]

    codec = KLT(SPEC, bits=500.0, search=search).fit([rows_BC])

    assert codec.rank <= n_different
    torch.testing.assert_close(again(codec, rows_BC), centred_logits(rows_BC, SPEC), rtol=0, atol=0.05)


def test_rows_without_anything_in_them_come_back():
    codec = KLT(SPEC).fit([torch.ones(20, 50)])

    assert codec.widths == "1x1"
    torch.testing.assert_close(again(codec, torch.ones(20, 50)), torch.zeros(20, 50))


def test_given_ranks_that_rows_do_not_fill():
    rows_BC = random_rows(SPEC, 3).repeat(10, 1)

    codec = KLT(SPEC, rank=20, bits=200.0).fit([rows_BC])

    assert codec.rank == 20
    torch.testing.assert_close(again(codec, rows_BC), centred_logits(rows_BC, SPEC), rtol=0, atol=0.05)


@pytest.mark.parametrize("search", [0, 3])
def test_two_classes(search):
    spec = LabelSpec(2)
    rows_BC = random_rows(spec, 60)

    codec = KLT(spec, bits=8.0, search=search).fit([rows_BC])

    assert codec.rank == 1
    torch.testing.assert_close(again(codec, rows_BC), centred_logits(rows_BC, spec), rtol=0, atol=0.01)


def test_a_class_that_never_varies(rows_BC):
    rows_BC = rows_BC.clone()
    rows_BC[:, 7] = 3.0

    codec = KLT(SPEC, bits=60.0).fit([rows_BC])

    assert kl_sum(rows_BC, again(codec, rows_BC)) < 1.5


@pytest.mark.parametrize("search", [0, 3])
@pytest.mark.parametrize("bits", [1e-3, 0.5])
def test_hardly_any_bits_give_the_mean(bits, search, rows_BC):
    codec = KLT(SPEC, bits=bits, search=search).fit([rows_BC])

    assert entropy(codec.encode(rows_BC)) <= 0.6
    centred_BC = centred_logits(rows_BC, SPEC)
    assert squared_error(codec, rows_BC) <= 1.05 * float((centred_BC - centred_BC.mean(0)).square().mean())


def test_rows_beyond_the_levels_take_the_last(rows_BC):
    codec = KLT(SPEC, bits=40.0, **QUICK).fit([rows_BC])
    far_BC = centred_logits(rows_BC, SPEC) * 3

    codes = codec.encode(far_BC)

    assert all(int(codes[array.name].max()) < array.levels for array in codec.codes)
    assert torch.isfinite(codec.decode(codes)).all()


def test_blocks_of_any_size_give_the_same_codec(rows_BC):
    whole = KLT(SPEC).fit([rows_BC])
    parts = KLT(SPEC).fit([rows_BC[:0], *rows_BC.split(70)])

    assert parts == whole
    assert all(torch.equal(parts.state()[name], tensor) for name, tensor in whole.state().items())


@pytest.mark.parametrize(("search", "n_reports"), [(0, 2), (1, 12)])
def test_progress_is_told(search, n_reports, rows_BC):
    seen = []

    codec = KLT(SPEC, bits=20.0, search=search).fit([rows_BC], progress=lambda *what: seen.append(what))

    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total, _ in seen} == {n_reports}
    assert seen[0][2].endswith(" axes")
    assert any(text.startswith(f"step {codec.step:g}, ") and text.endswith(" bits") for _, _, text in seen)


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [[], [torch.zeros(0, 50)]])
def test_no_rows_are_refused(blocks):
    with pytest.raises(CodecError, match="klt: there are no rows to fit to"):
        KLT(SPEC).fit(blocks)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_rows_that_are_not_finite_are_refused(bad, rows_BC):
    codec = KLT(SPEC, **QUICK).fit([rows_BC])
    rows_BC = rows_BC.clone()
    rows_BC[3, 5] = bad

    for work in (codec.encode, lambda rows_BC: codec.fit([rows_BC])):
        with pytest.raises(CodecError, match="row 3 of this batch holds nan, inf or numbers too large"):
            work(rows_BC)


def test_a_context_that_is_not_finite_is_refused(rows_BC):
    codec = KLT(SPEC, context=True, **QUICK)
    context_BC = torch.zeros_like(rows_BC)
    fitted = codec.fit([rows_BC], contexts=[context_BC])
    context_BC[3, 5] = math.nan

    with pytest.raises(CodecError, match="the context of row 3 of this batch holds nan"):
        fitted.encode(rows_BC, context_BC)
    with pytest.raises(CodecError, match="the context of row 3 of this batch holds nan"):
        codec.fit([rows_BC], contexts=[context_BC])


@pytest.mark.parametrize(
    ("context", "given", "message"),
    [
        (True, None, r"context=true, and was given a context of none; expected \[300, 50\]"),
        (True, torch.zeros(299, 50), r"was given a context of \[299, 50\]; expected \[300, 50\]"),
        (
            False,
            torch.zeros(300, 50),
            r"context=false, and was given a context of \[300, 50\]; expected none",
        ),
    ],
)
def test_a_missing_or_wrong_context_is_refused(context, given, message, rows_BC):
    codec = KLT(SPEC, context=context, **QUICK)
    right_BC = torch.zeros(300, 50) if context else None
    fitted = codec.fit([rows_BC], contexts=None if right_BC is None else [right_BC])
    codes = fitted.encode(rows_BC, right_BC)

    with pytest.raises(CodecError, match=message):
        fitted.encode(rows_BC, given)
    with pytest.raises(CodecError, match=message):
        fitted.decode(codes, given)
    with pytest.raises(CodecError, match=message):
        codec.fit([rows_BC], contexts=None if given is None else [given])


def test_work_before_the_fit_is_refused(rows_BC):
    codec = KLT(SPEC)

    assert not codec.can_encode
    with pytest.raises(CodecError, match="klt: this codec was not fitted, or has its decoder alone"):
        codec.encode(rows_BC)
    with pytest.raises(
        CodecError, match=r"was neither fitted nor loaded, and cannot decode; call fit\(\) first"
    ):
        codec.decode({})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("axes", lambda tensor: tensor[:-1], r"tensor axes is torch.int8 \[\d+, 50\]; expected torch.int8"),
        ("scale", lambda tensor: tensor * math.nan, "tensor scale holds inf or nan"),
        ("shift", lambda tensor: tensor[:-1], "tensor shift is torch.int8"),
        ("first", lambda tensor: tensor.long(), "tensor first is torch.int64"),
        ("threshold", lambda tensor: tensor.double(), "tensor threshold is torch.float64"),
    ],
)
def test_a_state_that_contradicts_the_settings_is_refused(name, change, message, rows_BC):
    codec = KLT(SPEC, **QUICK).fit([rows_BC])
    tensors = {**codec.state(), **codec.encoder_state()}
    tensors[name] = change(tensors[name])

    with pytest.raises(CodecError, match=message):
        dataclasses.replace(codec).load_state(tensors)


def test_a_state_for_settings_before_the_fit_is_refused(rows_BC):
    codec = KLT(SPEC, **QUICK).fit([rows_BC])

    with pytest.raises(CodecError, match="widths is empty in a stored model"):
        KLT(SPEC).load_state(codec.state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": -1}, "klt: rank is -1; expected a whole number from 0"),
        ({"bits": 0.0}, "klt: bits is 0.0; expected a positive number"),
        ({"step": -1.0}, "klt: step is -1.0; expected a positive number"),
        ({"axis_price": math.inf}, "klt: axis_price is inf; expected a positive number"),
        ({"search": 101}, "klt: search is 101; expected a whole number from 0 to 100"),
        ({"context": 1}, "klt: context is 1; expected true or false"),
        ({"temperatures": "1,hot"}, "klt: temperatures is '1,hot'; expected 1 to 16 numbers"),
        ({"widths": "3x4", "rank": 5, "step": 1.0}, "widths is '3x4', but rank is 5; expected as many axes"),
        ({"widths": "3x4", "rank": 4}, "klt: step is 0.0; expected a positive number"),
        ({"widths": "3x4,5x1", "rank": 5, "step": 1.0}, "expected falling widths from 12 to 1 bits"),
        ({"widths": "13x1", "rank": 1, "step": 1.0}, "expected falling widths from 12 to 1 bits"),
        ({"widths": "3x4,", "rank": 4, "step": 1.0}, "expected falling widths from 12 to 1 bits"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(CodecError, match=message):
        KLT(SPEC, **settings)


# -- the page of the format, and real rows -----------------------------------------------------------------


def test_the_example_of_the_format():
    codec = KLT(LabelSpec(3), rank=2, step=0.5, widths="2x1,1x1", context=True)
    codec = codec.load_state(
        {
            "axes": torch.tensor([[2, 0, -2], [1, -2, 1], [0, 4, -4]], dtype=torch.int8),
            "scale": torch.tensor([0.25, 0.5, 0.125]),
            "first": torch.tensor([-1, 0], dtype=torch.int32),
            "shift": torch.tensor([0, 0, 32, 0, 0, -64], dtype=torch.int8),
        }
    )
    codes = {
        "levels_2": torch.tensor([[2]], dtype=torch.uint8),
        "levels_1": torch.tensor([[1]], dtype=torch.uint8),
    }

    row_BC = codec.decode(codes, torch.tensor([[1.0, 0.0, -1.0]]))

    assert row_BC.tolist() == [[1.8125, -0.5, -1.3125]]


@pytest.mark.shared
def test_real_rows_of_other_views(shared_data):
    spec = LabelSpec(1000)
    with np.load(shared_data / "imagenet_lite0.npz") as data:
        rows_BC, test_BC = (
            centred_logits(torch.from_numpy(data["logits"][n::20]).float(), spec) for n in (0, 7)
        )

    codec, plain = (KLT(spec, bits=60.0, search=n).fit([rows_BC], n_rows=18600) for n in (1, 0))

    assert 57 < entropy(codec.encode(rows_BC)) <= 60.6
    assert float((again(plain, test_BC) - test_BC).square().mean() / test_BC.square().mean()) < 0.75
    assert kl_sum(test_BC, again(codec, test_BC)) < 0.75 * kl_sum(test_BC, again(plain, test_BC))

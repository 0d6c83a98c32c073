from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softpack.codecs.floats import from_float_codes, to_float_codes
from softpack.codecs.polyk import PolyK
from softpack.codecs.polyk.curve import fit_curve, values_of
from softpack.codecs.sparse import NO_CLASS, SparseRows
from softpack.errors import CodecError, CorruptError
from softpack.records import LabelSpec
from softpack.testing import check_codec, random_rows

BUDGET = {"k": 50, "exact_k": 1, "terms": "0,1,sqrt"}
RECOMMENDED = ("0", "1", "2", "3", "4", "sqrt")


@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
@pytest.mark.parametrize(
    "settings",
    [
        {"k": 100},
        {**BUDGET, "tail": "uniform"},
        {"k": 5, "exact_k": 5},
        {"k": 20, "exact_k": 0, "terms": "0,1,exp", "term_value": "fp16", "solved_in": "fp64"},
    ],
)
def test_keeps_the_contract(settings, space):
    spec = LabelSpec(100, space, 1.0 if space == "logits" else 4.0)
    check_codec(PolyK(spec, **settings), random_rows(spec, 64))


@pytest.mark.parametrize("classes", [151_936, 262_144])
def test_labels_take_the_bytes_that_distillkits_take(classes):
    assert PolyK(LabelSpec(classes)).bits_per_label() == 8 * 344
    assert math.ceil(PolyK(LabelSpec(classes), **BUDGET).bits_per_label() / 8) == 127


# -- curves ------------------------------------------------------------------------------------------------


def test_terms_by_hand():
    terms_NT = values_of(("0", "1", "3", "sqrt", "exp"), 3, torch.float32)

    expected = [[1, 0, 0, 0, 1], [1, 1, 1, 1, math.e], [1, 2, 8, math.sqrt(2), math.e**2]]
    torch.testing.assert_close(terms_NT, torch.tensor(expected))


@pytest.mark.parametrize(("terms", "solved_in"), [("0,1,sqrt", "fp32"), (",".join(RECOMMENDED), "fp64")])
def test_a_curve_of_the_terms_comes_back(terms, solved_in):
    spec = LabelSpec(400)
    rank_N = torch.arange(64.0)
    wanted_N = -3 - 0.05 * rank_N - 0.4 * rank_N.sqrt()
    log_probs_C = torch.full((400,), -40.0)
    log_probs_C[100:164] = wanted_N
    log_probs_C[7] = (1 - log_probs_C.exp().sum()).log()
    codec = PolyK(spec, k=65, exact_k=1, exact_value="fp32", terms=terms, solved_in=solved_in)

    rows = codec.decode_sparse(codec.encode(log_probs_C[None]))

    assert rows.ids_BK[0].tolist() == [7, *range(100, 164)]
    torch.testing.assert_close(rows.log_probs_BK[0, 1:], wanted_N, rtol=0, atol=2e-3)


def test_least_squares_in_fp64_are_those_of_the_library():
    generator = torch.Generator().manual_seed(0)
    values_BN = -torch.rand(5, 112, generator=generator).cumsum(1)

    found_BT = fit_curve(values_BN, RECOMMENDED, "fp64")

    terms_NT = values_of(RECOMMENDED, 112, torch.float64)
    expected_TB = torch.linalg.lstsq(terms_NT, values_BN.double().T).solution
    torch.testing.assert_close(terms_NT @ found_BT.double().T, terms_NT @ expected_TB, rtol=0, atol=1e-3)


def test_large_powers_are_fitted_well_in_fp64():
    spec = LabelSpec(2000)
    rows_BC = 2 * random_rows(spec, 32)

    def error(solved_in):
        codec = PolyK(spec, solved_in=solved_in)
        rows = codec.decode_sparse(codec.encode(rows_BC))
        expected_Bk = rows_BC.log_softmax(1).gather(1, rows.ids_BK)
        return float((rows.log_probs_BK - expected_Bk)[:, 16:].abs().mean())

    assert error("fp64") < 0.05
    assert error("fp64") < error("fp32") + 1e-3  # which is good or very bad, as the library has it


# -- rows --------------------------------------------------------------------------------------------------


def test_the_first_classes_are_kept_as_they_are(spec, logits_BC):
    codec = PolyK(spec, k=30, exact_k=4, exact_value="fp32", terms="0,1")

    rows = codec.decode_sparse(codec.encode(logits_BC))

    expected = logits_BC.log_softmax(1).topk(30)
    assert torch.equal(rows.log_probs_BK[:, :4], expected.values[:, :4])
    assert torch.equal(rows.ids_BK, expected.indices)
    assert not rows.sampled


def test_missing_mass_goes_where_the_setting_says():
    rows_BC = torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.1]]).log()
    exact = {"k": 2, "exact_k": 2, "exact_value": "fp32"}
    expected = {"zero": [5 / 7, 2 / 7, 0, 0, 0], "uniform": [0.5, 0.2, 0.1, 0.1, 0.1]}

    for tail, probs in expected.items():
        codec = PolyK(LabelSpec(5), tail=tail, **exact)
        torch.testing.assert_close(codec.decode(codec.encode(rows_BC)).exp(), torch.tensor([probs]))


@pytest.mark.parametrize("tail", ["zero", "uniform"])
def test_curves_of_more_than_all_are_read_as_they_are_and_rows_are_not(tail):
    codec = PolyK(LabelSpec(9), k=3, exact_k=3, exact_value="fp32", tail=tail)
    codes = codec.encode(torch.zeros(1, 9))
    codes["exact"] = to_float_codes(torch.tensor([[0.9, 0.6, 0.7]]).log(), "fp32")

    rows = codec.decode_sparse(codes)

    torch.testing.assert_close(rows.log_probs_BK.exp(), torch.tensor([[0.9, 0.6, 0.7]]))
    assert rows.fill_B is not None
    assert float(rows.fill_B) == -math.inf
    assert math.isclose(float(codec.decode(codes).exp().sum()), 1, rel_tol=1e-6)


def test_known_classes_are_kept_without_the_others(spec):
    logits_BC = random_rows(spec, 64)  # no two alike
    codec = PolyK(spec, k=20, exact_k=3)
    found = logits_BC.log_softmax(1).topk(40)
    rows = SparseRows(codec.gives, found.indices.flip(1), found.values.flip(1))

    codes = codec.encode_sparse(rows)

    assert all(torch.equal(values, codes[name]) for name, values in codec.encode(logits_BC).items())
    with pytest.raises(
        CodecError, match=r"found chosen classes of .*, 19 a row; expected the 20 likeliest or more"
    ):
        codec.encode_sparse(replace(rows, ids_BK=rows.ids_BK[:, :19], log_probs_BK=rows.log_probs_BK[:, :19]))
    with pytest.raises(CodecError, match="found drawn classes of"):
        codec.encode_sparse(replace(rows, sampled=True))
    ids_BK = rows.ids_BK.clone()
    ids_BK[3, :21] = NO_CLASS
    with pytest.raises(CodecError, match="fewer than 20 classes with a probability"):
        codec.encode_sparse(replace(rows, ids_BK=ids_BK))


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_no_curve_has_are_refused(bad, spec, logits_BC):
    logits_BC[1, 1:] = bad

    with pytest.raises(
        CodecError, match=r"polyk: a row of logits holds nan or \+inf, or fewer than 50 classes with"
    ):
        PolyK(spec, **BUDGET).encode(logits_BC)


def test_masked_classes_that_are_not_kept_are_no_matter(spec, logits_BC):
    logits_BC[:, 50:] = -math.inf
    codec = PolyK(spec, **BUDGET)

    assert int(codec.decode_sparse(codec.encode(logits_BC)).ids_BK.max()) < 50


@pytest.mark.parametrize("bits", [0x7FC0, 0xFF80])
def test_numbers_that_are_none_are_refused(bits, spec, logits_BC):
    codec = PolyK(spec, k=8, exact_k=4)
    codes = codec.encode(logits_BC)
    codes["exact"][5, 2] = bits - (1 << 16) if bits >= 1 << 15 else bits

    with pytest.raises(
        CorruptError, match="polyk: row 5 of the batch holds inf or nan; expected 8 different classes"
    ):
        codec.decode(codes)


def test_a_class_that_is_named_twice_is_refused(spec, logits_BC):
    codec = PolyK(spec, k=8, exact_k=4)
    codes = codec.encode(logits_BC)
    codes["ids"][2, 7] = codes["ids"][2, 0]

    with pytest.raises(CorruptError, match="polyk: row 2 of the batch names a class twice"):
        codec.decode_sparse(codes)


@pytest.mark.parametrize("kind", ["fp16", "bf16", "fp32"])
def test_coefficients_that_are_none_are_refused(kind, spec, logits_BC):
    codec = PolyK(spec, k=8, exact_k=4, terms="0", term_value=kind)
    codes = codec.encode(logits_BC)
    codes["terms"][0, 0] = to_float_codes(torch.tensor([math.inf]), kind)[0]

    assert math.isinf(float(from_float_codes(codes["terms"], kind)[0, 0]))
    with pytest.raises(CorruptError, match="row 0 of the batch holds inf or nan"):
        codec.decode(codes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 101}, "polyk: k is 101; expected a whole number from 1 to 100"),
        ({"k": 9, "exact_k": 10}, "polyk: exact_k is 10; expected a whole number from 0 to 9"),
        (
            {"k": 9, "exact_k": 1, "exact_value": "int8"},
            "exact_value is 'int8'; expected one of fp32, fp16, bf16",
        ),
        ({"k": 9, "exact_k": 1, "term_value": "fp64"}, "term_value is 'fp64'; expected one of"),
        ({"k": 9, "exact_k": 1, "solved_in": "bf16"}, "solved_in is 'bf16'; expected one of fp32, fp64"),
        ({"k": 9, "exact_k": 1, "tail": "min"}, "tail is 'min'; expected one of zero, uniform"),
        (
            {"k": 9, "exact_k": 1, "terms": ""},
            "terms is ''; expected different powers from 0 to 16, sqrt and exp",
        ),
        ({"k": 9, "exact_k": 1, "terms": "0,1,1"}, "terms is '0,1,1'; expected different powers"),
        ({"k": 9, "exact_k": 1, "terms": "0,-1"}, "terms is '0,-1'"),
        ({"k": 99, "exact_k": 1, "terms": "0,exp"}, "the term exp is beyond float32 at rank 97 of the curve"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message, spec):
    with pytest.raises(CodecError, match=message):
        PolyK(spec, **settings)


def test_a_coefficient_beyond_its_precision_is_refused(spec, logits_BC):
    codec = PolyK(spec, k=4, exact_k=0, terms="0,1", term_value="fp16")

    with pytest.raises(CodecError, match=r"a curve is too large for fp16, .* set k lower, term_value=fp32"):
        codec.encode(logits_BC * 1e5)


@pytest.mark.parametrize("exact_value", ["fp16", "bf16"])
def test_masks_that_are_no_infinity_are_refused_where_their_precision_lacks_them(exact_value, spec, logits_BC):
    logits_BC[3, 2:] = torch.finfo(torch.float32).min
    with pytest.raises(
        CodecError, match=f"a log-probability is too large for {exact_value}, as of a class that is"
    ):
        PolyK(spec, k=8, exact_k=4, exact_value=exact_value).encode(logits_BC)


@pytest.mark.parametrize("least", [torch.finfo(torch.float32).min, -1e38, -1e30, -65504.0, -1e9])
@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16"])
def test_what_is_encoded_can_be_decoded(least, kind, spec, logits_BC):
    logits_BC[3, 5:] = least
    codec = PolyK(spec, k=8, exact_k=4, exact_value=kind, term_value=kind)
    try:
        codes = codec.encode(logits_BC)
    except CodecError:
        assert least < -60_000
    else:
        assert torch.isfinite(codec.decode_sparse(codes).log_probs_BK).all()


@given(st.integers(2, 70_000), st.floats(0, 4000), st.sampled_from([{}, {"exact_k": 3}, {"terms": "0"}]))
def test_at_bits_takes_the_largest_k_that_fits(classes, target_bits, settings):
    spec = LabelSpec(classes)
    k = settings.get("exact_k", 1)
    if classes < k:
        return
    least = PolyK(spec, **{"k": k, "exact_k": 1, **settings}).bits_per_label()
    if target_bits < least:
        with pytest.raises(CodecError, match=rf"the least is {least} \(k={k}\); ask for more, or take vqae"):
            PolyK.at_bits(spec, target_bits, **settings)
        return
    codec = PolyK.at_bits(spec, target_bits, **settings)
    assert codec.bits_per_label() <= target_bits
    assert codec.exact_k == settings.get("exact_k", min(codec.k, 16))
    if codec.k < classes:
        more = {"exact_k": min(codec.k + 1, 16), **settings}
        assert PolyK(spec, k=codec.k + 1, **more).bits_per_label() > target_bits


@given(st.integers(2, 30), st.sampled_from(["zero", "uniform"]), st.randoms(use_true_random=False))
def test_any_codes_are_refused_or_rows(classes, tail, random):
    k = random.randint(1, classes)
    codec = PolyK(LabelSpec(classes), k=k, exact_k=random.randint(0, k), terms="0,3", tail=tail)
    values = {
        array.name: [random.randrange(array.levels) for _ in range(array.values_per_row)]
        for array in codec.codes
    }
    ids = random.sample(range(classes), k) if random.random() < 0.9 else values["ids"]
    codes = {"ids": torch.tensor([ids]).byte()}
    if "exact" in values:
        codes["exact"] = torch.tensor([values["exact"]]).to(torch.int16)
    if "terms" in values:
        codes["terms"] = torch.tensor([values["terms"]]).to(torch.int32)
    try:
        row_C = codec.decode(codes)[0]
    except CorruptError:
        return
    assert not bool(row_C.isnan().any())
    assert math.isclose(float(row_C.exp().sum()), 1, rel_tol=1e-4)

"""tail=mass, and encode_sparse of all settings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softpack.codecs.lowrank import LowRank
from softpack.codecs.raw import Raw
from softpack.codecs.spaces import to_logits
from softpack.codecs.sparse import NO_CLASS, SparseRows
from softpack.codecs.topk import TAILS, TopK
from softpack.errors import CodecError, DataError
from softpack.records import LabelSpec
from softpack.testing import check_codec, label_rows, random_rows

SPEC = LabelSpec(100)
ODDS = 1 / 2048 + 1e-4  # nats of the log-odds: half of what their fixed point steps by, and float32


def log_odds(mass_B):
    return mass_B.log() - (1 - mass_B).log()


def all_classes(rows_BC, spec, temperatures=(1.0,)):
    """The K = C - 20 likeliest classes of rows, shuffled, with the tails that they leave."""
    log_probs_BC = torch.log_softmax(to_logits(rows_BC, spec).double() / spec.temperature, -1).float()
    ids_BC = log_probs_BC.argsort(dim=1, descending=True, stable=True)
    shuffled_K = torch.randperm(spec.classes - 20, generator=torch.Generator().manual_seed(0))
    scales = {T: spec.temperature / T for T in temperatures}
    tails = {T: (log_probs_BC * s).gather(1, ids_BC[:, -20:]).logsumexp(1) for T, s in scales.items()}
    ids_BK = ids_BC[:, shuffled_K]
    given = LabelSpec(spec.classes, "log_probs", spec.temperature)
    return SparseRows(given, ids_BK, log_probs_BC.gather(1, ids_BK), tails=tails)


@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
def test_keeps_the_contract(space):
    spec = LabelSpec(100, space)
    check_codec(TopK(spec, k=7, tail="mass", tail_temperatures="1,4"), random_rows(spec, 64))


@pytest.mark.parametrize("value", ["fp16", "fp32", "bf16", "steps"])
@pytest.mark.parametrize("source", [LabelSpec(100), LabelSpec(100, "probs", 4.0)])
def test_the_tail_is_exact_at_each_temperature(value, source):
    rows_BC = random_rows(source, 32)
    temperatures = dict.fromkeys((source.temperature, 0.5, 1.0, 2.0, 20.0))
    text = ",".join(f"{T:g}" for T in temperatures)
    codec = TopK(source, k=5, value=value, tail="mass", tail_temperatures=text)

    rows = codec.decode_sparse(codec.encode(rows_BC))

    assert [*rows.tails] == [*temperatures]
    for T in rows.tails:
        probs_BC = torch.softmax(to_logits(rows_BC, source).double() / T, -1)
        expected_B = 1 - probs_BC.gather(1, rows.ids_BK).sum(1)
        found_B = rows.at(T)[1].double().exp()
        torch.testing.assert_close(
            log_odds(found_B), log_odds(expected_B), rtol=0, atol=5e-3 if T < 1 else 2 * ODDS
        )
    with pytest.raises(DataError, match=r"at T=3; they say it for .*0.5.*encode with tail_temperatures=3"):
        rows.at(3.0)


@given(label_rows(), st.sampled_from(["fp16", "fp32", "bf16", "steps"]), st.data())
def test_mass_is_one_and_values_keep_their_order(drawn, value, data):
    spec, rows_BC = drawn
    codec = TopK(spec, k=data.draw(st.integers(1, spec.classes)), value=value, tail="mass")

    rows = codec.decode_sparse(codec.encode(rows_BC))

    mass_B = rows.log_probs_BK.double().exp().sum(1) + rows.tails[spec.temperature].double().exp()
    torch.testing.assert_close(mass_B, torch.ones_like(mass_B), rtol=0, atol=2e-6)
    assert not bool((rows.log_probs_BK[:, 1:] > rows.log_probs_BK[:, :-1]).any())


def test_dense_rows_share_the_mass_among_the_others(logits_BC):
    codec = TopK(SPEC, k=5, value="fp32", tail="mass")
    codes = codec.encode(logits_BC)
    rows = codec.decode_sparse(codes)

    dense_BC = codec.decode(codes)

    others_BC = dense_BC.scatter(1, rows.ids_BK, -torch.inf)
    torch.testing.assert_close(others_BC.logsumexp(1), rows.tails[1.0], rtol=0, atol=1e-5)
    torch.testing.assert_close(others_BC.amax(1), rows.tails[1.0] - math.log(95), rtol=0, atol=1e-5)


def test_masked_tokens_have_no_part_in_the_mass():
    rows_BC = torch.zeros(1, 10)
    rows_BC[:, 5:] = -torch.inf
    codec = TopK(LabelSpec(10), k=3, tail="mass")

    rows = codec.decode_sparse(codec.encode(rows_BC))

    torch.testing.assert_close(rows.tails[1.0].exp(), torch.tensor([0.4]), rtol=1e-3, atol=0)


def test_classes_without_probability_come_back_as_none():
    codec = TopK(LabelSpec(4, "probs"), k=3, tail="mass")

    rows = codec.decode_sparse(codec.encode(torch.tensor([[0.0, 1.0, 0.0, 0.0]])))

    assert rows.ids_BK.tolist() == [[1, NO_CLASS, NO_CLASS]]
    assert rows.tails[1.0].tolist() == [-math.inf]
    assert rows.dense().exp().tolist() == [[0.0, 1.0, 0.0, 0.0]]


def settings():
    tails = [{"tail": tail} for tail in TAILS] + [{"tail": "bucket", "tail_temperature": 2.0}]
    return [{**tail, "ids": ids} for tail in tails for ids in ("ranked", "set")] + [
        {"value": "steps", "tail": "mass", "tail_temperatures": "", "ids": "set"}
    ]


@pytest.mark.parametrize("chosen", settings())
@pytest.mark.parametrize("source", [LabelSpec(100), LabelSpec(100, "probs", 2.0)])
def test_sparse_rows_have_the_codes_of_whole_ones(chosen, source):
    rows_BC = random_rows(source, 32)
    chosen = {"value": "fp32", **chosen}
    if chosen["tail"] == "mass":
        chosen["tail_temperatures"] = ",".join(f"{T:g}" for T in dict.fromkeys((source.temperature, 1.0, 2.0)))
    codec = TopK(source, k=9, **chosen).fit([rows_BC])

    expected = codec.encode(rows_BC)
    found = codec.encode_sparse(all_classes(rows_BC, source, (1.0, 2.0)))

    assert found.keys() == expected.keys()
    assert all(found[n].dtype == expected[n].dtype for n in found)
    for name in found.keys() & {"ids", "gaps", "order"}:
        assert torch.equal(found[name], expected[name]), name
    # Sums come out otherwise in the last bits.
    torch.testing.assert_close(codec.decode(found), codec.decode(expected), rtol=2e-3, atol=1e-4)


def test_a_codec_is_fitted_to_sparse_rows_as_to_whole_ones(logits_BC):
    codec = TopK(SPEC, k=9, ids="set", tail="mass")

    found = codec.fit_sparse([all_classes(logits_BC, SPEC)], seed=1)

    expected = codec.fit([logits_BC], seed=1)
    assert found == expected
    assert all(torch.equal(found.state()[name], tensor) for name, tensor in expected.state().items())
    assert TopK(SPEC).fit_sparse([]) == TopK(SPEC)
    assert Raw(SPEC).fit_sparse([]) == Raw(SPEC)
    with pytest.raises(
        CodecError, match=r"codec lowrank learns from all classes of a row, .* take --codec topk"
    ):
        LowRank(SPEC).fit_sparse([])


@pytest.mark.parametrize("ids", ["ranked", "set"])
def test_ragged_rows_are_filled_with_classes_of_no_probability(ids, logits_BC):
    rows = all_classes(logits_BC[:3], SPEC)
    ids_BK = rows.ids_BK.clone()
    ids_BK[0, :] = NO_CLASS
    ids_BK[0, [7, 50]] = torch.tensor([0, 2])
    ragged = replace(rows, ids_BK=ids_BK)
    codec = TopK(SPEC, k=6, ids=ids, tail="mass", value="fp32").fit([logits_BC])

    codes = codec.encode_sparse(ragged)
    found = codec.decode_sparse(codes)

    assert sorted(found.ids_BK[0].tolist()) == [NO_CLASS] * 4 + [0, 2]
    there_K = ids_BK[0] != NO_CLASS
    kept = ragged.at(1.0)[0][0, there_K]
    torch.testing.assert_close(found.log_probs_BK[0].sort().values[-2:], kept.sort().values, rtol=0, atol=1e-3)
    assert not bool((found.ids_BK[1:] == NO_CLASS).any())
    if ids == "ranked":
        assert codes["ids"][0, 2:].tolist() == [1, 3, 4, 5]
        filled = TopK(SPEC, k=6, tail="zero").decode(TopK(SPEC, k=6, tail="zero").encode_sparse(ragged))
        assert (filled[0] > -math.inf).nonzero()[:, 0].tolist() == [0, 2]


def test_rows_that_do_not_say_enough_are_refused(logits_BC):
    rows = all_classes(logits_BC, SPEC)
    cases = [
        (TopK(SPEC, k=81), rows, "80 classes of a row are known; expected k=81 or more; set k=80"),
        (TopK(SPEC, k=5, tail="mass", tail_temperatures="1,2"), rows,
         "tail=mass stores what the classes that are not kept have together at T=2; these rows say it for 1; ask for"),
        (TopK(SPEC, k=5, tail="bucket"), replace(rows, tails={}), "tail=bucket .* say it for no temperature"),
        (TopK(SPEC, k=5), replace(rows, sampled=True, tails={}), "classes that were drawn, .* take --codec sample"),
        (TopK(SPEC, k=5), replace(rows, ids_BK=torch.full_like(rows.ids_BK, NO_CLASS)),
         "a row has no class with a probability; leave such rows out"),
        (TopK(SPEC, k=5), replace(rows, log_probs_BK=rows.log_probs_BK * math.nan), "of a row hold nan or"),
        (TopK(LabelSpec(101), k=5), rows, "rows are of 100 classes at T=1; the codec takes 101 at T=1"),
        (TopK(LabelSpec(100, "probs", 4.0), k=5), rows, "100 classes at T=1; the codec takes 100 at T=4"),
    ]  # fmt: skip
    for codec, given_rows, message in cases:
        with pytest.raises(CodecError, match=message):
            codec.encode_sparse(given_rows)


def test_rows_that_share_out_their_tail_know_all_masses(logits_BC):
    uniform = TopK(SPEC, k=12, value="fp32", tail="bucket")
    rows = uniform.decode_sparse(uniform.encode(logits_BC))
    codec = TopK(SPEC, k=4, value="fp32", tail="mass", tail_temperatures="1,4")

    found = codec.decode_sparse(codec.encode_sparse(rows))

    for T in (1.0, 4.0):
        expected = torch.softmax(rows.dense() / T, -1).gather(1, found.ids_BK).sum(1)
        torch.testing.assert_close(found.at(T)[1].exp(), 1 - expected, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"tail_temperatures": "1,2"},
            "topk: tail_temperatures is for tail=mass; found tail=uniform, leave it out",
        ),
        ({"tail": "mass", "tail_temperatures": "1,x"}, "temperatures is '1,x'; expected 1 to 16 numbers"),
        ({"tail": "mass", "tail_temperatures": "2,4"}, "rows' own temperature first, and none twice; .*=1,2,4"),
        ({"tail": "mass", "tail_temperatures": "1,2,1"}, "none twice; set tail_temperatures=1,2$"),
        (
            {"tail": "mass", "tail_temperature": 2.0},
            "topk: tail_temperature is for tail=bucket; found tail=mass",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(chosen, message):
    with pytest.raises(CodecError, match=message):
        TopK(SPEC, **chosen)


def test_the_temperature_of_the_rows_is_always_among_the_masses():
    spec = LabelSpec(100, "probs", 4.0)
    assert TopK(spec, tail="mass").masses_at == (4.0,)
    assert TopK(spec, tail="mass", tail_temperatures="4,1,2").masses_at == (4.0, 1.0, 2.0)
    assert TopK(spec, tail="mass").get_config()["tail_temperatures"] == "4.0"
    assert [a.name for a in TopK(SPEC, k=100, tail="mass").codes] == ["ids", "values"]

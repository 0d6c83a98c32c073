from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import softpack
from softpack.codecs.sample import Sample, drawing
from softpack.codecs.sample.drawing import draw
from softpack.codecs.sample.gaps import from_gaps, n_bytes, to_gaps
from softpack.codecs.spaces import convert
from softpack.codecs.sparse import NO_CLASS, SparseRows
from softpack.container.model import Model
from softpack.container.tables import fit_tables
from softpack.container.tile_writer import code_arrays
from softpack.errors import CodecError, CorruptError
from softpack.records import LabelSpec
from softpack.testing import check_codec, label_rows, random_rows


def fitted(codec, rows_BC):
    return codec.fit([rows_BC])


def zipf_rows(n_rows, classes, seed=0):
    """Logits whose likely classes are mostly the same ones, as those of a language model are."""
    generator = torch.Generator().manual_seed(seed)
    base_C = -torch.arange(1, classes + 1).log()[
        torch.randperm(classes, generator=torch.Generator().manual_seed(1))
    ]
    rows_BC = 1.2 * base_C + 2.5 * torch.randn(n_rows, classes, generator=generator)
    favourites_B2 = torch.randint(classes, (n_rows, 2), generator=generator)
    return rows_BC.scatter_add_(1, favourites_B2, torch.full((n_rows, 2), 8.0))


@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
@pytest.mark.parametrize(
    "settings", [{}, {"common": 0, "draws": 7}, {"common": 20, "draws": 3, "sampled_at": 2.0}]
)
def test_keeps_the_contract(settings, space):
    spec = LabelSpec(100, space, 1.0 if space == "logits" else 4.0)
    check_codec(Sample(spec, **settings), random_rows(spec, 64))


# -- what is drawn -----------------------------------------------------------------------------------------


def test_shares_of_draws_are_the_probabilities():
    # A tail of 262,128 classes that has half of all: running sums in float32 would lose most of it.
    spec = LabelSpec(262_144)
    logits_C = torch.full((spec.classes,), -math.log(2 * (spec.classes - 16)))
    logits_C[torch.arange(16) * 16_384] = torch.arange(1, 17).log() - math.log(2 * 136)
    n_draws, n_seeds = 4096, 32

    drawn = [draw(logits_C[None], spec, 1.0, n_draws, seed)[0] for seed in range(n_seeds)]

    drawn_N = torch.cat(drawn)
    n = len(drawn_N)
    heads = drawn_N[drawn_N % 16_384 == 0].bincount(minlength=spec.classes)[::16_384].double()
    expected = n * logits_C.double().softmax(0)[::16_384]
    chi_square = float(((heads - expected).square() / expected).sum()) + float(
        (expected.sum() - heads.sum()).square() / (n - expected.sum())
    )
    assert chi_square < 45  # 16 degrees of freedom: once in 7,000 draws of this kind
    tail_N = drawn_N[drawn_N % 16_384 != 0]
    eighths = (tail_N * 8 // spec.classes).bincount(minlength=8).double()
    assert float((eighths / len(tail_N) - 1 / 8).abs().max()) < 4 * math.sqrt(7 / 64 / len(tail_N))
    assert len(tail_N.unique()) > 0.85 * len(tail_N)  # by chance alone 0.88


def test_a_tail_below_the_precision_of_float32_is_drawn_evenly():
    # Classes of probability 2**-26: behind a running sum of 1 every eighth would make a step in float32.
    spec = LabelSpec(262_144)
    logits_1C = torch.full((1, spec.classes), -26 * math.log(2))
    logits_1C[0, 0] = 0

    drawn_N = torch.cat([draw(logits_1C, spec, 1.0, 4096, seed)[0] for seed in range(32)])

    tail_N = drawn_N[drawn_N > 0]
    assert 420 < len(tail_N) < 604  # 512 are expected, 22.6 more or less
    assert float((tail_N % 8).bincount(minlength=8).max()) < 0.2 * len(tail_N)


@pytest.mark.parametrize("share", [0.0, 1 - 2.0**-53])
def test_the_least_and_the_greatest_share_draw_classes_that_there_are(share, spec, monkeypatch):
    monkeypatch.setattr(drawing, "uniform", lambda *numbers: np.full((2, 5), share))
    rows_BC = torch.full((2, 100), -math.inf)
    rows_BC[:, 40:60] = torch.tensor([[0.0], [-80.0]])
    rows_BC[1, 45] = 0.0

    drawn_BD = draw(rows_BC, spec, 1.0, 5, 0)

    assert drawn_BD[:, 0].tolist() == ([40, 45] if share == 0 else [59, 45])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_draws_are_at_the_temperature_that_is_asked_for(temperature):
    source = LabelSpec(4, "probs", 2.0)
    logits_1C = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    codec = Sample(source, draws=4096, sampled_at=temperature, common=0)

    shares_C = codec.decode(codec.encode(convert(logits_1C, LabelSpec(4), source)))[0].exp()

    expected_C = (logits_1C[0] / temperature).softmax(0)
    assert codec.gives == LabelSpec(4, "log_probs", temperature)
    torch.testing.assert_close(shares_C, expected_C, rtol=0, atol=4 * 0.5 / 64)


def test_the_gradient_is_that_of_the_whole_distribution_in_expectation(spec, logits_BC):
    row_1C = logits_BC[:1]
    codecs = [Sample(spec, draws=50, common=0, draw_seed=seed) for seed in range(400)]

    mean_C = torch.stack([codec.decode(codec.encode(row_1C))[0].exp() for codec in codecs]).mean(0)

    probs_C = row_1C[0].softmax(0)
    off_C = (mean_C - probs_C) / (probs_C / (400 * 50)).sqrt()
    assert float(off_C.square().mean()) < 1.6  # 1 but for chance
    assert float((mean_C - probs_C).abs().max()) < 0.02


def test_the_same_row_and_seed_draw_the_same_in_any_batch(monkeypatch):
    spec = LabelSpec(300)
    rows_BC = random_rows(spec, 40)
    codec = fitted(Sample(spec, draws=20), rows_BC)
    codes = codec.encode(rows_BC)

    monkeypatch.setattr(drawing, "CHUNK_VALUES", 700)

    for size in (1, 3, 40):
        parts = [codec.encode(part_BC) for part_BC in rows_BC.split(size)]
        for name, values in codes.items():
            assert torch.equal(torch.cat([part[name] for part in parts]), values)
    shuffled = codec.encode(rows_BC.flip(0))
    assert all(torch.equal(shuffled[name].flip(0), values) for name, values in codes.items())


def test_other_seeds_and_other_rows_draw_otherwise(spec, logits_BC):
    def drawn(rows_BC, seed):
        return draw(rows_BC, spec, 1.0, 50, seed)

    flat_BC = torch.zeros(2, 100)
    flat_BC[1, 7] = 1e-4  # nearly the same distribution
    assert not torch.equal(drawn(logits_BC, 0), drawn(logits_BC, 1))
    assert not torch.equal(*drawn(flat_BC, 0))
    coins_BC = torch.full((2, 100), -math.inf)
    coins_BC[0, :2] = coins_BC[1, 50:52] = 0.0  # the same but for its place
    heads, others = drawn(coins_BC, 0)
    assert not torch.equal(heads, others - 50)


def test_rows_of_the_same_distribution_draw_the_same(spec):
    row_1C = torch.arange(100.0)[None] / 8

    assert torch.equal(draw(row_1C, spec, 1.0, 50, 0), draw(row_1C + 16, spec, 1.0, 50, 0))


@given(label_rows(), st.integers(1, 60), st.sampled_from([0.25, 1.0, 8.0]))
def test_classes_without_probability_are_never_drawn(drawn, n_draws, temperature):
    spec, rows_BC = drawn
    codec = Sample(spec, draws=n_draws, sampled_at=temperature, common=0)

    rows = codec.decode_sparse(codec.encode(rows_BC))

    probs_BC = convert(rows_BC, spec, LabelSpec(spec.classes, "probs", temperature))
    assert bool((probs_BC.gather(1, rows.ids_BK.clamp_min(0)) > 0)[rows.is_class_BK].all())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_without_a_distribution_are_refused(bad, spec, logits_BC):
    logits_BC[1, 99] = bad

    with pytest.raises(CodecError, match=r"sample: a row of logits holds nan, \+inf or no probability at all"):
        Sample(spec, common=0).encode(logits_BC)
    with pytest.raises(CodecError, match="a row of probs holds nan"):
        Sample(LabelSpec(100, "probs")).fit([torch.zeros(3, 100)])


# -- how draws are kept ------------------------------------------------------------------------------------


@given(st.data())
def test_numbers_come_back_from_their_gaps(data):
    n_values = data.draw(st.sampled_from([2, 3, 17, 1000, 262_144, 1 << 24]))
    n = data.draw(st.integers(1, 40))
    wanted = st.integers(0, n_values - 1) | st.sampled_from([0, n_values - 1])
    numbers_BD = torch.tensor(data.draw(st.lists(st.lists(wanted, min_size=n, max_size=n), max_size=4)))
    numbers_BD = numbers_BD.reshape(-1, n).long().sort(dim=1).values

    lengths_BD, bytes_BN = to_gaps(numbers_BD, n_bytes(n, n_values))

    assert torch.equal(from_gaps(lengths_BD, bytes_BN), numbers_BD)


@pytest.mark.parametrize(("n", "n_values"), [(1, 2), (3, 7), (4, 19), (5, 24), (9, 12), (20, 24)])
def test_bytes_hold_the_longest_gaps_that_there_can_be(n, n_values):
    most = np.full(n_values + 1, -1)  # bits of gaps, by their sum
    most[0] = 0
    for _ in range(n):
        for total in range(n_values, 0, -1):
            gaps = np.arange(1, total + 1)
            before = most[total - gaps]
            most[total] = max(
                most[total], *np.where(before < 0, -1, before + [int(g).bit_length() - 1 for g in gaps])
            )

    assert most.max() <= 8 * n_bytes(n, n_values) <= most.max() + 16


def test_gaps_by_hand():
    # Ranks 2, 2, 9, 40: gaps of 3 (0b11), 0, 7 (0b111) and 31 (0b11111).
    lengths_BD, bytes_BN = to_gaps(torch.tensor([[2, 2, 9, 40]]), 2)

    assert lengths_BD.tolist() == [[2, 0, 3, 5]]
    assert bytes_BN.tolist() == [[0b1111111, 0]]


@given(label_rows(), st.integers(1, 60), st.sampled_from([0, 5, 8192]))
def test_counts_are_exact_and_each_class_comes_once(drawn, n_draws, common):
    spec, rows_BC = drawn
    codec = Sample(spec, draws=n_draws, common=common)
    codec = codec.fit([rows_BC if len(rows_BC) else torch.full((1, spec.classes), 1 / spec.classes)])
    expected_BC = torch.zeros(len(rows_BC), spec.classes, dtype=torch.long)
    drawn_BD = draw(rows_BC, spec, 1.0, n_draws, 0)
    expected_BC.scatter_add_(1, drawn_BD, torch.ones_like(drawn_BD))

    rows = codec.decode_sparse(codec.encode(rows_BC))

    counts_BK = (rows.log_probs_BK.double().exp() * n_draws).round().long()
    found_BC = torch.zeros_like(expected_BC).scatter_add_(1, rows.ids_BK.clamp_min(0), counts_BK)
    assert torch.equal(found_BC, expected_BC)
    assert rows.sampled
    assert rows.ids_BK.shape == (len(rows_BC), min(n_draws, spec.classes))
    assert torch.equal(rows.is_class_BK.sum(1), (expected_BC > 0).sum(1))
    torch.testing.assert_close(codec.decode(codec.encode(rows_BC)).exp(), found_BC / n_draws)


def test_draws_at_another_temperature_are_asked_for_in_vain(spec, logits_BC):
    codec = Sample(spec, common=0)
    rows = codec.decode_sparse(codec.encode(logits_BC))

    with pytest.raises(
        softpack.errors.DataError, match="the labels are draws at T=1, which say nothing of T=4"
    ):
        rows.at(4.0)


def test_likely_classes_take_fewer_bits_once_they_are_ranked():
    spec = LabelSpec(20_000)
    known_BC, rows_BC = zipf_rows(200, 20_000, seed=3), zipf_rows(100, 20_000, seed=4)

    def cost(common):
        codec = Sample(spec, draws=26, common=common).fit([known_BC])
        return int((codec.encode(rows_BC)["lengths"].long() - 1).clamp_min(0).sum())

    costs = [cost(common) for common in (0, 300, 20_000)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.85 * costs[0]


def test_the_fit_ranks_by_mean_probability(spec):
    rows_BC = torch.full((4, 100), -20.0)
    rows_BC[:, 70], rows_BC[:3, 5], rows_BC[0, 9] = 3.0, 2.0, 2.0

    codec = Sample(spec, common=4).fit([rows_BC])

    assert codec.state()["order"].tolist() == [70, 5, 9, 0]
    assert codec.tensors["classes"][:7].tolist() == [70, 5, 9, 0, 1, 2, 3]


def test_a_written_file_takes_fewer_bytes_than_rs_kd(tmp_path):
    spec = LabelSpec(262_144)
    logits_BC = torch.cat([zipf_rows(64, spec.classes, seed) for seed in range(4)])
    codec = Sample(spec, draws=16).fit([logits_BC[:128]])
    tables = fit_tables(codec.codes, code_arrays(codec.encode(logits_BC[:128])), 1_000_000, "codes")
    with softpack.create(tmp_path / "a.spk", Model(codec, None, tables)) as writer:
        writer.append(logits_BC[128:].numpy(), item=0, view=np.arange(128))

    labels = softpack.open(tmp_path / "a.spk")
    rows = labels.read_sparse(*labels.cells())

    n_distinct = float(rows.is_class_BK.sum(1).float().mean())
    codes = next(e.n_bits for e in softpack.ledger(tmp_path / "a.spk").entries if e.scope == "codes")
    assert 8 < n_distinct < 16
    assert codes / 8 / 128 < 3 * n_distinct  # 24 bits for each class, as RS-KD has it
    expected_BD = draw(logits_BC[128:], spec, 1.0, 16, 0).sort(dim=1).values
    assert [row.unique().tolist() for row in expected_BD] == [
        sorted(row[row != NO_CLASS].tolist()) for row in rows.ids_BK
    ]


# -- draws of others ---------------------------------------------------------------------------------------


def test_draws_that_were_made_elsewhere_are_kept_as_they_are(spec, logits_BC):
    codec = fitted(Sample(spec, draws=12), logits_BC)
    codes = codec.encode(logits_BC)
    rows = codec.decode_sparse(codes)

    mixed = replace(rows, ids_BK=rows.ids_BK.flip(1), log_probs_BK=rows.log_probs_BK.flip(1))
    assert all(torch.equal(values, codes[name]) for name, values in codec.encode_sparse(mixed).items())
    empty = replace(rows, ids_BK=rows.ids_BK[:0], log_probs_BK=rows.log_probs_BK[:0])
    assert codec.encode_sparse(empty)["lengths"].shape == (0, 12)


def test_draws_of_another_kind_are_refused(spec):
    at_1 = LabelSpec(100, "log_probs")
    ids_BK, probs_BK = torch.tensor([[3, 4, NO_CLASS]]), torch.tensor([[0.25, 0.75, 0.0]])
    rows = SparseRows(at_1, ids_BK, probs_BK.log(), sampled=True)
    codec = Sample(spec, draws=4, common=0)

    assert codec.encode_sparse(rows)["lengths"].tolist() == [[3, 1, 0, 0]]
    with pytest.raises(CodecError, match="are not shares of 5 draws; set draws to the number"):
        Sample(spec, draws=5, common=0).encode_sparse(rows)
    with pytest.raises(CodecError, match="are not shares of 4 draws"):
        codec.encode_sparse(replace(rows, log_probs_BK=torch.tensor([[0.25, 0.5, 0.0]]).log()))
    with pytest.raises(
        CodecError, match=r"found classes that were not drawn of .*; expected draws of .*take topk"
    ):
        codec.encode_sparse(replace(rows, sampled=False))
    with pytest.raises(
        CodecError, match=r"found draws of .*temperature=1\.0.*expected draws of .*temperature=2\.0"
    ):
        Sample(spec, draws=4, sampled_at=2.0, common=0).encode_sparse(rows)


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "rest", "message"),
    [
        ([0, 1, 1], 0, "row 1 of the batch begin with a gap of 0 bits and end at the class of rank 1"),
        ([7, 6, 1], 0xFF, "begin with a gap of 7 bits and end at the class of rank 190; expected .*below 100"),
        ([7, 7, 7], 0, "rank 191"),
    ],
)
def test_codes_that_no_row_has_are_refused(lengths, rest, message, spec):
    codec = Sample(spec, draws=3, common=0)
    codes = codec.encode(torch.zeros(2, 100))
    codes["lengths"][1] = torch.tensor(lengths)
    codes["rest"][1] = rest

    with pytest.raises(CorruptError, match=message):
        codec.decode(codes)


@given(st.integers(2, 300), st.integers(1, 30), st.randoms(use_true_random=False))
def test_any_codes_are_refused_or_draws(classes, n_draws, random):
    codec = Sample(LabelSpec(classes), draws=n_draws, common=0)
    codes = {
        array.name: torch.tensor([random.randrange(array.levels) for _ in range(array.values_per_row)])[
            None
        ].byte()
        for array in codec.codes
    }
    try:
        rows = codec.decode_sparse(codes)
    except CorruptError:
        return
    ids = rows.ids_BK[rows.is_class_BK]
    assert len(ids.unique()) == len(ids)
    assert 0 <= int(ids.min()) <= int(ids.max()) < classes
    assert math.isclose(float(rows.log_probs_BK.exp().sum()), 1, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([3, 3, 1], "holds classes from 1 to 3; expected 3 different ones from 0 to 99"),
        ([3, -1, 1], "holds classes from -1 to 3"),
        ([3, 100, 1], "holds classes from 1 to 100"),
    ],
)
def test_ranks_that_are_none_are_refused(order, message, spec):
    with pytest.raises(CodecError, match=message):
        Sample(spec, common=3).load_state({"order": torch.tensor(order, dtype=torch.int32)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "sample: draws is 0; expected a whole number from 1 to 4096"),
        ({"draws": 4097}, "sample: draws is 4097"),
        ({"sampled_at": 0.0}, "sample: sampled_at is 0.0; expected a positive number"),
        ({"draw_seed": -1}, "sample: draw_seed is -1; expected a whole number from 0 to 9007199254740991"),
        ({"common": -1}, "sample: common is -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message, spec):
    with pytest.raises(CodecError, match=message):
        Sample(spec, **settings)


def test_a_codec_without_ranks_says_so(spec, logits_BC):
    with pytest.raises(
        CodecError, match=r"sample: the codec has no ranks yet; call fit\(blocks\) or .*set common=0"
    ):
        Sample(spec).encode(logits_BC)
    with pytest.raises(CodecError, match="there are no rows to fit to; expected at least one, or set common=0"):
        Sample(spec).fit([])


@given(st.integers(2, 1 << 24), st.floats(0, 6000))
def test_at_bits_takes_the_most_draws_that_fit(classes, target_bits):
    spec = LabelSpec(classes)
    least = Sample(spec, draws=1).bits_per_label()
    if target_bits < least:
        with pytest.raises(CodecError, match=rf"the least is {least} \(draws=1\); ask for more, or take topk"):
            Sample.at_bits(spec, target_bits)
        return
    codec = Sample.at_bits(spec, target_bits)
    assert codec.bits_per_label() <= target_bits
    assert codec.draws == 4096 or Sample(spec, draws=codec.draws + 1).bits_per_label() > target_bits

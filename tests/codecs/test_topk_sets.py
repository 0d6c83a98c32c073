"""ids=set and value=steps: sets of ids by gaps, log-probabilities in steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from softpack.codecs.registry import make_codec
from softpack.codecs.topk import TopK
from softpack.codecs.topk.orders import Orders
from softpack.errors import CodecError, CorruptError
from softpack.records import LabelSpec
from softpack.testing import check_codec, label_rows, random_rows

SPEC = LabelSpec(100)
LANGUAGE = {"ids": "set", "value": "steps", "tail": "mass"}


def sorted_kept(rows):
    order_BK = rows.ids_BK.argsort(dim=1)
    return rows.ids_BK.gather(1, order_BK), rows.log_probs_BK.gather(1, order_BK)


@pytest.mark.parametrize("settings", [LANGUAGE, {"ids": "set"}, {"value": "steps", "tail": "zero"}])
@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
def test_keeps_the_contract(settings, space):
    spec = LabelSpec(100, space)
    check_codec(TopK(spec, k=2, **settings), random_rows(spec, 96))


@pytest.mark.parametrize(
    "settings", [{"value": "steps", "tail": "min"}, {**LANGUAGE, "k": 100}, {"ids": "set", "k": 1}]
)
def test_keeps_the_contract_at_the_edges(settings):
    check_codec(TopK(SPEC, **{"k": 2, **settings}), random_rows(SPEC, 32))


@pytest.mark.parametrize("orders", [1, 2, 5])
@pytest.mark.parametrize(("listed", "common"), [(1, 1), (7, 30), (100, 100), (400, 400)])
def test_a_set_has_the_same_classes_and_values_as_the_ranked_ones(orders, listed, common, logits_BC):
    ranked = TopK(SPEC, k=9, value="fp32", tail="bucket")
    codec = TopK(
        SPEC, k=9, value="fp32", tail="bucket", ids="set", orders=orders, listed=listed, common=common
    ).fit([logits_BC])

    found = codec.decode_sparse(codec.encode(logits_BC))
    expected = ranked.decode_sparse(ranked.encode(logits_BC))

    for one, other in zip(sorted_kept(found), sorted_kept(expected), strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(codec.decode(codec.encode(logits_BC)), ranked.decode(ranked.encode(logits_BC)))
    assert codec.get_config() == {**ranked.get_config(), "ids": "set", "orders": orders, "listed": min(listed, 100),
                                  "common": min(common, 100)}  # fmt: skip


@given(label_rows(max_logit=30), st.data())
def test_any_rows_keep_their_classes(drawn, data):
    spec, rows_BC = drawn
    assume(len(rows_BC) > 0)
    k = data.draw(st.integers(1, spec.classes))
    ranked, codec = TopK(spec, k=k), TopK(spec, k=k, **LANGUAGE).fit([rows_BC])

    codes = codec.encode(rows_BC)
    found = codec.decode_sparse(codes)

    kept_B = found.is_class_BK.sum(dim=1)
    expected_Bk = ranked.encode(rows_BC)["ids"].long()
    for row, n in enumerate(kept_B.tolist()):
        assert {*found.ids_BK[row].tolist()} - {-1} == {*expected_Bk[row, :n].tolist()}
    mass_B = found.log_probs_BK.exp().sum(dim=1) + found.tails[spec.temperature].exp()
    torch.testing.assert_close(mass_B, torch.ones(len(rows_BC)), rtol=0, atol=1e-5)
    assert not bool(codec.decode(codes).isnan().any())


def rows_of_two_sorts(n=512):
    """Rows whose likeliest eight classes are among the first or the last thirty."""
    generator = torch.Generator().manual_seed(3)
    rows_BC = torch.rand(n, 5000, generator=generator)
    rows_BC[: n // 2, :30] += 5
    rows_BC[n // 2 :, -30:] += 5
    return rows_BC[torch.randperm(n, generator=generator)]


def test_rows_of_a_sort_get_an_order_of_their_own():
    codec = TopK(LabelSpec(5000), k=8, ids="set", orders=2, listed=30).fit([rows_of_two_sorts()])

    codes = codec.encode(rows_of_two_sorts()[:100])

    firsts = [{*row.tolist()} for row in codec._orders.base_C[codec._orders.lists_ML]]
    assert sorted(map(min, firsts)) == [0, 4970]
    assert {*map(len, firsts)} == {30}
    assert int(codes["gaps"].sum(dim=1).max()) < 30


def test_a_larger_file_pays_for_more_orders():
    rows_BC = rows_of_two_sorts()
    few = TopK(LabelSpec(5000), k=8, ids="set").fit([rows_BC], n_rows=10)
    many = TopK(LabelSpec(5000), k=8, ids="set").fit([rows_BC], n_rows=1_000_000)

    assert few.orders == 1
    assert few.common < 10
    assert many.orders > 1
    assert many.common >= 60


def test_settings_that_are_given_stay():
    codec = TopK(LabelSpec(5000), k=8, ids="set", orders=3, listed=11, common=12).fit([rows_of_two_sorts()])

    assert (codec.orders, codec.listed, codec.common) == (3, 11, 12)
    assert {name: (*tensor.shape,) for name, tensor in codec.state().items()} == {
        "common": (12,),
        "lists": (3, 11),
    }


def test_places_beyond_the_last_are_the_last():
    codec = TopK(SPEC, k=3, ids="set", orders=1, listed=4, common=2).fit([random_rows(SPEC, 9)])
    last = codec._orders.base_C[-1]
    order_B, gaps_Bk = torch.zeros(1, dtype=torch.int32), torch.tensor([[103, 103, 103]], dtype=torch.int32)

    assert codec._orders.ids(order_B, gaps_Bk).tolist() == [[last, last, last]]


def test_by_hand():
    """Classes 5 and 3 are common, then 0, 1, 2, 4, 6, 7; the lists have 3, 0 and 7, 6."""
    tensors = {
        "common": torch.tensor([5, -2], dtype=torch.int32),
        "lists": torch.tensor([[1, 1], [7, -1]], dtype=torch.int32),
    }
    orders = Orders.stored(tensors, 8)

    assert orders.base_C.tolist() == [5, 3, 0, 1, 2, 4, 6, 7]
    order_B, gaps_Bk, which_Bk = orders.gaps(torch.tensor([[3, 5, 0], [6, 3, 7]]))
    assert order_B.tolist() == [0, 1]
    assert gaps_Bk.tolist() == [[0, 0, 0], [0, 0, 1]]
    assert which_Bk.tolist() == [[0, 2, 1], [2, 0, 1]]
    assert orders.ids(order_B.int(), gaps_Bk.int()).tolist() == [[3, 0, 5], [7, 6, 3]]
    assert all(torch.equal(orders.tensors(2)[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("common", [5, 0], "tensor common has a class twice; expected each once"),
        ("common", [5, 95], "tensor common sums to 5 to 100; expected numbers from 0 to 99"),
        ("lists", [[1, -2], [0, 0]], "tensor lists sums to -1 to 1; expected numbers from 0 to 99"),
    ],
)
def test_tensors_that_are_no_classes_are_refused(name, values, message):
    tensors = {"common": torch.tensor([5, -2]).int(), "lists": torch.zeros(2, 2).int()}
    tensors[name] = torch.tensor(values).int()

    with pytest.raises(CodecError, match=message):
        make_codec("topk", SPEC, {"k": 2, "ids": "set", "orders": 2, "listed": 2, "common": 2}).load_state(
            tensors
        )


def test_steps_keep_the_order_and_their_bound(logits_BC):
    for step in (0.125, 0.25, 1.0):
        codec = TopK(SPEC, k=20, value="steps", step=step, tail="mass")

        values_Bk = codec._values(codec.encode(logits_BC))

        largest_Bk = logits_BC.topk(20).values
        assert bool((values_Bk.diff(dim=1) <= 0).all())
        assert bool((values_Bk[:, 0] > values_Bk[:, 1]).all())
        values_Bk = values_Bk - values_Bk[:, -1:]
        error_Bk = (values_Bk - (largest_Bk - largest_Bk[:, -1:])).abs()
        assert float(error_Bk[:, 1:].max()) <= step / 2 + 1e-5
        assert float(error_Bk[:, 0].max()) <= 1.5 * step


@pytest.mark.parametrize("tail", ["zero", "mass"])
def test_steps_beyond_float32_are_refused(tail):
    codec = TopK(SPEC, k=2, value="steps", step=2e38, tail=tail)
    codes = {"ids": torch.tensor([[3, 4], [5, 6]]).int(), "tail": torch.full((2, 1), 30000).short()}
    sound, damaged = torch.tensor([[1, 0], [1, 1]]).byte(), torch.tensor([[1, 0], [2, 0]]).byte()

    assert codec.decode({**codes, "values": sound}).shape == (2, 100)
    with pytest.raises(CorruptError, match="row 1 of the batch has inf as its largest value"):
        codec.decode({**codes, "values": damaged})


@pytest.mark.parametrize("tail", ["zero", "min"])
def test_steps_come_back_as_log_probabilities(tail, logits_BC):
    codec = TopK(SPEC, k=20, value="steps", tail=tail)
    codes = codec.encode(logits_BC)

    rows = codec.decode_sparse(codes)

    torch.testing.assert_close(rows.log_probs_BK, codec.decode(codes).gather(1, rows.ids_BK), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows.dense(), codec.decode(codes), rtol=0, atol=1e-5)


def test_gaps_of_many_classes_do_not_overflow():
    orders = Orders(torch.arange(1 << 24), torch.tensor([[5, 3]]))
    gaps_Bk = torch.full((1, 200), (1 << 24) - 1, dtype=torch.int32)
    gaps_Bk[0, 0] = 1

    found = orders.ids(torch.zeros(1, dtype=torch.int32), gaps_Bk)

    assert found[0, 0] == 3
    assert found[0, 1:].unique().tolist() == [(1 << 24) - 1]


def test_gaps_whose_steps_alone_pass_32_bits_do_not_overflow():
    k = 46340
    orders = Orders(torch.arange(k + 1), torch.tensor([[0]]))
    gaps_Bk = torch.full((1, k), k + 1, dtype=torch.int32)

    assert orders.ids(torch.zeros(1, dtype=torch.int32), gaps_Bk).unique().tolist() == [k]


def test_lists_of_too_many_places_are_refused_before_they_are_read():
    with pytest.raises(
        CodecError, match="4096 orders list 65536 classes each; expected 16777216 together at most"
    ):
        TopK(LabelSpec(1 << 16), k=1, ids="set", orders=4096, listed=65536, common=1)


def test_steps_of_a_row_that_spans_more_than_there_are():
    rows_BC = torch.tensor([[0.0, -10, -300, -400], [0, 0, 0, 0]])
    codes = TopK(LabelSpec(4), k=4, value="steps", step=0.5, tail="zero").encode(rows_BC)

    assert codes["values"].tolist() == [[253, 233, 0, 0], [1, 0, 0, 0]]


def test_a_class_without_probability_is_no_step():
    codec = TopK(LabelSpec(4, "probs"), k=3, value="steps", tail="zero")
    codes = codec.encode(torch.tensor([[0.5, 0.0, 0.5, 0.0]]))

    assert codes["values"].tolist() == [[1, 0, 255]]
    torch.testing.assert_close(codec.decode(codes)[0].exp()[[1, 3]], torch.zeros(2))


def test_an_unfitted_codec_says_so():
    with pytest.raises(
        CodecError, match="ids=set has orders of classes to learn first; fit the codec to some rows"
    ):
        TopK(SPEC, ids="set").encode(random_rows(SPEC, 2))
    with pytest.raises(CodecError, match="no rows to learn orders of classes from; give at least one"):
        TopK(SPEC, ids="set").fit([])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ids": "sets"}, "topk: ids is 'sets'; expected one of ranked, set"),
        ({"orders": 3}, "topk: orders is for ids=set; found ids=ranked, leave it out"),
        ({"ids": "set", "orders": 4097}, "topk: orders is 4097; expected a whole number from 0 to 4096"),
        ({"ids": "set", "listed": 65537}, "topk: listed is 65537; expected a whole number from 0 to 65536"),
        ({"step": 0.5}, "topk: step is for value=steps; found value=fp16, leave it out"),
        ({"value": "steps", "tail": "zero", "step": -1.0}, "topk: step is -1.0; expected a positive number"),
        ({"value": "steps", "tail": "zero", "step": math.inf}, "topk: step is inf; expected a positive number"),
        ({"value": "steps"}, "value=steps says how far .* and tail=uniform needs that; set tail=mass"),
        ({"value": "steps", "tail": "bucket"}, "tail=bucket needs that; set tail=mass"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(CodecError, match=message):
        TopK(SPEC, **settings)


def test_what_is_new_needs_a_new_reader_and_what_was_says_what_it_said():
    assert TopK(SPEC).get_config() == {"k": 20, "value": "fp16", "tail": "uniform", "tail_temperature": 1.0}
    assert TopK(SPEC).minor == 0
    assert not TopK(SPEC).learns
    for settings in ({"ids": "set"}, {"value": "steps", "tail": "zero"}, {"tail": "mass"}):
        codec = TopK(SPEC, **settings)
        later = codec.get_config().keys() - TopK(SPEC).get_config().keys()
        assert codec.minor == 5, settings
        assert later, settings

from __future__ import annotations

import dataclasses
import hashlib
import math

import pytest
import torch
from safetensors.torch import save_file

import softpack
from softpack.codecs.head import Head
from softpack.codecs.head.fit import LEAST_BITS, Grid
from softpack.codecs.head.matrix import matrix_hash
from softpack.codecs.registry import make_codec
from softpack.codecs.widths import groups_of
from softpack.errors import CodecError, DataError
from softpack.records import HIDDEN, LabelSpec
from softpack.testing import check_codec

V, H = 3000, 32
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def teacher(n_rows, vocabulary=V, width=H, seed=0, dtype=torch.bfloat16):
    """Hidden states [n_rows, width] and an output matrix whose tokens are as unevenly likely as words."""
    generator = torch.Generator().manual_seed(seed)
    matrix_VH = torch.randn(vocabulary, width, generator=generator) / width**0.5
    matrix_VH[:, 0] = -torch.arange(1, vocabulary + 1).log() / 3
    strength_H = torch.arange(1, width + 1).pow(-0.5) * 24
    hidden_BH = torch.randn(n_rows, width, generator=generator) * strength_H
    hidden_BH[:, 0] = 3 + 0.5 * torch.randn(n_rows, generator=generator)
    return hidden_BH, matrix_VH.to(dtype)


@pytest.fixture(scope="module", name="rows")
def rows_():
    return teacher(600)


@pytest.fixture(scope="module", name="fitted")
def fitted_(rows):
    hidden_BH, matrix_VH = rows
    return Head.of_matrix(matrix_VH, bits=60.0).fit([hidden_BH])


def entropy(codec, hidden_BH):
    """Bits of a row under an ideal code of each coefficient."""
    bits = 0.0
    for values in codec.encode(hidden_BH).values():
        for column in values.T.long():
            share_L = column.bincount().double() / len(column)
            bits += float(torch.special.entr(share_L).sum()) / math.log(2)
    return bits


def kl(codec, hidden_BH, temperature=1.0):
    """Mean KL(teacher || decoded) * T^2 in nats."""
    teacher_BV = (codec.teacher_rows(hidden_BH) / temperature).log_softmax(1)
    decoded_BV = (codec.decode(codec.encode(hidden_BH)) / temperature).log_softmax(1)
    return temperature**2 * float((teacher_BV.exp() * (teacher_BV - decoded_BV)).sum(1).mean())


# -- the contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"search": 0}, {"rank": 5, "search": 1}, {"bits": 30.0}, {"step": 0.3}]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_the_contract(settings, dtype):
    hidden_BH, matrix_VH = teacher(40, vocabulary=300, width=16, dtype=DTYPES[dtype])

    check_codec(Head.of_matrix(matrix_VH, **settings), hidden_BH)


@pytest.mark.parametrize("vocabulary", [2, 3, 127, 129])
@pytest.mark.parametrize("width", [2, 20])
def test_keeps_the_contract_with_few_tokens(vocabulary, width):
    hidden_BH, matrix_VH = teacher(30, vocabulary, width)

    check_codec(Head.of_matrix(matrix_VH, bits=20.0), hidden_BH)


def test_a_codec_of_labels_still_gives_as_many_classes_as_it_takes():
    class Narrower(Head):
        codec_id = "narrower"

        @property
        def gives(self):
            return LabelSpec(self.vocabulary, HIDDEN)

    hidden_BH, matrix_VH = teacher(20, 50, 8)
    with pytest.raises(AssertionError, match="gives hidden; expected one of logits, log_probs, probs"):
        check_codec(Narrower.of_matrix(matrix_VH), hidden_BH)


def test_decoded_rows_are_logits_of_the_vocabulary(rows, fitted):
    hidden_BH, _ = rows

    assert fitted.spec == LabelSpec(H, HIDDEN)
    assert fitted.gives == LabelSpec(V, "logits")
    assert fitted.minor == 5
    decoded_BV = fitted.decode(fitted.encode(hidden_BH[:7]))
    assert decoded_BV.shape == (7, V)
    state = fitted.state()
    levels_BR = torch.cat([codes.long() for codes in fitted.encode(hidden_BH[:7]).values()], dim=1)
    found_BH = state["mean"] + ((levels_BR + state["first"]) * fitted.step) @ (
        state["axes"] * state["scale"][:, None]
    )
    torch.testing.assert_close(found_BH @ state["matrix"].float().T, decoded_BV)
    torch.testing.assert_close(fitted.hidden(fitted.encode(hidden_BH[:7])), found_BH)


def test_rows_of_are_the_teachers_logits(rows, fitted):
    hidden_BH, matrix_VH = rows

    torch.testing.assert_close(fitted.teacher_rows(hidden_BH[:3]), hidden_BH[:3] @ matrix_VH.float().T)


# -- rate and distortion -----------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [0, 3])
@pytest.mark.parametrize("bits", [15.0, 60.0])
def test_the_entropy_is_what_was_asked_for_and_not_more(bits, search, rows):
    hidden_BH, matrix_VH = rows
    codec = Head.of_matrix(matrix_VH, bits=bits, search=search).fit([hidden_BH])

    assert 0.95 * bits < entropy(codec, hidden_BH) <= 1.02 * bits


def test_the_search_leaves_several_times_less_kl_at_the_same_bits(rows, fitted):
    hidden_BH, matrix_VH = rows
    without = Head.of_matrix(matrix_VH, bits=60.0, search=0).fit([hidden_BH])

    assert entropy(fitted, hidden_BH) <= 1.02 * entropy(without, hidden_BH)
    assert kl(fitted, hidden_BH) < kl(without, hidden_BH) / 2.5


def test_labels_may_be_coded_for_several_temperatures(rows, fitted):
    hidden_BH, matrix_VH = rows
    codec = Head.of_matrix(matrix_VH, bits=60.0, temperatures="1,4").fit([hidden_BH])
    again = Head(codec.spec, **codec.get_config()).load_state({**codec.state(), **codec.encoder_state()})

    assert "temperatures" not in fitted.get_config()  # as files of one temperature never said it
    assert codec.get_config()["temperatures"] == "1,4"
    assert codec.encoder_state()["tail"].shape == (2, H)
    assert entropy(again, hidden_BH) <= 1.02 * 60
    assert kl(again, hidden_BH, 4.0) < 0.6 * kl(fitted, hidden_BH, 4.0)
    assert kl(again, hidden_BH) < 1.3 * kl(fitted, hidden_BH)


def test_labels_may_be_coded_for_another_temperature_alone(rows, fitted):
    hidden_BH, matrix_VH = rows
    codec = Head.of_matrix(matrix_VH, bits=60.0, temperatures="4").fit([hidden_BH])

    assert kl(codec, hidden_BH, 4.0) < 0.5 * kl(fitted, hidden_BH, 4.0)
    assert kl(codec, hidden_BH) > kl(fitted, hidden_BH)


def test_rows_that_were_not_in_the_sample_fare_as_well(rows, fitted):
    hidden_BH, _ = rows
    others_BH, _ = teacher(1000)

    assert kl(fitted, others_BH[600:]) < 1.3 * kl(fitted, hidden_BH)


def test_more_bits_leave_less_kl(rows):
    hidden_BH, matrix_VH = rows
    few, more, many = (
        kl(Head.of_matrix(matrix_VH, bits=bits, search=0).fit([hidden_BH]), hidden_BH)
        for bits in (10.0, 40.0, 160.0)
    )

    assert few > 2 * more > 4 * many


def test_more_bits_than_the_rows_hold_give_them_nearly_back(rows):
    hidden_BH, matrix_VH = rows
    codec = Head.of_matrix(matrix_VH, bits=1e6, search=0).fit([hidden_BH])

    assert codec.rank == H
    assert kl(codec, hidden_BH) < 1e-3


def test_rank_and_step_that_are_given_are_kept(rows):
    hidden_BH, matrix_VH = rows
    codec = Head.of_matrix(matrix_VH, rank=7, step=0.75, search=1).fit([hidden_BH])

    assert (codec.rank, codec.step) == (7, 0.75)
    assert sum(group.n_axes for group in groups_of(codec.widths)) == 7


def test_a_step_that_is_too_fine_for_12_bits_becomes_larger(rows):
    hidden_BH, matrix_VH = rows
    codec = Head.of_matrix(matrix_VH, step=1e-4, search=0).fit([hidden_BH])

    assert codec.step > 1e-4
    assert codec.widths.startswith("12x")
    assert kl(codec, hidden_BH) < 1e-3


def test_axes_that_say_nothing_are_left_out(rows):
    hidden_BH, matrix_VH = rows
    codec = Head.of_matrix(matrix_VH, bits=12.0, search=0).fit([hidden_BH])

    assert 1 <= codec.rank < H
    for values in codec.encode(hidden_BH).values():
        assert all(len(column.unique()) > 1 for column in values.T)


def test_at_bits_sets_the_entropy():
    spec = LabelSpec(H, HIDDEN)

    assert Head.at_bits(spec, 33.5, vocabulary=V) == Head(spec, vocabulary=V, bits=33.5)
    assert Head.at_bits(spec, 33.5, vocabulary=V, bits=20.0).bits == 20.0
    with pytest.raises(CodecError, match="bits is 50, but 40 bits a label were asked for; leave bits out"):
        Head.at_bits(spec, 40, vocabulary=V, bits=50.0)


# -- rows apart from one another ---------------------------------------------------------------------------


def test_codes_of_a_row_do_not_depend_on_the_batch(rows, fitted):
    hidden_BH, _ = rows
    whole = fitted.encode(hidden_BH)
    alone = [fitted.encode(row_H[None]) for row_H in hidden_BH[:60]]

    # Products of other shapes differ in the last bit, which decides where two levels are equally good.
    same_B = torch.stack(
        [torch.cat([alone[n][name][0] == whole[name][n] for name in whole]).all() for n in range(60)]
    )
    assert float(same_B.float().mean()) >= 0.95


def test_the_search_goes_batch_by_batch(rows, fitted, monkeypatch):
    hidden_BH, _ = rows
    whole = fitted.encode(hidden_BH[:100])
    monkeypatch.setattr("softpack.codecs.head.tokens.ROWS", 9)
    monkeypatch.setattr("softpack.codecs.head.tokens.CHUNK", 4 * V)
    found = fitted.encode(hidden_BH[:100])

    equal = torch.cat([(whole[name] == found[name]).flatten() for name in whole])
    assert float(equal.float().mean()) > 0.99


def test_rows_whose_tokens_are_not_among_the_likely_ones_are_searched_among_their_own(rows, monkeypatch):
    hidden_BH, matrix_VH = rows
    expected = kl(Head.of_matrix(matrix_VH, bits=60.0).fit([hidden_BH]), hidden_BH)
    monkeypatch.setattr("softpack.codecs.head.fit.LIKELY", 700)
    codec = Head.of_matrix(matrix_VH, bits=60.0).fit([hidden_BH])

    assert codec.encoder_state()["likely"].shape == (700,)
    inside_B = codec.teacher_rows(hidden_BH).softmax(1)[:, codec.tensors["likely"].long()].sum(1)
    assert 0 < float((inside_B < 0.99).float().mean()) < 1
    assert kl(codec, hidden_BH) < 1.1 * expected


def test_the_same_rows_give_the_same_bytes(rows, fitted):
    hidden_BH, matrix_VH = rows
    again = Head.of_matrix(matrix_VH, bits=60.0).fit([hidden_BH[:100], hidden_BH[100:100], hidden_BH[100:]])

    assert again == fitted
    for name, codes in fitted.encode(hidden_BH).items():
        assert torch.equal(codes, again.encode(hidden_BH)[name])


# -- few rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 2, 5])
@pytest.mark.parametrize("search", [0, 3])
def test_fewer_rows_than_hidden_numbers_come_nearly_back(n_rows, search):
    hidden_BH, matrix_VH = teacher(n_rows)
    codec = Head.of_matrix(matrix_VH, search=search).fit([hidden_BH])

    assert 1 <= codec.rank < H
    assert kl(codec, hidden_BH) < 0.01
    assert torch.isfinite(codec.decode(codec.encode(teacher(9, seed=3)[0]))).all()


def test_rows_that_are_all_the_same_take_no_bits():
    hidden_BH, matrix_VH = teacher(1)
    hidden_BH = hidden_BH.repeat(30, 1)
    codec = Head.of_matrix(matrix_VH).fit([hidden_BH])

    assert codec.rank == 1
    assert entropy(codec, hidden_BH) < LEAST_BITS
    assert kl(codec, hidden_BH) < 1e-4


def test_a_teacher_that_says_the_same_of_all_rows():
    hidden_BH, _ = teacher(30)
    codec = Head.of_matrix(torch.zeros(50, H)).fit([hidden_BH])

    assert torch.equal(codec.decode(codec.encode(hidden_BH)), torch.zeros(30, 50))


# -- the matrix --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_matrix_inside_is_stored_in_its_dtype(dtype):
    hidden_BH, matrix_VH = teacher(20, 60, 8, dtype=DTYPES[dtype])
    codec = Head.of_matrix(matrix_VH).fit([hidden_BH])

    assert (codec.matrix, codec.matrix_dtype) == ("inside", dtype)
    assert torch.equal(codec.state()["matrix"], matrix_VH)


def test_a_matrix_inside_may_be_stored_in_fewer_bits():
    hidden_BH, matrix_VH = teacher(20, 60, 8, dtype=torch.float32)
    codec = Head.of_matrix(matrix_VH, matrix_dtype="bf16").fit([hidden_BH])

    assert torch.equal(codec.state()["matrix"], matrix_VH.bfloat16())


def test_the_hash_is_of_the_bytes_in_their_order():
    matrix_VH = torch.arange(6, dtype=torch.float32).reshape(2, 3)

    assert matrix_hash(matrix_VH.T) == hashlib.sha256(matrix_VH.T.contiguous().numpy().tobytes()).hexdigest()
    assert matrix_hash(matrix_VH.bfloat16()) != matrix_hash(matrix_VH.half())


@pytest.fixture(scope="module", name="named")
def named_():
    """A codec whose matrix is named, its decoder as a file has it, rows, and the matrix."""
    hidden_BH, matrix_VH = teacher(40, 60, 8)
    codec = Head.of_matrix(matrix_VH, named=True, bits=20.0).fit([hidden_BH])
    stored = make_codec("head", codec.spec, codec.get_config()).load_state(codec.state())
    return codec, stored, hidden_BH, matrix_VH


def test_a_matrix_that_is_named_is_not_in_the_state(named):
    codec, stored, hidden_BH, matrix_VH = named

    assert codec.matrix == matrix_hash(matrix_VH)
    assert codec.state().keys() == {"mean", "axes", "scale", "first"}
    assert (codec.needs_matrix, stored.needs_matrix, stored.can_encode) == (False, True, False)
    codes = codec.encode(hidden_BH)
    torch.testing.assert_close(stored.hidden(codes), codec.hidden(codes), rtol=0, atol=0)
    whole = make_codec("head", codec.spec, codec.get_config()).load_state(
        {**codec.state(), **codec.encoder_state()}
    )
    assert (whole.can_encode, whole.with_matrix(matrix_VH).can_encode) == (False, True)


def test_a_matrix_that_is_named_is_asked_for(named):
    codec, stored, hidden_BH, matrix_VH = named

    with pytest.raises(
        CodecError, match=r"output matrix bf16 \[60, 8\] that is not in the file, of SHA-256"
    ) as error:
        stored.decode(codec.encode(hidden_BH))
    assert matrix_hash(matrix_VH)[:16] in str(error.value)
    assert "give the teacher's checkpoint: softpack.open(path, matrix=" in str(error.value)


@pytest.mark.parametrize("given", ["tensor", "file", "text", "folder"])
def test_a_matrix_that_is_named_is_found(given, named, tmp_path):
    codec, stored, hidden_BH, matrix_VH = named
    other_VH = matrix_VH + 1
    save_file({"model.norm": torch.ones(8), "decoy": other_VH}, tmp_path / "model-1.safetensors")
    save_file({"embed": other_VH.clone(), "lm_head.weight": matrix_VH}, tmp_path / "model-2.safetensors")
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "model-2.safetensors"
    found = stored.with_matrix(
        {"tensor": matrix_VH, "file": file, "text": str(file), "folder": tmp_path}[given]
    )

    codes = codec.encode(hidden_BH)
    assert not found.needs_matrix
    torch.testing.assert_close(found.decode(codes), codec.decode(codes), rtol=0, atol=0)
    assert found.state().keys() == stored.state().keys()


def test_the_matrix_of_another_teacher_is_refused(named, tmp_path):
    _, stored, _, matrix_VH = named
    save_file({"lm_head.weight": matrix_VH + 1, "norm": torch.ones(8)}, tmp_path / "other.safetensors")

    with pytest.raises(
        CodecError, match=r"^labels\.spk: needs the output matrix bf16 \[60, 8\] of SHA-256"
    ) as error:
        stored.with_matrix(tmp_path / "other.safetensors", "labels.spk")
    assert f"found lm_head.weight, bf16 [60, 8] of {matrix_hash(matrix_VH + 1)[:16]}..." in str(error.value)
    assert "give the checkpoint of the teacher that the labels are of" in str(error.value)


def test_another_matrix_or_one_of_another_shape_is_refused(named, tmp_path):
    _, stored, _, matrix_VH = named

    assert torch.equal(
        stored.with_matrix(matrix_VH.float()).tensors["matrix"], matrix_VH
    )  # as a model was loaded
    with pytest.raises(
        CodecError, match=r"found the tensor, fp32 \[60, 8\], as bf16 of [0-9a-f]{16}\.\.\.; give"
    ):
        stored.with_matrix(matrix_VH.float() + 1)
    with pytest.raises(CodecError, match=r"found the tensor, torch.int64 \[60, 8\]; give"):
        stored.with_matrix(matrix_VH.long())
    with pytest.raises(CodecError, match=r"found the tensor, bf16 \[8, 60\]; give"):
        stored.with_matrix(matrix_VH.T)
    save_file({"lm_head.weight": matrix_VH[:-1].clone()}, tmp_path / "short.safetensors")
    with pytest.raises(CodecError, match=r"found no tensor of that shape in .*short\.safetensors; give"):
        stored.with_matrix(tmp_path / "short.safetensors")


def test_what_is_no_matrix_is_refused(named, tmp_path):
    codec, stored, _, matrix_VH = named
    (tmp_path / "model.safetensors").write_bytes(b"pickled")

    with pytest.raises(CodecError, match=r"model\.safetensors: is no safetensors file"):
        stored.with_matrix(tmp_path)
    with pytest.raises(CodecError, match=r"nowhere\.safetensors: is no safetensors file"):
        stored.with_matrix(tmp_path / "nowhere.safetensors")
    with pytest.raises(
        CodecError, match="the output matrix is int; expected a tensor, or a path to safetensors"
    ):
        stored.with_matrix(5)
    inside = Head(codec.spec, vocabulary=60)
    with pytest.raises(CodecError, match=r"the output matrix is \[8, 60\]; expected a tensor \[60, 8\]"):
        inside.with_matrix(matrix_VH.T)
    with pytest.raises(CodecError, match=r"the output matrix is str; expected a tensor \[60, 8\]"):
        inside.with_matrix("model.safetensors")
    with pytest.raises(CodecError, match="the output matrix holds inf or nan; expected finite numbers"):
        inside.with_matrix(torch.full((60, 8), math.inf))


def test_a_codec_is_made_of_matrices_alone():
    with pytest.raises(CodecError, match=r"the output matrix is torch\.float64; expected .*; dequantize it"):
        Head.of_matrix(torch.zeros(5, 4, dtype=torch.float64))
    with pytest.raises(
        CodecError, match=r"the output matrix is \[5\]; expected a tensor \[tokens, hidden numbers\]"
    ):
        Head.of_matrix(torch.zeros(5))
    with pytest.raises(CodecError, match="a matrix that is named stays bf16, as it is in its checkpoint"):
        Head.of_matrix(torch.zeros(5, 4).bfloat16(), named=True, matrix_dtype="fp16")


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 1}, "vocabulary is 1; expected a whole number from 2 to"),
        ({"vocabulary": 1 << 25}, "vocabulary is 33554432; expected a whole number from 2 to"),
        ({"matrix_dtype": "fp8"}, "matrix_dtype is 'fp8'; expected one of fp32, fp16, bf16"),
        ({"matrix": "outside"}, "matrix is 'outside'; expected 'inside', or the 64 lowercase hexadecimal digits"),
        ({"matrix": "A" * 64}, "expected 'inside', or the 64 lowercase"),
        ({"matrix": "a" * 63}, "expected 'inside', or the 64 lowercase"),
        ({"matrix": 5}, "matrix is 5; expected 'inside'"),
        ({"rank": H + 1}, f"rank is 33; expected a whole number from 0 to {H}"),
        ({"rank": -1}, "rank is -1; expected"),
        ({"bits": 0.0}, "bits is 0.0; expected a positive number"),
        ({"step": -1.0}, "step is -1.0; expected a positive number"),
        ({"temperatures": "1,0"}, "head: temperatures is '1,0'; expected 1 to 16 numbers"),
        ({"search": 101}, "search is 101; expected a whole number from 0 to 100"),
        ({"widths": "5x2"}, "step is 0.0; expected a positive number"),
        ({"widths": "5x2", "step": 1.0}, "widths is '5x2', but rank is 0; expected as many axes"),
        ({"widths": "3x1,5x1", "step": 1.0, "rank": 2}, "head: widths is '3x1,5x1'; expected falling widths"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(CodecError) as error:
        Head(LabelSpec(H, HIDDEN), **{"vocabulary": V, **settings})

    assert message in str(error.value)


def test_rows_of_labels_are_refused():
    with pytest.raises(
        CodecError, match="head: rows are logits; expected the hidden states of a language model"
    ):
        Head(LabelSpec(H), vocabulary=V)


def test_a_codec_that_is_not_fitted_is_refused(rows, fitted):
    hidden_BH, matrix_VH = rows
    codec = Head.of_matrix(matrix_VH)

    with pytest.raises(CodecError, match="this codec was not fitted, or has its decoder alone"):
        codec.encode(hidden_BH)
    with pytest.raises(CodecError, match="this codec was neither fitted nor loaded, and cannot decode"):
        codec.decode(fitted.encode(hidden_BH[:2]))
    with pytest.raises(CodecError, match=r"the codec has no output matrix yet; make it by Head\.of_matrix"):
        Head(LabelSpec(H, HIDDEN), vocabulary=V).fit([hidden_BH])
    with pytest.raises(CodecError, match="there are no rows to fit to"):
        codec.fit([hidden_BH[:0]])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_are_refused(bad, rows, fitted):
    hidden_BH = rows[0][:5].clone()
    hidden_BH[3, 2] = bad

    for work in (fitted.encode, lambda rows_BH: Head.of_matrix(rows[1]).fit([rows_BH])):
        with pytest.raises(CodecError, match="head: hidden state 3 of 5 holds inf or nan; leave such rows out"):
            work(hidden_BH)


def test_a_state_that_does_not_fit_is_refused(fitted):
    fresh = make_codec("head", fitted.spec, fitted.get_config())
    whole = {**fitted.state(), **fitted.encoder_state()}

    with pytest.raises(CodecError, match="head: likely names tokens outside the vocabulary of 3000"):
        fresh.load_state({**whole, "likely": whole["likely"] + 1})
    with pytest.raises(CodecError, match="widths is empty in a stored model; expected those of its axes"):
        Head(fitted.spec, vocabulary=V).load_state(whole)
    with pytest.raises(
        CodecError, match=r"tensor matrix is torch.float16 \[3000, 32\]; expected torch.bfloat16"
    ):
        fresh.load_state({**whole, "matrix": whole["matrix"].half()})


def test_levels_are_priced_by_how_often_they_came():
    coefficients_RB = torch.tensor([[-1.0, 0.0, 0.0, 2.0]])
    grid = Grid.of(coefficients_RB, 1.0)

    assert (grid.first_R.tolist(), grid.count_R.tolist()) == ([-1], [4])
    assert grid.nearest(coefficients_RB).tolist() == [[0, 1, 1, 3]]
    torch.testing.assert_close(grid.cost_RL.neg().exp2(), torch.tensor([[1.5, 2.5, 0.5, 1.5]]) / 6)


def test_the_example_of_the_page():
    codec = Head(LabelSpec(2, HIDDEN), vocabulary=3, rank=2, step=0.5, widths="3x1,1x1").load_state(
        {
            "mean": torch.tensor([1.0, -1.0]),
            "axes": torch.tensor([[100, -200], [50, 0]], dtype=torch.int16),
            "scale": torch.tensor([0.01, 0.02]),
            "first": torch.tensor([-3, 0], dtype=torch.int32),
            "matrix": torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]]).bfloat16(),
        }
    )
    codes = {
        name: torch.tensor([[level]], dtype=torch.uint8) for name, level in (("levels_3", 5), ("levels_1", 1))
    }

    torch.testing.assert_close(codec.decode(codes), torch.tensor([[2.5, -3.0, 8.0]]))


def test_the_order_of_sums_stays_within_the_tolerance(rows, fitted):
    hidden_BH, _ = rows
    codes = fitted.encode(hidden_BH)
    found_BV = fitted.decode(codes)
    state = {name: tensor.double() for name, tensor in fitted.state().items()}
    levels_BR = torch.cat([values.double() for values in codes.values()], dim=1)
    axes_RH = state["axes"] * state["scale"][:, None]
    expected_BV = (state["mean"] + (levels_BR + state["first"]) * fitted.step @ axes_RH) @ state["matrix"].T

    off_B = (found_BV - expected_BV).abs().amax(1) / expected_BV.abs().amax(1)
    assert float(off_B.max()) < 1e-5  # a tenth of the page's tolerance


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_files_take_finite_hidden_states_alone(bad, rows, fitted, tmp_path):
    hidden_BH = rows[0][:5].clone()
    hidden_BH[3, 2] = bad

    with (
        pytest.raises(
            DataError, match=r"hidden, class 2, of row 3 \(item 3, view 0\) is .*; expected finite numbers; "
        ),
        softpack.create(tmp_path / "labels.spk", fitted, items=5, views=1) as w,
    ):
        w.append(hidden_BH, item=range(5), view=0)


def test_files_give_logits(rows, fitted, tmp_path):
    hidden_BH = rows[0][:50]
    path = tmp_path / "labels.spk"
    with softpack.create(path, fitted, items=5, views=10) as w:
        w.append(hidden_BH, item=torch.arange(50) // 10, view=torch.arange(50) % 10)

    labels = softpack.open(path)
    assert (labels.shape, labels.spec, labels.file.minor) == ((5, 10, V), LabelSpec(V), 5)
    found_BV = labels.read(*labels.cells())
    expected_BV = fitted.decode(fitted.encode(hidden_BH))
    torch.testing.assert_close(found_BV, expected_BV, rtol=0, atol=1e-4 * float(expected_BV.abs().max()))


def test_hidden_states_are_for_no_other_codec():
    with pytest.raises(
        CodecError, match="codec raw takes rows of logits, log_probs, probs; these are hidden states"
    ):
        make_codec("raw", LabelSpec(H, HIDDEN), {})
    assert make_codec("head", LabelSpec(H, HIDDEN), {"vocabulary": "7"}).gives.classes == 7


def test_a_step_that_is_a_whole_number_decodes(rows, fitted):
    whole = dataclasses.replace(fitted, step=2).load_state(fitted.state())

    assert whole.step == 2.0
    assert type(whole.step) is float
    assert whole.decode(fitted.encode(rows[0][:3])).dtype == torch.float32

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softpack.codecs.abc import code_values
from softpack.codecs.registry import make_codec
from softpack.codecs.spaces import convert
from softpack.codecs.vqae import VQAE, rate, start
from softpack.errors import CodecError
from softpack.records import LabelSpec
from softpack.testing import check_codec

QUICK = {"slots": 4, "k": 16, "steps": 60, "batch": 64}


def some_rows(n_rows: int = 400, classes: int = 20, seed: int = 0) -> torch.Tensor:
    """Logits near a curved sheet of few dimensions, as a teacher's are."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n_rows, 5, generator=generator)
    mixing = torch.randn(5, classes, generator=generator)
    return 3 * torch.relu(hidden @ mixing) + 0.1 * torch.randn(n_rows, classes, generator=generator)


def kl(teacher_BC: torch.Tensor, decoded_BC: torch.Tensor, temperature: float = 1.0) -> float:
    teacher = torch.log_softmax(teacher_BC / temperature, 1)
    student = torch.log_softmax(decoded_BC / temperature, 1)
    return float((teacher.exp() * (teacher - student)).sum(1).mean()) * temperature**2


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return some_rows()


@pytest.fixture(scope="module")
def fitted(rows: torch.Tensor) -> VQAE:
    return VQAE(LabelSpec(20), **QUICK).fit([rows[:150], rows[150:]])


# -- rate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "slots", "k"),
    [
        (1, 1, 2),
        (5, 1, 32),
        (8, 1, 256),
        (10, 1, 1024),
        (37, 4, 512),
        (64, 8, 256),
        (65, 8, 256),
        (384, 48, 256),
    ],
)
def test_at_bits_chooses_slots_and_k(bits: int, slots: int, k: int) -> None:
    codec = VQAE.at_bits(LabelSpec(1000), bits)
    assert (codec.slots, codec.k) == (slots, k)


@given(st.floats(1, 3000))
def test_at_bits_comes_near_and_never_exceeds(target: float) -> None:
    bits = VQAE.at_bits(LabelSpec(1000), target).bits_per_label()
    assert target * 0.9 - 2 < bits <= target


def test_at_bits_keeps_what_is_given() -> None:
    assert VQAE.at_bits(LabelSpec(9), 64, k=200, d_h=3) == VQAE(LabelSpec(9), slots=8, k=200, d_h=3)
    assert VQAE.at_bits(LabelSpec(9), 64, slots=10) == VQAE(LabelSpec(9), slots=10, k=64)
    assert VQAE.at_bits(LabelSpec(9), 64, slots=1).k == 1 << 16
    with pytest.raises(CodecError, match="12 bits a label were asked for, but the least is 16"):
        VQAE.at_bits(LabelSpec(9), 12, slots=2, k=256)
    with pytest.raises(CodecError, match="0 bits a label were asked for, but the least is 1"):
        VQAE.at_bits(LabelSpec(9), 0.5)


def test_a_label_costs_slots_times_log2_k(fitted: VQAE) -> None:
    assert fitted.bits_per_label() == 16
    assert VQAE(LabelSpec(9), slots=3, k=200).bits_per_label() == 24
    (array,) = VQAE(LabelSpec(9), slots=3, k=200).codes
    assert (array.shape, array.bits, array.levels) == ((3,), 8, 200)


def test_widths_grow_with_the_rows_and_stop_at_their_rank() -> None:
    few = rate.widths_at(4_000, 1000, 999, 8, 256, 0, 0)
    many = rate.widths_at(3_000_000, 1000, 999, 8, 256, 0, 0)
    assert few[0] <= many[0]
    assert few[1] < many[1]
    assert rate.widths_at(3_000_000, 10, 9, 8, 256, 0, 0)[0] == 2  # 16 latents hold all 9 dimensions
    assert rate.widths_at(4_000, 1000, 999, 8, 256, 5, 7) == (5, 7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"slots": 0}, "slots is 0; expected a whole number from 1 to 4096"),
        ({"k": 1}, "k is 1; expected a whole number from 2 to 65536"),
        ({"d_c": -1}, "d_c is -1; expected"),
        ({"d_h": 2.0}, "d_h is 2.0; expected a whole number"),
        ({"batch": True}, "batch is True; expected a whole number"),
        ({"lr": 0}, "lr is 0; expected a number above 0"),
        ({"lr": "1"}, "lr is '1'; expected a number above 0"),
        ({"lr": math.nan}, "lr is nan; expected a number above 0"),
        ({"temperatures": "1;4"}, "temperatures is '1;4'; expected 1 to 16 numbers"),
        ({"temperatures": "0,4"}, "temperatures is '0,4'; expected"),
        ({"temperatures": "nan"}, "temperatures is 'nan'; expected"),
        ({"temperatures": ""}, "temperatures is ''; expected"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        VQAE(LabelSpec(9), **wrong)


# -- start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [30, start.EXACT_CLASSES + 100])
def test_principal_directions_are_those_of_an_svd(classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    scales = torch.cat([torch.tensor([9.0, 5.0, 3.0]), torch.full((classes - 3,), 0.01)])
    points = torch.randn(300, classes, generator=generator) * scales
    points -= points.mean(0)
    directions, variances = start.principal_directions(points, 3, generator)
    _, values, vectors = torch.linalg.svd(points, full_matrices=False)
    assert torch.allclose(variances, values[:3] ** 2 / 300, rtol=1e-3)
    assert torch.allclose((directions.T @ vectors[:3].T).abs(), torch.eye(3), atol=1e-3)


@pytest.mark.parametrize(("n_rows", "classes"), [(4, 10), (4, start.EXACT_CLASSES + 1), (1, 10), (1, 5000)])
def test_directions_that_rows_do_not_have_are_zero(n_rows: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(n_rows, classes, generator=generator)
    points -= points.mean(0)
    directions, variances = start.principal_directions(points, 12, generator)
    assert directions.shape == (classes, 12)
    assert torch.isfinite(directions).all()
    assert not variances[n_rows:].any()
    assert not directions[:, n_rows:].any()


def test_directions_are_dealt_out_with_balanced_products() -> None:
    variances = torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125])
    order = start.deal_out(variances, 4)
    assert sorted(order.tolist()) == list(range(8))
    assert variances[order].view(4, 2).prod(1).tolist() == [2.0, 2.0, 2.0, 2.0]


def test_k_means_finds_clusters_in_every_slot() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(3, 8, 2, generator=generator)
    points = centres.repeat(1, 50, 1) + 0.01 * torch.randn(3, 400, 2, generator=generator)
    codebooks = start.k_means(points, 16, 10, generator)
    index = start.nearest(points, codebooks)
    words = codebooks.gather(1, index.unsqueeze(-1).expand(-1, -1, 2))
    assert (words - points).square().mean() < 0.05 * points.var()
    squares = (points.unsqueeze(2) - codebooks.unsqueeze(1)).square().sum(-1)
    assert torch.allclose((words - points).square().sum(-1), squares.amin(-1), atol=1e-3)


# -- the contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
def test_it_keeps_the_contract(space: str, rows: torch.Tensor) -> None:
    spec = LabelSpec(20, space, 1.0 if space == "logits" else 4.0)
    check_codec(VQAE(spec, slots=3, k=20, steps=20, batch=64), convert(rows[:100], LabelSpec(20), spec))


# -- fit, encode, decode ---------------------------------------------------------------------------------


def test_codes_stay_below_k_and_rows_come_back_near(fitted: VQAE, rows: torch.Tensor) -> None:
    codes = fitted.encode(rows)
    assert codes["index"].dtype == torch.uint8
    assert codes["index"].shape == (400, 4)
    assert codes["index"].max() < 16
    decoded = fitted.decode(codes)
    assert decoded.dtype == torch.float32
    constant = rows.mean(0).expand_as(rows)
    assert kl(rows, decoded) < 0.25 * kl(rows, constant)
    assert kl(rows, decoded, 20) < 0.25 * kl(rows, constant, 20)


def test_training_improves_on_its_start(rows: torch.Tensor) -> None:
    def quality(steps: int) -> float:
        codec = VQAE(LabelSpec(20), slots=4, k=16, batch=64, steps=steps, lr=3e-3).fit([rows])
        return kl(rows, codec.decode(codec.encode(rows)))

    assert quality(300) < 0.8 * quality(0)


def test_a_constant_added_to_a_row_changes_no_code(fitted: VQAE, rows: torch.Tensor) -> None:
    shifted = rows + torch.arange(400).unsqueeze(1) % 7
    same = fitted.encode(shifted)["index"] == fitted.encode(rows)["index"]
    assert same.float().mean() > 0.999


def test_same_rows_and_seed_give_same_tensors(fitted: VQAE, rows: torch.Tensor) -> None:
    again = VQAE(LabelSpec(20), **QUICK).fit([rows])
    other = VQAE(LabelSpec(20), **QUICK).fit([rows], seed=1)
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in fitted.tensors.items())
    assert not torch.equal(other.tensors["out_weight"], again.tensors["out_weight"])


def test_fit_leaves_the_blocks_as_they_were(rows: torch.Tensor) -> None:
    before = rows.clone()
    VQAE(LabelSpec(20), **QUICK).fit([rows])
    assert torch.equal(rows, before)


def test_progress_ends_at_the_last_step_and_shows_the_kl(rows: torch.Tensor) -> None:
    seen: list[tuple[int, int, str]] = []
    VQAE(LabelSpec(20), **QUICK).fit([rows], progress=lambda *what: seen.append(what))
    assert seen[-1][:2] == (60, 60)
    assert [done for done, _, _ in seen] == sorted({done for done, _, _ in seen})
    assert float(seen[-1][2].removeprefix("KL ")) < float(seen[0][2].removeprefix("KL "))


def test_decoding_is_what_the_page_says(fitted: VQAE, rows: torch.Tensor) -> None:
    """The decoder of formats/codecs/vqae.md in numpy."""
    index = fitted.encode(rows)["index"].numpy()
    state = {name: tensor.numpy().astype(np.float32) for name, tensor in fitted.state().items()}
    slots = np.arange(index.shape[1])
    latents = state["codebooks"][slots, index].reshape(len(index), -1)
    hidden = np.maximum(latents @ state["hidden_weight"] + state["hidden_bias"], 0)
    decoded = np.concatenate([latents, hidden], 1) @ state["out_weight"] + state["out_bias"]
    assert np.abs(decoded - fitted.decode({"index": torch.from_numpy(index)}).numpy()).max() < 1e-4


def test_the_example_of_the_page() -> None:
    state = {
        "codebooks": [[[1], [2]], [[-1], [0.5]]],
        "hidden_weight": [[1], [2]],
        "hidden_bias": [-0.5],
        "out_weight": [[1, 0, -1], [0, 2, -2], [4, 0, -4]],
        "out_bias": [0.25, 0, -0.25],
    }
    tensors = {name: torch.tensor(values, dtype=torch.float16) for name, values in state.items()}
    codec = VQAE(LabelSpec(3), slots=2, k=2, d_c=1, d_h=1).load_state(tensors)
    decoded = codec.decode({"index": torch.tensor([[1, 1], [0, 0]], dtype=torch.uint8)})
    assert decoded.tolist() == [[12.25, 1, -13.25], [1.25, -2, 0.75]]


@pytest.mark.parametrize("space", ["log_probs", "probs"])
def test_other_spaces_decode_to_log_probs_of_their_temperature(space: str, rows: torch.Tensor) -> None:
    spec = LabelSpec(20, space, 4.0)
    source = convert(rows, LabelSpec(20), spec)
    codec = VQAE(spec, **QUICK).fit([source])
    assert codec.gives == LabelSpec(20, "log_probs", 4.0)
    decoded = codec.decode(codec.encode(source))
    assert torch.allclose(decoded.exp().sum(1), torch.ones(400), atol=1e-5)
    assert kl(rows / 4, decoded) < 0.25 * kl(rows / 4, rows.mean(0).expand_as(rows) / 4)


def test_zeros_among_probs_are_no_trouble() -> None:
    hard = torch.eye(10).repeat(5, 1)
    codec = VQAE(LabelSpec(10, "probs"), slots=2, k=16, d_c=5, steps=80).fit([hard])
    decoded = codec.decode(codec.encode(hard))
    assert torch.isfinite(decoded).all()
    assert (decoded.argmax(1) == hard.argmax(1)).all()


@settings(max_examples=20)
@given(
    n_rows=st.integers(1, 30),
    classes=st.integers(2, 12),
    slots=st.integers(1, 6),
    k=st.integers(2, 40),
    kind=st.sampled_from(["random", "constant", "one class varies", "large", "tiny"]),
)
def test_small_and_degenerate_sets_are_sound(n_rows: int, classes: int, slots: int, k: int, kind: str) -> None:
    rows = some_rows(n_rows, classes)
    if kind == "constant":
        rows = torch.full_like(rows, 3.0)
    elif kind == "one class varies":
        rows[:, 1:] = 0
    elif kind in ("large", "tiny"):
        rows *= 300 if kind == "large" else 1e-4
    codec = VQAE(LabelSpec(classes), slots=slots, k=k, steps=8).fit([rows])
    codes = codec.encode(rows)
    assert int(code_values(codes["index"], codec.codes[0].bits).max()) < k
    decoded = codec.decode(codes)
    assert torch.isfinite(decoded).all()
    if kind in ("constant", "tiny"):
        assert kl(rows, decoded) < 1e-3


def test_with_more_codewords_than_rows_every_row_comes_back() -> None:
    rows = some_rows(20, 6)
    codec = VQAE(LabelSpec(6), slots=3, k=64, steps=200).fit([rows])
    assert kl(rows, codec.decode(codec.encode(rows))) < 0.02


def test_two_classes() -> None:
    rows = torch.stack([torch.linspace(-4, 4, 200), torch.zeros(200)], 1)
    codec = VQAE(LabelSpec(2), slots=1, k=32, steps=100).fit([rows])
    assert codec.d_c == 1
    assert kl(rows, codec.decode(codec.encode(rows))) < 2e-3


def test_very_many_classes_take_little_memory() -> None:
    rows = some_rows(8, 262_144)
    codec = VQAE(LabelSpec(262_144), slots=2, k=8, d_c=2, d_h=2, steps=2).fit([rows])
    decoded = codec.decode(codec.encode(rows))
    assert kl(rows, decoded, 20) < kl(rows, rows.mean(0).expand_as(rows), 20)


def test_codes_wider_than_a_byte(rows: torch.Tensor) -> None:
    codec = VQAE(LabelSpec(20), slots=2, k=1 << 16, d_c=2, d_h=2, steps=4, batch=16).fit([rows[:50]])
    codes = codec.encode(rows[:50])
    assert codes["index"].dtype == torch.int16
    assert torch.isfinite(codec.decode(codes)).all()
    last = torch.full((1, 2), -1, dtype=torch.int16)  # 65535 as two's complement
    assert torch.isfinite(codec.decode({"index": last})).all()


def test_codes_beyond_k_do_not_leave_the_codebook(rows: torch.Tensor) -> None:
    codec = VQAE(LabelSpec(20), slots=2, k=10, steps=2).fit([rows])
    beyond, last = torch.full((1, 2), 15, dtype=torch.uint8), torch.full((1, 2), 9, dtype=torch.uint8)
    assert torch.equal(codec.decode({"index": beyond}), codec.decode({"index": last}))


def test_unusable_rows_are_refused(fitted: VQAE) -> None:
    bad = some_rows(5)
    bad[3, 2] = math.inf
    with pytest.raises(CodecError, match="row 3 of this batch holds nan or inf; expected finite logits"):
        fitted.encode(bad)
    with pytest.raises(CodecError, match="row 3 of this batch"):
        VQAE(LabelSpec(20)).fit([bad])
    with pytest.raises(CodecError, match="no rows to fit; give at least one"):
        VQAE(LabelSpec(20)).fit([])
    with pytest.raises(CodecError, match="out_bias holds inf or nan"):
        VQAE(LabelSpec(20), slots=1, steps=0).fit([some_rows(5) + 1e6 * torch.eye(20)[0]])


# -- state -----------------------------------------------------------------------------------------------


def test_config_round_trips_through_json_with_the_chosen_widths(fitted: VQAE, rows: torch.Tensor) -> None:
    config = json.loads(json.dumps(fitted.get_config()))
    assert config["d_c"] > 0
    assert config["d_h"] > 0
    loaded = make_codec("vqae", fitted.spec, config).load_state({**fitted.state(), **fitted.encoder_state()})
    codes = loaded.encode(rows)
    assert torch.equal(codes["index"], fitted.encode(rows)["index"])
    assert torch.equal(loaded.decode(codes), fitted.decode(codes))


def test_the_decoder_alone_decodes_and_says_why_it_cannot_encode(fitted: VQAE, rows: torch.Tensor) -> None:
    alone = make_codec("vqae", fitted.spec, fitted.get_config()).load_state(fitted.state())
    codes = fitted.encode(rows)
    assert torch.equal(alone.decode(codes), fitted.decode(codes))
    assert fitted.can_encode
    assert not alone.can_encode
    assert alone.encoder_state() == {}
    with pytest.raises(CodecError, match=r"decoder alone.*pass the model that `softpack fit` wrote"):
        alone.encode(rows)
    with pytest.raises(CodecError, match="neither fitted nor loaded"):
        VQAE(LabelSpec(20)).decode(codes)


def test_codecs_survive_pickling_and_moving(fitted: VQAE, rows: torch.Tensor) -> None:
    codes = fitted.encode(rows)
    for copy in (pickle.loads(pickle.dumps(fitted)), fitted.to("cpu")):
        assert torch.equal(copy.decode(codes), fitted.decode(codes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("out_bias"),
            "vqae: found the tensors codebooks, hidden_bias, hidden_weight, out_weight; exp",
        ),
        (lambda t: t.update(extra=torch.zeros(1)), "found the tensors codebooks, extra, "),
        (
            lambda t: t.update(encoder_bias=t["out_bias"]),
            "found the tensors .*; expected codebooks, encoder_bias, enc",
        ),
        (
            lambda t: t.update(out_bias=t["out_bias"].float()),
            "out_bias is torch.float32 .* expected torch.float16",
        ),
        (
            lambda t: t.update(out_bias=t["out_bias"][:-1]),
            r"out_bias is torch.float16 \[19\]; expected .* \[20\]",
        ),
        (lambda t: t.update(codebooks=t["codebooks"][:, :15]), r"codebooks is torch.float16 \[4, 15, "),
        (lambda t: t.update(out_bias=t["out_bias"] * math.nan), "out_bias holds inf or nan"),
    ],
)
def test_tensors_that_do_not_fit_the_settings_are_refused(fitted: VQAE, change, message: str) -> None:
    tensors = fitted.state()
    change(tensors)
    with pytest.raises(CodecError, match=message):
        fitted.load_state(tensors)


def test_a_stored_model_must_say_its_widths(fitted: VQAE) -> None:
    with pytest.raises(CodecError, match="d_c=0, d_h=0 and d_x=0 of a stored model; expected all above 0"):
        VQAE(LabelSpec(20), **QUICK).load_state(fitted.state())


# -- a real teacher --------------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_labels_beat_top_20_in_fewer_bits(shared_data: Path) -> None:
    with np.load(shared_data / "imagenet_lite0.npz") as data:
        rows = torch.from_numpy(data["logits"][:2000].astype(np.float32))
    codec = VQAE.at_bits(LabelSpec(1000), 48, d_c=6, d_h=8, steps=100).fit([rows])
    decoded = codec.decode(codec.encode(rows))
    model_bits = sum(16 * tensor.numel() for tensor in codec.state().values())
    assert model_bits / 2000 + codec.bits_per_label() < 536
    assert kl(rows, decoded, 20) < 0.45  # top-20 in fp16, 536 bits: 0.50

"""`vqae` given prototypes, in stages, and with a search for its codes."""

from __future__ import annotations

import json

import pytest
import torch

from softpack.codecs.abc import code_values
from softpack.codecs.registry import make_codec
from softpack.codecs.spaces import centred_logits, convert
from softpack.codecs.vqae import VQAE, nets, search
from softpack.errors import CodecError
from softpack.records import LabelSpec
from softpack.testing import check_codec

CLASSES = 16
SPEC = LabelSpec(CLASSES)
QUICK = {"slots": 2, "k": 8, "d_c": 3, "d_h": 8, "steps": 60, "batch": 64}
CONTEXT = {"context": True, "d_x": 6}


def some_rows(items: int = 40, views: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of items whose views are alike, and their items' means: [B, C] each."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(6, CLASSES, generator=generator)
    means = 1.5 * torch.randn(items, 1, 6, generator=generator)
    rows = (means + 0.6 * torch.randn(items, views, 6, generator=generator)) @ factors
    rows += 0.1 * torch.randn(rows.shape, generator=generator)
    rows -= rows.mean(-1, keepdim=True)
    context = rows.mean(1, keepdim=True).expand_as(rows)
    return rows.flatten(0, 1), context.flatten(0, 1).clone()


def losses(teacher_BC: torch.Tensor, decoded_BC: torch.Tensor, temperatures=(1.0, 4.0, 20.0)) -> torch.Tensor:
    """Return KL * T^2 of each row, summed over temperatures: what the codec is trained for."""
    total_B = torch.zeros(len(teacher_BC))
    for temperature in temperatures:
        p, q = (torch.log_softmax(rows / temperature, 1) for rows in (teacher_BC, decoded_BC))
        total_B += temperature**2 * (p.exp() * (p - q)).sum(1)
    return total_B


@pytest.fixture(scope="module", name="rows")
def rows_() -> torch.Tensor:
    return some_rows()[0]


@pytest.fixture(scope="module", name="context")
def context_() -> torch.Tensor:
    return some_rows()[1]


@pytest.fixture(scope="module")
def fitted(rows, context) -> VQAE:
    return VQAE(SPEC, **QUICK, **CONTEXT).fit([rows], contexts=[context])


@pytest.fixture(scope="module")
def staged(rows, context) -> VQAE:
    return VQAE(SPEC, **{**QUICK, "steps": 90}, **CONTEXT, stages=3).fit([rows], contexts=[context])


def again(codec: VQAE, rows: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    return codec.decode(codec.encode(rows, context), context)


# -- contract ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [CONTEXT, {"stages": 2}, {"search": 3}, {**CONTEXT, "stages": 2, "search": 3}],
    ids=["context", "stages", "search", "all"],
)
@pytest.mark.parametrize("space", ["logits", "probs"])
def test_it_keeps_the_contract(settings, space, rows, context):
    spec = LabelSpec(CLASSES, space, 1.0 if space == "logits" else 4.0)
    codec = VQAE(spec, **{**QUICK, "steps": 10}, **settings)
    check_codec(codec, convert(rows[:60], SPEC, spec), context[:60] if codec.takes_context else None)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_is_fitted_also_where_no_gradients_are_taken(mode, fitted, rows, context):
    with mode():
        again = VQAE(SPEC, **QUICK, **CONTEXT).fit([rows.clone()], contexts=[context.clone()])
        assert not torch.is_grad_enabled()
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in fitted.tensors.items())


def test_settings_that_are_not_set_are_not_said():
    """Files of codecs without them stay what they were, and old readers read them."""
    plain = VQAE(SPEC, **QUICK)
    assert not plain.get_config().keys() & {"stages", "context", "d_x", "search"}
    assert plain.minor == 0
    for settings in (CONTEXT, {"stages": 2}, {"search": 1}):
        codec = VQAE(SPEC, **QUICK, **settings)
        assert codec.get_config().items() >= settings.items()
        assert codec.minor == 1
        assert make_codec("vqae", SPEC, json.loads(json.dumps(codec.get_config()))) == codec
    assert make_codec("vqae", SPEC, {"context": "true", "stages": "2"}) == VQAE(SPEC, context=True, stages=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stages": 0}, "stages is 0; expected a whole number from 1 to 64"),
        ({"context": 1}, "context is 1; expected true or false"),
        ({"context": "yes"}, "context is 'yes'; expected true or false"),
        ({"d_x": 4}, "d_x is 4, but there is no context; set context=true too"),
        ({"search": -1}, "search is -1; expected a whole number from 0 to 1024"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(CodecError, match=message):
        make_codec("vqae", SPEC, wrong)


# -- context -------------------------------------------------------------------------------------------------


def test_context_is_better_at_equal_bits(rows, context, fitted):
    alone = VQAE(SPEC, **QUICK).fit([rows])
    assert alone.bits_per_label() == fitted.bits_per_label()
    assert (
        losses(rows, again(fitted, rows, context)).mean() < 0.4 * losses(rows, again(alone, rows, None)).mean()
    )


def test_codes_say_more_than_the_context_alone(rows, context, fitted):
    assert losses(rows, again(fitted, rows, context)).mean() < 0.7 * losses(rows, context).mean()


def test_what_the_context_moves_the_rows_move_with(rows, context, fitted):
    """Codes are of the difference: another item with the same differences has nearly the same codes."""
    codes = fitted.encode(rows, context)["index"]
    changed = fitted.encode(rows + context.flip(0), context + context.flip(0))["index"]
    assert (codes == changed).float().mean() > 0.5


def test_rows_of_other_items_are_coded_as_well(fitted):
    rows, context = some_rows(seed=0)
    held_out, held_context = some_rows(seed=1)
    assert (
        losses(rows, again(fitted, rows, context)).mean()
        < losses(held_out, again(fitted, held_out, held_context)).mean()
    )
    assert torch.isfinite(again(fitted, held_out, torch.zeros_like(held_out))).all()


def test_blocks_of_rows_and_contexts_need_not_be_cut_alike(rows, context, fitted):
    other = VQAE(SPEC, **QUICK, **CONTEXT).fit(iter(rows.split(37)), contexts=iter(context.split(64)))
    assert all(torch.equal(other.tensors[name], tensor) for name, tensor in fitted.tensors.items())


def test_fit_leaves_rows_and_context_as_they_were(rows, context):
    kept = rows.clone(), context.clone()
    VQAE(SPEC, **{**QUICK, "steps": 2}, **CONTEXT).fit([rows], contexts=[context])
    assert torch.equal(rows, kept[0])
    assert torch.equal(context, kept[1])


def test_encoding_and_decoding_leave_the_context_as_it_was(rows, context, fitted):
    kept = context.clone()
    again(fitted, rows, context)
    assert torch.equal(context, kept)


def test_a_context_that_never_varies(rows):
    same = torch.linspace(-1, 1, CLASSES).expand_as(rows).clone()
    codec = VQAE(SPEC, **QUICK, **CONTEXT).fit([rows], contexts=[same])
    alone = VQAE(SPEC, **QUICK).fit([rows])
    assert losses(rows, again(codec, rows, same)).mean() < 1.3 * losses(rows, again(alone, rows, None)).mean()


@pytest.mark.parametrize(
    "given", [None, torch.zeros(400, CLASSES + 1), torch.zeros(399, CLASSES), torch.zeros(CLASSES)]
)
def test_a_missing_or_wrong_context_is_refused(given, rows, context, fitted):
    found = "none" if given is None else rf"\[{', '.join(map(str, given.shape))}\]"
    message = rf"vqae: codes rows given their item's prototype, and was given {found}; expected context of \[400, 16\]"
    codes = fitted.encode(rows, context)
    with pytest.raises(CodecError, match=message):
        fitted.encode(rows, given)
    with pytest.raises(CodecError, match=message):
        fitted.decode(codes, given)
    with pytest.raises(CodecError, match=message):
        VQAE(SPEC, **QUICK, **CONTEXT).fit([rows], contexts=None if given is None else [given])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_context_that_is_not_finite_is_refused(value, rows, context, fitted):
    broken = context.clone()
    broken[7, 3] = value
    with pytest.raises(CodecError, match=r"row 7 .*nan or inf"):
        fitted.encode(rows, broken)
    with pytest.raises(CodecError, match=r"nan or inf"):
        VQAE(SPEC, **QUICK, **CONTEXT).fit([rows], contexts=[broken])


def test_context_for_a_codec_without_is_refused(rows, context):
    codec = VQAE(SPEC, **{**QUICK, "steps": 2}).fit([rows])
    with pytest.raises(CodecError, match=r"was given context, but is set to take none \(context=false\)"):
        codec.encode(rows, context)
    with pytest.raises(CodecError, match="was given context, but is set to take none"):
        codec.decode(codec.encode(rows), context)
    with pytest.raises(CodecError, match="was given context, but is set to take none"):
        VQAE(SPEC, **QUICK).fit([rows], contexts=[context])


def test_probabilities_at_a_temperature_are_decoded_at_it(rows, context):
    spec = LabelSpec(CLASSES, "probs", 4.0)
    probs = convert(rows, SPEC, spec)
    codec = VQAE(spec, **QUICK, **CONTEXT).fit([probs], contexts=[context])
    decoded = again(codec, probs, context)
    torch.testing.assert_close(decoded.exp().sum(1), torch.ones(len(rows)))
    assert codec.gives == LabelSpec(CLASSES, "log_probs", 4.0)
    assert losses(rows, centred_logits(decoded, codec.gives)).mean() < 0.7 * losses(rows, context).mean()


# -- stages --------------------------------------------------------------------------------------------------


def test_stages_refine_each_other(staged, rows, context):
    codes = staged.encode(rows, context)
    assert [(a.name, a.stage, a.bits) for a in staged.codes] == [
        ("index", 1, 3),
        ("index_2", 2, 3),
        ("index_3", 3, 3),
    ]
    found = []
    for n in (1, 2, 3):
        few = staged.first_stages(n)
        assert (few.n_stages, few.bits_per_label()) == (n, 6 * n)
        first = {a.name: codes[a.name] for a in few.codes}
        found.append(losses(rows, few.decode(first, context)).mean())
    assert found[0] > 1.1 * found[1] > 1.1 * 1.05 * found[2]


def test_first_stages_are_codecs_of_their_own(staged, rows, context):
    codes = staged.encode(rows, context)
    few = staged.first_stages(2)
    loaded = make_codec("vqae", SPEC, few.get_config()).load_state(few.state())
    assert torch.equal(loaded.decode(codes, context), few.decode(codes, context))
    assert not few.can_encode
    assert not few.encoder_state()
    assert few.first_stages(1).state()["codebooks"].shape == (2, 8, 3)
    assert torch.equal(
        few.first_stages(1).decode(codes, context), staged.first_stages(1).decode(codes, context)
    )
    assert staged.first_stages(3) is staged
    assert VQAE(SPEC, stages=4).first_stages(2) == VQAE(SPEC, stages=2)
    assert "stages" not in staged.first_stages(1).get_config()


@pytest.mark.parametrize("n", [0, 4, -1])
def test_stages_that_are_not_there_are_refused(staged, n):
    with pytest.raises(CodecError, match=f"vqae: the codes have 3 stages; {n} were asked for"):
        staged.first_stages(n)


def test_at_bits_shares_the_bits_among_the_stages():
    codec = VQAE.at_bits(SPEC, 96, stages=3)
    assert (codec.stages, codec.bits_per_label()) == (3, 96)
    with pytest.raises(CodecError, match="asked for"):
        VQAE.at_bits(SPEC, 2, stages=3)


def test_at_bits_says_what_was_asked_for_where_there_are_stages():
    with pytest.raises(CodecError, match=r"vqae: 5 bits a label were asked for, but the least is 6"):
        VQAE.at_bits(SPEC, 5, stages=3, k=4)


# -- search --------------------------------------------------------------------------------------------------


def with_search(codec: VQAE, n: int) -> VQAE:
    import dataclasses

    return dataclasses.replace(codec, search=n).with_tensors(codec.tensors)


@pytest.mark.parametrize("n_candidates", [1, 3, 8, 50])
@pytest.mark.parametrize("which", ["alone", "fitted"])
def test_searched_codes_are_never_worse_than_the_nearest(which, n_candidates, rows, context, fitted):
    codec, given = fitted, context
    if which == "alone":
        codec, given = VQAE(SPEC, **{**QUICK, "steps": 30}).fit([rows]), None
    nearest_B = losses(rows, again(codec, rows, given))
    searched_B = losses(rows, again(with_search(codec, n_candidates), rows, given))
    assert (searched_B <= nearest_B * (1 + 1e-4) + 1e-3).all()
    if n_candidates > 1:
        assert searched_B.mean() < 0.98 * nearest_B.mean()


def test_more_candidates_find_no_less(rows, context, fitted):
    found = [losses(rows, again(with_search(fitted, n), rows, context)).mean() for n in (0, 2, 8)]
    assert found[0] > found[1] >= found[2] * 0.999


def test_a_search_of_all_codewords_of_one_slot_is_exhaustive(rows, context):
    codec = VQAE(SPEC, **{**QUICK, "slots": 1, "steps": 30}, **CONTEXT).fit([rows], contexts=[context])
    codes = torch.arange(8, dtype=torch.uint8).repeat(len(rows), 1)
    all_BK = torch.stack(
        [losses(rows, codec.decode({"index": codes[:, k, None]}, context)) for k in range(8)], 1
    )
    found_B = losses(rows, again(with_search(codec, 8), rows, context))
    torch.testing.assert_close(found_B, all_BK.min(1).values, atol=1e-3, rtol=1e-4)


def test_rows_that_are_told_badly_are_searched_among_more(rows, context, fitted, monkeypatch):
    codec = with_search(fitted, 1)
    monkeypatch.setattr(search, "BAD", float("inf"))
    few_B = losses(rows, again(codec, rows, context))
    at = float(few_B.median()) / 3  # `losses` are sums over three temperatures
    monkeypatch.setattr(search, "BAD", at)
    more_B = losses(rows, again(codec, rows, context))
    bad_B = few_B / 3 > at
    assert torch.equal(more_B[~bad_B], few_B[~bad_B])
    assert (more_B[bad_B] <= few_B[bad_B] + 1e-3).all()
    assert more_B[bad_B].mean() < 0.98 * few_B[bad_B].mean()


def test_the_loss_above_the_least_is_the_kl(rows):
    decoded_BMC = rows.unsqueeze(1) + 0.5 * torch.randn(
        400, 3, CLASSES, generator=torch.Generator().manual_seed(0)
    )
    temperatures = (1.0, 4.0, 20.0)
    loss = search.Loss.of(rows, temperatures)
    found_BM = loss(decoded_BMC - loss.top_B1.unsqueeze(1), torch.empty_like(decoded_BMC))
    kl_BM = torch.stack([losses(rows, decoded_BMC[:, m]) for m in range(3)], 1)
    assert ((found_BM - loss.least_B.unsqueeze(1)) - kl_BM).abs().max() < 0.02


def test_large_logits_do_not_overflow_the_search():
    rows, context = some_rows()
    codec = VQAE(SPEC, **QUICK, **CONTEXT, search=4).fit([60 * rows], contexts=[60 * context])
    assert torch.isfinite(again(codec, 60 * rows, 60 * context)).all()
    searched, nearest = (
        losses(60 * rows, again(c, 60 * rows, 60 * context)).mean() for c in (codec, with_search(codec, 0))
    )
    assert searched <= nearest


def test_chunks_of_the_search_change_nothing(monkeypatch, rows, context, fitted):
    codec = with_search(fitted, 4)
    whole = codec.encode(rows, context)["index"]
    monkeypatch.setattr(search, "CHUNK_ENTRIES", 700)
    assert (codec.encode(rows, context)["index"] == whole).float().mean() > 0.99
    assert codec.encode(rows[:0], context[:0])["index"].shape == (0, 2)


def test_search_in_stages_is_better_at_every_stage(staged, rows, context):
    searched = with_search(staged, 6)
    nearest_codes, codes = (codec.encode(rows, context) for codec in (staged, searched))
    for n in (1, 2, 3):
        few = staged.first_stages(n)
        assert (
            losses(rows, few.decode(codes, context)).mean()
            < losses(rows, few.decode(nearest_codes, context)).mean()
        )


def test_codes_of_a_search_are_below_k(rows, context, fitted):
    (array,) = fitted.codes
    codes = with_search(fitted, 50).encode(rows, context)
    assert int(code_values(codes["index"], array.bits).max()) < fitted.k
    assert codes["index"].dtype == torch.uint8


def test_a_fit_for_a_search_is_for_its_codes(rows, context):
    """The second phase sees the codes that encoding will choose."""
    trained = VQAE(SPEC, **QUICK, **CONTEXT, search=4).fit([rows], contexts=[context])
    later = with_search(VQAE(SPEC, **QUICK, **CONTEXT).fit([rows], contexts=[context]), 4)
    assert (
        losses(rows, again(trained, rows, context)).mean()
        < 1.1 * losses(rows, again(later, rows, context)).mean()
    )


def test_stored_and_working_tensors_are_each_others_inverse(staged):
    stored = nets.stored(nets.working(staged.tensors))
    assert stored.keys() == staged.tensors.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in staged.tensors.items())

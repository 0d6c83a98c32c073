from __future__ import annotations

import dataclasses

import pytest
import torch

from softpack.codecs.klt import KLT, wide_search
from softpack.codecs.klt.axes import analysis
from softpack.codecs.klt.levels import MOST_BITS, Sample, bits_of
from softpack.codecs.spaces import centred_logits
from softpack.errors import CodecError
from softpack.records import LabelSpec
from softpack.testing import check_codec, random_rows

SPEC = LabelSpec(400)


@pytest.fixture(scope="module", name="rows_BC")
def rows():
    """Rows [300, 400] of rank 24, half of whose variance lies in 300 classes that hardly have any mass."""
    g = torch.Generator().manual_seed(3)
    hidden_BD = torch.randn(300, 24, generator=g)
    matrix_DC = torch.randn(24, 400, generator=g) * 0.7
    matrix_DC[:12, 100:], matrix_DC[12:, :100] = 0, 0
    return hidden_BD @ matrix_DC - 12.0 * (torch.arange(400) >= 100)


def kl(codec, rows_BC):
    decoded_BC = codec.decode(codec.encode(rows_BC))
    teacher_BC = torch.log_softmax(rows_BC, 1)
    return float((teacher_BC.exp() * (teacher_BC - torch.log_softmax(decoded_BC, 1))).sum(1).mean())


def fitted(rows_BC, **settings):
    settings = {"bits": 40.0, "temperatures": "1", "axis_price": 1e-4, **settings}
    return KLT(SPEC, **settings).fit([rows_BC], n_rows=10_000)


@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
@pytest.mark.parametrize("search", [0, 2])
def test_keeps_the_contract(space, search):
    spec = LabelSpec(50, space, 1.0 if space == "logits" else 4.0)
    check_codec(KLT(spec, bits=30.0, search=search, weighted=True), random_rows(spec, 100))


def test_weights_spend_bits_where_the_mass_is(rows_BC):
    plain, weighted = (fitted(rows_BC, search=0, weighted=weighted) for weighted in (False, True))
    assert kl(weighted, rows_BC) < 0.6 * kl(plain, rows_BC)


def test_the_search_leaves_less_kl_at_the_same_bits(rows_BC):
    nearest, searched = (fitted(rows_BC, search=rounds, weighted=True) for rounds in (0, 3))
    assert kl(searched, rows_BC) < 0.9 * kl(nearest, rows_BC)


def test_very_many_classes_are_searched_without_weights_too(rows_BC, monkeypatch):
    nearest = fitted(rows_BC, search=0)
    monkeypatch.setattr(wide_search, "MOST_CLASSES", 399)
    assert kl(fitted(rows_BC, search=3), rows_BC) < kl(nearest, rows_BC)


def test_rows_are_searched_alike_however_many_come_at_once(rows_BC, monkeypatch):
    codec = fitted(rows_BC, weighted=True)
    together = codec.decode(codec.encode(rows_BC[:40]))
    monkeypatch.setattr(wide_search, "CHUNK", 7 * 400)
    apart = codec.decode(codec.encode(rows_BC[:40]))
    assert float(((together - apart).abs().amax(1) < 1e-4).float().mean()) > 0.9  # but for ties


def test_the_search_never_ends_above_where_it_began(rows_BC):
    codec = fitted(rows_BC, weighted=True, search=3)
    levels, axes_RC = codec._levels, codec._transform.axes_RC
    logits_BC = centred_logits(rows_BC, SPEC)
    base_BC = codec._base(None, len(rows_BC))
    start_RB = levels.nearest(((logits_BC - base_BC) @ codec._analysis).T.contiguous())
    found_RB = wide_search.best_codes(start_RB, logits_BC, base_BC, axes_RC, levels, [1.0], 3, True)
    axes = wide_search._Axes.of(axes_RC, levels, 1.0, 1)

    def total(code_RB):
        value_BR = levels.values().gather(1, code_RB).T
        decoded_BC = torch.log_softmax(base_BC + value_BR @ axes_RC, 1)
        teacher_BC = torch.log_softmax(logits_BC, 1)
        return (teacher_BC.exp() * (teacher_BC - decoded_BC)).sum(1) + axes.cost(code_RB.T)

    assert bool((total(found_RB) <= total(start_RB) + 1e-4).all())


def test_weighted_analysis_is_of_least_weighted_error_and_sees_no_constant(rows_BC):
    codec = fitted(rows_BC, weighted=True)
    axes_RC, weight_C = codec._transform.axes_RC, codec.tensors["weight"]
    analysis_CR = analysis(axes_RC, weight_C)

    coefficients_BR = rows_BC @ analysis_CR
    torch.testing.assert_close((rows_BC + 7) @ analysis_CR, coefficients_BR, rtol=1e-3, atol=1e-3)
    left_BC = rows_BC - coefficients_BR @ axes_RC
    left_BC = left_BC - (left_BC @ weight_C)[:, None]
    assert float(((left_BC * weight_C) @ axes_RC.T).abs().max()) < 1e-2 * float(coefficients_BR.abs().max())


def test_bits_by_thresholds_are_those_that_made_them():
    coefficients_RB = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    levels, counts_RL = Sample(coefficients_RB).fit(0.5, 64)
    levels = levels.priced(counts_RL)
    often_RL = (counts_RL > 20) & levels.inside()
    bits_RL = bits_of(counts_RL)
    bits_RL = bits_RL - bits_RL.amin(1, keepdim=True)
    torch.testing.assert_close(levels.bits()[often_RL], bits_RL[often_RL], rtol=0.05, atol=0.1)
    assert float(levels.bits()[often_RL].max()) < MOST_BITS


def test_files_say_it_where_it_is_set(rows_BC):
    assert "weighted" not in KLT(SPEC).get_config()
    assert KLT(SPEC).minor == 1
    codec = fitted(rows_BC, search=0, weighted=True)
    assert codec.get_config()["weighted"] is True
    assert codec.minor == 5
    assert set(codec.encoder_state()) == {"threshold", "weight"}


def test_a_state_without_weights_is_refused(rows_BC):
    codec = fitted(rows_BC, search=0, weighted=True)
    tensors = {name: tensor for name, tensor in codec.tensors.items() if name != "weight"}
    with pytest.raises(CodecError, match="weight"):
        codec.load_state(tensors)
    plain = dataclasses.replace(codec, weighted=False)
    with pytest.raises(CodecError, match="weight"):
        plain.load_state(codec.tensors)
    assert not codec.load_state(codec.state()).can_encode


def test_a_setting_that_is_no_boolean_is_refused():
    with pytest.raises(CodecError, match="klt: weighted is 'yes'; expected true or false"):
        KLT(SPEC, weighted="yes")

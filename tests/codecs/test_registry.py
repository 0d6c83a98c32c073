from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch

from softpack.codecs import registry
from softpack.codecs.quantize import Quantize
from softpack.codecs.raw import Raw
from softpack.codecs.registry import codec_class, codec_ids, make_codec
from softpack.errors import CodecError, UnsupportedError
from softpack.records import LabelSpec
from softpack.testing import check_codec
from softpack.testing.codec_checks import check_batches


@dataclass(frozen=True)
class Foreign(Raw):
    codec_id: ClassVar[str] = "foreign"


@dataclass(frozen=True)
class Misnamed(Raw):
    codec_id: ClassVar[str] = "other"


@pytest.fixture
def installed(monkeypatch):
    """Stand in for a package that brings codecs."""
    entries = [
        EntryPoint(name, f"{__name__}:{name}", registry.ENTRY_POINTS)
        for name in ("foreign", "misnamed", "not_one")
    ]
    classes = {"foreign": Foreign, "misnamed": Misnamed, "not_one": dict}
    monkeypatch.setattr(EntryPoint, "load", lambda entry: classes[entry.name])
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda group, name=None: [entry for entry in entries if name in (None, entry.name)],
    )


@pytest.mark.parametrize("codec_id", ["raw", "quantize", "topk", "lowrank"])
def test_built_in_codecs_go_by_their_ids(codec_id):
    assert codec_class(codec_id).codec_id == codec_id
    assert codec_id in codec_ids()


def test_make_codec_takes_what_get_config_gave(spec):
    codec = Quantize(spec, bits=3)

    assert make_codec("quantize", spec, codec.get_config()) == codec


def test_an_unknown_setting_is_refused_with_those_there_are(spec):
    with pytest.raises(CodecError, match="codec quantize has no setting bit; its settings are bits"):
        make_codec("quantize", spec, {"bit": 3})


@pytest.mark.parametrize("name", ["spec", "tensors"])
def test_a_config_cannot_reach_past_the_settings(name, spec):
    with pytest.raises(CodecError, match="its settings are bits"):
        make_codec("quantize", spec, {name: None})


@pytest.mark.parametrize(
    ("codec_id", "text", "expected"),
    [
        ("quantize", {"bits": "3"}, {"bits": 3}),
        ("topk", {"tail": "bucket", "tail_temperature": "4"}, {"tail": "bucket", "tail_temperature": 4.0}),
        ("raw", {"dtype": "bf16"}, {"dtype": "bf16"}),
    ],
)
def test_settings_may_be_text(codec_id, text, expected, spec):
    config = make_codec(codec_id, spec, text).get_config()

    assert {name: config[name] for name in expected} == expected


def test_text_that_is_no_number_is_refused(spec):
    with pytest.raises(CodecError, match="codec quantize: bits is 'few'; expected a whole number"):
        make_codec("quantize", spec, {"bits": "few"})


def test_a_target_chooses_what_is_left_open(spec):
    codec = make_codec("lowrank", spec, {"bits": 4}, target_bits=42)

    assert codec.get_config() == {"rank": 10, "bits": 4}


def test_an_unknown_codec_is_refused_with_what_to_do(spec):
    with pytest.raises(
        UnsupportedError, match=r"codec 'zip' is not known here; found raw, .*Install the package"
    ):
        make_codec("zip", spec, {})


def test_installed_codecs_are_found_and_checked_like_any(installed, spec, logits_BC):
    assert "foreign" in codec_ids()
    assert codec_class("foreign") is Foreign
    check_codec(Foreign(spec), logits_BC)


@dataclass(frozen=True)
class OfItsBatch(Raw):
    """Codes rows less a share of what the others of their batch are."""

    def encode(self, rows_BC, context_BC=None):
        return super().encode(rows_BC - rows_BC.mean(dim=0) / 4 if len(rows_BC) else rows_BC)


@dataclass(frozen=True)
class NowAndThen(Raw):
    """Codes the first row of an odd batch as if it knew nothing of it."""

    def encode(self, rows_BC, context_BC=None):
        is_first = torch.arange(len(rows_BC)) < len(rows_BC) % 2
        return super().encode(rows_BC.masked_fill(is_first[:, None], 0.5))


@pytest.mark.parametrize("codec", [OfItsBatch, NowAndThen])
def test_a_codec_whose_codes_depend_on_the_batch_is_told(codec, logits_BC):
    rows_BC = logits_BC[: len(logits_BC) // 2 * 2]

    with pytest.raises(AssertionError, match=r"batches of 1: .*expected"):
        check_batches(codec(LabelSpec(rows_BC.shape[1])), rows_BC)


@pytest.mark.parametrize("codec_id", ["misnamed", "not_one"])
def test_an_entry_point_must_give_a_codec_of_its_name(installed, codec_id):
    with pytest.raises(CodecError, match=f"entry point '{codec_id}' gives .*; expected a softpack Codec"):
        codec_class(codec_id)

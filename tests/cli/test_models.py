"""Fit once and encode often; from file to file."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

import softpack
from softpack.cli import main
from softpack.rate import control


def test_a_fitted_model_encodes_as_its_own_fit_does(run, here):
    facts = run("fit logits.npz -o codec.spkm --codec lowrank --set rank=4 --set bits=6 --json").json
    assert (facts["codec"], facts["rows"], facts["config"]) == ("lowrank", 0, {"bits": 6, "rank": 4})
    assert "none: a model for `encode --model`" in run("info codec.spkm").out
    run("encode logits.npz -o by_model.spk --model codec.spkm")
    run("encode logits.npz -o direct.spk --codec lowrank --set rank=4 --set bits=6")
    assert (here / "by_model.spk").read_bytes() == (here / "direct.spk").read_bytes()


def test_a_model_encodes_another_source(run, here, labels_NVC):
    run("fit logits.npz -o codec.spkm --codec lowrank --set rank=9 --set bits=8")
    np.save(here / "other.npy", labels_NVC[::-1, :2] + np.float16(0.1))
    facts = run("encode other.npy -o other.spk --model codec.spkm --json").json
    assert (facts["items"], facts["views"]) == (6, 2)
    assert run("eval other.spk --against other.npy --json").json["temperatures"]["1"]["kl_mean"] < 0.05


def test_options_that_a_model_settles(refused, run):
    run("fit logits.npz -o codec.spkm --codec lowrank --set rank=4")
    for option in ("--codec raw", "--set rank=2", "--target-bits 8", "--temperature 4"):
        said = refused(f"encode logits.npz -o new.spk --model codec.spkm {option}", code=2)
        assert f"{option.split()[0]} cannot go with --model: the model says it already" in said


def test_a_model_of_other_rows(refused, run, here, labels_NVC):
    run("fit logits.npz -o codec.spkm --codec lowrank --set rank=4")
    np.save(here / "wide.npy", np.concatenate([labels_NVC, labels_NVC], axis=-1))
    assert refused("encode wide.npy -o new.spk --model codec.spkm") == (
        "softpack: codec.spkm: was fitted to logits of 10 classes; the source holds logits of 20 classes. Fit a model "
        "to rows like these: `softpack fit SOURCE -o MODEL.spkm`\n"
    )
    said = refused("encode probs.npz -o new.spk --model codec.spkm")
    assert "the source holds probs of 10 classes at temperature 4" in said


def test_a_file_without_its_encoder_is_no_model(refused, run):
    run("encode logits.npz -o small.spk --set slots=2 --set steps=2")
    assert refused("encode logits.npz -o new.spk --model small.spk") == (
        "softpack: small.spk: holds no encoder; give the .spkm that `softpack fit` wrote\n"
    )


def test_transcode_without_a_codec_keeps_the_codes(run, here):
    run("encode logits.npz -o small.spk --codec lowrank --set rank=3")
    run("transcode small.spk -o whole.spk")
    for name in ("small", "whole"):
        run(f"decode {name}.spk -o {name}.npy")
    assert (here / "small.npy").read_bytes() == (here / "whole.npy").read_bytes()
    assert run("transcode small.spk -o bare.spk --no-replay --json").json["columns"] == ["target"]


def test_transcode_to_another_codec(run):
    facts = run("transcode labels.spk -o small.spk --codec topk --set k=3 --json").json
    assert (facts["codec"], facts["rows"], facts["columns"][0]) == ("topk", 24, "crop_xywh")
    run("fit logits.npz -o codec.spkm --codec quantize --set bits=5")
    assert run("transcode labels.spk -o by_model.spk --model codec.spkm --json").json["config"] == {"bits": 5}
    assert run("transcode labels.spk -o at.spk --codec quantize --target-bits 72 --json").json["config"] == {
        "bits": 4
    }


@pytest.mark.parametrize(
    "options", ["--set k=3", "--temperature 4", "--seed 1", "--device cpu", "--set k=3 --device cpu"]
)
def test_what_only_a_codec_has_a_use_for_is_no_transcoding(refused, options):
    said = refused(f"transcode labels.spk -o small.spk {options}", code=2)
    names = ", ".join(word for word in options.split() if word.startswith("--"))
    assert f"{names}: of use to a codec alone; say which, such as --codec vqae" in said


@pytest.mark.parametrize("option", ["--from spk", "--space logits", "--source-temperature 4"])
def test_an_spk_says_itself_what_a_source_must_be_asked(refused, option):
    assert f"No such option '{option.split()[0]}'" in refused(
        f"transcode labels.spk -o new.spk {option}", code=2
    )


def test_transcode_takes_an_spk_of_any_name_and_nothing_else(refused, run, here):
    (here / "labels.spk").rename(here / "labels")
    assert run("transcode labels -o small.spk --codec topk --set k=3 --json").json["codec"] == "topk"
    assert "logits.npz is not an .spk file" in refused("transcode logits.npz -o new.spk --codec raw")


def test_a_model_has_nothing_to_decode(refused, run):
    run("fit logits.npz -o codec.spkm --codec raw")
    assert refused("decode codec.spkm -o back.npz") == (
        "softpack: codec.spkm: holds no labels; expected some to decode; a .spkm is a model without them\n"
    )


def test_an_appendable_file_grows_without_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows_NVC = np.random.default_rng(0).normal(size=(40, 2, 12)).astype("f2")
    np.save("rows.npy", rows_NVC)
    options = ["--set", "slots=2", "--set", "steps=2", "--appendable"]
    assert CliRunner().invoke(main, ["encode", "rows.npy", "-o", "a.spk", *options]).exit_code == 0

    with softpack.append("a.spk") as writer:
        writer.append(rows_NVC[:, 0], item=np.arange(40), view=2)

    assert softpack.open("a.spk").shape == (40, 3, 12)


@pytest.fixture
def staged(run):
    fast = "--set slots=8 --set k=16 --set d_c=1 --set d_h=4 --set stages=2 --set steps=5"
    assert run(f"encode logits.npz -o two.spk --codec vqae {fast} --no-replay").code == 0
    return run("info two.spk --json").json["marginal_bits_per_label"]


def test_transcode_says_when_not_even_the_first_stage_fits(run, staged, monkeypatch):
    monkeypatch.setattr(control, "CODECS", ("klt",))
    ran = run("transcode two.spk -o one.spk --target-bits 24 --json")
    assert "two.spk: its first stage takes more than that: labels are decoded and encoded again" in ran.err


def test_transcode_refuses_what_stages_that_are_kept_have_no_use_for(staged, refused):
    said = refused(f"transcode two.spk -o one.spk --target-bits {staged - 1} --seed 3", code=2)
    assert "--seed: of no use here: the stages that are kept stay as they are" in said

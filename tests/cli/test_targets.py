"""Targets on the command line: what is asked for, what is tried, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import softpack
from softpack.rate import control


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(control, "QUICK_STEPS", 5)
    monkeypatch.setattr(control, "full_steps", lambda n_rows: 20)
    monkeypatch.setattr(control, "SEARCH", 1)


@pytest.fixture
def views(here, views_of_items):
    """A source of 50 x 40 rows beside the others: so many that a file's own parts are few bits a label."""
    np.savez(here / "views.npz", **views_of_items(items=50, views=40, classes=10, mixed=0.3))


@pytest.mark.parametrize(
    "options",
    ["--target-bits 64 --target-kl 0.1", "--target-kl 0.1 --budget 4KB", "--target-bits 64 --budget 4KB"],
)
@pytest.mark.parametrize(
    "command", ["encode logits.npz -o new.spk", "fit logits.npz -o new.spkm", "transcode labels.spk -o new.spk"]
)
def test_contradictory_targets_are_wrong_usage(refused, command, options):
    first, second = (word for word in options.split() if word.startswith("--"))
    assert f"{first} and {second} cannot go together: give one target" in refused(
        f"{command} {options}", code=2
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--budget none", "--budget: 'none' is no size; expected one such as 400KB, 64MB or 1.5GiB"),
        ("--budget -4KB", "is no size"),
        ("--budget 0", "is no size"),
        ("--target-bits 0", "expected a positive number"),
        ("--target-kl -1", "expected a positive number"),
        ("--target-kl nan", "expected a positive number"),
        ("--target-bits inf", "expected a positive number"),
    ],
)
def test_targets_that_are_none(refused, options, message):
    assert message in refused(f"encode logits.npz -o new.spk {options}", code=2)


@pytest.mark.parametrize("option", ["--target-bits 64", "--target-kl 0.1", "--budget 4KB"])
def test_a_model_has_no_target(run, refused, option):
    run("fit logits.npz -o codec.spkm --codec raw")
    said = refused(f"encode logits.npz -o new.spk --model codec.spkm {option}", code=2)
    assert f"{option.split()[0]} cannot go with --model: the model says it already" in said


def test_bits_are_met_and_what_was_tried_is_said(views, run, here):
    ran = run("encode views.npz -o new.spk --target-bits 60 --json")
    assert ran.json["codec"] in ("vqae", "klt")
    assert ran.json["marginal_bits_per_label"] == pytest.approx(60, rel=0.1)  # of so small a file
    tried = [line for line in ran.err.splitlines() if line.startswith("softpack: tried ")]
    assert any("(at that rate)" in line for line in tried)
    assert "(in full)" in tried[-1]
    assert "KL " in tried[0]
    assert "at T=1/4/20" in tried[0]


def test_a_divergence_is_met_at_the_first_temperature(views, run, here):
    run("encode views.npz -o new.spk --codec klt --target-kl 0.05 --temperature 4 --temperature 1")
    found = softpack.fidelity(here / "new.spk", here / "views.npz", temperatures=(4,))
    assert found.temperatures[4.0].kl_mean <= 0.05


def test_any_codec_has_a_budget(views, run, here):
    facts = run("encode views.npz -o new.spk --codec lowrank --budget 14KB --no-replay --json").json
    assert facts["codec"] == "lowrank"
    assert (here / "new.spk").stat().st_size == facts["bytes"] <= 14_000


def test_a_budget_that_cannot_be_met_says_so(views, refused):
    said = refused("encode views.npz -o new.spk --budget 1KB")
    assert "a budget of 1,000 bytes cannot be met" in said.splitlines()[-1]
    assert "--no-replay" in said


def test_a_divergence_that_cannot_be_met_says_the_least(views, refused_after_trials):
    said = refused_after_trials("encode views.npz -o new.spk --codec lowrank --set rank=1 --target-kl 1e-9")
    assert "a KL of 1e-09 at T=1 cannot be met: the least found is" in said


@pytest.fixture
def refused_after_trials(here, run_any):
    """The last line of what a command says that tries, and then refuses; nothing may be left behind."""

    def fail(line):
        before = sorted(path.name for path in here.iterdir())
        ran = run_any(line)
        assert (ran.code, ran.out, ran.error) == (1, "", None), ran
        assert sorted(path.name for path in here.iterdir()) == before
        last = ran.err.splitlines()[-1]
        assert last.startswith("softpack: ")
        return last

    return fail


def test_settings_of_a_codec_stay(views, run):
    facts = run(
        "encode views.npz -o new.spk --codec vqae --set context=false --set slots=8 --set steps=4 "
        "--target-bits 40 --json"
    ).json
    assert (facts["config"]["slots"], facts["config"]["steps"]) == (8, 4)
    assert "context" not in facts["config"]


def test_fit_has_targets_and_its_model_encodes(views, run):
    run("fit views.npz -o codec.spkm --codec klt --set context=true --target-bits 60")
    facts = run("encode views.npz -o new.spk --model codec.spkm --json").json
    assert facts["marginal_bits_per_label"] == pytest.approx(60, rel=0.1)
    assert facts["config"]["context"]


def test_info_and_ledger_know_context(views, run):
    run("encode views.npz -o new.spk --codec vqae --set context=true --set steps=4 --set slots=2")
    assert run("info new.spk --json").json["format"] == "spk 1.1"
    entries = run("ledger new.spk --format json").json["entries"]
    assert {"item", "model", "codes"} <= {entry["scope"] for entry in entries}
    assert run("verify new.spk --json").json


def test_transcode_to_a_target(views, run):
    run("encode views.npz -o big.spk --codec raw")
    facts = run("transcode big.spk -o small.spk --codec klt --target-bits 60 --json").json
    assert facts["marginal_bits_per_label"] == pytest.approx(60, rel=0.1)
    assert "mix_item" in facts["columns"]


def test_bench_draws_curves(views, run, refused, here, monkeypatch):
    pytest.importorskip("matplotlib")
    ran = run("bench rd views.npz -o rd --codecs raw,quantize --temperature 1")
    assert sorted(path.name for path in (here / "rd").iterdir()) == [
        "rd.csv", "rd_all_in.png", "rd_all_in.svg", "rd_marginal.png", "rd_marginal.svg",
    ]  # fmt: skip
    assert "fp16" in ran.out
    assert "KL T=1" in ran.out.splitlines()[0]
    assert "rd/rd.csv" in ran.out.splitlines()[-1]
    again = run("bench rd views.npz -o rd --codecs raw,quantize --temperature 1")
    assert again.err == ""
    assert again.out == ran.out
    assert "rd.csv: is of views.npz" in refused("bench rd logits.npz -o rd --codecs raw --temperature 1")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("--codecs none", 1, "codec 'none' is not known here"),
        ("--codecs raw --temperature 0", 2, "expected a positive number"),
    ],
)
def test_bench_refuses(refused, options, code, message):
    assert message in refused(f"bench rd logits.npz -o rd {options}", code=code)

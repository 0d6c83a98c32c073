"""`--max-kl`: asked for, kept, said, and lost where it cannot be kept."""

from __future__ import annotations

import re

import numpy as np
import pytest

import softpack


def encode(run, more="", out="new.spk"):
    return run(
        f"encode logits.npz -o {out} --codec quantize --set bits=1 --max-kl 0.1 {more} --force --json"
    ).json


def test_info_says_what_is_promised_and_what_it_takes(run):
    facts = encode(run)
    info = run("info new.spk --json").json
    assert {name: facts[name] for name in info} == info
    assert (facts["format"], facts["max_kl"], facts["max_kl_temperatures"]) == ("spk 1.2", 0.1, [1, 4, 20])
    assert 0 < facts["corrected_rows"] <= facts["rows"] < facts["corrections"]
    assert facts["correction_bits_per_label"] > 1
    said = run("info new.spk").out
    assert re.search(r"promise +no row worse than KL 0\.1 at T = 1, 4, 20\n", said)
    assert re.search(r"corrected +\d+ of 24 labels, by \d+ corrections \(\d+\.\d\d bits a label\)\n", said)


def test_info_of_a_file_without_a_promise(run):
    facts = run("info labels.spk --json").json
    assert (facts["max_kl"], facts["max_kl_temperatures"]) == (None, [])
    assert facts["corrected_rows"] == facts["corrections"] == facts["correction_bits_per_label"] == 0
    assert "promise" not in run("info labels.spk").out


def test_eval_confirms_it(run):
    encode(run)
    found = run("eval new.spk --against logits.npz --json").json["temperatures"]
    assert found.keys() == {"1", "4", "20"}
    assert max(at["kl_max"] for at in found.values()) <= 0.1
    run("encode logits.npz -o plain.spk --codec quantize --set bits=1")
    plain = run("eval plain.spk --against logits.npz --json").json["temperatures"]
    assert min(at["kl_max"] for at in plain.values()) > 0.1


def test_it_holds_at_the_temperatures_that_are_named(run):
    facts = encode(run, "--temperature 2 --temperature 9")
    assert facts["max_kl_temperatures"] == [2, 9]
    found = run("eval new.spk --against logits.npz --temperature 2 --temperature 9 --json").json["temperatures"]
    assert max(at["kl_max"] for at in found.values()) <= 0.1
    assert not run("encode logits.npz -o b.spk --codec topk --set k=9 --max-kl 1 --temperature 2").err.count(
        "is not used"
    )


def test_ledger_counts_corrections(run):
    encode(run)
    account = run("ledger new.spk --json").json
    (entry,) = [entry for entry in account["entries"] if entry["what"] == "corrections"]
    assert entry["scope"] == "codes"
    assert entry["bits"] / 24 == run("info new.spk --json").json["correction_bits_per_label"]


def test_with_a_model(run, refused):
    run("fit logits.npz -o codec.spkm --codec lowrank --set rank=2")
    ran = run("encode logits.npz -o new.spk --model codec.spkm --max-kl 0.05 --temperature 3 --json")
    assert (ran.json["max_kl"], ran.json["max_kl_temperatures"]) == (0.05, [3])
    assert "--temperature cannot go with --model" in refused(
        "encode logits.npz -o b.spk --model codec.spkm --temperature 3", code=2
    )


def test_rows_that_are_appended_later_are_held_to_it(run, here, labels_NVC):
    encode(run, "--appendable --no-replay")
    with softpack.append(here / "new.spk") as writer:
        writer.set_items(target=np.zeros(7, int))
        writer.append(labels_NVC[0][:2], item=[6, 6], view=[0, 1])
    more = {"logits": np.concatenate([labels_NVC.reshape(24, -1), labels_NVC[0][:2]])}
    more["item"], more["view"] = np.append(np.arange(24) // 4, [6, 6]), np.append(np.arange(24) % 4, [0, 1])
    np.savez(here / "more.npz", **more)
    found = run("eval new.spk --against more.npz --json").json
    assert found["rows"] == 26
    assert max(at["kl_max"] for at in found["temperatures"].values()) <= 0.1


def test_decode_gives_corrected_labels(run, here):
    encode(run, "--no-replay")
    run("decode new.spk -o out.npy")
    found = np.load(here / "out.npy")
    labels = softpack.open(here / "new.spk")
    np.testing.assert_array_equal(found.reshape(24, -1), labels.read(*labels.cells()).numpy())


def test_transcode_keeps_it_where_codes_stay_whole(run):
    facts = encode(run)
    again = run("transcode new.spk -o again.spk --json")
    assert again.err == ""
    assert [again.json[k] for k in ("max_kl", "corrections")] == [facts["max_kl"], facts["corrections"]]


def test_transcode_says_that_it_is_lost(run):
    encode(run)
    ran = run("transcode new.spk -o again.spk --codec raw --json")
    assert ran.json["max_kl"] is None
    assert (
        "new.spk promises that no row is worse than KL 0.1; the new file does not: its labels were encoded again; "
        "ask for --max-kl"
    ) in ran.err
    ran = run("transcode new.spk -o third.spk --codec topk --set k=5 --max-kl 0.5 --json")
    assert (ran.json["max_kl"], ran.err.count("does not")) == (0.5, 0)


def test_transcode_of_stages_leaves_corrections_out_and_says_so(run):
    staged = "--codec vqae --set slots=2 --set k=4 --set d_c=2 --set d_h=4 --set stages=2 --set steps=5"
    assert run(f"encode logits.npz -o two.spk {staged} --max-kl 0.2 --no-replay --json").json["corrections"]
    whole = run("info two.spk --json").json["marginal_bits_per_label"]
    ran = run(f"transcode two.spk -o one.spk --target-bits {whole - 1} --json")
    assert (ran.code, ran.json["max_kl"], ran.json["corrections"]) == (0, None, 0)
    assert "its corrections were made for all stages" in ran.err


def test_more_bits_than_asked_for_are_said_to_be_those_of_corrections(run):
    ran = run(
        "encode logits.npz -o new.spk --codec quantize --set bits=1 --target-bits 42 --max-kl 0.001 --no-replay"
    )
    assert "bits a label more than asked for" in ran.err
    said = re.search(r"the corrections that --max-kl asks for take ([\d.]+)", ran.err)
    assert said or "the file's own parts" in ran.err
    facts = run("info new.spk --json").json
    over = facts["marginal_bits_per_label"] - 42
    assert bool(said) == (facts["correction_bits_per_label"] > over / 2)


def test_max_kl_needs_a_codec(refused):
    assert "--max-kl: of use to a codec alone; say which, such as --codec vqae" in refused(
        "transcode labels.spk -o new.spk --max-kl 0.3", code=2
    )


@pytest.mark.parametrize("max_kl", ["0", "-1", "nan", "inf", "small"])
def test_promises_that_are_none(refused, max_kl):
    said = refused(f"encode logits.npz -o new.spk --max-kl {max_kl}", code=2)
    assert "Invalid value for '--max-kl'" in said


def test_a_codec_that_loses_classes(refused):
    said = refused("encode logits.npz -o new.spk --codec topk --set k=3 --set tail=zero --max-kl 0.3")
    assert "item 0, view 0 decodes to a probability of zero" in said
    assert "topk with tail=uniform" in said


def test_fit_makes_no_promises(refused):
    assert "No such option" in refused("fit logits.npz -o codec.spkm --max-kl 0.3", code=2)

"""What `info`, `verify`, `eval`, `ledger` and `recover` say, to people and to programs."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest

import softpack

INFO_KEYS = {
    "format", "codec", "items", "views", "classes", "rows", "space", "bytes", "marginal_bits_per_label",
    "all_in_bits_per_label", "ratio_vs_fp16",
}  # fmt: skip


def test_info(run, here):
    facts = run("info labels.spk --json").json
    assert facts.keys() >= INFO_KEYS
    assert (facts["format"], facts["codec"], facts["config"]) == ("spk 1.0", "raw", {"dtype": "fp16"})
    assert (facts["items"], facts["views"], facts["classes"], facts["rows"]) == (6, 4, 10, 24)
    assert facts["space"] == "logits"
    n_bits = 8 * facts["bytes"]
    assert facts["bytes"] == (here / "labels.spk").stat().st_size
    assert facts["all_in_bits_per_label"] == n_bits / 24
    assert facts["ratio_vs_fp16"] == 24 * 10 * 16 / n_bits
    assert facts["marginal_bits_per_label"] < facts["all_in_bits_per_label"]
    said = run("info labels.spk").out
    assert "24 of 6 items x 4 views" in said
    assert "crop_xywh, flip, mix_item" in said


def test_encode_and_transcode_say_what_info_says(run):
    said = run("encode logits.npz -o new.spk --codec topk --set k=3 --json").json
    info = run("info new.spk --json").json
    assert {name: said[name] for name in info} == info
    assert run("transcode new.spk -o again.spk").out == run("info again.spk").out


def test_ledger_sums_to_the_file(run, here):
    account = run("ledger labels.spk --json").json
    n_bits = 8 * (here / "labels.spk").stat().st_size
    assert account["total_bits"] == 8 * account["file_bytes"] == n_bits
    assert sum(entry["bits"] for entry in account["entries"]) == n_bits
    assert all(entry.keys() == {"what", "bits", "scope"} for entry in account["entries"])
    assert account == run("ledger labels.spk --format json").json
    replay = sum(entry["bits"] for entry in account["entries"] if entry["scope"] == "replay")
    assert account["marginal_bits_per_label"] == (n_bits - replay) / 24


def test_ledger_of_several_files_beside_their_images(run, here):
    (here / "photos").mkdir()
    (here / "photos" / "one.png").write_bytes(bytes(1000))
    run("encode logits.npz -o small.spk --codec topk --set k=2")
    both = run("ledger labels.spk small.spk --images photos --json").json
    assert [account["file"] for account in both] == ["labels.spk", "small.spk"]
    assert both[0]["image_bytes"] == 1000
    rows = list(
        csv.DictReader(io.StringIO(run("ledger labels.spk small.spk --images photos --format csv").out))
    )
    for account in both:
        bits = [int(row["bits"]) for row in rows if row["file"] == account["file"] and row["scope"] != "images"]
        assert sum(bits) == account["total_bits"]
    assert "images 1,000 bytes; images and labels" in run("ledger labels.spk --images photos").out


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("table", "the file  "),
        ("markdown", "| the file"),
        ("latex", r"\begin{tabular}"),
        ("csv", "file,what,scope"),
    ],
)
def test_forms_of_a_ledger(run, form, expected):
    assert expected in run(f"ledger labels.spk --format {form}").out


def test_eval(run):
    found = run("eval labels.spk --against logits.npz --json").json
    assert found["temperatures"].keys() == {"1", "4", "20"}
    for divergence in found["temperatures"].values():
        assert divergence == {"kl_mean": 0, "kl_p99": 0, "kl_max": 0}
    assert (found["top1_agreement"], found["rows"]) == (1, 24)


def test_eval_of_lossy_labels_at_given_temperatures(run):
    run("encode logits.npz -o small.spk --codec topk --set k=2")
    found = run("eval small.spk --against logits.npz --temperature 2 --temperature 0.5 --json").json
    assert found["temperatures"].keys() == {"2", "0.5"}
    for divergence in found["temperatures"].values():
        assert 0 < divergence["kl_mean"] < divergence["kl_p99"] <= divergence["kl_max"]
    lines = run("eval small.spk --against labels.spk --temperature 2").out.splitlines()
    assert lines[0].split() == ["T", "KL", "mean", "KL", "p99", "KL", "max"]
    assert lines[2].split()[:2] == ["2", f"{found['temperatures']['2']['kl_mean']:.4f}"]
    assert lines[-1] == "top-1 agreement 100.00% of 24 rows"


def test_eval_says_how_much_was_left_out(run):
    said = run("eval labels.spk --against ragged.npz").out
    assert said.endswith("of 5 rows; 19 more of the file are not in the source\n")


def test_verify_of_a_sound_file(run):
    assert run("verify labels.spk").out.startswith("labels.spk: sound;")
    found = run("verify labels.spk --json").json
    assert (found["ok"], found["problems"], found["lost_rows"], found["n_rows"]) == (True, [], 0, 24)


def test_verify_of_a_damaged_tile(here, run_any, flip_a_code):
    number = flip_a_code(here / "labels.spk")
    ran = run_any("verify labels.spk")
    assert ran.code == 1
    assert ran.out.startswith("labels.spk: DAMAGED: 1 problem; ")
    assert ran.out.endswith(" blocks, 0 of 24 labels can be read\n")
    assert f"block {number} (tile): the payload fails its checksum" in ran.err
    assert "24 labels of items 0 to 5, views 0 to 3, cannot be read" in ran.err
    assert "or `softpack recover FILE` leaves out, in place, what is damaged" in ran.err
    found = run_any("verify labels.spk --json")
    assert (found.code, found.json["ok"], found.json["lost_rows"]) == (1, False, 24)


def test_recover(run, here):
    sound = (here / "labels.spk").read_bytes()
    ran = run("recover labels.spk")
    assert ran.out == "labels.spk: was whole: 24 labels; nothing was changed\n"
    (here / "cut.spk.partial").write_bytes(sound[:-200])
    found = run("recover cut.spk.partial --json").json
    assert (found["path"], found["n_rows"], found["was_whole"]) == ("cut.spk", 24, False)
    assert not (here / "cut.spk.partial").exists()
    assert run("verify cut.spk --json").json["ok"]
    run("decode cut.spk -o back.npz")
    with np.load(here / "back.npz") as back, np.load(here / "logits.npz") as logits:
        np.testing.assert_array_equal(back["logits"], logits["logits"])


def test_recover_says_what_it_leaves_out(run, here, labels_NVC, flip_a_code):
    with softpack.create("tiles.spk", "raw", classes=10, tile=(3, 4)) as writer:
        for item in range(6):
            writer.append(labels_NVC[item], item=item, view=np.arange(4))
    number = flip_a_code(here / "tiles.spk")
    ran = run("recover tiles.spk")
    assert re.fullmatch(r"tiles\.spk: 12 labels given back, [\d,]+ bytes left out\n", ran.out)
    assert ran.err == (
        f"softpack: tiles.spk: left out: 12 labels of items 0 to 2, views 0 to 3 (block {number} (tile): the payload "
        "fails its checksum: the bytes are not those written)\n"
    )
    assert "12 of 6 items x 4 views (12 views missing)" in run("info tiles.spk").out
    assert run("verify tiles.spk --json").json["ok"]
    assert run("recover tiles.spk --json").json == {
        "path": "tiles.spk", "n_rows": 12, "dropped_bytes": 0, "was_whole": True, "lost": [],
    }  # fmt: skip


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_recover_leaves_a_file_without_a_whole_label_alone(refused, here, flip_a_code, how):
    number = flip_a_code(here / "labels.spk")
    if how == "cut":
        path = here / "labels.spk"
        path.write_bytes(path.read_bytes()[:-1])
    assert refused("recover labels.spk") == (
        "softpack: labels.spk: none of its labels is whole: 24 labels of items 0 to 5, views 0 to 3 "
        f"(block {number} (tile): the payload fails its checksum: the bytes are not those written); the file is left "
        "as it is; copy it again from where it is whole, or encode its source again\n"
    )

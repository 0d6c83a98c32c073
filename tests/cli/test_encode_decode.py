"""Arrays in, a file, and arrays out."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import safetensors.numpy

FORMATS = ("npy", "npz", "h5", "safetensors")


def arrays_of(path):
    """Read a file of arrays with nothing of softpack."""
    if path.suffix == ".npy":
        return {"": np.load(path)}
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return {name: values[()] for name, values in file.items()}
    return safetensors.numpy.load_file(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_goes_in_and_comes_out_with_its_columns(run, here, kind, labels_NVC, columns):
    run(f"encode logits.{kind} -o new.spk --codec raw --set dtype=fp16")
    ran = run(f"decode new.spk -o back.{kind}")
    found = arrays_of(here / f"back.{kind}")
    np.testing.assert_array_equal(found.pop("" if kind == "npy" else "logits"), labels_NVC)
    assert ran.out == ""
    if kind != "npy":
        assert found.keys() == columns.keys()
        for name, values in columns.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_a_npy_says_what_is_not_in_it_and_what_keeps_it(run):
    ran = run("decode labels.spk -o back.npy")
    assert ran.err == (
        "softpack: note: back.npy holds the labels alone; not in a .npy: crop_xywh, flip, mix_item, mix_lam, "
        "mix_box_xyxy, source_hw, target. A .npz, .h5 or .safetensors keeps all of it\n"
    )
    ran = run("decode labels.spk -o probs.npy --as probs --temperature 4 --no-replay")
    assert ran.err == (
        "softpack: note: probs.npy holds the labels alone; not in a .npy: target, space (encode it with --space "
        "probs), temperature (--source-temperature 4). A .npz, .h5 or .safetensors keeps all of it\n"
    )
    facts = run("encode probs.npy -o new.spk --codec raw --space probs --source-temperature 4 --json").json
    assert (facts["space"], facts["temperature"]) == ("probs", 4)


@pytest.mark.parametrize(
    "out", ["back.npz", "back.pt", "back.parquet", "back --to datasets", "back --to webdataset"]
)
def test_what_was_decoded_encodes_to_the_same_bytes(run, here, out):
    assert run(f"decode labels.spk -o {out}").err == ""
    assert run(f"encode {out.split()[0]} -o again.spk --codec raw --set dtype=fp16").err == ""
    assert (here / "again.spk").read_bytes() == (here / "labels.spk").read_bytes()


def test_formats_that_names_do_not_say(run, here, labels_NVC):
    (here / "logits.npz").rename(here / "labels")
    run("encode labels --from npz -o new.spk --codec raw")
    run("decode new.spk -o back --to npy")
    np.testing.assert_array_equal(np.load(here / "back"), labels_NVC)


def test_a_range_of_items_and_views_counts_from_zero_again(run, here, labels_NVC, columns):
    run("decode labels.spk -o some.npz --items 2:5 --views 1: --no-replay")
    found = arrays_of(here / "some.npz")
    np.testing.assert_array_equal(found["logits"], labels_NVC[2:5, 1:])
    np.testing.assert_array_equal(found["target"], columns["target"][2:5])
    assert found.keys() == {"logits", "target"}


def test_the_first_views_alone(run, refused, here, labels_NVC):
    run("encode logits.npz -o few.spk --codec raw --set dtype=fp16 --first-views 2")
    run("decode few.spk -o few.npy")
    np.testing.assert_array_equal(np.load(here / "few.npy"), labels_NVC[:, :2])
    assert "there is no label of item 0, view 2" in refused("eval few.spk --against logits.npz")
    found = run("eval few.spk --against logits.npz --first-views 2").out
    assert f"top-1 agreement 100.00% of {2 * len(labels_NVC)} rows" in found
    assert "Invalid value for '--first-views'" in refused("encode logits.npz -o x.spk --first-views 0", code=2)


def test_probabilities_at_a_temperature(run, here, labels_NVC):
    run("decode labels.spk -o probs.h5 --as probs --temperature 4 --dtype float16")
    with h5py.File(here / "probs.h5") as file:
        assert file.attrs["temperature"] == 4
        assert file["probs"].dtype == np.float16
        found_NVC = file["probs"][()].astype("f8")
    exp_NVC = np.exp(labels_NVC.astype("f8") / 4)
    np.testing.assert_allclose(found_NVC, exp_NVC / exp_NVC.sum(-1, keepdims=True), atol=1e-3)


def test_the_files_own_temperature_is_the_default(run, here):
    run("encode probs.npz -o probs.spk --codec topk --set k=10 --set value=fp32")
    run("decode probs.spk -o back.npz --as probs")
    found, expected = arrays_of(here / "back.npz"), arrays_of(here / "probs.npz")
    assert found["temperature"] == 4
    np.testing.assert_allclose(found["probs"], expected["probs"], atol=1e-6)


def test_missing_views_stay_missing(run, here):
    facts = run("encode ragged.npz -o ragged.spk --codec raw --json").json
    assert (facts["items"], facts["views"], facts["rows"]) == (6, 3, 5)
    assert "13 views missing" in run("info ragged.spk").out
    run("decode ragged.spk -o back.npz")
    found, expected = arrays_of(here / "back.npz"), arrays_of(here / "ragged.npz")
    for name in ("logits", "item", "view"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_npy_of_probabilities_and_its_temperature(run, here):
    np.save(here / "probs.npy", arrays_of(here / "probs.npz")["probs"])
    source = "probs.npy --space probs --source-temperature 4"
    facts = run(f"encode {source} -o new.spk --codec quantize --set bits=8 --json").json
    assert (facts["space"], facts["temperature"], facts["encoded_from"]) == ("log_probs", 4, "probs")
    assert run(f"eval new.spk --against {source} --json").json["temperatures"]["4"]["kl_mean"] < 1e-2


def test_no_replay_leaves_only_the_targets(run):
    assert run("encode logits.npz -o new.spk --codec raw --no-replay --json").json["columns"] == ["target"]


def test_what_is_not_used_of_a_source_is_said(run, here, labels_NVC):
    np.savez(here / "more.npz", logits=labels_NVC, weights=labels_NVC, note=3)
    ran = run("encode more.npz -o new.spk --codec topk --set k=3 --temperature 4")
    assert ran.err == (
        "softpack: note: not used of more.npz: weights, note\n"
        "softpack: note: --temperature is not used: topk has no use for it\n"
    )


def test_vqae_is_the_default_and_the_same_seed_gives_the_same_bytes(run, here):
    how = "encode logits.npz --set slots=2 --set steps=3 --temperature 1 --temperature 4 --json"
    facts = run(f"{how} --seed 5 -o first.spk").json
    run(f"{how} --seed 5 -o second.spk")
    run(f"{how} --seed 6 -o third.spk")
    first, second, third = ((here / f"{name}.spk").read_bytes() for name in ("first", "second", "third"))
    assert facts["codec"] == "vqae"
    assert (facts["config"]["temperatures"], facts["made_by"]["seed"]) == ("1,4", 5)
    assert first == second != third


@pytest.mark.parametrize("codec", ["raw", "quantize", "topk", "lowrank"])
def test_target_bits_are_kept(run, codec):
    run(f"encode logits.npz -o new.spk --codec {codec} --target-bits 170")
    codes = [e["bits"] for e in run("ledger new.spk --json").json["entries"] if e["scope"] == "codes"]
    assert 0 < sum(codes) <= 170 * 24


def test_force_overwrites(run, here):
    before = (here / "labels.spk").read_bytes()
    run("encode logits.npz -o labels.spk --codec topk --set k=2 --force")
    assert run("info labels.spk --json").json["codec"] == "topk"
    assert (here / "labels.spk").read_bytes() != before
    run("decode labels.spk -o logits.npy --force")
    assert (np.load(here / "logits.npy") <= 0).all()  # log-probabilities now


def test_dd_ranking_takes_one_view(run, refused, here, labels_NVC):
    said = refused("decode labels.spk -o labels.pt --to ddranking")
    assert (
        "labels.pt: cannot hold 4 views; DD-Ranking has one label of each image: take one view by --views 0:1"
        in said
    )
    ran = run("decode labels.spk -o labels.pt --to ddranking --views 1:2 --no-replay")
    assert ran.err.startswith(
        "softpack: note: labels.pt holds the labels alone; not in a ddranking: target. A .npz"
    )
    facts = run("encode labels.pt --from ddranking -o one.spk --codec raw --json").json
    assert (facts["items"], facts["views"]) == (len(labels_NVC), 1)


def test_folders_and_files_do_not_replace_each_other(run, refused, here):
    run("decode labels.spk -o set --to webdataset")
    assert "set is there already; give --force to overwrite it" in refused(
        "decode labels.spk -o set --to webdataset"
    )
    run("decode labels.spk -o set --to webdataset --force")
    assert "holds 'labels-000000.tar', which is no part" in refused(
        "decode labels.spk -o set --to datasets --force"
    )
    assert "set: is a folder; expected the name of a file" in refused(
        "decode labels.spk -o set --to npz --force"
    )
    (here / "file").write_text("")
    assert "file: is a file; expected the name of a folder" in refused(
        "decode labels.spk -o file --to datasets --force"
    )
    assert "'tfrecord' is no kind of output; expected one of .npy" in refused(
        "decode labels.spk -o x --to tfrecord"
    )

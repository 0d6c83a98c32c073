"""What `encode` says of the source that it took."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

import softpack
from softpack.container.stopped import alone


def test_encode_says_what_the_labels_were(run):
    facts = run("encode logits.npz -o new.spk --codec raw --json").json
    assert (facts["source"], facts["order_known_by"], facts["left_out"]) == ("logits.npz", "", {})
    assert facts["source_bytes"] > 24 * 2
    said = run("encode logits.npz -o new.spk --codec raw --force").out
    assert "source       logits.npz  (" in said
    assert said.rstrip().endswith("times the file)")


@pytest.fixture
def plain(run, here):
    """Labels of whole images, 8 of them with 2 views."""
    np.savez(here / "plain.npz", logits=np.random.default_rng(0).normal(size=(8, 2, 5)).astype("f2"))
    run("encode plain.npz -o plain.spk --codec raw")


@pytest.mark.usefixtures("plain")
def test_a_folder_goes_in_and_out_and_bad_files_are_named(run, refused, here):
    order = "--label-seed 42 --sampler new"
    run(f"decode plain.spk -o set --to sre2l --batch-size 3 {order}")
    (here / "set" / "sampler_indices_epoch.json").unlink()
    assert "set: its files do not say in which order" in refused("encode set -o new.spk --codec raw")
    facts = run(f"encode set -o new.spk --codec raw --json {order}").json
    assert facts["order_known_by"] == "seed 42, of 8 images, as the sampler of PyTorch 1.11 and later draws"
    assert run("eval new.spk --against plain.npz --json").json["top1_agreement"] == 1
    (here / "set" / "epoch_1" / "batch_1.tar").write_bytes(b"damaged")
    assert "epoch_1/batch_1.tar: cannot be read" in refused(
        f"encode set -o new.spk --codec raw --force {order}"
    )
    ran = run(f"encode set -o new.spk --codec raw --force --skip-bad {order}")
    assert "left out: set/epoch_1/batch_1.tar: cannot be read" in ran.err
    assert "1 files left out" in ran.out


def test_a_set_of_tinyvit_goes_in_and_out(run, refused, here):
    """A record is a seed, two classes as int16 and their probabilities as fp16."""
    records = b"".join(struct.pack("<i2h2e", seed, 9, seed % 9, 0.5, 0.25) for seed in range(8))
    for epoch in range(2):
        folder = here / "set" / f"logits_top2_epoch{epoch}"
        folder.mkdir(parents=True)
        (folder / "rank0-keys.txt").write_text("".join(f"{item % 7}\n" for item in range(8)))
        (folder / "rank0-values.bin").write_bytes(records)
    assert "its files do not say how many classes there are (--classes C)" in refused(
        "encode set -o new.spk --codec raw"
    )
    ran = run("encode set -o new.spk --codec raw --set dtype=fp32 --classes 10 --source-temperature 1")
    assert "not used of set: 2 records of keys that their epoch has already" in ran.err
    assert "keys, which are numbers of images" in ran.out
    run("decode new.spk -o again --to tinyvit --k 2")
    for epoch in range(2):
        again = here / "again" / f"logits_top2_epoch{epoch}" / "rank0-values.bin"
        assert again.read_bytes() == records[: 7 * 12]
    assert "say how many of 10 classes TinyViT's records are to keep" in refused(
        "decode new.spk -o again --to tinyvit --force"
    )


def test_a_set_of_ml_dr_goes_in(run, refused, here):
    (here / "set").mkdir()
    views = [{"params": [(1, 2, 30, 40), True], "prob": ([0.5, 0.25], [3, 4])}] * 3
    for item in range(4):
        torch.save((item, views), here / "set" / f"{item}.pth.tar", pickle_protocol=4)
    transforms = {"random_resized_crop": {"size": 9}, "random_horizontal_flip": {"p": 0.5}, "normalize": {}}
    config = {"num_classes": 10, "reinforce": {"image_augmentation": transforms}}
    torch.save(config, here / "set" / "config.pth.tar")
    assert "do not say what classes get that are not kept (--label-type smooth" in refused(
        "encode set -o new.spk --codec raw"
    )
    facts = run("encode set -o new.spk --codec raw --set dtype=fp32 --label-type smooth --json").json
    assert (facts["items"], facts["views"], facts["classes"], facts["space"]) == (4, 3, 10, "probs")
    run("decode new.spk -o new.npz")
    with np.load("new.npz") as arrays:
        assert arrays["crop_xywh"][3, 2].tolist() == [2, 1, 40, 30]
        np.testing.assert_allclose(arrays["probs"][3, 2], [1 / 32] * 3 + [0.5, 0.25] + [1 / 32] * 5)


@pytest.mark.usefixtures("plain")
def test_a_folder_is_not_overwritten(run, refused, here):
    run("decode plain.spk -o set --to sre2l")
    assert "set is there already" in refused("decode plain.spk -o set --to sre2l")
    run("decode plain.spk -o set --to lpld --force")
    np.testing.assert_array_equal(
        sorted(entry.name for entry in (here / "set").iterdir())[-1:], ["sampler_indices_epoch.json"]
    )


def test_formats_are_listed(run):
    assert [line.split()[0] for line in run("formats").out.splitlines()][:3] == ["npy", "npz", "h5"]
    names = {one["name"] for one in run("formats --json").json["formats"] if one["reads"]}
    assert {"sre2l", "lpld", "fkd", "pt", "parquet", "datasets", "webdataset", "ddranking"} <= names
    written = {one["name"] for one in run("formats --json").json["formats"] if one["writes"]}
    assert written == {
        "npy", "npz", "h5", "safetensors", "pt", "spk", "sre2l", "lpld", "parquet", "datasets", "webdataset",
        "ddranking", "gvbsm", "edc", "lpqld", "fkd", "tinyvit", "distillkit", "megatron", "maxtext", "vllm",
    }  # fmt: skip


def test_an_interrupted_encoding_goes_on(run, run_any, here, interrupted):
    interrupted("encode logits.npz -o new.spk --codec quantize")
    said = run_any("encode logits.npz -o new.spk --codec raw").err
    assert "new.spk.unfinished: was left by another run" in said
    ran = run("encode logits.npz -o new.spk --codec quantize")
    assert "going on where a run was interrupted: 15 of 24 rows are there" in ran.err
    run("encode logits.npz -o other.spk --codec quantize")
    assert (here / "new.spk").read_bytes() == (here / "other.spk").read_bytes()
    assert sorted(path.name for path in here.glob("*.unfinished*")) == []


def test_an_encoding_that_was_killed_while_its_output_was_written_goes_on(run, refused, here, interrupted):
    interrupted("encode logits.npz -o new.spk --codec quantize")
    softpack.recover(here / "new.spk.unfinished.partial")  # all rows lie in a whole file by then
    (here / "new.spk.partial").write_bytes(b"half")
    assert "going on where" in run("encode logits.npz -o new.spk --codec quantize").err
    (here / "new.spk").unlink()
    (here / "new.spk.partial").write_bytes(b"half")
    assert "new.spk.partial is there already" in refused("encode logits.npz -o new.spk --codec quantize")


def test_only_one_encoding_is_at_work_on_a_file(run, refused, here, monkeypatch):
    monkeypatch.setattr("softpack.sources.resuming.RESUMED_NUMBERS", 1)
    with alone(here / "new.spk"):
        assert "new.spk: another run is writing it; wait for it" in refused(
            "encode logits.npz -o new.spk --codec raw --force"
        )
    run("encode logits.npz -o new.spk --codec raw")


@pytest.mark.parametrize("line", ["encode logits.npz -o new.spk --codec raw", "transcode raw.spk -o new.spk"])
def test_what_cannot_go_on_does_not_take_what_was_left(run, refused, here, line):
    run("encode logits.npz -o raw.spk --codec raw")
    for name in ("new.spk.unfinished", "new.spk.partial"):
        (here / name).write_bytes(b"of another")
    assert "--force begins anew" in refused(line)
    assert (here / "new.spk.partial").read_bytes() == b"of another"


def test_an_encoding_of_labels_that_have_changed_is_not_gone_on_with(
    run, run_any, here, labels_NVC, interrupted
):
    np.save(here / "some.npy", labels_NVC)
    interrupted("encode some.npy -o new.spk --codec quantize")
    np.save(here / "some.npy", labels_NVC + 1)
    said = run_any("encode some.npy -o new.spk --codec quantize").err
    assert "new.spk.unfinished: was left by another run" in said
    run("encode some.npy -o new.spk --codec quantize --force")
    assert sorted(path.name for path in here.glob("*.unfinished*")) == []

"""What `encode` says of the source that it took."""

from __future__ import annotations

import numpy as np
import pytest


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
        "ddranking",
    }  # fmt: skip

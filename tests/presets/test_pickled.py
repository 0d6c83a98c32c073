"""Formulas of files of batches beside such files."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from softpack.accounting import Entry
from softpack.errors import DataError
from softpack.presets.common import digits
from softpack.presets.pickled import batches
from softpack.presets.registry import budget

OTHER_TORCH = 600  # bytes by which the head of a file differs between versions of torch and numpy


def view(mix, rows, crop=torch.float32, partner=torch.int64, box=np.int64):
    """Crops, flips (or cutouts) and what is mixed, as the writers store them."""
    crops = torch.rand(rows, 4).to(crop)
    if mix == "cutout":
        return [crops, torch.rand(rows, 7), None, None, None]
    parts = [crops, torch.rand(rows) < 0.5]
    if mix == "none":
        return [*parts, None, None, None]
    corners = [3, 4, 100, 200]
    boxes = (
        [torch.tensor(c, dtype=torch.uint8) for c in corners]
        if box is torch.uint8
        else [box(c) for c in corners]
    )
    return [*parts, torch.randperm(rows).to(partner), 0.543, boxes if mix == "cutmix" else None]


def written(tmp_path, content):
    path = tmp_path / "batch_0.tar"
    torch.save(content, path)
    return path.stat().st_size


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "cutout", "none"])
@pytest.mark.parametrize(("rows", "classes"), [(16, 10), (128, 1000)])
def test_files_of_sre2l_and_gvbsm(tmp_path, mix, rows, classes):
    labels = torch.rand(rows, classes).half()
    settings = f"classes={classes},items={rows},epochs=1,batch={rows},mix={mix}"
    sre2l = written(tmp_path, [*view(mix, rows), labels])
    gvbsm = written(tmp_path, [*view(mix, rows), labels, torch.arange(rows)])

    assert abs(budget(f"sre2l:{settings}").label_bytes - sre2l) < OTHER_TORCH
    assert abs(budget(f"g-vbsm:{settings}").label_bytes - gvbsm) < OTHER_TORCH


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "cutout", "none"])
@pytest.mark.parametrize("k", [10, 100])
def test_files_of_lpqld(tmp_path, mix, k):
    rows = 128
    content = view(mix, rows, torch.float16, torch.uint8, torch.uint8)
    size = written(tmp_path, [*content, torch.rand(rows, k).half(), torch.randint(0, 999, (rows, k)).short()])
    one = budget(f"lpqld:items={rows},epochs=1,mix={mix},prune=1,k={k}")
    listing = json.dumps({"0": list(range(rows))})

    assert abs(sum(n * size for n, size in one.parts.files[:-1]) - size) < OTHER_TORCH
    assert abs(one.bits_of("ids") // 8 - len(listing)) < 10


def test_the_file_of_an_epoch_of_hald(tmp_path):
    rows, n_batches, classes = 16, 20, 100
    epoch = [[*view("cutmix", rows, torch.float16), torch.rand(rows, classes).half()] for _ in range(n_batches)]
    one = budget(f"hald:classes={classes},items={rows * n_batches},epochs=1,slc=4")

    assert (
        abs(one.label_bytes - one.bits_of("ids") // 8 - written(tmp_path, epoch)) < n_batches * OTHER_TORCH / 4
    )
    assert one.parts.n_labels == rows * n_batches


def test_rows_of_fp16_and_fp32():
    def codes(dtype):
        return budget(f"sre2l:dtype={dtype}").bits_of("codes")

    assert codes("fp16") == 16 * 1000 * 10_000 * 300
    assert codes("fp32") == 2 * codes("fp16")


def test_the_last_batch_of_an_epoch_is_short():
    values = {"items": 50_000, "epochs": 300, "batch": 1024}

    assert batches(values) == ((300 * 48, 1024), (300, 848))
    assert batches({**values, "items": 2048}) == ((600, 1024),)
    assert batches({**values, "items": 19}) == ((300, 19),)


def test_pruning_keeps_whole_batches_of_the_first_epochs():
    values = {"items": 50_000, "epochs": 300, "batch": 128}

    assert batches(values, 40) == ((2925, 128),)
    assert batches(values, Fraction(5, 2)) == ((46_800, 128),)
    assert batches(values, 1) == ((300 * 390, 128), (300, 80))
    with pytest.raises(DataError, match="prune=200000 keeps none of 117,000 batches of 128 rows"):
        batches(values, 200_000)


def test_labels_that_are_stored_are_fewer_than_those_seen():
    one = budget("lpld:ipc=50")

    assert one.parts.n_labels == 2925 * 128
    assert one.parts.n_seen == 50_000 * 300
    assert one.bits_per_view < one.bits_per_label / 39


def test_a_listing_has_the_digits_of_every_image():
    assert [digits(n) for n in (1, 10, 11, 1000)] == [1, 10, 12, sum(len(str(i)) for i in range(1000))]
    listed = json.dumps({"0": list(range(1000))})
    ids = budget("lpld:items=1000,epochs=1,prune=1").bits_of("ids") // 8
    assert abs(len(listed) - ids) < 20


def test_a_label_has_at_most_the_classes_there_are():
    assert budget("lpqld:classes=10,k=50").parts.entries[1] == Entry(
        "largest logits, fp16", 16 * 10 * budget("lpqld:classes=10").parts.n_labels, "codes"
    )


def test_hald_has_as_many_views_of_an_image_as_its_labels_a_class_make():
    assert budget("hald:ipc=50").parts.n_labels == 150 * 1000
    assert budget("hald:ipc=40").parts.n_labels == 3 * 40_000
    assert budget("hald:classes=100,items=10,epochs=30").parts.n_labels == 300  # no more than a student sees

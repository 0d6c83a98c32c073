"""Sets of FKD go in: every kind of label, with and without the images."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch

import softpack
from softpack.errors import DataError
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.given import Given
from softpack.sources.peers.to_fkd import write_fkd

NAMES = ["n01/a", "n01/b c", "n02/ünï", "n03/a"]
KINDS = ("hard", "smoothing", "marginal_smoothing_k3", "marginal_smoothing_k5", "marginal_renorm_k3", "ori")


def open_fkd(
    path, images=None, classes: int | None = 10, kind: str | None = None, at: float | None = 1.0, **more
):
    given = Given(images=images, classes=classes, label_type=kind, **more)
    return open_source(path, temperature=at, given=given)


def check_rows(source, written, atol=1e-6) -> None:
    seen = set()
    for block in source.blocks(6):
        for row, cell in enumerate(zip(block.item_B.tolist(), block.view_B.tolist(), strict=True)):
            said = written.rows[cell]
            np.testing.assert_allclose(block.labels_BC[row], said["probs"], atol=atol)
            assert block.replay["flip"][row] == said["flip"]
            size_wh = np.tile(written.size_hw[cell[0], ::-1], 2)
            if "crop_xywh" in block.replay:
                assert block.replay["crop_xywh"][row].tolist() == said["crop_xywh"]
            else:
                crop = block.replay["crop_xywh_fraction"][row] * size_wh
                np.testing.assert_allclose(crop, said["crop_xywh"], atol=0.2)
            seen.add(cell)
    assert seen == written.rows.keys()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_label_goes_in(layouts, tmp_path, kind, dtype):
    written = layouts.write_fkd(tmp_path / "labels", NAMES, kind, dtype=dtype)
    source = open_fkd(written.path, kind=kind)
    assert (source.items, source.views, source.n_rows) == (4, 4, 16)
    assert (source.spec.space, source.spec.classes, source.spec.temperature) == ("probs", 10, 1.0)
    assert source.item_columns["target"].tolist() == [0, 0, 1, 2]
    assert source.order_known_by == "the names of the files, sorted"
    check_rows(source, written, 1e-6 if dtype == np.float32 else 1e-3)


def test_a_temperature_is_kept_and_what_shapes_tell_is_not_asked(layouts, tmp_path):
    written = layouts.write_fkd(tmp_path / "labels", NAMES, "ori", temperature=4)
    source = open_fkd(written.path, classes=None, at=4)
    assert (source.spec.classes, source.spec.temperature) == (10, 4.0)
    check_rows(source, written)
    shutil.rmtree(written.path)
    hard = layouts.write_fkd(tmp_path / "labels", NAMES, "hard")
    check_rows(open_fkd(hard.path, at=None), hard)


def test_images_say_order_sizes_and_classes(layouts, tmp_path):
    names = ["n01/a", "n01/b.v2", "n02/A", "n04/x"]
    written = layouts.write_fkd(tmp_path / "labels", ["n01/a", "n01/b", "n02/A", "n04/x"])
    layouts.write_named_images(tmp_path / "images", [f"{name}.png" for name in names], written.size_hw)
    (tmp_path / "images" / "n03").mkdir()
    source = open_fkd(written.path, tmp_path / "images", kind="marginal_smoothing_k3")
    assert source.columns == ("crop_xywh", "flip")
    assert source.item_columns["target"].tolist() == [0, 0, 1, 3]  # n03 is a class without images
    check_rows(source, written)


def test_crops_without_a_label_are_left(layouts, tmp_path):
    written = layouts.write_fkd(tmp_path / "labels", NAMES, lost=2)
    check_rows(open_fkd(written.path, kind="marginal_smoothing"), written)


def test_all_that_must_be_said_is_asked_for_at_once(layouts, tmp_path):
    path = layouts.write_fkd(tmp_path / "labels", NAMES).path
    both = r"whether labels are marginal_smoothing or marginal_renorm \(--label-type"
    with pytest.raises(
        DataError, match=rf"do not say {both}.*; nor how many classes.*; nor at which temperature"
    ):
        open_source(path)
    with pytest.raises(
        DataError, match=r"labels of shape \[4, 2, 3\] are no hard, but marginal_smoothing or margin"
    ):
        open_fkd(path, kind="hard")


def test_two_images_of_one_file_and_images_without_one_are_refused(layouts, tmp_path):
    written = layouts.write_fkd(tmp_path / "labels", NAMES[:2])
    layouts.write_named_images(tmp_path / "images", ["n01/a.1.png", "n01/a.2.png"], written.size_hw)
    with pytest.raises(
        DataError, match=r"n01/a\.tar: is of several images, whose names differ after the first dot"
    ):
        open_fkd(written.path, tmp_path / "images")
    shutil.rmtree(tmp_path / "images")
    layouts.write_named_images(tmp_path / "images", ["n01/a.png", "n01/c.png"], written.size_hw)
    with pytest.raises(DataError, match=r"n01/c\.tar: is missing, and 0 others of 2; .* --skip-bad"):
        open_fkd(written.path, tmp_path / "images")
    source = open_fkd(written.path, tmp_path / "images", kind="marginal_smoothing", skip_bad=True)
    assert (source.items, source.n_rows) == (2, 4)
    assert list(source.skipped) == [str(written.path / "train" / "n01" / "c.tar")]
    assert {item for block in source.blocks(9) for item in block.item_B.tolist()} == {0}


def changed(held, parts):
    return [parts.get(name, value) for name, value in zip(("coords", "flip", "label"), held, strict=True)]


IDS = np.tile(np.array([[1, 2, 3], [0.5, 0.2, 0.1]], np.float32), (4, 1, 1))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"label": IDS + np.float32(7.5)}, "names class 8.5 in row 0; expected 0 to 9"),
        ({"label": IDS * 9}, "names class 18 in row 0; expected 0 to 9"),
        (
            {"label": IDS * np.array([[1], [3]], np.float32)},
            "a probability below 0 or above 1; they may be logits",
        ),
        ({"label": IDS[:, :1]}, r"has labels \[4, 1, 3\], which are no marginal_smoothing"),
        ({"coords": np.ones((4, 3), np.float32)}, r"has coords \[4, 3\], flips \[4\] and labels \[4, 2, 3\]"),
        (
            {"label": np.tile(IDS[:, :, :1], 1)[:, :, 0]},
            r"has labels \[4, 2\], which are no marginal_smoothing",
        ),
        ({"flip": np.array(True)}, r"has coords \[4, 4\], flips \[\]"),
        ({"coords": np.ones((4, 4), int)}, r"has coords \[4, 4\]"),
        ({"flip": np.ones(5, bool)}, r"has coords \[4, 4\], flips \[5\]"),
        ({"label": "none"}, "holds no coords, flips and labels"),
    ],
)
def test_a_bad_file_is_named(layouts, tmp_path, parts, says):
    path = layouts.write_fkd(tmp_path / "labels", NAMES).path
    file = path / "train" / "n02" / "ünï.tar"
    torch.save(changed(torch.load(file, weights_only=False), parts), file)
    source = open_fkd(path, kind="marginal_smoothing")
    with pytest.raises(DataError, match=rf"n02/ünï\.tar: .*({says})"):
        list(source.blocks(100))
    left = open_source(path, temperature=1, given=dataclasses.replace(
        Given(classes=10, label_type="marginal_smoothing"), skip_bad=True))  # fmt: skip
    assert sum(len(block) for block in left.blocks(100)) == 12
    assert list(left.skipped) == [str(file)]


def test_class_numbers_that_fp16_has_rounded_are_refused(layouts, tmp_path):
    path = layouts.write_fkd(tmp_path / "labels", NAMES, dtype=np.float16).path
    with pytest.raises(DataError, match="exact up to 2048, and there are 10450 classes; nobody can tell"):
        list(open_fkd(path, classes=10450, kind="marginal_smoothing").blocks(100))


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"holds no train/CLASS/IMAGE\.tar"):
        open_fkd(tmp_path)


# -- out -----------------------------------------------------------------------------------------------


@pytest.fixture
def packed(layouts, tmp_path):
    """`packed(kind)`: a set of FKD, its images, and its labels as an `.spk` file."""

    def pack(kind: str, **how):
        written = layouts.write_fkd(tmp_path / "labels", NAMES, kind, **how)
        layouts.write_named_images(tmp_path / "images", [f"{name}.png" for name in NAMES], written.size_hw)
        source = open_fkd(written.path, tmp_path / "images", kind=kind)
        encode_source(source, tmp_path / "a.spk", fit_model(source, "raw", {"dtype": "fp32"}))
        return written, tmp_path / "images", tmp_path / "a.spk"

    return pack


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_set_comes_out_as_it_was(packed, tmp_path, kind, dtype):
    written, images, path = packed(kind, dtype=dtype)
    asked = Asked(label_type=kind, images=images, dtype=np.dtype(dtype).name)
    write_fkd(path, tmp_path / "out", asked)
    for name in NAMES:
        theirs, ours = (
            torch.load(root / "train" / f"{name}.tar", weights_only=False)
            for root in (written.path, tmp_path / "out")
        )
        for part, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            if (part == 2 and kind == "hard") or part < 2:
                assert one.dtype == other.dtype
            if (
                part == 2 and "renorm" in kind
            ):  # is summed to 1 as it goes in, as the trainer does as it comes out
                np.testing.assert_array_equal(one[:, 0], other[:, 0])
                np.testing.assert_allclose(one[:, 1] / one[:, 1].sum(1, keepdims=True), other[:, 1], rtol=2e-3)
            else:
                np.testing.assert_array_equal(one, other)
    check_rows(open_fkd(tmp_path / "out", images, kind=kind), written, 1e-6 if dtype == np.float32 else 2e-3)


def test_any_labels_come_out_at_a_temperature(layouts, packed, tmp_path):
    _, images, _ = packed("ori")
    logits = np.random.default_rng(0).normal(size=(4, 2, 10)).astype(np.float32)
    with softpack.create(tmp_path / "b.spk", "raw", items=4, views=2, classes=10, dtype="fp32") as writer:
        writer.append(logits.reshape(8, 10)[:7], item=np.arange(7) // 2, view=np.arange(7) % 2)
    write_fkd(tmp_path / "b.spk", tmp_path / "out", Asked(label_type="ori", images=images, temperature=4.0))
    coords, flip, probs = torch.load(tmp_path / "out" / "train" / "n03" / "a.tar", weights_only=False)
    np.testing.assert_allclose(probs, torch.from_numpy(logits[3, :1] / 4).softmax(1).numpy(), rtol=1e-5)
    assert coords.tolist() == [[0, 0, 1, 1]]
    assert flip.tolist() == [False]


def test_what_fkd_cannot_hold_is_refused(packed, tmp_path):
    _, images, path = packed("ori")
    for asked, says in (
        (Asked(images=images), r"say what FKD's files are to hold: --label-type hard, smoothing"),
        (Asked(images=images, label_type="soft"), "FKD has no label type soft; expected one of hard"),
        (
            Asked(images=images, label_type="marginal_renorm"),
            r"how many of 10 classes .* such as marginal_renorm_k5",
        ),
        (
            Asked(images=images, label_type="marginal_renorm_k11"),
            "does not say how many of 10 classes are kept",
        ),
        (Asked(label_type="ori"), r"does not say how images are called, .* \(--images DIR\)"),
    ):
        with pytest.raises(DataError, match=says):
            write_fkd(path, tmp_path / "out", asked)
    with softpack.create(tmp_path / "b.spk", "raw", items=4, views=1, classes=3000) as writer:
        rows = np.random.default_rng(0).normal(size=(4, 3000))
        writer.append(rows, item=range(4), view=[0] * 4, mix_item=[1, 0, 3, 2], mix_lam=[0.5] * 4)
    with pytest.raises(DataError, match="has mix_item; FKD's files have crops and flips alone"):
        write_fkd(tmp_path / "b.spk", tmp_path / "out", Asked(images=images, label_type="ori"))
    with pytest.raises(DataError, match="has 3000 classes, and fp16 numbers of classes are exact up to 2048"):
        write_fkd(tmp_path / "b.spk", tmp_path / "out", Asked(label_type="smoothing", dtype="float16"))
    (images / "n03" / "a.png").unlink()
    with pytest.raises(DataError, match=r"has labels of 4 items, and .* holds 3 images"):
        write_fkd(path, tmp_path / "out", Asked(images=images, label_type="ori"))
    assert not (tmp_path / "out").exists()

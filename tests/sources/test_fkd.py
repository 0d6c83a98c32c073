"""Sets of FKD go in: every kind of label, with and without the images."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from softpack.errors import DataError
from softpack.sources.given import Given
from softpack.sources.opening import open_source

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

"""Sets of ml-dr go in: however they are saved, with views that softpack can make again, and labels alone of others."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch

import softpack
from softpack.errors import DataError
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source
from softpack.sources.peers.given import Given

CROP, FLIP = "random_resized_crop", "random_horizontal_flip"
ALL = r"rand_augment, random_erase, mixup, cutmix|cutmix, mixup, random_erase, rand_augment"


@pytest.fixture
def made(layouts, tmp_path):
    def make(**how):
        return layouts.write_mldr(tmp_path / "labels", **how)

    return make


def open_set(path: Path, kind: str | None = "smooth", temperature: float | None = None, **more):
    return open_source(path, temperature=temperature, given=Given(label_type=kind, **more))


def target_of(said: dict[str, Any], kind: str, classes: int) -> np.ndarray:
    """What ml-dr's trainer makes of a view."""
    probs, target = said["probs"], np.zeros(classes, np.float32)
    if kind == "zeros":
        target[said["ids"]] = torch.from_numpy(probs).softmax(0).numpy()
        return target
    target[:] = (1 - probs.sum()) / max(1, classes - len(probs))
    target[said["ids"]] = probs
    return target


def check_rows(source, written, kind: str = "smooth") -> None:
    seen = []
    for block in source.blocks(6):
        for row, cell in enumerate(zip(block.item_B.tolist(), block.view_B.tolist(), strict=True)):
            said = written.rows[cell]
            np.testing.assert_allclose(
                block.labels_BC[row], target_of(said, kind, source.spec.classes).clip(0), atol=1e-7
            )
            for name, values_B in block.replay.items():
                assert values_B[row].tolist() == said[name]
            assert tuple(block.replay) == source.columns
            seen.append(cell)
    assert sorted(seen) == sorted(written.rows)


# -- in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False], ids=["list", "dictionary"])
@pytest.mark.parametrize("saved_by", ["zip", "streams", "joblib"])
def test_every_row_goes_in(made, saved_by, compress):
    written = made(saved_by=saved_by, compress=compress)
    source = open_set(written.path)
    assert (source.items, source.views, source.n_rows) == (5, 4, 20)
    assert source.columns == ("crop_xywh", "flip")
    assert (source.spec.space, source.spec.classes, source.spec.temperature) == ("probs", 10, 1.0)
    assert (source.order_known_by, source.ignored) == ("the numbers of the files", ())
    check_rows(source, written)


@pytest.mark.parametrize("how", [{"k": 1}, {"k": 10}, {"classes": 40_000}, {"items": 1, "views": 1}], ids=str)
@pytest.mark.parametrize("kind", ["smooth", "zeros"])
def test_other_classes_get_what_the_trainer_gives_them(made, kind, how):
    written = made(**how)
    check_rows(open_set(written.path, kind), written, kind)


@pytest.mark.parametrize("transforms", [(CROP,), (FLIP,), ()], ids=str)
@pytest.mark.parametrize("compress", [True, False])
def test_views_may_be_made_with_less(made, transforms, compress):
    written = made(transforms=transforms, compress=compress)
    source = open_set(written.path)
    assert source.columns == tuple({CROP: "crop_xywh", FLIP: "flip"}[name] for name in transforms)
    check_rows(source, written)


@pytest.mark.parametrize("saved_by", ["zip", "joblib"])
@pytest.mark.parametrize("compress", [True, False])
def test_of_views_that_softpack_cannot_make_again_the_labels_go_in(made, saved_by, compress):
    written = made(mixed=True, saved_by=saved_by, compress=compress)
    says = rf"config\.pth\.tar: views are made with ({ALL}), which softpack cannot make again; --no-replay takes the"
    with pytest.raises(DataError, match=says):
        open_set(written.path)
    source = open_set(written.path, replay=False)
    assert source.columns == ()
    check_rows(source, written)


def test_without_a_configuration_classes_are_said_and_views_left(made):
    written = made()
    (written.path / "config.pth.tar").unlink()
    with pytest.raises(
        DataError,
        match=r"do not say how many classes there are \(--classes C\); nor what classes get that are not kept "
        r"\(--label-type smooth, .*zeros\); nor how views are made, as there is no config\.pth\.tar \(--no-replay",
    ):
        open_source(written.path)
    check_rows(open_set(written.path, classes=10, replay=False), written)


def test_images_say_sizes_and_classes(layouts, made, tmp_path):
    written = made()
    layouts.write_images(tmp_path / "images", written.size_hw)
    source = open_set(written.path, images=tmp_path / "images")
    np.testing.assert_array_equal(source.item_columns["source_hw"], written.size_hw)
    assert len(source.item_columns["target"]) == 5
    check_rows(source, written)


def test_crops_and_flips_are_pixels_of_the_image_and_replayed(made, tmp_path):
    written = made()
    source = open_set(written.path)
    encode_source(source, tmp_path / "a.spk", fit_model(source, "raw", {"dtype": "fp32"}))
    labels = softpack.open(tmp_path / "a.spk")
    found = labels.replay([3], [2])
    assert found["crop_xywh"][0].tolist() == written.rows[3, 2]["crop_xywh"]
    assert bool(found["flip"][0]) == written.rows[3, 2]["flip"]
    np.testing.assert_allclose(labels[3, 2], target_of(written.rows[3, 2], "smooth", 10), atol=1e-7)


def test_many_views_in_few_bytes_are_read(made):
    """Names of parameters are stored once and named often, and joblib compresses what they stand between."""
    written = made(items=1, views=3000, k=1, compress=False, saved_by="joblib")
    assert (written.path / "0.pth.tar").stat().st_size < 100_000
    check_rows(open_set(written.path), written)


def test_probabilities_that_were_rounded_to_more_than_1_leave_nothing(made):
    written = made(items=1, views=1)
    file = written.path / "0.pth.tar"
    torch.save((0, [{"params": [(0, 0, 9, 9), True], "prob": ([0.9, 0.1000001], [4, 2])}]), file)
    (block,) = open_set(written.path).blocks(9)
    np.testing.assert_array_equal(block.labels_BC[0].nonzero()[0], [2, 4])


# -- refused -------------------------------------------------------------------------------------------


def changed(path: Path, **parts: Any) -> Path:
    """Write the file of item 2 again with other parts of its view 1, another number or other views."""
    file = path / "2.pth.tar"
    number, views = torch.load(file, weights_only=False)
    views[1] |= {name: value for name, value in parts.items() if name in ("params", "prob")}
    torch.save((parts.get("number", number), parts.get("views", views)), file)
    return file


PROB = ([0.5, 0.25, 0.125], [1, 2, 3])


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"number": 3}, "is of image 3, and called as that of 2; it may have been renamed"),
        ({"number": True}, "holds no number and views with params and prob"),
        ({"views": []}, "holds no number and views with params and prob, as ml-dr writes them"),
        ({"views": [{"prob": PROB}] * 4}, "holds no number and views"),
        ({"views": [{"params": [(0, 0, 9, 9), True], "prob": PROB}] * 3}, "holds 3 rows of 10 classes; expected 4"),
        ({"prob": [0.5, 0.25, 0.125]}, "has a prob that is no pair of probabilities and classes"),
        ({"prob": torch.rand(10)}, "has a prob that is no pair"),
        ({"prob": ([0.5, 0.25], [1, 2])}, r"has probabilities \[0\.5, 0\.25\] of view 1; expected 3 floats$"),
        ({"prob": ([0.5, 0.25, "a"], [1, 2, 3])}, r"has probabilities \[.*'a'\] of view 1; expected 3 floats"),
        ({"prob": ([0.5, 0.25, None], [1, 2, 3])}, r"has probabilities \[.*None\] of view 1; expected 3 floats"),
        ({"prob": (PROB[0], [1, 2, 2.5])}, r"has classes \[1, 2, 2\.5\] of view 1; expected 3 whole numbers"),
        ({"prob": (PROB[0], [1, 2, 3, 4])}, r"has classes \[1, 2, 3, 4\] of view 1; expected 3 whole numbers"),
        ({"prob": (PROB[0], 7)}, "has classes 7 of view 1; expected 3 whole numbers"),
        ({"prob": (PROB[0], [1, 2, 1 << 63])}, "has classes|names class 9223372036854775808 in row 1"),
        ({"prob": (PROB[0], [[1], [2, 3], 4])}, "has classes .* of view 1; expected 3 whole numbers"),
        ({"prob": (PROB[0], [1, 2, 10])}, "names class 10 in row 1; expected 0 to 9"),
        ({"prob": (PROB[0], [1, 2, -1])}, "names class -1 in row 1; expected 0 to 9"),
        ({"prob": (PROB[0], [1, 2, 2])}, "names a class twice in a row, which is row 1"),
        ({"prob": ([0.5, 0.25, -0.1], [1, 2, 3])}, r"has probabilities \[.*-0\.1.*\] of view 1; expected none below 0"),
        ({"prob": ([0.5, 0.25, 0.5], [1, 2, 3])}, r"has .*\] of view 1; expected none below 0, and that they sum"),
        ({"prob": ([0.5, 0.25, float("nan")], [1, 2, 3])}, r"has probabilities \[.*nan\] of view 1; expected none"),
        ({"params": [(0, 0, 9, 9)]}, rf"has params \[\[0, 0, 9, 9\]\]; expected those of {CROP} and {FLIP}, as config"),
        ({"params": {CROP: ((0, 0, 9, 9),)}}, rf"has params .*; expected those of {CROP} and {FLIP}"),
        ({"params": {CROP: (), FLIP: (True,)}}, "has params "),
        ({"params": None}, "has params None; expected those of"),
        ({"params": [(0, 0, 9), True]}, rf"has {CROP} \[0, 0, 9\] of view 1; expected 4 whole numbers"),
        ({"params": [(0, 0, 9, 9.5), True]}, rf"has {CROP} .* of view 1; expected 4 whole numbers"),
        ({"params": [(0, 0, 9, 1 << 40), True]}, r"crop_xywh of row 1 \(item 2, view 1\) is .*; expected integers"),
        ({"params": [(0, 0, 9, 0), True]}, "crop_xywh of row 1 .*; expected x and y from 0 on, width"),
        ({"params": [(0, 0, 9, 9), 0.5]}, rf"has {FLIP} 0\.5 of view 1; expected true or false$"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(made, parts, says):
    path = made().path
    file = changed(path, **parts)
    for kind in ("smooth", "zeros"):
        with pytest.raises(DataError, match=rf"2\.pth\.tar: {says}"):
            list(open_set(path, kind).blocks(100))
    left = open_set(path, skip_bad=True)
    assert {item for block in left.blocks(100) for item in block.item_B.tolist()} == {0, 1, 3, 4}
    assert list(left.skipped) == [str(file)]


def test_arrays_of_joblib_are_refused_by_their_name(made):
    path = made().path
    joblib.dump((2, [{"params": None, "prob": np.ones(1 << 17)}]), path / "2.pth.tar", compress=True)
    with pytest.raises(
        DataError, match=r"2\.pth\.tar: names 'joblib\.numpy_pickle\.NumpyArrayWrapper', which is no"
    ):
        list(open_set(path).blocks(100))


def test_crops_beyond_their_image_are_refused(layouts, made, tmp_path):
    written = made()
    layouts.write_images(tmp_path / "images", written.size_hw)
    height, width = written.size_hw[2].tolist()
    changed(written.path, params=[(0, 1, height, width), True])
    with pytest.raises(DataError, match=r"2\.pth\.tar: crop_xywh with the image's width and height of row 1"):
        list(open_set(written.path, images=tmp_path / "images").blocks(100))


def test_what_is_missing_and_lies_about_is_named(layouts, made, tmp_path):
    path = made().path
    (path / "notes.txt").write_text("")
    (path / "03.pth.tar").write_text("")
    assert open_set(path).ignored == ("03.pth.tar", "notes.txt")
    layouts.write_images(tmp_path / "images", np.full((4, 2), 300))
    with pytest.raises(
        DataError, match=r"has a 4\.pth\.tar, and .*images holds 4 images; give those that were lab"
    ):
        open_set(path, images=tmp_path / "images")
    (path / "1.pth.tar").unlink()
    with pytest.raises(DataError, match=r"1 files are missing: 1\.pth\.tar; copy .* with --skip-bad"):
        open_set(path)
    left = open_set(path, skip_bad=True)
    assert (left.items, left.n_rows, list(left.skipped)) == (5, 16, [str(path / "1.pth.tar")])
    assert {item for block in left.blocks(9) for item in block.item_B.tolist()} == {0, 2, 3, 4}
    shutil.rmtree(path)
    path.mkdir()
    with pytest.raises(DataError, match=r"has no 0\.pth\.tar; expected one for each image, by its number"):
        open_source(path, kind="mldr")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ([1], "holds a list; expected ml-dr's configuration, a dictionary"),
        ({"num_classes": 10}, "names no transforms in reinforce, image_augmentation; it is none of ml-dr's"),
        ({"num_classes": 10, "reinforce": {"image_augmentation": {CROP: None}}}, "names no transforms"),
        (
            {
                "num_classes": 10,
                "reinforce": {"image_augmentation": {"resize": {"size": 9}, "random_crop": {}}},
            },
            "views are made with resize, random_crop, which softpack cannot make again",
        ),
        ({"num_classes": "ten", "reinforce": {"image_augmentation": {}}}, "says there are ten classes"),
    ],
)
def test_a_configuration_that_is_none_is_refused(made, config, says):
    path = made().path
    torch.save(config, path / "config.pth.tar")
    with pytest.raises(DataError, match=rf"config\.pth\.tar: {re.escape(says)}"):
        open_set(path)


def test_what_is_said_must_fit(made):
    path = made().path
    with pytest.raises(DataError, match="says there are 10 classes; expected 11, of --classes"):
        open_set(path, classes=11)
    with pytest.raises(DataError, match="labels: ml-dr has no label type ori; expected smooth or zeros"):
        open_set(path, "ori")
    with pytest.raises(DataError, match="labels: its files do not say what classes get that are not kept"):
        open_source(path)
    with pytest.raises(DataError, match="a set of mldr holds probs at temperature 1"):
        open_set(path, temperature=20)

# ruff: noqa: PT012, SIM117 (what a writer refuses may come when its context ends)
from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import softpack
from softpack.codecs.raw import Raw
from softpack.container import blockfile, tile_writer
from softpack.errors import CodecError, DataError, ExistsError
from softpack.format import layout
from softpack.records import LabelSpec

ROW = np.array([[0.5, 0.25, 0.25]], np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.spk"


def left_behind(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def write_one(path, **options):
    with softpack.create(path, "raw", classes=3, **options) as writer:
        writer.append(ROW, item=0, view=0)


# -- all or nothing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_behind(path, error, monkeypatch):
    monkeypatch.setattr(tile_writer, "PENDING_BYTES", 1)
    with pytest.raises(error), softpack.create(path, "raw", classes=3) as writer:
        writer.append(ROW, item=0, view=0)
        assert left_behind(path) == ["a.spk.partial"]
        raise error

    assert left_behind(path) == []


def test_nothing_is_overwritten_without_force(path):
    write_one(path)
    before = path.read_bytes()

    with pytest.raises(ExistsError, match=r"a\.spk is there already; give force=True to overwrite it"):
        write_one(path)
    with pytest.raises(ZeroDivisionError), softpack.create(path, "raw", classes=3, force=True) as writer:
        writer.append(-ROW, item=0, view=0)
        _ = 1 / 0

    assert path.read_bytes() == before
    assert left_behind(path) == ["a.spk"]
    write_one(path, force=True, seed=1)
    assert path.read_bytes() != before


def test_readers_of_an_overwritten_file_read_the_old_one(path):
    write_one(path)
    labels = softpack.open(path)

    with softpack.create(path, "raw", classes=3, force=True) as writer:
        writer.append(2 * ROW, item=0, view=0)

    np.testing.assert_array_equal(labels[0, 0], ROW[0])
    np.testing.assert_array_equal(softpack.open(path)[0, 0], 2 * ROW[0])


def test_what_a_killed_writer_left_is_refused(path):
    partial = path.with_name("a.spk.partial")
    partial.write_bytes(b"half a file")

    with pytest.raises(
        ExistsError, match=r"a\.spk\.partial .*\(11 bytes\).*softpack recover .*; force=True begins"
    ):
        write_one(path)
    assert partial.read_bytes() == b"half a file"

    write_one(path, force=True)
    assert left_behind(path) == ["a.spk"]


def test_two_writers_at_once(path):
    with softpack.create(path, "raw", classes=3) as writer:
        for force in (False, True):
            with pytest.raises(DataError, match="another process is writing it"):
                softpack.create(path, "raw", classes=3, force=force)
        writer.append(ROW, item=0, view=0)

    with softpack.append(path) as writer:
        with pytest.raises(DataError, match="another process is writing it"):
            softpack.append(path)
        with pytest.raises(DataError, match="another process is writing it"):
            softpack.recover(path)
        writer.append(ROW, item=0, view=1)

    assert len(softpack.open(path)) == 2


def test_a_partial_file_of_a_living_writer_is_not_recovered(path):
    with softpack.create(path, "raw", classes=3) as writer:
        writer.append(ROW, item=0, view=0)
        writer.commit()
        with pytest.raises(DataError, match="another process is writing it"):
            softpack.recover(path.with_name("a.spk.partial"))

    assert left_behind(path) == ["a.spk"]


@pytest.mark.parametrize("end", ["renamed", "removed"])
def test_a_lock_on_a_file_that_has_gone_is_no_lock(path, monkeypatch, end):
    """The first writer ends between the moments when the second opens the file and locks it."""
    first = softpack.create(path, "raw", classes=3)
    first.append(ROW, item=0, view=0)
    flock = blockfile.fcntl.flock

    def end_first(fd, how):
        monkeypatch.setattr(blockfile.fcntl, "flock", flock)
        first.close() if end == "renamed" else first.abandon()
        flock(fd, how)

    monkeypatch.setattr(blockfile.fcntl, "flock", end_first)
    with pytest.raises(DataError, match="another process is writing it"):
        softpack.create(path, "raw", classes=3, force=True)

    assert left_behind(path) == (["a.spk"] if end == "renamed" else [])
    if end == "renamed":
        assert len(softpack.open(path)) == 1


def test_a_file_system_without_locks_is_written_all_the_same(path, monkeypatch):
    def no_locks(fd, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(blockfile.fcntl, "flock", no_locks)
    write_one(path)

    assert len(softpack.open(path)) == 1


def test_a_writer_that_is_closed_says_so(path):
    with softpack.create(path, "raw", classes=3) as writer:
        writer.append(ROW, item=0, view=0)

    with pytest.raises(DataError, match="its writer is closed"):
        writer.commit()
    assert len(softpack.open(path)) == 1


@pytest.mark.parametrize(("name", "says"), [("none/a.spk", "No such file"), (".", "is a folder")])
def test_places_that_cannot_be_written(tmp_path, name, says):
    with pytest.raises(DataError, match=says):
        write_one(tmp_path / name, force=True)
    assert list(tmp_path.iterdir()) == []


DISK_FULL = """
import resource, signal, sys, numpy as np, softpack
from softpack.container import tile_writer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
tile_writer.PENDING_BYTES = 1
rows = np.random.default_rng(0).standard_normal((64, 100), np.float32)
how, path = sys.argv[1:]
writer = softpack.append(path) if how == "append" else softpack.create(path, "raw", classes=100)
try:
    with writer:
        for item in range(1, 100):
            writer.append(rows, item=item, view=np.arange(64))
except softpack.errors.DataError as error:
    print(error)
"""


def test_a_full_disk_leaves_nothing_behind(path):
    child = subprocess.run(
        [sys.executable, "-c", DISK_FULL, "create", path], capture_output=True, text=True, check=True
    )

    assert "could not be written: File too large; make room or write to another disk" in child.stdout
    assert left_behind(path) == []


def test_a_full_disk_leaves_what_was_there(path):
    with softpack.create(path, "raw", classes=100) as writer:
        writer.append(np.zeros((1, 100), np.float32), item=0, view=0)
    before = path.read_bytes()

    child = subprocess.run(
        [sys.executable, "-c", DISK_FULL, "append", path], capture_output=True, text=True, check=True
    )

    assert "make room or write to another disk" in child.stdout
    assert path.read_bytes() == before


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_disk_that_fails_once_stops_the_writer(path, monkeypatch, call):
    """The bytes after the failure would not be where the index says."""
    writer = softpack.create(path, "raw", classes=3)
    writer.append(ROW, item=0, view=0)

    def fail(*_):
        monkeypatch.undo()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(DataError, match="Input/output error; check the disk"):
        writer.commit()
    with pytest.raises(DataError, match="was stopped by an error"):
        writer.close()

    assert left_behind(path) == []


# -- the same bytes ------------------------------------------------------------------------------------------


def test_the_same_rows_give_the_same_bytes(tmp_path, random_rows):
    """Rows that wait together are sorted, so that neither batches nor their order show."""
    rows = random_rows(np.ones((9, 5), bool))

    files = [
        rows.write(tmp_path / "a.spk").read_bytes(),
        rows.write(tmp_path / "b.spk").read_bytes(),
        rows.write(tmp_path / "c.spk", batch=1).read_bytes(),
        rows.sorted().write(tmp_path / "d.spk", batch=45).read_bytes(),
    ]

    assert len(set(files)) == 1


def test_the_same_calls_give_the_same_bytes_when_rows_do_not_wait(tmp_path, random_rows, monkeypatch):
    monkeypatch.setattr(tile_writer, "PENDING_BYTES", 500)
    monkeypatch.setattr(tile_writer, "COMMIT_BYTES", 3000)
    rows = random_rows(np.ones((9, 5), bool))

    first = rows.write(tmp_path / "a.spk", tile=(2, 2)).read_bytes()
    second = rows.write(tmp_path / "b.spk", tile=(2, 2)).read_bytes()

    assert first == second


SAME = """
import hashlib, pathlib, sys, numpy as np, softpack
random = np.random.default_rng(0)
with softpack.create(sys.argv[1], "lowrank", classes=20, rank=4, seed=3) as writer:
    writer.set_items(target=np.arange(50), source_hw=np.ones((50, 2), int))
    for view in range(4):
        crops = random.integers(9, size=(50, 4))
        columns = {"flip": np.arange(50) % 2, "crop_xywh_fraction": random.random((50, 4)), "crop_xywh": crops}
        writer.append(random.standard_normal((50, 20)), item=np.arange(50), view=view, **columns)
print(hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes()).hexdigest())
"""


def test_hash_seeds_do_not_show(tmp_path):
    found = set()
    for seed in ("0", "1"):
        child = subprocess.run(
            [sys.executable, "-c", SAME, tmp_path / f"{seed}.spk"],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.add(child.stdout)

    assert len(found) == 1


# -- rows that are refused -----------------------------------------------------------------------------------

FLIP = {"flip": [True]}


@pytest.mark.parametrize(
    ("labels", "cell", "columns", "says"),
    [
        ([[0, float("nan"), 1]], {}, {}, "NaN|nan"),
        ([[0, float("inf"), 1]], {}, {}, "inf"),
        (ROW[:, :2], {}, {}, "rows have 2 numbers, expected 3"),
        (ROW[0], {}, {}, r"labels have the shape \(3,\), expected \[rows, classes\]"),
        (ROW.astype(np.int64), {}, {}, "labels are of int64, expected floating-point"),
        ([["a", "b", "c"]], {}, {}, "labels are of <U1"),
        ([[1.0, 2.0, 3.0], [1.0]], {}, {}, "labels is no array"),
        (np.full((1, 3), 1e300), {}, {}, "inf"),
        (ROW, {"item": 2}, {}, "item of row 1 .* is 2; expected a number from 0 to 1"),
        (ROW, {"view": 2}, {}, "view of row 1 .* is 2; expected a number from 0 to 1"),
        (ROW, {"item": -1}, {}, "is -1; expected a number from 0"),
        (ROW, {"item": 0.0}, {}, "item is float64 of shape"),
        (ROW, {"item": [0, 1]}, {}, r"item is int64 of shape \(2,\); expected 1 integers"),
        (ROW, {}, {"mix_item": [2], "mix_lam": [0.5]}, "mix_item of row 1"),
        (ROW, {}, {"colour": [1]}, "rows have no column 'colour'; expected one of crop_xywh, "),
        (ROW, {}, {"target": [1]}, "rows have no column 'target'"),
        (ROW, {}, {"flip": [True, False]}, r"flip has the shape \(2,\), expected \(1,\)"),
        (ROW, {}, {"flip": [2]}, "flip: expected true or false"),
        (ROW, {}, {"flip": ["yes"]}, "flip: expected true or false"),
        (ROW, {}, {"crop_xywh": [[0, 0, 1.5, 1]]}, "crop_xywh: expected whole numbers of 32 bits"),
        (ROW, {}, {"crop_xywh": [[0, 0, 1 << 31, 1]]}, "crop_xywh: expected whole numbers of 32 bits"),
        (ROW, {}, {"crop_xywh": [[0, 0, float("nan"), 1]]}, "crop_xywh: expected whole numbers"),
        (ROW, {}, {"crop_xywh": [[0, 0, 1]]}, r"crop_xywh has the shape \(1, 3\)"),
        (ROW, {}, {"mix_item": [0], "mix_lam": [float("nan")]}, "mix_lam holds NaN"),
        (ROW, {}, {"mix_item": [0], "mix_lam": [1e300]}, "mix_lam holds NaN, infinite"),
        (ROW, {}, {"mix_item": [0], "mix_lam": ["half"]}, "mix_lam holds NaN, infinite or no numbers"),
        (ROW, {}, {}, "found the columns none; the rows before have flip"),
    ],
)
def test_bad_rows_are_refused_and_good_ones_kept(path, labels, cell, columns, says):
    with softpack.create(path, "raw", classes=3, items=2, views=2, dtype="fp32") as writer:
        writer.append(ROW, item=0, view=0, **FLIP)
        with pytest.raises(DataError, match=says) as refused:
            writer.append(labels, **{"item": 1, "view": 1, **cell}, **columns)
        assert str(path) in str(refused.value)
        assert writer.n_rows == 1
        writer.append(ROW, item=1, view=1, **FLIP)

    labels = softpack.open(path)
    assert labels.cells()[0].tolist() == [0, 1]
    np.testing.assert_array_equal(labels.read([0, 1], [0, 1]), np.repeat(ROW, 2, axis=0))


@pytest.mark.parametrize(
    ("space", "row", "says"),
    [
        ("probs", [0.5, 0.4, 0.4], "sum"),
        ("probs", [-0.5, 1, 0.5], "-0.5"),
        ("log_probs", [0.0, 0.0, 0.0], "sum"),
    ],
)
def test_rows_that_are_no_distributions_are_refused(path, space, row, says):
    with pytest.raises(DataError, match=says), softpack.create(path, "raw", classes=3, space=space) as writer:
        writer.append(np.array([row], np.float32), item=0, view=0)
    assert left_behind(path) == []


@pytest.mark.parametrize("pending_bytes", [1, 1 << 20])
@pytest.mark.parametrize(
    "calls", [[[0, 0]], [[0], [0]], [[0], None, [0]]], ids=["a batch", "batches", "commits"]
)
def test_a_label_given_twice_is_refused(path, monkeypatch, pending_bytes, calls):
    monkeypatch.setattr(tile_writer, "PENDING_BYTES", pending_bytes)
    with pytest.raises(DataError, match=r"item 4, view 0 is there (twice|already); every"):
        with softpack.create(path, "raw", classes=3, tile=(2, 2)) as writer:
            for views in calls:
                if views is None:
                    writer.commit()
                else:
                    writer.append(np.repeat(ROW, len(views), axis=0), item=4, view=views)
    assert left_behind(path) == (["a.spk.partial"] if None in calls else [])


def test_what_was_committed_outlives_an_error(path):
    with pytest.raises(DataError, match=r"nan"), softpack.create(path, "raw", classes=3) as writer:
        writer.append(ROW, item=0, view=0)
        writer.commit()
        writer.append(ROW * 2, item=1, view=0)
        writer.append(ROW * np.nan, item=2, view=0)
    assert left_behind(path) == ["a.spk.partial"]

    assert softpack.recover(f"{path}.partial").n_rows == 1
    np.testing.assert_array_equal(softpack.open(path)[0, 0], ROW[0])


def test_an_error_that_lost_rows_cannot_be_ignored(path, monkeypatch):
    monkeypatch.setattr(tile_writer, "PENDING_BYTES", 1)
    with (
        pytest.raises(DataError, match="was stopped by an error"),
        softpack.create(path, "raw", classes=3) as writer,
    ):
        with pytest.raises(DataError, match="twice"):
            writer.append(np.repeat(ROW, 3, axis=0), item=0, view=[0, 1, 1])
        writer.append(ROW, item=0, view=2)

    assert left_behind(path) == []


def test_an_encoder_that_refuses_rows_loses_none(path):
    with softpack.create(path, "raw", classes=3) as writer:
        writer.append(ROW, item=0, view=0)
        with pytest.raises(CodecError, match="too large for fp16; set dtype=fp32"):
            writer.append(1e6 * ROW, item=0, view=1)
        assert writer.n_rows == 1

    assert len(softpack.open(path)) == 1


def test_a_partner_that_is_not_there_is_refused(path):
    with pytest.raises(DataError, match="item 7, view 1 is named as a mix partner, but has no label"):
        with softpack.create(path, "raw", classes=3) as writer:
            writer.append(ROW, item=7, view=0, mix_item=[-1], mix_lam=[1])
            writer.append(ROW, item=0, view=1, mix_item=[7], mix_lam=[0.5])
    assert left_behind(path) == []


BOX, NO_BOX = [0, 0, 2, 2], [-1, -1, -1, -1]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"mix_item": [-1, 0]}, "has mix_item but neither mix_lam nor mix_box_xyxy, so that nobody can mix"),
        ({"mix_lam": [1, 0.5]}, "has mix_lam but no mix_item; expected the item that each row is mixed with"),
        ({"mix_box_xyxy": [NO_BOX, BOX]}, "has mix_box_xyxy but no mix_item"),
        (
            {"mix_item": [-1, 0], "mix_box_xyxy": [NO_BOX, NO_BOX]},
            r"mix_item of row 1 \(item 1, view 0\) is 0; expected a mix_box_xyxy beside it; or -1 if",
        ),
        (
            {"mix_item": [-1, 0], "mix_box_xyxy": [NO_BOX, NO_BOX], "mix_lam": [1, 1.5]},
            "mix_item of row 1 .* is 0; expected a mix_lam from 0 to 1 or mix_box_xyxy beside it",
        ),
        (
            {"mix_item": [-1, 0], "mix_lam": [1, -1]},
            "mix_item of row 1 .* is 0; expected a mix_lam from 0 to 1",
        ),
        (
            {"mix_item": [-1, 0], "mix_box_xyxy": [BOX, BOX], "mix_lam": [1, 1]},
            r"mix_box_xyxy of row 0 .* is \[0, 0, 2, 2\]; expected -1 four times, as its mix_item is -1",
        ),
    ],
)
def test_mixes_that_nobody_could_replay_are_refused(path, columns, says):
    rows = np.repeat(ROW, 2, axis=0)
    with pytest.raises(DataError, match=rf"a\.spk: {says}"), softpack.create(path, "raw", classes=3) as writer:
        writer.append(rows, item=[0, 1], view=0, **columns)
    assert left_behind(path) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"mix_box_xyxy": [NO_BOX, BOX]},
        {"mix_lam": [0, 1]},
        {"mix_lam": [9, 0.5]},  # of a row that is not mixed
        {"mix_lam": [1, 0.5], "mix_box_xyxy": [NO_BOX, NO_BOX]},
        {"mix_lam": [1, -1], "mix_box_xyxy": [NO_BOX, BOX]},
    ],
)
def test_either_half_of_a_mix_is_enough(path, columns):
    with softpack.create(path, "raw", classes=3) as writer:
        writer.append(np.repeat(ROW, 2, axis=0), item=[0, 1], view=0, mix_item=[-1, 0], **columns)
    assert softpack.open(path).columns[0] == "mix_item"


def test_a_partner_may_come_later(path):
    with softpack.create(path, "raw", classes=3) as writer:
        writer.append(ROW, item=0, view=1, mix_item=[7], mix_lam=[0.5])
        writer.append(ROW, item=7, view=1, mix_item=[0], mix_lam=[0.5])

    assert softpack.open(path).replay([0, 7], [1, 1])["mix_item"].tolist() == [7, 0]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"target": [1]}, "target has 1 items, the file has 2"),
        ({"target": 1}, "column target has the shape"),
        ({"target": [0.5, 1]}, "target: expected whole numbers"),
        ({"source_hw": [[1, 2, 3], [1, 2, 3]]}, "source_hw has the shape"),
        ({"flip": [0, 1]}, "items have no column 'flip'; expected one of source_hw, target"),
    ],
)
def test_bad_item_columns_are_refused(path, columns, says):
    with pytest.raises(DataError, match=says), softpack.create(path, "raw", classes=3) as writer:
        writer.set_items(**columns)
        writer.append(np.repeat(ROW, 2, axis=0), item=[0, 1], view=0)
    assert left_behind(path) == []


def test_item_columns_come_before_rows(path):
    with pytest.raises(DataError, match="say target before the first rows"):
        with softpack.create(path, "raw", dtype="fp32", classes=3) as writer:
            writer.append(ROW, item=0, view=0)
            writer.commit()
            writer.set_items(target=[1])


# -- arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"classes": None}, CodecError, "say classes="),
        ({"classes": 1}, DataError, "1 classes"),
        ({"codec": "zip"}, softpack.errors.UnsupportedError, "codec 'zip' is not known"),
        ({"k": 3}, CodecError, "its settings are dtype"),
        ({"items": -1}, DataError, "items is -1"),
        ({"views": 1 << 32}, DataError, "views is 4294967296"),
        ({"tile": (0, 4)}, DataError, "tile is 0 items x 4 views"),
        (
            {"tile": (1 << 13, 1 << 13)},
            DataError,
            "tile is 8192 items x 8192 views; expected 1 to 16777216 rows",
        ),
        ({"codec": Raw(LabelSpec(3)), "dtype": "fp32"}, CodecError, "give no other classes and settings"),
        ({"codec": Raw(LabelSpec(4)), "classes": 3}, CodecError, "give no other classes and settings"),
        ({"space": "odds"}, DataError, "space is 'odds'"),
    ],
)
def test_bad_arguments_are_refused(path, options, error, says):
    options = {"codec": "raw", "classes": 3, **options}
    with pytest.raises(error, match=says), softpack.create(path, **options) as writer:
        writer.append(ROW, item=0, view=0)
    assert left_behind(path) == []


def test_a_tile_of_more_numbers_than_readers_take_is_refused(path, monkeypatch):
    monkeypatch.setattr(layout, "MAX_TILE_VALUES", 30)
    with (
        pytest.raises(DataError, match="expected 1 to 10 rows"),
        softpack.create(path, "raw", classes=3, tile=(4, 3)),
    ):
        pass


def test_a_model_is_no_use_without_rows_to_fit_it(path):
    with pytest.raises(DataError, match="no rows to fit the codec lowrank to"):
        with softpack.create(path, "lowrank", classes=3):
            pass
    assert left_behind(path) == []


@dataclass(frozen=True)
class Flip(Raw):
    """Names its codes as a column is named."""

    codec_id = "flip"

    @property
    def codes(self):
        return (replace(super().codes[0], name="flip"),)


def test_codes_must_not_be_named_as_columns(path):
    with pytest.raises(CodecError, match="codec flip names its codes flip, as columns are named"):
        with softpack.create(path, Flip(LabelSpec(3))) as writer:
            writer.append(ROW, item=0, view=0, **FLIP)


@pytest.mark.parametrize(
    "given",
    [
        ROW.astype(np.float16),
        ROW.astype(np.float64),
        torch.from_numpy(ROW),
        torch.from_numpy(ROW).bfloat16(),
        ROW.tolist(),
    ],
    ids=["fp16", "fp64", "tensor", "bf16 tensor", "lists"],
)
def test_rows_come_in_many_kinds(path, given):
    with softpack.create(path, "raw", classes=3) as writer:
        columns = {"crop_xywh_fraction": torch.tensor([[0, 0, 0.5, 0.5]]), "flip": [1]}
        writer.append(given, item=torch.tensor([3]), view=[np.int8(1)], **columns)

    labels = softpack.open(path)
    np.testing.assert_array_equal(labels[3, 1], ROW[0])
    assert labels.replay([3], [1])["flip"].tolist() == [True]


def test_rows_are_copied(path):
    rows, crop = ROW.copy(), np.array([[0, 0, 0.5, 1]], np.float32)
    with softpack.create(path, "raw", classes=3) as writer:
        writer.append(rows, item=0, view=0, crop_xywh_fraction=crop)
        rows[:], crop[:] = 9, 9

    np.testing.assert_array_equal(softpack.open(path)[0, 0], ROW[0])
    assert softpack.open(path).replay([0], [0])["crop_xywh_fraction"].tolist() == [[0, 0, 0.5, 1]]


@pytest.mark.parametrize("by_view", [True, False])
def test_rows_that_come_view_by_view_fall_into_tiles_that_fill_up(tmp_path, by_view):
    items, views, classes = 600, 40, 2000
    with softpack.create(tmp_path / "a.spk", "raw", items=items, views=views, classes=classes) as writer:
        cells = np.stack(np.divmod(np.arange(items * views), views if not by_view else items), 1)
        for start in range(0, len(cells), 3000):
            part = cells[start : start + 3000]
            item_B, view_B = part.T[::-1] if by_view else part.T
            writer.append(np.zeros((len(part), classes), np.float16), item=item_B, view=view_B)
    file = softpack.open(tmp_path / "a.spk").file
    tile = file.header.tile_items, file.header.tile_views
    assert tile[1] < views if by_view else tile[1] == views
    assert len(file.parts) == -(-items // tile[0]) * -(-views // tile[1])  # each tile in one part

"""Labels go straight into a file, are those of the replayed pixels, and go on where they were stopped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from relabelling_helpers import CLASSES, RECIPE, SIZE, Images, N, make_teacher
from torch import nn

import softpack
from softpack.errors import CodecError, DataError, ExistsError
from softpack.relabelling import run as module

V = 12


def said_by(teacher, images, labels, items, views):
    """Return what a teacher says of replayed pixels."""
    dataset = softpack.SoftLabelDataset(images, labels, transform=softpack.replay(SIZE))
    pixels_BCHW = torch.stack([dataset[item, view][0] for item, view in zip(items, views, strict=True)])
    teacher.eval()
    with torch.no_grad():
        return teacher(pixels_BCHW)


def everything():
    return np.divmod(np.arange(N * V), V)


@pytest.mark.parametrize("store", [False, True])
def test_labels_are_those_of_the_replayed_pixels(tmp_path, teacher, images, store):
    softpack.relabel(teacher, images, V, RECIPE, tmp_path / "a.spk", "raw", store_replay=store, batch_size=7)
    labels = softpack.open(tmp_path / "a.spk")
    assert labels.shape == (N, V, CLASSES)
    assert labels.n_rows == N * V
    items, views = everything()
    said_BC = said_by(teacher, images, labels, items, views)
    torch.testing.assert_close(labels.read(items, views), said_BC, rtol=1e-3, atol=1e-3)  # fp16
    assert labels.item_column("target").tolist() == [n % CLASSES for n in range(N)]
    assert (labels.file.header.stream("replay") is not None) is store
    assert labels.recipe == dataclasses.replace(RECIPE, items=N)


@pytest.mark.parametrize(
    "recipe",
    [
        softpack.Recipe(size=SIZE, seed=1),
        softpack.Recipe(size=SIZE, scale=None, flip=0, mix="mixup", alpha=0.8, seed=2),
        softpack.Recipe(size=SIZE, scale=(0.5, 1.0), mix="cutmix", patches=2, seed=3),
    ],
    ids=["SRe2L without mixing", "Mixup", "RDED"],
)
def test_every_kind_of_augmentation(tmp_path, teacher, images, recipe):
    softpack.relabel(teacher, images, 3, recipe, tmp_path / "a.spk", "raw")
    labels = softpack.open(tmp_path / "a.spk")
    items, views = np.divmod(np.arange(N * 3), 3)
    torch.testing.assert_close(
        labels.read(items, views), said_by(teacher, images, labels, items, views), rtol=1e-3, atol=1e-3
    )


def test_a_target_is_met_by_what_the_first_views_say(tmp_path, teacher, images):
    said = []
    softpack.relabel(
        teacher, images, 60, RECIPE, tmp_path / "a.spk", "klt", target_bits=40, spool_views=20,
        say=lambda trial, what: said.append(what),
    )  # fmt: skip
    assert "in full" in said
    ledger = softpack.ledger(tmp_path / "a.spk")
    assert 30 < ledger.marginal_bits_per_label < 60  # few labels, of which the file's own parts are many bits
    found = softpack.check(tmp_path / "a.spk", teacher, images, rows=500)
    assert found.labels.temperatures[4.0].kl_mean < 0.05
    assert found.labels.top1_agreement > 0.9


def test_a_promise_is_kept_of_views_that_were_not_spooled(tmp_path, teacher, images):
    softpack.relabel(
        teacher, images, V, RECIPE, tmp_path / "a.spk", "quantize", bits=2, max_kl=0.05, spool_views=2,
        temperatures=(1, 4),
    )  # fmt: skip
    labels = softpack.open(tmp_path / "a.spk")
    items, views = everything()
    found = softpack.fidelity(labels.read(items, views), said_by(teacher, images, labels, items, views).numpy())
    assert max(found.temperatures[T].kl_max for T in (1.0, 4.0)) <= 0.0501


def test_a_committee_is_averaged(tmp_path, images):
    committee = [make_teacher(0), make_teacher(1)]
    softpack.relabel(committee, images, 2, RECIPE, tmp_path / "a.spk", "raw")
    labels = softpack.open(tmp_path / "a.spk")
    items, views = np.divmod(np.arange(N * 2), 2)
    said = [said_by(one, images, labels, items, views) for one in committee]
    torch.testing.assert_close(labels.read(items, views), (said[0] + said[1]) / 2, rtol=1e-3, atol=1e-3)


def test_the_teacher_is_left_as_it_was(tmp_path, teacher, images):
    teacher.train()
    teacher[1].eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    softpack.relabel(teacher, images, 2, RECIPE, tmp_path / "a.spk", "raw")
    assert teacher.training
    assert not teacher[1].training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_images_are_loaded_once_a_view(tmp_path, teacher, images):
    """Partners stand beside each other: one more image a batch, where each row alone would load two."""
    softpack.relabel(teacher, images, V, RECIPE, tmp_path / "a.spk", "raw", batch_size=N)
    first_pass = N + 8 + 1
    assert images.loads <= first_pass + N * V + V


# -- stopped and gone on with ------------------------------------------------------------------------------


class Stopping(nn.Module):
    """A teacher that is interrupted after so many batches."""

    def __init__(self, teacher: nn.Module, after: int) -> None:
        super().__init__()
        self.teacher, self.after = teacher, after

    def forward(self, pixels_BCHW):
        self.after -= 1
        if self.after < 0:
            raise KeyboardInterrupt
        return self.teacher(pixels_BCHW)

    def state_dict(self, *args, **kwargs):
        return self.teacher.state_dict()


@pytest.mark.parametrize("after", [1, 5, 14, 30])
def test_an_interrupted_run_goes_on_to_the_same_labels(tmp_path, images, after):
    how = {"codec": "klt", "target_bits": 40, "spool_views": 6, "batch_size": 10}
    softpack.relabel(make_teacher(), images, V, RECIPE, tmp_path / "straight.spk", **how)
    with pytest.raises(KeyboardInterrupt):
        softpack.relabel(Stopping(make_teacher(), after), images, V, RECIPE, tmp_path / "a.spk", **how)
    assert not (tmp_path / "a.spk").exists()
    softpack.relabel(make_teacher(), images, V, RECIPE, tmp_path / "a.spk", **how)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.spk", "straight.spk"]
    straight, resumed = softpack.open(tmp_path / "straight.spk"), softpack.open(tmp_path / "a.spk")
    items, views = everything()
    assert torch.equal(straight.read(items, views), resumed.read(items, views))


@pytest.mark.parametrize("after", [3, 20])
def test_rows_that_were_written_are_not_asked_for_again(tmp_path, images, after):
    how = {"codec": "raw", "spool_views": 6, "batch_size": 10}
    with pytest.raises(KeyboardInterrupt):
        softpack.relabel(Stopping(make_teacher(), after), images, V, RECIPE, tmp_path / "a.spk", **how)
    all_batches = 3 * V  # of 24 images, 10 at once
    left = Stopping(make_teacher(), all_batches - (after - 1) + 2)
    softpack.relabel(left, images, V, RECIPE, tmp_path / "a.spk", **how)
    assert 0 <= left.after <= 4


def test_what_a_killed_run_left_is_made_whole(tmp_path, images, monkeypatch):
    """As if the process had died: nothing is committed or cut back at the end."""
    how = {"codec": "raw", "spool_views": 4, "batch_size": 10}
    with pytest.raises(KeyboardInterrupt):
        softpack.relabel(Stopping(make_teacher(), 25), images, V, RECIPE, tmp_path / "a.spk", **how)
    unfinished = tmp_path / "a.spk.unfinished"
    with unfinished.open("ab") as file:
        file.write(b"torn" * 50)
    softpack.relabel(make_teacher(), images, V, RECIPE, tmp_path / "a.spk", **how)
    assert softpack.open(tmp_path / "a.spk").n_rows == N * V


def test_a_run_that_was_killed_at_its_last_step_goes_on(tmp_path, images, monkeypatch):
    how = {"codec": "raw", "spool_views": 4, "batch_size": 10}

    def killed(path, out, **kwargs):
        (tmp_path / "a.spk.partial").write_bytes(b"half")
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(module, "repack", killed)
        with pytest.raises(SystemExit):
            softpack.relabel(make_teacher(), images, V, RECIPE, tmp_path / "a.spk", **how)
    softpack.relabel(make_teacher(), images, V, RECIPE, tmp_path / "a.spk", **how)
    assert [path.name for path in tmp_path.iterdir()] == ["a.spk"]
    assert softpack.open(tmp_path / "a.spk").n_rows == N * V


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"replay": dataclasses.replace(RECIPE, seed=9)}, "seed is 9, and was 4"),
        ({"replay": dataclasses.replace(RECIPE, scale=(0.5, 1.0))}, r"scale is \(0.5, 1.0\), and was"),
        ({"teacher": make_teacher(7)}, "the teacher's weights are others"),
        ({"images": Images(seed=3)}, "the images look otherwise"),
        ({"images": Images(n=20)}, "items is 20, and was 24"),
        ({"views": V + 1}, f"views is {V + 1}, and was {V}"),
        ({"codec": "quantize"}, "encoding is quantize, and was raw"),
    ],
    ids=["seed", "crops", "teacher", "images", "fewer images", "views", "codec"],
)
def test_what_another_run_left_is_refused(tmp_path, images, change, said):
    how = {"teacher": Stopping(make_teacher(), 30), "images": images, "views": V, "replay": RECIPE, "codec": "raw",
           "batch_size": 10, "spool_views": 4}  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        softpack.relabel(out=tmp_path / "a.spk", **how)
    how = {**how, "teacher": make_teacher(), **change}
    with pytest.raises(DataError, match=f"was left by another run: .*{said}.*restart=True"):
        softpack.relabel(out=tmp_path / "a.spk", **how)
    softpack.relabel(out=tmp_path / "a.spk", restart=True, **how)
    assert softpack.open(tmp_path / "a.spk").n_rows == len(how["images"]) * how["views"]


# -- refused before the first label ------------------------------------------------------------------------


def test_a_committee_that_disagrees_on_classes_is_refused(tmp_path, images):
    with pytest.raises(DataError, match="teachers of the committee give 10 and 12 classes"):
        softpack.relabel([make_teacher(), make_teacher(classes=10)], images, 2, RECIPE, tmp_path / "a.spk")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [[], [3], "resnet18", None])
def test_what_is_no_teacher_is_refused(tmp_path, images, given):
    with pytest.raises(DataError, match=r"the teacher is .*; expected a torch module, or several"):
        softpack.relabel(given, images, 2, RECIPE, tmp_path / "a.spk")


def test_a_teacher_that_gives_no_logits_is_refused(tmp_path, images):
    with pytest.raises(DataError, match=r"the teacher gives \[1, 3, 16, 16\] for 1 images; expected logits"):
        softpack.relabel(nn.Identity(), images, 2, RECIPE, tmp_path / "a.spk")


def test_a_teacher_that_gives_nan_is_refused(tmp_path, images):
    class Broken(nn.Module):
        def forward(self, pixels_BCHW):
            return torch.full((len(pixels_BCHW), 5), float("nan"))

    with pytest.raises(DataError, match="logits, class 0, of row 0"):
        softpack.relabel(Broken(), images, 2, RECIPE, tmp_path / "a.spk", "raw")


@pytest.mark.parametrize("images", [[], None, 5])
def test_what_are_no_images_is_refused(tmp_path, teacher, images):
    with pytest.raises(DataError, match="images"):
        softpack.relabel(teacher, images, 2, RECIPE, tmp_path / "a.spk")


@pytest.mark.parametrize(("name", "value"), [("views", 0), ("views", 2.5), ("batch_size", 0)])
def test_numbers_that_are_none_are_refused(tmp_path, teacher, images, name, value):
    with pytest.raises(DataError, match=f"relabel: {name} is {value}; expected a whole number from 1"):
        softpack.relabel(**{"teacher": teacher, "images": images, "views": 2, "replay": RECIPE,
                            "out": tmp_path / "a.spk", name: value})  # fmt: skip


def test_a_file_that_is_there_stays(tmp_path, teacher, images):
    (tmp_path / "a.spk").write_bytes(b"mine")
    with pytest.raises(ExistsError):
        softpack.relabel(teacher, images, 2, RECIPE, tmp_path / "a.spk", "raw")
    assert (tmp_path / "a.spk").read_bytes() == b"mine"
    softpack.relabel(teacher, images, 2, RECIPE, tmp_path / "a.spk", "raw", force=True)
    assert softpack.open(tmp_path / "a.spk").n_rows == 2 * N


def test_a_target_that_cannot_be_met_leaves_the_spool_to_try_another(tmp_path, teacher, images):
    with pytest.raises(CodecError):
        softpack.relabel(teacher, images, V, RECIPE, tmp_path / "a.spk", "klt", target_kl=1e-12, rank=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.spk.spool"]
    counting = Stopping(teacher, 10**6)
    softpack.relabel(counting, images, V, RECIPE, tmp_path / "a.spk", "raw")
    assert 10**6 - counting.after <= 1  # the classes; all views were spooled


def test_the_spool_is_enough_for_prototypes_and_the_fit(monkeypatch):
    run = module.Run(*[None] * 2, 300, *[None] * 6)
    assert run._n_spooled(None, 10_000, 1000) == module.SPOOL_VIEWS
    assert run._n_spooled(None, 1000, 1000) * 1000 >= 2 * module.fit_rows(1000)
    assert run._n_spooled(None, 10, 1000) == 300
    assert run._n_spooled(5, 10, 1000) == 5

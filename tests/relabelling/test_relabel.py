"""Labels go straight into a file, are those of the replayed pixels, and go on where they were stopped."""

from __future__ import annotations

import dataclasses
import time

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
    looks, probe = 8 + 8, 4 + 4  # before and after; with partners
    assert images.loads <= N + looks + probe + N * V + V


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
        ({"teacher": make_teacher(7)}, "the teacher gives other logits"),
        ({"images": Images(seed=3)}, "the images are others"),
        ({"images": Images(n=20)}, "items is 20, and was 24"),
        ({"mean": (0.5,) * 3, "std": (0.2,) * 3}, "the teacher gives other logits: its weights, mean or std"),
        ({"images": Images().swapped()}, "the images are others, in size, in class or in how they look"),
        ({"views": V + 1}, f"views is {V + 1}, and was {V}"),
        ({"codec": "quantize"}, "encoding is quantize, and was raw"),
    ],
    ids=["seed", "crops", "teacher", "images", "fewer images", "mean", "two swapped", "views", "codec"],
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


def test_files_of_others_stay(tmp_path, teacher, images):
    (tmp_path / "a.spk.spool").write_text("mine")
    with pytest.raises(DataError, match=r"a\.spk\.spool: was not left by an interrupted run, or is damaged"):
        softpack.relabel(teacher, images, 2, RECIPE, tmp_path / "a.spk", "raw")
    assert (tmp_path / "a.spk.spool").read_text() == "mine"


def test_two_runs_at_once_are_refused(tmp_path, teacher, images):
    class Calling(nn.Module):
        def forward(self, pixels_BCHW):
            with pytest.raises(DataError, match="another run is writing it"):
                softpack.relabel(teacher, images, 2, RECIPE, tmp_path / "a.spk", "raw", restart=True)
            return teacher(pixels_BCHW)

    softpack.relabel(Calling(), images, 2, RECIPE, tmp_path / "a.spk", "raw")
    assert [path.name for path in tmp_path.iterdir()] == ["a.spk"]


def test_a_teacher_may_use_its_output_again(tmp_path, images, monkeypatch):
    class Reusing(nn.Module):
        """Writes into the same memory each time, and other numbers in it soon after."""

        def __init__(self):
            super().__init__()
            self.inner, self.memory = make_teacher(), torch.empty(N, CLASSES)

        def forward(self, pixels_BCHW):
            given = self.memory[: len(pixels_BCHW)]
            given.copy_(self.inner(pixels_BCHW))
            return given

    from softpack.relabelling import labeller

    add = labeller._add

    def slowly(*arguments):
        time.sleep(0.02)
        add(*arguments)

    monkeypatch.setattr(labeller, "_add", slowly)
    softpack.relabel(Reusing(), images, 3, RECIPE, tmp_path / "a.spk", "raw", batch_size=6)
    labels = softpack.open(tmp_path / "a.spk")
    items, views = np.divmod(np.arange(N * 3), 3)
    torch.testing.assert_close(
        labels.read(items, views), said_by(make_teacher(), images, labels, items, views), rtol=1e-3, atol=1e-3
    )


def test_labels_of_large_logits_are_exact(tmp_path, teacher, images):
    """The first views wait on the disk as they came, whatever constant the logits have."""

    class Lifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = teacher

        def forward(self, pixels_BCHW):
            return self.inner(pixels_BCHW) + 3000

    softpack.relabel(Lifted(), images, 3, RECIPE, tmp_path / "a.spk", "raw", dtype="fp32")
    found = softpack.check(tmp_path / "a.spk", Lifted(), images)
    assert found.labels.temperatures[1.0].kl_max < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_teachers_of_half_precision(tmp_path, images, dtype):
    softpack.relabel(make_teacher().to(dtype), images, 2, RECIPE, tmp_path / "a.spk", "raw")
    assert softpack.check(tmp_path / "a.spk", make_teacher(), images).labels.top1_agreement > 0.8


@pytest.mark.parametrize("target", [None, "cat", 0.7, [0, 1, 0]])
def test_targets_that_are_no_classes_are_none(tmp_path, teacher, images, target):
    given = [(pixels, target) for pixels in images.pixels]
    softpack.relabel(teacher, given, 2, RECIPE, tmp_path / "a.spk", "raw")
    assert "target" not in softpack.open(tmp_path / "a.spk").item_columns


def test_some_images_may_lack_a_target(tmp_path, teacher, images):
    given = [(pixels, -1 if n == 3 else np.int64(n)) for n, pixels in enumerate(images.pixels)]
    softpack.relabel(teacher, given, 2, RECIPE, tmp_path / "a.spk", "raw")
    assert softpack.open(tmp_path / "a.spk").item_column("target").tolist() == [0, 1, 2, -1, *range(4, N)]


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
    with pytest.raises(DataError, match=r"the teacher gives \[4, 3, 16, 16\] for 4 images; expected logits"):
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


def test_other_things_than_a_recipe_are_refused(tmp_path, teacher, images):
    with pytest.raises(DataError, match=r"replay is a Replay; expected softpack.Recipe\(size=...\)"):
        softpack.relabel(teacher, images, 2, softpack.replay(16), tmp_path / "a.spk")


def test_a_folder_is_refused_before_any_work(tmp_path, teacher, images):
    (tmp_path / "a.spk").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        softpack.relabel(teacher, images, 2, RECIPE, tmp_path / "a.spk", "raw", force=True)


@pytest.mark.parametrize(
    ("name", "value"), [("views", 0), ("views", 2.5), ("batch_size", 0), ("spool_views", 1.5)]
)
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

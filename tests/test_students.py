"""The student benchmark: arms differ in their labels alone, cost what they cost, and are compared fairly."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import softpack

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
CLASSES, PER_CLASS, SIZE, VIEWS = 10, 4, 8, 6


@pytest.fixture(scope="module")
def students() -> Iterator[SimpleNamespace]:
    pytest.importorskip("rich")
    sys.path.insert(0, str(BENCHMARKS))
    names = (
        "arms",
        "experiments",
        "glyphs",
        "networks",
        "pictures",
        "report",
        "run",
        "selection",
        "student",
        "teacher",
    )
    yield SimpleNamespace(**{name: importlib.import_module(f"students.{name}") for name in names})
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def pictures(students: SimpleNamespace) -> Any:
    """Squares whose place says their class, with noise."""
    random = np.random.default_rng(0)

    def part(per_class: int) -> Any:
        targets_N = np.repeat(np.arange(CLASSES), per_class)
        images_NCHW = random.integers(0, 60, (len(targets_N), 1, SIZE, SIZE))
        for n, target in enumerate(targets_N):
            images_NCHW[n, 0, target % 5 : target % 5 + 3, target // 5 * 4 : target // 5 * 4 + 4] += 180
        return students.pictures.Part(
            torch.from_numpy(images_NCHW.astype(np.uint8)), torch.from_numpy(targets_N)
        )

    return students.pictures.Pictures(part(30), part(5), part(10), SIZE)


@pytest.fixture(scope="module")
def teacher(students: SimpleNamespace, pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    how = students.teacher.Training((8, 16), 30, 0.8, flip=False)
    path = tmp_path_factory.mktemp("teacher") / "deep" / "teacher.safetensors"
    trained = students.teacher.trained(pictures, replace(how), path, lambda done, n: None)
    again = students.teacher.trained(pictures, how, path, lambda done, n: pytest.fail("it was kept"))
    for one, other in zip(trained.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    return again


@pytest.fixture(scope="module")
def labelled(
    students: SimpleNamespace, pictures: Any, teacher: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """All labels as fp16, one of each image, and the images."""
    folder = tmp_path_factory.mktemp("labels")
    images = students.selection.chosen(pictures, "random", PER_CLASS, teacher, seed=0)
    mean, std = pictures.mean_std
    drawn = softpack.Recipe(size=SIZE, scale=(0.7, 1.0), flip=0.0, mix="cutmix", mixed=0.5, seed=1)
    whole = softpack.Recipe(size=SIZE, scale=None, flip=0.0)
    for name, recipe, views in (("full", drawn, VIEWS), ("image", whole, 1)):
        softpack.relabel(
            teacher, images, views, recipe, folder / f"{name}.spk", "raw", dtype="fp16", mean=mean, std=std
        )
    return SimpleNamespace(folder=folder, images=images, full=folder / "full.spk", image=folder / "image.spk")


def written(students: SimpleNamespace, labelled: SimpleNamespace, arm: Any, batch: int = 8) -> tuple[Any, Any]:
    out = labelled.folder / f"{arm.slug}.spk"
    students.arms.write(arm, labelled.full, labelled.image, out, batch, 0)
    return softpack.open(out), students.arms.cost(arm, labelled.full, labelled.image, out)


def rows_of(labels: Any) -> torch.Tensor:
    return labels.read(*labels.cells())


# -- images --------------------------------------------------------------------------------------------


def test_a_teacher_learns_and_is_kept(students: SimpleNamespace, pictures: Any, teacher: nn.Module) -> None:
    assert students.teacher.top1(teacher, pictures.test, pictures) > 0.8


@pytest.mark.parametrize("source", ["random", "rded"])
def test_as_many_images_of_each_class(
    students: SimpleNamespace, pictures: Any, teacher: nn.Module, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(students.selection, "CANDIDATES", 20)
    first, again, other = (students.selection.chosen(pictures, source, 3, teacher, seed) for seed in (0, 0, 1))
    assert first.targets_N.tolist() == [c for c in range(CLASSES) for _ in range(3)]
    assert torch.equal(first.images_NCHW, again.images_NCHW)
    assert not torch.equal(first.images_NCHW, other.images_NCHW)
    assert first.images_NCHW.dtype == torch.uint8


def test_rded_takes_what_the_teacher_is_surest_of(
    students: SimpleNamespace, pictures: Any, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(students.selection, "CANDIDATES", 20)
    losses = {}
    for source in ("random", "rded"):
        part = students.selection.chosen(pictures, source, 2, teacher, 0)
        pixels = students.teacher.pixels_of(part, pictures)
        logits_NC = students.networks.logits_of(teacher, pixels)
        losses[source] = float(nn.functional.cross_entropy(logits_NC, part.targets_N))
    assert losses["rded"] < losses["random"]


def test_common_characters_stand_in_all_three_standards(students: SimpleNamespace) -> None:
    common = students.glyphs._common()
    assert len(common) == len(set(common)) > 1500
    for encoding, leads in students.glyphs.LEVELS.items():
        assert {character.encode(encoding)[0] for character in common} <= set(leads)


def test_no_face_is_in_two_parts(students: SimpleNamespace) -> None:
    parts = (students.glyphs.TRAIN, students.glyphs.VALIDATION, students.glyphs.TEST)
    packages = [{face.package for face in part} for part in parts]
    assert sum(map(len, packages)) == len(set.union(*packages))


# -- arms ----------------------------------------------------------------------------------------------


def test_hard_labels_of_mixed_views_are_mixed_by_area(
    students: SimpleNamespace, labelled: SimpleNamespace
) -> None:
    arm = next(arm for arm in students.arms.for_classes(CLASSES) if arm.rows == "target")
    labels, cost = written(students, labelled, arm)
    items, views = labels.cells()
    columns = labels.replay(items, views)
    rows_BC, targets_N = rows_of(labels).exp().numpy(), labelled.images.targets_N.numpy()
    area_B = (columns["mix_box_xyxy"][:, 2] - columns["mix_box_xyxy"][:, 0]) * (
        columns["mix_box_xyxy"][:, 3] - columns["mix_box_xyxy"][:, 1]
    )
    expected_BC = np.zeros_like(rows_BC)
    np.add.at(expected_BC, (np.arange(len(items)), targets_N[items]), 1 - area_B / SIZE**2)
    np.add.at(expected_BC, (np.arange(len(items)), targets_N[columns["mix_item"]]), area_B / SIZE**2)
    assert 0 < (columns["mix_item"] >= 0).sum() < len(items)
    assert rows_BC == pytest.approx(expected_BC, abs=1e-3)
    assert cost.all_in == pytest.approx(np.log2(CLASSES) / VIEWS)


def test_one_label_an_image_costs_one_label_an_image(
    students: SimpleNamespace, labelled: SimpleNamespace
) -> None:
    arm = next(arm for arm in students.arms.for_classes(CLASSES) if arm.rows == "image")
    labels, cost = written(students, labelled, arm)
    items, views = labels.cells()
    whole_NC = rows_of(softpack.open(labelled.image))
    is_plain_B = labels.replay(items, views)["mix_item"] < 0
    assert torch.allclose(rows_of(labels)[is_plain_B], whole_NC[items[is_plain_B]], atol=1e-2)
    assert cost.all_in == 8 * labelled.image.stat().st_size / (CLASSES * PER_CLASS * VIEWS)


def test_a_pool_is_of_whole_batches_and_costs_less(
    students: SimpleNamespace, labelled: SimpleNamespace
) -> None:
    arm = students.arms.Arm("LPLD 3x", settings={"dtype": "fp16"}, share=1 / 3)
    labels, cost = written(students, labelled, arm, batch=8)
    items, views = labels.cells()
    assert len(items) == int(VIEWS * 5 / 3) * 8
    assert torch.equal(rows_of(labels), softpack.open(labelled.full).read(items, views))
    assert cost.kl == ()
    assert cost.all_in == 8 * (labelled.folder / "LPLD-3x.spk").stat().st_size / (CLASSES * PER_CLASS * VIEWS)


def test_arms_that_are_coded_say_how_far_they_are(students: SimpleNamespace, labelled: SimpleNamespace) -> None:
    _, full = written(students, labelled, replace(students.arms.FP16, name="again"))
    _, coarse = written(students, labelled, students.arms.Arm("int2", "quantize", {"bits": 2}))
    assert full.kl == pytest.approx((0, 0, 0), abs=1e-6)
    assert coarse.kl[0] > 0.001
    assert coarse.all_in < full.all_in
    assert coarse.all_in == pytest.approx(coarse.marginal + coarse.model + coarse.replay)


def test_fewer_views_are_paid_by_all(students: SimpleNamespace, labelled: SimpleNamespace) -> None:
    labels, cost = written(
        students, labelled, students.arms.Arm("2 views", "quantize", {"bits": 8}, views=1 / 3)
    )
    assert labels.shape == (CLASSES * PER_CLASS, 2, CLASSES)
    items, views = labels.cells()
    whole = softpack.open(labelled.full)
    assert torch.allclose(rows_of(labels), whole.read(items, views), atol=0.1)
    assert np.array_equal(labels.replay(items, views)["mix_item"], whole.replay(items, views)["mix_item"])
    assert cost.all_in == 8 * (labelled.folder / "2-views.spk").stat().st_size / (CLASSES * PER_CLASS * VIEWS)
    assert cost.kl[0] < 0.01


def test_names_are_files_of_their_own(students: SimpleNamespace) -> None:
    for classes in (10, 1000):
        slugs = [arm.slug for arm in students.arms.for_classes(classes)]
        assert len(set(slugs)) == len(slugs)


# -- students ------------------------------------------------------------------------------------------


def test_views_are_replayed_bit_for_bit(students: SimpleNamespace, labelled: SimpleNamespace) -> None:
    views_NVCHW = students.student.views_of(labelled.images, labelled.full, SIZE)
    dataset = softpack.SoftLabelDataset(labelled.images, labelled.full, softpack.replay(SIZE))
    for item, view in ((0, 0), (17, 3), (39, 5)):
        assert torch.equal(views_NVCHW[item, view].float() / 255, dataset[item, view][0])


def test_a_student_learns_and_is_the_same_again(
    students: SimpleNamespace, pictures: Any, labelled: SimpleNamespace
) -> None:
    views_NVCHW = students.student.views_of(labelled.images, labelled.full, SIZE)
    tests = ((students.teacher.pixels_of(pictures.test, pictures), pictures.test.targets_N),)
    how = students.student.Schedule("test", 24, 8, 1e-2, "one cycle")

    def accuracy(path: Path, seed: int = 0, temperature: str = "4", is_pool: bool = False) -> float:
        found = students.student.trained_accuracy(
            views_NVCHW, pictures.mean_std, path, tests, how, (8, 16), temperature, seed, is_pool
        )
        return float(found[0])

    first = accuracy(labelled.full)
    assert first == accuracy(labelled.full) > 0.6
    pool = students.arms.Arm("LPLD 2x", settings={"dtype": "fp16"}, share=1 / 2)
    written(students, labelled, pool)
    assert accuracy(labelled.folder / "LPLD-2x.spk", temperature="falling", is_pool=True) > 0.4


def test_the_temperature_falls_as_lpqld_has_it(students: SimpleNamespace) -> None:
    at = [students.student.temperature_at("falling", epoch, 300) for epoch in (0, 29, 30, 299)]
    assert at == pytest.approx([20, 20, 14, 1])
    assert students.student.temperature_at("4", 10, 300) == 4


def test_learning_rates_end_where_their_papers_end(students: SimpleNamespace) -> None:
    rates = students.student.RATES
    assert [rates[name](1.0) for name in ("cosine", "half cosine", "one cycle")] == pytest.approx([0, 0.5, 0])
    assert max(rates["one cycle"](step / 100) for step in range(101)) == pytest.approx(1)


# -- the table -----------------------------------------------------------------------------------------


def row(arm: str, seed: int, accuracy: float, bits: float, ours: int = 0, T: str = "4") -> dict[str, str]:
    facts = {"data": "glyphs", "source": "random", "per_class": 1, "views": 28, "draw": 0, "arm": arm, "T": T}
    facts |= {"seed": seed, "ours": ours, "schedule": "own", "accuracy": accuracy, "marginal_bits": bits}
    facts |= {"all_in_bits": 2 * bits, "kl1": "", "kl4": "", "kl20": "", "seconds": 3.0}
    return {name: str(value) for name, value in facts.items()}


ROWS = [
    row("fp16", 0, 0.8, 16000), row("fp16", 1, 0.6, 16000), row("small", 0, 0.76, 64, ours=1),
    row("small", 1, 0.6, 64, ours=1), row("peer", 0, 0.7, 60), row("peer", 1, 0.68, 60), row("peer2", 0, 0.9, 100),
    row("hard", 0, 0.2, 0.3, T="1"),
]  # fmt: skip


def test_arms_are_compared_with_fp16_of_the_same_seed(students: SimpleNamespace) -> None:
    found = {point.arm: point for point in students.report.points(ROWS)}
    small = found["small"]
    assert (small.n, small.accuracy, small.least, small.most) == (2, pytest.approx(0.68), 0.6, 0.76)
    assert small.kept == pytest.approx((0.76 / 0.8 + 1) / 2)
    assert found["hard"].group[-1] == "4"


def test_a_peer_that_is_better_at_no_more_bits_is_said(students: SimpleNamespace) -> None:
    found = {point.arm: point.better for point in students.report.points(ROWS)}
    assert found == {"fp16": "", "small": "peer", "peer": "", "peer2": "", "hard": ""}


def test_tables_and_pictures_are_written(students: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    common = importlib.import_module("common")
    facts = {"teacher_top1": "0.9", "cpu": "a cpu", "threads": "2", "precision": "float32", "torch": "2"}
    common.write_csv(tmp_path / "glyphs.csv", facts, ROWS)
    students.report.write(tmp_path, "glyphs", ROWS)
    students.report.write_tables(tmp_path)
    assert (tmp_path / "glyphs.png").read_bytes().startswith(b"\x89PNG")
    assert (
        "| **small** | 64 | 128 | 68.0 | 60.0 to 76.0 | 97.5% |  |  |  | peer |"
        in (tmp_path / "tables.md").read_text()
    )
    assert (
        "glyphs,random,1,28,4,small,2,0.6800,0.6000,0.7600,0.9750,64,128,peer"
        in (tmp_path / "summary.csv").read_text()
    )


def test_students_in_the_table_are_not_trained_again(
    students: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = importlib.import_module("common")
    done = [
        {**{name: str(value) for name, value in students.run._key(job).items()}}
        for job in students.run.jobs("glyphs")
    ]
    common.write_csv(tmp_path / "glyphs.csv", {}, done)
    monkeypatch.setattr(students.run, "Room", lambda *given: pytest.fail("there is nothing to do"))
    options = common.Options("students", tmp_path, tmp_path, 0, 1, False)
    assert students.run.train_all("glyphs", options) == done

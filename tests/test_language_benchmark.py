"""The language benchmark: text that shares no document, targets that are what labels say, tables that are fair."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import softpack
from softpack.codecs.sparse import NO_CLASS, SparseRows
from softpack.records import LabelSpec

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
CLASSES, WIDTH, LENGTH = 300, 8, 12
SEQUENCES = {"train": 16, "validation": 4, "test": 4}


@pytest.fixture(scope="module")
def language() -> Iterator[SimpleNamespace]:
    pytest.importorskip("rich")
    sys.path.insert(0, str(BENCHMARKS))
    names = ("arms", "decoded", "documents", "fidelity", "report", "room", "run", "student", "targets", "text")
    yield SimpleNamespace(**{name: importlib.import_module(f"language.{name}") for name in names})
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """What the teacher would have left: tokens, its output matrix and hidden states."""
    random = np.random.default_rng(0)
    folder = tmp_path / "work" / "quick"
    (folder / "teacher").mkdir(parents=True)
    tokens = {part: random.integers(0, CLASSES, (n, LENGTH)).astype(np.int32) for part, n in SEQUENCES.items()}
    np.savez(folder / "tokens.npz", **tokens)
    np.save(folder / "teacher" / "output.npy", random.normal(size=(CLASSES, WIDTH)).astype(np.float16))
    for part, n in SEQUENCES.items():
        hidden_NVD = random.normal(size=(n, LENGTH - 1, WIDTH)).astype(np.float32)
        np.save(folder / "teacher" / f"{part}.npy", hidden_NVD)
    return folder


def room_of(language: SimpleNamespace, work: Path) -> Any:
    return language.room.Room(work, language.text.QUICK, (2, 2), language.run._no_bar)


# -- text ----------------------------------------------------------------------------------------------


def test_no_document_is_in_two_parts(language: SimpleNamespace, tmp_path: Path) -> None:
    texts = [f"{n} " * 40 for n in range(60)]
    source = language.documents.Source("made up", "none", (), 1.0, lambda: iter(texts))

    def tokens_of(given: Any) -> list[list[int]]:
        return [[int(word) + 10 for word in text.split()] for text in given]

    sizes = language.text.Sizes(12, 5, 5, 16)
    found = language.text.sequences(tmp_path, tokens_of, 1, sizes, [source])
    again = language.text.sequences(tmp_path, tokens_of, 1, sizes, [source])
    parts = [set(found[part][:, 1:].ravel().tolist()) for part in language.text.PARTS]
    assert [found[part].shape for part in language.text.PARTS] == [(5, 16), (5, 16), (12, 16)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert all((found[part][:, 0] == 1).all() for part in language.text.PARTS)
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_sources_share_all_sequences(language: SimpleNamespace) -> None:
    sources = language.documents.SOURCES
    assert sum(language.text._share(1201, number, sources) for number in range(len(sources))) == 1201


# -- targets -------------------------------------------------------------------------------------------


def test_whole_rows_are_summed_over_all_other_tokens(language: SimpleNamespace) -> None:
    vocabulary = language.targets.Vocabulary(torch.tensor([7, 2, 5]), 9)
    logits_MC = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    probs_MC = logits_MC.softmax(1)
    found = vocabulary.of_rows(logits_MC, LabelSpec(9))
    assert torch.allclose(found[:, :3], probs_MC[:, [7, 2, 5]])
    assert torch.allclose(found[:, 3], probs_MC[:, [0, 1, 3, 4, 6, 8]].sum(1))
    assert vocabulary.of_tokens(np.array([[5, 0], [7, 8]])).tolist() == [[2, 3], [0, 3]]


def targets_of(language: SimpleNamespace, tmp_path: Path, tail: str) -> Any:
    """Targets of one position: token 1 has 0.5, the tokens 8 and 9 of no name 0.2, all others 0.3."""
    vocabulary = language.targets.Vocabulary(torch.tensor([0, 1, 2]), 100)
    rows = SparseRows(
        LabelSpec(100, "log_probs"), torch.tensor([[1, 8, 9, NO_CLASS]]),
        torch.tensor([[0.5, 0.1, 0.1, 0.0]]).log(), tails={1.0: torch.tensor([0.3]).log()},
    )  # fmt: skip
    folder = tmp_path / f"targets-{tail}"
    folder.mkdir()
    for name, value in language.targets._targets(rows, rows.spec, vocabulary).items():
        np.save(folder / f"{name}.npy", value.numpy()[None])
    return language.targets.Soft(folder, vocabulary, tail)


def test_mass_that_was_not_kept_may_be_none(language: SimpleNamespace, tmp_path: Path) -> None:
    log_q_C = torch.tensor([0.1, 0.3, 0.2, 0.4]).log()
    found = targets_of(language, tmp_path, "zero").loss(log_q_C[None], torch.tensor([0]))
    assert float(found) == pytest.approx(-5 / 7 * np.log(0.3) - 2 / 7 * np.log(0.4), rel=2e-3)


def test_a_ghost_is_all_that_was_not_kept(language: SimpleNamespace, tmp_path: Path) -> None:
    log_q_C = torch.tensor([0.1, 0.3, 0.2, 0.4]).log()
    found = targets_of(language, tmp_path, "ghost").loss(log_q_C[None], torch.tensor([0]))
    expected = (
        -0.5 * np.log(0.3) - 0.2 * np.log(0.4) - 0.3 * np.log(0.1 + 0.2 + 0.4)
    )  # the last is of many tokens
    assert float(found) == pytest.approx(expected, rel=2e-3)


def test_curves_that_have_more_than_all_mass_leave_some(language: SimpleNamespace) -> None:
    kept_BK = torch.tensor([[0.9, 0.2], [0.5, 0.1]]).log()
    rows = SparseRows(LabelSpec(102, "log_probs"), torch.tensor([[0, 1], [5, 6]]), kept_BK)
    found = language.decoded.with_some_left(rows).dense().exp()
    assert torch.isfinite(found.log()).all()
    assert found.sum(1) == pytest.approx(torch.ones(2))
    assert found[0, 2:].sum() == pytest.approx(1e-4 / 1.1001, rel=1e-3)
    assert found[1, 50] == pytest.approx(0.004)


# -- students ------------------------------------------------------------------------------------------


def test_calibration_error_is_the_gap_of_bins(language: SimpleNamespace) -> None:
    confidence = torch.tensor([0.9, 0.95, 0.3, 0.31])
    right = torch.tensor([1, 0, 0, 1])
    # 0.9 and 0.95 lie in two bins, 0.3 and 0.31 in one.
    assert language.student.calibration_error(confidence, right) == pytest.approx((0.1 + 0.95 + 0.39) / 4)


def test_a_student_learns_from_what_it_is_told_and_is_the_same_again(language: SimpleNamespace) -> None:
    tokens_NL = torch.arange(10).repeat(16, 4)[:, :20]  # each token says the next
    how = language.student.Recipe(width=32, depth=1, epochs=30, batch=4)
    hard = language.student.Hard(tokens_NL[:, 1:])
    students = [language.student.trained(tokens_NL, hard, 11, how, 0) for _ in range(2)]
    found = [language.student.measured(student, tokens_NL) for student in students]
    assert found[0] == found[1]
    assert found[0].top1 > 0.95
    assert found[0].cross_entropy < 0.5


# -- the whole -----------------------------------------------------------------------------------------


def test_the_whole_of_it_on_made_up_text(
    language: SimpleNamespace, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    Arm = language.arms.Arm
    arms = (
        Arm("dense logits", "dense", layout="fixed", n_bytes=4 * CLASSES), language.arms.HARD,
        Arm("top-20", "topk", {"k": 20}), Arm("top-20 again", "topk", {"k": 20}, layout="megatron", tail="ghost"),
        Arm("int4", "quantize", {"bits": 4}, ours=True), Arm("pca", "lowrank", {"rank": 8, "bits": 8}),
        Arm("of tomorrow", "tomorrow"), Arm("theirs", "distillkit"),
    )  # fmt: skip
    monkeypatch.setattr(language.run, "FIDELITY", arms[2:])
    monkeypatch.setattr(language.run, "STUDENTS", arms[:5])
    out = tmp_path / "results"
    call = ["--quick", "--work", str(work.parent), "--out", str(out), "--threads", "1"]
    language.run.main([*call, "--keep"])
    said = capsys.readouterr().out
    assert "left out: of tomorrow: codec 'tomorrow' is not known here" in said
    assert "left out: theirs: give --distillkit DIR" in said
    common = importlib.import_module("common")
    fidelity = {row["arm"]: row for row in common.read_csv(out / "fidelity.csv")[1]}
    assert list(fidelity) == ["top-20", "top-20 again", "int4", "pca"]
    assert float(fidelity["int4"]["kl1"]) < float(fidelity["top-20"]["kl1"])
    assert float(fidelity["top-20"]["kl1"]) == float(fidelity["top-20 again"]["kl1"])
    facts, students = common.read_csv(out / "students.csv")
    assert [row["arm"] for row in students] == [arm.name for arm in arms[:5]]
    assert facts["train_tokens"] == str(16 * (LENGTH - 1))
    labels = softpack.open(work / "labels" / "train" / "quantize-bits-4.spk")
    assert labels.n_rows == 16 * (LENGTH - 1)
    assert (out / "tables.md").read_text().count("\n| **int4** |") == 2

    language.run.main(call)  # all is in the tables: nothing is measured again, and nothing stays
    assert common.read_csv(out / "students.csv") == (facts, students)
    assert not work.exists()


def test_labels_and_targets_go_on_where_a_run_was_stopped(
    language: SimpleNamespace, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language.room, "TOGETHER", 5)
    room, everyone = room_of(language, work), range(SEQUENCES["train"])
    arm, dense = language.arms.Arm("int8", "quantize", {"bits": 8}), language.arms.DENSE
    vocabulary = language.targets.Vocabulary.of_text(room.tokens("train"), CLASSES, 50)
    taken: list[int] = []

    class Stopped(language.targets.Writer):  # type: ignore[name-defined, misc]
        def add(self, number: int, logits_VC: torch.Tensor) -> None:
            if len(taken) == 12:
                raise KeyboardInterrupt
            taken.append(number)
            super().add(number, logits_VC)

    folder = work / "targets" / "dense"
    with pytest.raises(KeyboardInterrupt):
        room.write([arm], "train", everyone, [Stopped(room, dense, vocabulary, folder)])
    assert not room.path(arm, "train").exists()
    writer = language.targets.Writer(room, dense, vocabulary, folder)
    assert writer.n_done == 10
    room.write([arm], "train", everyone, [writer])
    writer.close()
    labels, rows = softpack.open(room.path(arm, "train")), room.blocks("train", everyone, "")
    targets = np.load(folder / "probs.npy")
    for number, _, logits_VC in rows:
        torch.testing.assert_close(labels[number].softmax(1), logits_VC.softmax(1), atol=0.02, rtol=0)
        expected_VC = vocabulary.of_rows(logits_VC, labels.spec)
        np.testing.assert_allclose(targets[number], expected_VC.half().numpy())


def test_an_arm_that_is_added_is_all_that_is_measured(
    language: SimpleNamespace, work: Path, tmp_path: Path
) -> None:
    room = room_of(language, work)
    Arm = language.arms.Arm
    for arms in (
        [Arm("int8", "quantize", {"bits": 8})],
        [Arm("int8", "quantize", {"bits": 8}), Arm("raw", "raw")],
    ):
        language.run.add_fidelity(room, language.run.Plan.quick(), arms, tmp_path / "f.csv", {})
        (work / "labels" / "test" / "quantize-bits-8.spk").unlink(missing_ok=True)
    rows = importlib.import_module("common").read_csv(tmp_path / "f.csv")[1]
    assert [row["arm"] for row in rows] == ["int8", "raw"]
    assert float(rows[1]["kl1"]) < 1e-6 < float(rows[0]["kl1"])


# -- the tables ----------------------------------------------------------------------------------------


def row(arm: str, codec: str, seed: int, nats: float, n_bytes: float, ours: int = 0) -> dict[str, str]:
    found = {"arm": arm, "codec": codec, "seed": seed, "cross_entropy": nats, "bytes": n_bytes, "ours": ours}
    return {name: str(value) for name, value in (found | {"shared_MB": 1.0, "ece": 0.1, "top1": 0.5}).items()}


def test_arms_are_compared_with_dense_of_the_same_seed(language: SimpleNamespace) -> None:
    rows = [
        row("all", "dense", 0, 3.0, 1e6), row("all", "dense", 1, 3.2, 1e6), row("small", "head", 0, 3.01, 64, 1),
        row("small", "head", 1, 3.23, 64, 1), row("small", "head", 2, 3.3, 64, 1),
    ]  # fmt: skip
    dense, small = language.report.points(rows)
    assert (dense.arm, dense.beyond) == ("all", 0)
    assert small.beyond == pytest.approx(0.02)
    assert (small.n, small.least, small.most) == (3, 3.01, 3.3)


def test_names_of_files_tell_arms_apart(language: SimpleNamespace) -> None:
    for arms in (language.arms.FIDELITY, language.arms.STUDENTS):
        assert len({arm.name for arm in arms}) == len(arms)
        kept = {(arm.slug, arm.codec, tuple(sorted(arm.settings.items()))) for arm in arms}
        assert len({slug for slug, *_ in kept}) == len(kept)

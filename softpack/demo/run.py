"""The demo from end to end: label photos, code the labels in every way, train students, and write it all down."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softpack.accounting import Ledger
from softpack.codecs.abc import Progress, Stage
from softpack.container.ledger import ledger
from softpack.demo.digits import Arm, Digits, make_digits, train_arm
from softpack.demo.teacher import label_photos
from softpack.eval.fidelity import Fidelity, fidelity
from softpack.rate.shares import shares
from softpack.records import TEMPERATURES, LabelSpec
from softpack.sources import open_source
from softpack.sources.encoding import encode_source, fit_model

CODECS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("raw fp16", "raw", {"dtype": "fp16"}),
    ("int8", "quantize", {"bits": 8}),
    ("int4", "quantize", {"bits": 4}),
    ("top-50", "topk", {"k": 50}),
    ("top-20", "topk", {"k": 20}),
    ("top-20, tail at T=20", "topk", {"k": 20, "tail": "bucket", "tail_temperature": 20.0}),
    ("PCA, 32 x 8 bits", "lowrank", {"rank": 32, "bits": 8}),
    ("klt given crops, 64 bits", "klt", {"target_bits": 64, "context": True, "degree": 2}),
    ("vqae, 160 bits", "vqae", {"target_bits": 160}),
    ("vqae, 64 bits", "vqae", {"target_bits": 64, "steps": 800}),
)
HEADLINE = "vqae, 160 bits"
DIGIT_BITS = 40


@dataclass(frozen=True)
class Point:
    """One codec's file of the photos' labels.

    Args:
        name: for people.
        codec_id: of the codec.
        account: its ledger.
        found: its fidelity.
    """

    name: str
    codec_id: str
    account: Ledger
    found: Fidelity

    @property
    def kl(self) -> tuple[float, ...]:
        """Mean KL at each temperature, times T squared, in nats."""
        return tuple(self.found.temperatures[T].kl_mean for T in TEMPERATURES)


@dataclass(frozen=True)
class Result:
    """What the demo found; everything is in its folder too.

    Args:
        points: one for each codec.
        arms: students from full, compressed and hard labels.
        teacher_accuracy: of the digits' teacher.
        digit_bits: marginal bits a label of the compressed arm.
    """

    points: tuple[Point, ...]
    arms: tuple[Arm, ...]
    teacher_accuracy: float
    digit_bits: float


def run_demo(folder: Path, stage: Stage, seed: int = 0) -> Result:
    """Run the demo and write sources, files, table, ledger and plot into a folder.

    Args:
        folder: is made where it is not there.
        stage: shows progress.
        seed: of views, fits and students.

    Raises:
        DataError: a package of `softpack[demo]` is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with stage("labelling photos", "view") as bar:
        np.savez(folder / "photos.npz", **label_photos(seed=seed, progress=bar))  # type: ignore[arg-type]
    points = tuple(_code(folder, *what, stage=stage, seed=seed) for what in CODECS)
    write_table(folder / "codecs.csv", points)
    with stage("training students", "step") as bar:
        result = Result(points, *_students(folder, bar, seed))
    _write_students(folder / "students.csv", result)
    return result


def _code(
    folder: Path, name: str, codec_id: str, settings: dict[str, Any], *, stage: Stage, seed: int
) -> Point:
    source = open_source(folder / "photos.npz")
    settings = dict(settings)
    target_bits, degree = settings.pop("target_bits", None), settings.pop("degree", 0)
    item_bits = None
    if degree:
        views = source.n_rows / source.items
        shared = shares(target_bits, codec_id, settings, source.spec, views, degree)
        target_bits, item_bits = shared.codes, shared.items * views
    path = folder / f"{name.replace(', ', '-').replace(' ', '-').replace('=', '')}.spk"
    with stage(f"fitting {name}", "step") as bar:
        model = fit_model(
            source, codec_id, settings, target_bits=target_bits, degree=degree, item_bits=item_bits, seed=seed,
            progress=bar,
        )  # fmt: skip
    encode_source(source, path, model, seed=seed, force=True)
    return Point(name, codec_id, ledger(path), fidelity(path, folder / "photos.npz", TEMPERATURES))


def _students(folder: Path, bar: Progress, seed: int) -> tuple[tuple[Arm, ...], float, float]:
    bar(0, 4, "teacher of digits")
    digits = make_digits(seed)
    full, small = folder / "digits-fp16.spk", folder / "digits-vqae.spk"
    logits = LabelSpec(digits.logits_NVC.shape[2])
    _digits_file(folder, full, digits, digits.logits_NVC, logits, "raw", {"dtype": "fp16"}, None, seed)
    _digits_file(folder, small, digits, digits.logits_NVC, logits, "vqae", {}, DIGIT_BITS, seed)
    hard = folder / "digits-hard.spk"
    probs = LabelSpec(logits.classes, "probs")
    _digits_file(folder, hard, digits, digits.hard_NVC, probs, "raw", {"dtype": "fp32"}, None, seed)
    bits = ledger(small).marginal_bits_per_label
    arms: list[Arm] = []
    for name, path, spec, temperature in (
        ("fp16 labels, 160 bits", full, logits, 2.0),
        (f"vqae labels, {bits:.0f} bits", small, logits, 2.0),
        ("hard labels", hard, probs, 1.0),
    ):
        bar(1 + len(arms), 4, name)
        arms.append(train_arm(name, digits, path, spec, temperature=temperature))
    bar(4, 4, "")
    return tuple(arms), digits.teacher_accuracy, bits


def _digits_file(
    folder: Path,
    path: Path,
    digits: Digits,
    labels_NVC: np.ndarray,
    spec: LabelSpec,
    codec_id: str,
    settings: dict[str, Any],
    target_bits: float | None,
    seed: int,
) -> None:
    arrays = {spec.space: labels_NVC, **digits.columns}
    source_path = folder / f"{path.stem}.npz"
    np.savez(source_path, **arrays)  # type: ignore[arg-type]
    source = open_source(source_path)
    codec = fit_model(source, codec_id, settings, target_bits=target_bits, seed=seed)
    encode_source(source, path, codec, seed=seed, force=True)


def write_table(path: Path, points: Sequence[Point]) -> None:
    """Write one line for each codec as CSV."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "codec", "rows", "marginal_bits", "all_in_bits", "model_bits", "replay_bits",
                         "marginal_ratio_fp16", "all_in_ratio_fp16", "kl_1", "kl_4", "kl_20", "kl_1_p99",
                         "kl_1_max", "top1_agreement"))  # fmt: skip
        for point in points:
            account, worst = point.account, point.found.temperatures[1.0]
            rows = account.n_rows
            writer.writerow((
                point.name, point.codec_id, rows, account.marginal_bits_per_label, account.all_in_bits_per_label,
                account.bits_of("model") / rows, account.bits_of("replay") / rows, marginal_ratio(account),
                account.ratio_vs(16), *point.kl, worst.kl_p99, worst.kl_max, point.found.top1_agreement,
            ))  # fmt: skip


def marginal_ratio(account: Ledger) -> float:
    """Return how many times smaller a label's marginal bits are than fp16."""
    return 16 * account.classes / account.marginal_bits_per_label


def _write_students(path: Path, result: Result) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("labels", "seed", "test_accuracy"))
        for arm in result.arms:
            writer.writerows((arm.name, seed, value) for seed, value in enumerate(arm.accuracies))

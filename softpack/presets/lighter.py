"""Distilled images whose labels are made again, or are less than a number a class and view.

RDED, HeLlO, INFER, NRR-DD and SCORE.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from softpack.accounting import Entry
from softpack.presets.budget import GIB, MIB, Parts, Preset, Published
from softpack.presets.common import CLASSES, DISTILLED, DTYPE, EPOCHS, FP16_OR_32, IPC, PICTURE, SIZE, images
from softpack.presets.settings import Setting

RESNET18 = (
    11_186_112  # its weights and running statistics without the last layer, which has 512 inputs and a bias
)


def _seen(values: Mapping[str, Any]) -> int:
    return int(values["items"] * values["epochs"])


def _rded(values: Mapping[str, Any]) -> Parts:
    weights = RESNET18 + 513 * values["classes"] if values["teacher"] is None else values["teacher"]
    entry = Entry(f"the teacher, {weights:,} numbers of fp32", 32 * weights, "model")
    return Parts((images(values), entry), 0, _seen(values))


def _hello(values: Mapping[str, Any]) -> Parts:
    entry = Entry("low-rank weights of the labeller, fp32", 32 * values["weights"], "model")
    return Parts((images(values), entry), 0, _seen(values))


def _infer(values: Mapping[str, Any]) -> Parts:
    classes, shared = values["classes"], values["compensators"]
    # A class has as many natural images as leave room for the compensators, which all classes share.
    natural = int(values["ipc"] / (Fraction(shared, classes) + 1))
    n_labels = classes * natural * (shared + 1)
    entry = Entry("logits, one row an image that is made, fp32", 32 * classes * n_labels, "codes")
    stored = images(values, natural * (classes + shared))
    return Parts((stored, entry), n_labels, n_labels * values["epochs"])


def _nrr_dd(values: Mapping[str, Any]) -> Parts:
    n_rows, number = _seen(values), FP16_OR_32[values["dtype"]]
    entry = Entry(f"two distances, {values['dtype']}", 8 * n_rows * 2 * number, "codes")
    return Parts((images(values), entry), n_rows, n_rows)


def _score(values: Mapping[str, Any]) -> Parts:
    n_rows, number = _seen(values), FP16_OR_32[values["dtype"]]
    n_bits = int(8 * n_rows * number * values["classes"] / Fraction(values["ratio"]))
    return Parts(
        (images(values), Entry("low-rank and sparse factors of labels", n_bits, "codes")), n_rows, n_rows
    )


PRESETS = (
    Preset(
        "rded",
        "RDED: no label is stored; the teacher runs with the student",
        "arXiv 2312.03526; its teacher on ImageNet-1K is ResNet-18, counted by its weights",
        (*DISTILLED, Setting("teacher", "weights of the teacher [default: ResNet-18]")),
        _rded,
        (Published("the teacher", "torchvision, ResNet18_Weights", "44.7", MIB, {}, ("model",)),),
    ),
    Preset(
        "hello",
        "HeLlO: no label is stored; low-rank weights turn a public CLIP into the labeller",
        "arXiv 2408.08201; by its 0.8 M weights on ImageNet-1K (papernotes.org); CLIP is not counted",
        (*DISTILLED, Setting("weights", "low-rank weights", 800_000)),
        _hello,
        (
            Published(
                "labels",
                "abstract of arXiv 2408.08201",
                remark="about 0.003% of a full set; its 0.8 M weights are that at ipc=200, where the set is 110 GB",
            ),
        ),
    ),
    Preset(
        "infer",
        "INFER: one row of logits an image, mixed as the images are",
        "arXiv 2408.06927; by formula from its code for static labels, which it keeps in memory and never saves",
        (
            CLASSES,
            IPC,
            Setting("epochs", EPOCHS.about, 400),
            SIZE,
            PICTURE,
            Setting("compensators", "images that all classes share, one an architecture", 3),
        ),
        _infer,
        (Published("labels", "abstract of arXiv 2408.06927", remark="reduced to almost zero"),),
    ),
    Preset(
        "nrr-dd",
        "NRR-DD: two distances a view instead of a label",
        "arXiv 2503.18267; by formula; what says which view it is was not published, and is not counted",
        (*DISTILLED, DTYPE),
        _nrr_dd,
        (
            Published(
                "labels",
                "arXiv 2503.18267 in papernotes.org",
                "0.2",
                GIB,
                {"ipc": "200"},
                remark="instead of 120 GB",
            ),
            Published(
                "labels",
                "abstract of arXiv 2503.18267",
                remark="two distances an instance; up to 500 times less than labels, says papernotes.org",
            ),
        ),
    ),
    Preset(
        "score",
        "SCORE: the labels of an image as low-rank and sparse matrices",
        "arXiv 2503.13935; by formula: labels of fp32, divided by the ratio that it publishes",
        (
            *DISTILLED,
            Setting("dtype", DTYPE.about, "fp32", choices=DTYPE.choices),
            Setting("ratio", "how many times smaller labels are", 30, whole=False),
        ),
        _score,
        (
            Published("labels", "arXiv 2503.13935 in sciencestack.ai", "1.9", GIB, {"ipc": "50"}),
            Published(
                "labels",
                "abstract of arXiv 2503.13935",
                remark="30 times smaller costs 5.5% (ipc=10) and 2.7% (ipc=50)",
            ),
        ),
    ),
)

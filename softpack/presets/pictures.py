"""Images that are stored otherwise than as pixels, with hard labels: FreD, DDiF, D3M, DQ."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from softpack.accounting import Entry
from softpack.presets.budget import IMAGES, Parts, Preset, Published
from softpack.presets.common import IMAGENET_1K
from softpack.presets.settings import Setting

CLASSES = Setting("classes", "classes", 10, least=2)
IPC = Setting("ipc", "the budget: as many numbers as so many images a class have", 10)
SIZE = Setting("size", "side of a square image in pixels", 128)
CHANNELS = 3
ARCHIVE = 147_897_477_120  # bytes of the training images of ImageNet-1K as they are published
WITHIN = Published(
    "images",
    "code of the authors",
    remark="as many numbers as ipc images a class, 3 x size x size each",
)


def _numbers(values: Mapping[str, Any]) -> int:
    """Return how many numbers a class may take."""
    return int(CHANNELS * values["ipc"] * values["size"] ** 2)


def _hard(items: int) -> Entry:
    return Entry("hard labels, int64", 64 * items, "item")


def _fred(values: Mapping[str, Any]) -> Parts:
    size, classes = values["size"], values["classes"]
    kept = min(values["kept"], size**2)
    items = classes * (_numbers(values) // (CHANNELS * kept))
    entries = (
        Entry("frequencies that are kept, fp32", 32 * items * CHANNELS * kept, IMAGES),
        Entry("which they are, a bit a frequency and class", classes * size**2, IMAGES),
        _hard(items),
    )
    return Parts(entries, items, items)


def _ddif(values: Mapping[str, Any]) -> Parts:
    width, layers = values["width"], values["layers"]
    each = 3 * width + (layers - 1) * (width + 1) * width + CHANNELS * (width + 1)
    items = values["classes"] * (_numbers(values) // each)
    return Parts(
        (Entry(f"networks of {each:,} weights, fp32", 32 * items * each, IMAGES), _hard(items)), items, items
    )


def _d3m(values: Mapping[str, Any]) -> Parts:
    numbers = values["classes"] * values["tokens"] * values["width"]
    return Parts((Entry("learned words, fp32", 32 * numbers, IMAGES),), 0, 0)


def _dq(values: Mapping[str, Any]) -> Parts:
    keep = Fraction(values["fraction"]) * (1 - Fraction(values["drop"]))
    n_bytes = int(values["items"] * values["picture"] * keep)
    return Parts((Entry("patches of images that are kept", 8 * n_bytes, IMAGES),), 0, 0)


PRESETS = (
    Preset(
        "fred",
        "FreD: the frequencies of an image that matter in its class",
        "arXiv 2311.08819; by formula from its code, on subsets of ImageNet",
        (CLASSES, IPC, SIZE, Setting("kept", "frequencies of a channel that are kept", 2048)),
        _fred,
        (WITHIN,),
        views="",
    ),
    Preset(
        "ddif",
        "DDiF: a small network for each image",
        "arXiv 2503.04835; by formula from its code, on subsets of ImageNet",
        (CLASSES, IPC, SIZE, Setting("width", "of a layer", 20), Setting("layers", "hidden layers", 3)),
        _ddif,
        (WITHIN,),
        views="",
    ),
    Preset(
        "d3m",
        "D3M: learned words for a public diffusion model, a prompt a class",
        "arXiv 2403.07142; by formula; how many words a class has was not found, and the model is not counted",
        (
            Setting("classes", "classes", 1000, least=2),
            Setting("tokens", "learned words of a class", needed=True),
            Setting("width", "numbers of a word, as in Stable Diffusion 1", 768),
        ),
        _d3m,
        (Published("images", "abstract of arXiv 2403.07142", remark="within a fixed memory budget"),),
        views="",
    ),
    Preset(
        "dq",
        "Dataset Quantization: some of the real images, and of these some patches; MAE fills in the rest",
        "arXiv 2308.10524; by formula: the two shares times the data set; MAE is not counted",
        (
            Setting("items", "images of the data set", IMAGENET_1K),
            Setting(
                "fraction", "share of the images that is kept", Fraction(3, 4), least=0, most=1, whole=False
            ),
            Setting("drop", "share of patches that is dropped", Fraction(1, 5), least=0, most=1, whole=False),
            Setting("picture", "bytes of an image of the data set", ARCHIVE // IMAGENET_1K),
        ),
        _dq,
        (Published("images", "README of its code", remark="60% of ImageNet, no drop of accuracy"),),
        views="",
    ),
)

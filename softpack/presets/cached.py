"""Labels of the views of a whole data set, for training on real images: FKD, TinyViT, ml-dr. Images are not counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softpack.accounting import Entry
from softpack.presets.budget import BYTES, GIB, Parts, Preset, Published
from softpack.presets.common import CLASSES, EPOCHS, FP16_OR_32, IMAGENET_1K, IMAGENET_22K, digits
from softpack.presets.settings import Setting

ITEMS = Setting("items", "images of the data set", IMAGENET_1K)
K = Setting("k", "classes of a label that are kept", 5)
# Bytes of a file of 500 crops at k=5, measured: pickle protocol 2 spells the bytes of arrays as text.
MEASURED = "measured on files that its code writes"
FKD_FILE = {"fp32": 39_305, "fp16": 19_529}


def _fkd(values: Mapping[str, Any]) -> Parts:
    n_rows, number = values["items"] * values["crops"], FP16_OR_32[values["dtype"]]
    k = min(values["k"], values["classes"])
    row = 4 * number + 1 + 2 * k * number
    raw_500 = 500 * (4 * number + 1 + 10 * number)
    file = values["crops"] * row * FKD_FILE[values["dtype"]] // raw_500
    raw = values["crops"] * row
    entries = (
        Entry(f"probabilities, {values['dtype']}", 8 * n_rows * k * number, "codes"),
        Entry(f"their classes, {values['dtype']}", 8 * n_rows * k * number, "codes"),
        Entry(f"crops, 4 x {values['dtype']}", 8 * n_rows * 4 * number, "replay"),
        Entry("flips, bool", 8 * n_rows, "replay"),
        Entry("torch pickles, bytes as text", 8 * values["items"] * (file - raw), "header"),
    )
    return Parts(entries, n_rows, n_rows, ((values["items"], file),))


def _tinyvit(values: Mapping[str, Any]) -> Parts:
    items, epochs, k = values["items"], values["epochs"], min(values["k"], values["classes"])
    n_rows = items * epochs
    keys = epochs * (digits(items) + items) if values["key"] is None else n_rows * values["key"]
    entries = (
        Entry("probabilities, fp16", 8 * n_rows * 2 * k, "codes"),
        Entry("their classes, int16", 8 * n_rows * 2 * k, "codes"),
        Entry("seeds, int32", 8 * n_rows * 4, "replay"),
        Entry("names of images, text", 8 * keys, "ids"),
    )
    return Parts(entries, n_rows, n_rows)


def _ml_dr(values: Mapping[str, Any]) -> Parts:
    n_rows, k = values["items"] * values["samples"], min(values["k"], values["classes"])
    entries = (
        Entry("probabilities, 4 bytes", 8 * n_rows * 4 * k, "codes"),
        Entry("their classes, 2 bytes", 8 * n_rows * 2 * k, "codes"),
        Entry("crops, 4 x 2 bytes", 8 * n_rows * 8, "replay"),
        Entry("flips, 1 byte", 8 * n_rows, "replay"),
    )
    return Parts(entries, n_rows, n_rows)


def _reinforced(number: str, **at: str) -> Published:
    return Published("labels", "README of apple/ml-dr", number, GIB, at, remark="as .tar.gz")


PRESETS = (
    Preset(
        "fkd",
        "FKD: k probabilities of each of 500 crops of an image, a torch pickle an image",
        "arXiv 2112.01528; by formula from its code, and measured on files of 500 crops at k=5",
        (
            CLASSES,
            ITEMS,
            Setting("crops", "views of an image", 500),
            K,
            Setting("dtype", "of a number, also of those that name classes", "fp32", choices=tuple(FP16_OR_32)),
        ),
        _fkd,
        tuple(
            Published(
                "labels",
                MEASURED,
                f"{IMAGENET_1K * size}",
                BYTES,
                {"dtype": dtype},
                remark=f"{size:,} bytes a file",
            )
            for dtype, size in FKD_FILE.items()
        ),
        views="crops",
    ),
    Preset(
        "tinyvit",
        "TinyViT: k probabilities and a seed for each image and epoch, in flat files",
        "arXiv 2207.10666; by formula from its code; k=10 gives its size of ImageNet-1K, k=100 that of ImageNet-22K",
        (
            CLASSES,
            ITEMS,
            EPOCHS,
            Setting("k", K.about, 10),
            Setting("key", "bytes of the name of an image [default: its number, and the end of the line]"),
        ),
        _tinyvit,
        (
            Published(
                "labels and seeds", "README of microsoft/Cream, TinyViT", "16", GIB, {}, ("codes", "replay")
            ),
            Published(
                "labels and seeds",
                "README of microsoft/Cream, TinyViT",
                "481",
                GIB,
                {"classes": "21841", "items": f"{IMAGENET_22K}", "epochs": "90", "k": "100", "key": "15"},
                ("codes", "replay"),
            ),
            Published(
                "names of images",
                "issue 127 of microsoft/Cream",
                "18",
                GIB,
                {"classes": "21841", "items": f"{IMAGENET_22K}", "epochs": "90", "k": "100", "key": "15"},
                ("ids",),
                remark="499 GB in all, of which 481 are labels",
            ),
        ),
    ),
    Preset(
        "ml-dr",
        "Reinforced ImageNet (ImageNet+-RRC): k probabilities of each of 400 samples of an image",
        "arXiv 2303.08983; by formula: the numbers alone, as gzip takes from the pickles about what pickling adds",
        (CLASSES, ITEMS, Setting("samples", "views of an image", 400), Setting("k", K.about, 10)),
        _ml_dr,
        (
            _reinforced("33.4"),
            _reinforced("4.7", samples="100", k="5"),
            _reinforced("4.4", samples="50"),
            Published(
                "other augmentations",
                "README of apple/ml-dr",
                remark="with 400 samples: mixing 46.3 GB, RandAugment and erasing 37.5, both 53.3",
            ),
        ),
        views="samples",
    ),
)

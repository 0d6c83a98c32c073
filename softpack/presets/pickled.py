"""Labels of every view in torch pickles, a batch a file: SRe2L and those who use its layout.

A file is rows and a head; the heads are measured with torch 2.13, and tests hold them to what it writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from softpack.accounting import Entry
from softpack.errors import DataError
from softpack.presets.budget import GIB, IMAGES, MB, MIB, Parts, Preset, Published, Unit
from softpack.presets.common import DISTILLED, DTYPE, FP16_OR_32, digits, images
from softpack.presets.settings import Setting, Values

# Bytes of a file beside its rows, by what is mixed: pickle, zip and alignment.
HEAD = {"cutmix": 2461, "mixup": 2205, "cutout": 1953, "none": 1953}
ITEM_HEAD = {"cutmix": 2585, "mixup": 2329, "cutout": 2205, "none": 2205}  # of G-VBSM, with one array more
TOPK_HEAD = {"cutmix": 3273, "mixup": 2393, "cutout": 2141, "none": 2141}  # of LPQLD, whose box is four tensors
EPOCH_HEAD = {
    "cutmix": 1275,
    "mixup": 1019,
    "cutout": 767,
    "none": 767,
}  # of a batch in HALD's file of an epoch

MIX = Setting("mix", "what a batch is mixed by", "cutmix", choices=tuple(HEAD))
PRUNE = Setting("prune", "how many times fewer labels are kept", 40, whole=False)
ByRow = Mapping[tuple[str, str], int]


def batch_of(rows: int) -> Setting:
    """Return the setting that says how many rows a file has."""
    return Setting("batch", "rows of a file [at most the images]", rows)


def batches(values: Mapping[str, Any], prune: Fraction | int = 1) -> tuple[tuple[int, int], ...]:
    """Return how many files have how many rows: pruned sets drop batches that are not full, and keep the first.

    Raises:
        DataError: pruning keeps none.
    """
    items, epochs = values["items"], values["epochs"]
    rows = min(values["batch"], items)
    full, short = divmod(items, rows)
    if prune > 1:
        kept = int(epochs * full / Fraction(prune))
        if not kept:
            raise DataError(
                f"prune={float(prune):g} keeps none of {epochs * full:,} batches of {rows:,} rows; "
                "expected one at least; give a smaller prune or batch"
            )
        return ((kept, rows),)
    return ((epochs * full, rows), (epochs, short)) if short else ((epochs * full, rows),)


def parts(
    values: Mapping[str, Any], by_row: ByRow, head: int, prune: Fraction | int = 1, listing: str = ""
) -> Parts:
    """Return what batches in files take.

    Args:
        values: settings.
        by_row: bytes of a row, by what they are and their scope.
        head: bytes of a file beside its rows.
        prune: how many times fewer labels are kept.
        listing: name of the JSON file that lists the images of every batch; empty where there is none.
    """
    runs = batches(values, prune)
    n_rows, n_files = sum(n * rows for n, rows in runs), sum(n for n, _ in runs)
    row = sum(by_row.values())
    entries = [images(values)]
    entries += [Entry(what, 8 * n_rows * size, scope) for (what, scope), size in by_row.items()]
    entries.append(Entry(f"torch pickles, {head:,} bytes a batch", 8 * n_files * head, "header"))
    files = [(n, rows * row + head) for n, rows in runs]
    if listing:
        # Numbers of images, each with a comma and a blank behind it.
        size = n_rows * 2 + n_rows * digits(values["items"]) // values["items"]
        entries.append(Entry(listing, 8 * size, "ids"))
        files.append((1, size))
    return Parts(tuple(entries), n_rows, values["items"] * values["epochs"], tuple(files))


def replayed(mix: str, crop: str = "fp32", partner: str = "int64") -> dict[tuple[str, str], int]:
    """Return the bytes of a row that say which view it is of."""
    row = {(f"crops, 4 x {crop}", "replay"): 4 * FP16_OR_32[crop]}
    row |= {("cutouts, 7 x fp32", "replay"): 28} if mix == "cutout" else {("flips, bool", "replay"): 1}
    if mix in ("cutmix", "mixup"):
        row[f"mix partners, {partner}", "replay"] = {"int64": 8, "uint8": 1}[partner]
    return row


def logits(values: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Return the bytes of a row of logits, one a class."""
    return {(f"logits, {values['dtype']}", "codes"): FP16_OR_32[values["dtype"]] * values["classes"]}


def _sre2l(values: Mapping[str, Any]) -> Parts:
    return parts(values, logits(values) | replayed(values["mix"]), HEAD[values["mix"]])


def _gvbsm(values: Mapping[str, Any]) -> Parts:
    row = logits(values) | replayed(values["mix"]) | {("image of each row, int64", "ids"): 8}
    return parts(values, row, ITEM_HEAD[values["mix"]])


def _lpld(values: Mapping[str, Any]) -> Parts:
    row = logits(values) | replayed(values["mix"])
    return parts(values, row, HEAD[values["mix"]], values["prune"], "sampler_indices_epoch.json")


def _lpqld(values: Mapping[str, Any]) -> Parts:
    k = min(values["k"], values["classes"])
    row = {("largest logits, fp16", "codes"): 2 * k, ("their classes, int16", "codes"): 2 * k}
    row |= replayed(values["mix"], "fp16", "uint8")
    return parts(values, row, TOPK_HEAD[values["mix"]], values["prune"], "sampler_indices_batch.json")


def _hald(values: Mapping[str, Any]) -> Parts:
    items = values["items"]
    epochs = min(values["slc"] * values["classes"] // items, values["epochs"])
    if not epochs:
        raise DataError(
            f"slc={values['slc']} labels a class are less than one an image, of {items:,} images of "
            f"{values['classes']:,} classes; give more, or fewer images"
        )
    made = parts(
        {**values, "epochs": epochs},
        {("probabilities at T=20, fp16", "codes"): 2 * values["classes"]} | replayed(values["mix"], "fp16"),
        EPOCH_HEAD[values["mix"]],
    )
    # Numbers of images, pickled: 3 bytes up to 65,535, else 5.
    order = Entry("sampler_indices_dict.pt", 8 * made.n_labels * (3 if items <= 1 << 16 else 5), "ids")
    return Parts((*made.entries, order), made.n_labels, items * values["epochs"])


LPLD_README = "README of he-y/soft-label-pruning-for-dataset-distillation"
LPQLD_README = "README of he-y/soft-label-pruning-quantization-for-dataset-distillation"
FULL = {10: "5.67", 20: "11.33", 50: "28.33", 100: "56.66", 200: "113.33"}
IMAGES_1K = {10: "0.15", 20: "0.30", 50: "0.75", 100: "1.49", 200: "2.98"}
X40 = {10: "0.14", 20: "0.29", 50: "0.71", 100: "1.43", 200: "2.85"}
MR = {  # by ipc, at k=100, 50 and 10
    10: ("0.13", "0.07", "0.03"), 20: ("0.25", "0.15", "0.06"), 50: ("0.63", "0.37", "0.14"),
    100: ("1.27", "0.73", "0.29"), 200: ("2.54", "1.47", "0.58"),
}  # fmt: skip
TINY = {"classes": "200", "size": "64", "epochs": "100", "batch": "64", "mix": "none"}
IN_21K = {"classes": "10450", "batch": "32", "mix": "cutout"}
NOT_KNOWN = "how the authors counted is not known; a row of 10,450 fp16 numbers is 20,900 bytes"
MORE_DETAIL = "these images are of more detail than those of ImageNet-1K; say picture=BYTES"
ROWS = ("codes", "replay", "header")  # of LPLD: its archives, in which the listing takes next to nothing


def _pictures() -> Iterator[Published]:
    """Yield the sizes of images that LPLD published, which LPQLD uses too."""
    for ipc, size in IMAGES_1K.items():
        yield Published("images", LPLD_README, size, GIB, {"ipc": str(ipc)}, (IMAGES,))
    for name, size in (("50", "21"), ("100", "40")):
        yield Published("images", LPLD_README, size, MB, {**TINY, "ipc": name}, (IMAGES,))
    for name, size in (("10", "3"), ("20", "5")):
        yield Published(
            "images", LPLD_README, size, GIB, {**IN_21K, "ipc": name}, (IMAGES,), remark=MORE_DETAIL
        )


def _labels(number: str, at: Values, unit: Unit = GIB, source: str = LPLD_README, **more: Any) -> Published:
    return Published("labels", source, number, unit, {key: str(value) for key, value in at.items()}, **more)


def _previous() -> Iterator[Published]:
    """Yield the sizes of full label sets in SRe2L's layout, which LPLD published to compare with."""
    for ipc, size in FULL.items():
        yield _labels(size, {"ipc": ipc}, on_disk=True)
    for ipc, size in ((50, "449"), (100, "898")):
        yield _labels(size, {**TINY, "ipc": ipc}, MB, on_disk=True)
    for ipc, size in ((10, "643"), (20, "1286")):
        yield _labels(size, {**IN_21K, "ipc": ipc}, on_disk=True, remark=NOT_KNOWN)


def _pruned() -> Iterator[Published]:
    """Yield the sizes of a fortieth of the labels."""
    for ipc, size in X40.items():
        yield _labels(size, {"ipc": ipc}, scopes=ROWS)
    for ipc, size in ((50, "11"), (100, "22")):
        yield _labels(size, {**TINY, "ipc": ipc}, MB, scopes=ROWS)
    for ipc, size in ((10, "16"), (20, "32")):
        yield _labels(size, {**IN_21K, "ipc": ipc}, scopes=ROWS, remark=NOT_KNOWN)


def _quantized() -> Iterator[Published]:
    """Yield the sizes of LPQLD: of the folders on a disk."""
    for ipc, sizes in MR.items():
        for k, size in zip((100, 50, 10), sizes, strict=True):
            yield _labels(size, {"ipc": ipc, "k": k}, source=LPQLD_README, on_disk=True)
    up = "rounded up, as du -h does"
    for at, size, remark in (
        ({"ipc": 10, "prune": 20, "k": 200}, "1.6", up),
        ({"ipc": 20, "prune": 40, "k": 400}, "2.7", f"{up}; k=400 is of its script, the README says 200"),
    ):
        yield _labels(size, {**IN_21K, **at}, source=LPQLD_README, on_disk=True, remark=remark)


PRESETS = (
    Preset(
        "sre2l",
        "SRe2L: logits of every view, in torch pickles",
        "arXiv 2306.13092; by formula from its code",
        (*DISTILLED, batch_of(1024), DTYPE, MIX),
        _sre2l,
        tuple(_previous()),
    ),
    Preset(
        "cda",
        "CDA: as SRe2L, with batches of 128",
        "arXiv 2311.18838; by formula: it points at the code of SRe2L, and its authors train at batch 128",
        (*DISTILLED, batch_of(128), DTYPE, MIX),
        _sre2l,
    ),
    Preset(
        "cv-dd",
        "CV-DD: as SRe2L, with batches of 16, by which its labels are normalised",
        "arXiv 2501.07575; by formula from its code",
        (*DISTILLED, batch_of(16), DTYPE, MIX),
        _sre2l,
    ),
    Preset(
        "g-vbsm",
        "G-VBSM: as SRe2L, and the image of every row",
        "arXiv 2311.17950; by formula from its code",
        (*DISTILLED, batch_of(1024), DTYPE, MIX),
        _gvbsm,
    ),
    Preset(
        "lpld",
        "LPLD: the first batches of SRe2L's layout, drawn from again",
        "arXiv 2410.15919; by formula from its code",
        (*DISTILLED, batch_of(128), DTYPE, MIX, PRUNE),
        _lpld,
        (*_pruned(), *_pictures()),
    ),
    Preset(
        "lpqld",
        "LPQLD: the first batches, and of each label the k largest logits",
        "arXiv 2604.18135; by formula from its code; its x40, x80 and x200 are prune=10 at k=100, 50 and 10",
        (
            *DISTILLED,
            Setting("batch", "rows of a file [at most the images]", 128, most=256),
            MIX,
            Setting("prune", PRUNE.about, 10, whole=False),
            Setting("k", "logits of a label that are kept", 50),
        ),
        _lpqld,
        (*_quantized(), *_pictures()),
    ),
    Preset(
        "hald",
        "HALD: a few labels a class of SRe2L's kind, and hard labels in the midst of training",
        "arXiv 2512.15647; by formula from its code; slc=150 gives the size of its abstract",
        (*DISTILLED, batch_of(16), MIX, Setting("slc", "soft labels a class", 150)),
        _hald,
        (
            Published(
                "soft labels alone",
                "abstract of arXiv 2512.15647",
                "285",
                MIB,
                {},
                ("codes",),
                remark="the abstract says 285M at a hundredth of the labels",
            ),
        ),
    ),
)

"""FKD's label sets: a file for each image, `train/CLASS/STEM.tar`, of all its crops (arXiv:2112.01528).

Each holds a list of coords (top, left, height and width as shares of the image), flips, and labels at a temperature:

    hard                         [V]        the class
    smoothing                    [V, 2]     a class and its probability; the rest alike
    marginal_smoothing_kK        [V, 2, K]  K classes and their probabilities; the rest alike
    marginal_renorm_kK           the same; nothing for the rest
    ori                          [V, C]     all probabilities

Shapes in names: V crops of an image, K classes that are kept, C classes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.folder import ImageFolder
from softpack.records import LabelSpec
from softpack.sources.peers.given import Given, need
from softpack.sources.peers.kept import share_of_others, spread
from softpack.sources.peers.row_files import Files, ItemFiles, RowFiles, Rows, first_good

TYPES = ("hard", "smoothing", "marginal_smoothing", "marginal_renorm", "ori")
AXES = dict(zip(TYPES, (1, 2, 3, 3, 2), strict=True))  # of an array of labels
EXACT_IN_FP16 = 2048  # numbers of classes up to here
SUFFIX = ".tar"


def open_fkd(path: Path, given: Given) -> RowFiles:
    """Open a set of FKD.

    Raises:
        DataError: it is none, or does not say what its labels are and nobody does.
    """
    paths_N, left_out = _listed(path, given)
    files = [found for found in paths_N if found is not None]
    _, _, label = first_good(path, files, _parts, given.skip_bad, left_out, lambda parts: len(parts[2]))
    kind = _kind(path, label, given)
    n_views, classes = len(label), given.classes or label.shape[-1]
    spec = LabelSpec(classes, "probs", given.temperature or 1.0)
    item_F = np.flatnonzero([found is not None for found in paths_N])
    item_columns = given.item_columns()
    crop = "crop_xywh" if "source_hw" in item_columns else "crop_xywh_fraction"
    return RowFiles(
        path=path,
        spec=spec,
        items=len(paths_N),
        views=n_views,
        n_rows=n_views * len(files),
        columns=(crop, "flip") if given.replay else (),
        item_columns=item_columns or {"target": _targets(files)},
        ignored=(),
        files=Files(np.full(len(files), n_views), files.__getitem__),
        cells=ItemFiles(item_F, "images that were given" if given.folder else "the names of the files, sorted"),
        take=partial(rows_of, kind=kind, classes=classes, replay=given.replay),
        skip_bad=given.skip_bad,
        left_out=left_out,
    )


def rows_of(found: Any, item_B: np.ndarray | None, kind: str, classes: int, replay: bool = True) -> Rows:
    """Return the rows of one file.

    Args:
        found: what the file holds.
        item_B: not asked.
        kind: one of `TYPES`.
        classes: C.
        replay: whether the columns are wanted.

    Raises:
        DataError: it is no such list, or its parts do not fit each other.
    """
    coords_V4, flip_V, label = _parts(found)
    n = len(label)
    columns = (
        {"crop_xywh": coords_V4[:n, [1, 0, 3, 2]], "flip": flip_V[:n]} if replay else {}
    )  # (top, left, ...)
    shape, is_one = list(label.shape), label.ndim == AXES[kind]
    if kind == "ori" and is_one:
        return Rows(label, columns)
    if kind == "hard" and is_one:
        label = np.stack([label, np.ones_like(label, np.float32)], 1)
    if label.ndim == 2:
        label = label[:, :, None]
    if not is_one or label.shape[1] != 2 or not 0 < label.shape[2] <= classes:
        raise DataError(f"has labels {shape}, which are no {kind}, as those of the first file are")
    if label.dtype == np.float16 and classes > EXACT_IN_FP16:
        raise DataError(
            f"has class numbers as fp16, which are exact up to {EXACT_IN_FP16}, and there are {classes} classes; "
            "nobody can tell which they were"
        )
    class_VK, prob_VK = label[:, 0].astype(np.float32), label[:, 1].astype(np.float32)
    wrong = (class_VK != np.rint(class_VK)) | ~((class_VK >= 0) & (class_VK < classes))
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise DataError(f"names class {class_VK[wrong][0]:g} in row {row}; expected 0 to {classes - 1}")
    if not ((prob_VK >= 0) & (prob_VK <= 1 + 1e-3)).all():
        raise DataError("has a probability below 0 or above 1; they may be logits")
    return Rows(_dense(class_VK.astype(np.int64), prob_VK, kind, classes), columns)


def _dense(class_VK: np.ndarray, prob_VK: np.ndarray, kind: str, classes: int) -> np.ndarray:
    """Return all probabilities, float32 [V, C]."""
    rest_V1 = np.zeros_like(prob_VK[:, :1])
    if kind == "marginal_renorm" or prob_VK.shape[1] == classes:
        prob_VK = prob_VK / np.maximum(prob_VK.sum(1, keepdims=True), 1e-12)
    elif kind != "hard":
        rest_V1 = share_of_others(prob_VK, classes)
    return spread(prob_VK, class_VK, rest_V1, classes)


def _parts(found: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(p, np.ndarray) for p in found):
        raise DataError("holds no coords, flips and labels; expected a list of three arrays, as FKD writes it")
    coords_V4, flip_V, label = found
    n = len(label) if label.ndim else 0
    are_crops = coords_V4.ndim == 2 and coords_V4.shape[1] == 4 and coords_V4.dtype.kind == "f"
    if not are_crops or flip_V.ndim != 1 or not 0 < n <= len(coords_V4) == len(flip_V):
        raise DataError(
            f"has coords {list(coords_V4.shape)}, flips {list(flip_V.shape)} and labels {list(label.shape)}; expected "
            "floats [V, 4], [V] and as many labels at most"
        )
    return coords_V4, flip_V, label


def kind_and_k(label_type: str) -> tuple[str, int | None]:
    """Return which of `TYPES` a name of FKD's options is, in either of its spellings, and how many classes it keeps."""
    found = re.fullmatch(r"(.*?)(?:_k?(\d+))?", label_type)
    assert found is not None  # it matches any text
    return found[1], None if found[2] is None else int(found[2])


def _kind(path: Path, label: np.ndarray, given: Given) -> str:
    """Return which of `TYPES` the labels are.

    Raises:
        DataError: they can be several and nobody says which, or are not what is said.
    """
    shape, is_pair = label.shape[1:], label.ndim > 1 and label.shape[1] == 2
    fits = {
        "hard": shape == (),
        "smoothing": shape == (2,),
        "marginal_smoothing": len(shape) == 2 and is_pair,
        "marginal_renorm": len(shape) == 2 and is_pair,
        "ori": len(shape) == 1 and (given.classes in (None, shape[0])) and shape != (2,),
    }
    said = given.label_type and kind_and_k(given.label_type)[0]
    if said and not fits.get(said, False) and not (said == "ori" and shape == (2,)):
        known = " or ".join(kind for kind, does in fits.items() if does) or "nothing that is known"
        raise DataError(f"{path}: labels of shape {list(label.shape)} are no {given.label_type}, but {known}")
    could = [kind for kind, does in fits.items() if does]
    if not could:
        raise DataError(f"{path}: labels of shape {list(label.shape)} are none that FKD writes")
    kind = said or could[0]
    need(
        path,
        {
            f"whether labels are {' or '.join(could)} (--label-type TYPE)": not said and len(could) > 1,
            "how many classes there are (--classes C)": given.classes is None and kind != "ori",
            "at which temperature they were taken (--source-temperature T; 1 if FKD's script was not told another)": (
                given.temperature is None and kind != "hard"
            ),
        },
    )
    return kind


# -- files ---------------------------------------------------------------------------------------------


def _listed(path: Path, given: Given) -> tuple[list[Path | None], dict[str, str]]:
    """Return the file of each item, None for one without, and what is missing."""
    root = path / "train" if (path / "train").is_dir() else path
    if given.folder is None:
        files = [
            root / name / file
            for name in sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
            for file in sorted(entry.name for entry in os.scandir(root / name) if entry.name.endswith(SUFFIX))
        ]
        if not files:
            raise DataError(
                f"{path}: holds no train/CLASS/IMAGE.tar; expected one for each image, as FKD writes them"
            )
        return list(files), {}
    wanted = files_of_images(root, given.folder)
    missing = [file for file in wanted if not file.is_file()]
    if len(missing) == len(wanted) or (missing and not given.skip_bad):
        raise DataError(
            f"{missing[0]}: is missing, and {len(missing) - 1} others of {len(wanted)}; give the images that were "
            "labelled, or leave them out with --skip-bad"
        )
    lost = set(missing)
    return [None if file in lost else file for file in wanted], {
        str(file): f"{file}: is missing" for file in missing
    }


def files_of_images(root: Path, folder: ImageFolder) -> list[Path]:
    """Return the file of each image, which FKD names by what is before the first dot.

    Raises:
        DataError: several images have one.
    """
    images = [Path(image) for image, _ in folder.samples]
    files = [root / image.parent.name / (image.name.partition(".")[0] + SUFFIX) for image in images]
    twice = [file for file, n in Counter(files).items() if n > 1]
    if twice:
        raise DataError(
            f"{twice[0]}: is of several images, whose names differ after the first dot; FKD keeps one label file for "
            "all of them, and nobody can tell which image it is of"
        )
    return files


def _targets(files: list[Path]) -> np.ndarray:
    """Return the classes of files, by their folders."""
    names = sorted({file.parent.name for file in files})
    number = {name: number for number, name in enumerate(names)}
    return np.array([number[file.parent.name] for file in files], np.int32)

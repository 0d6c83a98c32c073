"""Labels as FKD's trainer reads them: a file for each image, as `fkd` describes.

Shapes in names: V views of an image, k classes that are kept, C classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from softpack.codecs.spaces import convert
from softpack.errors import DataError
from softpack.folder import ImageFolder
from softpack.records import LabelSpec
from softpack.sources.encoding import Counted
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.fkd import EXACT_IN_FP16, TYPES, files_of_images, kind_and_k
from softpack.sources.peers.kept import kept_before
from softpack.sources.peers.to_folder import Held, crop_fractions, held, label_folder

NEVER = ("mix_item", "patch_order", "cutout", "aug_seed")  # that a file has no place for


def write_fkd(path: Path, out: Path, asked: Asked, force: bool = False, counted: Counted | None = None) -> None:
    """Write the labels of an `.spk` file as FKD's set of the images, which appears whole or not at all.

    Args:
        path: of the `.spk` file.
        out: of the folder.
        asked: the images, the label type and how many classes it keeps.
        force: replace `out` if it is there.
        counted: is told (rows done, rows in all).

    Raises:
        DataError: what is asked for does not fit the labels, or their views are mixed or more than cropped and flipped.
        ExistsError: `out` is there, and `force` is not given.
    """
    labels = held(path)
    kind, k = _kind(path, asked, labels.shape[2])
    if never := [name for name in NEVER if name in labels.columns]:
        raise DataError(f"{path}: has {', '.join(never)}; FKD's files have crops and flips alone")
    if asked.images is None:
        raise DataError(
            f"{path}: does not say how images are called, after which FKD names its files (--images DIR)"
        )
    folder = ImageFolder(asked.images)
    if len(folder) != labels.shape[0]:
        raise DataError(
            f"{path}: has labels of {labels.shape[0]} items, and {asked.images} holds {len(folder)} images; give those "
            "that were labelled"
        )
    spec, done = LabelSpec(labels.shape[2], "probs", asked.temperature or labels.spec.temperature), 0
    with label_folder(path, out, force, "train") as root:
        for item, file in enumerate(files_of_images(root / "train", folder)):
            views_V = np.arange(labels.shape[1])
            views_V = views_V[labels.has(np.full_like(views_V, item), views_V)]
            if not len(views_V):
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(_parts(labels, item, views_V, spec, kind, k, np.dtype(asked.dtype or "float32")), file)
            done += len(views_V)
            if counted is not None:
                counted(done, labels.n_rows)


def _kind(path: Path, asked: Asked, classes: int) -> tuple[str, int]:
    if asked.label_type is None:
        raise DataError(
            f"{path}: say what FKD's files are to hold: --label-type {', '.join(TYPES)}; of the marginal ones with how "
            "many classes, such as marginal_smoothing_k5"
        )
    kind, k = kind_and_k(asked.label_type)
    if None not in (k, asked.k) and k != asked.k:
        raise DataError(f"{path}: {asked.label_type} keeps {k} classes, and --k says {asked.k}; leave one out")
    k = asked.k or k
    if kind not in TYPES:
        raise DataError(f"{path}: FKD has no label type {asked.label_type}; expected one of {', '.join(TYPES)}")
    if kind.startswith("marginal") and (k is None or not 0 < k <= classes):
        raise DataError(
            f"{path}: {asked.label_type} does not say how many of {classes} classes are kept; name it, such as "
            f"{kind}_k5"
        )
    if asked.dtype == "float16" and classes > EXACT_IN_FP16 and kind not in ("hard", "ori"):
        raise DataError(
            f"{path}: has {classes} classes, and fp16 numbers of classes are exact up to {EXACT_IN_FP16}; take --dtype "
            "float32"
        )
    return kind, k or 1


def _parts(
    labels: Held, item: int, views_V: np.ndarray, spec: LabelSpec, kind: str, k: int, dtype: np.dtype
) -> list[np.ndarray]:
    """Return coords, flips and labels of an image."""
    items_V = np.full_like(views_V, item)
    columns = labels.replay(items_V, views_V)
    probs_VC = convert(labels.read(items_V, views_V), labels.spec, spec).numpy()
    flip_V = columns.get("flip", np.zeros(len(views_V), bool))
    return [crop_fractions(labels, columns, items_V).astype(dtype), flip_V, _label(probs_VC, kind, k, dtype)]


def _label(probs_VC: np.ndarray, kind: str, k: int, dtype: np.dtype) -> np.ndarray:
    if kind == "ori":
        return probs_VC.astype(dtype)
    ids_Vk = kept_before(probs_VC, k)
    if kind == "hard":
        return ids_Vk[:, 0]
    label_V2k = np.stack([ids_Vk, np.take_along_axis(probs_VC, ids_Vk, 1)], 1).astype(dtype)
    return label_V2k[:, :, 0] if kind == "smoothing" else label_V2k

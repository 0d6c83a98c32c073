"""Labels as TinyViT's trainer reads them: a file of records for each epoch, as `tinyvit` describes.

Shapes in names: R rows of a view, B rows that are written at once, k classes that are kept, C classes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from softpack.codecs.spaces import convert
from softpack.errors import DataError
from softpack.folder import ImageFolder
from softpack.records import LabelSpec
from softpack.sources.base import block_rows
from softpack.sources.encoding import Counted
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.kept import kept_before
from softpack.sources.peers.tinyvit import FOLDERS, KEYS, VALUES, folder_of, record_of
from softpack.sources.peers.tinyvit_keys import is_key, names_of
from softpack.sources.peers.to_folder import Held, held, items_of_view, label_folder

MOST_CLASSES = 1 << 16  # that 16 bits tell apart
SEED = "aug_seed"


def write_tinyvit(
    path: Path, out: Path, asked: Asked, force: bool = False, counted: Counted | None = None
) -> None:
    """Write the labels of an `.spk` file as a set of TinyViT, which appears whole or not at all.

    Args:
        path: of the `.spk` file, whose views were drawn from seeds by TinyViT.
        out: of the folder.
        asked: how many classes are kept, and the images where these are called by their names and not their numbers.
        force: replace `out` if it is there.
        counted: is told (rows done, rows in all).

    Raises:
        DataError: what is asked for does not fit the labels, or their views were drawn from no seeds.
        ExistsError: `out` is there, and `force` is not given.
    """
    labels = held(path)
    k = _k(path, asked, labels)
    names_N = _names(path, asked, labels.shape[0])
    done = 0
    with label_folder(path, out, force, FOLDERS) as root:
        for view in range(labels.shape[1]):
            items_R = items_of_view(labels, view)
            if not len(items_R):
                continue
            folder = root / folder_of(k, view)
            folder.mkdir()
            with open(folder / f"rank0{KEYS}", "wb") as keys, open(folder / f"rank0{VALUES}", "wb") as values:
                for start in range(0, len(items_R), block_rows(labels.shape[2])):
                    items_B = items_R[start : start + block_rows(labels.shape[2])]
                    values.write(_records(labels, items_B, view, k).tobytes())
                    keys.writelines(names_N[i] + b"\n" if names_N else b"%d\n" % i for i in items_B.tolist())
                    done += len(items_B)
                    if counted is not None:
                        counted(done, labels.n_rows)


def _k(path: Path, asked: Asked, labels: Held) -> int:
    """Return how many classes are kept, where TinyViT can make the views of the labels again.

    Raises:
        DataError: it cannot, or its records have no place for the labels.
    """
    classes, spec = labels.shape[2], labels.spec
    if SEED not in labels.columns:
        raise DataError(
            f"{path}: has no {SEED}, the seed that TinyViT draws each view from again; others would be drawn than were "
            "labelled; only what came from TinyViT can go back to it"
        )
    if others := [name for name in labels.columns if name != SEED]:
        raise DataError(f"{path}: has {', '.join(others)} of views; TinyViT's records have a seed alone")
    if spec.temperature != 1 or asked.temperature not in (None, 1):
        found = asked.temperature if spec.temperature == 1 else spec.temperature
        raise DataError(f"{path}: TinyViT's probabilities are of temperature 1, not {found:g}")
    if asked.dtype not in (None, "float16"):
        raise DataError(f"{path}: TinyViT's probabilities are float16, not {asked.dtype}; leave --dtype out")
    if classes > MOST_CLASSES:
        raise DataError(f"{path}: has {classes} classes; TinyViT stores them in 16 bits")
    if asked.k is None or asked.k > classes:
        raise DataError(
            f"{path}: say how many of {classes} classes TinyViT's records are to keep, such as --k "
            f"{min(100, classes)}, which its DISTILL.LOGITS_TOPK must say too"
        )
    return asked.k


def _names(path: Path, asked: Asked, n_items: int) -> list[bytes] | None:
    """Return names of the images as keys; None where these are not given, and keys are their numbers."""
    if asked.images is None:
        return None
    folder = ImageFolder(asked.images)
    if len(folder) != n_items:
        raise DataError(
            f"{path}: has labels of {n_items} items, and {asked.images} holds {len(folder)} images; give those that "
            "were labelled"
        )
    names = names_of(folder)
    if bad := [name for name in names if not is_key(name)]:
        raise DataError(
            f"{asked.images}: holds an image called {bad[0]!r} but for its suffix; TinyViT's keys are names in lines "
            "of a text, and no numbers; rename the image, or leave --images out"
        )
    return [os.fsencode(name) for name in names]


def _records(labels: Held, items_B: np.ndarray, view: int, k: int) -> np.ndarray:
    """Return the records of some rows of a view."""
    views_B = np.full_like(items_B, view)
    spec = LabelSpec(labels.shape[2], "probs")
    probs_BC = convert(labels.read(items_B, views_B), labels.spec, spec).numpy()
    ids_Bk = kept_before(probs_BC, k)
    records = np.empty(len(items_B), record_of(k))
    records["seed"] = labels.replay(items_B, views_B)[SEED]
    records["classes"] = ids_Bk.astype(np.uint16).view(np.int16)
    records["probs"] = np.take_along_axis(probs_BC, ids_Bk, 1)
    return records

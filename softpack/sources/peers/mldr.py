"""ml-dr's label sets, its reinforcements: `NUMBER.pth.tar` for each image, of all its views (arXiv:2303.08983).

A file holds its number and its views, as torch.save writes them, or joblib. `config.pth.tar` says how views are made.

    (number, [{"params": parameters, "prob": (probabilities, classes)}, ...])     the k largest of each view, at T=1

Parameters are a dictionary, with a pair for each transform, of the image and of the one that it may be mixed with; or
a list of those of the image alone, in the order that transforms have:

    {"random_resized_crop": ((row, column, height, width), ...), "random_horizontal_flip": (flip, ...), ...}
    [(row, column, height, width), flip]

softpack makes crops and flips again. ml-dr mixes an image with another crop of its partner than the partner's own view
has, and draws RandAugment and more: of such sets it takes the labels alone.

What all other classes get stands in the trainer's configuration as `densify`, and in no file:

    smooth   they share what is left of 1; nothing is where the k were rounded to more, which the trainer takes as zeros
    zeros    nothing, and the k probabilities are put through a softmax, as the trainer does it

Shapes in names: V views of an image, k classes that are kept, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softpack.checks import SUM_TOLERANCE
from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.peers.given import Given, need
from softpack.sources.peers.kept import class_numbers, share_of_others, spread
from softpack.sources.peers.numbered import numbered_in
from softpack.sources.peers.row_files import (
    Files,
    ItemFiles,
    RowFiles,
    Rows,
    columns_of,
    first_good,
    refuse_missing,
)
from softpack.sources.pickles.pool import PicklePool

CONFIG, SUFFIX = "config.pth.tar", ".pth.tar"
TYPES = ("smooth", "zeros")
CROP, FLIP = "random_resized_crop", "random_horizontal_flip"
REPLAYED = (CROP, FLIP)  # in the order that ml-dr has them, whatever its configuration's
OF_NUMBERS = ("uint8", "to_tensor", "normalize")  # transforms without parameters, that move no pixel


def looks_like(names: set[str]) -> bool:
    """Return whether names in a folder are those of the layout."""
    return CONFIG in names or f"0{SUFFIX}" in names


def open_mldr(path: Path, given: Given) -> RowFiles:
    """Open a set of ml-dr.

    Raises:
        DataError: it is none, a file is missing, its views cannot be made again and are wanted, or it does not say what
            its labels are and nobody does.
    """
    found, others = numbered_in(path, "", SUFFIX)
    if not found:
        raise DataError(
            f"{path}: has no 0{SUFFIX}; expected one for each image, by its number, as ml-dr writes them"
        )
    config = _config(path / CONFIG) if CONFIG in others else None
    spec, label_type = _said(path, given, config)
    transforms = _replayed(path / CONFIG, config or {}) if given.replay else ()
    n_items = 1 + max(found) if given.folder is None else len(given.folder)
    if max(found) >= n_items:
        raise DataError(
            f"{path}: has a {found[max(found)]}, and {given.images} holds {n_items} images; give those that were "
            "labelled"
        )
    left_out = refuse_missing(
        path, [path / f"{item}{SUFFIX}" for item in range(n_items) if item not in found], given.skip_bad
    )
    paths, item_columns = [path / name for name in found.values()], given.item_columns()
    take = partial(rows_of, label_type=label_type, classes=spec.classes, transforms=transforms)
    first = first_good(
        path, paths, partial(take, item_B=None), given.skip_bad, left_out, lambda rows: len(rows.labels_BC)
    )
    n_views = len(first.labels_BC)
    return RowFiles(
        path=path,
        spec=spec,
        items=n_items,
        views=n_views,
        n_rows=n_views * len(paths),
        columns=columns_of(first, item_columns),
        item_columns=item_columns,
        ignored=tuple(other for other in others if other != CONFIG),
        files=Files(np.full(len(paths), n_views), paths.__getitem__),
        cells=ItemFiles(np.array(list(found)), "the numbers of the files"),
        take=take,
        skip_bad=given.skip_bad,
        left_out=left_out,
    )


def rows_of(
    found: Any, item_B: np.ndarray | None, label_type: str, classes: int, transforms: Sequence[str]
) -> Rows:
    """Return the rows of one file.

    Args:
        found: what the file holds.
        item_B: of which its rows should be; None where that is not known.
        label_type: one of `TYPES`.
        classes: C.
        transforms: those of `REPLAYED` that views are made with, where columns are wanted.

    Raises:
        DataError: it is of another item, or holds no such views.
    """
    number, views = _parts(found)
    if item_B is not None and number != item_B[0]:
        raise DataError(f"is of image {number}, and called as that of {item_B[0]}; it may have been renamed")
    pairs = [view["prob"] for view in views]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise DataError("has a prob that is no pair of probabilities and classes")
    prob_Vk = _array([pair[0] for pair in pairs], "f", "probabilities").astype(np.float32)
    class_Vk = _array([pair[1] for pair in pairs], "iu", "classes", prob_Vk.shape[1])
    good_V = (prob_Vk >= 0).all(axis=1) & (prob_Vk.sum(1) <= 1 + SUM_TOLERANCE)
    if not good_V.all():
        bad = int(np.argmin(good_V))
        raise DataError(
            f"has probabilities {np.array2string(prob_Vk[bad], threshold=8)} of view {bad}; expected none below 0, and "
            "that they sum to 1 at most; they may be logits"
        )
    id_Vk = class_numbers(class_Vk, classes)
    if label_type == "zeros":
        prob_Vk = np.exp(prob_Vk) / np.exp(prob_Vk).sum(1, keepdims=True)
        rest_V1 = np.zeros_like(prob_Vk[:, :1])
    else:
        rest_V1 = share_of_others(prob_Vk, classes)
    return Rows(
        spread(prob_Vk, id_Vk, rest_V1, classes), _columns([view["params"] for view in views], transforms)
    )


def _parts(found: Any) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of a file, and its views."""
    is_pair = isinstance(found, list) and len(found) == 2
    number, views = found if is_pair else (None, None)
    are_views = isinstance(views, list) and all(
        isinstance(view, dict) and {"params", "prob"} <= view.keys() for view in views
    )
    if type(number) is not int or not are_views or not views:
        raise DataError("holds no number and views with params and prob, as ml-dr writes them")
    return number, views


def _columns(params_V: list[Any], transforms: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the columns of views by their parameters."""
    of_views = [list(_of_image(params, transforms)) for params in params_V] if transforms else []
    columns = {}
    for place, name in enumerate(transforms):
        values = [found[place] for found in of_views]
        if name == CROP:
            columns["crop_xywh"] = _array(values, "iu", name, 4)[
                :, [1, 0, 3, 2]
            ]  # (row, column, height, width)
        else:
            columns["flip"] = _array(values, "b", name)
    return columns


def _of_image(params: Any, transforms: Sequence[str]) -> Iterator[Any]:
    """Yield the parameters that transforms have for the image itself."""
    are_all = isinstance(params, list) and len(params) == len(transforms)
    for place, name in enumerate(transforms):
        pair = params.get(name) if isinstance(params, dict) else None
        if are_all:
            yield params[place]
        elif isinstance(pair, list) and pair:
            yield pair[0]
        else:
            raise DataError(
                f"has params {str(params)[:80]}; expected those of {' and '.join(transforms)}, as {CONFIG} names them"
            )


def _array(values_V: list[Any], kinds: str, what: str, width: int | None = None) -> np.ndarray:
    """Return what views have as an array.

    Args:
        values_V: a number of each view, or a list of numbers.
        kinds: of numpy's that they may be.
        what: they are, for messages.
        width: how many numbers each list has; as many as the first where that is not known.
    """
    n_first = len(values_V[0]) if isinstance(values_V[0], list) else 0
    shape = () if kinds == "b" else (width or n_first,)
    try:
        found = np.array(values_V)
    except (ValueError, OverflowError):  # not as many of each
        found = np.empty(0)
    if found.shape == (len(values_V), *shape) and found.dtype.kind in kinds and 0 not in shape:
        return found
    bad = next((view for view, value in enumerate(values_V) if not _fits(value, shape, kinds)), 0)
    expected = {"f": "floats", "iu": "whole numbers", "b": "true or false"}[kinds]
    many = "".join(f"{n} " for n in shape)
    raise DataError(f"has {what} {str(values_V[bad])[:80]} of view {bad}; expected {many}{expected}")


def _fits(value: Any, shape: tuple[int, ...], kinds: str) -> bool:
    try:
        found = np.array(value)
    except (ValueError, OverflowError):
        return False
    return found.shape == shape and found.dtype.kind in kinds and 0 not in shape


# -- the configuration ---------------------------------------------------------------------------------


def _config(path: Path) -> dict[str, Any]:
    with PicklePool(1) as pool:
        held = pool.read(path)
    if not isinstance(held, dict):
        raise DataError(f"{path}: holds a {type(held).__name__}; expected ml-dr's configuration, a dictionary")
    return held


def _said(path: Path, given: Given, config: dict[str, Any] | None) -> tuple[LabelSpec, str]:
    """Return what labels are, and which of `TYPES`, as the configuration and the caller say it.

    Raises:
        DataError: nobody does, or they contradict each other.
    """
    classes = (config or {}).get("num_classes", given.classes)
    need(
        path,
        {
            "how many classes there are (--classes C)": classes is None,
            "what classes get that are not kept (--label-type smooth, as all of ml-dr's configurations for training "
            "have it, or zeros)": given.label_type is None,
            f"how views are made, as there is no {CONFIG} (--no-replay takes the labels alone)": (
                given.replay and config is None
            ),
        },
    )
    if type(classes) is not int or given.classes not in (None, classes):
        raise DataError(
            f"{path / CONFIG}: says there are {classes} classes; expected {given.classes or 'a number'}, of --classes"
        )
    if given.label_type not in TYPES:
        raise DataError(f"{path}: ml-dr has no label type {given.label_type}; expected {' or '.join(TYPES)}")
    return LabelSpec(classes, "probs"), str(given.label_type)


def _replayed(path: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """Return those of `REPLAYED` that views are made with.

    Raises:
        DataError: they are made with others too.
    """
    reinforce = config.get("reinforce")
    augmentation = reinforce.get("image_augmentation") if isinstance(reinforce, dict) else None
    if not isinstance(augmentation, dict) or not all(isinstance(how, dict) for how in augmentation.values()):
        raise DataError(f"{path}: names no transforms in reinforce, image_augmentation; it is none of ml-dr's")
    names = [str(name) for name, how in augmentation.items() if how.get("enable", True)]
    if others := [name for name in names if name not in REPLAYED + OF_NUMBERS]:
        raise DataError(
            f"{path}: views are made with {', '.join(others)}, which softpack cannot make again; --no-replay takes the "
            "labels alone"
        )
    return tuple(name for name in REPLAYED if name in names)

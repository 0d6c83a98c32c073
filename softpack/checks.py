"""Whether rows of labels are what they are said to be. No torch.

Every row that goes into a file passes here, wherever it comes from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import log

import numpy as np

from softpack.errors import DataError
from softpack.records import HIDDEN, LabelSpec, RowBlock, SparseLabels

MOST = (1 << 31) - 2  # the largest item and view
SUM_TOLERANCE = 1e-2
CHECKED_NUMBERS = 1 << 20  # at a time, which bounds what the checks allocate
# What storing costs a number: relative, and absolute for those near zero.
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
TINY = {"float16": 2.0**-24}
SHARES = {
    "mix_lam": "mix_lam from 0 to 1",
    "mix_box_xyxy": "mix_box_xyxy",
}  # say how much of a row is the partner's


@dataclass(frozen=True)
class Place:
    """The rows that a block was read from.

    Args:
        name: of the file or of what the rows are put into.
        row_B: int64 [B], their numbers in stored order.
        item_B: int64 [B], their items.
        view_B: int64 [B], their views.
    """

    name: str
    row_B: np.ndarray
    item_B: np.ndarray
    view_B: np.ndarray

    def check(self, array: str, good_B: np.ndarray | np.bool_, values_B: np.ndarray, expected: str) -> None:
        """Refuse the first row that is not good.

        Args:
            array: name of the array that the values are from.
            good_B: bool [B].
            values_B: [B, ...], what is shown of a bad row.
            expected: of every row, and what to do about one that is otherwise.
        """
        good_B = np.asarray(good_B)
        if good_B.all():
            return
        first = int(np.argmin(good_B))
        others = len(good_B) - int(good_B.sum()) - 1
        more = f" (and {others} more of the {len(good_B)} rows read with it)" if others else ""
        raise DataError(
            f"{self.name}: {array} of row {self.row_B[first]} (item {self.item_B[first]}, "
            f"view {self.view_B[first]}){more} is {_show(values_B[first])}; expected {expected}"
        )


def as_label_rows(labels_BC: np.ndarray) -> np.ndarray:
    """Return float16 and float32 rows as they are, and others as float32."""
    if labels_BC.dtype in (np.float16, np.float32):
        return labels_BC
    with np.errstate(all="ignore"):  # too great for float32 becomes infinite, which the checks then find
        return labels_BC.astype(np.float32)


def sum_tolerance(spec: LabelSpec, stored_dtype: str) -> float:
    """Return how far from 1 the stored probabilities of a row may sum.

    Every stored probability may be off by the spacing of the smallest numbers, so that errors add up over the
    classes; a logarithm is off in proportion to its size, which over a row averages to the entropy at most.
    """
    if spec.space == "probs":
        return SUM_TOLERANCE + spec.classes * TINY.get(stored_dtype, 0.0) + EPSILON.get(stored_dtype, 0.0)
    return SUM_TOLERANCE + log(spec.classes) * EPSILON.get(stored_dtype, 0.0)


def check_labels(labels_BC: np.ndarray, spec: LabelSpec, stored_dtype: str, place: Place) -> None:
    """Refuse rows that are not finite, or that are no distributions where `spec` says they are.

    Among logits and log-probabilities -inf is a probability of zero; a row has at least one other.

    Raises:
        DataError: naming the first bad row.
    """
    step = max(1, CHECKED_NUMBERS // spec.classes)
    for start in range(0, len(labels_BC), step):
        rows = slice(start, start + step)
        here = Place(place.name, place.row_B[rows], place.item_B[rows], place.view_B[rows])
        _check_finite(labels_BC[rows], spec, here)
        if spec.space not in ("logits", HIDDEN):
            _check_sums(labels_BC[rows], spec, sum_tolerance(spec, stored_dtype), here)


def check_sparse(labels: SparseLabels, spec: LabelSpec, place: Place) -> None:
    """Refuse rows of which some classes are known, where these are none, the same, or no part of a distribution.

    Raises:
        DataError: naming the first bad row.
    """
    ids_BK, log_probs_BK = labels.ids_BK, labels.log_probs_BK
    is_class_BK = ids_BK != -1
    most = spec.classes - 1
    good_BK = (ids_BK >= -1) & (ids_BK <= most)
    shown_B = np.take_along_axis(ids_BK, good_BK.argmin(axis=1)[:, None], 1)[:, 0]
    place.check(
        "a class", good_BK.all(axis=1), shown_B, f"0 to {most}; there may be more classes than was said"
    )
    sorted_BK = np.sort(ids_BK, axis=1)
    twice_BK = (sorted_BK[:, 1:] == sorted_BK[:, :-1]) & (sorted_BK[:, 1:] != -1)
    place.check("the classes", ~twice_BK.any(axis=1), ids_BK, "each class once")
    place.check("the classes", is_class_BK.any(axis=1), ids_BK, "one class at least")
    with np.errstate(invalid="ignore", over="ignore"):
        good_BK = np.where(
            is_class_BK,
            np.isfinite(log_probs_BK) & (log_probs_BK <= SUM_TOLERANCE),
            log_probs_BK == -np.inf,
        )
        sum_B = np.exp(log_probs_BK).sum(axis=1, dtype=np.float64)
    shown_B = np.take_along_axis(log_probs_BK, good_BK.argmin(axis=1)[:, None], 1)[:, 0]
    hint = "0 at most, and finite; -inf where there is no class; if they are logits, say so"
    place.check("a log-probability", good_BK.all(axis=1), shown_B, hint)
    if labels.tail_B is not None:
        sum_B = sum_B + np.exp(labels.tail_B)
    good_B = np.abs(sum_B - 1) <= SUM_TOLERANCE
    place.check("the sum over all classes", good_B, sum_B, f"1 within {SUM_TOLERANCE}")


def check_cells(block: RowBlock, items: int | None, views: int | None, place: Place) -> None:
    """Refuse rows whose item, view or mix partner lies outside the file.

    Args:
        block: the rows.
        items: of the file, None where they are not known.
        views: the same of views.
        place: where the rows are.

    Raises:
        DataError: naming the first bad row.
    """
    for name, values_B, total in (("item", block.item_B, items), ("view", block.view_B, views)):
        most = MOST if total is None else total - 1
        place.check(name, (values_B >= 0) & (values_B <= most), values_B, f"a number from 0 to {most}")
    if "mix_item" in block.replay:
        most, partner_B = MOST if items is None else items - 1, block.replay["mix_item"]
        good_B = (partner_B >= -1) & (partner_B <= most)
        place.check("mix_item", good_B, partner_B, f"an item from 0 to {most}, or -1 where a row is not mixed")


def lonely_mix(columns: Collection[str]) -> str:
    """Return what is wrong with columns that say half of how views are mixed, "" where nothing is."""
    beside = [name for name in ("mix_lam", "mix_box_xyxy") if name in columns]
    if beside and "mix_item" not in columns:
        return f"has {beside[0]} but no mix_item; expected the item that each row is mixed with, -1 for none"
    if "mix_item" in columns and not beside:
        return (
            "has mix_item but neither mix_lam nor mix_box_xyxy, so that nobody can mix the views again; "
            "expected one of them (or both): add it, or leave mix_item out"
        )
    return ""


def check_mix(replay: Mapping[str, np.ndarray], place: Place) -> None:
    """Refuse rows whose pixels nobody could mix again, and boxes of rows that are not mixed.

    Args:
        replay: columns of the rows, each [B, ...].
        place: where the rows are.

    Raises:
        DataError: naming the first bad row.
    """
    if "mix_item" not in replay:
        return
    mixed_B = replay["mix_item"] >= 0
    known_B = ~mixed_B
    if "mix_box_xyxy" in replay:
        boxed_B = (replay["mix_box_xyxy"] != -1).any(1)
        expected = "-1 four times, as its mix_item is -1 for not mixed; or give the partner's item"
        place.check("mix_box_xyxy", mixed_B | ~boxed_B, replay["mix_box_xyxy"], expected)
        known_B |= boxed_B
    if "mix_lam" in replay:
        known_B |= (replay["mix_lam"] >= 0) & (replay["mix_lam"] <= 1)
    shares = " or ".join(words for name, words in SHARES.items() if name in replay)
    expected = f"a {shares} beside it; or -1 if the row is not mixed"
    place.check("mix_item", known_B, replay["mix_item"], expected)


def _check_finite(labels_BC: np.ndarray, spec: LabelSpec, place: Place) -> None:
    if _all_finite(labels_BC):
        return
    good_BC = np.isfinite(labels_BC)
    good_B, expected = good_BC.all(1), "finite numbers"
    if spec.space not in ("probs", HIDDEN):
        expected = "finite numbers, or -inf for a probability of zero, but not in a whole row"
        good_BC = np.less(labels_BC, np.inf) & good_BC.any(1, keepdims=True)
        good_B = good_BC.all(1)
        if good_B.all():
            return
    bad_class_B = np.argmin(good_BC, axis=1)
    bad_B = labels_BC[np.arange(len(labels_BC)), bad_class_B]
    first = int(np.argmin(good_B))
    array = f"{spec.space}, class {bad_class_B[first]},"
    place.check(array, good_B, bad_B, f"{expected}; leave the row out or compute it again in a wider dtype")


def _all_finite(labels_BC: np.ndarray) -> bool:
    """Return whether no number is infinite or NaN: those have all bits of the exponent set."""
    if labels_BC.dtype == np.float16:  # whose isfinite takes several times as long as this
        return int((labels_BC.view(np.uint16) & 0x7C00).max(initial=0)) < 0x7C00
    return bool(np.isfinite(labels_BC).all())


def _check_sums(labels_BC: np.ndarray, spec: LabelSpec, tolerance: float, place: Place) -> None:
    if spec.space == "probs":
        low_B = labels_BC.min(1)
        hint = "none below 0; if they are logits, name them logits"
        place.check("the least of probs", np.greater_equal(low_B, 0), low_B, hint)
        sum_B = labels_BC.sum(1, dtype=np.float64)
        hint = "softmax the rows, or name them logits if they are"
    else:
        with np.errstate(over="ignore"):
            sum_B = np.exp(labels_BC.astype(np.float32)).sum(1, dtype=np.float64)
        hint = "log_softmax the rows, or name them logits if they are"
    good_B = np.abs(sum_B - 1) <= tolerance
    place.check(f"the sum over {spec.space}", good_B, sum_B, f"1 within {tolerance:.3g}; {hint}")


def _show(value: np.ndarray) -> str:
    return np.array2string(np.asarray(value), threshold=8, separator=", ")

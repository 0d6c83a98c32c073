from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softpack.errors import DataError
from softpack.sources import open_source

NAN, INF = np.nan, np.inf


def changed(shape: tuple[int, ...], dtype: str, place: tuple[int, ...], value: Any, fill: float = 0) -> Any:
    array = np.full(shape, fill, dtype)
    array[place] = value
    return array


def refuses(path: Path, message: str, **arrays: Any) -> None:
    np.savez(path / "x.npz", **arrays)
    with pytest.raises(DataError, match=rf"x\.npz: {message}"):
        list(open_source(path / "x.npz").blocks(2))


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_logits_that_are_not_finite(tmp_path: Path, value: float, dtype: str) -> None:
    logits = changed((4, 3, 5), dtype, (2, 1, 4), value)
    message = rf"logits, class 4, of row 7 \(item 2, view 1\) is {value}; expected finite numbers, or -inf"
    refuses(tmp_path, message, logits=logits)
    message = r"logits, class 0, of row 7 \(item 2, view 1\) is -inf; expected .* not in a whole row; leave"
    refuses(tmp_path, message, logits=changed((4, 3, 5), dtype, (2, 1), -INF))


def test_a_float64_too_great_for_float32(tmp_path: Path) -> None:
    refuses(tmp_path, r"logits, class 0, of row 1 .* is inf", logits=changed((2, 5), "float64", (1, 0), 1e300))


def test_a_bad_row_goes_by_its_index_and_others_are_counted(tmp_path: Path) -> None:
    index = {"item": np.array([5, 6, 7]), "view": np.array([3, 2, 1])}
    logits = changed((3, 5), "float32", (slice(0, 2), 0), NAN)
    message = r"logits, class 0, of row 0 \(item 5, view 3\) \(and 1 more of the 2 rows read with it\) is nan"
    refuses(tmp_path, message, logits=logits, **index)
    np.savez(tmp_path / "y.npz", logits=changed((900, 5), "float32", (700, 1), NAN))
    with pytest.raises(DataError, match=r"of row 700 \(item 700, view 0\)"):
        list(open_source(tmp_path / "y.npz").sample(899, 3))


@pytest.mark.parametrize(
    ("space", "row", "message"),
    [
        (
            "probs",
            [0.5, 0.6, 0.0],
            r"the sum over probs of row 1 .* is 1\.1.*; expected 1 within 0\.01; softmax",
        ),
        ("probs", [0, 0, 0], r"the sum over probs of row 1 .* is 0\.; expected 1 within"),
        ("probs", [1.2, -0.2, 0], r"the least of probs of row 1 .* is -0\.2.*; expected none below 0"),
        ("probs", [1, NAN, 0], r"probs, class 1, of row 1 .* is nan; expected finite"),
        (
            "log_probs",
            [0, 0, -INF],
            r"the sum over log_probs of row 1 .* is 2\.; expected 1 within 0\.01; log_",
        ),
        ("log_probs", [-INF] * 3, r"log_probs, class 0, of row 1 .* is -inf; expected .* not in a whole row"),
        (
            "log_probs",
            [0, INF, -INF],
            r"log_probs, class 1, of row 1 .* is inf; expected finite numbers, or -inf",
        ),
        ("log_probs", [0, -INF, NAN], r"log_probs, class 2, of row 1 .* is nan;"),
        ("log_probs", [99, 1, 2], r"the sum over log_probs of row 1 .* is inf;"),
    ],
)
def test_rows_that_are_no_distributions(tmp_path: Path, space: str, row: list[float], message: str) -> None:
    rows = np.array([[1, 0, 0], row], np.float32)
    if space == "log_probs":
        rows[0] = [0, -INF, -INF]
    refuses(tmp_path, message, **{space: rows})


COLUMNS_REFUSED: list[tuple[str, dict[str, Any]]] = [
    (r"flip of row 1 .* is 2; expected 0 or 1", {"flip": np.array([0, 2, 1])}),
    (r"mix_item of row 2 .* is -2; expected an item from 0 to 2, or -1", {"mix_item": np.array([-1, 0, -2])}),
    (r"mix_item of row 0 .* is 3; expected", {"mix_item": np.array([3, 0, 1])}),
    (r"mix_item of row 0 .* is 65535; expected", {"mix_item": np.array([65535, 0, 1], np.uint16)}),
    (r"mix_lam of row 1 .* is 1\.5; expected 0 to 1", {"mix_lam": np.array([0, 1.5, 1])}),
    (r"mix_lam of row 2 .* is nan; expected 0 to 1", {"mix_lam": np.array([0, 1, NAN])}),
    (r"mix_box_xyxy of row 1 .* is \[9, 0, 8, 1\]; expected", {"mix_box_xyxy": [9, 0, 8, 1]}),
    (r"mix_box_xyxy of row 1 .* is \[-1, -1, -1,  3\]; expected", {"mix_box_xyxy": [-1, -1, -1, 3]}),
    (r"mix_box_xyxy of row 1 .*; expected integers of 32 bits", {"mix_box_xyxy": [0, 0, 1, 2**40]}),
    (r"patch_order of row 1 .* is \[  0, 274\]; expected for rows", {"patch_order": [0, 0x112]}),
    (r"patch_order of row 1 .* is \[-1,  0\]; expected for rows", {"patch_order": [-1, 0]}),
    (
        r"cutout of row 1 .* expected x, y, width and height from 0 to 1, and a colour",
        {"cutout": [-1] * 6 + [0]},
    ),
    (r"cutout of row 1 .* expected x, y, width", {"cutout": [0, 0, 1, 1.5, 0, 0, 0]}),
    (r"cutout of row 1 .* expected x, y, width", {"cutout": [0, 0, 1, 1, 256, 0, 0]}),
    (r"cutout of row 1 .* expected x, y, width", {"cutout": [0, 0, 1, NAN, 0, 0, 0]}),
    (r"crop_xywh of row 1 .* is \[-1,  0,  2,  2\]; expected x and y from 0 on", {"crop_xywh": [-1, 0, 2, 2]}),
    (r"crop_xywh of row 1 .* is \[0, 0, 2, 0\]; expected", {"crop_xywh": [0, 0, 2, 0]}),
    (r"crop_xywh of row 1 .* is \[0\.5, .*\]; expected fractions", {"crop_xywh": [0.5, 0, 0.6, 1.0]}),
    (r"crop_xywh of row 1 .* is \[0\., .*\]; expected fractions", {"crop_xywh": [0.0, 0, 0, 1]}),
    (r"crop_xywh of row 1 .* is \[10\., .*; pixels are stored as integers", {"crop_xywh": [10.0, 0, 50, 50]}),
    (r"crop_xywh of row 1 .* is \[nan, .*; expected finite", {"crop_xywh": [NAN, 0, 1, 1]}),
    (r"crop_xywh of row 1 .* is \[-inf, .*; expected finite", {"crop_xywh": [-INF, 0, INF, 1]}),
]


@pytest.mark.parametrize(("message", "columns"), COLUMNS_REFUSED)
def test_columns_with_a_bad_entry(tmp_path: Path, message: str, columns: dict[str, Any]) -> None:
    good = {"mix_box_xyxy": [-1] * 4, "crop_xywh": [0, 0, 1, 1], "patch_order": [0, 0], "cutout": [-1] * 7}
    arrays = {}
    for name, value in columns.items():
        rows = [good[name], value, good[name]] if name in good else value
        arrays[name] = np.asarray(rows)
    if any(name in arrays for name in ("mix_lam", "mix_box_xyxy")):
        arrays["mix_item"] = np.array([-1, 0, 1])
    elif "mix_item" in arrays:
        arrays["mix_lam"] = np.ones(3)
    refuses(tmp_path, message, logits=np.zeros((3, 4), np.float16), **arrays)


@pytest.mark.parametrize(
    ("message", "boxes"),
    [
        (r"mix_item of row 1 .* is 0; expected a mix_box_xyxy beside it; or -1", [[-1] * 4, [-1] * 4]),
        (r"mix_box_xyxy of row 0 .* is \[0, 0, 1, 1\]; expected -1 four", [[0, 0, 1, 1], [0, 0, 1, 1]]),
    ],
)
def test_mixes_that_nobody_could_replay(tmp_path: Path, message: str, boxes: Any) -> None:
    mix = {"mix_item": np.array([-1, 0]), "mix_box_xyxy": np.array(boxes)}
    refuses(tmp_path, message, logits=np.zeros((2, 4), np.float16), **mix)


def test_crops_outside_of_their_image(tmp_path: Path) -> None:
    sizes = np.array([[100, 200]] * 2)
    logits = np.zeros((2, 1, 4), np.float16)
    pixels = np.array([[[100, 0, 100, 100]], [[101, 0, 100, 100]]])
    message = r"crop_xywh with the image's width and height of row 1 \(item 1, view 0\) is "
    shown = r"\[101,   0, 100, 100, 200, 100\]; expected a crop inside of its image"
    refuses(tmp_path, message + shown, logits=logits, crop_xywh=pixels, source_hw=sizes)
    fractions = np.array([[[0, 0, 1, 1.0]], [[0.5, 0.0, 0.6, 1]]])
    refuses(tmp_path, message + r"\[100,   0, 120,", logits=logits, crop_xywh=fractions, source_hw=sizes)


def test_fractions_that_are_no_whole_pixels(tmp_path: Path) -> None:
    crops = np.array([[0, 0, 0.5, 0.5], [0.0, 0, 0.502, 0.5]])
    message = (
        r"crop_xywh times the image's size of row 1 .* is .*100\.4.*; expected fractions that are whole pix"
    )
    logits = np.zeros((2, 4), np.float16)
    refuses(tmp_path, message, logits=logits, crop_xywh=crops, source_hw=np.full((2, 2), 200))


LAYOUTS_REFUSED: list[tuple[str, dict[str, Any]]] = [
    (
        r"has none of the arrays logits, log_probs, probs; expected exactly one: .* it holds y",
        {"y": np.zeros(3)},
    ),
    (r"has logits and probs of the arrays", {"logits": np.zeros((2, 2)), "probs": np.zeros((2, 2))}),
    (r"logits has dtype int64; expected float16, bfloat16", {"logits": np.zeros((2, 2), np.int64)}),
    (r"logits has shape \(4,\); expected \[items, views, classes\]", {"logits": np.zeros(4)}),
    (r"logits has shape \(1, 2, 2, 2\); expected", {"logits": np.zeros((1, 2, 2, 2))}),
    (r"logits has shape \(0, 5\); expected .*, with at least one row", {"logits": np.zeros((0, 5))}),
    (r"rows have 1 classes; expected 2 to", {"logits": np.zeros((4, 1))}),
    (r"logits have no temperature, but 2\.0 was given", {"logits": np.zeros((4, 2)), "temperature": 2}),
    (r"temperature is -1\.0; expected a positive", {"probs": np.zeros((4, 2)), "temperature": -1}),
    (
        r"temperature has shape \(2,\) of int64; expected a single",
        {"probs": np.zeros((4, 2)), "temperature": [1, 2]},
    ),
]


@pytest.mark.parametrize(("message", "arrays"), LAYOUTS_REFUSED)
def test_files_whose_labels_are_none(tmp_path: Path, message: str, arrays: dict[str, Any]) -> None:
    refuses(tmp_path, message, **arrays)


MISFITS: list[tuple[str, int, dict[str, Any]]] = [
    (r"flip has shape \(5,\); expected \(4,\) to fit the labels", 2, {"flip": np.zeros(5, bool)}),
    (r"flip has shape \(4,\); expected \(2, 2\) to fit", 3, {"flip": np.zeros(4, bool)}),
    (r"flip has dtype float64; expected bool, or the integers 0 and 1", 2, {"flip": np.zeros(4)}),
    (r"crop_xywh has shape \(4, 2\); expected \(4, 4\)", 2, {"crop_xywh": np.zeros((4, 2))}),
    (r"crop_xywh has dtype bool; expected integers or floats", 2, {"crop_xywh": np.zeros((4, 4), bool)}),
    (r"mix_item has dtype float64; expected integers", 2, {"mix_item": np.zeros(4)}),
    (r"has mix_lam but no mix_item; expected the item", 2, {"mix_lam": np.zeros(4)}),
    (r"has mix_item but neither mix_lam nor mix_box", 2, {"mix_item": np.zeros(4, int)}),
    (r"has item alone; expected both item and view", 2, {"item": np.arange(4)}),
    (r"item has shape \(3,\); expected \(4,\)", 2, {"item": np.arange(3), "view": np.zeros(4, int)}),
    (r"view has dtype float64; expected integers", 2, {"item": np.arange(4), "view": np.zeros(4)}),
    (r"logits has shape .* there is also item and view", 3, {"item": np.arange(4), "view": np.arange(4)}),
    (r"item of row 2 is -1; expected 0 to", 2, {"item": np.array([0, 1, -1, 2]), "view": np.arange(4)}),
    (
        r"view of row 3 is 2147483647; expected 0",
        2,
        {"view": np.array([0, 1, 2, 2**31 - 1]), "item": np.arange(4)},
    ),
    (r"target has shape \(3,\); expected \(2,\)", 3, {"target": np.zeros(3, int)}),
    (r"target has shape \(5,\); expected \(4,\)", 2, {"target": np.zeros(5, int)}),
    (r"target has dtype float64; expected integers", 2, {"target": np.zeros(4)}),
    (r"target of item 1 is 4294967296; expected", 2, {"target": np.array([0, 2**32, 1, 1])}),
    (r"source_hw has shape \(4,\); expected \(4, 2\)", 2, {"source_hw": np.ones(4, int)}),
    (
        r"source_hw of item 2 is \[5, 0\]; expected 1 to",
        2,
        {"source_hw": np.array([[5, 5], [5, 5], [5, 0], [5, 5]])},
    ),
    (
        r"target has 3 entries; expected one for each item, at least 4",
        2,
        {"item": np.arange(4), "view": np.arange(4), "target": np.arange(3)},
    ),
    (
        r"target has 5 items, source_hw 6; expected as many",
        2,
        {"item": np.arange(4), "view": np.arange(4), "target": np.arange(5), "source_hw": np.ones((6, 2), int)},
    ),
]


@pytest.mark.parametrize(("message", "n_axes", "arrays"), MISFITS)
def test_arrays_that_do_not_fit_the_labels(
    tmp_path: Path, message: str, n_axes: int, arrays: dict[str, Any]
) -> None:
    shape = (4, 3) if n_axes == 2 else (2, 2, 3)
    refuses(tmp_path, message, logits=np.zeros(shape, np.float32), **arrays)


def test_what_the_caller_says_must_be_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", logits=np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"x\.npz: holds logits, but space probs was asked for"):
        open_source(tmp_path / "x.npz", space="probs")
    with pytest.raises(DataError, match=r"space is 'odds'; expected one of logits, log_probs, probs"):
        open_source(tmp_path / "x.npz", space="odds")
    with pytest.raises(DataError, match=r"blocks of 0 rows were asked for"):
        open_source(tmp_path / "x.npz").blocks(0)


def test_a_file_that_changed_since_it_was_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", logits=np.zeros((2, 2)))
    source = open_source(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", logits=np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"x\.npz: has changed since it was opened; .*open it again"):
        list(source.blocks(2))


def test_what_the_caller_raises_is_left_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", logits=np.zeros((9, 2)))
    blocks = open_source(tmp_path / "x.npz").blocks(2)
    next(blocks)
    with pytest.raises(ZeroDivisionError):
        blocks.throw(ZeroDivisionError())  # type: ignore[attr-defined]

"""Sets of TinyViT go in, keyed by numbers or names, and come out again record by record."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

import softpack
from softpack.errors import DataError, ExistsError
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.given import Given
from softpack.sources.peers.to_tinyvit import write_tinyvit

NUMBERS = [str(item) for item in range(23)]
NAMES = ["n02_b", "n01_ünï", "n01_10026", "n01_9.v2", "n03_ x"]
SIZE = 4 + 4 * 4  # bytes of a record of four classes


def open_set(path: Path, classes: int | None = 10, temperature: float | None = None, **more):
    return open_source(path, temperature=temperature, given=Given(classes=classes, **more))


@pytest.fixture
def made(layouts, tmp_path):
    def make(keys=NUMBERS, **how):
        return layouts.write_tinyvit(tmp_path / "labels", list(keys), **how)

    return make


def dense(said, classes: int) -> np.ndarray:
    """The labels that TinyViT's trainer makes of a record."""
    probs = said["probs"].astype(np.float32)
    row = np.full(classes, (1 - probs.sum()) / max(classes - len(probs), 1), np.float32)
    row[said["ids"].astype(int)] = probs
    return row


def check_rows(source, written, items=None) -> None:
    """Check every row; `items` gives the item of each key."""
    cells = {((item if items is None else items[item]), e): said for (item, e), said in written.rows.items()}
    seen = []
    for block in source.blocks(7):
        for row, cell in enumerate(zip(block.item_B.tolist(), block.view_B.tolist(), strict=True)):
            expected = dense(cells[cell], source.spec.classes)
            np.testing.assert_allclose(block.labels_BC[row], expected.clip(0), atol=1e-7)
            np.testing.assert_array_equal(block.labels_BC[row][cells[cell]["ids"]], cells[cell]["probs"])
            assert block.replay["aug_seed"][row] == cells[cell]["seed"]
            seen.append(cell)
    assert sorted(seen) == sorted(cells)


# -- in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [{}, {"ranks": 1}, {"ranks": 5, "repeats": 3}, {"k": 10}, {"k": 1}, {"sharp": 40.0}, {"classes": 40_000, "k": 9}],
    ids=str,
)  # fmt: skip
def test_every_row_goes_in(made, how):
    written, classes = made(**how), how.get("classes", 10)
    source = open_set(written.path, classes)
    assert (source.items, source.views, source.n_rows, source.columns) == (23, 3, 69, ("aug_seed",))
    assert (source.spec.space, source.spec.classes, source.spec.temperature) == ("probs", classes, 1.0)
    assert source.order_known_by == "keys, which are numbers of images"
    assert source.n_bytes == sum(file.stat().st_size for file in written.path.rglob("rank*"))
    check_rows(source, written)


def test_any_rows_are_read_alone(made):
    source = open_set(made(repeats=2).path)
    whole = next(source.blocks(100))
    for rows in ([0], [68], [3, 4, 30, 31, 67], list(range(10, 60))):
        (part,) = source.read_rows(iter([np.array(rows)]))
        np.testing.assert_array_equal(part.labels_BC, whole.labels_BC[rows])
        np.testing.assert_array_equal(part.item_B, whole.item_B[rows])
        np.testing.assert_array_equal(part.replay["aug_seed"], whole.replay["aug_seed"][rows])
        np.testing.assert_array_equal(source.views_of(np.array(rows)), whole.view_B[rows])
    assert sum(len(block) for block in source.sample(20, 0)) == 20


def test_the_first_record_of_a_key_counts_and_others_are_said(made):
    written = made(repeats=2, ranks=2)
    assert open_set(written.path).ignored == ("6 records of keys that their epoch has already",)


def test_names_are_items_in_their_sorted_order(made):
    source = open_set((written := made(NAMES)).path)
    assert source.order_known_by == "keys, which are names; items are in the order of these, sorted"
    check_rows(source, written, [sorted(NAMES).index(name) for name in NAMES])


@pytest.mark.parametrize("are_names", [True, False])
def test_images_say_which_items_keys_are_of(layouts, made, tmp_path, are_names):
    images = ["a/n01_9.v2.png", "a/n03_ x.png", "b/n01_10026.PNG", "b/n01_ünï.png", "b/n02_b.png", "b/rest.png"]
    layouts.write_named_images(tmp_path / "images", images, np.full((6, 2), 300))
    items = [images.index(next(image for image in images if name in image)) for name in NAMES]
    written = made(NAMES if are_names else [str(item) for item in items])
    source = open_set(written.path, images=tmp_path / "images")
    assert source.items == 6
    assert source.item_columns["target"].tolist() == [0, 0, 1, 1, 1, 1]
    what = "names" if are_names else "numbers"
    assert source.order_known_by == f"keys, which are {what} of the images that were given"
    check_rows(source, written, items)


def test_a_key_may_be_missing_in_an_epoch_and_lines_end_as_on_windows(made):
    written = made(ranks=1)
    folder = written.path / "logits_top4_epoch1"
    lines = (folder / "rank0-keys.txt").read_text().splitlines()
    (folder / "rank0-keys.txt").write_bytes("\r\n".join(lines[:-1]).encode())
    values = (folder / "rank0-values.bin").read_bytes()
    (folder / "rank0-values.bin").write_bytes(values[:-SIZE])
    del written.rows[int(lines[-1]), 1]
    check_rows(open_set(written.path), written)


def test_seeds_are_left_out_where_they_are_not_wanted(made):
    source = open_set(made().path, replay=False)
    assert source.columns == ()
    assert next(source.blocks(5)).replay == {}


def test_it_is_known_by_its_folders_and_needs_its_classes(made):
    path = made().path
    with pytest.raises(DataError, match=r"files do not say how many classes there are \(--classes C\)$"):
        open_source(path)
    with pytest.raises(DataError, match="a set of tinyvit holds probs at temperature 1; leave"):
        open_set(path, temperature=4)
    open_set(path, temperature=1)


def test_what_lies_about_is_said(made):
    path = made().path
    for name in ("notes.txt", "logits_top04_epoch0", "logits_top4_epoch1/rank00-keys.txt"):
        (path / name).write_text("")
    assert open_set(path).ignored == ("logits_top04_epoch0", "notes.txt", "logits_top4_epoch1/rank00-keys.txt")


# -- refused -------------------------------------------------------------------------------------------

CLASSES, PROBS = slice(4, 12), slice(12, 20)  # of a record


def changed(path: Path, **parts: tuple[slice, bytes]) -> Path:
    """Put other bytes into the fourth record of the second rank of epoch 1."""
    file = path / "logits_top4_epoch1" / "rank1-values.bin"
    held = bytearray(file.read_bytes())
    for where, put in parts.values():
        held[3 * SIZE + where.start : 3 * SIZE + where.stop] = put
    file.write_bytes(held)
    return file


def halves(*numbers: float) -> bytes:
    return np.array(numbers, "<f2").tobytes()


@pytest.mark.parametrize(
    ("where", "put", "says"),
    [
        (CLASSES, struct.pack("<4h", 1, 2, 10, 3), "names class 10 in row 3; expected 0 to 9, of --classes"),
        (CLASSES, struct.pack("<4h", 1, 2, -1, 3), "names class 65535 in row 3"),
        (CLASSES, struct.pack("<4h", 1, 2, 1, 3), "names a class twice in a row, which is row 3; expected each once"),
        (PROBS, halves(0.5, np.nan, 0, 0), r"probs, class \d, of row 3 \(item \d+, view 1\) is nan; expected finite"),
        (PROBS, halves(np.inf, 0, 0, 0), r"probs, class \d, of row 3 .* is inf; expected finite numbers"),
        (PROBS, halves(0.5, 0.1, 0.1, -0.1), r"the least of probs of row 3 .* is -0\.0999.*; expected none below 0"),
        (PROBS, halves(0.5, 0.5, 0.1, 0.1), r"the sum over probs of row 3 .* is 1\.19.*; expected 1 within 0\.01"),
    ],
)  # fmt: skip
def test_a_bad_record_is_named(made, where, put, says):
    written = made()
    file = changed(written.path, record=(where, put))
    with pytest.raises(DataError, match=rf"epoch1/rank1-values\.bin: {says}"):
        list(open_set(written.path).blocks(100))
    left = open_set(written.path, skip_bad=True)
    assert list(left.skipped) == [str(file)]
    lost = {int(line) for line in file.with_name("rank1-keys.txt").read_text().split()}
    assert left.n_rows == sum(len(block) for block in left.blocks(100)) == 69 - len(lost)
    check = {(item, epoch) for item, epoch in written.rows if epoch != 1 or item not in lost}
    blocks = list(left.blocks(9))
    assert {cell for b in blocks for cell in zip(b.item_B.tolist(), b.view_B.tolist(), strict=True)} == check


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0\n1\n\n3\n", r"line 3 is '', of 0 bytes; expected the number of an image or its name, of 1 to 255"),
        ("0\n1\n2\n3\0\n", "line 4 is '3\\\\x00', of 2 bytes"),
        ("0\n1\n2\n" + "x" * 256, "line 4 is 'x{40}', of 256 bytes"),
        (
            "0\n1\n2\n",
            "has 3 lines, and 4 records are beside it; expected as many; one of the files may be cut",
        ),
        ("", "has 1 lines, and 4 records are beside it"),
        (
            "0\n1\n2\nx\n",
            "line 4 is 'x', and other lines are numbers; expected numbers of images alone, or their",
        ),
        ("0\n1\n2\n03\n", "line 4 is '03', and other lines are numbers"),
        ("a\nb\nc\nd\n", "line 1 is 'a', and the first file holds numbers; they are of two sets"),
        ("0\n1\n2\n9999999999\n", "line 4 is '9999999999', which is none of 2147483647 images"),
        ("0\n1\n2\n" + "3" * 2000, "has 2006 bytes; expected at most 1028, of 4 keys"),
    ],
)
def test_bad_keys_are_named(made, text, says):
    path = made(NUMBERS[:8]).path
    file = path / "logits_top4_epoch2" / "rank1-keys.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=rf"epoch2/rank1-keys\.txt: {says}"):
        open_set(path)
    left = open_set(path, skip_bad=True)
    assert (left.n_rows, list(left.skipped)) == (20, [str(file)])


def test_names_are_not_mixed_with_numbers_or_with_each_other(layouts, made, tmp_path):
    path = made(NAMES[:4]).path
    (path / "logits_top4_epoch2" / "rank1-keys.txt").write_text("0\n1\n")
    with pytest.raises(DataError, match=r"rank1-keys\.txt: line 1 is '0', and the first file holds names"):
        open_set(path)
    assert open_set(path, skip_bad=True).items == 4
    for images, says in (
        (
            ["a/n01_10026.png", "b/other.png"],
            r"keys\.txt: line \d is '.*', which is none of 2 images; give the im",
        ),
        (["a/1.png", "b/1.jpg"], "images: has several images that are called '1' but for folder and suffix"),
    ):
        layouts.write_named_images(tmp_path / "images", images, np.full((2, 2), 300))
        with pytest.raises(DataError, match=says):
            open_set(path, images=tmp_path / "images")
        shutil.rmtree(tmp_path / "images")


def test_numbers_beyond_the_images_are_refused(layouts, made, tmp_path):
    layouts.write_images(tmp_path / "images", np.full((22, 2), 300))
    with pytest.raises(
        DataError, match="is '22', which is none of 22 images; give the images that were labelled"
    ):
        open_set(made().path, images=tmp_path / "images")


@pytest.mark.parametrize("n_bytes", [0, SIZE - 1, SIZE + 3])
def test_a_file_that_is_cut_off_is_refused(made, n_bytes):
    path = made().path
    file = path / "logits_top4_epoch0" / "rank0-values.bin"
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(
        DataError, match=rf"rank0-values\.bin: has {n_bytes} bytes; expected records of 20, for the 4"
    ):
        open_set(path)
    assert list(open_set(path, skip_bad=True).skipped) == [str(file)]


def test_missing_files_are_named(made):
    path = made(epochs=4, ranks=3).path
    (path / "logits_top4_epoch0" / "rank1-keys.txt").unlink()
    (path / "logits_top4_epoch1" / "rank2-values.bin").unlink()
    with pytest.raises(
        DataError, match=r"1 files are missing: logits_top4_epoch0/rank1-keys\.txt; .* --skip-bad"
    ):
        open_set(path)
    shutil.rmtree(path / "logits_top4_epoch2")
    with pytest.raises(DataError, match="labels: 1 files are missing: logits_top4_epoch2; copy"):
        open_set(path)
    left = open_set(path, skip_bad=True)
    assert (left.views, left.n_rows, len(left.skipped)) == (4, 4 * 23 - 8 - 7 - 23, 3)


def test_a_set_of_which_nothing_is_left_is_refused(made):
    path = made(epochs=1, ranks=1).path
    (path / "logits_top4_epoch0" / "rank0-keys.txt").unlink()
    for skip_bad in (True, False):
        with pytest.raises(
            DataError, match=r"missing.* logits_top4_epoch0/rank0-keys|rank0-keys\.txt: is missing"
        ):
            open_set(path, skip_bad=skip_bad)
    (path / "logits_top4_epoch0" / "rank0-values.bin").unlink()
    with pytest.raises(DataError, match=r"2 files are missing: .*rank0-keys\.txt, .*rank0-values\.bin"):
        open_set(path)


def test_folders_of_other_numbers_of_classes_are_refused(made, tmp_path):
    path = made().path
    with pytest.raises(
        DataError, match="labels: keeps 4 classes of a row, as its folders are called; expected 1 to 3"
    ):
        open_set(path, classes=3)
    (path / "logits_top5_epoch3").mkdir()
    with pytest.raises(
        DataError, match=r"labels: keeps 4 and 5 classes of a row; expected logits_topK_epoch0, .*one K"
    ):
        open_set(path)
    (tmp_path / "none" / "logits_top0_epoch0").mkdir(parents=True)
    with pytest.raises(
        DataError, match="keeps 0 classes of a row, as its folders are called; expected 1 to 10"
    ):
        open_set(tmp_path / "none")
    with pytest.raises(DataError, match="has no logits_topK_epoch0; expected"):
        open_source(tmp_path, kind="tinyvit", given=Given(classes=10))


# -- out -----------------------------------------------------------------------------------------------


def spk_of(source, path: Path, codec: str = "raw", **settings) -> Path:
    settings = settings or {"dtype": "fp32"}
    encode_source(source, path, fit_model(source, codec, settings))
    return path


def records_of(path: Path, k: int = 4) -> dict[tuple[str, int], tuple[int, dict[int, bytes]]]:
    """The seed of each record, and its probabilities by their classes, without those of 0 that all others have too."""
    found = {}
    for folder in path.iterdir():
        for keys in folder.glob("*-keys.txt"):
            values = keys.with_name(keys.name.replace("keys.txt", "values.bin")).read_bytes()
            for row, key in enumerate(keys.read_text(encoding="utf-8").splitlines()):
                record = values[row * (4 + 4 * k) : (row + 1) * (4 + 4 * k)]
                seed, *numbers = struct.unpack(f"<i{k}H{2 * k}s", record)
                probs = np.frombuffer(numbers.pop(), "<f2")
                assert (np.diff(probs) <= 0).all()
                cell = (key, int(folder.name.rpartition("epoch")[2]))
                is_all = probs.astype(np.float32).sum() >= 1
                kept = {number: p for number, p in zip(numbers, probs.tolist(), strict=True) if p or not is_all}
                found.setdefault(cell, (seed, kept))
    return found


@pytest.mark.parametrize(
    "how",
    [{}, {"sharp": 8.0, "k": 6}, {"classes": 40_000, "k": 9, "sharp": 30.0}, {"k": 10}, {"k": 1}],
    ids=str,
)
def test_a_set_comes_out_record_by_record(made, tmp_path, how):
    written, k = made(**how), how.get("k", 4)
    path = spk_of(open_set(written.path, how.get("classes", 10)), tmp_path / "a.spk")
    told = []
    write_tinyvit(path, tmp_path / "out", Asked(k=k), counted=lambda *done: told.append(done))
    assert records_of(tmp_path / "out", k) == records_of(written.path, k)
    assert told[-1] == (69, 69)
    assert sorted(file.name for file in (tmp_path / "out" / f"logits_top{k}_epoch2").iterdir()) == [
        "rank0-keys.txt", "rank0-values.bin",
    ]  # fmt: skip
    again = open_set(tmp_path / "out", how.get("classes", 10))
    assert (again.items, again.views, again.n_rows) == (23, 3, 69)


def test_what_was_kept_comes_out_though_it_is_less_than_what_was_not(made, tmp_path):
    written = made(["0"], epochs=1, ranks=1)
    # Rounded, so that each of the other six has 8e-5.
    record = struct.pack("<i4h", 5, 7, 1, 4, 2) + halves(0.9996, 1e-7, 0, 0)
    file = written.path / "logits_top4_epoch0" / "rank0-values.bin"
    file.write_bytes(record)
    path = spk_of(open_set(written.path), tmp_path / "a.spk")
    write_tinyvit(path, tmp_path / "out", Asked(k=4))
    out = (tmp_path / "out" / "logits_top4_epoch0" / "rank0-values.bin").read_bytes()
    assert out == struct.pack("<i4h", 5, 7, 1, 2, 4) + halves(0.9996, 1e-7, 0, 0)  # equal ones by their numbers
    write_tinyvit(path, tmp_path / "fewer", Asked(k=2))
    (said,) = records_of(tmp_path / "fewer", 2).values()
    assert set(said[1]) == {7, 0}


def test_names_of_images_are_keys_again(layouts, made, tmp_path):
    layouts.write_named_images(
        tmp_path / "images", [f"{name[:3]}/{name}.png" for name in NAMES], np.full((5, 2), 9)
    )
    written = made(NAMES)
    path = spk_of(open_set(written.path, images=tmp_path / "images"), tmp_path / "a.spk")
    write_tinyvit(path, tmp_path / "out", Asked(k=4, images=tmp_path / "images"))
    assert records_of(tmp_path / "out") == records_of(written.path)


def test_logits_at_t_1_come_out_as_probabilities(tmp_path):
    logits = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    with softpack.create(tmp_path / "a.spk", "raw", items=3, views=3, classes=10, dtype="fp32") as writer:
        writer.append(logits, item=[0, 1, 2, 0, 1, 2], view=[0, 0, 0, 2, 2, 2], aug_seed=np.arange(6))
    write_tinyvit(tmp_path / "a.spk", tmp_path / "out", Asked(k=3))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = records_of(tmp_path / "out", 3)
    assert found.keys() == {(str(item), view) for item in range(3) for view in (0, 2)}  # no view 1
    for row, (item, view) in enumerate([(0, 0), (1, 0), (2, 0), (0, 2), (1, 2), (2, 2)]):
        seed, kept = found[str(item), view]
        assert (seed, set(kept)) == (row, set(np.argsort(-probs[row])[:3].tolist()))
        np.testing.assert_allclose(list(kept.values()), probs[row][list(kept)], rtol=1e-3)


def test_labels_that_tinyvit_cannot_use_are_refused(layouts, made, tmp_path):
    source = open_set(made().path)
    path, plain = spk_of(source, tmp_path / "a.spk"), tmp_path / "plain.spk"
    encode_source(source, plain, fit_model(source, "raw", {}), replay=False)
    cropped, late, wide = tmp_path / "cropped.spk", tmp_path / "late.spk", tmp_path / "wide.spk"
    for file, how, more in (
        (cropped, {}, {"flip": [True]}),
        (late, {"space": "log_probs", "temperature": 4.0}, {}),
        (wide, {}, {}),
    ):
        classes = 1 << 17 if file == wide else 4
        with softpack.create(file, "raw", items=1, views=1, classes=classes, **how) as writer:
            writer.append(
                np.full((1, classes), -np.log(4), np.float32), item=[0], view=[0], aug_seed=[1], **more
            )
    names = [f"a/n_{number}.png" for number in range(22)]
    layouts.write_named_images(tmp_path / "few", names, np.full((22, 2), 9))
    layouts.write_named_images(tmp_path / "numbered", [*names, "a/7.png"], np.full((23, 2), 9))
    layouts.write_named_images(tmp_path / "lines", [*names, "a/o\nn.png"], np.full((23, 2), 9))
    for file, asked, says in (
        (
            plain,
            Asked(k=4),
            r"plain\.spk: has no aug_seed, the seed that TinyViT draws each view from again; others",
        ),
        (cropped, Asked(k=4), r"cropped\.spk: has flip of views; TinyViT's records have a seed alone"),
        (late, Asked(k=4), r"late\.spk: TinyViT's probabilities are of temperature 1, not 4"),
        (path, Asked(k=4, temperature=20.0), "are of temperature 1, not 20"),
        (path, Asked(k=4, dtype="float32"), "probabilities are float16, not float32; leave --dtype out"),
        (
            path,
            Asked(),
            "say how many of 10 classes TinyViT's records are to keep, such as --k 10, which its DIST",
        ),
        (path, Asked(k=11), "say how many of 10 classes"),
        (wide, Asked(k=4), "has 131072 classes; TinyViT stores them in 16 bits"),
        (
            path,
            Asked(k=4, images=tmp_path / "few"),
            r"has labels of 23 items, and .*few holds 22 images; give those",
        ),
        (
            path,
            Asked(k=4, images=tmp_path / "numbered"),
            r"numbered: holds an image called '7' but for its suffix;",
        ),
        (
            path,
            Asked(k=4, images=tmp_path / "lines"),
            r"lines: holds an image called 'o\\nn' but for its suffix; Tin",
        ),
    ):
        with pytest.raises(DataError, match=says):
            write_tinyvit(file, tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_replaced_when_told_so_alone(made, tmp_path):
    path = spk_of(open_set(made().path), tmp_path / "a.spk")
    write_tinyvit(path, tmp_path / "out", Asked(k=2))
    with pytest.raises(ExistsError, match="out is there already"):
        write_tinyvit(path, tmp_path / "out", Asked(k=3))
    write_tinyvit(path, tmp_path / "out", Asked(k=3), force=True)
    assert open_set(tmp_path / "out").n_rows == 69
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(DataError, match="holds 'mine', which is no part of a label set"):
        write_tinyvit(path, tmp_path / "out", Asked(k=3), force=True)

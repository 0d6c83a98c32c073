"""Sets of SRe2L, CDA, CV-DD, LPLD and G-VBSM go in, and come out again as they were."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import RandomSampler

import softpack
from softpack.errors import DataError, ExistsError
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.given import Given
from softpack.sources.peers.orders import SeededOrder
from softpack.sources.peers.to_fkdmix import write_sre2l

SEEDED = Given(label_seed=42, sampler="new")
VARIANTS = {
    "cutmix": {},
    "mixup": {"mix": "mixup"},
    "not mixed": {"mix": None},
    "fp32": {"dtype": torch.float32},
    "whole batches": {"items": 24},
    "one batch": {"items": 5},
    "one epoch": {"epochs": 1},
    "batches of one": {"items": 4, "batch": 1},
}


def has_full_batches(how: dict[str, int]) -> bool:
    """Return whether nobody can tell from the batches how many images there are."""
    batch = how.get("batch", 8)
    return how.get("items", 23) <= batch or how.get("items", 23) % batch == 0


@pytest.fixture
def made(layouts, tmp_path):
    return lambda **how: layouts.write_sre2l(tmp_path / "labels", **how)


def check_rows(source, written, is_exact=False) -> None:
    """Check that a source gives all that a set says."""
    seen = set()
    for block in source.blocks(10):
        for row, cell in enumerate(zip(block.item_B.tolist(), block.view_B.tolist(), strict=True)):
            said = written.rows[cell]
            np.testing.assert_array_equal(block.labels_BC[row], said["logits"])
            found = {name: values[row] for name, values in block.replay.items()}
            if is_exact:
                assert found.pop("crop_xywh").tolist() == said["crop_xywh"]
            else:
                size_wh = np.tile(written.size_hw[cell[0], ::-1], 2)
                np.testing.assert_allclose(
                    found.pop("crop_xywh_fraction") * size_wh, said["crop_xywh"], atol=1e-3
                )
            expected = {
                n: said[n] for n in ("flip", "mix_item", "mix_lam", "mix_box_xyxy") if said[n] is not None
            }
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-6)
            seen.add(cell)
    assert seen == written.rows.keys()


# -- in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_row_goes_in(layouts, made, tmp_path, how):
    written, needs_images = made(**how), has_full_batches(how)
    if needs_images:
        layouts.write_images(tmp_path / "images", written.size_hw)
    given = dataclasses.replace(SEEDED, images=tmp_path / "images" if needs_images else None)
    source = open_source(written.path, given=given)
    items, epochs = how.get("items", 23), how.get("epochs", 3)
    assert (source.items, source.views, source.n_rows) == (items, epochs, items * epochs)
    assert (
        source.order_known_by == f"seed 42, of {items} images, as the sampler of PyTorch 1.11 and later draws"
    )
    check_rows(source, written, needs_images)


def test_how_many_images_there_are_is_asked_for_where_last_batches_may_be_lost(made):
    written = made()
    for epoch in range(3):
        (written.path / f"epoch_{epoch}" / "batch_2.tar").unlink()
    with pytest.raises(DataError, match=r"how many images there are, as the last batch .* \(--images DIR\)"):
        open_source(written.path, given=SEEDED)


def test_an_index_says_the_order_and_items_in_the_file_do(made, tmp_path):
    written = made(index=True, seed=7)
    source = open_source(written.path)
    assert source.order_known_by == "sampler_indices_epoch.json"
    check_rows(source, written)
    shutil.rmtree(written.path)
    written = made(says_items=True, seed=7)
    assert open_source(written.path).order_known_by == ""
    check_rows(open_source(written.path), written)


def test_images_make_crops_whole_pixels_and_say_classes(layouts, made, tmp_path):
    written = made(index=True)
    layouts.write_images(tmp_path / "images", written.size_hw)
    source = open_source(written.path, given=Given(images=tmp_path / "images"))
    np.testing.assert_array_equal(source.item_columns["source_hw"], written.size_hw)
    np.testing.assert_array_equal(source.item_columns["target"], np.arange(23) * 10 // 23)
    check_rows(source, written, is_exact=True)


def test_a_pruned_pool_goes_in(layouts, made):
    written = made(items=40, index=True)
    for batch in (2, 3, 4):
        (written.path / "epoch_2" / f"batch_{batch}.tar").unlink()
    index = written.path / "sampler_indices_epoch.json"
    listed = json.loads(index.read_text())
    lost = {(item, 2) for item in listed["2"][16:]}
    index.write_text(json.dumps(listed | {"2": listed["2"][:16]}))
    source = open_source(written.path)
    assert (source.n_rows, source.items, source.views) == (96, 40, 3)
    pool = layouts.Written(
        written.path, {c: r for c, r in written.rows.items() if c not in lost}, written.size_hw
    )
    check_rows(source, pool)


def test_an_unknown_order_makes_every_row_an_item(made):
    written = made()
    source = open_source(written.path, given=Given(sampler="unknown"))
    assert (source.items, source.views, source.n_rows) == (69, 1, 69)
    items = np.concatenate([block.item_B for block in source.blocks(100)])
    assert items.tolist() == list(range(69))
    assert {view for block in source.blocks(100) for view in block.view_B.tolist()} == {0}


def test_a_sample_is_of_whole_files_and_of_the_seed(made):
    source = open_source(made(items=199, epochs=4).path, given=SEEDED)
    one, again, other = (
        [cell for block in source.sample(50, seed) for cell in zip(block.item_B, block.view_B, strict=True)]
        for seed in (0, 0, 1)
    )
    assert one == again != other
    assert len(set(one)) == 50
    assert sum(len(block) for block in source.sample(10_000, 0)) == 796


@pytest.mark.parametrize("n_rows", [1, 7, 8, 9, 20, 1000])
def test_blocks_and_groups_of_any_size_give_the_same_rows(made, n_rows):
    source = open_source(made().path, given=SEEDED)
    whole = np.concatenate([block.labels_BC for block in source.blocks(1000)])
    np.testing.assert_array_equal(np.concatenate([block.labels_BC for block in source.blocks(n_rows)]), whole)
    groups = np.array_split(np.arange(1, 69, 2), 5)
    found = [block.labels_BC for block in source.read_rows(iter(groups))]
    np.testing.assert_array_equal(np.concatenate(found), whole[1::2])
    assert [len(rows) for rows in found] == [len(group) for group in groups]
    np.testing.assert_array_equal(source.views_of(np.arange(69)), np.arange(69) // 23)


@pytest.mark.parametrize("is_new", [True, False])
def test_the_order_is_that_of_torchs_sampler(is_new):
    generator = torch.Generator().manual_seed(5)
    order = SeededOrder(5, 50, is_new)
    expected = []
    for _ in range(6):
        if is_new:
            expected.append(list(RandomSampler(range(50), generator=generator)))
        else:  # as it drew before 1.11
            expected.append(torch.randperm(50, generator=generator).tolist())
    for epoch in (0, 1, 4, 2, 5, 5, 3):
        assert order.items(epoch).tolist() == expected[epoch]


# -- out -----------------------------------------------------------------------------------------------


def spk_of(written, path: Path, given: Given = SEEDED, dtype: str = "fp16") -> Path:
    source = open_source(written.path, given=given)
    encode_source(source, path, fit_model(source, "raw", {"dtype": dtype}))
    return path


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list):
        return [int(number) for number in one] == other
    return one is other is None


@pytest.mark.parametrize("sizes", [True, False], ids=["pixels", "fractions"])
@pytest.mark.parametrize("how", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_set_comes_out_tensor_by_tensor(layouts, made, tmp_path, how, sizes):
    written, given = made(**how), SEEDED
    if sizes or has_full_batches(how):
        layouts.write_images(tmp_path / "images", written.size_hw)
        given = Given(tmp_path / "images", 42, "new")
    dtype = "float32" if "dtype" in how else "float16"
    path = spk_of(written, tmp_path / "a.spk", given, dtype.replace("float", "fp"))
    order = SeededOrder(42, how.get("items", 23), is_new=True)
    write_sre2l(path, tmp_path / "out", Asked(how.get("batch", 8), order, dtype))
    files = sorted(file.relative_to(written.path) for file in written.path.rglob("*.tar"))
    assert files == sorted(file.relative_to(tmp_path / "out") for file in (tmp_path / "out").rglob("*.tar"))
    for file in files:
        theirs = torch.load(written.path / file, weights_only=False)
        ours = torch.load(tmp_path / "out" / file, weights_only=True)
        assert len(ours) == len(theirs) == 6
        assert all(same(theirs[part], ours[part]) for part in (0, 1, 2, 4, 5)), file
        if how.get("mix") == "mixup":
            assert ours[3] == pytest.approx(theirs[3], rel=1e-6)
    source = open_source(tmp_path / "out")
    assert source.order_known_by == "sampler_indices_epoch.json"
    check_rows(source, written)


@pytest.mark.parametrize("mix", ["cutmix", "mixup", None])
def test_without_a_seed_rows_that_are_mixed_together_stay_together(made, tmp_path, mix):
    written = made(mix=mix)
    write_sre2l(spk_of(written, tmp_path / "a.spk"), tmp_path / "out", Asked(8))
    check_rows(open_source(tmp_path / "out"), written)


def test_what_the_layout_cannot_say_is_refused(made, tmp_path):
    drawn = softpack.Recipe(size=32, mix="cutmix", items=6)
    for name, how, says in (
        (
            "mixed alone",
            {"recipe": drawn},
            "is mixed by 6 boxes or shares, of 1 to 1 rows each|has 6 boxes|not in it",
        ),
        ("probs", {"space": "probs"}, "holds probs; SRe2L's files and those like them hold logits"),
        ("shuffled", {"recipe": softpack.Recipe(size=32, patches=2, items=6)}, "has views of shuffled patches"),
    ):
        path = tmp_path / f"{name}.spk"
        with softpack.create(path, "raw", items=6, views=1, classes=4, **how) as writer:
            writer.set_items(source_hw=np.full((6, 2), 40))
            writer.append(np.full((6, 4), 0.25), item=np.arange(6), view=np.zeros(6, int))
        with pytest.raises(DataError, match=says):
            write_sre2l(path, tmp_path / "out", Asked(3))
        assert not (tmp_path / "out").exists()
    path = spk_of(made(), tmp_path / "a.spk")
    with pytest.raises(DataError, match="view 0 has labels of 23 items, and the order names 40"):
        write_sre2l(path, tmp_path / "out", Asked(8, SeededOrder(42, 40, is_new=True)))
    assert [entry.name for entry in tmp_path.iterdir() if "out" in entry.name] == []


def test_whole_images_are_crops_of_all_of_them(tmp_path):
    with softpack.create(tmp_path / "a.spk", "raw", items=3, views=2, classes=4) as writer:
        writer.append(np.eye(6, 4), item=np.arange(6) // 2, view=np.arange(6) % 2)
    write_sre2l(tmp_path / "a.spk", tmp_path / "out", Asked(2))
    coords, flip, *mix, logits = torch.load(tmp_path / "out" / "epoch_1" / "batch_0.tar")
    assert coords.tolist() == [[0, 0, 1, 1]] * 2
    assert not flip.any()
    assert mix == [None, None, None]
    assert logits.tolist() == np.eye(6, 4)[[1, 3]].tolist()


def test_a_folder_is_replaced_only_when_asked_and_when_it_is_a_label_set(made, tmp_path):
    path = spk_of(made(), tmp_path / "a.spk")
    write_sre2l(path, tmp_path / "out", Asked(8))
    with pytest.raises(ExistsError, match="out is there already"):
        write_sre2l(path, tmp_path / "out", Asked(8))
    (tmp_path / "link").symlink_to(tmp_path / "out")
    write_sre2l(path, tmp_path / "link", Asked(4), force=True)
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(
        DataError, match=r"out: holds 'mine', which is no part of a label set and would be lost"
    ):
        write_sre2l(path, tmp_path / "out", Asked(8), force=True)
    with pytest.raises(DataError, match="which is no part of a label set and would be lost"):
        write_sre2l(path, tmp_path, Asked(8), force=True)
    assert path.exists()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_logits_beyond_fp16_are_not_written_as_infinite(tmp_path):
    with softpack.create(tmp_path / "a.spk", "raw", items=2, views=1, classes=3, dtype="fp32") as writer:
        writer.append(np.full((2, 3), 1e5, np.float32), item=[0, 1], view=[0, 0])
    with pytest.raises(DataError, match="has logits beyond the range of float16; take --dtype float32"):
        write_sre2l(tmp_path / "a.spk", tmp_path / "out", Asked(2))
    write_sre2l(tmp_path / "a.spk", tmp_path / "out", Asked(2, dtype="float32"))


# -- refused -------------------------------------------------------------------------------------------


def change(path: Path, **parts) -> None:
    """Write a batch again with other parts."""
    names = ("coords", "flip", "mix_index", "mix_lam", "mix_bbox", "logits")
    held = dict(zip(names, torch.load(path, weights_only=False), strict=True))
    torch.save(list((held | parts).values()), path)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"mix_index": torch.zeros(8, dtype=torch.int64)}, "mix_index is no permutation of the 8 rows"),
        ({"mix_index": torch.arange(9)}, r"mix_index has shape \[9\]; expected \[8\], for 8 rows"),
        ({"coords": torch.rand(8, 3)}, r"coords has shape \[8, 3\]; expected \[8, 4\]"),
        ({"coords": torch.full((8, 4), 0.9)}, "crop_xywh of row 0 .* stay within 0 and 1"),
        ({"coords": torch.full((8, 4), torch.nan)}, "crop_xywh of row 0 .* finite fractions"),
        ({"flip": torch.rand(8, 6)}, r"cutout, in the place of the flip, has shape \[8, 6\]; expected \[8, 7\]"),
        ({"flip": torch.rand(8, 7)}, "has crop_xywh, cutout, mix_item, mix_box_xyxy; expected crop_xywh, flip"),
        ({"mix_bbox": [3, 1, 2, 4]}, r"mix_bbox is \[3, 1, 2, 4\]; expected the last row"),
        ({"mix_bbox": [-1, 1, 2, 4]}, r"mix_bbox is \[-1, 1, 2, 4\]; expected row, column"),
        ({"mix_bbox": 5}, "mix_bbox is 5; expected row, column"),
        ({"mix_bbox": [0.5, 1.0, 2.0, 4.0]}, "mix_bbox is"),
        ({"mix_bbox": [0, 0, 1 << 40, 4]}, "mix_bbox is"),
        ({"mix_index": torch.arange(8) + 0.7}, "mix_index has numbers of type float32; expected whole numbers"),
        ({"coords": torch.zeros(8, 4, dtype=torch.int64)}, "coords has numbers of type int64; expected floats"),
        ({"logits": torch.ones(8, 10, dtype=torch.int64)}, r"logits are \[8, 10\] of type int64; expected rows"),
        ({"logits": torch.full((8, 10), 1e300, dtype=torch.float64)}, "logits, class 0, of row 0 .* finite"),
        ({"mix_bbox": None, "mix_lam": 1.5}, "mix_lam is 1.5; expected a share from 0 to 1"),
        ({"logits": torch.full((8, 10), torch.nan)}, "logits, class 0, of row 0 .* finite"),
        ({"logits": torch.rand(7, 10)}, r"coords has shape \[8, 4\]; expected \[7, 4\]"),
        ({"logits": torch.rand(8, 11)}, "holds 8 rows of 11 classes; expected 8 of 10, as in the other files"),
        ({"logits": torch.rand(8)}, "logits is of 1 axes; expected an array of 2"),
        ({"logits": "none"}, "logits is a str; expected an array of 2"),
        ({"mix_index": None, "mix_lam": None, "mix_bbox": None}, "has crop_xywh, flip; expected crop_xywh, flip, m"),
        ({"more": 1, "still more": 2, "and more": 3}, "holds a list of 9; expected coords, flip"),
        ({"mix_index": [[1, 2]]}, "has draws of RandAugment as its third part, .* --no-replay takes the labels"),
        ({"ids": torch.zeros(8, 10)}, r"holds 10 logits of each row, and does not say .* \(--classes C\)"),
    ],
)  # fmt: skip
def test_a_bad_batch_is_named(made, parts, says):
    path = made().path / "epoch_1" / "batch_1.tar"
    change(path, **parts)
    source = open_source(path.parents[1], given=SEEDED)
    with pytest.raises(DataError, match=rf"epoch_1/batch_1\.tar: {says}"):
        list(source.blocks(100))


def test_what_lies_about_is_said_and_what_is_missing_refused(made, tmp_path):
    root = made().path
    (root / "notes.txt").write_text("")
    (root / "epoch_1" / "batch_01.tar").write_text("")
    assert open_source(root, given=SEEDED).ignored == ("notes.txt", "epoch_1/batch_01.tar")
    (root / "epoch_2" / "batch_2.tar").rename(tmp_path / "kept")
    with pytest.raises(DataError, match=r"1 files are missing: epoch_2/batch_2\.tar; copy .* with --skip-bad"):
        open_source(root, given=SEEDED)
    shutil.rmtree(root / "epoch_1")
    names = r"4 files are missing: epoch_1/batch_0\.tar, epoch_1/batch_1\.tar, .*epoch_2/batch_2\.tar"
    with pytest.raises(DataError, match=names):
        open_source(root, given=SEEDED)
    (root / "epoch_1").write_text("")
    with pytest.raises(DataError, match="epoch_1: is a file; expected a folder of batch_0"):
        open_source(root, given=SEEDED)


def test_bad_files_are_left_out_where_that_is_wanted(made, tmp_path):
    written = made(items=39)
    root = written.path
    (root / "epoch_0" / "batch_0.tar").write_bytes(b"no pickle")
    (root / "epoch_1" / "batch_4.tar").unlink()
    change(root / "epoch_2" / "batch_3.tar", logits=torch.full((8, 10), torch.nan))
    source = open_source(root, given=dataclasses.replace(SEEDED, skip_bad=True))
    assert source.n_rows == 110  # of 117: what is in a file is known when it is read
    found = {
        c for block in source.blocks(9) for c in zip(block.item_B.tolist(), block.view_B.tolist(), strict=True)
    }
    order = SeededOrder(42, 39, is_new=True)
    lost = {(int(item), 0) for item in order.items(0)[:8]} | {(int(item), 1) for item in order.items(1)[32:]}
    lost |= {(int(item), 2) for item in order.items(2)[24:32]}
    assert found == written.rows.keys() - lost
    assert [str(Path(path).relative_to(root)) for path in sorted(source.skipped)] == [
        "epoch_0/batch_0.tar", "epoch_1/batch_4.tar", "epoch_2/batch_3.tar",
    ]  # fmt: skip
    assert sum(len(block) for block in source.sample(20, 0)) <= 20
    encode_source(source, tmp_path / "a.spk", fit_model(source, "raw", {}))
    labels = softpack.open(tmp_path / "a.spk")
    assert (labels.shape, len(labels)) == ((39, 3, 10), 94)


def test_items_that_files_say_must_be_items_and_agree(made, tmp_path):
    root = made(says_items=True).path
    path = root / "epoch_1" / "batch_0.tar"
    whole = torch.load(path, weights_only=False)
    for items, says in (
        (whole[6] + 0.6, "items has numbers of type float32; expected whole numbers"),
        (whole[6] * 0, "names an item twice in one batch"),
        (whole[6] + 100, r"item of row 0 .* expected 0 to 22"),
    ):
        torch.save([*whole[:6], items], path)
        with pytest.raises(DataError, match=rf"epoch_1/batch_0\.tar: {says}"):
            list(open_source(root).blocks(100))
    torch.save(whole[:6], path)
    with pytest.raises(DataError, match=r"batch_0\.tar: (is mixed, but|does not say of which images)"):
        list(open_source(root).blocks(100))
    shutil.rmtree(root)
    root = made().path
    torch.save([*torch.load(root / "epoch_1" / "batch_0.tar", weights_only=False), torch.arange(8)],
               root / "epoch_1" / "batch_0.tar")  # fmt: skip
    with pytest.raises(DataError, match="says of which images its rows are, and the first batch does not"):
        list(open_source(root, given=SEEDED).blocks(100))


@pytest.mark.parametrize("name", ["epoch_3000000", "epoch_0/batch_99999999.tar", f"epoch_0/batch_{10**18}.tar"])
def test_numbers_that_so_few_files_cannot_have_are_refused_at_once(made, name):
    root = made().path
    (root / name).mkdir()
    for skip_bad in (False, True):
        with pytest.raises(DataError, match="in all; expected them to be numbered from 0 on"):
            open_source(root, given=dataclasses.replace(SEEDED, skip_bad=skip_bad))


def test_a_batch_of_no_rows_is_refused(made):
    root = made(items=4).path
    for epoch in range(3):
        change(root / f"epoch_{epoch}" / "batch_0.tar", logits=torch.zeros(0, 10))
    with pytest.raises(DataError, match=r"batch_0\.tar: logits are \[0, 10\] of type float32; expected rows"):
        open_source(root, given=SEEDED)


def test_too_little_to_tell_is_refused(made):
    root = made(epochs=1).path
    for batch in (0, 1):
        (root / "epoch_0" / f"batch_{batch}.tar").unlink()
    for skip_bad in (False, True):
        with pytest.raises(DataError, match="labels: too few of its files are there to tell what it holds"):
            open_source(root, given=dataclasses.replace(SEEDED, skip_bad=skip_bad))
    (root / "epoch_0" / "batch_2.tar").unlink()
    with pytest.raises(DataError, match=r"has no batch_0\.tar in any of its epochs"):
        open_source(root, given=SEEDED)


def test_a_set_whose_first_batch_is_damaged_is_refused_by_its_name(made):
    root = made().path
    (root / "epoch_0" / "batch_0.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"epoch_0/batch_0\.tar: cannot be read: EOFError"):
        open_source(root, given=SEEDED)


def test_all_that_must_be_said_is_asked_for_at_once(layouts, made, tmp_path):
    root = made().path
    with pytest.raises(
        DataError, match=r"do not say in which order .*--label-seed N.*; nor by which .*--sampler new"
    ):
        open_source(root)
    with pytest.raises(DataError, match=r"do not say by which PyTorch"):
        open_source(root, given=Given(label_seed=1))
    layouts.write_images(tmp_path / "images", np.full((22, 2), 300))
    with pytest.raises(
        DataError, match=r"has labels of 23 images in an epoch, and .*images holds 22; give the images"
    ):
        open_source(root, given=Given(tmp_path / "images", 42, "new"))


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ({"0": [0, 0, 1]}, "json: '?0'?: names item 0 twice"),
        ({"0": [0, -1]}, "names item -1; expected 0 to"),
        (
            {"0": [0, 1, 2**31 - 2]},
            r"names item 2147483646, and lists 3 rows; give the images .* \(--images DIR\)",
        ),
        ({"0": [0.5, 1]}, "is no list of items"),
        ({"0": [0, 1.5]}, "is no list of items"),
        ({"0": [0, True]}, "is no list of items"),
        ({"0": [0, "1"]}, "is no list of items"),
        ({"0": [0], "00": [1]}, "is no index of items: '00' is no number"),
        ({"-1": [0]}, "is no index of items"),
        ({"0": "no"}, "is no list of items"),
        ({"zero": [1]}, "is no index of items"),
        ([1], "is no index of items"),
        (
            {"0": list(range(23)), "1": list(range(23))},
            r"epoch_2: has a batch_2\.tar; expected 0 batches of 8 rows",
        ),
    ],
)
def test_an_index_that_is_none_is_refused(made, listed, says):
    root = made().path
    (root / "sampler_indices_epoch.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=says):
        open_source(root)


def test_folders_that_are_no_label_sets_are_refused(tmp_path):
    with pytest.raises(
        DataError,
        match=r"is a folder; expected a file, or the layout of a label set .*; name it with --from sre2l",
    ):
        open_source(tmp_path)
    with pytest.raises(DataError, match="'nosuch' no layout of one; expected sre2l, gvbsm, edc, lpld"):
        open_source(tmp_path, kind="nosuch")
    with pytest.raises(DataError, match="has no epoch_0; expected epoch_0, epoch_1 and so on"):
        open_source(tmp_path, kind="sre2l")
    with pytest.raises(DataError, match=r"rded stores no labels, .* `softpack relabel IMAGES` makes them"):
        open_source(tmp_path, kind="rded")

"""Layouts whose batches are lists like SRe2L's, and more: EDC, LPQLD, HALD, and sets of ImageNet-21K."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import softpack
from softpack.errors import CodecError, DataError
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.given import Given
from softpack.sources.peers.orders import BatchOrder, ListedOrder
from softpack.sources.peers.registry import PEERS
from softpack.sources.peers.writers import WRITERS

COLUMNS = ("flip", "mix_item", "mix_lam", "mix_box_xyxy", "patch_order", "cutout")
OF_10 = Given(classes=10)


def check_rows(source, written) -> None:
    """Check that a source gives all that a set says, crops as whole pixels."""
    seen = set()
    for block in source.blocks(10):
        for row, cell in enumerate(zip(block.item_B.tolist(), block.view_B.tolist(), strict=True)):
            said = written.rows[cell]
            np.testing.assert_array_equal(block.labels_BC[row], said["logits"])
            found = {name: values[row] for name, values in block.replay.items()}
            assert found.pop("crop_xywh").tolist() == said["crop_xywh"]
            expected = {name: said[name] for name in COLUMNS if said.get(name) is not None}
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
            seen.add(cell)
    assert seen == written.rows.keys()


@pytest.fixture
def given_of(layouts, tmp_path):
    """What says which images a set is of."""

    def given(written, **how) -> Given:
        layouts.write_images(tmp_path / "images", written.size_hw)
        return Given(images=tmp_path / "images", **how)

    return given


def spk_of(written, path: Path, given: Given) -> Path:
    source = open_source(written.path, given=given)
    encode_source(source, path, fit_model(source, "raw", {}))
    return path


def same(one, other) -> bool:
    """Return whether parts of two lists are the same; numbers of numpy are those of Python."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(int(a) == int(b) for a, b in zip(one, other, strict=True))
    return one is other is None


def assert_same_files(theirs: Path, ours: Path, but: tuple[int, ...] = (3,)) -> None:
    """Check files part by part, but for the shares of boxes, which nobody looks at."""
    files = sorted(file.relative_to(theirs) for file in theirs.rglob("batch_*.tar"))
    assert files == sorted(file.relative_to(ours) for file in ours.rglob("batch_*.tar"))
    for file in files:
        one = torch.load(theirs / file, weights_only=False)
        other = torch.load(ours / file, weights_only=True)
        assert len(one) == len(other)
        wrong = [part for part in range(len(one)) if part not in but and not same(one[part], other[part])]
        assert wrong == [], (file, [(one[part], other[part]) for part in wrong])


def test_layouts_that_are_listed_as_written_have_a_writer():
    assert {name for name, peer in PEERS.items() if peer.writes} == WRITERS.keys()


# -- EDC, G-VBSM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strips", [None, 0, 2, 3])
@pytest.mark.parametrize("mix", ["cutmix", None])
def test_sets_that_say_their_items_go_in_and_come_out(layouts, tmp_path, given_of, strips, mix):
    written = layouts.write_sre2l(tmp_path / "set", says_items=True, strips=strips, mix=mix)
    given, name = given_of(written), "gvbsm" if strips is None else "edc"
    check_rows(open_source(written.path, kind=name, given=given), written)
    order = {str(epoch): [] for epoch in range(3)}  # which the files alone say
    for epoch in range(3):
        for batch in range(3):
            order[str(epoch)] += torch.load(
                written.path / f"epoch_{epoch}" / f"batch_{batch}.tar", weights_only=False
            )[6].tolist()
    (tmp_path / "order.json").write_text(json.dumps(order))
    path = spk_of(written, tmp_path / "a.spk", given)
    WRITERS[name](path, tmp_path / "out", Asked(8, ListedOrder(tmp_path / "order.json")), False, None)
    if strips is None:
        assert_same_files(written.path, tmp_path / "out")
    else:  # crops that were divided by the other side, in float32
        assert_same_files(written.path, tmp_path / "out", but=(0, 3))
    check_rows(open_source(tmp_path / "out", kind=name, given=given), written)


@pytest.mark.parametrize(
    ("strips", "says"),
    [
        (torch.zeros(8, 3, 2, dtype=torch.int64), r"strips are \[8, 3, 2\]"),
        (torch.zeros(8, 2, 9, dtype=torch.int64), r"strips are \[8, 2, 9\]"),
        (torch.zeros(8, 2, 2), r"strips are \[8, 2, 2\] of type float32"),
        (torch.ones(8, 2, 2, dtype=torch.int64), "strips are no order of 2; expected each once"),
        (torch.zeros(8), "strips is of 1 axes; expected an array of 3"),
    ],
)
def test_strips_that_are_none_are_refused(layouts, tmp_path, given_of, strips, says):
    written = layouts.write_sre2l(tmp_path / "set", strips=2)
    given = given_of(written)
    file = written.path / "epoch_0" / "batch_0.tar"
    torch.save([*torch.load(file, weights_only=False)[:7], strips], file)
    with pytest.raises(DataError, match=rf"epoch_0/batch_0\.tar: {says}"):
        list(open_source(written.path, given=given).blocks(100))


def test_edc_is_asked_how_large_its_images_are(layouts, tmp_path):
    written = layouts.write_sre2l(tmp_path / "set", strips=2)
    with pytest.raises(
        DataError, match=r"batch_\d\.tar: has crops of EDC, which divides .* \(--images DIR; --no-replay"
    ):
        open_source(written.path)
    assert open_source(written.path, given=Given(replay=False)).n_rows == 69


def test_only_edc_has_a_place_for_shuffled_strips(layouts, tmp_path, given_of):
    written = layouts.write_sre2l(tmp_path / "set", strips=2)
    path = spk_of(written, tmp_path / "a.spk", given_of(written))
    for name in ("sre2l", "lpld", "gvbsm", "lpqld"):
        with pytest.raises(DataError, match="shuffled patches, for which only edc's files have a place"):
            WRITERS[name](path, tmp_path / "out", Asked(), False, None)


# -- cutouts -------------------------------------------------------------------------------------------


def test_cutouts_go_in_and_come_out(layouts, tmp_path, given_of):
    written = layouts.write_sre2l(tmp_path / "set", index=True, cutout=True, mix=None)
    given = given_of(written)
    check_rows(open_source(written.path, given=given), written)
    path = spk_of(written, tmp_path / "a.spk", given)
    order = ListedOrder(written.path / "sampler_indices_epoch.json")
    WRITERS["lpld"](path, tmp_path / "out", Asked(8, order), False, None)
    assert_same_files(written.path, tmp_path / "out", but=())


def test_cutouts_of_some_rows_are_refused(tmp_path):
    with softpack.create(tmp_path / "a.spk", "raw", items=2, views=1, classes=4) as writer:
        cutout = [[0.5] * 4 + [0] * 3, [-1] * 7]
        writer.append(np.eye(2, 4), item=[0, 1], view=[0, 0], cutout=cutout)
    with pytest.raises(DataError, match="has cutouts of some rows, or flips beside them"):
        WRITERS["lpld"](tmp_path / "a.spk", tmp_path / "out", Asked(), False, None)


# -- LPQLD ---------------------------------------------------------------------------------------------

LPQLD = {
    "cutmix": {},
    "mixup": {"mix": "mixup"},
    "not mixed": {"mix": None},
    "all classes": {"k": None},
    "one class": {"k": 1},
    "cutout": {"cutout": True, "mix": None},
    "epochs that stop midway": {"rows": (8, 8, 8, 8, 8, 8, 7)},
}


@pytest.mark.parametrize("how", LPQLD.values(), ids=LPQLD.keys())
def test_lpqld_goes_in_and_comes_out(layouts, tmp_path, given_of, how):
    written = layouts.write_lpqld(tmp_path / "set", **how)
    given = given_of(written, classes=10)
    source = open_source(written.path, given=given)
    assert source.order_known_by == "sampler_indices_batch.json"
    assert (source.items, source.n_rows) == (23, len(written.rows))
    assert source.views == 1 + max(view for _, view in written.rows)
    check_rows(source, written)
    path = spk_of(written, tmp_path / "a.spk", given)
    order = BatchOrder(written.path / "sampler_indices_batch.json", 23)
    WRITERS["lpqld"](path, tmp_path / "out", Asked(order=order), False, None)
    assert_same_files(written.path, tmp_path / "out")
    check_rows(open_source(tmp_path / "out", given=given), written)


def test_lpqld_is_made_of_labels_of_all_classes(layouts, tmp_path, given_of):
    written = layouts.write_sre2l(tmp_path / "set", index=True)
    given = given_of(written)
    path = spk_of(written, tmp_path / "a.spk", given)
    WRITERS["lpqld"](path, tmp_path / "out", Asked(k=4), False, None)
    source = open_source(tmp_path / "out", given=Given(images=given.images, classes=10))
    for block in source.blocks(100):
        for row, cell in enumerate(zip(block.item_B.tolist(), block.view_B.tolist(), strict=True)):
            said = written.rows[cell]["logits"]
            kept = np.isfinite(block.labels_BC[row])
            assert kept.sum() == 4
            np.testing.assert_array_equal(np.sort(block.labels_BC[row][kept]), np.sort(said)[-4:])


def test_labels_of_some_classes_are_coded_by_what_keeps_them(layouts, tmp_path):
    written = layouts.write_lpqld(tmp_path / "set", items=40, rows=(8,) * 20, k=3)
    source = open_source(written.path, given=OF_10)
    expected = torch.from_numpy(np.stack([row["logits"] for row in written.rows.values()])).float()
    for codec, settings in (("raw", {}), ("topk", {"k": 3, "tail": "zero"})):
        encode_source(source, tmp_path / f"{codec}.spk", fit_model(source, codec, settings))
        found = softpack.open(tmp_path / f"{codec}.spk").read(*zip(*written.rows, strict=True))
        for temperature in (1, 20):
            torch.testing.assert_close(
                (found / temperature).softmax(1), (expected / temperature).softmax(1), atol=1e-3, rtol=0
            )
    WRITERS["lpqld"](tmp_path / "topk.spk", tmp_path / "out", Asked(), False, None)  # as log-probabilities
    index = json.loads((tmp_path / "out" / "sampler_indices_batch.json").read_text())
    for block in open_source(tmp_path / "out", given=OF_10).blocks(1000):
        for row, cell in enumerate(zip(block.item_B.tolist(), block.view_B.tolist(), strict=True)):
            probs = torch.from_numpy(block.labels_BC[row]).float().softmax(0)
            theirs = torch.from_numpy(written.rows[cell]["logits"]).float().softmax(0)
            torch.testing.assert_close(probs, theirs, atol=2e-3, rtol=0)
    assert sum(map(len, index.values())) == len(written.rows)
    for codec, settings, says in (
        ("quantize", {"bits": 8}, "logits are -inf for the classes that were not kept, .* --set tail=zero"),
        ("lowrank", {"rank": 4}, "logits are -inf for the classes"),
        ("klt", {"context": True}, "logits are -inf for the classes"),
        ("vqae", {"slots": 2, "steps": 5}, "logits are -inf for the classes"),
        ("topk", {"k": 3}, "topk: logits are -inf for the classes .* tail=uniform would .* set tail=zero"),
    ):
        with pytest.raises(CodecError, match=says):
            encode_source(source, tmp_path / "no.spk", fit_model(source, codec, settings))


def test_rand_augment_is_taken_without_its_views(layouts, tmp_path):
    for k in (3, None):
        written = layouts.write_lpqld(tmp_path / f"set {k}", rand_augment=True, k=k)
        with pytest.raises(DataError, match=r"batch_0\.tar: has draws of RandAugment as its third part"):
            open_source(written.path, given=OF_10)
        source = open_source(written.path, given=Given(classes=10, replay=False))
        assert source.columns == ()
        for block in source.blocks(100):
            for row, cell in enumerate(zip(block.item_B.tolist(), block.view_B.tolist(), strict=True)):
                np.testing.assert_array_equal(block.labels_BC[row], written.rows[cell]["logits"])


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (lambda ids: ids * 0, "names a class twice in a row"),
        (lambda ids: ids + 10, r"names class \d+ in row 0; expected 0 to 9, of --classes"),
        (lambda ids: ids - 10, r"names class 655\d\d in row 0; expected 0 to 9"),
        (lambda ids: ids[:, :2], r"ids has shape \[8, 2\]; expected \[8, 3\]"),
        (lambda ids: ids.float(), "ids has numbers of type float32; expected whole numbers"),
    ],
)
def test_ids_that_are_none_are_refused(layouts, tmp_path, ids, says):
    written = layouts.write_lpqld(tmp_path / "set")
    file = written.path / "batch_2.tar"
    *parts, values, found = torch.load(written.path / "batch_1.tar", weights_only=False)
    torch.save([*parts, values, ids(found)], file.with_name("batch_1.tar"))
    with pytest.raises(DataError, match=rf"batch_1\.tar: {says}"):
        list(open_source(written.path, given=OF_10).blocks(100))


def test_ids_from_32768_on_are_stored_as_negative_numbers(layouts, tmp_path):
    classes = 40_000
    written = layouts.write_lpqld(tmp_path / "set", items=4, rows=(4,), classes=classes, mix=None)
    stored = torch.load(written.path / "batch_0.tar", weights_only=False)[-1]
    assert bool((stored < 0).any())
    source = open_source(written.path, given=Given(classes=classes))
    (block,) = source.blocks(10)
    for row, item in enumerate(block.item_B.tolist()):
        np.testing.assert_array_equal(block.labels_BC[row], written.rows[item, 0]["logits"])


def test_what_lpqld_does_not_say_is_asked_for_and_what_is_missing_named(layouts, tmp_path):
    written = layouts.write_lpqld(tmp_path / "set")
    with pytest.raises(DataError, match=r"batch_0\.tar: holds 3 logits of each row, .* \(--classes C\)"):
        open_source(written.path)
    (written.path / "batch_3.tar").rename(tmp_path / "kept")
    with pytest.raises(DataError, match=r"1 files are missing: batch_3\.tar; copy"):
        open_source(written.path, given=OF_10)
    source = open_source(written.path, given=Given(classes=10, skip_bad=True))
    assert sum(len(block) for block in source.blocks(100)) == len(written.rows) - 8
    assert list(source.skipped) == [str(written.path / "batch_3.tar")]
    (tmp_path / "kept").rename(written.path / "batch_9.tar")
    with pytest.raises(DataError, match=r"sampler_indices_batch\.json does not list batch_9\.tar"):
        open_source(written.path, given=OF_10)
    (written.path / "sampler_indices_batch.json").unlink()
    with pytest.raises(DataError, match=r"has no sampler_indices_batch\.json; expected batch_0\.tar"):
        open_source(written.path, kind="lpqld", given=OF_10)


def test_what_lpqld_cannot_hold_is_refused(layouts, tmp_path, given_of):
    written = layouts.write_sre2l(tmp_path / "set", index=True, items=300, batch=300, epochs=1)
    path = spk_of(written, tmp_path / "a.spk", given_of(written))
    with pytest.raises(DataError, match="has 300 rows; LPQLD counts them in 8 bits"):
        WRITERS["lpqld"](path, tmp_path / "out", Asked(k=2), False, None)
    with softpack.create(tmp_path / "b.spk", "raw", items=2, views=1, classes=4) as writer:
        rows = np.array([[1, 2, -np.inf, -np.inf], [1, -np.inf, -np.inf, -np.inf]])
        writer.append(rows, item=[0, 1], view=[0, 0])
    with pytest.raises(DataError, match=r"keeps 1 to 2 classes of a row; .* with --k, no more than the least"):
        WRITERS["lpqld"](tmp_path / "b.spk", tmp_path / "out", Asked(), False, None)
    WRITERS["lpqld"](tmp_path / "b.spk", tmp_path / "out", Asked(k=1), False, None)
    with pytest.raises(DataError, match=r"has logits of -inf, .* write them as lpqld"):
        WRITERS["sre2l"](tmp_path / "b.spk", tmp_path / "other", Asked(), False, None)


# -- HALD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_hald_goes_in(layouts, tmp_path, given_of, mix):
    written = layouts.write_hald(tmp_path / "set", mix=mix)
    source = open_source(written.path, given=given_of(written), temperature=20.0)
    assert (source.items, source.views, source.n_rows) == (23, 3, 69)
    assert (source.spec.space, source.spec.temperature) == ("probs", 20)
    assert source.order_known_by == "sampler_indices_dict.pt"
    check_rows(source, written)


def test_bad_sets_of_hald_are_refused(layouts, tmp_path):
    written = layouts.write_hald(tmp_path / "set")
    root = written.path
    with pytest.raises(DataError, match=r"do not say at which temperature .* \(--source-temperature T; 20"):
        open_source(root)
    batches = torch.load(root / "epoch_1.tar", weights_only=False)
    for held, says in (
        (batches[:-1], "holds 16 rows of 10 classes; expected 23"),
        ([*batches, batches[0]], "batch 3: holds 8 rows, and 0 are left of those"),
        ({}, "holds a dict; expected a list of batches"),
        ([[1]], "batch 0: holds a list of 1"),
        (
            [batches[0], [*batches[1][:2], None, None, None, batches[1][5]]],
            "batch 1: has crop_xywh, flip; expected",
        ),
    ):
        torch.save(held, root / "epoch_1.tar")
        with pytest.raises(DataError, match=rf"epoch_1\.tar: ({says})"):
            list(open_source(root, temperature=20.0).blocks(100))
    (root / "epoch_1.tar").unlink()
    with pytest.raises(DataError, match=r"1 files are missing: epoch_1\.tar"):
        open_source(root, temperature=20.0)
    torch.save({"0": [1, 1]}, root / "sampler_indices_dict.pt")
    with pytest.raises(DataError, match=r"sampler_indices_dict\.pt: .*names item 1 twice"):
        open_source(root, temperature=20.0)
    torch.save([1], root / "sampler_indices_dict.pt")
    with pytest.raises(DataError, match=r"sampler_indices_dict\.pt: is no index of items"):
        open_source(root, temperature=20.0)

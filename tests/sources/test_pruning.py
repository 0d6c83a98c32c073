"""The first views of a source: their rows, in order, from any kind of source, without reading the others."""

from __future__ import annotations

import numpy as np
import pytest

import softpack
from softpack.errors import DataError
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source
from softpack.sources.pruning import first_views

ITEMS, VIEWS, CLASSES = 6, 5, 4


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    partner_NV = np.where(random.random((ITEMS, VIEWS)) < 0.5, (np.arange(ITEMS)[:, None] + 1) % ITEMS, -1)
    box_NV4 = np.where(partner_NV[..., None] < 0, -1, [1, 1, 5, 5])
    return {
        "logits": random.normal(size=(ITEMS, VIEWS, CLASSES)).astype(np.float16),
        "mix_item": partner_NV.astype(np.int32), "mix_box_xyxy": box_NV4.astype(np.int32),
        "target": np.arange(ITEMS, dtype=np.int32),
    }  # fmt: skip


def saved(tmp_path, arrays, kind):
    path = tmp_path / "rows.npz"
    if kind == "indexed":
        item, view = np.divmod(np.random.default_rng(1).permutation(ITEMS * VIEWS), VIEWS)
        rows = {name: values[item, view] for name, values in arrays.items() if name != "target"}
        np.savez(path, **rows, item=item, view=view, target=arrays["target"])
        return path
    np.savez(path, **arrays)
    if kind == "dense":
        return path
    source = open_source(path)
    encode_source(source, tmp_path / "rows.spk", fit_model(source, "raw", {"dtype": "fp16"}))
    return tmp_path / "rows.spk"


@pytest.mark.parametrize("kind", ["dense", "indexed", "spk"])
@pytest.mark.parametrize("n_rows", [1, 4, 100])
def test_the_rows_of_the_first_views_alone(tmp_path, arrays, kind, n_rows):
    source = first_views(open_source(saved(tmp_path, arrays, kind)), 2)
    assert (source.items, source.views, source.n_rows) == (ITEMS, 2, ITEMS * 2)
    seen = set()
    for block in source.blocks(n_rows):
        assert block.labels_BC.tolist() == arrays["logits"][block.item_B, block.view_B].tolist()
        assert block.replay["mix_item"].tolist() == arrays["mix_item"][block.item_B, block.view_B].tolist()
        seen |= set(zip(block.item_B.tolist(), block.view_B.tolist(), strict=True))
    assert seen == {(item, view) for item in range(ITEMS) for view in range(2)}
    assert sum(len(block) for block in source.sample(5, seed=0)) == 5
    assert source.views_of(np.arange(source.n_rows)).max() == 1


def test_as_many_views_as_there_are_change_nothing(tmp_path, arrays):
    source = open_source(saved(tmp_path, arrays, "dense"))
    assert first_views(source, VIEWS) is source


def test_no_view_left_is_refused(tmp_path):
    path = tmp_path / "late.npz"
    np.savez(path, logits=np.zeros((3, CLASSES), np.float32), item=[0, 1, 2], view=[4, 5, 6])
    with pytest.raises(DataError, match="no row is of the first 2 views; keep more of its 7"):
        first_views(open_source(path), 2)


def test_recipe_and_thumbprints_stay(tmp_path, arrays):
    recipe = softpack.Recipe(size=8, mix="cutmix", seed=3, items=ITEMS)
    item, view = np.divmod(np.arange(ITEMS * VIEWS), VIEWS)
    with softpack.create(
        tmp_path / "all.spk", "raw", items=ITEMS, views=VIEWS, classes=CLASSES, recipe=recipe, replay=False,
        images={0: bytes(16)},
    ) as writer:  # fmt: skip
        writer.set_items(source_hw=np.full((ITEMS, 2), 9))
        writer.append(arrays["logits"].reshape(-1, CLASSES), item=item, view=view)
    source = first_views(open_source(tmp_path / "all.spk"), 3)
    encode_source(source, tmp_path / "few.spk", fit_model(source, "raw", {"dtype": "fp16"}))
    few, whole = softpack.open(tmp_path / "few.spk"), softpack.open(tmp_path / "all.spk")
    assert few.shape == (ITEMS, 3, CLASSES)
    assert (few.recipe, few.images) == (whole.recipe, whole.images)
    items, views = few.cells()
    for name, values in few.replay(items, views).items():
        assert np.array_equal(values, whole.replay(items, views)[name])

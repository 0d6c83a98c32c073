"""Files whose columns are drawn from a seed say the same as files that store them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import softpack
from softpack.container.repack import repack
from softpack.errors import CorruptError, DataError
from softpack.format.header import Header
from softpack.recipe import Recipe
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.learning import learn
from softpack.sources.opening import open_source

N, V, C = 12, 40, 10
RECIPE = Recipe(size=32, mix="cutmix", mixed=0.5, patches=2, seed=5, items=N)
SIZES = np.tile(np.array([[40, 50]], np.int32), (N, 1))
ITEM, VIEW = np.divmod(np.arange(N * V), V)
COLUMNS = RECIPE.draw(ITEM, VIEW, SIZES[ITEM])


def near(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    prototypes = 3 * random.normal(size=(N, C)).astype(np.float32)
    partner, box = COLUMNS["mix_item"], COLUMNS["mix_box_xyxy"].astype(float)
    share = np.where(partner >= 0, (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / 32**2, 0)[:, None]
    rows = prototypes[ITEM] * (1 - share) + prototypes[partner] * share
    return prototypes, (rows + random.normal(size=rows.shape) / 5).astype(np.float32)


def write(path, codec="raw", replay=False, order=None, batches=3, recipe=RECIPE, **settings):
    _, rows = near()
    order = np.arange(N * V) if order is None else order
    with softpack.create(
        path, codec, classes=C, items=N, views=V, recipe=recipe, replay=replay, mix_wh=(32, 32), **settings
    ) as writer:
        writer.set_items(source_hw=SIZES, target=np.arange(N))
        for part in np.array_split(order, batches):
            writer.append(rows[part], item=ITEM[part], view=VIEW[part])
    return softpack.open(path)


def assert_columns(labels):
    assert labels.columns == RECIPE.columns
    found = labels.replay(ITEM, VIEW)
    for name, values in COLUMNS.items():
        assert (found[name] == values).all()
        assert found[name].dtype == values.dtype


@pytest.mark.parametrize("replay", [False, True])
def test_columns_come_back(tmp_path, replay):
    labels = write(tmp_path / "a.spk", replay=replay)
    assert_columns(labels)
    assert_columns(labels.load())
    assert_columns(pickle.loads(pickle.dumps(labels)))
    assert labels.recipe == labels.load().recipe == RECIPE
    assert labels.file.minor == 3
    drawn = labels.file.header.stream("replay") is None
    assert drawn is not replay


def test_drawn_columns_take_no_bits_but_the_sizes(tmp_path):
    bits = {}
    for replay in (False, True):
        write(tmp_path / f"{replay}.spk", replay=replay)
        bits[replay] = softpack.ledger(tmp_path / f"{replay}.spk").bits_of("replay")
    assert bits[True] / (N * V) > 20
    assert bits[False] / (N * V) < 1


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("codec", ["klt", "vqae"])
def test_context_is_that_of_stored_columns(tmp_path, codec, degree):
    write(tmp_path / "raw.spk", replay=True)
    source = open_source(tmp_path / "raw.spk")
    settings = {"context": True, "target_bits": 16} | ({"steps": 20, "d_h": 16} if codec == "vqae" else {})
    bits = settings.pop("target_bits")
    model = fit_model(source, codec, settings, target_bits=bits, degree=degree)
    learned = learn(source, basis=model.basis)
    found = {}
    for replay in (False, True):
        shuffled = np.random.default_rng(1).permutation(N * V)
        labels = write(
            tmp_path / "a.spk", model, replay, shuffled if not replay else None, prototypes=learned.rows_NPC,
            viewpoints=learned.viewpoints if replay else None, force=True,
        )  # fmt: skip
        found[replay] = labels.read(ITEM, VIEW).numpy()
        np.testing.assert_array_equal(labels.load().read(ITEM, VIEW).numpy(), found[replay])
        assert labels.file.header.stream("mix") is None
    np.testing.assert_allclose(found[False], found[True], atol=1e-4)


def test_rows_are_appended(tmp_path):
    _, rows = near()
    half = np.arange(N * V) % 2 == 0
    with softpack.create(
        tmp_path / "a.spk", "raw", classes=C, items=N, recipe=RECIPE, replay=False, appendable=True
    ) as writer:
        writer.set_items(source_hw=SIZES)
        first = ITEM[half] >= 0
        writer.append(rows[half][first], item=ITEM[half], view=VIEW[half])
        writer.append(rows[~half], item=ITEM[~half], view=VIEW[~half])
    more = np.full(N, V)
    with softpack.append(tmp_path / "a.spk") as writer:
        writer.append(rows[:N], item=np.arange(N), view=more)
    labels = softpack.open(tmp_path / "a.spk")
    assert labels.shape == (N, V + 1, C)
    expected = RECIPE.draw(np.arange(N), more, SIZES)
    found = labels.replay(np.arange(N), more)
    assert all((found[name] == expected[name]).all() for name in expected)


def test_a_source_of_drawn_columns_gives_a_file_of_drawn_columns(tmp_path):
    write(tmp_path / "a.spk", images={2: bytes(16)})
    source = open_source(tmp_path / "a.spk")
    model = fit_model(source, "klt", {"bits": 12.0})
    encode_source(source, tmp_path / "b.spk", model)
    again = softpack.open(tmp_path / "b.spk")
    assert_columns(again)
    assert again.recipe == RECIPE
    assert again.images == {2: bytes(16)}
    assert again.file.header.stream("replay") is None
    encode_source(source, tmp_path / "c.spk", model, replay=False)
    assert softpack.open(tmp_path / "c.spk").columns == ()


@pytest.mark.parametrize("replay", [True, False])
def test_repacking_keeps_or_drops_the_recipe(tmp_path, replay):
    prototypes, _ = near()
    labels = write(tmp_path / "a.spk", "klt", context=True, bits=8.0, prototypes=prototypes)
    repack(tmp_path / "a.spk", tmp_path / "b.spk", replay=replay)
    again = softpack.open(tmp_path / "b.spk")
    assert (again.recipe == RECIPE) is replay
    assert (again.file.header.stream("mix") is None) is replay
    # Without columns shares are kept in 256ths.
    np.testing.assert_allclose(
        again.read(ITEM, VIEW), labels.read(ITEM, VIEW), atol=0.2 if not replay else 1e-6
    )


def test_rows_with_other_columns_are_refused(tmp_path):
    writer = softpack.create(tmp_path / "a.spk", "raw", classes=C, items=N, recipe=RECIPE)
    writer.set_items(source_hw=SIZES)
    with pytest.raises(DataError, match="found the columns flip; the recipe draws crop_xywh, flip, mix_item"):
        writer.append(np.zeros((1, C), "f4"), item=0, view=0, flip=[True])
    writer.abandon()


def test_crops_need_the_sizes_of_images(tmp_path):
    writer = softpack.create(tmp_path / "a.spk", "raw", classes=C, items=N, recipe=RECIPE)
    with pytest.raises(DataError, match=r"images whose sizes are not known; say set_items\(source_hw=...\)"):
        writer.append(np.zeros((1, C), "f4"), item=0, view=0)
    writer.abandon()


def test_items_beyond_those_of_the_recipe_are_refused(tmp_path):
    writer = softpack.create(tmp_path / "a.spk", "raw", classes=C, recipe=RECIPE)
    writer.set_items(source_hw=np.ones((N + 1, 2)))
    with pytest.raises(DataError, match=f"found item {N}; partners are drawn among {N} items"):
        writer.append(np.zeros((1, C), "f4"), item=N, view=0)
    writer.abandon()


def test_a_file_with_more_items_than_its_recipe_mixes_is_corrupt(tmp_path, monkeypatch):
    labels = write(tmp_path / "a.spk")
    header = labels.file.header
    fewer = Header(**{**vars(header), "recipe": Recipe(**{**vars(RECIPE), "items": N - 1})})
    monkeypatch.setattr(labels.file, "header", fewer)
    with pytest.raises(CorruptError, match=f"holds {N} items, and its recipe draws mix partners among {N - 1}"):
        labels.replay([0], [0])


def test_missing_rows_have_no_columns(tmp_path):
    labels = write(tmp_path / "a.spk")
    with pytest.raises(DataError, match="view 40"):
        labels.replay([0], [V])


def test_columns_of_ones_own_are_refused_where_they_differ(tmp_path):
    writer = softpack.create(tmp_path / "a.spk", "raw", classes=C, items=N, recipe=RECIPE)
    writer.set_items(source_hw=SIZES)
    given = {name: values[:1] for name, values in COLUMNS.items()}
    writer.append(np.zeros((1, C), "f4"), item=0, view=0, **given)
    given = {name: values[1:2] for name, values in COLUMNS.items()} | {"flip": ~COLUMNS["flip"][1:2]}
    with pytest.raises(DataError, match="found flip that are not those that the recipe draws"):
        writer.append(np.zeros((1, C), "f4"), item=0, view=1, **given)
    with pytest.raises(DataError, match="other sizes of images than those that crops were drawn for"):
        writer.set_items(source_hw=SIZES + 1)
    writer.abandon()


def test_items_without_a_size_are_refused(tmp_path):
    writer = softpack.create(tmp_path / "a.spk", "raw", classes=C, recipe=Recipe(seed=1))
    writer.set_items(source_hw=SIZES)
    with pytest.raises(DataError, match=f"found item {N}; source_hw has the sizes of {N} images"):
        writer.append(np.zeros((1, C), "f4"), item=N, view=0)
    writer.abandon()

"""Recipes draw what the field draws: each view alone, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest

from softpack.errors import DataError
from softpack.recipe import Recipe, strips_of
from softpack.records import COLUMNS

N, V = 500, 6
ITEM, VIEW = (axis.reshape(-1) for axis in np.meshgrid(np.arange(N), np.arange(V), indexing="ij"))
SIZES = np.tile(np.array([[375, 500]]), (N * V, 1))
FULL = Recipe(size=64, mix="cutmix", mixed=0.8, patches=3, seed=3, items=N)


def test_columns_are_these_for_ever():
    """Golden: files without stored columns are read by them."""
    drawn = FULL.draw(np.array([0, 7]), np.array([0, 5]), np.array([[375, 500], [20, 30]]))
    assert {name: values.tolist() for name, values in drawn.items()} == GOLDEN


def test_columns_have_their_shapes_and_dtypes():
    drawn = FULL.draw(ITEM, VIEW, SIZES)
    assert tuple(drawn) == FULL.columns
    for name, values in drawn.items():
        assert values.shape == (N * V, *COLUMNS[name].shape)
        assert values.dtype == COLUMNS[name].dtype


def test_a_view_is_drawn_alone_as_among_others():
    drawn, which = FULL.draw(ITEM, VIEW, SIZES), np.array([3, 999, 42])
    alone = FULL.draw(ITEM[which], VIEW[which], SIZES[which])
    for name, values in drawn.items():
        assert (alone[name] == values[which]).all()


def test_crops_are_those_of_random_resized_crop():
    """Against 20,000 draws by the algorithm of torchvision with numpy's generator: means within 4 errors."""
    recipe = Recipe(scale=(0.08, 1.0))
    n = 20_000
    found = recipe.draw(np.arange(n), np.zeros(n, int), np.tile([[375, 500]], (n, 1)))["crop_xywh"]
    expected = np.array([torchvision_crop(np.random.default_rng(seed), 375, 500) for seed in range(n)])
    x, y, w, h = found.T
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (x + w <= 500).all()
    assert (y + h <= 375).all()
    for ours, theirs in zip(found.T, expected.T, strict=True):
        error = np.sqrt(ours.var() / n + theirs.var() / n)
        assert abs(ours.mean() - theirs.mean()) < 4 * error
        assert ours.std() == pytest.approx(theirs.std(), rel=0.03)


def torchvision_crop(random: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.integers(0, width - w + 1), random.integers(0, height - h + 1), w, h
    return (width - 500) // 2, 0, 500, height


@pytest.mark.parametrize(
    ("hw", "expected"), [((10, 1000), (493, 0, 13, 10)), ((1000, 10), (0, 493, 10, 13)), ((1, 1), (0, 0, 1, 1))]
)
def test_a_crop_that_never_fits_is_the_middle(hw, expected):
    crops = Recipe(scale=(0.9, 1.0)).draw(np.arange(50), np.zeros(50, int), np.tile([hw], (50, 1)))["crop_xywh"]
    assert {tuple(crop) for crop in crops.tolist()} == {expected}


@pytest.mark.parametrize("hw", [(0, 0), (-5, 3), (1, 1 << 30)])
def test_sizes_that_are_none_do_no_harm(hw):
    x, y, w, h = Recipe().draw(np.arange(9), np.zeros(9, int), np.tile([hw], (9, 1)))["crop_xywh"].T
    assert min(x.min(), y.min()) >= 0
    assert min(w.min(), h.min()) >= 1


def test_partners_are_one_ring_of_all_items_in_every_view():
    for view in range(3):
        partners = FULL.partners(np.arange(N), np.full(N, view))
        at, seen = 0, []
        for _ in range(N):
            at = int(partners[at])
            seen.append(at)
        assert sorted(seen) == list(range(N))
    assert (FULL.partners(np.arange(N), np.zeros(N, int)) != FULL.partners(np.arange(N), np.ones(N, int))).any()


def test_the_share_of_mixed_and_flipped_views_is_as_asked():
    drawn = FULL.draw(ITEM, VIEW, SIZES)
    assert (drawn["mix_item"] >= 0).mean() == pytest.approx(0.8, abs=0.03)
    assert ((drawn["mix_item"] < 0) == (drawn["mix_box_xyxy"] == -1).all(1)).all()
    assert drawn["flip"].mean() == pytest.approx(0.5, abs=0.04)


def test_boxes_have_the_area_that_cutmix_gives_them():
    """The mean area of a clipped box of side sqrt(1 - u) around a uniform middle is 25/72 of the image."""
    n = 20_000
    recipe = Recipe(size=1000, mix="cutmix", items=n)
    boxes = recipe.draw(np.arange(n), np.zeros(n, int), np.tile([[9, 9]], (n, 1)))["mix_box_xyxy"] / 1000
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    left, top, right, bottom = boxes.T
    side = np.sqrt(np.random.default_rng(0).random(400_000))
    expected = np.mean((side - side**2 / 4) ** 2)
    assert ((right - left) * (bottom - top)).mean() == pytest.approx(expected, rel=0.02)


def test_one_item_is_mixed_with_nobody():
    drawn = Recipe(mix="mixup", items=1).draw(np.zeros(5, int), np.arange(5), np.tile([[9, 9]], (5, 1)))
    assert drawn["mix_item"].tolist() == [-1] * 5
    assert drawn["mix_lam"].tolist() == [1.0] * 5


def test_strips_are_in_every_order():
    orders = Recipe(patches=3).draw(ITEM, VIEW, SIZES)["patch_order"]
    assert len({tuple(strips_of(code)) for code in orders[:, 0].tolist()}) == 6
    assert (orders[:, 0] != orders[:, 1]).any()


def test_strips_are_read_from_digits():
    assert strips_of(0) == []
    assert strips_of(0x1201) == [2, 0, 1]
    for none in (0x1, 0x1022, 0x2010, 0x113, -5):
        with pytest.raises(DataError, match="patch_order is"):
            strips_of(none)


def test_columns_that_are_not_drawn_are_not_there():
    assert Recipe(scale=None, flip=0).columns == ()
    assert Recipe(mix="mixup", mixed=0).columns == ("crop_xywh", "flip")
    assert Recipe(mix="mixup").columns == ("crop_xywh", "flip", "mix_item", "mix_lam")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 0}, "size is 0; expected 1 to 32768 pixels"),
        ({"size": 2.0}, "size is 2.0"),
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"scale": (0.5, 1.5)}, "scale is"),
        ({"scale": (0.9, 0.5)}, "scale is"),
        ({"ratio": (0.0, 1.0)}, "ratio is"),
        ({"ratio": (1.0, float("inf"))}, "ratio is"),
        ({"ratio": (1e-320, 1.0)}, "ratio is"),
        ({"flip": "a"}, "a setting is of the wrong kind"),
        ({"alpha": None}, "a setting is of the wrong kind"),
        ({"scale": ("a", "b")}, "a setting is of the wrong kind"),
        ({"flip": 1.5}, "flip is 1.5; expected a share from 0 to 1"),
        ({"flip": float("nan")}, "flip is nan"),
        ({"mix": "fmix"}, "mix is 'fmix'; expected none or cutmix or mixup"),
        ({"alpha": 3.0}, "alpha is 3.0; expected 0.05 to 2"),
        ({"mixed": -0.1}, "mixed is"),
        ({"patches": 8}, "patches is 8; expected 1 to 7"),
        ({"seed": 1 << 63}, "seed is"),
        ({"items": -1}, "items is"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(DataError, match=f"recipe: {said}"):
        Recipe(**settings)


def test_items_that_partners_are_not_drawn_among_are_refused():
    with pytest.raises(DataError, match="found item 9; partners are drawn among 5 items"):
        Recipe(mix="mixup", items=5).draw(np.array([1, 9]), np.array([0, 0]), np.tile([[9, 9]], (2, 1)))


GOLDEN = {
    "crop_xywh": [[183, 70, 312, 277], [3, 3, 20, 16]],
    "flip": [True, False],
    "mix_item": [312, 36],
    "mix_box_xyxy": [[28, 29, 46, 47], [28, 36, 38, 46]],
    "patch_order": [[4624, 4129], [4384, 4384]],
}

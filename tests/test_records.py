from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from softpack.errors import DataError
from softpack.records import COLUMNS, MAX_CLASSES, LabelSpec, RowBlock


@pytest.mark.parametrize("classes", [2, 1000, MAX_CLASSES])
def test_spec_takes_any_sound_number_of_classes(classes):
    assert LabelSpec(classes) == LabelSpec(classes, "logits", 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "rows have 1 classes; expected 2 to 16777216"),
        ((MAX_CLASSES + 1,), "expected 2 to 16777216"),
        ((10, "odds"), "space is 'odds'; expected one of logits, log_probs, probs"),
        ((10, "probs", 0.0), "temperature is 0.0; expected a positive number"),
        ((10, "probs", -1.0), "expected a positive number"),
        ((10, "probs", float("nan")), "expected a positive number"),
        ((10, "log_probs", float("inf")), "expected a positive number"),
        ((10, "logits", 4.0), r"logits have no temperature, but 4.0 was given; divide them by it"),
    ],
)
def test_spec_refuses(arguments, message):
    with pytest.raises(DataError, match=message):
        LabelSpec(*arguments)


def test_spec_is_a_value():
    spec = LabelSpec(10, "probs", 4.0)

    assert len({spec, LabelSpec(10, "probs", 4.0)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.classes = 11


def test_columns_go_by_their_names_and_have_real_dtypes():
    for name, column in COLUMNS.items():
        assert column.name == name
        assert np.dtype(column.dtype).itemsize in (1, 4)


@pytest.fixture
def block() -> RowBlock:
    labels_BC = np.arange(14, dtype=np.float32).reshape(7, 2)
    return RowBlock(labels_BC, np.arange(7), np.arange(7) % 3, {"flip": np.arange(7) % 2 == 0})


def test_take_reorders_labels_ids_and_replay_together(block):
    taken = block.take(np.array([6, 0, 6]))

    assert taken.item_B.tolist() == [6, 0, 6]
    assert taken.labels_BC[:, 0].tolist() == [12, 0, 12]
    assert taken.replay["flip"].tolist() == [True, True, True]

"""Codes within their levels that no row has: the reader names the file, whichever way it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

import softpack
from softpack.errors import CorruptError

INVALID = Path(__file__).resolve().parents[2] / "formats" / "vectors" / "invalid"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "sample_beyond_the_classes",
            "sample: the codes of row 0 of the batch begin with a gap of 4 bits and end at",
        ),
        ("topk_steps_of_no_class", "topk: row 0 of the batch has -inf as its largest value; expected a class"),
        ("topk_mass_nan", "topk: row 4 of the batch has nan as its largest value; expected a class"),
        ("polyk_class_twice", "polyk: row 0 of the batch names a class twice; expected 9 different classes"),
    ],
)
def test_codes_that_no_row_has_are_refused(name, message):
    labels = softpack.open(INVALID / f"{name}.spk")
    cells = labels.cells()

    for read in (labels.read, labels.read_sparse, labels.load().read):
        with pytest.raises(CorruptError, match=rf"{name}\.spk: {message}"):
            read(*cells)


def test_a_codec_that_keeps_all_classes_still_says_so():
    labels = softpack.open(INVALID.parent / "valid" / "1.0_raw_fp16.spk")

    with pytest.raises(
        softpack.errors.CodecError, match="codec raw keeps all classes of a row; read whole rows"
    ):
        labels.read_sparse(*labels.cells())

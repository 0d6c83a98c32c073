"""What the check kit says of codecs that decode otherwise under autocast."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from softpack.codecs.raw import Raw
from softpack.records import LabelSpec
from softpack.testing import random_rows
from softpack.testing.codec_checks import check_autocast


@dataclass(frozen=True)
class Wrong(Raw):
    """Decodes something else under autocast: by how much, or integers."""

    factor: float = 1.0

    def decode(self, codes, context_BC=None):
        rows_BC = super().decode(codes, context_BC)
        if not torch.is_autocast_enabled("cpu"):
            return rows_BC
        return (rows_BC * self.factor).to(torch.bfloat16) if self.factor else rows_BC.int()


def checked(factor):
    codec, rows_BC = Wrong(LabelSpec(20), factor=factor), random_rows(LabelSpec(20), 9)
    check_autocast(codec, codec.encode(rows_BC))


def test_bfloat16_is_near_enough():
    checked(1.0)
    checked(1.01)


@pytest.mark.parametrize(
    ("factor", "says"),
    [
        (1.1, r"under autocast, decode is off by .*; expected 0\.03 of .* at most"),
        (0.0, r"under autocast, decode gives torch\.int32; expected a float"),
        (float("inf"), "under autocast, decode gives infinities in other places"),
    ],
)
def test_codecs_that_are_further_off_are_told(factor, says):
    with pytest.raises(AssertionError, match=says):
        checked(factor)

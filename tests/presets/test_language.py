"""Formulas of caches of language models beside what their programs store."""

from __future__ import annotations

import pytest

from softpack.errors import DataError
from softpack.presets.registry import budget
from softpack.sources.peers.to_distillkit import recommended


@pytest.mark.parametrize(
    ("spec", "n_bytes"),
    [
        # What total_bits() of DistillKit's code gives for these vocabularies.
        ("distillkit:vocabulary=50257", 312),
        ("distillkit:vocabulary=128256", 328),
        ("distillkit:vocabulary=151936", 344),
        ("distillkit", 344),
        ("distillkit:config=budget,vocabulary=128256", 121),
        ("distillkit:config=budget", 127),
        ("distillkit:config=quick-start,vocabulary=151936", 428),
        ("distillkit:config=legacy,vocabulary=129280", 508),
        ("megatron", 640),
        ("megatron:dtype=fp32,k=64", 448),
        ("rs-kd", 36),
        ("se-kd3x", 193),
    ],
)
def test_bytes_of_a_token(spec, n_bytes):
    assert budget(f"{spec}{',' if ':' in spec else ':'}tokens=1000").label_bytes == 1000 * n_bytes


def test_the_formula_is_what_is_written():
    config = recommended(262_144, 128)

    assert budget("distillkit:tokens=1").label_bytes == config.row_bytes + config.id_bytes


def test_varints_of_maxtext():
    sizes = [1 if token < 128 else 2 if token < 16_384 else 3 for token in range(262_144)]

    of_a_token = budget("maxtext:tokens=1000000").label_bytes / 1e6

    assert of_a_token == pytest.approx(128 * (4 + sum(sizes) / len(sizes)), rel=1e-6)


@pytest.mark.parametrize("name", ["megatron", "rs-kd", "se-kd3x"])
def test_17_bits_are_of_no_larger_vocabulary(name):
    with pytest.raises(DataError, match="expected a whole number from 2 to 131072"):
        budget(f"{name}:vocabulary=151936")

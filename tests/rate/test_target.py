from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpack.errors import CodecError
from softpack.rate.target import Target, parse_size


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("4096", 4096), ("1B", 1), ("400KB", 400_000), ("400kb", 400_000), ("64MB", 64 * 10**6), ("1.5GiB", 3 << 29),
        ("2 MiB", 2 << 20), (" 7 kib ", 7 << 10), ("0.5KB", 500), ("1GB", 10**9),
    ],
)  # fmt: skip
def test_sizes(text, n_bytes):
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "KB",
        "-4KB",
        "0",
        "0KB",
        "0.1",
        "4TB",
        "4 K",
        "1,5MB",
        "1e6",
        "nan",
        "inf",
        "4KBB",
        "4BB",
        "4MBb",
        "4kibb",
        "٤KB",
        "9" * 400,
        "1." + "0" * 400,
    ],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(CodecError, match="is no size; expected one such as 400KB, 64MB"):
        parse_size(text)


@given(st.integers(1, 10**15 - 1), st.sampled_from(["", "B", "b", " B"]))
def test_bytes_are_bytes(n_bytes, unit):
    assert parse_size(f"{n_bytes}{unit}") == n_bytes


def test_one_target_is_one():
    assert Target(bits=3).bits == 3
    assert Target(kl=0.1) == Target(None, 0.1, None)
    assert Target(n_bytes=4096) != Target(n_bytes=4097)


@pytest.mark.parametrize(
    ("given_", "names"),
    [
        ({}, "none"),
        ({"bits": 1, "kl": 1}, "bits, kl"),
        ({"bits": 1, "kl": 1, "n_bytes": 1}, "bits, kl, n_bytes"),
    ],
)
def test_no_target_or_several_are_refused(given_, names):
    with pytest.raises(CodecError, match=f"found the targets {names}; expected one of bits, kl, n_bytes"):
        Target(**given_)


@pytest.mark.parametrize("value", [0, -1, math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("name", ["bits", "kl", "n_bytes"])
def test_a_target_is_a_number_above_0(name, value):
    with pytest.raises(CodecError, match=f"the target {name} is {value}; expected a number above 0"):
        Target(**{name: value})

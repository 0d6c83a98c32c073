from __future__ import annotations

import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from softpack.entropy.zstd import LARGE_MODEL, MAX_RATIO, expand, shrink, shrink_model
from softpack.errors import CorruptError

ZEROS = bytes(70_000)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_what_shrinks_comes_back(part, times):
    data = part * times

    frame = shrink(data)

    if frame is None:
        return
    assert len(frame) < len(data)
    assert expand(frame, len(data), "here") == data
    assert expand(memoryview(frame), len(data), "here") == data


def test_large_models_are_shrunk_in_seconds_and_small_ones_well():
    # Words of three bytes of sixteen values: the high level sees what repeats, the usual one hardly does.
    repeating = np.random.default_rng(0).integers(0, 16, 100_000, np.uint8).repeat(3).tobytes()
    large = bytes(LARGE_MODEL + 1)

    assert len(shrink_model(repeating)) < len(shrink(repeating))
    assert shrink_model(large) == shrink(large)
    assert expand(shrink_model(large), len(large), "here") == large


def test_what_does_not_shrink_is_left_as_it_is():
    assert shrink(np.random.default_rng(0).bytes(4096)) is None
    assert shrink(b"") is None
    assert shrink(b"x") is None


def test_frames_are_the_same_every_time():
    assert shrink(ZEROS) == shrink(ZEROS)


def test_the_most_that_zstd_shrinks_is_within_the_limit():
    data = bytes(64 << 20)

    frame = shrink(data, 19)

    assert len(data) < MAX_RATIO * len(frame)
    assert len(expand(frame, len(data), "here")) == len(data)


def claim(n_bytes: int) -> bytes:
    """Return a frame of 70,000 zeros that says it holds `n_bytes`."""
    frame = bytearray(zstandard.ZstdCompressor().compress(ZEROS))
    assert frame[4] >> 6 == 2, "a content size of 4 bytes"
    at = 5 if frame[4] >> 5 & 1 else 6
    frame[at : at + 4] = struct.pack("<I", n_bytes)
    return bytes(frame)


def without_size() -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(ZEROS)


FRAME = shrink(ZEROS)
SKIPPABLE = struct.pack("<II", 0x184D2A50, 4) + b"skip"


@pytest.mark.parametrize(
    ("frame", "n_bytes", "says"),
    [
        (FRAME, 69_999, "holds 70000 bytes, expected 69999"),
        (FRAME, 70_001, "holds 70000 bytes, expected 70001"),
        (claim(0xFFFFFFFF), 0xFFFFFFFF, "cannot hold the 4294967295 that it says"),
        (claim(70_001), 70_001, "here: "),
        (claim(60_000), 60_000, "here: "),
        (without_size(), 70_000, "expected 70000"),
        (FRAME[:-1], 70_000, "here: "),
        (FRAME + b"x", 70_000, "zstd cannot read a frame"),
        (FRAME + FRAME, 140_000, "expected 140000"),
        (FRAME + SKIPPABLE, 70_000, "zstd cannot read a frame"),
        (SKIPPABLE + FRAME, 70_000, "here: "),
        (SKIPPABLE, 0, "here: "),
        (b"", 0, "zstd cannot read a frame"),
        (b"no frame", 8, "zstd cannot read a frame"),
    ],
)
def test_bad_frames_are_refused(frame, n_bytes, says):
    with pytest.raises(CorruptError, match=says) as refused:
        expand(frame, n_bytes, "here")
    assert str(refused.value).startswith("here: ")


def test_wide_windows_are_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = compressor.compress(ZEROS) + compressor.flush()

    with pytest.raises(CorruptError):
        expand(frame, len(ZEROS), "here")

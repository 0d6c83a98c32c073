"""zstd, used so that a hostile frame cannot take memory it has not earned."""

from __future__ import annotations

import zstandard

from softpack.errors import CorruptError

LEVEL = 3
# A model is written once and fetched by all readers. What is larger is a matrix of a language model: the high level
# saves a seventh more of it at best, mostly nothing, and takes minutes for 335 MB instead of seconds.
MODEL_LEVEL, LARGE_MODEL = 19, 1 << 25
WORTH = 0.97  # a frame that saves less than 3% is not worth its decoding
MAX_WINDOW = 1 << 27
MAX_RATIO = 1 << 15  # a zstd block of 4 bytes stands for 128 KiB at most


def shrink(data: bytes, level: int = LEVEL) -> bytes | None:
    """Return `data` as one zstd frame that states its size, None where that does not help."""
    frame = zstandard.ZstdCompressor(level=level, write_content_size=True).compress(data)
    return frame if len(frame) < WORTH * len(data) else None


def shrink_model(data: bytes) -> bytes | None:
    """Return tensors or tables that all rows share as one zstd frame, None where that does not help."""
    return shrink(data, MODEL_LEVEL if len(data) <= LARGE_MODEL else LEVEL)


def expand(frame: bytes | memoryview, n_bytes: int, where: str) -> bytes:
    """Return the `n_bytes` bytes that a frame holds.

    The caller has checked the hash of `frame` and that `n_bytes` is within its limits.

    Raises:
        CorruptError: it is no single frame, or holds another number of bytes.
    """
    try:
        declared = zstandard.get_frame_parameters(frame).content_size
        if declared != n_bytes:
            raise CorruptError(f"{where}: a zstd frame says that it holds {declared} bytes, expected {n_bytes}")
        if n_bytes > MAX_RATIO * len(frame):  # zstd would take the memory first
            raise CorruptError(
                f"{where}: a zstd frame of {len(frame)} bytes cannot hold the {n_bytes} that it says"
            )
        data = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompress(
            frame, max_output_size=n_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CorruptError(f"{where}: zstd cannot read a frame: {error}") from None
    if len(data) != n_bytes:
        raise CorruptError(f"{where}: a zstd frame holds {len(data)} bytes, expected {n_bytes}")
    return data

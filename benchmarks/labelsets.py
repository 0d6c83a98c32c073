"""Large label sets for timing: the rows of the real set, repeated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from common import CLASSES, Options
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0

from softpack.codecs.abc import Codec
from softpack.codecs.registry import make_codec
from softpack.records import LabelSpec

VIEWS = 50  # of each item of a repeated set
BLOCK_ROWS = 5_000


def real_rows(given: Options) -> np.ndarray:
    """Return the real rows, shuffled: float16 [18600, 1000]; 500 of them for a smoke test."""
    with np.load(given.lite0) as arrays:
        rows_RC: np.ndarray = arrays["logits"]
    order_R = np.random.default_rng(given.seed).permutation(len(rows_RC))
    shuffled_RC: np.ndarray = rows_RC[order_R[:500] if given.quick else order_R]
    return shuffled_RC


def repeated(rows_RC: np.ndarray, n_rows: int) -> Iterator[np.ndarray]:
    """Yield `n_rows` rows in blocks of at most `BLOCK_ROWS`: the given ones round and round."""
    for start in range(0, n_rows, BLOCK_ROWS):
        yield rows_RC[np.arange(start, min(start + BLOCK_ROWS, n_rows)) % len(rows_RC)]


def write_npy(path: Path, rows_RC: np.ndarray, n_rows: int, views: int = VIEWS) -> None:
    """Write repeated rows as float16 [items, views, classes], block by block."""
    header = header_data_from_array_1_0(rows_RC) | {"shape": (n_rows // views, views, CLASSES)}
    with path.open("wb") as file:
        write_array_header_1_0(file, header)
        for block_BC in repeated(rows_RC, n_rows):
            file.write(block_BC.tobytes())


def fitted(
    given: Options, rows_RC: np.ndarray, target_bits: int, n_rows: int, steps: int | None = None
) -> Codec:
    """Return vqae fitted to rows.

    Args:
        given: says the seed.
        rows_RC: to fit to.
        target_bits: bits a label at most.
        n_rows: of the file that the codec is for, which its widths suit.
        steps: of training where only the shape of the codec matters; its own where None.
    """
    settings = {"steps": 5} if given.quick else {} if steps is None else {"steps": steps}
    codec = make_codec("vqae", LabelSpec(CLASSES), settings, target_bits)
    return codec.fit([as_float32(rows_RC)], seed=given.seed, n_rows=n_rows)


def batches(
    shape: tuple[int, int], n_rows: int, seed: int, n_batches: int = 200
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return batches of random items and views, each int64 [n_rows]."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(shape[0], size=n_rows), rng.integers(shape[1], size=n_rows)) for _ in range(n_batches)
    ]


def as_float32(rows_BC: np.ndarray) -> torch.Tensor:
    """Return rows as the float32 tensor that a loss takes."""
    return torch.from_numpy(rows_BC).float()


def save_views(path: Path, out: Path, views: range) -> dict[str, np.ndarray]:
    """Write the rows of some views of every photo, counted from 0 again, as `.npz`; return its arrays."""
    with np.load(path) as arrays:
        which_R = np.isin(arrays["view"], views)
        kept: dict[str, np.ndarray] = {name: arrays[name][which_R] for name in arrays.files}
    kept["view"] = kept["view"] - views.start
    np.savez(out, **kept)
    return kept

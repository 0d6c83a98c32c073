"""The valid vectors: small files that between them show everything a reader of version 1.0 has to know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from drafts import Draft

import softpack
from softpack.records import COLUMNS, RowBlock

CLASSES = 12
VQAE = {"slots": 3, "k": 5, "d_c": 2, "d_h": 4, "steps": 30, "batch": 16}


def logits(n_rows: int, classes: int = CLASSES, seed: int = 0) -> np.ndarray:
    """Return float32 rows that look like logits, [n_rows, classes]."""
    return (np.random.default_rng(seed).standard_normal((n_rows, classes)) * 3).astype(np.float32)


def probs(rows: np.ndarray, temperature: float) -> np.ndarray:
    """Return the softmax of logits."""
    powers = np.exp(rows / temperature - (rows / temperature).max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def grid(items: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Return item and view of every cell."""
    cells = np.arange(items * views)
    return cells // views, cells % views


def replay_columns(n: int, items: int) -> dict[str, np.ndarray]:
    """Return all replay columns of `n` rows."""
    rng = np.random.default_rng(1)
    return {
        "crop_xywh": rng.integers(0, 300, (n, 4)),
        "crop_xywh_fraction": rng.random((n, 4)).astype(np.float32),
        "flip": rng.random(n) < 0.5,
        "mix_item": np.where(rng.random(n) < 0.3, -1, rng.integers(0, items, n)),
        "mix_lam": rng.random(n).astype(np.float32),
        "mix_box_xyxy": rng.integers(-1, 224, (n, 4)),
    }


def plain(path: Path, codec: str, space: str = "logits", temperature: float = 1.0, **settings: Any) -> None:
    """Write 4 items x 5 views with one codec."""
    item, view = grid(4, 5)
    rows = logits(20)
    if space != "logits":
        rows = probs(rows, temperature)
        rows = np.log(rows) if space == "log_probs" else rows
    with softpack.create(path, codec, classes=CLASSES, space=space, temperature=temperature, **settings) as w:
        w.append(rows, item=item, view=view)


def kept(path: Path) -> None:
    """Write logits of which most are -inf: some classes alone are kept."""
    item, view = grid(2, 3)
    rows = logits(6)
    rows[np.argsort(rows, 1) < CLASSES - 4] = -np.inf
    with softpack.create(path, "raw", classes=CLASSES, dtype="fp16") as w:
        w.append(rows, item=item, view=view)


def ragged(path: Path) -> None:
    """Write sequences of 7, 0, 1 and 3 positions, in tiles of 2 x 4, with all columns."""
    item, view = np.repeat([0, 2, 3], [7, 1, 3]), np.concatenate([np.arange(7), [0], np.arange(3)])
    with softpack.create(path, "quantize", classes=CLASSES, items=4, views=7, tile=(2, 4)) as w:
        w.set_items(target=np.array([3, 1, 4, 1]))
        w.append(logits(11), item=item, view=view, flip=np.arange(11) % 2)


def tiles(path: Path) -> None:
    """Write 5 x 7 in tiles of 2 x 3, whose edges hang over."""
    item, view = grid(5, 7)
    with softpack.create(path, "quantize", classes=CLASSES, tile=(2, 3), items=5, views=7) as w:
        w.append(logits(35), item=item, view=view)


def parts(path: Path) -> None:
    """Write one tile in three parts, out of order, each with its commit."""
    item, view = grid(4, 5)
    order = np.random.default_rng(2).permutation(20)
    with softpack.create(path, "quantize", classes=CLASSES, tile=(4, 5)) as w:
        for rows in np.array_split(order, 3):
            w.append(logits(20)[rows], item=item[rows], view=view[rows])
            w.commit()


def appended(path: Path) -> None:
    """Write 2 x 3 rows, then append 2 items and replace the item columns."""
    item, view = grid(4, 3)
    with softpack.create(path, "raw", classes=CLASSES, tile=(2, 3), appendable=True) as w:
        w.set_items(target=np.array([7, 8]), source_hw=np.array([[30, 40], [50, 60]]))
        w.append(logits(12)[:6], item=item[:6], view=view[:6], flip=np.ones(6))
    with softpack.append(path) as w:
        w.set_items(target=np.arange(4), source_hw=np.arange(8).reshape(4, 2))
        w.append(logits(12)[6:], item=item[6:], view=view[6:], flip=np.zeros(6))


def replay(path: Path) -> None:
    """Write all columns there are."""
    item, view = grid(4, 5)
    with softpack.create(path, "quantize", classes=CLASSES) as w:
        w.set_items(target=np.array([5, 0, -1, 11]), source_hw=np.array([[375, 500], [1, 2], [3, 4], [5, 6]]))
        # Readers of labels take any numbers in columns; `append` would refuse boxes of rows that are not mixed.
        columns = {name: values.astype(COLUMNS[name].dtype) for name, values in replay_columns(20, 4).items()}
        w.add(RowBlock(logits(20), item, view, columns))


def small(path: Path, classes: int, item: int = 0, view: int = 0) -> None:
    """Write a single row."""
    with softpack.create(path, "raw", classes=classes) as w:
        w.append(logits(1, classes), item=item, view=view)


def no_rows(path: Path) -> None:
    """Write a model alone, with its encoder, as `softpack fit` does."""
    import torch

    from softpack.codecs.registry import make_codec
    from softpack.records import LabelSpec

    codec = make_codec("lowrank", LabelSpec(CLASSES), {"rank": 2, "bits": 4}).fit(
        [torch.from_numpy(logits(20))]
    )
    softpack.save_model(path, codec)


def zstd(path: Path) -> None:
    """Write rows so alike that their codes are compressed, and the model and the index with them."""
    item, view = grid(12, 20)
    rows = logits(3, 4)[(item + view) % 3]
    with softpack.create(path, "lowrank", classes=4, tile=(6, 5), rank=2, bits=10) as w:
        w.append(rows, item=item, view=view, crop_xywh=np.stack([item, view, item * 0 + 9, item * 0], axis=1))


def ancillary(path: Path) -> None:
    """Put a block of unknown ancillary type, a later minor version and ignorable features into a file."""
    tiles(path)
    draft = Draft.read(path)
    draft.minor, draft.features = 7, (0, 1 << 9, 1 << 40)
    draft.blocks.insert(
        2, draft.block(type=200, coding=9, stream=3, n_rows=5, raw_len=1 << 31, payload=b"note")
    )
    draft.write(path)


def two_models(path: Path) -> None:
    """Put each tensor of a decoder into a MODEL block of its own."""
    import safetensors.numpy as st

    plain(path, "lowrank", rank=3, bits=5)
    draft = Draft.read(path)
    tensors = st.load(draft.blocks[1].content)
    draft.blocks[1:2] = [
        draft.block(type=2, payload=st.save({name: tensors[name]})) for name in sorted(tensors)
    ]
    draft.write(path)


def unfinished_items(path: Path) -> None:
    """Let the target column lack an item, as a stopped writer leaves it: it counts as absent."""
    ragged(path)
    draft = Draft.read(path)
    target = next(
        n for n, block in enumerate(draft.blocks) if block.fields["type"] == 3 and block.fields["stream"] == 3
    )
    del draft.blocks[target]
    draft.write(path)


def _widths() -> dict[str, tuple[str, Callable[[Path], None]]]:
    return {
        f"width_{bits:02}": (
            f"codes of {bits} bits",
            lambda path, bits=bits: plain(path, "lowrank", rank=3, bits=bits),
        )
        for bits in (*range(1, 11), 13, 16)
    }


VALID: dict[str, tuple[str, Callable[[Path], None]]] = {
    **{
        f"raw_{kind}": (f"every number in {kind}", lambda path, kind=kind: plain(path, "raw", dtype=kind))
        for kind in ("fp32", "fp16", "bf16")
    },
    "raw_log_probs_t4": (
        "log-probabilities at T = 4",
        lambda path: plain(path, "raw", "log_probs", 4.0, dtype="fp32"),
    ),
    "raw_kept": ("logits of -inf, of classes without a probability", kept),
    "raw_probs": ("probabilities", lambda path: plain(path, "raw", "probs", dtype="fp32")),
    **{
        f"quantize_{bits}": (
            f"{bits} bits a number",
            lambda path, bits=bits: plain(path, "quantize", bits=bits),
        )
        for bits in (1, 4, 8)
    },
    "quantize_probs_t2": (
        "probabilities come back as log-probabilities",
        lambda path: plain(path, "quantize", "probs", 2.0),
    ),
    **{
        f"topk_{tail}": (f"3 classes, tail {tail}", lambda path, tail=tail: plain(path, "topk", k=3, tail=tail))
        for tail in ("uniform", "zero", "min", "bucket")
    },
    "topk_bucket_t4": (
        "a bucket exact at T = 4, values in fp32",
        lambda path: plain(path, "topk", "probs", 2.0, k=4, value="fp32", tail="bucket", tail_temperature=4.0),
    ),
    "topk_all": (
        "as many values as classes",
        lambda path: plain(path, "topk", k=CLASSES, value="bf16", tail="bucket"),
    ),
    "lowrank": ("3 coordinates of 8 bits", lambda path: plain(path, "lowrank", rank=3)),
    "lowrank_log_probs_t4": (
        "the same of log-probabilities",
        lambda path: plain(path, "lowrank", "log_probs", 4.0, rank=3),
    ),
    "vqae": (
        "3 slots of 5 codewords: 3 bits of which 3 codes are never used",
        lambda path: plain(path, "vqae", **VQAE),
    ),
    "vqae_probs_t4": ("the same of probabilities", lambda path: plain(path, "vqae", "probs", 4.0, **VQAE)),
    "tiles": ("9 tiles, of which those at the edges are smaller", tiles),
    "parts": ("one tile in three parts, each with its commit", parts),
    "ragged": ("sequences of different length, one of them empty", ragged),
    "appended": ("appended to after the first commit; item columns replaced", appended),
    "replay": ("all replay and item columns", replay),
    "single_row": ("one row", lambda path: small(path, CLASSES)),
    "single_row_far_out": ("one row at item 100000, view 300", lambda path: small(path, CLASSES, 100_000, 300)),
    "two_classes": ("rows of two classes", lambda path: small(path, 2)),
    "no_rows": ("a model without rows, and its encoder", no_rows),
    "zstd": ("arrays, index and model in zstd frames", zstd),
    "ancillary": ("what a later minor version may add and this one ignores", ancillary),
    "two_models": ("a decoder in several MODEL blocks", two_models),
    "unfinished_items": ("a column that lacks an item is no column", unfinished_items),
    **_widths(),
}

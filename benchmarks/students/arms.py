"""The ways to keep labels that are compared: each writes a file that students train from, and says what it costs.

Everything is an `.spk` file and is read as one, so that arms differ in their labels alone. What others have published
are settings of softpack's codecs, whose codes are stored as tightly as softpack's own: no peer pays for its pickles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import softpack
from softpack.container.reader import Labels
from softpack.eval.fidelity import Divergence
from softpack.rate.choose import Wanted, choose
from softpack.rate.target import Target
from softpack.records import TEMPERATURES
from softpack.sources.base import Source
from softpack.sources.encoding import encode_source
from softpack.sources.opening import open_source
from softpack.sources.pruning import first_views


@dataclass(frozen=True)
class Arm:
    """One way to keep labels.

    Args:
        name: for people.
        codec: id; None lets the target choose.
        settings: of the codec.
        target_bits: marginal bits a label at most.
        rows: which labels are kept: of every "view", one of each "image" or its "target"; for the last two, labels of
            mixed views are mixed as the pixels are.
        share: of the batches of labels that are kept, from the first on (LPLD).
        views: share of the views of each image that are kept, the first ones.
        ours: whether it is softpack's own.
    """

    name: str
    codec: str | None = "raw"
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    target_bits: float | None = None
    rows: str = "view"
    share: float = 1.0
    views: float = 1.0
    ours: bool = False

    @property
    def slug(self) -> str:
        """The name of its file."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)

    @property
    def is_pool(self) -> bool:
        """Whether labels are missing."""
        return self.share < 1


@dataclass(frozen=True)
class Cost:
    """Bits a label, of as many as the teacher gave, and how far they are from the teacher's.

    Args:
        all_in: of the whole file.
        marginal: without model and replay.
        model: shared by all labels.
        replay: crops, flips and mixes, or the seed that says them.
        kl: mean KL at T = 1, 4 and 20, times T squared; none where labels are missing.
    """

    all_in: float
    marginal: float
    model: float
    replay: float
    kl: tuple[float, ...] = ()


FP16 = Arm("fp16", settings={"dtype": "fp16"})


def top_k(name: str, k: int, tail: str, share: float = 1.0) -> Arm:
    """Return the k largest logits of a row as fp16 with their ids."""
    return Arm(name, "topk", {"k": k, "tail": tail}, share=share)


def for_classes(n_classes: int) -> tuple[Arm, ...]:
    """Return the arms for labels of so many classes."""
    shared = (
        Arm("hard", "topk", {"k": 2, "tail": "zero"}, rows="target"),
        Arm("one label an image", settings={"dtype": "fp16"}, rows="image"),
        FP16,
        Arm("int8", "quantize", {"bits": 8}),
        Arm("int4", "quantize", {"bits": 4}),
        Arm("LPLD 10x", settings={"dtype": "fp16"}, share=1 / 10),
    )
    return shared + (_THOUSAND if n_classes > 100 else _TEN)


_THOUSAND = (
    Arm("LPLD 40x", settings={"dtype": "fp16"}, share=1 / 40),
    Arm("LPLD 100x", settings={"dtype": "fp16"}, share=1 / 100),
    top_k("LPQLD MR-50", 50, "zero"),
    top_k("LPQLD MR-10", 10, "zero"),
    top_k("LPQLD 10x, MR-50", 50, "zero", 1 / 10),
    top_k("FKD MS-10", 10, "uniform"),
    top_k("TinyViT top-100", 100, "uniform"),
    Arm("PCA, 32 x 4 bits", "lowrank", {"rank": 32, "bits": 4}),
    Arm("vqae as in its paper, 1/35", "vqae", {"slots": 57, "temperatures": "1"}),
    Arm("softpack 1/100", None, target_bits=160, ours=True),
    Arm("softpack 1/250", None, target_bits=64, ours=True),
    Arm("softpack 1/500", None, target_bits=32, ours=True),
    Arm("softpack 1/100, half of the views", None, target_bits=320, views=1 / 2, ours=True),
    Arm("softpack 1/250, a quarter of the views", None, target_bits=256, views=1 / 4, ours=True),
    Arm("softpack 1/500, a quarter of the views", None, target_bits=128, views=1 / 4, ours=True),
)
_TEN = (
    top_k("LPQLD MR-3", 3, "zero"),
    top_k("FKD MS-3", 3, "uniform"),
    Arm("vqae as in its paper, 1/10", "vqae", {"slots": 2, "temperatures": "1"}),
    Arm("softpack 1/5", "klt", target_bits=32, ours=True),
    Arm("softpack 1/10", "klt", target_bits=16, ours=True),
    Arm("softpack 1/20", "klt", target_bits=8, ours=True),
    Arm("softpack 1/10, half of the views", "klt", target_bits=32, views=1 / 2, ours=True),
    Arm("softpack 1/20, a quarter of the views", "klt", target_bits=32, views=1 / 4, ours=True),
)


def write(arm: Arm, full: Path, per_image: Path, out: Path, batch: int, seed: int) -> None:
    """Write the file that students of an arm train from.

    Args:
        arm: what is kept.
        full: file of all labels as fp16.
        per_image: file of one label of each image.
        out: to write.
        batch: labels that LPLD keeps or leaves together.
        seed: of fits, and of the batches of LPLD.
    """
    if arm.rows == "view" and not arm.is_pool:
        source = _of_first_views(full, arm.views)
        target = None if arm.target_bits is None else Target(bits=arm.target_bits)
        wanted = Wanted(arm.codec, arm.settings, target, seed=seed)
        encode_source(source, out, choose(source, wanted), seed=seed, force=True)
        return
    labels = softpack.open(full)
    items, views = _first_batches(labels, arm.share, batch, seed) if arm.is_pool else labels.cells()
    rows_BC, space = _rows(arm, labels, per_image, items, views)
    n_items, n_views, classes = labels.shape
    recipe = None if arm.is_pool else labels.recipe  # a pool is without the rows of some mix partners
    with softpack.create(
        out, arm.codec, items=n_items, views=n_views, classes=classes, space=space, recipe=recipe, replay=False,
        force=True, **arm.settings,
    ) as writer:  # fmt: skip
        if recipe is not None:
            writer.set_items(source_hw=labels.item_column("source_hw"))
        writer.append(rows_BC, item=items, view=views)


def _of_first_views(full: Path, share: float) -> Source:
    source = open_source(full)
    return first_views(source, round(share * source.views))


def _rows(
    arm: Arm, labels: Labels, per_image: Path, items: np.ndarray, views: np.ndarray
) -> tuple[np.ndarray, str]:
    """Return the labels [B, C] that an arm has for views, and their space."""
    if arm.rows == "view":
        return labels.read(items, views).numpy(), "logits"
    n_items, _, classes = labels.shape
    if arm.rows == "target":
        table_NC, space = np.eye(classes, dtype=np.float32)[labels.item_column("target")], "probs"
    else:
        everyone = np.arange(n_items)
        table_NC, space = softpack.open(per_image).read(everyone, np.zeros_like(everyone)).numpy(), "logits"
    columns = labels.replay(items, views)
    x1_B, y1_B, x2_B, y2_B = columns["mix_box_xyxy"].T
    pasted_B1 = ((x2_B - x1_B) * (y2_B - y1_B) / labels.recipe.size**2)[:, None].astype(np.float32)
    return (1 - pasted_B1) * table_NC[items] + pasted_B1 * table_NC[columns["mix_item"]], space


def _first_batches(labels: Labels, share: float, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return items and views of the first batches that a shuffling loader gives, whole ones alone."""
    sampler = softpack.ViewSampler(labels, batch, seed=seed)
    n_batches = int(labels.shape[1] * (labels.shape[0] // batch) * share)
    kept: list[tuple[int, int]] = []
    while len(kept) < n_batches * batch:
        kept += [row for rows in sampler if len(rows) == batch for row in rows]
    items, views = np.array(kept[: n_batches * batch], np.int64).T
    return items, views


def cost(arm: Arm, full: Path, per_image: Path, out: Path) -> Cost:
    """Return what the labels of an arm take, and how far they are from the teacher's."""
    n_items, n_views, classes = softpack.open(full).shape
    if arm.rows == "target":
        bits = math.log2(classes) / n_views
        return Cost(bits, bits, 0.0, 0.0)
    account = softpack.ledger(per_image if arm.rows == "image" else out)
    kl: Iterable[Divergence] = ()
    if not arm.is_pool:
        found = softpack.fidelity(softpack.open(out), _of_first_views(full, arm.views), TEMPERATURES)
        kl = found.temperatures.values()
    n = n_items * n_views
    model, replay = account.bits_of("model") / n, account.bits_of("replay") / n
    all_in = account.total_bits / n
    return Cost(all_in, all_in - model - replay, model, replay, tuple(at.kl_mean for at in kl))

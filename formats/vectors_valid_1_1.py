"""The valid vectors of version 1.1: context, stages and entropy-coded arrays, in small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drafts import Draft
from vectors_valid import CLASSES, VQAE, grid, logits, probs

import softpack
from softpack.codecs.registry import make_codec
from softpack.container.context import Prototypes
from softpack.container.mixing import mixing_of
from softpack.container.model import Model
from softpack.container.tile_writer import code_arrays
from softpack.entropy import ans
from softpack.records import COLUMNS, LabelSpec, RowBlock

ITEMS, VIEWS = 6, 7
NONE = -1
WITH_CONTEXT = {**VQAE, "context": True, "d_x": 3}
MIX_WH = (40, 30)
LOWRANK = {"rank": 3, "bits": 8}


@dataclass(frozen=True)
class Labels:
    """Rows of 6 items x 7 views, each near to the prototype of its item, or between two where it is mixed.

    Args:
        columns: replay columns, whatever they say.
        share: of the partner in mixed rows.
        known: items that have a prototype.
        space: of the rows.
        temperature: of the rows.
        prototype_codec: id and settings.
    """

    columns: dict[str, Any] = field(default_factory=dict)
    share: Any = 0.0
    known: int = ITEMS
    space: str = "logits"
    temperature: float = 1.0
    prototype_codec: tuple[str, dict[str, Any]] = ("lowrank", LOWRANK)

    @property
    def block(self) -> RowBlock:
        """The rows."""
        item, view = grid(ITEMS, VIEWS)
        columns = {
            name: np.asarray(values).astype(COLUMNS[name].dtype) for name, values in self.columns.items()
        }
        partner = columns.get("mix_item", np.full(len(item), NONE))
        share = np.where(partner < 0, 0, self.share)[:, None]
        near = prototypes()
        rows = near[item] * (1 - share) + near[partner.clip(0, ITEMS - 1)] * share + logits(len(item)) / 3
        if self.space != "logits":
            rows = np.log(probs(rows, self.temperature))
        return RowBlock(rows.astype(np.float32), item, view, columns)

    def model(self, codec_id: str = "vqae", **settings: Any) -> tuple[Model, dict[str, np.ndarray]]:
        """Return a model that is fitted to the rows, and the codes that it makes of rows and prototypes."""
        block, spec = self.block, LabelSpec(CLASSES, self.space, self.temperature)
        codec, rows = make_codec(codec_id, spec, settings), torch.from_numpy(block.labels_BC)
        if not codec.takes_context:
            codec = codec.fit([rows])
            return Model(codec), code_arrays(codec.encode(rows))
        of_items = make_codec(self.prototype_codec[0], LabelSpec(CLASSES), self.prototype_codec[1])
        near = torch.from_numpy(prototypes()[: self.known])
        of_items = of_items.fit([near])
        codes = of_items.encode(near - near.mean(1, keepdim=True))
        mixing = mixing_of(block.replay, MIX_WH, len(block))
        context = Prototypes.of_codes(of_items, codes).context_of(block.item_B, mixing)
        codec = codec.fit([rows], contexts=[context])
        return Model(codec, of_items), code_arrays(codes) | code_arrays(codec.encode(rows, context))

    def write(self, path: Path, model: Model, **options: Any) -> None:
        """Write the rows."""
        near = None if model.prototypes is None else prototypes()[: self.known]
        sizes = {"items": ITEMS, "views": VIEWS, "mix_wh": MIX_WH}
        with softpack.create(path, model, prototypes=near, **sizes, **options) as w:
            w.add(self.block)


def prototypes() -> np.ndarray:
    """Return what the rows of each item are near to, [items, CLASSES]."""
    return logits(ITEMS, seed=7) * 2


def write(path: Path, labels: Labels | None = None, replay: bool = True, **settings: Any) -> None:
    """Write rows by vqae with context, or with other settings."""
    labels = labels or Labels()
    labels.write(path, labels.model(**{**WITH_CONTEXT, **settings})[0], replay=replay)


def partners() -> np.ndarray:
    """Return the mix partners of all rows; some rows are not mixed."""
    item, view = grid(ITEMS, VIEWS)
    return np.where(view % 3 == 0, NONE, (item + view) % ITEMS)


def boxes() -> np.ndarray:
    """Return boxes within pictures and, in the last views, beyond them or without area."""
    _, view = grid(ITEMS, VIEWS)
    left, top = 3 * view, 2 * view
    box = np.stack([left, top, left + 5 + 2 * view, top + 7], 1)
    box[view == 4] = (-10, -10, 90, 90)
    box[view == 5] = (20, 20, 10, 10)
    box[partners() == NONE] = NONE
    return box


def with_boxes(path: Path) -> None:
    """Write rows mixed by CutMix; the last item has no prototype."""
    write(path, Labels({"mix_item": partners(), "mix_box_xyxy": boxes()}, 0.3, known=ITEMS - 1))


def with_lam(path: Path) -> None:
    """Write rows mixed by Mixup, a few of them by shares that are none."""
    _, view = grid(ITEMS, VIEWS)
    lam = np.array([1.0, 0.3, 0.75, 1.0, 1.5, np.nan, -0.25])[view]
    write(path, Labels({"flip": view % 2, "mix_item": partners(), "mix_lam": lam}, 0.4))


def with_both(path: Path) -> None:
    """Write rows of which the first items are mixed by CutMix and the others by Mixup."""
    item, _ = grid(ITEMS, VIEWS)
    box = np.where((item < 3)[:, None], boxes(), NONE)
    lam = np.full(len(item), 0.6)
    write(path, Labels({"mix_item": partners(), "mix_lam": lam, "mix_box_xyxy": box}, 0.4))


def without_replay(path: Path) -> None:
    """Write who is mixed into rows without the rest of the replay columns; one partner is no item of the file."""
    partner = partners()
    partner[1] = 1000
    lam = np.linspace(0, 1, len(partner))
    write(path, Labels({"mix_item": partner, "mix_lam": lam}, 1 - lam), replay=False)


def appended(path: Path) -> None:
    """Append an item, which has no prototype, to a file of two commits."""
    labels = Labels()
    labels.write(path, labels.model(**WITH_CONTEXT)[0], appendable=True)
    with softpack.append(path) as w:
        w.append(logits(VIEWS), item=ITEMS, view=np.arange(VIEWS))


def prototype_codec(path: Path) -> None:
    """Write prototypes by a codec that has no tensors."""
    write(path, Labels(prototype_codec=("quantize", {"bits": 6})))


def without_prototypes(path: Path) -> None:
    """Take the prototypes out of a file: what rows are given then is 0."""
    write(path)
    draft = Draft.read(path)
    draft.blocks.remove(draft.tile(draft.stream("prototype")))
    draft.write(path)


def no_rows(path: Path) -> None:
    """Write a model with context alone, with its encoders."""
    softpack.save_model(path, Labels().model(**WITH_CONTEXT)[0])


def table(codes: np.ndarray, levels: int) -> np.ndarray:
    """Return frequencies of codes [n, ...] in each column: 1 for those that do not come."""
    counts_SL = ans.count_codes(codes.reshape(len(codes), -1), levels)
    table_SL = 1 + counts_SL * ((1 << 24) - levels) // len(codes)
    table_SL[np.arange(len(table_SL)), table_SL.argmax(1)] += (1 << 24) - table_SL.sum(1)
    return table_SL.astype(np.uint32)


def tables_of_all(path: Path) -> None:
    """Write codes, prototypes and shares with tables for all of them."""
    lam = 1 - np.random.default_rng(3).integers(1, 6, ITEMS * VIEWS) / 8
    labels = Labels({"mix_item": partners(), "mix_lam": lam}, 0.3)
    model, codes = labels.model(**WITH_CONTEXT)
    tables = {
        "codes.index": table(codes["index"], VQAE["k"]),
        "prototype.levels": table(codes["levels"], 1 << LOWRANK["bits"]),
        "mix.mix_share": table(np.arange(0, 192, 32), 256),
    }
    labels.write(path, Model(model.codec, model.prototypes, tables), replay=False)


def with_klt(path: Path, labels: Labels, **settings: Any) -> None:
    """Write rows by klt."""
    labels.write(path, labels.model("klt", bits=20.0, **settings)[0])


def klt_given_klt(path: Path) -> None:
    """Write rows and prototypes by klt, whose arrays have the same names, all of them with tables."""
    labels = Labels(
        {"mix_item": partners(), "mix_box_xyxy": boxes()},
        0.3,
        prototype_codec=("klt", {"bits": 30.0, "search": 0}),
    )
    model, _ = labels.model("klt", bits=12.0, context=True)
    labels.write(path, model)
    made = softpack.open(path)
    codes, of_items = made.stored_codes(*made.cells()), made.prototype_codes
    tables = {f"codes.{a.name}": table(codes[a.name], a.levels) for a in model.codec.codes}
    tables |= {f"prototype.{a.name}": table(of_items[a.name], a.levels) for a in model.prototypes.codes}
    labels.write(path, Model(model.codec, model.prototypes, tables), force=True)


def with_table(path: Path, rows: np.ndarray, views: int, bits: int, rare: int | None = None) -> None:
    """Write rows on one axis, with a table that suits the codes; `rare` is the frequency of all but one of them."""
    item, view = grid(len(rows) // views, views)
    codec = make_codec("lowrank", LabelSpec(rows.shape[1]), {"rank": 1, "bits": bits}).fit(
        [torch.from_numpy(rows)]
    )
    found = codec.encode(torch.from_numpy(rows))["levels"].numpy().astype(np.int64) & ((1 << bits) - 1)
    table_SL = table(found, 1 << bits)
    if rare is not None:
        table_SL = np.where(table_SL == table_SL.max(), (1 << 24) - rare * (table_SL.shape[1] - 1), rare)
        table_SL = table_SL.astype(np.uint32)
    with softpack.create(path, Model(codec, tables={"codes.levels": table_SL})) as w:
        w.append(rows, item=item, view=view)


def two_levels(path: Path) -> None:
    """Write codes of one bit, a single one of them another, by a table under which the others cost nothing."""
    rows = np.tile(np.float32([1, -1]), (400, 1))
    rows[123] *= -1
    with_table(path, rows, 20, 1, rare=1)


def many_levels(path: Path) -> None:
    """Write codes of as many levels as a table may have."""
    with_table(path, np.float32([[1, 0, -1]]) * np.linspace(-5, 5, 60, dtype=np.float32)[:, None] ** 3, 6, 12)


VALID: dict[str, tuple[str, Callable[[Path], None]]] = {
    "context": ("rows given the prototypes of their items", write),
    "context_boxes": ("rows mixed by boxes, one item without a prototype", with_boxes),
    "context_lam": ("rows mixed by shares, some of them nan or outside 0 to 1", with_lam),
    "context_boxes_and_lam": ("rows mixed by boxes, and by shares where there is no box", with_both),
    "context_mix": ("the stream mix in place of replay; a partner that is no item of the file", without_replay),
    "context_log_probs_t4": (
        "log-probabilities at T = 4 given prototypes, which are logits",
        lambda path: write(path, Labels(space="log_probs", temperature=4.0)),
    ),
    "context_appended": ("an item that came later and has no prototype", appended),
    "context_no_prototypes": (
        "prototypes of no item at all, so that all rows have the context 0",
        without_prototypes,
    ),
    "context_prototype_codec": ("prototypes by a codec without tensors", prototype_codec),
    "context_no_rows": ("a model with context without rows, and its encoders", no_rows),
    "stages": (
        "three stages of codes, found by a search",
        lambda path: write(path, context=False, d_x=0, stages=3, search=2),
    ),
    "stages_context_log_probs_t2": (
        "two stages of codes, with context and log-probabilities at T = 2",
        lambda path: write(path, Labels(space="log_probs", temperature=2.0), stages=2),
    ),
    "klt": ("klt, in arrays of several widths", lambda path: with_klt(path, Labels())),
    "klt_log_probs_t4": (
        "the same of log-probabilities at T = 4",
        lambda path: with_klt(path, Labels(space="log_probs", temperature=4.0)),
    ),
    "klt_context": ("klt given prototypes by klt, entropy-coded", klt_given_klt),
    "klt_context_log_probs_t2": (
        "klt given prototypes, of log-probabilities at T = 2",
        lambda path: with_klt(path, Labels(space="log_probs", temperature=2.0), context=True),
    ),
    "tables": ("entropy-coded codes, prototypes and shares", tables_of_all),
    "tables_2_levels": ("entropy-coded codes of one bit, most of which cost nothing", two_levels),
    "tables_4096_levels": ("entropy-coded codes of the most levels", many_levels),
}

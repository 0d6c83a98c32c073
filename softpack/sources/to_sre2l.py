"""Labels as SRe2L's scripts read them: `epoch_E/batch_B.tar`, with the index that LPLD's read beside them.

A batch of that layout has one box or one share for all of its rows, and mixes them among each other, so that labels are
put into batches as they were mixed. Order and size of the batches are those of a seed where one is named.

Shapes in names: N items, R rows of a view, B rows of a batch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from softpack.container.reader import Labels
from softpack.container.resident import ResidentLabels
from softpack.errors import DataError
from softpack.sources.orders import Order
from softpack.sources.replacing import replacing_folder
from softpack.sources.sre2l import INDEX

RESIDENT_BYTES = 1 << 30
FILES = rf"epoch_\d+|{re.escape(INDEX)}"  # that a folder of this layout may hold
DTYPES = {"float16": torch.float16, "float32": torch.float32}
Held = Labels | ResidentLabels


@dataclass(frozen=True)
class Sre2lLayout:
    """How labels are laid out.

    Args:
        batch: rows of a batch.
        order: of the items of each view; None puts rows that are mixed alike together, and others in their order.
        dtype: "float16" or "float32", of the logits.
    """

    batch: int = 1024
    order: Order | None = None
    dtype: str = "float16"


def write_sre2l(
    path: Path,
    out: Path,
    layout: Sre2lLayout,
    force: bool = False,
    counted: Callable[[int, int], None] | None = None,
) -> None:
    """Write the labels of an `.spk` file as a folder of batches, which appears whole or not at all.

    Args:
        path: of the `.spk` file.
        out: of the folder.
        layout: of the batches.
        force: replace `out` if it is there.
        counted: is told (rows done, rows in all).

    Raises:
        DataError: the labels are no logits, are of shuffled patches, or are mixed as no batch of the layout can be.
        ExistsError: `out` is there, and `force` is not given.
    """
    on_disk = Labels(path)
    # A view lies in all tiles: held in memory, each of them is read once.
    labels = on_disk.load() if path.stat().st_size <= RESIDENT_BYTES else on_disk
    if labels.spec.space != "logits":
        raise DataError(f"{path}: holds {labels.spec.space}; SRe2L's files hold logits")
    if "patch_order" in labels.columns:
        raise DataError(f"{path}: has views of shuffled patches, for which SRe2L's files have no place")
    done, index, sizes = 0, {}, set[int]()
    with replacing_folder(out, force, FILES) as folder:
        if out.resolve() in path.resolve().parents:
            raise DataError(f"{out}: holds {path}, which would be lost; take another folder")
        for view in range(labels.shape[1]):
            (folder / f"epoch_{view}").mkdir()
            batches = list(_batches(labels, view, layout))
            sizes |= {len(items_B) for items_B in batches[:-1]}
            if len(sizes) > 1:
                raise DataError(
                    f"{path}: views are mixed in batches of {' and '.join(map(str, sorted(sizes)))} rows; SRe2L's "
                    "files have one size of all of them"
                )
            for number, items_B in enumerate(batches):
                torch.save(
                    _batch(labels, items_B, view, layout.dtype),
                    folder / f"epoch_{view}" / f"batch_{number}.tar",
                )
                done += len(items_B)
                if counted is not None:
                    counted(done, labels.n_rows)
            index[str(view)] = [int(item) for items_B in batches for item in items_B]
        (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def _batches(labels: Held, view: int, layout: Sre2lLayout) -> Iterator[np.ndarray]:
    """Yield the items of the batches of a view, all of one size but the last."""
    items_N = np.arange(labels.shape[0])
    items_R = items_N[labels.has(items_N, np.full_like(items_N, view))]
    if layout.order is not None:
        order_R = layout.order.items(view)
        if set(order_R.tolist()) != set(items_R.tolist()):
            raise DataError(
                f"{_name(labels)}: view {view} has labels of {len(items_R)} items, and the order names "
                f"{len(order_R)}; give the seed that they were labelled by, or none"
            )
        items_R = order_R
    columns = labels.replay(items_R, np.full_like(items_R, view))
    if layout.order is None and "mix_item" in columns and (columns["mix_item"] >= 0).any():
        shown = columns.get("mix_box_xyxy", columns.get("mix_lam"))
        keys = np.unique(np.asarray(shown).reshape(len(items_R), -1), axis=0, return_inverse=True)[1].reshape(
            -1
        )
        groups = [items_R[keys == key] for key in range(keys.max() + 1)]
        groups.sort(key=len, reverse=True)
        if len({len(group) for group in groups[:-1]}) > 1:
            raise DataError(
                f"{_name(labels)}: view {view} is mixed by {len(groups)} boxes or shares, of "
                f"{len(groups[0])} to {len(groups[-1])} rows each; SRe2L's files have one for a whole batch, and "
                "batches of one size"
            )
        yield from groups
        return
    for start in range(0, len(items_R), layout.batch):
        yield items_R[start : start + layout.batch]


def _batch(labels: Held, items_B: np.ndarray, view: int, dtype: str) -> list[object]:
    views_B = np.full_like(items_B, view)
    columns = labels.replay(items_B, views_B)
    where = f"{_name(labels)}: a batch of view {view}"
    flip_B = columns["flip"] if "flip" in columns else np.zeros(len(items_B), bool)
    logits_BC = labels.read(items_B, views_B).to(DTYPES[dtype])
    if not torch.isfinite(logits_BC).all():
        raise DataError(f"{where} has logits beyond the range of {dtype}; take --dtype float32")
    return [
        torch.from_numpy(_coords(labels, columns, items_B)), torch.from_numpy(flip_B.astype(bool)),
        *_mix(columns, items_B, where), logits_BC.contiguous(),
    ]  # fmt: skip


def _coords(labels: Held, columns: dict[str, np.ndarray], items_B: np.ndarray) -> np.ndarray:
    """Return top, left, height and width as shares of the image, float32 [B, 4]; all of it where nothing is cropped."""
    if "crop_xywh_fraction" in columns:
        crop_B4 = columns["crop_xywh_fraction"]
    elif "crop_xywh" not in columns:
        crop_B4 = np.tile([0.0, 0.0, 1.0, 1.0], (len(items_B), 1))
    else:
        size_hw_B2 = labels.item_column("source_hw")[items_B].astype(np.float64)
        crop_B4 = columns["crop_xywh"] / np.tile(size_hw_B2[:, ::-1], 2)
    return np.ascontiguousarray(crop_B4[:, [1, 0, 3, 2]].astype(np.float32))


def _mix(columns: dict[str, np.ndarray], items_B: np.ndarray, where: str) -> list[object]:
    """Return mix_index, mix_lam and mix_bbox of a batch."""
    partner_B = columns.get("mix_item", np.full(len(items_B), -1))
    if (partner_B < 0).all():
        return [None, None, None]
    order = np.argsort(items_B)
    place_B = order[np.clip(np.searchsorted(items_B[order], partner_B), 0, len(items_B) - 1)]
    if (items_B[place_B] != partner_B).any():
        raise DataError(
            f"{where} is mixed with items that are not in it; SRe2L's files mix the rows of a batch among each other: "
            "give the seed that the labels were made by"
        )
    index_B = torch.from_numpy(place_B)
    box_B4 = columns.get("mix_box_xyxy")
    if box_B4 is not None and (box_B4[0] >= 0).all():
        x1, y1, x2, y2 = (int(number) for number in _one(box_B4, "boxes", where))
        lam = columns["mix_lam"][0] if "mix_lam" in columns else 1 - _area(box_B4[0], box_B4)
        return [index_B, float(lam), [y1, x1, y2, x2]]
    return [index_B, float(_one(columns["mix_lam"], "shares", where)), None]


def _area(box_4: np.ndarray, box_B4: np.ndarray) -> float:
    """Return a box's share of the picture; readers mix by the box and do not look at it."""
    side = max(1, int(box_B4.max()))
    return float((box_4[2] - box_4[0]) * (box_4[3] - box_4[1])) / side**2


def _one(values_B: np.ndarray, what: str, where: str) -> np.ndarray:
    if (values_B != values_B[0]).any():
        raise DataError(
            f"{where} is mixed by {len(np.unique(values_B, axis=0))} {what}; SRe2L's files have one for a whole batch"
        )
    return np.asarray(values_B[0])


def _name(labels: Held) -> str:
    return (labels.labels if isinstance(labels, ResidentLabels) else labels).file.name

"""Labels as the scripts of SRe2L and of those after it read them: a list for each batch, as `fkdmix` describes.

A batch of these layouts has one box or one share for all of its rows, and mixes them among each other, so that labels
are put into batches as they were mixed. Order and size of the batches are those of a seed, or of an index, where one is
named.

Shapes in names: N items, R rows of a view, B rows of a batch, C classes, k classes that are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.spaces import to_logits
from softpack.errors import DataError
from softpack.recipe import strips_of
from softpack.sources.encoding import Counted
from softpack.sources.peers import lpqld, sre2l
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.fkdmix import side_ratios
from softpack.sources.peers.kept import largest
from softpack.sources.peers.orders import BatchOrder
from softpack.sources.peers.to_folder import Held, crop_fractions, held, items_of_view, label_folder, name_of

DTYPES = {"float16": torch.float16, "float32": torch.float32}
MOST_OF_UINT8 = 256


@dataclass(frozen=True)
class _Batch:
    """A batch that is to be written.

    Args:
        labels: all of them.
        items_B: of its rows.
        view: of its rows.
        columns: replay columns of its rows.
        where: it is, for messages.
    """

    labels: Held
    items_B: np.ndarray
    view: int
    columns: dict[str, np.ndarray]
    where: str

    def logits(self, dtype: str) -> Tensor:
        """Return its labels [B, C]."""
        logits_BC = self.labels.read(self.items_B, np.full_like(self.items_B, self.view))
        if bool((logits_BC == -torch.inf).any()):
            raise DataError(
                f"{self.where} has logits of -inf, as labels have of which some classes are kept alone; write them as "
                "lpqld"
            )
        return _in_range(logits_BC.to(DTYPES[dtype]), dtype, self.where)

    def crops(self) -> np.ndarray:
        """Return top, left, height and width, float32 [B, 4]."""
        return crop_fractions(self.labels, self.columns, self.items_B).astype(np.float32)

    def flips(self) -> Tensor:
        """Return flips, bool [B], or cutouts (row, column, height, width, colour), float32 [B, 7]."""
        if "cutout" not in self.columns:
            return torch.from_numpy(self.columns.get("flip", np.zeros(len(self.items_B), bool)))
        if self.columns.get("flip", np.zeros(1)).any() or (self.columns["cutout"] == -1).all(1).any():
            raise DataError(
                f"{self.where} has cutouts of some rows, or flips beside them; the layout has one or the other"
            )
        return torch.from_numpy(self.columns["cutout"][:, [1, 0, 3, 2, 4, 5, 6]].copy())


@dataclass(frozen=True)
class Variant:
    """What tells layouts apart that hold such lists.

    Args:
        parts: of the list of a batch.
        index: name of the JSON with the items.
        by_batch: whether batches are numbered through and listed, instead of in a folder for each epoch.
        patches: whether it has a place for shuffled strips.
        spaces: of labels that it may hold: log-probabilities are logits but for a constant of each row, which no
            softmax sees.
    """

    parts: Callable[[_Batch, Asked], list[object]]
    index: str = sre2l.INDEX
    by_batch: bool = False
    patches: bool = False
    spaces: tuple[str, ...] = ("logits",)

    def file(self, epoch: int, batch: int, total: int) -> str:
        """Return the path of a batch within the folder, by its number in its epoch and in all."""
        return f"batch_{total}.tar" if self.by_batch else f"epoch_{epoch}/batch_{batch}.tar"


def write_fkdmix(
    path: Path,
    out: Path,
    asked: Asked,
    force: bool = False,
    counted: Counted | None = None,
    *,
    variant: Variant,
) -> None:
    """Write the labels of an `.spk` file as a folder of batches, which appears whole or not at all.

    Args:
        path: of the `.spk` file.
        out: of the folder.
        asked: how it is laid out.
        force: replace `out` if it is there.
        counted: is told (rows done, rows in all).
        variant: of the layout.

    Raises:
        DataError: the labels are no logits, or are mixed or shuffled as no batch of the layout can be.
        ExistsError: `out` is there, and `force` is not given.
    """
    labels = held(path)
    if labels.spec.space not in variant.spaces:
        raise DataError(f"{path}: holds {labels.spec.space}; SRe2L's files and those like them hold logits")
    if "patch_order" in labels.columns and not variant.patches:
        raise DataError(f"{path}: has views of shuffled patches, for which only edc's files have a place")
    if "aug_seed" in labels.columns:
        raise DataError(f"{path}: has views that were drawn from seeds; SRe2L's files have crops and flips")
    files = rf"epoch_\d+|batch_\d+\.tar|{re.escape(variant.index)}"
    done, total, index, sizes = 0, 0, dict[str, list[int]](), set[int]()
    with label_folder(path, out, force, files) as folder:
        for view in range(labels.shape[1]):
            batches = list(_batches(labels, view, asked))
            sizes |= {len(items_B) for items_B in batches[:-1]}
            if len(sizes) > 1 and not variant.by_batch:
                raise DataError(
                    f"{path}: views are mixed in batches of {' and '.join(map(str, sorted(sizes)))} rows; SRe2L's "
                    "files have one size of all of them"
                )
            for number, items_B in enumerate(batches):
                file = folder / variant.file(view, number, total)
                file.parent.mkdir(exist_ok=True)
                torch.save(variant.parts(_batch(labels, items_B, view), asked), file)
                index.setdefault(str(total if variant.by_batch else view), []).extend(items_B.tolist())
                total += 1
                done += len(items_B)
                if counted is not None:
                    counted(done, labels.n_rows)
        (folder / variant.index).write_text(json.dumps(index), encoding="utf-8")


def _batches(labels: Held, view: int, asked: Asked) -> Iterator[np.ndarray]:
    """Yield the items of the batches of a view, all of one size but the last."""
    items_R = items_of_view(labels, view)
    order = asked.order
    if order is not None:
        order_R = order.items(view)
        if not np.array_equal(np.sort(order_R), items_R):
            raise DataError(
                f"{name_of(labels)}: view {view} has labels of {len(items_R)} items, and the order names "
                f"{len(order_R)}; give the seed or the index that they were labelled by, or none"
            )
        items_R = order_R
    if isinstance(order, BatchOrder):
        yield from order.groups(view)
        return
    columns = labels.replay(items_R, np.full_like(items_R, view))
    if order is None and "mix_item" in columns and (columns["mix_item"] >= 0).any():
        yield from _mixed_alike(items_R, columns, f"{name_of(labels)}: view {view}")
        return
    for start in range(0, len(items_R), asked.batch):
        yield items_R[start : start + asked.batch]


def _mixed_alike(items_R: np.ndarray, columns: dict[str, np.ndarray], where: str) -> list[np.ndarray]:
    """Return items of rows that have one box or share, together."""
    shown = np.asarray(columns.get("mix_box_xyxy", columns.get("mix_lam")))
    keys_R = np.unique(shown.reshape(len(items_R), -1), axis=0, return_inverse=True)[1].reshape(-1)
    groups = [items_R[keys_R == key] for key in range(keys_R.max() + 1)]
    groups.sort(key=len, reverse=True)
    if len({len(group) for group in groups[:-1]}) > 1:
        raise DataError(
            f"{where} is mixed by {len(groups)} boxes or shares, of {len(groups[0])} to {len(groups[-1])} rows each; "
            "SRe2L's files have one for a whole batch, and batches of one size"
        )
    return groups


def _batch(labels: Held, items_B: np.ndarray, view: int) -> _Batch:
    columns = labels.replay(items_B, np.full_like(items_B, view))
    return _Batch(labels, items_B, view, columns, f"{name_of(labels)}: a batch of view {view}")


# -- what lists hold -----------------------------------------------------------------------------------


def _of_sre2l(batch: _Batch, asked: Asked) -> list[object]:
    logits_BC = batch.logits(asked.dtype or "float16")
    return [torch.from_numpy(batch.crops()), batch.flips(), *_mix(batch), logits_BC.contiguous()]


def _of_gvbsm(batch: _Batch, asked: Asked) -> list[object]:
    return [*_of_sre2l(batch, asked), torch.from_numpy(batch.items_B)]


def _of_edc(batch: _Batch, asked: Asked) -> list[object]:
    """Return the list of EDC, which divides rows of pixels by the width and columns by the height."""
    crops_B4 = torch.from_numpy(batch.crops())
    if "source_hw" in batch.labels.item_columns:
        size_hw_B2 = batch.labels.item_column("source_hw")[batch.items_B].astype(np.float32)
        crops_B4 = crops_B4 * torch.from_numpy(side_ratios(size_hw_B2))
    return [crops_B4, *_of_gvbsm(batch, asked)[1:], _strips(batch)]


def _of_lpqld(batch: _Batch, asked: Asked) -> list[object]:
    """Return the list of LPQLD: the k largest logits, or all of them where all are finite and no k is named."""
    n, dtype = len(batch.items_B), asked.dtype or "float16"
    index, lam, box = _mix(batch)
    if isinstance(index, Tensor):
        if n > MOST_OF_UINT8:
            raise DataError(
                f"{batch.where} has {n} rows; LPQLD counts them in 8 bits; expected {MOST_OF_UINT8} at most"
            )
        index = index.to(torch.uint8)
    if isinstance(box, list):
        if max(box) >= MOST_OF_UINT8:
            raise DataError(
                f"{batch.where} has a box to pixel {max(box)}; LPQLD stores 8 bits; expected 255 at most"
            )
        box = [torch.tensor(edge, dtype=torch.uint8) for edge in box]
    parts = [torch.from_numpy(batch.crops()).half(), batch.flips(), index, lam, box]
    rows_BC = batch.labels.read(batch.items_B, np.full(n, batch.view))
    logits_BC = to_logits(rows_BC, batch.labels.spec).numpy()
    n_kept = np.isfinite(logits_BC).sum(1)
    k = asked.k or int(n_kept[0])
    if n_kept.min() < k or (asked.k is None and n_kept.max() > k):
        raise DataError(
            f"{batch.where} keeps {n_kept.min()} to {n_kept.max()} classes of a row; LPQLD's files keep as many of "
            "each: say how many with --k, no more than the least"
        )
    classes = logits_BC.shape[1]
    if k == classes:
        return [*parts, _in_range(torch.from_numpy(logits_BC).to(DTYPES[dtype]), dtype, batch.where)]
    if classes > 1 << 16:
        raise DataError(f"{batch.where} has {classes} classes; LPQLD stores them in 16 bits")
    ids_Bk = largest(logits_BC, k)
    values_Bk = torch.from_numpy(np.take_along_axis(logits_BC, ids_Bk, 1)).to(DTYPES[dtype])
    ids = torch.from_numpy(ids_Bk.astype(np.uint16).view(np.int16))
    return [*parts, _in_range(values_Bk, dtype, batch.where), ids]


def _strips(batch: _Batch) -> Tensor:
    """Return which strip stands in each place, from the left and from the top, [B, 2, strips]; 0 where none moved."""
    n = len(batch.items_B)
    codes_B2 = batch.columns.get("patch_order", np.zeros((n, 2), np.int32))
    if not codes_B2.any():
        return torch.zeros(n, 2, 2, dtype=torch.int32)
    orders = [[strips_of(code) for code in codes[::-1]] for codes in codes_B2.tolist()]
    if len({len(order) for pair in orders for order in pair}) > 1:
        raise DataError(
            f"{batch.where} has images of different numbers of strips; EDC's files have one for a batch"
        )
    return torch.tensor(orders)


def _mix(batch: _Batch) -> list[Any]:
    """Return mix_index, mix_lam and mix_bbox of a batch."""
    items_B, columns = batch.items_B, batch.columns
    partner_B = columns.get("mix_item", np.full(len(items_B), -1))
    if (partner_B < 0).all():
        return [None, None, None]
    order = np.argsort(items_B)
    place_B = order[np.clip(np.searchsorted(items_B[order], partner_B), 0, len(items_B) - 1)]
    if (items_B[place_B] != partner_B).any():
        raise DataError(
            f"{batch.where} is mixed with items that are not in it; SRe2L's files mix the rows of a batch among each "
            "other: give the seed or the index that the labels were made by"
        )
    index_B = torch.from_numpy(place_B)
    box_B4 = columns.get("mix_box_xyxy")
    if box_B4 is not None and (box_B4[0] >= 0).all():
        x1, y1, x2, y2 = (int(number) for number in _one(box_B4, "boxes", batch.where))
        lam = columns["mix_lam"][0] if "mix_lam" in columns else 1 - _area(box_B4[0], box_B4)
        return [index_B, float(lam), [y1, x1, y2, x2]]
    return [index_B, float(_one(columns["mix_lam"], "shares", batch.where)), None]


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


def _in_range(values_BX: Tensor, dtype: str, where: str) -> Tensor:
    if not bool(torch.isfinite(values_BX).all()):
        raise DataError(f"{where} has logits beyond the range of {dtype}; take --dtype float32")
    return values_BX


write_sre2l = partial(write_fkdmix, variant=Variant(_of_sre2l))
write_gvbsm = partial(write_fkdmix, variant=Variant(_of_gvbsm))
write_edc = partial(write_fkdmix, variant=Variant(_of_edc, patches=True))
write_lpqld = partial(
    write_fkdmix, variant=Variant(_of_lpqld, lpqld.INDEX, True, spaces=("logits", "log_probs"))
)

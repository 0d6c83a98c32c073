# fmt: off
"""What rows are given, and what corrects them: section 9 of spk.md in Python, plain and slow."""
import itertools
import math
from typing import Any

import numpy as np
from reference_codecs import need


def weights_of(weight: Any, degree: int, columns: dict[str, Any], items: Any) -> Any:
    """Return what each prototype of an item weighs in its rows [n, P], by where they look."""
    if not degree:
        return np.ones((len(items), 1), np.float32)
    n = math.comb(degree + 3, 3)
    need((weight.dtype, weight.shape) == ("<f4", (n, n)), "functions of viewpoints")
    if not len(items):
        return np.zeros((0, n), np.float32)
    if "crop_xywh_fraction" in columns:
        crops = columns["crop_xywh_fraction"].astype(np.float64)
    else:
        crops = columns["crop_xywh"] / np.maximum(columns["source_hw"][items][:, [1, 0, 1, 0]], 1)
    with np.errstate(invalid="ignore", over="ignore"):
        left, top, width, height = crops.T
        size = 2 * np.sqrt(np.maximum(width, 0) * np.maximum(height, 0)) - 1
        looks = np.nan_to_num([size, 2 * left + width - 1, 2 * top + height - 1]).clip(-1, 1)
    products = [np.prod([np.ones(len(items)), *(looks[one] for one in which)], axis=0)
                for order in range(degree + 1)
                for which in itertools.combinations_with_replacement(range(3), order)]
    return (np.stack(products, axis=1) @ weight.T.astype(np.float64)).astype(np.float32)

def context_of(prototypes: Any, weights: Any, cells: Any, columns: dict[str, Any], sides: Any) -> Any:
    """Return the context [n, classes] of rows by the prototypes of the first items [items, P, classes]."""
    none = np.zeros((1, *prototypes.shape[1:]), np.float32)
    rows = np.vstack([prototypes, none])  # the last is that of items without
    def said(items: Any, of_rows: Any) -> Any:
        return np.einsum("np,npc->nc", of_rows, rows[np.clip(items, 0, len(prototypes))])
    own = said(cells[:, 0], weights)
    if "mix_item" not in columns:
        return own
    share: Any = np.zeros(len(cells))
    if "mix_share" in columns:
        share = columns["mix_share"] / 256
    elif "mix_lam" in columns:
        share = 1 - columns["mix_lam"].astype(np.float64)
    if "mix_box_xyxy" in columns:
        left, top, right, bottom = columns["mix_box_xyxy"].astype(np.float64).T
        area = np.maximum(right - left, 0) * np.maximum(bottom - top, 0) / math.prod(sides)
        share = np.where(right >= 0, area, share)
    share = np.nan_to_num(share).clip(0, 1).astype(np.float32)[:, None]
    mixed, of_partners = columns["mix_item"] >= 0, weights
    if weights.shape[1] > 1:  # the row of the partner in the same view, which says where that looks
        at = {(item, view): row for row, (item, view) in enumerate(cells.tolist())}
        items = np.where(mixed, columns["mix_item"], cells[:, 0])
        of_partners = weights[[at[pair] for pair in zip(items.tolist(), cells[:, 1].tolist(), strict=True)]]
    return np.where(mixed[:, None], own + share * (said(columns["mix_item"], of_partners) - own), own)

def correct(rows: Any, tiles: Any, parts: Any, order: Any, step: Any, gives: Any) -> Any:
    """Return decoded rows with the corrections in the tiles of these parts."""
    c, moves = gives["classes"], [np.zeros(0)]
    for key in parts:
        moves.append(np.zeros(key[4] * c))
        entries = tiles.pop((*key[:4], key[5]), None)
        if entries:
            at = np.cumsum(entries["gap"]) - 1
            need(entries["gap"].min() > 0 and at[-1] < key[4] * c and entries["value"].all(), "a correction")
            moves[-1][at] = entries["value"]
    need(not tiles, "corrections of no part")
    shift = (np.concatenate(moves).reshape(-1, c)[order] * float(step)).astype(np.float32)
    hit, space = shift.any(axis=1), gives["space"]
    with np.errstate(divide="ignore"):
        moved = np.log(rows[hit]) if space == "probs" else rows[hit]
    moved = moved + shift[hit] / float(gives["temperature"])
    if space != "logits":
        moved -= np.logaddexp.reduce(moved, axis=1, keepdims=True, dtype=np.float64)
    rows[hit] = np.exp(moved) if space == "probs" else moved
    return rows

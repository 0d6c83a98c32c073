"""Which other item shows in a row, and how much of it: what prototypes are mixed by. No torch.

Shapes in names: B rows, P prototypes of an item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from softpack.container.viewpoint import ViewBasis, ViewpointTable, viewpoints_of_block
from softpack.errors import DataError
from softpack.records import RowBlock

SHARE_LEVELS = 256  # of `mix_share`, which stands where the replay columns do not


@dataclass(frozen=True)
class Mixing:
    """The mix partners of rows.

    Args:
        partner_B: int64, the item; -1 for none.
        share_B: float32, the partner's share of the row, 0 to 1; 0 where there is none.
        own_BP: float32, what each prototype of the row's item weighs; None where an item has one, which weighs 1.
        partner_BP: the same of the partner's; anything where there is none.
    """

    partner_B: np.ndarray
    share_B: np.ndarray
    own_BP: np.ndarray | None = None
    partner_BP: np.ndarray | None = None

    def rows(self, which: slice) -> Mixing:
        """Return the mixing of some of the rows."""
        if self.own_BP is None or self.partner_BP is None:
            return Mixing(self.partner_B[which], self.share_B[which])
        return Mixing(self.partner_B[which], self.share_B[which], self.own_BP[which], self.partner_BP[which])

    @classmethod
    def none(cls, n_rows: int) -> Mixing:
        """Return that no row is mixed."""
        return cls(np.full(n_rows, -1, np.int64), np.zeros(n_rows, np.float32))


def mixing_of(columns: Mapping[str, np.ndarray], size_wh: tuple[int, int], n_rows: int) -> Mixing:
    """Return who is mixed into rows, from their columns.

    The share is `mix_share` / 256 where that column is; else the box's area over that of the image; else, where
    there is no box, 1 - `mix_lam`. It is computed in binary64, rounded to binary32 and clipped to 0 to 1, so it
    is the same everywhere.

    Args:
        columns: [B, ...] each; `mix_item` and one that says the share, or the rows are not mixed.
        size_wh: width and height of the pictures that boxes lie in.
        n_rows: B.
    """
    if "mix_item" not in columns:
        return Mixing.none(n_rows)
    partner_B = columns["mix_item"].astype(np.int64)
    share_B = np.zeros(n_rows)
    if "mix_share" in columns:
        share_B = columns["mix_share"] / SHARE_LEVELS
    else:
        if "mix_lam" in columns:
            with np.errstate(invalid="ignore"):  # of a nan that signals
                share_B = 1 - columns["mix_lam"].astype(np.float64)
        if "mix_box_xyxy" in columns:
            x0, y0, x1, y1 = columns["mix_box_xyxy"].astype(np.float64).T
            area_B = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0) / (size_wh[0] * size_wh[1])
            share_B = np.where(x1 >= 0, area_B, share_B)
    is_mixed_B = partner_B >= 0
    share_B = np.where(is_mixed_B, np.clip(np.nan_to_num(share_B), 0, 1), 0).astype(np.float32)
    return Mixing(np.where(is_mixed_B, partner_B, -1), share_B)


def seen(
    mixing: Mixing,
    basis: ViewBasis,
    viewpoints: ViewpointTable,
    block: RowBlock,
    source_hw_N2: np.ndarray | None,
    where: str,
) -> Mixing:
    """Return mixing with what prototypes weigh in rows, by where they and the partners' rows look.

    Args:
        mixing: of the rows.
        basis: the functions.
        viewpoints: of rows so far; those of the block are added.
        block: the rows.
        source_hw_N2: height and width of the items' pictures, for crops in pixels.
        where: for messages.

    Raises:
        DataError: a partner's row has not come yet.
    """
    own_B3 = viewpoints_of_block(block, source_hw_N2)
    new_B = ~viewpoints.find(block.item_B, block.view_B)[0]
    viewpoints.add(block.item_B[new_B], block.view_B[new_B], own_B3[new_B])
    is_there_B, partner_B3 = viewpoints.find(mixing.partner_B, block.view_B)
    lost_B = (mixing.partner_B >= 0) & ~is_there_B
    if lost_B.any():
        row = int(lost_B.argmax())
        raise DataError(
            f"{where}: item {block.item_B[row]}, view {block.view_B[row]} is mixed with item {mixing.partner_B[row]}, "
            "whose view of that number has not come yet; where prototypes are weighted by crops, add a row after its "
            "partner's, or together with it"
        )
    return weighted(mixing, basis, own_B3, partner_B3)


def weighted(mixing: Mixing, basis: ViewBasis, own_B3: np.ndarray, partner_B3: np.ndarray) -> Mixing:
    """Return mixing with what prototypes weigh in rows, by the viewpoints of these and of their partners' rows."""
    return replace(mixing, own_BP=basis(own_B3), partner_BP=basis(partner_B3))


def mix_columns(mixing: Mixing) -> dict[str, np.ndarray]:
    """Return the columns that keep the mixing where the replay columns do not, [B] each."""
    levels_B = np.clip(np.rint(mixing.share_B * SHARE_LEVELS), 0, SHARE_LEVELS - 1).astype(np.uint8)
    return {"mix_item": mixing.partner_B.astype(np.int32), "mix_share": levels_B}


def box_size(boxes_B4: np.ndarray, size_wh: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """Return the least width and height of a picture that `size_wh` and these boxes fit into."""
    if not len(boxes_B4):
        return size_wh
    return max(size_wh[0], int(boxes_B4[:, 2].max())), max(size_wh[1], int(boxes_B4[:, 3].max()))

"""Where views look at their pictures, and the functions of it that an item's prototypes are weighted by. No torch.

A view's viewpoint is the size and the place of its crop. Views of one picture that look at about the same give about
the same labels, so an item has a prototype for each of some functions of the viewpoint: the first is constant, and its
prototype about the mean of the item's rows; the others say how rows change as the crop grows and moves.

Shapes in names: B rows, F functions, P prototypes of an item (as many as functions).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb

import numpy as np

from softpack.errors import CorruptError, DataError
from softpack.recipe import Recipe
from softpack.records import RowBlock

COORDINATES = 3  # size, x, y
FLAT = 1e-4  # of a function's mean square, apart from the others, below which rows do not tell it from them


def n_functions(degree: int) -> int:
    """Return how many functions there are up to a degree: 1, 4, 10, 20."""
    return comb(degree + COORDINATES, COORDINATES)


def has_viewpoints(columns: Collection[str], item_columns: Collection[str]) -> bool:
    """Return whether the replay columns say where views look."""
    return "crop_xywh_fraction" in columns or ("crop_xywh" in columns and "source_hw" in item_columns)


def viewpoints_of(columns: Mapping[str, np.ndarray], source_hw_B2: np.ndarray | None) -> np.ndarray:
    """Return the viewpoints of rows, float64 [B, 3]: size, x and y, each from -1 to 1.

    The size is the root of the crop's share of the picture's area, x and y are its middle: 0 is half of the picture,
    and the picture's middle.

    Args:
        columns: replay columns [B, ...], of which one says the crop.
        source_hw_B2: height and width of each row's picture, for crops in pixels.
    """
    if "crop_xywh_fraction" in columns:
        left_B, top_B, width_B, height_B = columns["crop_xywh_fraction"].astype(np.float64).T
    else:
        if source_hw_B2 is None:
            raise DataError("crops are in pixels, and source_hw does not say of how many; expected both")
        height_width_2B = source_hw_B2.astype(np.float64).T
        sides_4B = height_width_2B[[1, 0, 1, 0]]
        left_B, top_B, width_B, height_B = columns["crop_xywh"].astype(np.float64).T / np.maximum(sides_4B, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        size_B = 2 * np.sqrt(np.maximum(width_B, 0) * np.maximum(height_B, 0)) - 1
        found_B3 = np.stack([size_B, 2 * left_B + width_B - 1, 2 * top_B + height_B - 1], 1)
    clipped_B3: np.ndarray = np.clip(np.nan_to_num(found_B3, posinf=1, neginf=-1), -1, 1)
    return clipped_B3


def viewpoints_of_block(block: RowBlock, source_hw_N2: np.ndarray | None) -> np.ndarray:
    """Return the viewpoints of rows, float64 [B, 3], by the sizes of all items' pictures where these are known."""
    return viewpoints_of(block.replay, None if source_hw_N2 is None else source_hw_N2[block.item_B])


def functions(viewpoint_B3: np.ndarray, degree: int) -> np.ndarray:
    """Return the products of up to `degree` coordinates, float64 [B, F]: 1; s, x, y; ss, sx, sy, xx, xy, yy; ..."""
    ones_B = np.ones(len(viewpoint_B3))
    found = []
    for order in range(degree + 1):
        for which in combinations_with_replacement(range(COORDINATES), order):
            found.append(np.prod([ones_B, *(viewpoint_B3[:, one] for one in which)], axis=0))
    return np.stack(found, 1)


@dataclass(frozen=True, eq=False)
class ViewBasis:
    """The functions that prototypes are weighted by: sums of products, such that rows tell them apart.

    Args:
        degree: of the products, 1 to 3.
        weight_PF: float32, lower triangular; a row of zeros is a function that the rows do not tell from the others.
    """

    degree: int
    weight_PF: np.ndarray

    @classmethod
    def fitted(cls, viewpoint_B3: np.ndarray, degree: int) -> ViewBasis:
        """Return functions that are orthonormal over these rows, by Gram and Schmidt; the first is 1."""
        moment_FF = _moment(viewpoint_B3, degree)
        weight_PF = np.zeros_like(moment_FF)
        for row, own in enumerate(np.eye(len(moment_FF))):
            left_F = own - weight_PF.T @ (weight_PF @ moment_FF @ own)
            square = left_F @ moment_FF @ left_F
            if square > FLAT * moment_FF[row, row]:
                weight_PF[row] = left_F / np.sqrt(square)
        return cls(degree, weight_PF.astype(np.float32))

    @classmethod
    def stored(cls, degree: int, weight_PF: np.ndarray, where: str) -> ViewBasis:
        """Return functions that a file says.

        Raises:
            CorruptError: they are not finite float32 of the shape that the degree says.
        """
        n = n_functions(degree)
        if weight_PF.dtype != np.float32 or weight_PF.shape != (n, n) or not np.isfinite(weight_PF).all():
            raise CorruptError(
                f"{where}: the functions of viewpoints are {weight_PF.dtype} {[*weight_PF.shape]}; expected finite "
                f"float32 {[n, n]} for degree {degree}"
            )
        return cls(degree, weight_PF)

    @property
    def orders(self) -> np.ndarray:
        """The degree of each function, int64 [P]."""
        counts = np.diff([0, *(n_functions(order) for order in range(self.degree + 1))])
        return np.repeat(np.arange(self.degree + 1), counts)

    def __len__(self) -> int:
        return len(self.weight_PF)

    def __call__(self, viewpoint_B3: np.ndarray) -> np.ndarray:
        """Return what each prototype of an item weighs in rows, float32 [B, P]."""
        weights_BP: np.ndarray = functions(viewpoint_B3, self.degree) @ self.weight_PF.T.astype(np.float64)
        return weights_BP.astype(np.float32)


def _moment(viewpoint_B3: np.ndarray, degree: int) -> np.ndarray:
    """Return the mean products of functions, float64 [F, F]; blocks of rows at a time."""
    n = n_functions(degree)
    moment_FF = np.zeros((n, n))
    for start in range(0, len(viewpoint_B3), 1 << 16):
        found_BF = functions(viewpoint_B3[start : start + (1 << 16)].astype(np.float64), degree)
        moment_FF += found_BF.T @ found_BF
    return moment_FF / max(len(viewpoint_B3), 1)


class ViewpointTable:
    """The viewpoints of rows, found by item and view: those of mix partners count too.

    Rows that come block by block lie in sorted runs, each at least twice as long as the next, so that few are looked
    through and each row is sorted again only a few times.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self._runs)

    def add(self, item_B: np.ndarray, view_B: np.ndarray, viewpoint_B3: np.ndarray) -> None:
        """Take the viewpoints of rows, each (item, view) once."""
        if not len(item_B):
            return
        self._runs.append(_sorted([(_keys(item_B, view_B), viewpoint_B3.astype(np.float32))]))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            self._runs[-2:] = [_sorted(self._runs[-2:])]

    def all(self) -> np.ndarray:
        """Return all of them, float32 [R, 3], by item and then view."""
        if not self._runs:
            return np.zeros((0, COORDINATES), np.float32)
        self._runs = [_sorted(self._runs)]
        return self._runs[0][1]

    def find(self, item_B: np.ndarray, view_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return whether each row is there, bool [B], and viewpoints, float32 [B, 3], 0 where it is not."""
        is_there_B, found_B3 = np.zeros(len(item_B), bool), np.zeros((len(item_B), COORDINATES), np.float32)
        keys_B = _keys(item_B, view_B)
        for keys_R, viewpoint_R3 in self._runs:
            at_B = np.minimum(np.searchsorted(keys_R, keys_B), len(keys_R) - 1)
            here_B = keys_R[at_B] == keys_B
            is_there_B |= here_B
            found_B3[here_B] = viewpoint_R3[at_B[here_B]]
        return is_there_B, found_B3


class DrawnViewpoints(ViewpointTable):
    """The viewpoints of all rows that a recipe draws: each is known before it comes.

    Args:
        recipe: of the views, with crops.
        source_hw_N2: height and width of the pictures.
    """

    def __init__(self, recipe: Recipe, source_hw_N2: np.ndarray) -> None:
        super().__init__()
        self._recipe, self._source_hw_N2 = recipe, source_hw_N2

    def add(self, item_B: np.ndarray, view_B: np.ndarray, viewpoint_B3: np.ndarray) -> None:
        """Do nothing."""

    def find(self, item_B: np.ndarray, view_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return that each item that there is has its row, bool [B], and viewpoints, float32 [B, 3]."""
        is_there_B = (item_B >= 0) & (item_B < len(self._source_hw_N2))
        found_B3 = np.zeros((len(item_B), COORDINATES), np.float32)
        sizes_hw = self._source_hw_N2[item_B[is_there_B]]
        columns = self._recipe.crops(item_B[is_there_B], view_B[is_there_B], sizes_hw)
        found_B3[is_there_B] = viewpoints_of({"crop_xywh": columns}, sizes_hw)
        return is_there_B, found_B3


def _sorted(runs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.concatenate([keys for keys, _ in runs])
    order = np.argsort(keys, kind="stable")  # which merges runs
    return keys[order], np.concatenate([viewpoints for _, viewpoints in runs])[order]


def _keys(item_B: np.ndarray, view_B: np.ndarray) -> np.ndarray:
    return (item_B.astype(np.int64) << 31) + view_B.astype(np.int64)

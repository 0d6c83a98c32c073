"""The least bits at which rows of a Gaussian source can be told within a squared error.

Shapes in names: R rows, C classes, K components, N items, P prototypes of an item, E points of a curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_SIDE = (
    4096  # of the matrix whose eigenvalues are the variances; of more classes and rows, so many rows are taken
)
LEVELS = 2000
DEEPEST = 1e-9  # water level, relative to the largest variance


@dataclass(frozen=True)
class Spectrum:
    """The variances of the independent components that rows are made of.

    Args:
        variances_K: of the components.
        times_K: how many of each a row has; those that the rows of an item share count for a part.
        classes: C.
    """

    variances_K: np.ndarray
    times_K: np.ndarray
    classes: int

    @classmethod
    def of_rows(cls, rows_RC: np.ndarray) -> Spectrum:
        """Return that of rows by themselves: float32 [R, C]."""
        variances_K = principal_variances(rows_RC)
        return cls(variances_K, np.ones(len(variances_K)), rows_RC.shape[1])

    @classmethod
    def of_items(cls, left_RC: np.ndarray, prototypes_NPC: np.ndarray, views: float, told: float) -> Spectrum:
        """Return that of an item's rows together.

        They are what P prototypes say, weighted by functions that are orthonormal over the item's views, and what is
        left, which has as many dimensions fewer. Where rows are mixed of two items it is an estimate: the functions
        of two items are taken to be orthogonal too.

        Args:
            left_RC: rows less what the prototypes say of them.
            prototypes_NPC: as they were learned.
            views: rows of an item.
            told: the sum over the rows that an item shows in of its squared share; `views` where none is mixed.
        """
        n = min(prototypes_NPC.shape[1], views)
        left_K = principal_variances(left_RC) * views / max(views - n, 1.0)
        variances = [left_K] + [
            principal_variances(prototypes_NPC[:, p]) * told for p in range(prototypes_NPC.shape[1])
        ]
        times = [1 - n / views] + [1 / views] * prototypes_NPC.shape[1]
        return cls(
            np.concatenate(variances),
            np.concatenate([np.full(len(of), share) for of, share in zip(variances, times, strict=True)]),
            left_RC.shape[1],
        )


def gaussian_bound(spectrum: Spectrum, errors_E: np.ndarray) -> np.ndarray:
    """Return the bits a row that a Gaussian source needs at each mean squared error a class.

    Reverse water-filling (Cover and Thomas, Elements of Information Theory, 10.3.3): each component is told to within
    the same error, those of less variance not at all. Rows of real teachers are not Gaussian, and a code of them may
    need fewer. The axes are free, which flatters the bound where there are fewer items than classes.

    Args:
        spectrum: of the source.
        errors_E: mean squared errors a class, above 0.

    Returns:
        float64 [E]: bits a row; 0 where the error is at least the variance.
    """
    variances_K, times_K = np.maximum(spectrum.variances_K.astype(np.float64), 0), spectrum.times_K
    top = max(variances_K.max(initial=0), 1e-12)
    levels_L = np.geomspace(top, top * DEEPEST, LEVELS)
    errors_L, bits_L = np.empty(LEVELS), np.empty(LEVELS)
    for n, level in enumerate(levels_L):
        errors_L[n] = times_K @ np.minimum(variances_K, level) / spectrum.classes
        bits_L[n] = 0.5 * times_K @ np.log2(np.maximum(variances_K / level, 1.0))
    bits_E: np.ndarray = np.interp(-np.asarray(errors_E, np.float64), -errors_L, bits_L, left=0.0)
    return bits_E


def principal_variances(rows_RC: np.ndarray) -> np.ndarray:
    """Return the variances of the principal components of rows, falling: float64, of as many as there may be."""
    n_rows, n_classes = rows_RC.shape
    if min(n_rows, n_classes) > MOST_SIDE:
        n_rows, rows_RC = MOST_SIDE, rows_RC[:MOST_SIDE]
    centred_RC = rows_RC - rows_RC.mean(0)
    scatter = centred_RC @ centred_RC.T if n_rows < n_classes else centred_RC.T @ centred_RC
    variances: np.ndarray = np.linalg.eigvalsh(scatter.astype(np.float64) / max(n_rows, 1))[::-1]
    return variances.clip(min=0)

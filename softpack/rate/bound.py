"""The least bits at which rows of a Gaussian source can be told within a squared error.

Shapes in names: C classes, R points of a curve.
"""

from __future__ import annotations

import numpy as np


def gaussian_bound(variances_C: np.ndarray, errors_R: np.ndarray) -> np.ndarray:
    """Return the bits a row that a Gaussian source needs at each mean squared error a class.

    Reverse water-filling (Cover and Thomas, Elements of Information Theory, 10.3.3): each principal component is
    told to within the same error, those of less variance not at all. Rows of real teachers are not Gaussian, and
    a code of them may need fewer.

    Args:
        variances_C: of the principal components, all of them.
        errors_R: mean squared errors a class, above 0.

    Returns:
        float64 [R]: bits a row; 0 where the error is at least the variance.
    """
    variances_C = np.maximum(np.sort(variances_C)[::-1].astype(np.float64), 0)
    levels_L = np.geomspace(max(variances_C[0], 1e-12), max(variances_C[0], 1e-12) * 1e-9, 2000)
    error_L = np.minimum(variances_C, levels_L[:, None]).sum(1) / len(variances_C)
    with np.errstate(divide="ignore"):
        gains_LC = np.log2(np.maximum(variances_C / levels_L[:, None], 1.0))
    bits_L = 0.5 * gains_LC.sum(1)
    bits_R: np.ndarray = np.interp(-np.asarray(errors_R, np.float64), -error_L, bits_L, left=0.0)
    return bits_R


def principal_variances(rows_RC: np.ndarray) -> np.ndarray:
    """Return the variances of the principal components of rows, falling: float64 [C]."""
    centred_RC = rows_RC - rows_RC.mean(0)
    scatter_CC = (centred_RC.T @ centred_RC).astype(np.float64) / max(len(rows_RC), 1)
    variances: np.ndarray = np.linalg.eigvalsh(scatter_CC)[::-1]
    return variances.clip(min=0)

"""Scores of the foreground alone that overlaps do not decide: the area under the ROC curve, and how far apart the
boundaries lie.

References
----------
.. [1] The area under the ROC curve by ranks: Hanley, McNeil 1982, doi:10.1148/radiology.143.1.7063747.
.. [2] Average Hausdorff distance: Aydin et al. 2021, doi:10.1186/s41747-020-00200-2.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from wsiseg.core.nuclei import IntArray


def auc(truth: npt.NDArray[np.generic], probability: npt.NDArray[np.generic]) -> float | None:
    """Area under the ROC curve: the chance that a foreground pixel gets a higher value than a background pixel.

    Ties count half, as averaged ranks do [1]_; without that, a map of few distinct values (8 bits, a saturated
    sigmoid) would be scored by the order of its pixels.

    Parameters
    ----------
    truth : bool or label array (h, w)
        Foreground where it is not 0.
    probability : float or integer array (h, w)
        Any increasing function of the foreground probability.

    Returns
    -------
    float or None
        None where the truth has no foreground or no background: the curve is not defined.

    Raises
    ------
    ValueError
        Shapes differ, or the map has values that are not numbers.
    """
    if truth.shape != probability.shape:
        raise ValueError(f"a probability map of shape {probability.shape} for a truth of shape {truth.shape}")
    if np.isnan(probability).any():
        raise ValueError("the probability map has values that are not numbers")
    positive = truth.ravel() != 0
    values = probability.ravel()
    inside, outside = np.sort(values[positive]), np.sort(values[~positive])
    if len(inside) == 0 or len(outside) == 0:
        return None
    below = np.searchsorted(outside, inside, side="left").sum(dtype=np.int64)
    not_above = np.searchsorted(outside, inside, side="right").sum(dtype=np.int64)
    return float((int(below) + int(not_above)) / (2 * len(inside) * len(outside)))


def average_hausdorff(truth: npt.NDArray[np.generic], pred: npt.NDArray[np.generic]) -> float:
    """Mean of the two directed mean distances from one foreground's boundary to the other's nearest point [2]_.

    A boundary pixel is a foreground pixel with a background pixel, or the image's edge, beside it (4 neighbours).
    Instances do not matter: where two nuclei touch there is no boundary.

    Parameters
    ----------
    truth, pred : bool or label array (h, w)
        Foreground where not 0.

    Returns
    -------
    float
        In pixels. 0 where both are empty; the image's diagonal, the largest distance there is, where only one is,
        so that predicting nothing is never the better answer.

    Raises
    ------
    ValueError
        Shapes differ.
    """
    if truth.shape != pred.shape:
        raise ValueError(f"images of shapes {truth.shape} and {pred.shape} cannot be compared")
    first, second = boundary(truth != 0), boundary(pred != 0)
    if len(first) == 0 and len(second) == 0:
        return 0.0
    if len(first) == 0 or len(second) == 0:
        return math.hypot(*truth.shape)
    there = cKDTree(second).query(first)[0].mean()
    back = cKDTree(first).query(second)[0].mean()
    return float((there + back) / 2)


def boundary(mask: npt.NDArray[np.bool_]) -> IntArray:
    """Row and column of each foreground pixel beside background or the image's edge, shape (N, 2)."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return np.argwhere(mask & ~inner)

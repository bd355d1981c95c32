"""Thresholds from histograms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def otsu(counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float64]) -> float:
    """The edge of a histogram that separates it best in two: largest variance between the classes [1]_.

    Parameters
    ----------
    counts : int array (B,)
    edges : float array (B + 1,)

    References
    ----------
    .. [1] Otsu, A threshold selection method from gray-level histograms, IEEE Transactions on Systems, Man, and
       Cybernetics 9, 62-66 (1979), doi:10.1109/TSMC.1979.4310076.
    """
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    moment = np.cumsum(counts * centres)
    total, mean = float(counts.sum()), moment[-1] / max(counts.sum(), 1)
    product = below * (total - below)
    between = np.where(product > 0, (mean * below - moment[:-1]) ** 2 / np.maximum(product, 1.0), 0.0)
    return float(edges[1 + int(np.argmax(between))])

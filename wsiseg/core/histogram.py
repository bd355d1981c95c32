"""Thresholds from histograms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def otsu(counts: npt.NDArray[np.int64], edges: npt.NDArray[np.floating]) -> float:
    """The edge of a histogram that separates it best in two: :func:`otsu_bin`'s upper one.

    Parameters
    ----------
    counts : int array (B,)
    edges : float array (B + 1,)
    """
    return float(edges[1 + otsu_bin(counts, (edges[:-1] + edges[1:]) / 2)])


def otsu_bin(counts: npt.NDArray[np.int64], centres: npt.NDArray[np.number]) -> int:
    """The last bin of the lower class where a histogram is divided best in two.

    That is where the variance between the classes is largest [1]_, the first of equals; 0 where all is empty.

    Parameters
    ----------
    counts : int array (B,)
    centres : array (B,)
        Values of the bins, ascending.

    References
    ----------
    .. [1] Otsu, A threshold selection method from gray-level histograms, IEEE Transactions on Systems, Man, and
       Cybernetics 9, 62-66 (1979), doi:10.1109/TSMC.1979.4310076.
    """
    total = int(counts.sum())
    below = np.cumsum(counts)[:-1].astype(np.float64)
    moment = np.cumsum(counts * centres).astype(np.float64)
    product = below * (total - below)
    difference = moment[-1] * below - total * moment[:-1]
    return int(np.argmax(np.where(product > 0, difference**2 / np.maximum(product, 1.0), 0.0)))

"""A layout as a network sees it: the distance maps of HoVer-Net beside the nuclei [1]_.

References
----------
.. [1] Graham et al. 2019, doi:10.1016/j.media.2019.101563.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]


def layout_maps(labels: Labels) -> npt.NDArray[np.float32]:
    """Distances and nuclei of an instance image.

    Parameters
    ----------
    labels : int32 array (h, w)
        0 background, 1 … n.

    Returns
    -------
    float32 array (3, h, w)
        Horizontal and vertical distance, from -1 at a nucleus' first pixel over 0 at its centroid to 1 at its last,
        0 in the background; then 1 in nuclei.
    """
    i, j = np.nonzero(labels)
    which = labels[i, j]
    maps = np.zeros((3, *labels.shape), dtype=np.float32)
    if which.size:
        maps[0, i, j] = _across(j, which)
        maps[1, i, j] = _across(i, which)
        maps[2, i, j] = 1.0
    return maps


def _across(position: npt.NDArray[np.intp], which: Labels) -> npt.NDArray[np.float64]:
    count = np.bincount(which)
    centre = np.bincount(which, weights=position) / np.maximum(count, 1)
    offset = position - centre[which]
    low, high = np.zeros(len(count)), np.zeros(len(count))
    np.minimum.at(low, which, offset)
    np.maximum.at(high, which, offset)
    length = np.where(offset < 0, -low[which], high[which])
    return offset / np.maximum(length, 1e-6)

"""Joyce & Bunyak's decoder: Otsu's threshold of an image's foreground map, and its connected components.

Otsu's threshold [1]_ divides any histogram in two, also that of a tile without a nucleus: then it cuts through
noise and invents foreground. Therefore it is kept within bounds that no network's noise should reach: on an image
with nuclei the map has two modes and the bounds do not matter.

The threshold is a statistic of the whole map. For a slide that is read tile by tile give one for all tiles, else a
nucleus on a seam is cut at two heights.

References
----------
.. [1] Otsu, A threshold selection method from gray-level histograms, IEEE Transactions on Systems, Man, and
   Cybernetics 9, 62-66 (1979), doi:10.1109/TSMC.1979.4310076.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.histogram import otsu_bin
from wsiseg.core.nuclei import Nuclei
from wsiseg.models.decoders.labels import fill_enclosed, label, means, nuclei_of_labels
from wsiseg.models.decoders.maps import Map

_LEVELS = 256
_VALUES = np.arange(_LEVELS)


@dataclass(frozen=True)
class OtsuDecoder:
    """Parameters of the threshold and of what is rejected.

    Attributes
    ----------
    mpp : float
        Microns per pixel of the map.
    lowest, highest : float
        Bounds of the threshold, as foreground probabilities.
    min_area_um2, max_diameter_um : float
        Smaller and larger objects (by the longer side of their bounds) are rejected.
    """

    mpp: float = 0.25
    lowest: float = 0.25
    highest: float = 0.75
    min_area_um2: float = 2.0
    max_diameter_um: float = 32.0

    @property
    def margin_px(self) -> int:
        """What must be known around an object, given a threshold: its own extent and a pixel."""
        return math.ceil(self.max_diameter_um / self.mpp) + 1

    def threshold(self, foregrounds: Iterable[Map]) -> float:
        """Otsu's threshold of all pixels of some float32 maps of probabilities, within the bounds.

        Values are counted in 256 levels, as the authors' 8-bit images have; a pixel is foreground if it is above.
        """
        counts = np.zeros(_LEVELS, dtype=np.int64)
        for foreground in foregrounds:
            levels = (np.clip(foreground, 0.0, 1.0) * np.float32(_LEVELS - 1)).astype(np.uint8)
            counts += np.bincount(levels.ravel(), minlength=_LEVELS)
        return float(np.clip((otsu_bin(counts, _VALUES) + 1) / (_LEVELS - 1), self.lowest, self.highest))

    def mask(self, foreground: Map, threshold: float | None = None) -> npt.NDArray[np.bool_]:
        """Foreground pixels of a map (h, w) by ``threshold``, or by its own."""
        if threshold is None:
            threshold = self.threshold([foreground])
        return np.asarray(foreground >= np.float32(threshold))

    def decode(self, foreground: Map, threshold: float | None = None) -> Nuclei:
        """The 4-connected components, holes filled, in pixels of the map; float32 column ``score``: their mean."""
        labels = label(fill_enclosed(self.mask(foreground, threshold)))
        score = means(labels, foreground)
        return nuclei_of_labels(
            labels, {"score": score}, self.min_area_um2 / self.mpp**2, self.max_diameter_um / self.mpp
        )

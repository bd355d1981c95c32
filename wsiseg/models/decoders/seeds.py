"""Hou et al.'s decoder: a detection map gives seeds, a compact watershed of the segmentation map the nuclei.

As in the authors' public code [1]_: seeds are the midpoints of the bounds of the smoothed detection's components;
a part of the segmentation without any seed gets one where it is strongest; each seed is enlarged to 3 × 3 pixels,
and those that touch are one. The authors work with 8-bit maps; here the compactness is in their unit, 1/255 of
probability a pixel.

References
----------
.. [1] Hou et al., Dataset of segmented nuclei in hematoxylin and eosin stained histopathology images of ten cancer
   types, Scientific Data 7, 185 (2020), doi:10.1038/s41597-020-0528-1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.nuclei import IntArray, Nuclei
from wsiseg.core.raster import Labels
from wsiseg.models.decoders.flood import watershed
from wsiseg.models.decoders.labels import Mask, label, means, nuclei_of_labels
from wsiseg.models.decoders.maps import Map, kernel_radius, smooth


@dataclass(frozen=True)
class SeedDecoder:
    """Parameters of :func:`decode_seeds`; ``_px`` are pixels of the maps.

    Attributes
    ----------
    mpp : float
        Microns per pixel of the maps.
    detection_threshold, segmentation_threshold : float
        Of the smoothed maps; above is foreground.
    detection_sigma_px, segmentation_sigma_px : float
        Gaussians over the maps.
    compactness : float
        In 1/255 of probability for each pixel of distance from the seed.
    max_recall_px : int
        A part of the segmentation without a seed gets one if it has fewer pixels.
    min_area_px : float
        Smaller nuclei, holes filled, are rejected.
    max_diameter_um : float
        Longer nuclei (by the longer side of their bounds) are rejected.
    """

    mpp: float = 0.25
    detection_threshold: float = 0.07
    segmentation_threshold: float = 0.33
    detection_sigma_px: float = 1.0
    segmentation_sigma_px: float = 0.5
    compactness: float = 1.0
    max_recall_px: int = 65536
    min_area_px: float = 20.0
    max_diameter_um: float = 32.0

    @property
    def margin_px(self) -> int:
        """What must be known around an object: a neighbour that competes for its pixels, with its seed.

        For practical purposes: a chain of touching objects can carry a difference farther.
        """
        smoothing = kernel_radius(max(self.detection_sigma_px, self.segmentation_sigma_px))
        return math.ceil(2 * self.max_diameter_um / self.mpp) + smoothing + 2

    def decode(self, detection: Map, segmentation: Map) -> Nuclei:
        """Nuclei of probabilities (h, w) in their pixels, float32 column ``score``: mean segmentation."""
        labels = decode_seeds(detection, segmentation, self)
        score = means(labels, segmentation)
        return nuclei_of_labels(labels, {"score": score}, self.min_area_px, self.max_diameter_um / self.mpp)


def decode_seeds(detection: Map, segmentation: Map, params: SeedDecoder) -> Labels:
    """Divide the segmentation between the seeds of the detection.

    Parameters
    ----------
    detection, segmentation : float32 array (h, w)
        Probabilities of a nucleus' centre and of a nucleus.
    params : SeedDecoder

    Returns
    -------
    int32 array (h, w)
        Labels in raster order of their seeds, 0 is background. Nothing is rejected here.
    """
    if detection.shape != segmentation.shape or detection.ndim != 2:
        raise ValueError(f"detection of shape {detection.shape}, segmentation of shape {segmentation.shape}")
    centres = label(smooth(detection, params.detection_sigma_px) > np.float32(params.detection_threshold))
    potential = smooth(segmentation, params.segmentation_sigma_px)
    mask = potential > np.float32(params.segmentation_threshold)
    seeds = np.zeros(mask.shape, dtype=bool)
    rows, columns = _midpoints(centres, int(centres.max(initial=0)))
    seeds[rows, columns] = True
    rows, columns = _unseeded(label(mask), seeds, potential, params.max_recall_px)
    seeds[rows, columns] = True
    return watershed(-255.0 * potential, label(_enlarge(seeds)), mask, params.compactness)


@compiled
def _midpoints(labels: Labels, count: int) -> tuple[IntArray, IntArray]:
    """Midpoint of each label's bounds, rounded down."""
    height, width = labels.shape
    low = np.full((count + 1, 2), max(height, width), dtype=np.int64)
    high = np.full((count + 1, 2), -1, dtype=np.int64)
    for i in range(height):
        for j in range(width):
            n = labels[i, j]
            low[n, 0], low[n, 1] = min(low[n, 0], i), min(low[n, 1], j)
            high[n, 0], high[n, 1] = max(high[n, 0], i), max(high[n, 1], j)
    middle = (low[1:] + high[1:]) // 2
    return middle[:, 0].copy(), middle[:, 1].copy()


@compiled
def _strongest(labels: Labels, seeds: Mask, image: Map, count: int) -> tuple[IntArray, IntArray, IntArray]:
    """Of each label: its first highest pixel, its pixels, and its seeds."""
    height, width = labels.shape
    best = np.full(count + 1, -1, dtype=np.int64)
    size = np.zeros(count + 1, dtype=np.int64)
    seeded = np.zeros(count + 1, dtype=np.int64)
    for i in range(height):
        for j in range(width):
            n = labels[i, j]
            if n == 0:
                continue
            size[n] += 1
            seeded[n] += seeds[i, j]
            if best[n] < 0 or image[i, j] > image[best[n] // width, best[n] % width]:
                best[n] = i * width + j
    return best, size, seeded


def _unseeded(labels: Labels, seeds: Mask, image: Map, most_px: int) -> tuple[IntArray, IntArray]:
    best, size, seeded = _strongest(labels, seeds, image, int(labels.max(initial=0)))
    chosen = best[(best >= 0) & (seeded == 0) & (size < most_px)]
    return chosen // labels.shape[1], chosen % labels.shape[1]


def _enlarge(seeds: Mask) -> Mask:
    padded = np.pad(seeds, 1)
    across: npt.NDArray[np.bool_] = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    grown: Mask = across[:-2] | across[1:-1] | across[2:]
    return grown

"""Instances from a foreground map alone: a watershed of the distance to the background.

Sound where nuclei are convex and touch at necks [1]_; offsets (:mod:`wsiseg.models.decoders.offsets`) are better
where a network can predict them.

References
----------
.. [1] Malpica et al., Applying watershed algorithms to the segmentation of clustered nuclei, Cytometry 28,
   289-297 (1997), doi:10.1002/(SICI)1097-0320(19970801)28:4<289::AID-CYTO3>3.0.CO;2-7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.nuclei import IntArray, Nuclei
from wsiseg.core.raster import components, trace
from wsiseg.models.decoders.maps import Map, enlarge, kernel_radius, maxima, smooth

Mask = npt.NDArray[np.bool_]

_LEVELS_PER_PX = 8  # of the flooded surface


@dataclass(frozen=True)
class WatershedDecoder:
    """Parameters of :func:`decode_mask` and of what is done before and after.

    Attributes
    ----------
    mpp : float
        Microns per pixel of the foreground map.
    threshold : float
        Foreground probability from which a pixel belongs to a nucleus.
    smoothing_um : float
        Standard deviation of the Gaussian over the distance map.
    seed_radius_um : float
        Two seeds are farther apart than this.
    min_distance_um : float
        Smoothed distance to the background that a seed needs.
    max_hole_um2 : float
        Holes up to this area are filled.
    min_area_um2, max_diameter_um : float
        Smaller and larger objects (by the longer side of their bounds) are rejected.
    upsample : int
        Resolution of the mask and the outlines as a multiple of the map's.
    """

    mpp: float = 0.5
    threshold: float = 0.5
    smoothing_um: float = 0.3
    seed_radius_um: float = 2.0
    min_distance_um: float = 0.5
    max_hole_um2: float = 12.0
    min_area_um2: float = 6.0
    max_diameter_um: float = 32.0
    upsample: int = 2

    @property
    def margin_px(self) -> int:
        """What must be known around an object: a neighbour that competes for its pixels, with its seed.

        Unlike the votes' decoder this one is local for practical purposes only: a chain of touching objects can in
        principle carry a difference farther.
        """
        smoothing_px = kernel_radius(self.smoothing_um / self._pixel) * self._pixel
        return math.ceil((self.max_diameter_um + self.seed_radius_um + smoothing_px) / self.mpp) + 2

    @property
    def _pixel(self) -> float:
        return self.mpp / self.upsample

    def decode(self, foreground: Map) -> Nuclei:
        """Nuclei in pixels of ``foreground``, float32 (h, w); column ``score`` is their mean of it."""
        probability = enlarge(foreground, self.upsample)
        mask = fill_holes(probability > np.float32(self.threshold), self.max_hole_um2 / self._pixel**2)
        labels = decode_mask(mask, self)
        nuclei = trace(labels)
        score = _means(labels, probability, int(labels.max(initial=0)))[nuclei.columns["label"]]
        nuclei = Nuclei(nuclei.vertices / self.upsample, nuclei.offsets, {"score": score})
        bounds = nuclei.bounds() * self.mpp
        extent = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
        return nuclei.take((nuclei.areas() * self.mpp**2 >= self.min_area_um2) & (extent <= self.max_diameter_um))


def decode_mask(mask: Mask, params: WatershedDecoder) -> npt.NDArray[np.int32]:
    """Divide a mask at its necks.

    Parameters
    ----------
    mask : bool array (H, W)
        Its pixels measure ``params.mpp / params.upsample``.
    params : WatershedDecoder

    Returns
    -------
    int32 array (H, W)
        4-connected labels 1 … N, the seeds in raster order; parts of the mask without a seed are 0. Neither small
        nor large objects are rejected here.
    """
    mask = np.ascontiguousarray(mask)
    pixel = params.mpp / params.upsample
    distance = distance_transform(mask, params.max_diameter_um / 2 / pixel)
    surface = smooth(distance, params.smoothing_um / pixel)
    rows, columns = maxima(
        np.where(mask, surface, np.float32(0)), params.seed_radius_um / pixel, params.min_distance_um / pixel
    )
    return _flood(mask, surface, rows, columns, *_flood_order(mask, rows, columns))


def distance_transform(mask: Mask, limit_px: float) -> Map:
    """Exact Euclidean distance from each pixel of ``mask`` to the nearest pixel outside, at most ``limit_px``.

    What lies beyond the border counts as inside. The limit makes the result local. Columns first, then rows, as
    in Meijster et al. (2000), doi:10.1007/0-306-47025-X_36; the search along a row ends at the best distance.
    """
    return _distance(np.ascontiguousarray(mask), math.ceil(limit_px))


def fill_holes(mask: Mask, max_area_px: float) -> Mask:
    """``mask`` with every 4-connected part of its complement up to ``max_area_px`` pixels added."""
    rows, firsts, stops, roots = components(~mask)
    sizes = np.bincount(roots, weights=stops - firsts, minlength=len(roots))[roots]
    filled = mask.copy()
    _set(filled, rows, firsts, stops, sizes <= max_area_px)
    return filled


@compiled
def _set(mask: Mask, rows: IntArray, firsts: IntArray, stops: IntArray, chosen: Mask) -> None:
    for run in range(len(rows)):
        if chosen[run]:
            mask[rows[run], firsts[run] : stops[run]] = True


@compiled
def _distance(mask: Mask, limit: int) -> Map:
    height, width = mask.shape
    column = np.empty((height, width), dtype=np.int32)
    for j in range(width):
        column[0, j] = limit if mask[0, j] else 0
    for i in range(1, height):
        for j in range(width):
            column[i, j] = min(limit, column[i - 1, j] + 1) if mask[i, j] else 0
    for i in range(height - 2, -1, -1):
        for j in range(width):
            column[i, j] = min(column[i, j], column[i + 1, j] + 1)
    out = np.zeros((height, width), dtype=np.float32)
    for i in range(height):
        for j in range(width):
            if not mask[i, j]:
                continue
            best = column[i, j] * column[i, j]
            step = 1
            while step * step < best:
                for x in (j - step, j + step):
                    if 0 <= x < width:
                        best = min(best, step * step + column[i, x] * column[i, x])
                step += 1
            out[i, j] = np.sqrt(np.float32(best))
    return out


def _flood_order(mask: Mask, rows: IntArray, columns: IntArray) -> tuple[IntArray, IntArray]:
    """The seeds sorted by the mask's component that they are in, and where each component's seeds begin."""
    run_rows, firsts, _, roots = components(mask)
    width = mask.shape[1]
    run = np.searchsorted(run_rows * width + firsts, rows * width + columns, side="right") - 1
    order = np.argsort(roots[run], kind="stable")
    starts = np.flatnonzero(np.diff(roots[run][order], prepend=-1))
    return order, np.append(starts, len(order))


@compiled
def _flood(
    mask: Mask, surface: Map, rows: IntArray, columns: IntArray, order: IntArray, starts: IntArray
) -> npt.NDArray[np.int32]:
    """Flood the mask from the seeds, high surface first; first come, first served within a level.

    The order is that of the seeds and the neighbours (up, left, right, down), so it does not depend on the
    origin. Queues are linked lists through one array: a pixel enters exactly one queue once. Components of the
    mask do not touch; they are flooded one after the other to stay in the processor's cache.
    """
    height, width = mask.shape
    labels = np.zeros((height, width), dtype=np.int32)
    after = np.empty(height * width, dtype=np.int32)
    highest = 0
    for n in range(len(rows)):
        highest = max(highest, int(surface[rows[n], columns[n]] * _LEVELS_PER_PX))
    head = np.full(highest + 1, -1, dtype=np.int32)
    tail = np.full(highest + 1, -1, dtype=np.int32)
    for part in range(len(starts) - 1):
        top = 0
        for s in range(starts[part], starts[part + 1]):
            n = order[s]
            labels[rows[n], columns[n]] = n + 1
            level = int(surface[rows[n], columns[n]] * _LEVELS_PER_PX)
            top = max(top, level)
            _push(head, tail, after, level, rows[n] * width + columns[n])
        for level in range(top, -1, -1):
            while head[level] >= 0:
                pixel = head[level]
                head[level] = after[pixel]
                i, j = pixel // width, pixel % width
                for k in range(4):
                    y, x = i + (k == 3) - (k == 0), j + (k == 2) - (k == 1)
                    if 0 <= y < height and 0 <= x < width and mask[y, x] and labels[y, x] == 0:
                        labels[y, x] = labels[i, j]
                        lower = min(level, max(0, int(surface[y, x] * _LEVELS_PER_PX)))
                        _push(head, tail, after, lower, y * width + x)
    return labels


@compiled
def _push(
    head: npt.NDArray[np.int32], tail: npt.NDArray[np.int32], after: npt.NDArray[np.int32], level: int, pixel: int
) -> None:
    after[pixel] = -1
    if head[level] < 0:
        head[level] = pixel
    else:
        after[tail[level]] = pixel
    tail[level] = pixel


@compiled
def _means(labels: npt.NDArray[np.int32], image: Map, largest: int) -> Map:
    total = np.zeros(largest + 1, dtype=np.float64)
    count = np.zeros(largest + 1, dtype=np.int64)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            name = labels[i, j]
            if name > 0:
                total[name] += image[i, j]
                count[name] += 1
    out = np.zeros(largest + 1, dtype=np.float32)
    for name in range(largest + 1):
        if count[name] > 0:
            out[name] = total[name] / count[name]
    return out

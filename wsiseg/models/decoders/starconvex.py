"""Star-convex polygons: every pixel proposes a nucleus by its distances to the border, and the best ones stay.

Proposals are taken by falling probability; one that overlaps with a nucleus already taken is suppressed [1]_.
Overlaps are counted in pixels of a finer grid, by the rows that the polygons cover.

References
----------
.. [1] Schmidt et al., Cell detection with star-convex polygons, MICCAI 2018, doi:10.1007/978-3-030-00934-2_30.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import IntArray, Nuclei
from wsiseg.core.raster import spans
from wsiseg.models.decoders.labels import Mask
from wsiseg.models.decoders.maps import Map

_NEAREST_PX = 0.1  # a ray is at least this long, so that a polygon does not touch itself


@dataclass(frozen=True)
class StarConvexDecoder:
    """Parameters of the suppression; ``_px`` are pixels of the image.

    Attributes
    ----------
    mpp : float
        Microns per pixel of the image.
    step_px : int
        Pixels of the image for one of the maps, whose centres are the middles of such squares.
    threshold : float
        A pixel proposes a nucleus if its probability is above.
    overlap : float
        A proposal is suppressed that has more than this fraction of the smaller of the two areas in common with a
        nucleus.
    sampling : int
        Finer grid on which areas are counted, per pixel of the image.
    min_area_um2, max_diameter_um : float
        Smaller and larger nuclei (by the longer side of their bounds) are rejected, after the suppression. A
        proposal with a ray longer than 0.6 of the largest diameter is none.
    """

    mpp: float = 0.5
    step_px: int = 1
    threshold: float = 0.5
    overlap: float = 0.3
    sampling: int = 2
    min_area_um2: float = 4.0
    max_diameter_um: float = 32.0

    @property
    def reach_px(self) -> float:
        """The longest ray."""
        return 0.6 * self.max_diameter_um / self.mpp

    @property
    def margin_px(self) -> int:
        """What must be known around an object: proposals that overlap with it, and what may suppress those.

        For practical purposes: suppression can in principle go on from nucleus to nucleus.
        """
        return math.ceil(4 * self.reach_px) + self.step_px

    def decode(self, probability: Map, distances: Map) -> Nuclei:
        """Nuclei in pixels of the image, best first; float32 column ``score`` is the probability at their centre.

        Parameters
        ----------
        probability : float32 array (h, w)
            Of a nucleus; highest at its centre.
        distances : float32 array (R, h, w)
            From a pixel's centre to the nucleus' border in pixels of the image, R ≥ 3 rays: ray k points by an
            angle of 2πk/R from x (right) to y (down).
        """
        if probability.ndim != 2 or distances.ndim != 3 or distances.shape[1:] != probability.shape:
            raise ValueError(f"distances of shape {distances.shape} for a probability of shape {probability.shape}")
        if len(distances) < 3:
            raise ValueError(f"{len(distances)} rays do not make a polygon")
        rows, columns = np.nonzero(probability > np.float32(self.threshold))
        # (K, R): the rays of a proposal side by side.
        rays = np.maximum(distances[:, rows, columns].T.astype(np.float64), _NEAREST_PX)
        fit = (rays <= self.reach_px).all(axis=1)  # not where a ray is not a number, either
        rows, columns, rays = rows[fit], columns[fit], rays[fit]
        score = probability[rows, columns]
        order = np.argsort(-score, kind="stable")
        rows, columns, rays, score = rows[order], columns[order], rays[order], score[order]
        unit = _directions(len(distances))
        keep = suppress(rows, columns, rays, unit, self)
        nuclei = _polygons(rows[keep], columns[keep], rays[keep], unit, self.step_px, score[keep])
        bounds = nuclei.bounds()
        extent = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
        fits = (nuclei.areas() >= self.min_area_um2 / self.mpp**2) & (extent <= self.max_diameter_um / self.mpp)
        return nuclei.take(fits)


def suppress(
    rows: IntArray, columns: IntArray, rays: FloatArray, unit: FloatArray, params: StarConvexDecoder
) -> Mask:
    """Which proposals stay: those that overlap too much with none that stays before them.

    Parameters
    ----------
    rows, columns : int64 arrays (K,)
        Pixels of the maps, the best proposal first.
    rays : float64 array (K, R)
        Lengths in pixels of the image, at most ``params.reach_px``.
    unit : float64 array (R, 2)
        Directions of the rays as x, y.
    params : StarConvexDecoder

    Returns
    -------
    bool array (K,)
    """
    if len(rows) == 0:
        return np.zeros(0, dtype=bool)
    step = params.step_px * params.sampling
    reach = math.ceil(params.reach_px * params.sampling) + 1
    height, width = (int(rows.max()) + 1) * step, (int(columns.max()) + 1) * step
    scaled = rays * params.sampling
    return _suppress(rows * step, columns * step, scaled, unit, step, reach, params.overlap, height, width)


def _directions(rays: int) -> FloatArray:
    angle = 2 * np.pi * np.arange(rays) / rays
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _polygons(
    rows: IntArray, columns: IntArray, rays: FloatArray, unit: FloatArray, step_px: int, score: Map
) -> Nuclei:
    centres = (np.stack([columns, rows], axis=1) + 0.5) * step_px
    vertices = centres[:, None, :] + rays[:, :, None] * unit
    offsets = np.arange(len(rows) + 1, dtype=np.int64) * len(unit)
    return Nuclei(vertices.reshape(-1, 2), offsets, {"score": score.astype(np.float32)})


@compiled
def _extent(pixels: IntArray, box: IntArray) -> int:
    """Number of pixels in spans; their rows and columns, y0, x0, y1, x1, are put into ``box``."""
    total = 0
    for s in range(len(pixels)):
        total += pixels[s, 2] - pixels[s, 1]
        box[1] = pixels[s, 1] if s == 0 else min(box[1], pixels[s, 1])
        box[3] = pixels[s, 2] if s == 0 else max(box[3], pixels[s, 2])
    if total > 0:
        box[0], box[2] = pixels[0, 0], pixels[-1, 0] + 1
    return total


@compiled
def _common(a: IntArray, b: IntArray, down: int, right: int) -> int:
    """Pixels that two lists of spans have in common, the second one moved."""
    total, m, n = 0, 0, 0
    while m < len(a) and n < len(b):
        row = b[n, 0] + down
        if a[m, 0] < row:
            m += 1
        elif row < a[m, 0]:
            n += 1
        else:
            total += max(0, min(a[m, 2], b[n, 2] + right) - max(a[m, 1], b[n, 1] + right))
            if a[m, 2] < b[n, 2] + right:
                m += 1
            else:
                n += 1
    return total


@compiled
def _suppress(
    tops: IntArray,
    lefts: IntArray,
    rays: FloatArray,
    unit: FloatArray,
    step: int,
    reach: int,
    overlap: float,
    height: int,
    width: int,
) -> Mask:
    """:func:`suppress` in pixels of the counting grid, whose (height, width) contains all centres.

    A polygon is filled in a frame of its own, by what it is relative to its pixel, so that nothing depends on
    where the tile begins. The nucleus that covers a proposal's centre is asked first: mostly it suppresses.
    """
    keep = np.zeros(len(tops), dtype=np.bool_)
    frame = 2 * reach + step
    cell = 2 * reach  # two polygons that overlap have centres in neighbouring cells
    across = width // cell + 1
    last = np.full((height // cell + 1) * across, -1, dtype=np.int64)  # of each cell: its latest nucleus
    before = np.full(len(tops), -1, dtype=np.int64)  # the nucleus before it in its cell
    owner = np.full((height, width), -1, dtype=np.int32)
    begin = np.zeros(len(tops) + 1, dtype=np.int64)
    areas = np.zeros(len(tops), dtype=np.int64)
    boxes = np.zeros((len(tops), 4), dtype=np.int64)
    stored = np.empty((4096, 3), dtype=np.int64)
    used = 0
    for k in range(len(tops)):
        begin[k] = used  # which also ends what the proposal before has stored
        ring = rays[k].reshape(-1, 1) * unit + (reach + 0.5 * step)
        pixels = spans(ring, frame, frame)
        area = _extent(pixels, boxes[k])
        if area == 0:
            continue
        centre = owner[tops[k] + step // 2, lefts[k] + step // 2]
        if centre >= 0:
            shared = _common(
                pixels, stored[begin[centre] : begin[centre + 1]], tops[centre] - tops[k], lefts[centre] - lefts[k]
            )
            if shared > overlap * min(area, areas[centre]):
                continue
        row, column = tops[k] // cell, lefts[k] // cell
        free = True
        for i in range(max(0, row - 1), min(len(last) // across, row + 2)):
            for j in range(max(0, column - 1), min(across, column + 2)):
                other = last[i * across + j]
                while free and other >= 0:
                    down, right = tops[other] - tops[k], lefts[other] - lefts[k]
                    if (
                        other != centre
                        and boxes[k, 0] < boxes[other, 2] + down
                        and boxes[other, 0] + down < boxes[k, 2]
                        and boxes[k, 1] < boxes[other, 3] + right
                        and boxes[other, 1] + right < boxes[k, 3]
                    ):
                        shared = _common(pixels, stored[begin[other] : begin[other + 1]], down, right)
                        free = shared <= overlap * min(area, areas[other])
                    other = before[other]
        if not free:
            continue
        keep[k] = True
        areas[k] = area
        before[k] = last[row * across + column]
        last[row * across + column] = k
        while used + len(pixels) > len(stored):
            grown = np.empty((2 * len(stored), 3), dtype=np.int64)
            grown[:used] = stored[:used]
            stored = grown
        stored[used : used + len(pixels)] = pixels
        used += len(pixels)
        for s in range(len(pixels)):
            y, left = pixels[s, 0] - reach + tops[k], lefts[k] - reach
            if 0 <= y < height:
                for x in range(max(0, pixels[s, 1] + left), min(width, pixels[s, 2] + left)):
                    if owner[y, x] < 0:
                        owner[y, x] = k
    return keep

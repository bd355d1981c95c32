"""Instances from a foreground map and offsets to the centres: pixels vote for their nucleus' centre.

The votes' maxima are the seeds, and a pixel belongs to the seed next to the point that it votes for [1]_ [2]_.
The maps are read at a multiple of their resolution by interpolation, so that an outline is not confined to
the network's lattice.

References
----------
.. [1] Cheng et al., Panoptic-DeepLab, CVPR 2020, doi:10.1109/CVPR42600.2020.01249.
.. [2] Neven et al., Instance segmentation by jointly optimizing spatial embeddings and clustering bandwidth,
   CVPR 2019, doi:10.1109/CVPR.2019.00904.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.nuclei import IntArray, Nuclei
from wsiseg.core.raster import Runs, runs_of, trace_runs
from wsiseg.models.decoders.maps import Map, kernel_radius, maxima, phases, smooth


@dataclass(frozen=True)
class OffsetDecoder:
    """Parameters of :func:`decode_offsets`; ``_px`` are pixels of the network's lattice.

    Attributes
    ----------
    mpp : float
        Microns per pixel of the maps.
    threshold : float
        Foreground probability from which a pixel belongs to a nucleus.
    vote_sigma_px : float
        Gaussian that joins the votes of one nucleus.
    seed_radius_px : float
        Two seeds are farther apart than this.
    min_votes : float
        Density of votes, in pixels a pixel, that a seed needs after smoothing.
    assign_radius_px : float
        A pixel whose vote is farther than this from every seed belongs to none.
    min_area_um2, max_diameter_um : float
        Smaller and larger objects (by the longer side of their bounds) are rejected. A pixel that claims its
        centre to be farther away than 0.6 of the largest diameter does not vote.
    min_score : float
        Least mean foreground probability of an object.
    upsample : int
        Resolution of the outlines as a multiple of the lattice's.
    """

    mpp: float = 0.5
    threshold: float = 0.5
    vote_sigma_px: float = 1.25
    seed_radius_px: float = 3.5
    min_votes: float = 0.35
    assign_radius_px: float = 8.0
    min_area_um2: float = 4.0
    max_diameter_um: float = 32.0
    min_score: float = 0.0
    upsample: int = 2

    @property
    def reach_px(self) -> float:
        """How far from a pixel its centre can be.

        More than half the largest diameter: what is cut off at this distance is still too large and rejected.
        """
        return 0.6 * self.max_diameter_um / self.mpp

    @property
    def margin_px(self) -> int:
        """What must be known around an object for it to be decoded as in any larger map.

        A pixel's label depends on the seeds near its vote, those on the votes around them, and votes come from
        as far as ``reach_px``.
        """
        return math.ceil(
            self.reach_px
            + self.assign_radius_px
            + self.seed_radius_px
            + kernel_radius(self.vote_sigma_px)
            + 2  # of the interpolations
        )

    def decode(self, foreground: Map, offsets: Map) -> Nuclei:
        """Nuclei of the maps (see :func:`decode_offsets`) in their pixels, with float32 column ``score``."""
        labels, scores = decode_offsets(foreground, offsets, self)
        return self.nuclei(runs_of(labels), scores)

    def nuclei(self, runs: Runs, scores: npt.NDArray[np.float32]) -> Nuclei:
        """Outlines of the labels with these runs that :func:`decode_offsets` gives, without what is rejected."""
        nuclei = trace_runs(runs)
        nuclei = Nuclei(nuclei.vertices / self.upsample, nuclei.offsets, nuclei.columns)
        score = scores[nuclei.columns["label"] - 1]
        bounds = nuclei.bounds()
        extent = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
        keep = (
            (nuclei.areas() >= self.min_area_um2 / self.mpp**2)
            & (extent <= self.max_diameter_um / self.mpp)
            & (score >= self.min_score)
        )
        return Nuclei(nuclei.vertices, nuclei.offsets, {"score": score}).take(keep)


def decode_offsets(
    foreground: Map, offsets: Map, params: OffsetDecoder
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Label every foreground pixel with the seed that it votes for.

    Parameters
    ----------
    foreground : float32 array (h, w)
        Probability of a nucleus.
    offsets : float32 array (2, h, w)
        dy, dx in pixels from each pixel's centre to the centroid of its nucleus; ignored where the foreground
        is not above the threshold.
    params : OffsetDecoder

    Returns
    -------
    labels : int32 array (upsample · h, upsample · w)
        1 … N, the seeds in raster order; 0 is background. Neither cleaned nor filtered: a label may be
        scattered or small. :meth:`OffsetDecoder.decode` makes nuclei of them.
    scores : float32 array (N,)
        Mean foreground probability of each label's pixels, 0 for a label without pixels.
    """
    foreground = np.ascontiguousarray(foreground, dtype=np.float32)
    offsets = np.ascontiguousarray(offsets, dtype=np.float32)
    if foreground.ndim != 2 or offsets.shape != (2, *foreground.shape):
        raise ValueError(f"offsets of shape {offsets.shape} for a foreground of shape {foreground.shape}")
    reach, threshold = np.float32(params.reach_px), np.float32(params.threshold)
    density = smooth(_vote(foreground, offsets, threshold, reach), params.vote_sigma_px)
    rows, columns = maxima(density, params.seed_radius_px, params.min_votes)
    nearest = _nearest_seed(rows, columns, foreground.shape, params.assign_radius_px)
    return _assign(foreground, offsets, nearest, len(rows), threshold, reach, params.upsample)


@compiled
def _vote(foreground: Map, offsets: Map, threshold: np.float32, reach: np.float32) -> Map:
    """Density of the points voted for, each split between the four pixels around it."""
    height, width = foreground.shape
    votes = np.zeros((height, width), dtype=np.float32)
    for i in range(height):
        for j in range(width):
            weight = foreground[i, j]
            if not weight > threshold:
                continue
            dy, dx = offsets[0, i, j], offsets[1, i, j]
            if not dy * dy + dx * dx <= reach * reach:
                continue
            # Fractions of the offset, not of the position: these do not round with the tile's origin.
            fy, fx = np.floor(dy), np.floor(dx)
            ty, tx = dy - fy, dx - fx
            y, x = i + int(fy), j + int(fx)
            if 0 <= y < height - 1 and 0 <= x < width - 1:
                votes[y, x] += weight * (np.float32(1) - ty) * (np.float32(1) - tx)
                votes[y, x + 1] += weight * (np.float32(1) - ty) * tx
                votes[y + 1, x] += weight * ty * (np.float32(1) - tx)
                votes[y + 1, x + 1] += weight * ty * tx
    return votes


@compiled
def _nearest_seed(
    rows: IntArray, columns: IntArray, shape: tuple[int, int], radius: float
) -> npt.NDArray[np.int32]:
    """1 + index of the nearest seed within ``radius`` of each pixel, the earlier one of two; 0 without."""
    height, width = shape
    nearest = np.zeros((height, width), dtype=np.int32)
    reach, limit = int(radius), radius * radius
    for n in range(len(rows)):
        for y in range(max(0, rows[n] - reach), min(height, rows[n] + reach + 1)):
            for x in range(max(0, columns[n] - reach), min(width, columns[n] + reach + 1)):
                here = (y - rows[n]) ** 2 + (x - columns[n]) ** 2
                if here > limit:
                    continue
                if nearest[y, x] > 0:
                    m = nearest[y, x] - 1
                    if (y - rows[m]) ** 2 + (x - columns[m]) ** 2 <= here:
                        continue
                nearest[y, x] = n + 1
    return nearest


@compiled
def _assign(
    foreground: Map,
    offsets: Map,
    nearest: npt.NDArray[np.int32],
    seeds: int,
    threshold: np.float32,
    reach: np.float32,
    upsample: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    height, width = foreground.shape
    labels = np.zeros((height * upsample, width * upsample), dtype=np.int32)
    total = np.zeros(seeds, dtype=np.float64)
    count = np.zeros(seeds, dtype=np.int64)
    other, weight = phases(upsample)
    line = np.empty(width, dtype=np.float32)
    for i in range(height):
        for p in range(upsample):
            i2 = min(max(i + other[p], 0), height - 1)
            b = weight[p]
            a = np.float32(1) - b
            for j in range(width):
                line[j] = a * foreground[i, j] + b * foreground[i2, j]
            target = labels[i * upsample + p]
            for j in range(width):
                for q in range(upsample):
                    j2 = min(max(j + other[q], 0), width - 1)
                    d = weight[q]
                    c = np.float32(1) - d
                    probability = c * line[j] + d * line[j2]
                    if not probability > threshold:
                        continue
                    # Offsets of background pixels mean nothing: weigh them by the foreground.
                    w00, w01 = a * c * foreground[i, j], a * d * foreground[i, j2]
                    w10, w11 = b * c * foreground[i2, j], b * d * foreground[i2, j2]
                    dy = (
                        w00 * offsets[0, i, j]
                        + w01 * offsets[0, i, j2]
                        + w10 * offsets[0, i2, j]
                        + w11 * offsets[0, i2, j2]
                    ) / probability
                    dx = (
                        w00 * offsets[1, i, j]
                        + w01 * offsets[1, i, j2]
                        + w10 * offsets[1, i2, j]
                        + w11 * offsets[1, i2, j2]
                    ) / probability
                    if not dy * dy + dx * dx <= reach * reach:
                        continue
                    # Vote = lattice pixel + its part; rint of the part keeps this independent of the origin.
                    y = i + int(np.floor(dy + other[p] * b + np.float32(0.5)))
                    x = j + int(np.floor(dx + other[q] * d + np.float32(0.5)))
                    if 0 <= y < height and 0 <= x < width:
                        seed = nearest[y, x]
                        if seed > 0:
                            target[j * upsample + q] = seed
                            total[seed - 1] += probability
                            count[seed - 1] += 1
    scores = np.zeros(seeds, dtype=np.float32)
    for n in range(seeds):
        if count[n] > 0:
            scores[n] = total[n] / count[n]
    return labels, scores

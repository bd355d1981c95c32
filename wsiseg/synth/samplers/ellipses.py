"""``ellipses``: after Points2Image, an ellipse at each of a set of points, smaller where they are dense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize
from wsiseg.synth.parts import Layout, Sampler, Texture, connected

FloatArray = npt.NDArray[np.float64]

DENSITY_SIGMA = 20.0
"""Pixels (σ) over which points are counted."""
ECCENTRICITY = (0.75, 0.24)
VERTICES = (20, 27)
MAX_OVERLAP = 0.05
_MARGIN = 24
"""Pixels beyond the patch in which nuclei lie too, so that its border cuts some."""


@dataclass(frozen=True)
class EllipsesOptions:
    """Ellipses at synthetic points, or at those of a file.

    Attributes
    ----------
    count : (int, int)
        Least and most points of 256² pixels, uniformly.
    clusters : float
        Share of the points that lie in clusters; the others lie anywhere.
    least_area, most_area : int
        Area in pixels: least, and most where a point has no neighbours. In a crowd none is larger than half its
        share of the room.
    alpha, beta : float
        Of the Beta distribution of the area between the two.
    tries : int
        Ellipses drawn for a point while more than 5% of it are others'; then it is left out.
    """

    count: tuple[int, int] = (15, 90)
    clusters: float = 0.5
    least_area: int = 140
    most_area: int = 900
    alpha: float = 2.0
    beta: float = 3.0
    tries: int = 30
    needs_texture: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.count[0] <= self.count[1]:
            raise ValueError(f"count {list(self.count)}: expected the least and the most, from 0")
        if not 0 <= self.clusters <= 1:
            raise ValueError(f"clusters {self.clusters}: expected a share, 0 to 1")
        if not 10 <= self.least_area <= self.most_area:
            raise ValueError(
                f"least_area {self.least_area}, most_area {self.most_area}: expected pixels, from 10, the most last"
            )
        if min(self.alpha, self.beta) <= 0 or self.tries < 1:
            raise ValueError(f"alpha {self.alpha}, beta {self.beta}, tries {self.tries}: expected more than 0")

    def build(self, mpp: float) -> Sampler:
        return self._sample

    def _sample(self, rng: np.random.Generator, side: int, texture: Texture | None) -> Layout:
        whole = side + 2 * _MARGIN
        points = sample_points(rng, self, whole)
        labels = place_ellipses(rng, self, points, whole)
        return Layout(connected(labels[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN], 12))


def sample_points(rng: np.random.Generator, options: EllipsesOptions, side: int) -> FloatArray:
    """Points (x, y) in a square of ``side`` pixels, float64 (n, 2): anywhere, and in round clusters."""
    count = round(int(rng.integers(options.count[0], options.count[1] + 1)) * (side / 256) ** 2)
    clustered = rng.binomial(count, options.clusters)
    points = [rng.uniform(0, side, (count - clustered, 2))]
    while clustered > 0:
        members = min(int(rng.integers(3, 30)), clustered)
        spread = rng.uniform(8.0, 14.0) * math.sqrt(members)
        points.append(rng.normal(rng.uniform(0, side, 2), spread, (members, 2)))
        clustered -= members
    found = np.concatenate(points)
    return found[((found >= 0) & (found < side)).all(axis=1)]


def local_density(points: FloatArray, side: int) -> FloatArray:
    """Points per pixel around each point, itself included: their Gaussian of ``DENSITY_SIGMA``, float64 (n,)."""
    at = np.clip(points.astype(int), 0, side - 1)
    grid = np.zeros((side, side))
    np.add.at(grid, (at[:, 1], at[:, 0]), 1.0)
    density: FloatArray = ndimage.gaussian_filter(grid, DENSITY_SIGMA, mode="reflect")[at[:, 1], at[:, 0]]
    return density


def most_areas(options: EllipsesOptions, density: FloatArray) -> FloatArray:
    """b(ρ): the largest area at a local density, float64 (n,): ``most_area``, or half the room of a point."""
    room = 0.5 / np.maximum(density, 1e-9)
    return np.clip(room, options.least_area, options.most_area)


def place_ellipses(
    rng: np.random.Generator, options: EllipsesOptions, points: FloatArray, side: int
) -> npt.NDArray[np.int32]:
    """An ellipse at each of ``points`` (n, 2) that finds room; int32 (side, side), label k for point k - 1."""
    labels = np.zeros((side, side), dtype=np.int32)
    largest = most_areas(options, local_density(points, side))
    for n, point in enumerate(points):
        for _ in range(options.tries):
            area = options.least_area + (largest[n] - options.least_area) * rng.beta(options.alpha, options.beta)
            if _place(labels, n + 1, sample_ellipse(rng, point, area)):
                break
    return labels


def sample_ellipse(rng: np.random.Generator, centre: FloatArray, area: float) -> FloatArray:
    """Vertices (x, y) of an ellipse of ``area``, float64 (n, 2), n in 20–27, turned at random."""
    eccentricity = float(np.clip(rng.normal(*ECCENTRICITY), 0.0, 0.95))
    ratio = math.sqrt(1.0 - eccentricity**2)
    major = math.sqrt(area / (math.pi * ratio))
    angles = np.sort(rng.uniform(0, 1, rng.integers(VERTICES[0], VERTICES[1] + 1))) * 0.5
    # Even steps, moved by less than half a step: points at random would cut sides off.
    count = len(angles)
    t = 2.0 * math.pi * (np.arange(count) + angles) / count
    u, v, turn = major * np.cos(t), major * ratio * np.sin(t), rng.uniform(0, math.pi)
    x, y = u * math.cos(turn) - v * math.sin(turn), u * math.sin(turn) + v * math.cos(turn)
    return np.stack([centre[0] + x, centre[1] + y], axis=1)


def _place(labels: npt.NDArray[np.int32], value: int, outline: FloatArray) -> bool:
    """Paint an outline's free pixels with ``value`` if at most 5% of its pixels are taken."""
    low = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 1, len(labels))
    if (high <= low).any():
        return False
    one = Nuclei(outline, np.array([0, len(outline)]), {})
    inside = rasterize(one, [1], (int(high[1] - low[1]), int(high[0] - low[0])), (float(low[0]), float(low[1]))) > 0
    window = labels[low[1] : high[1], low[0] : high[0]]
    taken = np.count_nonzero(window[inside])
    if not inside.any() or taken > MAX_OVERLAP * np.count_nonzero(inside):
        return False
    window[inside & (window == 0)] = value
    return True

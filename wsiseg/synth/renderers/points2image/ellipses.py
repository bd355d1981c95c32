"""Points to a layout: an ellipse at each point, as large as the density of its neighbours allows [1]_.

References
----------
.. [1] Li, Ren et al. 2023, arXiv:2308.09835.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

Labels = npt.NDArray[np.int32]
Points = npt.NDArray[np.float64]

_TRIES = 10


@dataclass(frozen=True)
class EllipseOptions:
    """How large ellipses are, and of what form.

    Attributes
    ----------
    least_um2, most_um2 : float
        Areas; the published bounds are not known to us.
    share : float
        An ellipse is at most this part of the mean area that a point has around it.
    shape : pair of float
        Of the Beta distribution of the area between least and most.
    reach_um : float
        Standard deviation of the Gaussian that counts neighbours; 20 px of 0.25 µm as published.
    eccentricity, eccentricity_sd : float
        Of a normal distribution, clipped to 0–0.95.
    overlap : float
        An ellipse that shares more than this part of its pixels with earlier ones is drawn anew; after ten tries
        the last keeps what is free.
    """

    least_um2: float = 10.0
    most_um2: float = 90.0
    share: float = 0.6
    shape: tuple[float, float] = (2.0, 2.0)
    reach_um: float = 5.0
    eccentricity: float = 0.75
    eccentricity_sd: float = 0.24
    overlap: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.least_um2 < self.most_um2:
            raise ValueError(f"least_um2 {self.least_um2}, most_um2 {self.most_um2}: expected 0 < least < most")
        if not (min(self.share, self.reach_um, *self.shape) > 0 and 0 <= self.overlap <= 1):
            raise ValueError("share, reach_um, shape: expected more than 0; overlap: 0 to 1")


def draw_ellipses(
    rng: np.random.Generator, points: Points, side: int, mpp: float, options: EllipseOptions
) -> Labels:
    """A layout with one ellipse at each point.

    Parameters
    ----------
    rng : Generator
    points : float64 array (n, 2)
        x, y in pixels.
    side : int
        Of the layout, in pixels.
    mpp : float
        Microns per pixel.
    options : EllipseOptions

    Returns
    -------
    int32 array (side, side)
        1 … n in the order of the points, each label 4-connected. One whose point is covered by then is left out.
    """
    labels = np.zeros((side, side), dtype=np.int32)
    most = _largest(points, side, mpp, options)
    for point, high in zip(points, most, strict=True):
        for _ in range(_TRIES):
            part = labels == 0
            ellipse = _ellipse(rng, point, side, high, mpp, options)
            taken = ellipse & ~part
            if taken.sum() <= options.overlap * max(int(ellipse.sum()), 1):
                break
        free = _connected(ellipse & part, point)
        if free.any():
            labels[free] = labels.max() + 1
    return labels


def _largest(points: Points, side: int, mpp: float, options: EllipseOptions) -> npt.NDArray[np.float64]:
    """The most that each point's ellipse may have, in µm²."""
    counts = np.zeros((side, side))
    i, j = _pixels(points, side)
    np.add.at(counts, (i, j), 1.0)
    # "reflect": a corner has as many neighbours beyond the edge as within.
    density = ndimage.gaussian_filter(counts, options.reach_um / mpp, mode="reflect")[i, j] / mpp**2
    room = options.share / np.maximum(density, 1e-9)
    return np.clip(room, 1.5 * options.least_um2, options.most_um2)


def _ellipse(
    rng: np.random.Generator, point: Points, side: int, most: float, mpp: float, options: EllipseOptions
) -> npt.NDArray[np.bool_]:
    area = (options.least_um2 + rng.beta(*options.shape) * (most - options.least_um2)) / mpp**2
    eccentricity = float(np.clip(rng.normal(options.eccentricity, options.eccentricity_sd), 0.0, 0.95))
    ratio = np.sqrt(1 - eccentricity**2)
    long = np.sqrt(area / (np.pi * ratio))
    turn = rng.uniform(0, np.pi)
    corner = np.linspace(0, 2 * np.pi, int(rng.integers(20, 28)), endpoint=False)
    x, y = long * np.cos(corner), long * ratio * np.sin(corner)
    cos, sin = np.cos(turn), np.sin(turn)
    outline = np.stack([point[0] + cos * x - sin * y, point[1] + sin * x + cos * y], axis=1)
    picture = Image.new("1", (side, side))
    ImageDraw.Draw(picture).polygon([tuple(corner) for corner in outline.tolist()], fill=1)
    return np.asarray(picture, dtype=np.bool_)


def _connected(free: npt.NDArray[np.bool_], point: Points) -> npt.NDArray[np.bool_]:
    """The part of what is free that holds the point; none if it is covered."""
    parts, _ = ndimage.label(free)
    i, j = _pixels(point[None], len(free))
    here = parts[i[0], j[0]]
    return (parts == here) & (here > 0)


def _pixels(points: Points, side: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of points."""
    near = np.clip(np.rint(points), 0, side - 1).astype(np.intp)
    return near[:, 1], near[:, 0]

"""Nuclei between two real ones: contours of as many points each, brought into register, paired and interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize, trace
from wsiseg.synth.parts import connected

Contour = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LEAST_PX = 50
"""Pixels of a real nucleus, and of one made from two."""
LEAST_EXTENT = 0.5
"""Area of a made nucleus, in those of its bounds: what is less has been torn."""
_ITERATIONS = 50


@dataclass(frozen=True, eq=False)
class BlobPool:
    """Nuclei that can be made: ``couples`` × ``alphas`` of them, by number. Two are equal if they are one.

    Attributes
    ----------
    contours : sequence of float64 array (points, 2)
        Of real nuclei.
    couples, alphas : int
        Couples that are drawn, and steps between the two of each.
    seed : int
        Decides the couples.
    """

    contours: Sequence[Contour]
    couples: int
    alphas: int
    seed: int

    def __len__(self) -> int:
        return self.couples * self.alphas


def labelled(image: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Instances of a label image (h, w), or the components of a mask of two values; small ones left out."""
    if len(np.unique(image)) <= 2:
        image = ndimage.label(image > 0)[0]
    return connected(np.unique(image, return_inverse=True)[1].reshape(image.shape), LEAST_PX)


def extract_contours(labels: npt.NDArray[np.int32], points: int) -> list[Contour]:
    """Contours, float64 (points, 2) each, of the labels (h, w) that the image's edge does not cut."""
    nuclei = trace(labels)
    height, width = labels.shape
    rings = np.split(nuclei.vertices, nuclei.offsets[1:-1]) if len(nuclei) else []
    whole = (ring for ring in rings if (ring > 0).all() and (ring < (width, height)).all())
    return [resample(ring, points) for ring in whole]


def resample(ring: Contour, points: int) -> Contour:
    """``points`` points at equal steps along a closed ring (n, 2), from its first vertex on."""
    closed = np.concatenate([ring, ring[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.linspace(0.0, along[-1], points, endpoint=False)
    return np.stack([np.interp(at, along, closed[:, k]) for k in range(2)], axis=1)


def register(moving: Contour, fixed: Contour) -> Contour:
    """``moving`` (n, 2), turned and moved onto ``fixed`` by iterated closest points [1]_, without scaling.

    References
    ----------
    .. [1] Besl & McKay 1992, doi:10.1109/34.121791.
    """
    tree = cKDTree(fixed)
    moved = moving - moving.mean(axis=0) + fixed.mean(axis=0)
    before = np.inf
    for _ in range(_ITERATIONS):
        distance, nearest = tree.query(moved)
        error = float(np.square(distance).mean())
        if before - error < 1e-4:
            break
        before = error
        moved = _rigid(moved, fixed[nearest])
    return moved


def pair(first: Contour, second: Contour) -> Contour:
    """``second`` (n, 2) renumbered so that its points lie best by those of ``first`` of the same number.

    Of all cyclic shifts and both directions the one with the least sum of squared distances. Registration moves
    points and leaves their numbers: contours that start at opposite ends would be interpolated through each other.
    """
    centre = first.mean(axis=0)
    candidates = []
    one = np.fft.fft(_complex(first - centre))
    for points in (second, second[::-1]):
        # The sum of squares is least where the correlation is largest.
        correlation = np.fft.ifft(np.conj(one) * np.fft.fft(_complex(points - centre))).real
        shift = int(correlation.argmax())
        candidates.append((correlation[shift], np.roll(points, -shift, axis=0)))
    return max(candidates, key=lambda candidate: float(candidate[0]))[1]


def make_blob(pool: BlobPool, number: int) -> Mask | None:
    """Nucleus ``number`` of a pool as a tight mask (h, w); None where it is too small or torn."""
    couple, step = divmod(number, pool.alphas)
    return _fill(pool, couple, step)


def fill(contour: Contour) -> Mask | None:
    """The pixels in a contour, closed and smoothed: their largest part, or None where that is too small or torn."""
    low = np.floor(contour.min(axis=0)) - 2
    width, height = (np.ceil(contour.max(axis=0)) + 2 - low).astype(int)
    one = Nuclei(np.ascontiguousarray(contour - low), np.array([0, len(contour)]), {})
    mask = rasterize(one, [1], (height, width)) > 0
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(mask))
    mask = connected(ndimage.binary_opening(mask).astype(np.int32)) > 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    tight = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    area = np.count_nonzero(tight)
    return np.ascontiguousarray(tight) if area > LEAST_PX and area >= LEAST_EXTENT * tight.size else None


@lru_cache(maxsize=4096)
def _couple(pool: BlobPool, couple: int) -> tuple[Contour, Contour]:
    """Two real contours at random, in register and paired."""
    chosen = np.random.default_rng([pool.seed, couple]).choice(
        len(pool.contours), 2, replace=len(pool.contours) < 2
    )
    first, second = (pool.contours[k] for k in chosen.tolist())
    moved = register(first, second)
    return moved, pair(moved, second)


@lru_cache(maxsize=16384)
def _fill(pool: BlobPool, couple: int, step: int) -> Mask | None:
    first, second = _couple(pool, couple)
    alpha = step / max(pool.alphas - 1, 1)
    return fill(alpha * first + (1.0 - alpha) * second)


def _rigid(moving: Contour, target: Contour) -> Contour:
    """``moving`` by the rotation and shift that bring it closest to ``target``, point by point."""
    centre, goal = moving.mean(axis=0), target.mean(axis=0)
    u, _, v = np.linalg.svd((moving - centre).T @ (target - goal))
    turn = u @ np.diag([1.0, np.sign(np.linalg.det(u @ v))]) @ v  # a reflection would be another nucleus
    return (moving - centre) @ turn + goal


def _complex(points: Contour) -> npt.NDArray[np.complex128]:
    return points[:, 0] + 1j * points[:, 1]

"""What decoders do to maps: smooth, enlarge and find maxima, each a function of a pixel's neighbourhood only."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.nuclei import IntArray

Map = npt.NDArray[np.float32]

_TAILS = 3.0  # a Gaussian ends at this many standard deviations


def kernel_radius(sigma_px: float) -> int:
    """How far :func:`smooth` looks, in pixels."""
    return math.ceil(_TAILS * sigma_px)


def smooth(image: Map, sigma_px: float) -> Map:
    """Gaussian smoothing of a float32 map (h, w), which counts as 0 beyond its border."""
    if sigma_px <= 0:
        return image
    radius = kernel_radius(sigma_px)
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma_px) ** 2)
    taps /= taps[0] + 2 * taps[1:].sum()
    return _convolve(np.ascontiguousarray(image), taps.astype(np.float32))


def maxima(image: Map, radius_px: float, minimum: float) -> tuple[IntArray, IntArray]:
    """Rows and columns, in raster order, of the pixels that no other within ``radius_px`` surpasses.

    Only values above ``minimum`` count. Of equal values the first in raster order surpasses the others: an
    order of the relative positions, the same in every tile.
    """
    reach = int(radius_px)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = dy * dy + dx * dx
    # Nearest first: most pixels are surpassed by a neighbour.
    order = np.argsort(distance, axis=None, kind="stable")
    order = order[(distance.ravel()[order] <= radius_px**2) & (distance.ravel()[order] > 0)]
    found = _maxima(image, dy.ravel()[order], dx.ravel()[order], np.float32(minimum))
    return found[:, 0].copy(), found[:, 1].copy()


def enlarge(image: Map, factor: int) -> Map:
    """Bilinear enlargement of a float32 map (h, w) to (factor · h, factor · w).

    Pixels are areas: the new ones divide the old ones, and a constant continues the map beyond its border.
    """
    return _enlarge(np.ascontiguousarray(image, dtype=np.float32), factor)


@compiled
def phases(factor: int) -> tuple[IntArray, Map]:
    """For each of the new pixels along the side of an old one: its other neighbour (±1) and that one's weight."""
    other = np.empty(factor, dtype=np.int64)
    weight = np.empty(factor, dtype=np.float32)
    for p in range(factor):
        shift = (p + 0.5) / factor - 0.5  # from the old pixel's centre
        other[p] = -1 if shift < 0 else 1
        weight[p] = abs(shift)
    return other, weight


@compiled
def _enlarge(image: Map, factor: int) -> Map:
    height, width = image.shape
    out = np.empty((height * factor, width * factor), dtype=np.float32)
    other, weight = phases(factor)
    line = np.empty(width, dtype=np.float32)
    for i in range(height):
        for p in range(factor):
            i2 = min(max(i + other[p], 0), height - 1)
            b = weight[p]
            for j in range(width):
                line[j] = (np.float32(1) - b) * image[i, j] + b * image[i2, j]
            target = out[i * factor + p]
            for j in range(width):
                for q in range(factor):
                    j2 = min(max(j + other[q], 0), width - 1)
                    target[j * factor + q] = (np.float32(1) - weight[q]) * line[j] + weight[q] * line[j2]
    return out


@compiled
def _convolve(image: Map, taps: Map) -> Map:
    height, width = image.shape
    radius = len(taps) - 1
    out = np.zeros((height, width), dtype=np.float32)
    row = np.zeros(width + 2 * radius, dtype=np.float32)
    for i in range(height):
        row[:] = 0
        for k in range(-radius, radius + 1):
            if 0 <= i + k < height:
                weight = taps[abs(k)]
                for j in range(width):
                    row[radius + j] += weight * image[i + k, j]
        target = out[i]
        for k in range(2 * radius + 1):
            weight = taps[abs(k - radius)]
            for j in range(width):
                target[j] += weight * row[j + k]
    return out


@compiled
def _maxima(image: Map, dy: IntArray, dx: IntArray, minimum: np.float32) -> IntArray:
    height, width = image.shape
    count, found = 0, np.empty((256, 2), dtype=np.int64)
    for i in range(height):
        for j in range(width):
            value = image[i, j]
            if not value > minimum:
                continue
            best = True
            for k in range(len(dy)):
                y, x = i + dy[k], j + dx[k]
                if 0 <= y < height and 0 <= x < width:
                    other = image[y, x]
                    earlier = dy[k] < 0 or (dy[k] == 0 and dx[k] < 0)
                    if other > value or (other == value and earlier):
                        best = False
                        break
            if best:
                if count == len(found):
                    grown = np.empty((2 * count, 2), dtype=np.int64)
                    grown[:count] = found
                    found = grown
                found[count, 0], found[count, 1] = i, j
                count += 1
    return found[:count]

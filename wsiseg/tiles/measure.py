"""Shape and stain of every nucleus, in one pass over its polygon and its pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import IntArray, Nuclei
from wsiseg.core.raster import spans
from wsiseg.core.rings import ring_area
from wsiseg.core.stain import stain_tables

MEASUREMENTS = ("area_um2", "perimeter_um", "eccentricity", "solidity", "hematoxylin_od")

# Twice a binomial filter over the crack midpoints: on digital discs of radius 5 to 32 px the length is then
# within 1%, where midpoints alone are 5% too long (the length of an octagon) and the cracks themselves 27%.
_SMOOTHING = 2
_MOST_MOVES = 8  # of a point, on average, before a line's points are sorted otherwise
_SMOOTHED_FROM = 12  # points; shorter outlines (objects of 2 or 3 pixels) would vanish


def measure(nuclei: Nuclei, image: npt.NDArray[np.uint8], mpp: float) -> Nuclei:
    """Add the measurements of :data:`MEASUREMENTS` as float32 columns.

    Parameters
    ----------
    nuclei : Nuclei
        In pixels of ``image``; may reach beyond it.
    image : uint8 array (h, w, 3)
    mpp : float
        Microns per pixel of ``image``.

    Returns
    -------
    Nuclei
        ``area_um2``: of the polygon. ``perimeter_um``: of the outline through the midpoints of the cracks, lightly
        smoothed, so that a staircase is not longer than the edge that it stands for. ``eccentricity``: of the
        ellipse with the polygon's second moments, 0 for a circle. ``solidity``: the outline's area over that of
        its convex hull, at most 1. ``hematoxylin_od``: mean optical density of haematoxylin over the pixels whose
        centres lie inside (if none does, of the pixel at the centroid); see :mod:`wsiseg.core.stain`.

    Notes
    -----
    A polygon that is not made of cracks of 1, 1/2 or 1/4 pixel is its own outline. The values do not depend on
    where the image lies in the slide: coordinates are taken relative to the ring's first vertex.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected a uint8 image (h, w, 3), got {image.dtype} {image.shape}")
    values = _measure(
        np.ascontiguousarray(nuclei.vertices),
        nuclei.offsets,
        np.ascontiguousarray(image),
        np.ascontiguousarray(stain_tables()[0]),
        float(mpp),
    )
    return nuclei.with_columns(**{name: values[:, k].copy() for k, name in enumerate(MEASUREMENTS)})


@compiled
def _measure(
    vertices: FloatArray, offsets: IntArray, image: npt.NDArray[np.uint8], table: FloatArray, mpp: float
) -> npt.NDArray[np.float32]:
    out = np.empty((len(offsets) - 1, 5), dtype=np.float32)
    for n in range(len(offsets) - 1):
        absolute = vertices[offsets[n] : offsets[n + 1]]
        ring = absolute - absolute[0]
        area, cx, cy, eccentricity = _moments(ring)
        outline = _outline(ring)
        hull = _hull_area(outline)
        out[n, 0] = area * mpp * mpp
        out[n, 1] = _length(outline) * mpp
        out[n, 2] = eccentricity
        out[n, 3] = min(1.0, ring_area(outline) / hull) if hull > 0 else 1.0
        out[n, 4] = _mean(absolute, cx + absolute[0, 0], cy + absolute[0, 1], image, table)
    return out


@compiled
def _moments(ring: FloatArray) -> tuple[float, float, float, float]:
    """Area, centroid and eccentricity from the polygon's moments (Green's theorem)."""
    doubled = sx = sy = sxx = syy = sxy = 0.0
    count = len(ring)
    for k in range(count):
        m = k + 1 if k + 1 < count else 0
        xa, ya, xb, yb = ring[k, 0], ring[k, 1], ring[m, 0], ring[m, 1]
        cross = xa * yb - xb * ya
        doubled += cross
        sx += (xa + xb) * cross
        sy += (ya + yb) * cross
        sxx += (xa * xa + xa * xb + xb * xb) * cross
        syy += (ya * ya + ya * yb + yb * yb) * cross
        sxy += (xa * yb + 2.0 * xa * ya + 2.0 * xb * yb + xb * ya) * cross
    if doubled == 0.0:
        return 0.0, 0.0, 0.0, 0.0
    cx, cy = sx / (3.0 * doubled), sy / (3.0 * doubled)
    uxx = sxx / (6.0 * doubled) - cx * cx
    uyy = syy / (6.0 * doubled) - cy * cy
    uxy = sxy / (12.0 * doubled) - cx * cy
    spread = np.sqrt((uxx - uyy) ** 2 + 4.0 * uxy * uxy)
    major, minor = uxx + uyy + spread, uxx + uyy - spread
    eccentricity = np.sqrt(min(1.0, max(0.0, 1.0 - minor / major))) if major > 0.0 else 0.0
    return abs(doubled) / 2.0, cx, cy, eccentricity


@compiled
def _crack_length(ring: FloatArray) -> float:
    """Side of the pixels that the ring runs between: 1, 1/2 or 1/4; 0 if it is not made of such cracks."""
    count = len(ring)
    for k in range(count):
        m = k + 1 if k + 1 < count else 0
        if ring[k, 0] != ring[m, 0] and ring[k, 1] != ring[m, 1]:
            return 0.0
    side = 1.0
    while side >= 0.25:
        whole = True
        for k in range(count):
            x, y = ring[k, 0] / side, ring[k, 1] / side
            if x != np.rint(x) or y != np.rint(y):
                whole = False
                break
        if whole:
            return side
        side /= 2.0
    return 0.0


@compiled
def _outline(ring: FloatArray) -> FloatArray:
    """The closed line through the midpoints of the ring's cracks, smoothed; the ring itself without cracks."""
    side = _crack_length(ring)
    if side == 0.0:
        return ring
    count, total = len(ring), 0
    for k in range(count):
        m = k + 1 if k + 1 < count else 0
        total += int(np.rint((abs(ring[m, 0] - ring[k, 0]) + abs(ring[m, 1] - ring[k, 1])) / side))
    points = np.empty((total, 2), dtype=np.float64)
    at = 0
    for k in range(count):
        m = k + 1 if k + 1 < count else 0
        dx, dy = ring[m, 0] - ring[k, 0], ring[m, 1] - ring[k, 1]
        steps = int(np.rint((abs(dx) + abs(dy)) / side))
        for s in range(steps):
            points[at, 0] = ring[k, 0] + dx * ((s + 0.5) / steps)
            points[at, 1] = ring[k, 1] + dy * ((s + 0.5) / steps)
            at += 1
    if total < _SMOOTHED_FROM:
        return points
    for _ in range(_SMOOTHING):
        previous_x, previous_y = points[total - 1, 0], points[total - 1, 1]
        first_x, first_y = points[0, 0], points[0, 1]
        for k in range(total):
            x, y = points[k, 0], points[k, 1]
            next_x = points[k + 1, 0] if k + 1 < total else first_x
            next_y = points[k + 1, 1] if k + 1 < total else first_y
            points[k, 0] = (previous_x + 2.0 * x + next_x) / 4.0
            points[k, 1] = (previous_y + 2.0 * y + next_y) / 4.0
            previous_x, previous_y = x, y
    return points


@compiled
def _length(points: FloatArray) -> float:
    total = 0.0
    for k in range(len(points)):
        m = k + 1 if k + 1 < len(points) else 0
        total += np.sqrt((points[m, 0] - points[k, 0]) ** 2 + (points[m, 1] - points[k, 1]) ** 2)
    return total


@compiled
def _hull_area(points: FloatArray) -> float:
    """Area of the convex hull of a closed line by Andrew's monotone chain."""
    count = len(points)
    ordered = _from_left_to_right(points)
    chain = np.empty((2 * count, 2), dtype=np.float64)
    size = 0
    for half in range(2):
        floor = size + 1
        for k in range(count):
            p = k if half == 0 else count - 1 - k
            while size > floor and (
                (chain[size - 1, 0] - chain[size - 2, 0]) * (ordered[p, 1] - chain[size - 2, 1])
                <= (chain[size - 1, 1] - chain[size - 2, 1]) * (ordered[p, 0] - chain[size - 2, 0])
            ):
                size -= 1
            chain[size, 0], chain[size, 1] = ordered[p, 0], ordered[p, 1]
            size += 1
        size -= 1  # the last point of a half is the first of the other one
    return ring_area(chain[:size])


@compiled
def _from_left_to_right(points: FloatArray) -> FloatArray:
    """The points (N, 2) in the order of x, of equal x in that of y.

    A closed line goes to its right end and back, each way nearly in order already: insertion sorts both ways in
    little more than one pass, and they are merged. A line that goes to and fro so much that it would not is sorted.
    """
    count = len(points)
    first, last = 0, 0
    for k in range(1, count):
        if points[k, 0] < points[first, 0]:
            first = k
        if points[k, 0] > points[last, 0]:
            last = k
    there = (last - first) % count + 1  # points on the way to the right end; the others lie on the way back
    ways = np.empty((count, 2), dtype=np.float64)
    moves = 0
    for k in range(count):
        at = (first + k) % count if k < there else (first - 1 - (k - there)) % count
        x, y = points[at, 0], points[at, 1]
        begin, m = (0 if k < there else there), k
        while m > begin and (ways[m - 1, 0] > x or (ways[m - 1, 0] == x and ways[m - 1, 1] > y)):
            ways[m, 0], ways[m, 1] = ways[m - 1, 0], ways[m - 1, 1]
            m -= 1
        ways[m, 0], ways[m, 1] = x, y
        moves += k - m
        if moves > _MOST_MOVES * count:
            return _sorted(points)
    ordered = np.empty((count, 2), dtype=np.float64)
    a, b = 0, there
    for k in range(count):
        if b == count or (
            a < there and (ways[a, 0] < ways[b, 0] or (ways[a, 0] == ways[b, 0] and ways[a, 1] <= ways[b, 1]))
        ):
            ordered[k, 0], ordered[k, 1] = ways[a, 0], ways[a, 1]
            a += 1
        else:
            ordered[k, 0], ordered[k, 1] = ways[b, 0], ways[b, 1]
            b += 1
    return ordered


@compiled
def _sorted(points: FloatArray) -> FloatArray:
    by_y = points[np.argsort(points[:, 1], kind="mergesort")]
    return by_y[np.argsort(by_y[:, 0], kind="mergesort")]


@compiled
def _mean(ring: FloatArray, cx: float, cy: float, image: npt.NDArray[np.uint8], table: FloatArray) -> float:
    height, width = image.shape[0], image.shape[1]
    total, count = 0.0, 0
    inside = spans(ring, height, width)
    for s in range(len(inside)):
        i = inside[s, 0]
        for j in range(inside[s, 1], inside[s, 2]):
            total += table[0, image[i, j, 0]] + table[1, image[i, j, 1]] + table[2, image[i, j, 2]]
            count += 1
    if count == 0:
        i = min(max(int(np.floor(cy)), 0), height - 1)
        j = min(max(int(np.floor(cx)), 0), width - 1)
        return table[0, image[i, j, 0]] + table[1, image[i, j, 1]] + table[2, image[i, j, 2]]
    return total / count

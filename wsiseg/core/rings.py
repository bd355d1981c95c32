"""Kernels over rings: N outlines as ``vertices`` (V, 2) and ``offsets`` (N + 1,), without closing vertices.

Ring n is ``vertices[offsets[n]:offsets[n + 1]]``. Geometry objects would do the same several times slower: of the
pairs in a seam band they take thirteen times as long for the common areas, and an outline that crosses itself,
which a segmenter may give, is an exception there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray

IntArray = npt.NDArray[np.int64]

_LONGEST_RING = 400  # beyond, comparing every pair of edges is slower than a sweep


@compiled
def ring_area(ring):  # type: ignore[no-untyped-def]
    """Area inside one ring (V, 2), by the shoelace formula; far from the origin it loses digits."""
    doubled = 0.0
    for k in range(len(ring)):
        m = k + 1 if k + 1 < len(ring) else 0
        doubled += ring[k, 0] * ring[m, 1] - ring[m, 0] * ring[k, 1]
    return abs(doubled) / 2.0


@compiled
def ring_moments(vertices, offsets):  # type: ignore[no-untyped-def]
    """Area (N,) and area centroid (N, 2) of each ring; of a ring without area, its first vertex."""
    count = len(offsets) - 1
    areas, centroids = np.zeros(count), np.empty((count, 2))
    for n in range(count):
        first, last = offsets[n], offsets[n + 1]
        # Relative to the ring's first vertex: level-0 coordinates of 1e5 would cost 10 digits otherwise.
        x0, y0 = vertices[first, 0], vertices[first, 1]
        doubled, moment_x, moment_y = 0.0, 0.0, 0.0
        px, py = vertices[last - 1, 0] - x0, vertices[last - 1, 1] - y0
        for v in range(first, last):
            qx, qy = vertices[v, 0] - x0, vertices[v, 1] - y0
            cross = px * qy - qx * py
            doubled += cross
            moment_x += (px + qx) * cross
            moment_y += (py + qy) * cross
            px, py = qx, qy
        safe = doubled if doubled != 0.0 else 1.0
        areas[n] = abs(doubled) / 2
        centroids[n, 0] = x0 + moment_x / (3 * safe)
        centroids[n, 1] = y0 + moment_y / (3 * safe)
    return areas, centroids


@compiled
def ring_bounds(vertices, offsets):  # type: ignore[no-untyped-def]
    bounds = np.empty((len(offsets) - 1, 4))
    for n in range(len(bounds)):
        x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
        for v in range(offsets[n], offsets[n + 1]):
            x, y = vertices[v, 0], vertices[v, 1]
            x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
        bounds[n, 0], bounds[n, 1], bounds[n, 2], bounds[n, 3] = x0, y0, x1, y1
    return bounds


@compiled
def copy_rings(vertices, offsets, chosen, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with the rings ``chosen``, one after the other."""
    at = 0
    for n in chosen:
        for v in range(offsets[n], offsets[n + 1]):
            out[at, 0], out[at, 1] = vertices[v, 0], vertices[v, 1]
            at += 1


def common_areas(vertices: FloatArray, offsets: IntArray, pairs: IntArray) -> FloatArray:
    """Area of intersection of each pair (M, 2) of rings, exact up to rounding, shape (M,).

    The plane is cut into slabs at the height of every vertex and crossing. Inside a slab no two edges cross, so the
    common width is linear in y and its value in the middle times the height is the area. For a ring that crosses
    itself the result is approximate, but nothing raises, unlike an overlay of geometry objects.
    """
    return _common_areas(vertices, offsets, pairs)


@compiled
def _common_areas(vertices, offsets, pairs):  # type: ignore[no-untyped-def]
    areas = np.zeros(len(pairs))
    for p in range(len(pairs)):
        a = vertices[offsets[pairs[p, 0]] : offsets[pairs[p, 0] + 1]]
        b = vertices[offsets[pairs[p, 1]] : offsets[pairs[p, 1] + 1]]
        # Relative to a vertex: level-0 coordinates of 1e5 would cost 10 digits otherwise.
        areas[p] = _common_area(a - a[0], b - a[0])
    return areas


@compiled
def _common_area(a, b):  # type: ignore[no-untyped-def]
    low = max(a[:, 1].min(), b[:, 1].min())
    high = min(a[:, 1].max(), b[:, 1].max())
    if low >= high or max(a[:, 0].min(), b[:, 0].min()) >= min(a[:, 0].max(), b[:, 0].max()):
        return 0.0
    levels = [low, high]
    for ring in (a, b):
        for v in range(len(ring)):
            if low < ring[v, 1] < high:
                levels.append(ring[v, 1])
    for i in range(len(a)):
        px, py, qx, qy = a[i - 1, 0], a[i - 1, 1], a[i, 0], a[i, 1]
        if max(py, qy) <= low or min(py, qy) >= high:
            continue
        for j in range(len(b)):
            rx, ry, sx, sy = b[j - 1, 0], b[j - 1, 1], b[j, 0], b[j, 1]
            if max(ry, sy) < min(py, qy) or min(ry, sy) > max(py, qy):
                continue
            if max(rx, sx) < min(px, qx) or min(rx, sx) > max(px, qx):
                continue
            denominator = (qx - px) * (sy - ry) - (qy - py) * (sx - rx)
            if denominator != 0.0:
                t = ((rx - px) * (sy - ry) - (ry - py) * (sx - rx)) / denominator
                y = py + t * (qy - py)
                if 0.0 < t < 1.0 and low < y < high:
                    levels.append(y)
    cuts = np.sort(np.array(levels))
    across_a, across_b = np.empty(len(a)), np.empty(len(b))
    area = 0.0
    for k in range(len(cuts) - 1):
        height = cuts[k + 1] - cuts[k]
        if height > 0.0:
            y = cuts[k] + height / 2
            count_a, count_b = _crossings(a, y, across_a), _crossings(b, y, across_b)
            area += height * _common_width(across_a, count_a, across_b, count_b)
    return area


@compiled
def _crossings(ring, y, across):  # type: ignore[no-untyped-def]
    """Fill ``across`` with the sorted x at which ``ring`` crosses the height ``y``; gives their number."""
    count = 0
    for v in range(len(ring)):
        px, py, qx, qy = ring[v - 1, 0], ring[v - 1, 1], ring[v, 0], ring[v, 1]
        if (py <= y) != (qy <= y):
            x = px + (y - py) / (qy - py) * (qx - px)
            at = count
            while at > 0 and across[at - 1] > x:
                across[at] = across[at - 1]
                at -= 1
            across[at] = x
            count += 1
    return count


@compiled
def _common_width(across_a, count_a, across_b, count_b):  # type: ignore[no-untyped-def]
    width = 0.0
    i, j = 0, 0
    while i + 1 < count_a and j + 1 < count_b:
        width += max(0.0, min(across_a[i + 1], across_b[j + 1]) - max(across_a[i], across_b[j]))
        if across_a[i + 1] < across_b[j + 1]:
            i += 2
        else:
            j += 2
    return width


def plainly_simple(vertices: npt.NDArray[np.float64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which rings certainly do not touch or cross themselves; of the others a geometry library must judge.

    Exact for coordinates that are multiples of 0.001 and rings less than 2000 px wide; ten times as fast as
    building geometries and asking them.

    Parameters
    ----------
    vertices : float64 array (V, 2)
    offsets : int64 array (N + 1,)

    Returns
    -------
    bool array (N,)
    """
    return _plainly_simple(vertices, offsets)


@compiled
def _plainly_simple(vertices, offsets):  # type: ignore[no-untyped-def]
    simple = np.zeros(len(offsets) - 1, dtype=np.bool_)
    ring = np.empty((_LONGEST_RING + 1, 2), dtype=np.int64)
    for n in range(len(offsets) - 1):
        first, count = offsets[n], offsets[n + 1] - offsets[n]
        if 3 <= count <= _LONGEST_RING:
            small = True
            for k in range(count + 1):
                for axis in range(2):
                    away = np.rint((vertices[first + k % count, axis] - vertices[first, axis]) * 1000.0)
                    small = small and abs(away) < 1e6
                    ring[k, axis] = np.int64(away) if small else 0
            simple[n] = small and _ring_is_simple(ring, count)
    return simple


@compiled
def _ring_is_simple(ring, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        ax, ay, bx, by = ring[i, 0], ring[i, 1], ring[i + 1, 0], ring[i + 1, 1]
        after = i + 2 if i + 2 <= count else 1
        ex, ey, fx, fy = bx - ax, by - ay, ring[after, 0] - bx, ring[after, 1] - by
        if (ex == 0 and ey == 0) or (ex * fy == ey * fx and ex * fx + ey * fy <= 0):
            return False  # no length, or straight back
        left, right, top, bottom = min(ax, bx), max(ax, bx), min(ay, by), max(ay, by)
        for j in range(i + 2, count - (i == 0)):
            cx, cy, dx, dy = ring[j, 0], ring[j, 1], ring[j + 1, 0], ring[j + 1, 1]
            if max(cx, dx) < left or min(cx, dx) > right or max(cy, dy) < top or min(cy, dy) > bottom:
                continue
            side_c, side_d = ex * (cy - ay) - ey * (cx - ax), ex * (dy - ay) - ey * (dx - ax)
            gx, gy = dx - cx, dy - cy
            side_a, side_b = gx * (ay - cy) - gy * (ax - cx), gx * (by - cy) - gy * (bx - cx)
            c_d_apart = (side_c > 0 and side_d > 0) or (side_c < 0 and side_d < 0)
            a_b_apart = (side_a > 0 and side_b > 0) or (side_a < 0 and side_b < 0)
            if not (c_d_apart or a_b_apart):
                return False
    return True

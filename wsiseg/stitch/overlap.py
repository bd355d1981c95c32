"""The common area of pairs of polygons, exact up to rounding and without geometry objects."""

from __future__ import annotations

import numpy as np

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import IntArray, Nuclei


def common_area(nuclei: Nuclei, pairs: IntArray) -> FloatArray:
    """Area of intersection of each pair (M, 2) of polygons, exact up to rounding, shape (M,).

    The plane is cut into slabs at the height of every vertex and crossing. Inside a slab no two edges cross, so the
    common width is linear in y and its value in the middle times the height is the area. For a ring that crosses
    itself the result is approximate, but nothing raises, unlike an overlay of geometry objects.
    """
    return _common_areas(nuclei.vertices, nuclei.offsets, np.asarray(pairs, dtype=np.int64))


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

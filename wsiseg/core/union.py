"""The area that outlines cover together, however they cross, at a cost that is known before it is paid.

Where N edges cross one another at random there are N²/9 crossings and as many faces: a file of 26 kB has 250,000,
which take minutes and a gigabyte to join. So crossings are counted first, by a sweep that stops at the limit.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import shapely

from wsiseg.core.compiled import compiled

Geometries: TypeAlias = npt.NDArray[Any]

MOST_CROSSINGS = 20_000
"""A second or two, and far more than anybody draws."""
_MOST_CONTACTS = 16
"""A vertex: edges that touch or run along one another, as those of neighbouring areas do."""
_MOST_TESTS = 2_000_000_000


class TooIntricate(ValueError):
    """The outlines cross too often."""


def covered_area(polygons: Geometries) -> shapely.Geometry:
    """What any of the polygons covers, as a valid Polygon or MultiPolygon; empty if it has no area.

    A point is inside a polygon if its outer ring goes round it an odd number of times and none of its holes does.

    Parameters
    ----------
    polygons : object array (N,) of shapely Polygon
        Valid or not.

    Raises
    ------
    TooIntricate
        Their edges cross, or touch, more often than is affordable.
    """
    few = _few_crossings(polygons, np.zeros(len(polygons), dtype=np.int64))
    if not few:
        _require(_few_crossings(polygons, np.arange(len(polygons))))
    sound = shapely.is_valid(polygons)
    parts = np.array([p if good else _split(p) for p, good in zip(polygons, sound, strict=True)], dtype=object)
    if few:
        return shapely.union_all(parts)
    parts = parts[np.argsort(shapely.bounds(parts)[:, 0], kind="stable")]
    # Neighbours first: what they share is gone before the next round, and each round's cost is known.
    while len(parts) > 1:
        _require(_few_crossings(parts, np.arange(len(parts)) // 2))
        firsts, seconds = parts[::2], parts[1::2]
        joined = shapely.union(firsts[: len(seconds)], seconds)
        parts = np.concatenate([joined, firsts[len(seconds) :]])
    return parts[0]


def _split(polygon: shapely.Geometry) -> shapely.Geometry:
    """An invalid polygon by the faces that its edges make: those inside its outer ring and no hole."""
    edges = shapely.union_all(shapely.get_parts(shapely.boundary(polygon)))  # crossings become vertices
    faces = shapely.get_parts(shapely.polygonize([edges]))
    at = shapely.get_coordinates(shapely.point_on_surface(faces))
    outer, *holes = (shapely.polygons(ring) for ring in shapely.get_rings(polygon))
    inside = _odd(outer, at)
    for hole in holes:
        inside &= ~_odd(hole, at)
    return shapely.coverage_union_all(faces[inside])


def _odd(ring: shapely.Geometry, at: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which points the ring goes round an odd number of times: prepared, crossings of a ray are counted."""
    shapely.prepare(ring)
    return np.asarray(shapely.intersects_xy(ring, at[:, 0], at[:, 1]))


def _require(few: bool) -> None:
    if not few:
        raise TooIntricate(f"edges that cross one another more than {MOST_CROSSINGS:,} times")


def _few_crossings(areas: Geometries, groups: npt.NDArray[np.int64]) -> bool:
    """Whether areas of the same group cross one another, or themselves, no more often than is affordable."""
    parts, owner = shapely.get_parts(areas, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    vertices, ring = shapely.get_coordinates(rings, return_index=True)
    edge = np.flatnonzero((ring[1:] == ring[:-1]) & (vertices[1:] != vertices[:-1]).any(axis=1))
    if len(edge) ** 2 <= 2 * MOST_CROSSINGS:
        return True
    group = groups[owner[part[ring[edge]]]]
    ends = np.stack([vertices[edge], vertices[edge + 1]], axis=1)
    swapped = ends[:, 0, 0] > ends[:, 1, 0]
    ends[swapped] = ends[swapped, ::-1]
    order = np.lexsort((ends[:, 0, 0], group))
    most_contacts = (1 + _MOST_CONTACTS) * len(edge)  # 1: each edge of a ring touches the next one
    crossings, contacts = _count(ends[order], group[order], MOST_CROSSINGS, most_contacts)
    return bool(crossings <= MOST_CROSSINGS and contacts <= most_contacts)


@compiled
def _count(ends, group, most_crossings, most_contacts):  # type: ignore[no-untyped-def]
    """How many pairs of edges of one group cross, and how many merely meet; what is beyond a limit is not counted.

    ``ends`` (N, 2, 2): both ends as x, y, the left one first; by group, then from left to right.
    """
    crossings, contacts, tests = 0, 0, 0
    for i in range(len(ends)):
        ax, ay, bx, by = ends[i, 0, 0], ends[i, 0, 1], ends[i, 1, 0], ends[i, 1, 1]
        top, bottom = min(ay, by), max(ay, by)
        ex, ey = bx - ax, by - ay
        for j in range(i + 1, len(ends)):
            if group[j] != group[i] or ends[j, 0, 0] > bx:
                break
            tests += 1
            cx, cy, dx, dy = ends[j, 0, 0], ends[j, 0, 1], ends[j, 1, 0], ends[j, 1, 1]
            if max(cy, dy) < top or min(cy, dy) > bottom:
                continue
            side_c, side_d = ex * (cy - ay) - ey * (cx - ax), ex * (dy - ay) - ey * (dx - ax)
            gx, gy = dx - cx, dy - cy
            side_a, side_b = gx * (ay - cy) - gy * (ax - cx), gx * (by - cy) - gy * (bx - cx)
            if (side_c > 0 and side_d > 0) or (side_c < 0 and side_d < 0):
                continue
            if (side_a > 0 and side_b > 0) or (side_a < 0 and side_b < 0):
                continue
            if side_a == 0 or side_b == 0 or side_c == 0 or side_d == 0:
                contacts += 1
            else:
                crossings += 1
        if crossings > most_crossings or contacts > most_contacts or tests > _MOST_TESTS:
            return max(crossings, most_crossings + 1), contacts
    return crossings, contacts

"""Outlines as strangers give them, made valid: crossings repaired, what has no area left out, cut at an edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.rings import plainly_simple

_POLYGON = 3


@dataclass(frozen=True)
class Mended:
    """Nuclei in their order as valid polygons; how many had to be ``changed``, and how many were left ``out``."""

    nuclei: Nuclei
    changed: int
    out: int


def mend(nuclei: Nuclei) -> Mended:
    """Valid polygons: of an outline that crosses itself the largest part; without those that enclose nothing."""
    doubtful = np.flatnonzero(~plainly_simple(nuclei.vertices, nuclei.offsets))
    short = np.diff(nuclei.offsets)[doubtful] < 3
    judged = nuclei.take(doubtful[~short]).geometry()
    wrong = ~shapely.is_valid(judged)
    repaired = np.full(len(doubtful), None, dtype=object)
    repaired[~short] = judged
    repaired[np.flatnonzero(~short)[wrong]] = largest_polygons(shapely.make_valid(judged[wrong]))
    unsound = short.copy()
    unsound[~short] = wrong
    return _replaced(nuclei, doubtful[unsound], repaired[unsound])


def clip(nuclei: Nuclei, box: Box) -> Mended:
    """The valid polygons within a box: of one that the edge cuts the largest part; without those outside."""
    bounds = nuclei.bounds()
    low, high = np.array([box.x0, box.y0]), np.array([box.x1, box.y1])
    crossing = np.flatnonzero((bounds[:, :2] < low).any(axis=1) | (bounds[:, 2:] > high).any(axis=1))
    cut = shapely.intersection(nuclei.take(crossing).geometry(), shapely.box(box.x0, box.y0, box.x1, box.y1))
    return _replaced(nuclei, crossing, largest_polygons(cut))


def largest_polygons(geometries: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """For each geometry its largest polygon, or None where it has none with an area."""
    parts, owner = shapely.get_parts(geometries, return_index=True)
    while np.any(shapely.get_type_id(parts) > _POLYGON):  # collections in collections
        parts, inner = shapely.get_parts(parts, return_index=True)
        owner = owner[inner]
    area = np.where(shapely.get_type_id(parts) == _POLYGON, shapely.area(parts), 0.0)
    order = np.lexsort((area, owner))
    order = order[area[order] > 0]
    largest = np.full(len(geometries), None, dtype=object)
    largest[owner[order]] = parts[order]  # the last one assigned is the largest
    return largest


def _replaced(nuclei: Nuclei, rows: npt.NDArray[np.int64], polygons: npt.NDArray[np.object_]) -> Mended:
    """The nuclei with other polygons at some rows, and without those rows whose polygon is None."""
    if len(rows) == 0:
        return Mended(nuclei, 0, 0)
    there = polygons != np.array(None)
    kept = np.ones(len(nuclei), dtype=bool)
    kept[rows] = False
    columns = {name: column[rows[there]] for name, column in nuclei.columns.items()}
    both = Nuclei.concatenate([nuclei.take(kept), Nuclei.from_geometry(polygons[there], columns)])
    order = np.argsort(np.concatenate([np.flatnonzero(kept), rows[there]]), kind="stable")
    return Mended(both.take(order), int(there.sum()), int((~there).sum()))

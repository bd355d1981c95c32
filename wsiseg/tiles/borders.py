"""Where a slide ends: pixels beyond it for a network, and nuclei that reach beyond it.

Glass or white beyond the edge would be an edge of tissue that is not there: networks lose nuclei along it. So tiles
are continued by mirroring the slide, and what is found beyond the edge is cut off. Both depend on the slide's
lattice alone, not on the tile.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import shapely

from wsiseg.core.geometry import Lattice, Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.models.base import Segmenter

MIN_LEFT_UM2 = 4.0
"""Of a nucleus that the edge cuts, less than this is not kept."""


def segment_within(
    segmenter: Segmenter,
    image: npt.NDArray[np.uint8],
    window: Window,
    lattice: Lattice,
    calibration: Mapping[str, float],
) -> Nuclei:
    """What a segmenter finds of a slide in the window ``image`` (h, w, 3), in lattice coordinates."""
    (found,) = segmenter.segment([mirror_beyond(image, window, lattice)], calibration)
    return cut_at_edges(found.translate(window.x, window.y), lattice)


def mirror_beyond(image: npt.NDArray[np.uint8], window: Window, lattice: Lattice) -> npt.NDArray[np.uint8]:
    """``image`` with the pixels beyond the slide replaced by those mirrored at its edges.

    Parameters
    ----------
    image : uint8 array (h, w, 3)
        The lattice pixels of ``window``.
    window : Window
    lattice : Lattice
        The slide's; a last pixel that it covers in part counts as beyond.

    Returns
    -------
    uint8 array (h, w, 3)
        ``image`` itself where all of it is on the slide. Where the mirror image of a pixel lies outside the window,
        the nearest one inside stands for it.
    """
    width, height = lattice.whole
    columns = _mirrored(window.x, window.width, width)
    rows = _mirrored(window.y, window.height, height)
    if columns is not None:
        image = image[:, columns]
    return image if rows is None else image[rows]


def cut_at_edges(nuclei: Nuclei, lattice: Lattice) -> Nuclei:
    """The parts of ``nuclei``, in lattice coordinates, that lie on the slide.

    What lies beyond is dropped; of a nucleus that the edge divides, the largest part on the slide is kept unless
    it is smaller than :data:`MIN_LEFT_UM2`.
    """
    width, height, mpp = lattice.width, lattice.height, lattice.mpp
    bounds = nuclei.bounds()
    inside = (bounds[:, 0] >= 0) & (bounds[:, 1] >= 0) & (bounds[:, 2] <= width) & (bounds[:, 3] <= height)
    if inside.all():
        return nuclei
    divided = np.flatnonzero(
        ~inside & (bounds[:, 0] < width) & (bounds[:, 1] < height) & (bounds[:, 2] > 0) & (bounds[:, 3] > 0)
    )
    slide = shapely.box(0.0, 0.0, width, height)
    rings: list[npt.NDArray[np.float64]] = []
    kept: list[int] = []
    for n in divided:
        ring = nuclei.vertices[nuclei.offsets[n] : nuclei.offsets[n + 1]]
        parts = shapely.get_parts(shapely.intersection(shapely.Polygon(ring), slide))
        areas = shapely.area(parts)
        if len(parts) == 0 or areas.max() * mpp**2 < MIN_LEFT_UM2:
            continue
        # Turned as the tracer turns its rings.
        outline = shapely.orient_polygons(parts[int(np.argmax(areas))])
        rings.append(shapely.get_coordinates(shapely.get_exterior_ring(outline))[:-1])
        kept.append(int(n))
    cut = nuclei.take(kept)
    counts = [len(ring) for ring in rings]
    vertices = np.concatenate(rings) if rings else np.empty((0, 2))
    cut = Nuclei(vertices, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), cut.columns)
    return Nuclei.concatenate([nuclei.take(inside), cut])


def _mirrored(start: int, count: int, end: int) -> npt.NDArray[np.int64] | None:
    """For each position of a window, the one in it that stands for it; None where all are on the slide."""
    if start >= 0 and start + count <= end:
        return None
    at = np.arange(start, start + count)
    at = np.where(at < 0, -1 - at, at)
    at = np.where(at >= end, 2 * end - 1 - at, at)
    return np.clip(at - start, max(0, -start), max(0, min(count, end - start) - 1))

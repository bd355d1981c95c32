"""What one tile hands over to stitching: the nuclei that it owns, and those in a band around its core."""

from __future__ import annotations

import numpy as np

from wsiseg.core.geometry import FloatArray
from wsiseg.core.grid import TileGrid
from wsiseg.core.nuclei import BoolArray, Nuclei

#: Width of the band on each side of a seam, in µm: above the usual nucleus' diameter, far below the halo.
BAND_UM = 10.0


def select_candidates(nuclei: Nuclei, grid: TileGrid, tile_index: int, band_px: float) -> Nuclei:
    """What one tile hands over: the nuclei that it owns, and those within the band around its core.

    Parameters
    ----------
    nuclei : Nuclei
        All nuclei of the tile's read window, in lattice coordinates.
    grid : TileGrid
    tile_index : int
    band_px : float
        Width of the band in lattice pixels, at least the usual nucleus' diameter and well below the halo: what
        lies further from the core may be cut off by the read window, so it is not offered.

    Returns
    -------
    Nuclei
        In lattice coordinates, with the columns ``tile`` (int64); ``owned`` (bool), the centroid lies in the
        core; ``seam`` (bool), the bounds come within the band of a seam, so that :func:`resolve_seam` has to see
        it. Every candidate that is not owned has ``seam`` set.
    """
    centroids = nuclei.centroids()
    owned = grid.owner(centroids) == tile_index
    row, column = grid.position(tile_index)
    core = grid.core(tile_index)
    beyond = np.zeros(len(nuclei))
    sides = ((0, core.x, core.x1, column, grid.columns), (1, core.y, core.y1, row, grid.rows))
    for axis, low, high, place, count in sides:
        # There is no seam at the slide's own edge: points beyond it belong to the tile at the edge.
        if place > 0:
            beyond = np.maximum(beyond, low - centroids[:, axis])
        if place < count - 1:
            beyond = np.maximum(beyond, centroids[:, axis] - high)
    seam = _near_seam(nuclei.bounds(), grid, band_px)
    tile = np.full(len(nuclei), tile_index, dtype=np.int64)
    offered = owned | (beyond <= band_px)
    return nuclei.with_columns(tile=tile, owned=owned, seam=seam | ~owned).take(offered)


def _near_seam(bounds: FloatArray, grid: TileGrid, band_px: float) -> BoolArray:
    near = np.zeros(len(bounds), dtype=bool)
    for axis, count in ((0, grid.columns), (1, grid.rows)):
        first = np.maximum(np.ceil((bounds[:, axis] - band_px) / grid.tile), 1)
        last = np.minimum(np.floor((bounds[:, axis + 2] + band_px) / grid.tile), count - 1)
        near |= first <= last
    return near

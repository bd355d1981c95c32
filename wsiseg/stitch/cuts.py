"""Do the tiles of another program show in its nuclei? The audit of our own seams, along the lines of others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from wsiseg.core.geometry import Box, Scale
from wsiseg.core.grid import TileGrid
from wsiseg.core.nuclei import Nuclei
from wsiseg.results.record import Seams
from wsiseg.stitch.audit import Tally

NO_SEAMS = Seams(0, 0, 0, None, None)
"""The audit where no lines are known: nothing was looked at."""

_NEAR_PX = 1.0
"""An outline through the centres of pixels ends up to one pixel before the line that cut it."""

_ENOUGH = 100
"""Nuclei that a mean is of."""


@dataclass(frozen=True)
class CutLines:
    """The lines between another program's square tiles, in level-0 pixels.

    Attributes
    ----------
    pitch : int
        Side of a tile.
    x, y : float
        A corner of one.
    """

    pitch: int
    x: float = 0.0
    y: float = 0.0


def audit_cuts(parts: Iterable[Nuclei], lines: CutLines, slide: Box, band_px: float) -> Seams:
    """Whether nuclei end at the lines, and whether there are more or fewer beside them.

    Parameters
    ----------
    parts : iterable of Nuclei
        In level-0 coordinates, in any order.
    lines : CutLines
    slide : Box
        The whole of level 0.
    band_px : float
        Half the width of the band along a line in which nuclei are counted, in level-0 pixels.

    Returns
    -------
    Seams
        Without duplicates and adopted ones: nothing is decided here.
    """
    left, top = _first(lines.x, lines.pitch), _first(lines.y, lines.pitch)
    grid = TileGrid(round(slide.x1 - left), round(slide.y1 - top), lines.pitch, 0)
    tally = Tally(grid, Scale(1.0), band_px, _NEAR_PX)
    for part in parts:
        moved = part.translate(-left, -top)
        centroids = moved.centroids()
        tally.result(moved.with_columns(tile=grid.owner(centroids)), centroids)
    return tally.audit()


def edge_contrast(parts: Iterable[Nuclei], lines: CutLines, slide: Box) -> float | None:
    """Haematoxylin of nuclei in tiles that the slide's edge makes oblong, over that in square ones.

    Parameters
    ----------
    parts : iterable of Nuclei
        In level-0 coordinates, with the column ``hematoxylin_od``.
    lines : CutLines
    slide : Box
        The whole of level 0.

    Returns
    -------
    float or None
        About 1 where nuclei lie on nuclei in both; None where either has fewer than 100.
    """
    sums, counts = np.zeros(2), np.zeros(2, dtype=np.int64)
    for part in parts:
        density = part.columns["hematoxylin_od"].astype(np.float64)
        start = np.floor((part.centroids() - (lines.x, lines.y)) / lines.pitch) * lines.pitch + (lines.x, lines.y)
        sides = np.minimum(start + lines.pitch, (slide.x1, slide.y1)) - np.maximum(start, 0.0)
        oblong = (np.abs(sides[:, 0] - sides[:, 1]) > _NEAR_PX).astype(np.int64)
        known = np.isfinite(density)
        sums += np.bincount(oblong[known], weights=density[known], minlength=2)
        counts += np.bincount(oblong[known], minlength=2)
    if counts.min() < _ENOUGH or sums[0] <= 0:
        return None
    return float(sums[1] / counts[1] / (sums[0] / counts[0]))


def _first(at: float, pitch: int) -> float:
    """The line before which there is no tile: the last one at the slide's edge, which is no seam."""
    first = at % pitch
    return first if first <= _NEAR_PX else first - pitch

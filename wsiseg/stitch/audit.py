"""Can seams be seen in a result? Counts of nuclei near seams and of straight edges on them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray, Scale
from wsiseg.core.grid import TileGrid
from wsiseg.core.nuclei import BoolArray, IntArray, Nuclei
from wsiseg.core.rings import ring_area
from wsiseg.results.record import Seams

_FEW = 50  # below this many nuclei a ratio of the audit says nothing
# Imaginary nuclei and edges as sound seams would have them, so that chance makes no finding of small numbers:
# nuclei cluster, and the density's standard deviation is 4% at the number where it is largest, less at all others.
_SOUND_NUCLEI = 500
_SOUND_EDGES = 20


@dataclass
class Tally:
    """Counts for :class:`Seams`, part by part.

    ``near_px``: so far from a seam, in lattice pixels, an edge still lies on it.
    """

    grid: TileGrid
    scale: Scale
    band_px: float
    near_px: float = 1e-3
    duplicates: int = 0
    adopted: int = 0
    # Index 0: the band, or seams. Index 1: beside the band, or control lines.
    counts: IntArray = field(default_factory=lambda: np.zeros(2, dtype=np.int64))
    tiles: set[int] = field(default_factory=set)
    touching: IntArray = field(default_factory=lambda: np.zeros(2, dtype=np.int64))
    straight: IntArray = field(default_factory=lambda: np.zeros(2, dtype=np.int64))

    def copy(self) -> Tally:
        """One that counts on by itself."""
        return replace(
            self,
            counts=self.counts.copy(),
            tiles=set(self.tiles),
            touching=self.touching.copy(),
            straight=self.straight.copy(),
        )

    def decisions(self, nuclei: Nuclei, keep: BoolArray) -> None:
        owned = nuclei.columns["owned"].astype(bool)
        self.duplicates += int((owned & ~keep).sum())
        self.adopted += int((keep & ~owned).sum())

    def result(self, kept: Nuclei, centroids: FloatArray) -> None:
        distance = self.grid.seam_distance(centroids)
        self.counts += [(distance < self.band_px).sum(), (distance < 3 * self.band_px).sum()]
        self.tiles.update(np.unique(kept.columns["tile"]).tolist())
        _count_edges(
            kept.vertices,
            kept.offsets,
            self.scale.downsample,
            (self.grid.tile, self.grid.columns, self.grid.rows),
            self.near_px,
            self.touching,
            self.straight,
        )

    def audit(self) -> Seams:
        band, beside = int(self.counts[0]), int(self.counts[1] - self.counts[0])
        band_area, wide_area = (self._area(k * self.band_px) for k in (1, 3))
        beside_area = wide_area - band_area
        density = None
        if beside >= _FEW and band_area > 0 and beside_area > 0:
            expected = beside / beside_area * band_area
            density = float((band + _SOUND_NUCLEI) / (expected + _SOUND_NUCLEI))
        return Seams(band, self.duplicates, self.adopted, density, self._straight_edge_ratio())

    def _area(self, distance: float) -> float:
        """Lattice area within ``distance`` of the seams of the tiles that hold nuclei."""
        return sum(_area_near_seams(self.grid, tile, distance) for tile in sorted(self.tiles))

    def _straight_edge_ratio(self) -> float | None:
        if self.touching.min() < _FEW:
            return None
        overall = self.straight.sum() / self.touching.sum()
        if overall == 0:
            return 1.0
        shares = (self.straight + _SOUND_EDGES) / (self.touching + _SOUND_EDGES / overall)
        return float(shares[0] / shares[1])


def _area_near_seams(grid: TileGrid, tile: int, distance: float) -> float:
    """Lattice area of a core within ``distance`` of its seams."""
    core, (row, column) = grid.core(tile), grid.position(tile)
    across = (column > 0) + (column < grid.columns - 1)
    down = (row > 0) + (row < grid.rows - 1)
    width, height = max(0.0, core.width - across * distance), max(0.0, core.height - down * distance)
    return core.area - width * height


@compiled
def _count_edges(vertices, offsets, downsample, grid, near, touching, straight):  # type: ignore[no-untyped-def]
    """Count nuclei that touch a seam (0) or a control line (1), and those with a straight edge on it.

    Control lines are parallel to the seams at a quarter, half and three quarters of the way.
    """
    tile, columns, rows = grid
    for n in range(len(offsets) - 1):
        first, last = offsets[n], offsets[n + 1]
        enough = -1.0
        for axis in range(2):
            low, high = np.inf, -np.inf
            for v in range(first, last):
                low, high = min(low, vertices[v, axis]), max(high, vertices[v, axis])
            low, high = low / downsample - near, high / downsample + near
            count = columns if axis == 0 else rows
            for quarter in range(4):
                shift = quarter * tile // 4
                k = np.floor((high - shift) / tile)
                line = k * tile + shift
                if line < low or k < (quarter == 0) or k >= count:
                    continue
                if enough < 0:
                    ring = vertices[first:last] - vertices[first]
                    # Half the diameter of the circle with the nucleus' area.
                    enough = np.sqrt(ring_area(ring) / np.pi) / downsample
                length, before = 0.0, last - 1
                for v in range(first, last):
                    p, q = vertices[before, axis] / downsample, vertices[v, axis] / downsample
                    if abs(p - line) < near and abs(q - line) < near:
                        length += abs(vertices[before, 1 - axis] - vertices[v, 1 - axis]) / downsample
                    before = v
                touching[min(quarter, 1)] += 1
                straight[min(quarter, 1)] += length >= enough

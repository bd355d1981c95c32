"""Every nucleus exactly once: candidates at seams, which of them to keep, and the file order.

A tile owns the nuclei whose area centroid lies in its core. Away from seams that is the whole rule. Near one, two
tiles see the same nucleus with slightly different centroids, so ownership alone duplicates or loses about one in
a thousand there. Therefore each tile also delivers what it does *not* own but sees within a thin band around its
core, and candidates of different tiles are matched by overlap:

- Two candidates of different tiles *conflict* if their IoU is at least 0.3, or if they share at least 0.6 of the
  smaller one's area (one tile split what the other merged). Only one of a conflicting pair can stay.
- The choice is greedy in one total order: owned candidates first, because the owner is the authority; then the
  larger area, because dropping a fragment loses less than dropping what contains it; then score, bounds and tile.
  The order reads nothing but the candidates, so workers, batches and retries cannot change it.
- A candidate that its tile does not own stays only if another tile sees something there too (it conflicts with a
  candidate that was not kept): it is *adopted*. Without such a witness its owner looked and found nothing.

Polygons are never merged: a union of two noisy outlines is nobody's measurement. With a band of at least one
nucleus diameter, a pair that one tile merged and another split loses neither half.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsiseg.geometry import FloatArray, Scale
from wsiseg.grid import TileGrid
from wsiseg.nuclei import IntArray, Nuclei
from wsiseg.store import write_bytes

BoolArray = npt.NDArray[np.bool_]

#: Width of the band on each side of a seam, in µm: above the usual nucleus' diameter, far below the halo.
BAND_UM = 10.0
MIN_IOU = 0.3
MIN_CONTAINED = 0.6
#: Whole tiles are gathered to at least this many nuclei for one call of ``write``.
ROW_GROUP = 20_000

_SUMMARY = b"wsiseg.summary"
_HILBERT_BITS = 16
_FEW = 50  # below this many nuclei a ratio of the audit says nothing


@dataclass(frozen=True)
class SeamAudit:
    """What stitching did, and whether seams can be seen in the result.

    Attributes
    ----------
    band_nuclei : int
        Nuclei in the result whose centroid lies in the seam band.
    duplicates_removed : int
        Owned candidates that were dropped: ownership alone would have kept them twice.
    adopted : int
        Kept candidates that their tile does not own: ownership alone would have lost them.
    density_ratio : float or None
        Nuclei per area within the band over nuclei per area beside it (one to three bands from the seam).
        Near 1 if nothing is lost or doubled at seams. None where fewer than 50 nuclei lie beside seams.
    straight_edge_ratio : float or None
        Of the nuclei that touch a seam, the share with a straight edge on it of at least half the nucleus'
        diameter, over the same share at control lines between the seams. Near 1 if seams do not cut nuclei;
        drawn towards 1 where few have such an edge. None where fewer than 50 nuclei touch seams or controls.
    """

    band_nuclei: int
    duplicates_removed: int
    adopted: int
    density_ratio: float | None
    straight_edge_ratio: float | None


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


def resolve_seam(candidates: Nuclei) -> BoolArray:
    """Which of the candidates near seams to keep, by the rule in this module's description.

    Parameters
    ----------
    candidates : Nuclei
        With the columns ``tile``, ``owned`` and ``score``, in any order. Candidates of one tile never conflict.

    Returns
    -------
    bool array (N,)
    """
    return _choose(candidates, _conflicts(candidates, 0))


def stitch(
    read_part: Callable[[int], Nuclei],
    part_tiles: Sequence[tuple[int, int]],
    grid: TileGrid,
    scale: Scale,
    write: Callable[[Nuclei], object],
    *,
    band_px: float,
    row_group: int = ROW_GROUP,
) -> SeamAudit:
    """Stream the parts of a slide into one sequence of nuclei in which each occurs exactly once.

    The result depends on the candidates of each tile only: neither on how tiles are batched into parts nor on who
    computed them. Nuclei come tile by tile, inside a tile along a Hilbert curve. Each part is read twice, once for
    its candidates near seams and once to write it; held in memory are the seam candidates of about two rows of
    tiles, one part, and one row group.

    Parameters
    ----------
    read_part : callable
        Gives the candidates of part i (see :func:`select_candidates`), in level-0 coordinates; the same each time.
    part_tiles : sequence of (first tile, last tile)
        The range of tiles in each part, ascending and without overlap.
    grid : TileGrid
    scale : Scale
        From the grid's lattice to level 0.
    write : callable
        Takes the nuclei of one row group, in order; for example ``NucleiWriter.write``.
    band_px : float
        The band of :func:`select_candidates`, for the audit.
    row_group : int
        Whole tiles are gathered until they hold at least this many nuclei.

    Raises
    ------
    ValueError
        Parts out of order, or a part with tiles outside its range.
    """
    tally = _Tally(grid, scale, band_px)
    waiting: list[Nuclei] = []
    held = 0
    for part, keep in enumerate(_decide(read_part, part_tiles, grid)):
        nuclei = read_part(part)
        tally.decisions(nuclei, keep)
        kept = nuclei.take(keep)
        centroids = scale.from_level0(kept.centroids())
        tally.result(kept, centroids)
        order, starts = _file_order(kept.columns["tile"], centroids, grid)
        for rows in np.split(order, starts):
            if len(rows) == 0:
                continue
            waiting.append(kept.take(rows))
            held += len(rows)
            if held >= row_group:
                write(Nuclei.concatenate(waiting))
                waiting, held = [], 0
    if waiting:
        write(Nuclei.concatenate(waiting))
    return tally.audit()


def write_part(path: Path, nuclei: Nuclei, summary: Mapping[str, Any]) -> None:
    """Write a part, Arrow IPC with the batch's summary as JSON in its schema; final once it has its name.

    Raises
    ------
    EnvironmentFault
        The disk is full, read-only or not permitted.
    """
    table = nuclei.to_arrow()
    document = json.dumps(dict(summary), sort_keys=True, allow_nan=False).encode()
    table = table.replace_schema_metadata({_SUMMARY: document})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_bytes(Path(path), sink.getvalue().to_pybytes())


def read_part(path: Path, columns: Sequence[str] | None = None) -> Nuclei:
    """The nuclei of a part; ``columns`` limits the attributes that are copied from the mapped file."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        table = reader.read_all()
        if columns is not None:
            table = table.select(["vertices", *columns])
        nuclei = Nuclei.from_arrow(table)
        # The mapping ends here, so nothing may still point into it.
        return nuclei.with_columns(**{name: np.array(column) for name, column in nuclei.columns.items()})


def read_part_summary(path: Path) -> dict[str, Any]:
    """The summary of a part, without reading its nuclei."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        return json.loads((reader.schema.metadata or {})[_SUMMARY])


def _near_seam(bounds: FloatArray, grid: TileGrid, band_px: float) -> BoolArray:
    near = np.zeros(len(bounds), dtype=bool)
    for axis, count in ((0, grid.columns), (1, grid.rows)):
        first = np.maximum(np.ceil((bounds[:, axis] - band_px) / grid.tile), 1)
        last = np.minimum(np.floor((bounds[:, axis + 2] + band_px) / grid.tile), count - 1)
        near |= first <= last
    return near


# ---- which candidates conflict, and which of them stays


def _conflicts(candidates: Nuclei, start: int) -> IntArray:
    """Conflicting pairs (M, 2) of which at least one candidate has an index of ``start`` or more."""
    if len(candidates) <= start:
        return np.empty((0, 2), dtype=np.int64)
    bounds = candidates.bounds()
    boxes = shapely.box(*bounds.T)
    # A tree over rectangles: it finds the pairs, and building the polygons would take longer than comparing them.
    later, earlier = shapely.STRtree(boxes).query(boxes[start:])
    later = later + start
    pairs = np.stack([earlier, later], axis=1)[earlier < later].astype(np.int64)
    tile = candidates.columns["tile"]
    pairs = pairs[tile[pairs[:, 0]] != tile[pairs[:, 1]]]
    # The same operand order whatever order the candidates came in: the area must not differ in its last bit.
    pairs = np.where((tile[pairs[:, 0]] > tile[pairs[:, 1]])[:, None], pairs[:, ::-1], pairs)
    areas = candidates.areas()
    first, second = areas[pairs[:, 0]], areas[pairs[:, 1]]
    needed = np.minimum(MIN_IOU * (first + second) / (1 + MIN_IOU), MIN_CONTAINED * np.minimum(first, second))
    low = np.maximum(bounds[pairs[:, 0], :2], bounds[pairs[:, 1], :2])
    high = np.minimum(bounds[pairs[:, 0], 2:], bounds[pairs[:, 1], 2:])
    # Their rectangles cannot share less than they do: this drops nearly all mere neighbours.
    possible = np.prod(high - low, axis=1) >= needed
    pairs, needed = pairs[possible], needed[possible]
    shared = _common_areas(candidates.vertices, candidates.offsets, pairs)
    return pairs[(shared >= needed) & (shared > 0)]


def common_area(nuclei: Nuclei, pairs: IntArray) -> FloatArray:
    """Area of intersection of each pair (M, 2) of polygons, exact up to rounding, shape (M,).

    The plane is cut into slabs at the height of every vertex and crossing. Inside a slab no two edges cross, so the
    common width is linear in y and its value in the middle times the height is the area. For a ring that crosses
    itself the result is approximate, but nothing raises, unlike an overlay of geometry objects.
    """
    return _common_areas(nuclei.vertices, nuclei.offsets, np.asarray(pairs, dtype=np.int64))


def _choose(candidates: Nuclei, pairs: IntArray) -> BoolArray:
    owned = candidates.columns["owned"].astype(bool)
    bounds = candidates.bounds()
    keys = (
        candidates.columns["tile"],
        *bounds.T[::-1],
        -candidates.columns["score"].astype(np.float64),
        -candidates.areas(),
        ~owned,
    )
    indptr, neighbours = _adjacency(len(candidates), pairs)
    return _greedy(np.lexsort(keys), indptr, neighbours, owned)


def _adjacency(count: int, pairs: IntArray) -> tuple[IntArray, IntArray]:
    here = np.concatenate([pairs[:, 0], pairs[:, 1]])
    there = np.concatenate([pairs[:, 1], pairs[:, 0]])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(here, minlength=count))]).astype(np.int64)
    return indptr, there[np.argsort(here, kind="stable")]


@numba.njit(cache=True, nogil=True)
def _greedy(order, indptr, neighbours, owned):  # type: ignore[no-untyped-def]
    keep = np.zeros(len(order), dtype=np.bool_)
    beaten = np.zeros(len(order), dtype=np.bool_)
    for n in order:
        witnessed = indptr[n + 1] > indptr[n]
        if beaten[n] or not (owned[n] or witnessed):
            continue
        keep[n] = True
        for k in range(indptr[n], indptr[n + 1]):
            beaten[neighbours[k]] = True
    return keep


@numba.njit(cache=True, nogil=True)
def _common_areas(vertices, offsets, pairs):  # type: ignore[no-untyped-def]
    areas = np.zeros(len(pairs))
    for p in range(len(pairs)):
        a = vertices[offsets[pairs[p, 0]] : offsets[pairs[p, 0] + 1]]
        b = vertices[offsets[pairs[p, 1]] : offsets[pairs[p, 1] + 1]]
        # Relative to a vertex: level-0 coordinates of 1e5 would cost 10 digits otherwise.
        areas[p] = _common_area(a - a[0], b - a[0])
    return areas


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


# ---- the stream: what can be decided after each row of tiles


def _decide(
    read_part: Callable[[int], Nuclei], part_tiles: Sequence[tuple[int, int]], grid: TileGrid
) -> Iterator[BoolArray]:
    """The keep mask of each part, in order, as soon as later parts cannot change it.

    Equal to one :func:`resolve_seam` over the whole slide: a component of conflicting candidates is decided once
    every tile that could still extend it has been read, however far it chains along a seam.
    """
    # Tiles of rows this far apart or nearer read common pixels, so their candidates may conflict.
    reach = max(1, -(-2 * grid.halo // grid.tile))
    masks: dict[int, BoolArray] = {}
    fresh: list[Nuclei] = []
    pending = _Pending.none()
    emitted, rows_read = 0, 0
    for part in range(len(part_tiles)):
        nuclei = read_part(part)
        _check_part(nuclei, part, part_tiles)
        seam = nuclei.columns["seam"].astype(bool)
        masks[part] = nuclei.columns["owned"].astype(bool) & ~seam
        fresh.append(_seam_rows(nuclei, seam, part))
        del nuclei  # a part is large, and the caller will hold the next one
        last = part + 1 == len(part_tiles)
        now_read = grid.rows + reach if last else grid.position(part_tiles[part + 1][0])[0]
        if now_read > rows_read:
            rows_read = now_read
            pending = pending.join(fresh)
            fresh = []
            row = pending.candidates.columns["tile"].astype(np.int64) // grid.columns
            pending = pending.settle(row + reach < rows_read, masks)
            # Parts come in order, so the first undecided candidate holds back all parts from its own on.
            waiting = pending.candidates.columns["part"]
            while emitted < (waiting.min() if len(waiting) else part + 1):
                yield masks.pop(emitted)
                emitted += 1


@dataclass(frozen=True)
class _Pending:
    """Undecided seam candidates, with the part and row that each came from, and their conflicts so far."""

    candidates: Nuclei
    pairs: IntArray

    @classmethod
    def none(cls) -> _Pending:
        kinds = {"tile": "i8", "owned": "?", "score": "f4", "part": "i8", "row": "i8"}
        columns = {name: np.empty(0, dtype=kind) for name, kind in kinds.items()}
        return cls(Nuclei.empty(columns), np.empty((0, 2), dtype=np.int64))

    def join(self, fresh: Sequence[Nuclei]) -> _Pending:
        """With more candidates and the conflicts that they bring."""
        candidates = Nuclei.concatenate([self.candidates, *fresh])
        return _Pending(candidates, np.concatenate([self.pairs, _conflicts(candidates, len(self.candidates))]))

    def settle(self, final: BoolArray, masks: Mapping[int, BoolArray]) -> _Pending:
        """Decide the components whose candidates are all ``final``, into ``masks``; gives what remains."""
        count = len(self.candidates)
        edges = coo_array((np.ones(len(self.pairs), dtype=bool), tuple(self.pairs.T)), shape=(count, count))
        labels = connected_components(edges, directed=False)[1]
        closed = (np.bincount(labels, weights=~final) == 0)[labels] if count else final
        position = np.where(closed, np.cumsum(closed), np.cumsum(~closed)) - 1
        inside = closed[self.pairs[:, 0]]
        decided = self.candidates.take(closed)
        keep = _choose(decided, position[self.pairs[inside]])
        part, row = decided.columns["part"], decided.columns["row"]
        for number in np.unique(part):
            masks[int(number)][row[part == number]] = keep[part == number]
        return _Pending(self.candidates.take(~closed), position[self.pairs[~inside]])


def _seam_rows(nuclei: Nuclei, seam: BoolArray, part: int) -> Nuclei:
    """The seam candidates of a part with the columns of :class:`_Pending`."""
    rows = np.flatnonzero(seam)
    chosen = Nuclei(nuclei.vertices, nuclei.offsets, {n: nuclei.columns[n] for n in ("tile", "owned", "score")})
    return chosen.take(rows).with_columns(part=np.full(len(rows), part), row=rows)


def _check_part(nuclei: Nuclei, part: int, part_tiles: Sequence[tuple[int, int]]) -> None:
    first, last = part_tiles[part]
    tile = nuclei.columns["tile"]
    if first > last or (part and first <= part_tiles[part - 1][1]):
        raise ValueError(f"part {part} of tiles {first} to {last} is not after the one before it")
    if len(tile) and not (first <= tile.min() and tile.max() <= last):
        raise ValueError(f"part {part} of tiles {first} to {last} holds tiles {tile.min()} to {tile.max()}")


# ---- file order


def _file_order(tile: npt.NDArray[np.generic], centroids: FloatArray, grid: TileGrid) -> tuple[IntArray, IntArray]:
    """Indices that sort nuclei by tile and Hilbert curve, and where each tile but the first starts."""
    tile = tile.astype(np.int64)
    corner = np.stack([tile % grid.columns, tile // grid.columns], axis=1) * grid.tile
    place = (centroids - corner) / grid.tile
    cells = np.clip(place * 2**_HILBERT_BITS, 0, 2**_HILBERT_BITS - 1).astype(np.int64)
    order = np.lexsort((_hilbert(cells), tile))
    return order, np.flatnonzero(np.diff(tile[order])) + 1


@numba.njit(cache=True, nogil=True)
def _hilbert(cells):  # type: ignore[no-untyped-def]
    """Position of cells (N, 2), 16 bits each, along a Hilbert curve (Hilbert 1891, doi:10.1007/BF01199431)."""
    distance = np.zeros(len(cells), dtype=np.int64)
    for n in range(len(cells)):
        x, y = cells[n, 0], cells[n, 1]
        side = 1 << (_HILBERT_BITS - 1)
        while side > 0:
            right, upper = (x & side) > 0, (y & side) > 0
            distance[n] += side * side * ((3 * right) ^ upper)
            if not upper:
                if right:
                    x, y = side - 1 - (x & (side - 1)), side - 1 - (y & (side - 1))
                x, y = y, x
            side >>= 1
    return distance


# ---- the audit


@dataclass
class _Tally:
    """Counts for :class:`SeamAudit`, part by part."""

    grid: TileGrid
    scale: Scale
    band_px: float
    duplicates: int = 0
    adopted: int = 0
    # Index 0: the band, or seams. Index 1: beside the band, or control lines.
    counts: IntArray = field(default_factory=lambda: np.zeros(2, dtype=np.int64))
    areas: FloatArray = field(default_factory=lambda: np.zeros(2))
    touching: IntArray = field(default_factory=lambda: np.zeros(2, dtype=np.int64))
    straight: IntArray = field(default_factory=lambda: np.zeros(2, dtype=np.int64))

    def decisions(self, nuclei: Nuclei, keep: BoolArray) -> None:
        owned = nuclei.columns["owned"].astype(bool)
        self.duplicates += int((owned & ~keep).sum())
        self.adopted += int((keep & ~owned).sum())

    def result(self, kept: Nuclei, centroids: FloatArray) -> None:
        distance = self.grid.seam_distance(centroids)
        self.counts += [(distance < self.band_px).sum(), (distance < 3 * self.band_px).sum()]
        for tile in np.unique(kept.columns["tile"]):
            self.areas += [_area_near_seams(self.grid, int(tile), k * self.band_px) for k in (1, 3)]
        _count_edges(
            kept.vertices,
            kept.offsets,
            self.scale.downsample,
            (self.grid.tile, self.grid.columns, self.grid.rows),
            self.touching,
            self.straight,
        )

    def audit(self) -> SeamAudit:
        band, beside = int(self.counts[0]), int(self.counts[1] - self.counts[0])
        band_area, beside_area = self.areas[0], self.areas[1] - self.areas[0]
        density = None
        if beside >= _FEW and band_area > 0 and beside_area > 0:
            density = float((band / band_area) / (beside / beside_area))
        return SeamAudit(band, self.duplicates, self.adopted, density, self._straight_edge_ratio())

    def _straight_edge_ratio(self) -> float | None:
        if self.touching.min() < _FEW:
            return None
        overall = self.straight.sum() / self.touching.sum()
        if overall == 0:
            return 1.0
        # Five imaginary edges at the overall share on either side: chance must not make a ratio out of a handful.
        shares = (self.straight + 5) / (self.touching + 5 / overall)
        return float(shares[0] / shares[1])


def _area_near_seams(grid: TileGrid, tile: int, distance: float) -> float:
    """Lattice area of a core within ``distance`` of its seams."""
    core, (row, column) = grid.core(tile), grid.position(tile)
    across = (column > 0) + (column < grid.columns - 1)
    down = (row > 0) + (row < grid.rows - 1)
    width, height = max(0.0, core.width - across * distance), max(0.0, core.height - down * distance)
    return core.area - width * height


@numba.njit(cache=True, nogil=True)
def _count_edges(vertices, offsets, downsample, grid, touching, straight):  # type: ignore[no-untyped-def]
    """Count nuclei that touch a seam (0) or a control line (1), and those with a straight edge on it.

    Control lines are parallel to the seams at a quarter, half and three quarters of the way.
    """
    tile, columns, rows = grid
    near = 1e-3
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
                    enough = 0.5 * _diameter(vertices, first, last) / downsample
                length, before = 0.0, last - 1
                for v in range(first, last):
                    p, q = vertices[before, axis] / downsample, vertices[v, axis] / downsample
                    if abs(p - line) < near and abs(q - line) < near:
                        length += abs(vertices[before, 1 - axis] - vertices[v, 1 - axis]) / downsample
                    before = v
                touching[min(quarter, 1)] += 1
                straight[min(quarter, 1)] += length >= enough


@numba.njit(cache=True, nogil=True)
def _diameter(vertices, first, last):  # type: ignore[no-untyped-def]
    """Diameter of the circle with the area of one ring."""
    doubled, before = 0.0, last - 1
    x, y = vertices[first]
    for v in range(first, last):
        doubled += (vertices[before, 0] - x) * (vertices[v, 1] - y) - (vertices[v, 0] - x) * (
            vertices[before, 1] - y
        )
        before = v
    return np.sqrt(abs(doubled) * 2 / np.pi)

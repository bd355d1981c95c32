"""From parts in tile order to a stream of row groups: what can be decided after each row of tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray, Scale
from wsiseg.core.grid import TileGrid
from wsiseg.core.nuclei import BoolArray, IntArray, Nuclei
from wsiseg.results.record import Seams
from wsiseg.stitch.audit import Tally
from wsiseg.stitch.conflicts import choose, find_conflicts

#: Whole tiles are gathered to at least this many nuclei for one call of ``write``.
ROW_GROUP = 4_000

_HILBERT_BITS = 16


def stitch(
    read_part: Callable[[int], Nuclei],
    part_tiles: Sequence[tuple[int, int]],
    grid: TileGrid,
    scale: Scale,
    write: Callable[[Nuclei], object],
    *,
    band_px: float,
    row_group: int = ROW_GROUP,
) -> Seams:
    """Stream the parts of a slide into one sequence of nuclei in which each occurs exactly once.

    The result depends on the candidates of each tile only: neither on how tiles are batched into parts nor on who
    computed them. Nuclei come tile by tile, inside a tile along a Hilbert curve. Each part is read twice, once for
    its candidates near seams and once to write it; held in memory are the seam candidates of about two rows of
    tiles, one part, and one row group.

    Parameters
    ----------
    read_part : callable
        Gives the candidates of part i (see :func:`~wsiseg.stitch.select_candidates`), in level-0 coordinates;
        the same each time.
    part_tiles : sequence of (first tile, last tile)
        The range of tiles in each part, ascending and without overlap.
    grid : TileGrid
    scale : Scale
        From the grid's lattice to level 0.
    write : callable
        Takes the nuclei of one row group, in order; for example ``NucleiWriter.write``.
    band_px : float
        The band of :func:`~wsiseg.stitch.select_candidates`, for the audit.
    row_group : int
        Whole tiles are gathered until they hold at least this many nuclei.

    Raises
    ------
    ValueError
        Parts out of order, or a part with tiles outside its range.
    """
    tally = Tally(grid, scale, band_px)
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


def _decide(
    read_part: Callable[[int], Nuclei], part_tiles: Sequence[tuple[int, int]], grid: TileGrid
) -> Iterator[BoolArray]:
    """The keep mask of each part, in order, as soon as later parts cannot change it.

    Equal to one :func:`~wsiseg.stitch.resolve_seam` over the whole slide: a component of conflicting candidates is
    decided once every tile that could still extend it has been read, however far it chains along a seam.
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
        return _Pending(candidates, np.concatenate([self.pairs, find_conflicts(candidates, len(self.candidates))]))

    def settle(self, final: BoolArray, masks: Mapping[int, BoolArray]) -> _Pending:
        """Decide the components whose candidates are all ``final``, into ``masks``; gives what remains."""
        count = len(self.candidates)
        edges = coo_array((np.ones(len(self.pairs), dtype=bool), tuple(self.pairs.T)), shape=(count, count))
        labels = connected_components(edges, directed=False)[1]
        closed = (np.bincount(labels, weights=~final) == 0)[labels] if count else final
        position = np.where(closed, np.cumsum(closed), np.cumsum(~closed)) - 1
        inside = closed[self.pairs[:, 0]]
        decided = self.candidates.take(closed)
        keep = choose(decided, position[self.pairs[inside]])
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


def _file_order(tile: npt.NDArray[np.generic], centroids: FloatArray, grid: TileGrid) -> tuple[IntArray, IntArray]:
    """Indices that sort nuclei by tile and Hilbert curve, and where each tile but the first starts."""
    tile = tile.astype(np.int64)
    corner = np.stack([tile % grid.columns, tile // grid.columns], axis=1) * grid.tile
    place = (centroids - corner) / grid.tile
    cells = np.clip(place * 2**_HILBERT_BITS, 0, 2**_HILBERT_BITS - 1).astype(np.int64)
    order = np.lexsort((_hilbert(cells), tile))
    return order, np.flatnonzero(np.diff(tile[order])) + 1


@compiled
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

"""From parts in tile order to a stream of row groups: what can be decided after each row of tiles.

The stream may be taken up again: :class:`Stitching` is all that the next rows of tiles depend on, and where it is
interrupted changes nothing.
"""

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

#: Whole tiles are gathered to at least this many nuclei for one call of ``write``, or to a quarter of it where a
#: row of tiles ends: what lies in it may be wanted before the next row is there.
ROW_GROUP = 4_000

_HILBERT_BITS = 16


@dataclass(frozen=True)
class Stitching:
    """How far a slide is stitched.

    Attributes
    ----------
    parts : int
        How many are decided; their nuclei are written or ``waiting``.
    rows : int
        Rows of tiles whose candidates have all been read.
    masks : tuple of bool arrays
        Which candidates stay of the parts that are read and not all decided, as far as is known.
    pending : Pending
    waiting : Nuclei or None
        What is too little for a row group.
    tally : Tally
    """

    tally: Tally
    pending: Pending
    parts: int = 0
    rows: int = 0
    masks: tuple[BoolArray, ...] = ()
    waiting: Nuclei | None = None

    @classmethod
    def begin(cls, grid: TileGrid, scale: Scale, band_px: float) -> Stitching:
        return cls(Tally(grid, scale, band_px), Pending.none())


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
    """:func:`stitch_rows` of a whole slide, from its first part to its last."""
    begun = Stitching.begin(grid, scale, band_px)
    return stitch_rows(begun, read_part, part_tiles, None, write, row_group=row_group).tally.audit()


def stitch_rows(
    stitching: Stitching,
    read_part: Callable[[int], Nuclei],
    part_tiles: Sequence[tuple[int, int]],
    following: int | None,
    write: Callable[[Nuclei], object],
    *,
    row_group: int = ROW_GROUP,
) -> Stitching:
    """Go on with the stream of a slide's parts, which becomes nuclei of which each occurs exactly once.

    The result depends on the candidates of each tile only: neither on how tiles are batched into parts, nor on who
    computed them, nor on where the stream was interrupted. Nuclei come tile by tile, inside a tile along a Hilbert
    curve. Each part is read twice, once for its candidates near seams and once to write it; held in memory are the
    seam candidates of about two rows of tiles, one part, and one row group.

    Parameters
    ----------
    stitching : Stitching
        How far it is.
    read_part : callable
        Gives the candidates of part i of ``part_tiles`` (see :func:`~wsiseg.stitch.select_candidates`), in level-0
        coordinates; the same each time.
    part_tiles : sequence of (first tile, last tile)
        The range of tiles in each part that is not decided, ascending and without overlap: those that have been
        read (``masks``), then those that are new.
    following : int or None
        The first tile after them; None where there is none, and all is decided and written.
    write : callable
        Takes the nuclei of one row group, in order; for example ``Stretch.write``.
    row_group : int
        Whole tiles are gathered until they hold at least this many nuclei, or a quarter of it at a row's end.

    Raises
    ------
    ValueError
        Parts out of order, or a part with tiles outside its range.
    """
    grid, scale, tally = stitching.tally.grid, stitching.tally.scale, stitching.tally.copy()
    gathered = _Gathered(stitching.waiting, grid, write, row_group)
    undecided = _Undecided(stitching, grid)
    decided = 0
    for part, keep in undecided.decide(read_part, part_tiles, following):
        nuclei = read_part(part)
        tally.decisions(nuclei, keep)
        kept = nuclei.take(keep)
        centroids = scale.from_level0(kept.centroids())
        tally.result(kept, centroids)
        decided += 1
        order, starts = _file_order(kept.columns["tile"], centroids, grid)
        for rows in np.split(order, starts):
            if len(rows):
                gathered.add(kept.take(rows))
    next_tile = part_tiles[decided][0] if decided < len(part_tiles) else following
    gathered.row_ends(None if next_tile is None else grid.position(next_tile)[0])
    return Stitching(
        tally=tally,
        pending=undecided.pending,
        parts=stitching.parts + decided,
        rows=undecided.rows,
        masks=tuple(undecided.masks[part] for part in sorted(undecided.masks)),
        waiting=gathered.waiting(),
    )


class _Gathered:
    """Whole tiles until they are enough for a row group."""

    def __init__(
        self, waiting: Nuclei | None, grid: TileGrid, write: Callable[[Nuclei], object], row_group: int
    ) -> None:
        self._tiles = [] if waiting is None else [waiting]
        self._grid, self._write, self._row_group = grid, write, row_group

    def add(self, nuclei: Nuclei) -> None:
        """A tile's, which are some."""
        self.row_ends(self._row(nuclei))
        self._tiles.append(nuclei)
        self._write_if(self._row_group)

    def row_ends(self, following: int | None) -> None:
        """The next tile is of this row at least; None: there is no next one."""
        if self._tiles and (following is None or following > self._row(self._tiles[-1])):
            self._write_if(1 if following is None else self._row_group // 4)

    def waiting(self) -> Nuclei | None:
        return Nuclei.concatenate(self._tiles) if self._tiles else None

    def _write_if(self, enough: int) -> None:
        if sum(map(len, self._tiles)) >= enough:
            self._write(Nuclei.concatenate(self._tiles))
            self._tiles = []

    def _row(self, nuclei: Nuclei) -> int:
        return self._grid.position(int(nuclei.columns["tile"][-1]))[0]


class _Undecided:
    """Between the parts that are decided and those that are to be read.

    Equal to one :func:`~wsiseg.stitch.resolve_seam` over the whole slide: a component of conflicting candidates is
    decided once every tile that could still extend it has been read, however far it chains along a seam.
    """

    def __init__(self, stitching: Stitching, grid: TileGrid) -> None:
        self.grid = grid
        self.pending, self.rows = stitching.pending, stitching.rows
        self._first = stitching.parts
        self._fresh: list[Nuclei] = []
        self.masks = dict(enumerate(stitching.masks, start=stitching.parts))

    def decide(
        self, read_part: Callable[[int], Nuclei], part_tiles: Sequence[tuple[int, int]], following: int | None
    ) -> Iterator[tuple[int, BoolArray]]:
        """The place of each part and its keep mask, in order, as soon as later parts cannot change it."""
        begun = len(self.masks)
        for place in range(begun, len(part_tiles)):
            yield from self._decided(part_tiles[place][0])
            nuclei = read_part(place)
            _check_part(nuclei, place, part_tiles)
            seam = nuclei.columns["seam"].astype(bool)
            number = self._first + place
            self.masks[number] = nuclei.columns["owned"].astype(bool) & ~seam
            self._fresh.append(_seam_rows(nuclei, seam, number))
            del nuclei  # a part is large, and the caller will hold the next one
        yield from self._decided(following)
        self._join()

    def _decided(self, following: int | None) -> Iterator[tuple[int, BoolArray]]:
        """What can be decided where ``following`` is the first tile that is not read yet."""
        # Tiles of rows this far apart or nearer read common pixels, so their candidates may conflict.
        reach = max(1, -(-2 * self.grid.halo // self.grid.tile))
        rows = self.grid.rows + reach if following is None else self.grid.position(following)[0]
        if rows <= self.rows:
            return
        self.rows = rows
        self._join()
        row = self.pending.candidates.columns["tile"].astype(np.int64) // self.grid.columns
        self.pending = self.pending.settle(row + reach < rows, self.masks)
        # Parts come in order, so the first undecided candidate holds back all parts from its own on.
        undecided = self.pending.candidates.columns["part"]
        for number in sorted(self.masks):
            if len(undecided) and number >= undecided.min():
                break
            yield number - self._first, self.masks.pop(number)

    def _join(self) -> None:
        self.pending, self._fresh = self.pending.join(self._fresh), []


@dataclass(frozen=True)
class Pending:
    """Undecided seam candidates, with the part and row that each came from, and their conflicts so far."""

    candidates: Nuclei
    pairs: IntArray

    @classmethod
    def none(cls) -> Pending:
        kinds = {"tile": "i8", "owned": "?", "score": "f4", "part": "i8", "row": "i8"}
        columns = {name: np.empty(0, dtype=kind) for name, kind in kinds.items()}
        return cls(Nuclei.empty(columns), np.empty((0, 2), dtype=np.int64))

    def join(self, fresh: Sequence[Nuclei]) -> Pending:
        """With more candidates and the conflicts that they bring."""
        candidates = Nuclei.concatenate([self.candidates, *fresh])
        return Pending(candidates, np.concatenate([self.pairs, find_conflicts(candidates, len(self.candidates))]))

    def settle(self, final: BoolArray, masks: Mapping[int, BoolArray]) -> Pending:
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
        return Pending(self.candidates.take(~closed), position[self.pairs[~inside]])


def _seam_rows(nuclei: Nuclei, seam: BoolArray, part: int) -> Nuclei:
    """The seam candidates of a part with the columns of :class:`Pending`."""
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

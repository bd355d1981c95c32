"""Which true object shares how much area with which predicted one: label images by one sparse table, polygons by
a grid over their bounds and the exact common area of the pairs that are left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import IntArray, Nuclei

# Pairs whose polygons are copied out and compared at once: about 100 MB.
_BLOCK = 100_000
_BLOCK_PX = 1 << 22  # pixels of label images that are compared at once
_TABLE = 1 << 20  # largest label that is looked up in a table


@dataclass(frozen=True)
class Overlap:
    """Which of T true and P predicted objects share how much area; only pairs that share some are listed.

    Attributes
    ----------
    truth, pred : int64 array (K,)
        Indices of the pairs, 0 … T - 1 and 0 … P - 1.
    shared : float64 array (K,)
        Area of each intersection (pixels, or squared coordinate units).
    truth_area, pred_area : float64 array (T,), (P,)
    total : float or None
        Area of the whole image, objects and background; None where it is not known (polygons).
    """

    truth: IntArray
    pred: IntArray
    shared: FloatArray
    truth_area: FloatArray
    pred_area: FloatArray
    total: float | None = None

    @property
    def union(self) -> FloatArray:
        """Area of the union of each pair, shape (K,)."""
        return self.truth_area[self.truth] + self.pred_area[self.pred] - self.shared

    @property
    def iou(self) -> FloatArray:
        """Intersection over union of each pair, shape (K,)."""
        return self.shared / np.maximum(self.union, np.finfo(np.float64).tiny)

    @property
    def trivial(self) -> float | None:
        """The score that emptiness decides: 1 both empty, 0 one of them; None where both have objects."""
        empty = (len(self.truth_area) == 0) + (len(self.pred_area) == 0)
        return {0: None, 1: 0.0, 2: 1.0}[empty]

    def pairs(self, chosen: npt.NDArray[np.bool_]) -> Overlap:
        """The same objects with only the chosen pairs, a bool array (K,)."""
        return Overlap(
            self.truth[chosen],
            self.pred[chosen],
            self.shared[chosen],
            self.truth_area,
            self.pred_area,
            self.total,
        )


def label_overlap(truth: npt.NDArray[np.integer], pred: npt.NDArray[np.integer]) -> Overlap:
    """The table of overlaps of two label images of the same shape.

    Labels are relabelled contiguously first: they may be any non-negative integers, 0 is background. A label in
    several pieces is one object.

    Raises
    ------
    ValueError
        Shapes differ, or a label is negative.
    """
    if truth.shape != pred.shape:
        raise ValueError(f"label images of shapes {truth.shape} and {pred.shape} cannot be compared")
    t, p = _renumber(truth.ravel()), _renumber(pred.ravel())
    table = sparse.csr_array((len(t.area), len(p.area)), dtype=np.int32)
    for rows in _blocks(truth.size):
        true, found = t.of(rows), p.of(rows)
        both = np.flatnonzero((true > 0) & (found > 0))
        ones = np.ones(both.size, dtype=np.int32)
        here = sparse.coo_array((ones, (true[both] - 1, found[both] - 1)), shape=table.shape).tocsr()
        table = table + here if table.nnz else here
    table = table.tocoo()
    return Overlap(
        table.coords[0].astype(np.int64),
        table.coords[1].astype(np.int64),
        table.data.astype(np.float64),
        t.area.astype(np.float64),
        p.area.astype(np.float64),
        float(truth.size),
    )


def polygon_overlap(truth: Nuclei, pred: Nuclei, *, min_iou: float = 0.0, total: float | None = None) -> Overlap:
    """The table of overlaps of two sets of polygons in the same coordinates.

    Parameters
    ----------
    truth, pred : Nuclei
        Polygons of one set are expected not to overlap each other: scores of the foreground count area twice
        where they do.
    min_iou : float
        Pairs whose bounds and areas already exclude an IoU above this are left out, unmeasured. 0 keeps every
        pair that shares area; anything else serves only scores that do not look at lesser pairs.
    total : float or None
        Area of the slide or region in squared coordinate units, for the pixel accuracy.
    """
    truth, pred = Nuclei(truth.vertices, truth.offsets), Nuclei(pred.vertices, pred.offsets)
    truth_area, pred_area = truth.areas(), pred.areas()
    boxes = truth.bounds(), pred.bounds()
    t, p = _meeting(*boxes)
    low = np.maximum(boxes[0][t, :2], boxes[1][p, :2])
    high = np.minimum(boxes[0][t, 2:], boxes[1][p, 2:])
    most = np.minimum(np.prod(high - low, axis=1), np.minimum(truth_area[t], pred_area[p]))
    possible = most > min_iou * (truth_area[t] + pred_area[p] - most)
    t, p = t[possible], p[possible]
    shared = _shared(truth, pred, t, p)
    found = Overlap(t, p, shared, truth_area, pred_area, total)
    return found.pairs(shared > 0)


def aji(overlap: Overlap) -> float:
    """Aggregated Jaccard index: each true object takes its best prediction, which may be taken again.

    Kumar et al. 2017, doi:10.1109/TMI.2017.2677499. Of equally good predictions the one with the lower label is
    taken, as is usual.
    """
    if overlap.trivial is not None:
        return overlap.trivial
    return aggregate(overlap, best_pairs(overlap.truth, overlap.pred, overlap.iou))


def ratio(part: float, whole: float) -> float:
    """0 where nothing has an area, as of polygons that are lines."""
    return float(part / whole) if whole > 0 else 0.0


def best_pairs(own: IntArray, other: IntArray, *by: FloatArray) -> IntArray:
    """The row of each object in ``own`` that is greatest ``by`` key after key, on a tie the lower ``other``."""
    order = np.lexsort((-other, *by[::-1], own))
    rows = own[order]
    last = np.flatnonzero(np.append(rows[1:] != rows[:-1], True)) if rows.size else np.empty(0, np.int64)
    return order[last]


def aggregate(overlap: Overlap, pairs: IntArray) -> float:
    """What the pairs share, over the union of them and of every object that is in none."""
    shared = overlap.shared[pairs].sum()
    union = overlap.union[pairs].sum()
    missed = np.ones(len(overlap.truth_area), dtype=bool)
    missed[overlap.truth[pairs]] = False
    unused = np.ones(len(overlap.pred_area), dtype=bool)
    unused[overlap.pred[pairs]] = False
    return ratio(shared, union + overlap.truth_area[missed].sum() + overlap.pred_area[unused].sum())


@dataclass(frozen=True)
class _Renumbered:
    """A flat label image as labels 1 … n in the order of the old ones, their areas, and how they are looked up."""

    labels: npt.NDArray[np.integer]
    area: IntArray
    table: IntArray | None
    values: npt.NDArray[np.integer]

    def of(self, rows: slice) -> IntArray:
        """The new labels of some of the pixels."""
        labels = self.labels[rows]
        if self.table is not None:
            return self.table[labels]
        return (np.searchsorted(self.values, labels) + 1) * (labels > 0)


def _renumber(labels: npt.NDArray[np.integer]) -> _Renumbered:
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0:
        raise ValueError(f"negative label {low}: labels are 0 for background and 1, 2, … for objects")
    if high <= _TABLE:
        area = np.zeros(high + 1, dtype=np.int64)
        for rows in _blocks(labels.size):
            area += np.bincount(labels[rows], minlength=high + 1)
        area[0] = 0
        present = area > 0
        table = np.where(present, np.cumsum(present), 0)
        return _Renumbered(labels, area[present], table, np.flatnonzero(present))
    # Sparse ids, for example of a whole slide: a table would be longer than the image.
    found = [np.unique(labels[rows], return_counts=True) for rows in _blocks(labels.size)]
    values, place = np.unique(np.concatenate([names for names, _ in found]), return_inverse=True)
    area = np.zeros(len(values), dtype=np.int64)
    np.add.at(area, place.ravel(), np.concatenate([counts for _, counts in found]))
    return _Renumbered(labels, area[values > 0], None, values[values > 0])


def _blocks(pixels: int) -> Iterator[slice]:
    """Slices of an image: what is computed a pixel takes the memory of a block, whatever the image."""
    return (slice(start, start + _BLOCK_PX) for start in range(0, pixels, _BLOCK_PX))


def _shared(truth: Nuclei, pred: Nuclei, t: IntArray, p: IntArray) -> FloatArray:
    shared = np.empty(len(t))
    for start in range(0, len(t), _BLOCK):
        rows = slice(start, start + _BLOCK)
        # A copy of the block's polygons, not of all: both sets of a whole slide are gigabytes.
        true_rows, first = np.unique(t[rows], return_inverse=True)
        pred_rows, second = np.unique(p[rows], return_inverse=True)
        block = Nuclei.concatenate([truth.take(true_rows), pred.take(pred_rows)])
        shared[rows] = block.common_areas(np.column_stack([first, len(true_rows) + second]))
    return shared


def _meeting(first: FloatArray, second: FloatArray) -> tuple[IntArray, IntArray]:
    """The pairs of boxes, (N, 4) and (M, 4) as x0, y0, x1, y1, that share area; ordered by the first."""
    if len(first) == 0 or len(second) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    both = np.concatenate([first, second])
    corner, extent = both[:, :2].min(axis=0), np.ptp(np.vstack([both[:, :2], both[:, 2:]]), axis=0)
    # Cells of twice the usual object, but no more cells than a few times the objects: outliers cost nothing.
    usual = 2 * np.mean(both[:, 2:] - both[:, :2])
    cell = max(float(usual), float(np.sqrt(np.prod(extent) / (4 * len(both)))), float(extent.max()) * 1e-6, 1e-9)
    shape = np.floor(extent / cell).astype(np.int64) + 1
    cells = [np.floor((boxes.reshape(-1, 2, 2) - corner) / cell).astype(np.int64) for boxes in (first, second)]
    pairs = _join(first, second, cells[0], cells[1], int(shape[0]), int(shape[1]))
    return pairs[:, 0].copy(), pairs[:, 1].copy()


@compiled
def _join(first, second, first_cells, second_cells, columns, rows):  # type: ignore[no-untyped-def]
    """Pairs (K, 2) of boxes that share area; ``…_cells`` (N, 2, 2) are the cells of their two corners as x, y."""
    start = np.zeros(columns * rows + 1, dtype=np.int64)
    for m in range(len(second)):
        for y in range(second_cells[m, 0, 1], second_cells[m, 1, 1] + 1):
            for x in range(second_cells[m, 0, 0], second_cells[m, 1, 0] + 1):
                start[y * columns + x + 1] += 1
    for c in range(columns * rows):
        start[c + 1] += start[c]
    members = np.empty(start[-1], dtype=np.int64)
    used = start[:-1].copy()
    for m in range(len(second)):
        for y in range(second_cells[m, 0, 1], second_cells[m, 1, 1] + 1):
            for x in range(second_cells[m, 0, 0], second_cells[m, 1, 0] + 1):
                members[used[y * columns + x]] = m
                used[y * columns + x] += 1
    count, capacity = 0, 4 * len(first) + 64
    pairs = np.empty((capacity, 2), dtype=np.int64)
    for n in range(len(first)):
        for y in range(first_cells[n, 0, 1], first_cells[n, 1, 1] + 1):
            for x in range(first_cells[n, 0, 0], first_cells[n, 1, 0] + 1):
                for k in range(start[y * columns + x], start[y * columns + x + 1]):
                    m = members[k]
                    # Two boxes may share several cells: the one with the corner of their common part reports them.
                    if x != max(first_cells[n, 0, 0], second_cells[m, 0, 0]):
                        continue
                    if y != max(first_cells[n, 0, 1], second_cells[m, 0, 1]):
                        continue
                    if min(first[n, 2], second[m, 2]) <= max(first[n, 0], second[m, 0]):
                        continue
                    if min(first[n, 3], second[m, 3]) <= max(first[n, 1], second[m, 1]):
                        continue
                    if count == capacity:
                        capacity *= 2
                        grown = np.empty((capacity, 2), dtype=np.int64)
                        grown[:count] = pairs[:count]
                        pairs = grown
                    pairs[count, 0], pairs[count, 1] = n, m
                    count += 1
    return pairs[:count]

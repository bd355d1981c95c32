"""Objects paired one to one: the assignment of greatest total IoU, and what a threshold on IoU detects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import IntArray, Nuclei
from wsiseg.core.overlap import Overlap, polygon_overlap

# Pairs solved at once, at least; a group of pairs that hang together is never cut.
_SOLVED_AT_ONCE = 1000


@dataclass(frozen=True)
class Detection:
    """Objects found, at one IoU threshold.

    Attributes
    ----------
    tp, fp, fn : int
        Pairs, predictions without partner, true objects without partner.
    precision, recall, f1 : float
        0–1; 1 where neither side has objects, 0 where only one has.
    sq : float
        Mean IoU of the pairs; 0 without pairs (1 where neither side has objects).
    """

    tp: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float
    sq: float


def detection(overlap: Overlap, threshold: float = 0.5) -> Detection:
    """Objects paired one to one with IoU > ``threshold``.

    From 0.5 on such pairs are unique (objects of one segmentation must not overlap each other); below, the pairing
    of greatest total IoU among them is taken.
    """
    iou = overlap.iou
    if threshold < 0.5:
        passing = np.flatnonzero(iou > threshold)
        keep = passing[one_to_one(overlap.pairs(iou > threshold))]
    else:
        keep = np.flatnonzero(iou > threshold)
    tp = len(keep)
    fp, fn = len(overlap.pred_area) - tp, len(overlap.truth_area) - tp
    if overlap.trivial is not None:
        value = overlap.trivial
        return Detection(0, fp, fn, value, value, value, value)
    return Detection(
        tp,
        fp,
        fn,
        tp / (tp + fp),
        tp / (tp + fn),
        tp / (tp + 0.5 * (fp + fn)),
        float(iou[keep].mean()) if tp else 0.0,
    )


def match_polygons(truth: Nuclei, pred: Nuclei, iou: float = 0.5) -> Detection:
    """Precision, recall and F1 of two sets of polygons in the same coordinates, pairs having IoU > ``iou``."""
    return detection(polygon_overlap(truth, pred, min_iou=iou), iou)


def one_to_one(overlap: Overlap) -> IntArray:
    """The rows of ``overlap`` that make the assignment of greatest total IoU, in ascending order."""
    if len(overlap.truth) == 0:
        return np.empty(0, dtype=np.int64)
    group = _groups(overlap)
    alone = np.bincount(group)[group] == 1
    contested = np.flatnonzero(~alone)
    contested = contested[np.argsort(group[contested], kind="stable")]
    chosen = [np.flatnonzero(alone)]
    for rows in _batches(contested, group[contested]):
        chosen.append(rows[_assign(overlap.truth[rows], overlap.pred[rows], overlap.iou[rows])])
    return np.sort(np.concatenate(chosen))


def _groups(overlap: Overlap) -> IntArray:
    """The number of each row's group: rows of different groups have no object in common, however linked."""
    n, m = len(overlap.truth_area), len(overlap.pred_area)
    edges = np.ones(len(overlap.truth), dtype=np.int8)
    graph = sparse.coo_array((edges, (overlap.truth, n + overlap.pred)), shape=(n + m, n + m))
    return connected_components(graph, directed=False)[1][overlap.truth].astype(np.int64)


def _batches(rows: IntArray, group: IntArray) -> Iterator[IntArray]:
    """``rows``, sorted by ``group``, cut between groups: the solver's time is quadratic in what it gets at once."""
    ends = np.append(np.flatnonzero(group[1:] != group[:-1]) + 1, len(rows))
    start = 0
    while start < len(rows):
        following = min(int(np.searchsorted(ends, start + _SOLVED_AT_ONCE)), len(ends) - 1)
        stop = int(ends[following])
        yield rows[start:stop]
        start = stop


def _assign(truth: IntArray, pred: IntArray, iou: FloatArray) -> IntArray:
    t, p = (np.unique(index, return_inverse=True)[1] for index in (truth, pred))
    n, m = int(t.max()) + 1, int(p.max()) + 1
    # The solver wants every row matched: each true object gets a column of its own that is worth nothing. Ones
    # are added to every gain because a stored zero would not count as an edge; n of them are in every solution.
    gain = np.concatenate([1.0 + iou, np.ones(n)])
    columns = np.concatenate([p, m + np.arange(n)])
    graph = sparse.csr_array((gain, (np.concatenate([t, np.arange(n)]), columns)), shape=(n, m + n))
    rows, assigned = min_weight_full_bipartite_matching(graph, maximize=True)
    partner = np.full(n, -1, dtype=np.int64)
    partner[rows] = assigned
    return np.flatnonzero(partner[t] == p)

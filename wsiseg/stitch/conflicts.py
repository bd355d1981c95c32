"""Which candidates of different tiles are the same nucleus, and which of them stays (the rule of the package)."""

from __future__ import annotations

import numpy as np
import shapely

from wsiseg.core.compiled import compiled
from wsiseg.core.nuclei import BoolArray, IntArray, Nuclei

MIN_IOU = 0.3
MIN_CONTAINED = 0.6


def resolve_seam(candidates: Nuclei) -> BoolArray:
    """Which of the candidates near seams to keep, by the rule in this package's description.

    Parameters
    ----------
    candidates : Nuclei
        With the columns ``tile``, ``owned`` and ``score``, in any order. Candidates of one tile never conflict.

    Returns
    -------
    bool array (N,)
    """
    return choose(candidates, find_conflicts(candidates, 0))


def find_conflicts(candidates: Nuclei, start: int) -> IntArray:
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
    shared = candidates.common_areas(pairs)
    return pairs[(shared >= needed) & (shared > 0)]


def choose(candidates: Nuclei, pairs: IntArray) -> BoolArray:
    """Which candidates stay, given the pairs (M, 2) of them that conflict; bool (N,)."""
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


@compiled
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

"""Agreement of two instance segmentations: label images by one sparse table, polygons by a tree.

Conventions: labels need not be contiguous, 0 is background. Two empty segmentations agree (1); one empty
and one not do not (0). Averages over images are the caller's business: the field averages per image.

References
----------
.. [1] AJI: Kumar et al. 2017, doi:10.1109/TMI.2017.2677499.
.. [2] PQ: Kirillov et al. 2019, doi:10.1109/CVPR.2019.00963.
.. [3] AJI+, and PQ for nuclei: Graham et al. 2019, doi:10.1016/j.media.2019.101563.
.. [4] DICE2: Vu et al. 2019, doi:10.3389/fbioe.2019.00053.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import shapely
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from wsiseg.geometry import FloatArray
from wsiseg.nuclei import IntArray, Nuclei


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
    """

    truth: IntArray
    pred: IntArray
    shared: FloatArray
    truth_area: FloatArray
    pred_area: FloatArray

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


@dataclass(frozen=True)
class Scores:
    """Every score of one image; see the functions of the same names."""

    dice: float
    iou: float
    dice2: float
    aji: float
    aji_plus: float
    dq: float
    sq: float
    pq: float
    precision: float
    recall: float
    f1: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def label_overlap(truth: npt.NDArray[np.integer], pred: npt.NDArray[np.integer]) -> Overlap:
    """The table of overlaps of two label images of the same shape.

    Raises
    ------
    ValueError
        Shapes differ, or a label is negative.
    """
    if truth.shape != pred.shape:
        raise ValueError(f"label images of shapes {truth.shape} and {pred.shape} cannot be compared")
    t, truth_area = _contiguous(truth)
    p, pred_area = _contiguous(pred)
    both = np.flatnonzero((t > 0) & (p > 0))
    shape = (len(truth_area), len(pred_area))
    ones = np.ones(both.size, dtype=np.int32)
    table = sparse.coo_array((ones, (t[both] - 1, p[both] - 1)), shape=shape).tocsr().tocoo()
    return Overlap(
        table.coords[0].astype(np.int64),
        table.coords[1].astype(np.int64),
        table.data.astype(np.float64),
        truth_area.astype(np.float64),
        pred_area.astype(np.float64),
    )


def polygon_overlap(truth: Nuclei, pred: Nuclei) -> Overlap:
    """The table of overlaps of two sets of valid polygons in the same coordinates."""
    true_shapes, pred_shapes = truth.geometry(), pred.geometry()
    if len(truth) == 0 or len(pred) == 0:
        none = np.empty(0, dtype=np.int64)
        return Overlap(none, none, np.empty(0), truth.areas(), pred.areas())
    # Bounds that meet are enough for the tree: the area of the intersection decides.
    t, p = shapely.STRtree(pred_shapes).query(true_shapes)
    shared = shapely.area(shapely.intersection(true_shapes[t], pred_shapes[p]))
    keep = shared > 0
    return Overlap(t[keep].astype(np.int64), p[keep].astype(np.int64), shared[keep], truth.areas(), pred.areas())


def dice(overlap: Overlap) -> float:
    """2 |T ∩ P| / (|T| + |P|) of the foregrounds (objects of one segmentation must not overlap each other)."""
    if overlap.trivial is not None:
        return overlap.trivial
    total = overlap.truth_area.sum() + overlap.pred_area.sum()
    return float(2 * overlap.shared.sum() / total)


def iou(overlap: Overlap) -> float:
    """|T ∩ P| / |T ∪ P| of the foregrounds."""
    if overlap.trivial is not None:
        return overlap.trivial
    shared = overlap.shared.sum()
    return float(shared / (overlap.truth_area.sum() + overlap.pred_area.sum() - shared))


def dice2(overlap: Overlap) -> float:
    """2 Σ |t ∩ p| / Σ (|t| + |p|) over every pair that overlaps [4]_; 0 where none does."""
    if overlap.trivial is not None:
        return overlap.trivial
    total = (overlap.truth_area[overlap.truth] + overlap.pred_area[overlap.pred]).sum()
    return float(2 * overlap.shared.sum() / total) if total > 0 else 0.0


def aji(overlap: Overlap) -> float:
    """Aggregated Jaccard index [1]_: each true object takes its best prediction, which may be taken again."""
    if overlap.trivial is not None:
        return overlap.trivial
    # Best pair of each true object: the last of its rows when sorted by IoU, the lower prediction on a tie.
    order = np.lexsort((-overlap.pred, overlap.iou, overlap.truth))
    rows = overlap.truth[order]
    last = np.flatnonzero(np.append(rows[1:] != rows[:-1], True)) if rows.size else np.empty(0, np.int64)
    return _aggregate(overlap, order[last])


def aji_plus(overlap: Overlap) -> float:
    """AJI with each prediction taken at most once: the pairing of greatest total IoU [3]_."""
    if overlap.trivial is not None:
        return overlap.trivial
    return _aggregate(overlap, _one_to_one(overlap))


def detection(overlap: Overlap, threshold: float = 0.5) -> Detection:
    """Objects paired one to one with IoU > ``threshold``.

    From 0.5 on such pairs are unique; below, the pairing of greatest total IoU among them is taken.
    """
    keep = np.flatnonzero(overlap.iou > threshold)
    if threshold < 0.5:
        passing = Overlap(
            overlap.truth[keep],
            overlap.pred[keep],
            overlap.shared[keep],
            overlap.truth_area,
            overlap.pred_area,
        )
        keep = keep[_one_to_one(passing)]
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
        float(overlap.iou[keep].mean()) if tp else 0.0,
    )


def evaluate(truth: npt.NDArray[np.integer], pred: npt.NDArray[np.integer], threshold: float = 0.5) -> Scores:
    """Every score of one image.

    Parameters
    ----------
    truth, pred : int array (h, w)
        Instance labels, 0 is background.
    threshold : float
        IoU above which two objects are a pair: PQ = DQ · SQ [2]_, precision, recall and F1 (= DQ).
    """
    overlap = label_overlap(truth, pred)
    found = detection(overlap, threshold)
    return Scores(
        dice=dice(overlap),
        iou=iou(overlap),
        dice2=dice2(overlap),
        aji=aji(overlap),
        aji_plus=aji_plus(overlap),
        dq=found.f1,
        sq=found.sq,
        pq=found.f1 * found.sq,
        precision=found.precision,
        recall=found.recall,
        f1=found.f1,
    )


def match_polygons(truth: Nuclei, pred: Nuclei, iou: float = 0.5) -> Detection:
    """Precision, recall and F1 of two sets of polygons in the same coordinates, pairs having IoU > ``iou``."""
    return detection(polygon_overlap(truth, pred), iou)


def _contiguous(labels: npt.NDArray[np.integer]) -> tuple[IntArray, IntArray]:
    """Labels 1 … n in the order of the old ones, flat, and the n areas."""
    flat = labels.ravel()
    if flat.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    low, high = int(flat.min()), int(flat.max())
    if low < 0:
        raise ValueError(f"negative label {low}: labels are 0 for background and 1, 2, … for objects")
    if high > 8 * flat.size + 1024:  # sparse ids, for example of a whole slide: a table would be too long
        values, inverse = np.unique(flat, return_inverse=True)
        flat = inverse + int(values[0] > 0)
        high = int(flat.max())
    area = np.bincount(flat, minlength=high + 1)
    area[0] = 0
    present = area > 0
    lookup = np.cumsum(present) * present
    return lookup[flat].astype(np.int64), area[present].astype(np.int64)


def _aggregate(overlap: Overlap, pairs: IntArray) -> float:
    shared = overlap.shared[pairs].sum()
    union = overlap.union[pairs].sum()
    missed = np.ones(len(overlap.truth_area), dtype=bool)
    missed[overlap.truth[pairs]] = False
    unused = np.ones(len(overlap.pred_area), dtype=bool)
    unused[overlap.pred[pairs]] = False
    return float(shared / (union + overlap.truth_area[missed].sum() + overlap.pred_area[unused].sum()))


def _one_to_one(overlap: Overlap) -> IntArray:
    """The pairs of the assignment of greatest total IoU, in ascending order."""
    n, p = len(overlap.truth_area), len(overlap.pred_area)
    if len(overlap.truth) == 0:
        return np.empty(0, dtype=np.int64)
    # The solver wants every row matched: each true object gets a column of its own that is worth nothing. Ones
    # are added to every gain because a stored zero would not count as an edge; n of them are in every solution.
    rows = np.concatenate([overlap.truth, np.arange(n)])
    columns = np.concatenate([overlap.pred, p + np.arange(n)])
    gain = np.concatenate([1.0 + overlap.iou, np.ones(n)])
    graph = sparse.csr_array((gain, (rows, columns)), shape=(n, p + n))
    t, q = min_weight_full_bipartite_matching(graph, maximize=True)
    chosen = np.full(n, -1, dtype=np.int64)
    chosen[t] = q
    return np.flatnonzero(chosen[overlap.truth] == overlap.pred)

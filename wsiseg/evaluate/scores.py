"""Scores of one image from the table of its overlaps.

References
----------
.. [1] AJI: Kumar et al. 2017, doi:10.1109/TMI.2017.2677499.
.. [2] PQ: Kirillov et al. 2019, doi:10.1109/CVPR.2019.00963.
.. [3] AJI+, and PQ for nuclei: Graham et al. 2019, doi:10.1016/j.media.2019.101563.
.. [4] DICE2: Vu et al. 2019, doi:10.3389/fbioe.2019.00053.
.. [5] Object Dice: Sirinukunwattana et al. 2017, doi:10.1016/j.media.2016.08.008.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.overlap import Overlap, aggregate, aji, best_pairs, label_overlap, ratio
from wsiseg.evaluate.matching import detection, one_to_one


@dataclass(frozen=True)
class Scores:
    """Every score of one image that its overlaps decide; see the functions of the same names.

    ``precision``, ``recall`` and ``f1`` count objects; ``pixel_precision`` and ``pixel_recall`` count pixels.
    ``accuracy`` is None where the area of the whole image is not known.
    """

    dice: float
    iou: float
    accuracy: float | None
    pixel_precision: float
    pixel_recall: float
    dice2: float
    aji: float
    aji_plus: float
    dq: float
    sq: float
    pq: float
    precision: float
    recall: float
    f1: float
    object_dice: float

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


def evaluate(truth: npt.NDArray[np.integer], pred: npt.NDArray[np.integer], threshold: float = 0.5) -> Scores:
    """Every score of one image; see :func:`score`.

    Parameters
    ----------
    truth, pred : int array (h, w)
        Instance labels, 0 is background.
    threshold : float
        IoU above which two objects are a pair.
    """
    return score(label_overlap(truth, pred), threshold)


def score(overlap: Overlap, threshold: float = 0.5) -> Scores:
    """Every score that the overlaps decide.

    Parameters
    ----------
    overlap : Overlap
        Complete: of :func:`label_overlap`, or of :func:`polygon_overlap` with ``min_iou`` 0.
    threshold : float
        IoU above which two objects are a pair: PQ = DQ · SQ [2]_, precision, recall and F1 (= DQ).
    """
    found = detection(overlap, threshold)
    return Scores(
        dice=dice(overlap),
        iou=iou(overlap),
        accuracy=accuracy(overlap),
        pixel_precision=pixel_precision(overlap),
        pixel_recall=pixel_recall(overlap),
        dice2=dice2(overlap),
        aji=aji(overlap),
        aji_plus=aji_plus(overlap),
        dq=found.f1,
        sq=found.sq,
        pq=found.f1 * found.sq,
        precision=found.precision,
        recall=found.recall,
        f1=found.f1,
        object_dice=object_dice(overlap),
    )


def dice(overlap: Overlap) -> float:
    """2 |T ∩ P| / (|T| + |P|) of the foregrounds (objects of one segmentation must not overlap each other)."""
    if overlap.trivial is not None:
        return overlap.trivial
    return ratio(2 * overlap.shared.sum(), overlap.truth_area.sum() + overlap.pred_area.sum())


def iou(overlap: Overlap) -> float:
    """|T ∩ P| / |T ∪ P| of the foregrounds."""
    if overlap.trivial is not None:
        return overlap.trivial
    shared = overlap.shared.sum()
    return ratio(shared, overlap.truth_area.sum() + overlap.pred_area.sum() - shared)


def accuracy(overlap: Overlap) -> float | None:
    """The share of all pixels that are foreground in both or background in both; needs ``overlap.total``."""
    if overlap.total is None:
        return None
    if overlap.total == 0:
        return 1.0
    wrong = overlap.truth_area.sum() + overlap.pred_area.sum() - 2 * overlap.shared.sum()
    return float(1 - wrong / overlap.total)


def pixel_precision(overlap: Overlap) -> float:
    """|T ∩ P| / |P|."""
    if overlap.trivial is not None:
        return overlap.trivial
    return ratio(overlap.shared.sum(), overlap.pred_area.sum())


def pixel_recall(overlap: Overlap) -> float:
    """|T ∩ P| / |T|."""
    if overlap.trivial is not None:
        return overlap.trivial
    return ratio(overlap.shared.sum(), overlap.truth_area.sum())


def dice2(overlap: Overlap) -> float:
    """2 Σ |t ∩ p| / Σ (|t| + |p|) over every pair that overlaps [4]_; 0 where none does."""
    if overlap.trivial is not None:
        return overlap.trivial
    total = (overlap.truth_area[overlap.truth] + overlap.pred_area[overlap.pred]).sum()
    return ratio(2 * overlap.shared.sum(), total)


def aji_plus(overlap: Overlap) -> float:
    """AJI with each prediction taken at most once: the pairing of greatest total IoU [3]_."""
    if overlap.trivial is not None:
        return overlap.trivial
    return aggregate(overlap, one_to_one(overlap))


def object_dice(overlap: Overlap) -> float:
    """Dice of each object with the one it shares most area with, weighted by area, averaged over both sides [5]_.

    An object that meets none scores 0. Where two share equally much, the one with the better Dice is taken.
    """
    if overlap.trivial is not None:
        return overlap.trivial
    sizes = overlap.truth_area[overlap.truth] + overlap.pred_area[overlap.pred]
    pair_dice = 2 * overlap.shared / np.maximum(sizes, np.finfo(np.float64).tiny)
    sides = 0.0
    for own, other, area in (
        (overlap.truth, overlap.pred, overlap.truth_area),
        (overlap.pred, overlap.truth, overlap.pred_area),
    ):
        best = best_pairs(own, other, overlap.shared, pair_dice)
        sides += ratio((area[own[best]] * pair_dice[best]).sum(), area.sum())
    return sides / 2


def object_f1(overlap: Overlap, thresholds: Sequence[float]) -> dict[float, float]:
    """F1 of the objects paired one to one with an IoU above each of ``thresholds``."""
    return {threshold: detection(overlap, threshold).f1 for threshold in thresholds}

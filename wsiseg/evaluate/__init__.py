"""How well a segmentation agrees with a truth: scores of one image, and their mean over images.

Conventions: labels need not be contiguous, 0 is background. Two empty segmentations agree (1); one empty and one
not do not (0). The field averages per image: :func:`summarize` does. ``docs/metrics.md`` defines every score.
"""

from __future__ import annotations

from wsiseg.core.overlap import Overlap, label_overlap, polygon_overlap
from wsiseg.evaluate.intervals import Summary, summarize
from wsiseg.evaluate.matching import Detection, detection, match_polygons, one_to_one
from wsiseg.evaluate.pixels import auc, average_hausdorff
from wsiseg.evaluate.scores import (
    Scores,
    accuracy,
    aji,
    aji_plus,
    dice,
    dice2,
    evaluate,
    iou,
    object_dice,
    object_f1,
    pixel_precision,
    pixel_recall,
    score,
)
from wsiseg.evaluate.widths import WidthBin, minor_axes, width_bins

__all__ = [
    "Detection",
    "Overlap",
    "Scores",
    "Summary",
    "WidthBin",
    "accuracy",
    "aji",
    "aji_plus",
    "auc",
    "average_hausdorff",
    "detection",
    "dice",
    "dice2",
    "evaluate",
    "iou",
    "label_overlap",
    "match_polygons",
    "minor_axes",
    "object_dice",
    "object_f1",
    "one_to_one",
    "pixel_precision",
    "pixel_recall",
    "polygon_overlap",
    "score",
    "summarize",
    "width_bins",
]

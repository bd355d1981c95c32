"""Recall and precision by the width of nuclei: thin ones are lost first, and an average over all hides it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import FloatArray
from wsiseg.core.overlap import Overlap

WIDTHS_UM = (2.5, 3.5, 4.5)
"""Borders between the bins of minor axes."""


@dataclass(frozen=True)
class WidthBin:
    """Nuclei whose minor axis lies from ``low_um`` to below ``high_um`` (None: no upper end).

    Attributes
    ----------
    true, matched, untouched : int
        True objects; those of them with a partner; those that no predicted object shares a pixel with.
    found, correct : int
        Predicted objects, by their own minor axis; those of them with a partner.
    """

    low_um: float
    high_um: float | None
    true: int
    matched: int
    untouched: int
    found: int
    correct: int

    @property
    def name(self) -> str:
        return f"from {self.low_um:g}" if self.high_um is None else f"{self.low_um:g} – {self.high_um:g}"

    @property
    def recall(self) -> float | None:
        return self.matched / self.true if self.true else None

    @property
    def untouched_share(self) -> float | None:
        return self.untouched / self.true if self.true else None

    @property
    def precision(self) -> float | None:
        return self.correct / self.found if self.found else None


def minor_axes(labels: npt.NDArray[np.integer], mpp: float) -> FloatArray:
    """Minor axis (full length, µm) of each object: of the ellipse with its second moments, pixels being squares.

    Parameters
    ----------
    labels : int array (h, w)
        0 is background.
    mpp : float
        Microns per pixel.

    Returns
    -------
    float64 array (n,)
        In the order of the labels.
    """
    rows, columns = np.nonzero(labels)
    _, index = np.unique(labels[rows, columns], return_inverse=True)
    count = np.bincount(index).astype(np.float64)
    y, x = rows.astype(np.float64), columns.astype(np.float64)
    centre_y, centre_x = np.bincount(index, y) / count, np.bincount(index, x) / count
    dy, dx = y - centre_y[index], x - centre_x[index]
    yy, xx, xy = (np.bincount(index, product) / count for product in (dy * dy, dx * dx, dx * dy))
    # A pixel is a square, not a point: 1/12 each way.
    smaller = 0.5 * (yy + xx) + 1 / 12 - np.sqrt((0.5 * (yy - xx)) ** 2 + xy**2)
    return 4.0 * mpp * np.sqrt(smaller)


def width_bins(
    truth: npt.NDArray[np.integer],
    pred: npt.NDArray[np.integer],
    overlap: Overlap,
    mpp: float,
    threshold: float = 0.5,
) -> tuple[WidthBin, ...]:
    """Counts by minor axis of one image.

    Parameters
    ----------
    truth, pred : int array (h, w)
    overlap : Overlap
        Theirs, of :func:`wsiseg.core.overlap.label_overlap`.
    mpp : float
        Microns per pixel.
    threshold : float
        IoU above which two objects are a pair; from 0.5 on such pairs are unique.
    """
    pairs = overlap.iou > threshold
    matched = np.isin(np.arange(len(overlap.truth_area)), overlap.truth[pairs])
    touched = np.isin(np.arange(len(overlap.truth_area)), overlap.truth)
    correct = np.isin(np.arange(len(overlap.pred_area)), overlap.pred[pairs])
    of_truth, of_pred = (np.searchsorted(WIDTHS_UM, minor_axes(v, mpp), side="right") for v in (truth, pred))
    lows, highs = (0.0, *WIDTHS_UM), (*WIDTHS_UM, None)
    return tuple(
        WidthBin(
            low,
            high,
            int((of_truth == n).sum()),
            int(matched[of_truth == n].sum()),
            int((~touched)[of_truth == n].sum()),
            int((of_pred == n).sum()),
            int(correct[of_pred == n].sum()),
        )
        for n, (low, high) in enumerate(zip(lows, highs, strict=True))
    )


def add_bins(images: Sequence[tuple[WidthBin, ...]]) -> tuple[WidthBin, ...]:
    """The counts of several images together; of none that has any, nothing."""
    counted = [bins for bins in images if bins]
    return tuple(
        WidthBin(
            same[0].low_um,
            same[0].high_um,
            *(sum(getattr(b, name) for b in same) for name in ("true", "matched", "untouched", "found", "correct")),
        )
        for same in zip(*counted, strict=True)
    )

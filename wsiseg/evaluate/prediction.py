"""Predictions of quality against the quality itself: how well a judge ranks, errs, and knows how sure it is.

References
----------
.. [1] Expected calibration error over groups of equal size: Nguyen, O'Connor 2015, doi:10.18653/v1/D15-1182.
.. [2] Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
.. [3] Isotonic regression as calibration: Zadrozny, Elkan 2002, doi:10.1145/775047.775151.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import BoolArray, IntArray
from wsiseg.evaluate.pixels import auc

METRICS = ("rho", "auroc", "mae", "bias", "ece", "brier", "coverage")
"""What :func:`measure` gives."""
BINS = 10
"""Groups of equal size behind the calibration error and the reliability plot."""
NOMINAL = 0.90
"""What the intervals of an expected AJI should cover."""

_FOLDS = 10


@dataclass(frozen=True)
class Truth:
    """What P patches are in truth, columns (P,).

    Attributes
    ----------
    aji : float array
    bad : bool array
    judged : bool array
        Whether an AJI was expected of the patch: the others have a P(bad) alone.
    image : int array
        The number of its image: patches of one image are not independent.
    """

    aji: FloatArray
    bad: BoolArray
    judged: BoolArray
    image: IntArray

    def __len__(self) -> int:
        return len(self.aji)

    def take(self, rows: npt.NDArray[np.generic]) -> Truth:
        """The patches at ``rows``."""
        return Truth(self.aji[rows], self.bad[rows], self.judged[rows], self.image[rows])


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of P patches, columns (P,).

    Attributes
    ----------
    expected, low, high : float array
        The AJI and the ends of its 90% interval; read where the truth is ``judged``.
    p_bad : float array
        0–1.
    quality, badness : float array or None
        What it ranks the patches by: for their AJI, and for being bad. None where it ranks nothing.
    """

    expected: FloatArray
    low: FloatArray
    high: FloatArray
    p_bad: FloatArray
    quality: FloatArray | None = None
    badness: FloatArray | None = None

    def take(self, rows: npt.NDArray[np.generic]) -> Prediction:
        """The patches at ``rows``."""
        ranked = (None if part is None else part[rows] for part in (self.quality, self.badness))
        return Prediction(self.expected[rows], self.low[rows], self.high[rows], self.p_bad[rows], *ranked)


def measure(said: Prediction, truth: Truth) -> dict[str, float | None]:
    """How right a predictor is, by the names of :data:`METRICS`; None where a figure is not defined.

    ``rho``: Spearman's rank correlation of expected and true AJI. ``mae``, ``bias``: mean absolute and mean signed
    error of the expected AJI. ``coverage``: share of true AJIs within the intervals. These are over the patches of
    which an AJI is expected, the others over all. ``auroc``: the chance that of a bad and a good patch the bad one
    is said to be worse, ties half. ``ece``: :func:`calibration_error`. ``brier``: mean squared error of P(bad)
    [2]_.
    """
    rows = np.flatnonzero(truth.judged)
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    if len(rows):
        aji, error = truth.aji[rows], said.expected[rows] - truth.aji[rows]
        inside = (aji >= said.low[rows]) & (aji <= said.high[rows])
        values |= {
            "mae": float(np.abs(error).mean()),
            "bias": float(error.mean()),
            "coverage": float(inside.mean()),
        }
        values["rho"] = None if said.quality is None else rank_correlation(said.quality[rows], aji)
    if len(truth):
        values["ece"] = calibration_error(said.p_bad, truth.bad)
        values["brier"] = float(np.mean((said.p_bad - truth.bad) ** 2))
        values["auroc"] = None if said.badness is None else auc(truth.bad, said.badness)
    return values


def rank_correlation(first: FloatArray, second: FloatArray) -> float | None:
    """Spearman's ρ, ties with their mean rank; None where one side does not vary."""
    a, b = (ranks - ranks.mean() for ranks in (mean_ranks(first), mean_ranks(second)))
    spread = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / spread) if spread > 0 else None


def mean_ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1 on, of equal values their mean: scipy's ``rankdata``, which takes three times as long on few."""
    _, which, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[which]


def calibration_error(p_bad: FloatArray, bad: BoolArray, bins: int = BINS) -> float:
    """Expected calibration error: mean distance of P(bad) from the share of bad patches, over groups [1]_.

    Parameters
    ----------
    p_bad : float array (P,)
    bad : bool array (P,)
    bins : int
        Groups of equal size, see :func:`equal_groups`.
    """
    group = equal_groups(p_bad, bins)
    off = np.bincount(group, p_bad - bad)
    return float(np.abs(off).sum() / len(p_bad))


def equal_groups(values: FloatArray, bins: int = BINS) -> IntArray:
    """The group 0 … ``bins`` - 1 of each value: of equal size in the order of the values.

    Equal values are in the same group, so that groups do not depend on the order of the patches; with many of them
    sizes differ.
    """
    return np.minimum((mean_ranks(values) - 0.5) / len(values) * bins, bins - 1).astype(np.int64)


def constant(truth: Truth) -> Prediction | None:
    """The same for every patch: median AJI, its interval, and the share of bad ones.

    Each image gets that of the other images, in ten folds: it knows the cohort's truth, which a judge does not.
    None where there is only one image, or of none an AJI is expected.
    """
    said = _blank(len(truth))
    for fold, rest in _folds(truth):
        known = truth.aji[rest & truth.judged]
        if len(known) == 0:
            return None
        low, middle, high = np.quantile(known, [(1 - NOMINAL) / 2, 0.5, (1 + NOMINAL) / 2])
        said.expected[fold], said.low[fold], said.high[fold] = middle, low, high
        said.p_bad[fold] = truth.bad[rest].mean()
    return said if truth.image.size and np.isfinite(said.p_bad).all() else None


def by_score(score: FloatArray, truth: Truth) -> Prediction | None:
    """By the mean score of a patch's nuclei alone, which ranks as it is.

    Isotonic regression [3]_ on the other images, in ten folds, makes an AJI, its interval and P(bad) of it: it
    knows the cohort's truth, which a judge does not. A patch without nuclei has the score 0.

    Parameters
    ----------
    score : float array (P,)
        NaN: without nuclei.

    Returns
    -------
    Prediction or None
        None where no patch has a score, and as :func:`constant`.
    """
    if not np.isfinite(score).any():
        return None
    score = np.where(np.isfinite(score), score, 0.0)
    said = _blank(len(truth))
    for fold, rest in _folds(truth):
        known = rest & truth.judged
        if not known.any():
            return None
        said.expected[fold] = _isotonic(score[known], truth.aji[known])(score[fold])
        said.p_bad[fold] = _isotonic(-score[rest], truth.bad[rest].astype(np.float64))(-score[fold])
    if not np.isfinite(said.p_bad).all():
        return None
    off = truth.aji - said.expected  # of images that the fit had not seen: seen ones would make it too sure
    for fold, rest in _folds(truth):
        low, high = np.quantile(off[rest & truth.judged], [(1 - NOMINAL) / 2, (1 + NOMINAL) / 2])
        said.low[fold], said.high[fold] = said.expected[fold] + low, said.expected[fold] + high
    return Prediction(said.expected, said.low, said.high, said.p_bad, quality=score, badness=-score)


def resampled(truth: Truth, resamples: int, seed: int) -> Iterator[IntArray]:
    """Rows of patches of images drawn with replacement, all patches of an image together, so many times."""
    rows = [np.flatnonzero(truth.image == name) for name in np.unique(truth.image)]
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.concatenate([rows[n] for n in generator.integers(0, len(rows), len(rows))])


def _blank(count: int) -> Prediction:
    return Prediction(*(np.full(count, np.nan) for _ in range(4)))


def _folds(truth: Truth) -> Iterator[tuple[BoolArray, BoolArray]]:
    """(Patches, all patches of other images), image by image or in ten folds of images; of one image nothing."""
    names, number = np.unique(truth.image, return_inverse=True)
    count = min(_FOLDS, len(names))
    for n in range(count if count > 1 else 0):
        fold = number % count == n
        yield fold, ~fold


def _isotonic(x: FloatArray, y: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """The rising function of least squares; between its places linear, beyond them constant."""
    places, which, count = np.unique(x, return_inverse=True, return_counts=True)
    fitted = isotonic_regression(np.bincount(which, y) / count, weights=count).x
    return lambda asked: np.interp(asked, places, fitted)

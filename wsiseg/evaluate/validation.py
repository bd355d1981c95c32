"""Predicted against true quality: the judge of a run beside what knows less than it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import FloatArray
from wsiseg.errors import UsageError
from wsiseg.evaluate.judged import BadLimits, Judged
from wsiseg.evaluate.prediction import (
    BINS,
    METRICS,
    NOMINAL,
    Prediction,
    Truth,
    by_score,
    constant,
    equal_groups,
    measure,
    resampled,
)
from wsiseg.qc.rubric import clopper_pearson

JUDGE, SCORE, CONSTANT = "judge", "mean score", "constant"
"""The predictors; the last two are fitted on the validated cohort's own truth, each image by the others."""
RESAMPLES = 1000
CONFIDENCE = 0.95

_LEAST_DEFINED = 0.9  # of the resamples, for an interval


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap interval over images; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bin:
    """Patches of about the same prediction: its mean, what is true of them with an interval, and how many."""

    predicted: float
    true: float
    low: float
    high: float
    patches: int


@dataclass(frozen=True)
class Group:
    """A set of patches that were judged.

    Attributes
    ----------
    range : str
        "natural" or "degraded".
    value : str or None
        Of the column that was grouped by; None: all of the range.
    patches, images, bad : int
    expected_bad : float
        The sum of P(bad): how many a grade would expect.
    judged : int
        Patches of which an AJI was expected; the others have too few nuclei, or nothing readable.
    figures : mapping of str to mapping of str to Estimate
        By predictor and by :data:`METRICS`.
    better : mapping of str to mapping of str to Estimate
        What the judge has more than another predictor, by metric; paired, of the same patches.
    p_bad : tuple of Bin
        P(bad) against the share of bad patches, with the binomial interval of 95%.
    aji : tuple of Bin
        Expected against median true AJI, with the middle 90% of the true ones.
    """

    range: str
    value: str | None
    patches: int
    images: int
    bad: int
    expected_bad: float
    judged: int
    figures: Mapping[str, Mapping[str, Estimate]]
    better: Mapping[str, Mapping[str, Estimate]]
    p_bad: tuple[Bin, ...]
    aji: tuple[Bin, ...]


@dataclass(frozen=True)
class Validation:
    """How a judge did, over groups of patches; ``few`` and the names as of :class:`Judged`."""

    groups: tuple[Group, ...]
    by: str
    limits: BadLimits
    few: int
    without_truth: tuple[str, ...]
    without_results: tuple[str, ...]
    without_patches: tuple[str, ...]
    seed: int
    resamples: int
    confidence: float = CONFIDENCE
    bins: int = BINS
    nominal: float = NOMINAL

    def to_dict(self) -> dict[str, Any]:
        """As ``wsiseg qc validate --json`` writes it."""
        return {"schema": "wsiseg.validation", "version": 1, **asdict(self)}


def validate(
    judged: Judged,
    *,
    by: str = "model",
    limits: BadLimits | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Validation:
    """Figures of all patches and of groups, those as they are and those that were degraded apart.

    Parameters
    ----------
    judged : Judged
    by : str
        The column whose values make groups, where there are several in a range.
    limits : BadLimits, optional
        What makes a patch bad; P(bad) was fitted for the default.
    seed : int
        Decides the bootstrap's draws: of images, with all their patches.
    resamples : int

    Raises
    ------
    UsageError
        There is no such column.
    """
    limits = limits or BadLimits()
    columns = judged.columns
    if by not in columns or columns[by].dtype.kind != "U":
        names = [name for name, column in columns.items() if column.dtype.kind == "U"]
        raise UsageError(f"--by {by}: no such column; expected one of {', '.join(names)}")
    groups = tuple(
        _group(columns, rows, name, value, limits, seed, resamples) for name, value, rows in _sets(columns, by)
    )
    return Validation(
        groups, by, limits, judged.few, judged.without_truth, judged.without_results, judged.without_patches, seed,
        resamples,
    )  # fmt: skip


def _sets(
    columns: Mapping[str, npt.NDArray[np.generic]], by: str
) -> Iterator[tuple[str, str | None, npt.NDArray[np.int64]]]:
    degraded = columns["fault"] != ""
    for name, chosen in (("natural", ~degraded), ("degraded", degraded)):
        values = np.unique(columns[by][chosen])
        if len(values):
            yield name, None, np.flatnonzero(chosen)
        for value in values if len(values) > 1 else ():
            yield name, str(value), np.flatnonzero(chosen & (columns[by] == value))


def _group(
    columns: Mapping[str, npt.NDArray[np.generic]],
    rows: npt.NDArray[np.int64],
    name: str,
    value: str | None,
    limits: BadLimits,
    seed: int,
    resamples: int,
) -> Group:
    part = {column: np.asarray(values)[rows] for column, values in columns.items()}
    bad = limits.bad(part["aji"], part["f1"])
    image = np.unique(part["image"], return_inverse=True)[1]
    truth = Truth(part["aji"], bad, np.isfinite(part["expected_aji"]), image)
    predictions = _predictions(part, truth)
    figures, better = _estimates(predictions, truth, seed, resamples)
    expected, aji = (part[column][truth.judged] for column in ("expected_aji", "aji"))
    return Group(
        name, value, len(rows), len(np.unique(image)), int(bad.sum()), float(part["p_bad"].sum()),
        int(truth.judged.sum()), figures, better, _reliability(part["p_bad"], bad), _agreement(expected, aji),
    )  # fmt: skip


def _predictions(part: Mapping[str, npt.NDArray[Any]], truth: Truth) -> dict[str, Prediction]:
    expected, p_bad = part["expected_aji"], part["p_bad"]
    said = {
        JUDGE: Prediction(expected, part["aji_low"], part["aji_high"], p_bad, quality=expected, badness=p_bad),
        SCORE: by_score(part["score"], truth),
        CONSTANT: constant(truth),
    }
    return {name: prediction for name, prediction in said.items() if prediction is not None}


def _estimates(
    predictions: Mapping[str, Prediction], truth: Truth, seed: int, resamples: int
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    values = {name: _values(said, truth) for name, said in predictions.items()}
    draws = {name: np.empty((resamples, len(METRICS))) for name in predictions}
    for n, rows in enumerate(resampled(truth, resamples, seed)):
        drawn = truth.take(rows)
        for name, said in predictions.items():
            draws[name][n] = _values(said.take(rows), drawn)
    figures = {name: _intervals(values[name], draws[name]) for name in predictions}
    better = {
        name: _intervals(values[JUDGE] - values[name], draws[JUDGE] - draws[name])
        for name in predictions
        if name != JUDGE
    }
    return figures, better


def _values(said: Prediction, truth: Truth) -> FloatArray:
    found = measure(said, truth)
    return np.array([np.nan if found[name] is None else found[name] for name in METRICS], dtype=np.float64)


def _intervals(values: FloatArray, draws: FloatArray) -> dict[str, Estimate]:
    estimates = {}
    for n, name in enumerate(METRICS):
        drawn = draws[np.isfinite(draws[:, n]), n]
        if not np.isfinite(values[n]):
            estimates[name] = Estimate(None)
        elif len(drawn) < _LEAST_DEFINED * len(draws) or np.ptp(draws[:, n]) == 0:
            estimates[name] = Estimate(float(values[n]))
        else:
            low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            estimates[name] = Estimate(float(values[n]), float(low), float(high))
    return estimates


def _reliability(p_bad: FloatArray, bad: npt.NDArray[np.bool_]) -> tuple[Bin, ...]:
    group = equal_groups(p_bad)
    return tuple(
        Bin(
            float(p_bad[group == n].mean()),
            float(bad[group == n].mean()),
            *clopper_pearson(int(bad[group == n].sum()), int((group == n).sum()), CONFIDENCE),
            int((group == n).sum()),
        )
        for n in np.unique(group)
    )


def _agreement(expected: FloatArray, aji: FloatArray) -> tuple[Bin, ...]:
    if len(expected) == 0:
        return ()
    group = equal_groups(expected)
    bins = []
    for n in np.unique(group):
        low, middle, high = np.quantile(aji[group == n], [(1 - NOMINAL) / 2, 0.5, (1 + NOMINAL) / 2])
        bins.append(
            Bin(float(expected[group == n].mean()), float(middle), float(low), float(high), int((group == n).sum()))
        )
    return tuple(bins)

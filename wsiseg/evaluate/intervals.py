"""Mean and spread of a score over images, with an interval for the mean.

References
----------
.. [1] Percentile bootstrap: Efron, Tibshirani 1993, An Introduction to the Bootstrap, ISBN 978-0-412-04231-7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
_AT_ONCE = 2_000_000  # drawn indices held in memory


@dataclass(frozen=True)
class Summary:
    """A score over images.

    Attributes
    ----------
    n : int
        Images for which the score is defined.
    mean, sd : float or None
        Of those images; the sample's standard deviation (n - 1). None without images; sd None with only one.
    low, high : float or None
        The interval for the mean over images of this kind. None with fewer than two images.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


def summarize(values: Sequence[float | None], *, confidence: float = 0.95, seed: int = 0) -> Summary:
    """Mean ± sd over images, and the percentile bootstrap interval of the mean [1]_.

    Images are drawn with replacement, 10,000 times: pixels and nuclei of one image are not independent, images
    (of different patients) are. The interval speaks of images like these; with ten or fewer it is somewhat too
    narrow.

    Parameters
    ----------
    values : sequence of float or None
        One value an image; None where the score is not defined for it.
    confidence : float
        0.95 for a 95% interval.
    seed : int
        Decides the draws. The same draws are made for every score over equally many images.
    """
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if len(known) == 0:
        return Summary(0, None, None, None, None)
    if len(known) == 1:
        return Summary(1, float(known[0]), None, None, None)
    means = _resampled_means(known, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Summary(len(known), float(known.mean()), float(known.std(ddof=1)), float(low), float(high))


def _resampled_means(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    rows = max(1, _AT_ONCE // len(values))
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, rows):
        part = means[start : start + rows]
        part[:] = values[generator.integers(0, len(values), (len(part), len(values)))].mean(axis=1)
    return means

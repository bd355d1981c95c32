"""A distribution as positions in a small plot; the template draws it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsiseg.report.distributions import Distribution

WIDTH, HEIGHT = 300.0, 56.0
"""Of the bars, in units of the plot."""
_BINS = 24


@dataclass(frozen=True)
class Bar:
    """A bar from the ground up; ``text`` says what it counts."""

    x: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Mark:
    """An outlier: its place along the plot, the slide's id, and how far it lies, in words."""

    x: float
    id: str
    text: str


@dataclass(frozen=True)
class Histogram:
    """A measure over ``count`` slides.

    ``low``, ``middle`` (with the unit) and ``high``: the least value, the median and the largest as text;
    ``median``: its place along the plot. ``compared``: there are slides enough to name outliers.
    """

    title: str
    count: int
    bars: tuple[Bar, ...]
    median: float
    low: str
    middle: str
    high: str
    marks: tuple[Mark, ...]
    compared: bool


def draw_histogram(distribution: Distribution) -> Histogram:
    """At most 24 bars of equal width from the least value to the largest; of ratios along a logarithm."""
    measure, values = distribution.measure, np.array(list(distribution.values.values()))
    axis = np.log if measure.ratio else np.asarray
    low, high = float(values.min()), float(values.max())
    first, last = float(axis(low)), float(axis(high))
    span = (last - first) or 1.0
    bins = min(_BINS, max(1, len(values))) if high > low else 1
    edges = np.linspace(first, first + span, bins + 1)
    counts, _ = np.histogram(axis(values), edges)
    ends = np.exp(edges) if measure.ratio else edges

    def place(value: float) -> float:
        return round((float(axis(value)) - first) / span * WIDTH, 1)

    bars = tuple(
        Bar(
            round(n * WIDTH / bins, 1),
            round(max(WIDTH / bins - 1, 1.0), 1),
            round(max(HEIGHT * count / counts.max(), 1.5), 1),
            f"{count:,} from {measure.text(ends[n])} to {measure.text(ends[n + 1])}",
        )
        for n, count in enumerate(counts.tolist())
        if count
    )
    marks = tuple(Mark(place(distribution.values[o]), o, distribution.words(o)) for o in distribution.outliers)
    return Histogram(
        measure.title,
        len(values),
        bars,
        place(distribution.median),
        measure.number(low),
        measure.text(distribution.median),
        measure.number(high),
        marks,
        bool(distribution.z),
    )

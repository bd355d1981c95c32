"""How a cohort's slides differ: each measure's distribution, and the slides that lie far from the others.

What lies far is told by the modified z-score of Iglewicz and Hoaglin [1]_, 0.6745 · (x − median) / MAD, above 3.5
in amount: neither median nor MAD moves with the few that are far. Densities and areas are compared as logarithms.

References
----------
.. [1] B. Iglewicz, D. C. Hoaglin, How to Detect and Handle Outliers, ASQC Quality Press, 1993.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from wsiseg.core.geometry import FloatArray
from wsiseg.results.record import SegmentedRecord, SlideRecord

FAR = 3.5
"""Robust z from which on a slide is named."""
ENOUGH = 8
"""Slides with a measure from which on outliers are named: of fewer the median absolute deviation says little."""

_NORMAL = 0.6745  # the median absolute deviation of a normal distribution, in standard deviations


@dataclass(frozen=True)
class Measure:
    """A number that each slide has.

    Attributes
    ----------
    name : str
        Its column in ``cohort.csv``.
    title, unit : str
    form : str
        Of the number as text.
    value : callable
        Of a record; None where the slide has none.
    ratio : bool
        Compared as a logarithm.
    """

    name: str
    title: str
    unit: str
    form: str
    value: Callable[[SegmentedRecord], float | None]
    ratio: bool = False

    def number(self, value: float) -> str:
        """A value without its unit."""
        return f"{value:{self.form}}"

    def text(self, value: float) -> str:
        """A value with its unit."""
        return self.number(value) + self.unit


def density_per_mm2(record: SlideRecord) -> float | None:
    """Nuclei per mm² of tissue; None without tissue."""
    return record.nuclei / record.tissue_mm2 if isinstance(record, SegmentedRecord) and record.tissue_mm2 else None


def _bad_fraction(record: SegmentedRecord) -> float | None:
    return record.grade.fraction if record.grade.assessed else None


def _typical(name: str, record: SegmentedRecord) -> float | None:
    return getattr(record.typical, name, None)


MEASURES = (
    Measure("bad_fraction", "Patches expected bad", "", ".0%", _bad_fraction),
    Measure("nuclei_per_mm2", "Nuclear density", " per mm²", ",.0f", density_per_mm2, ratio=True),
    Measure("nuclear_area_um2", "Nuclear area", " µm²", ".1f", partial(_typical, "nuclear_area_um2"), ratio=True),
    Measure("hematoxylin_od", "Haematoxylin", " OD", ".2f", partial(_typical, "hematoxylin_od")),
    Measure("eosin_od", "Eosin", " OD", ".2f", partial(_typical, "eosin_od")),
    Measure("detail", "Focus (fine detail)", "", ".2f", partial(_typical, "detail")),
)


@dataclass(frozen=True)
class Distribution:
    """A measure over a cohort.

    Attributes
    ----------
    measure : Measure
    values : mapping of str to float
        By the slides' ids, of those that have one.
    median : float
    z : mapping of str to float
        Robust z by the slides' ids; empty where there are too few slides, or where most have the same value.
    """

    measure: Measure
    values: Mapping[str, float]
    median: float
    z: Mapping[str, float]

    @property
    def outliers(self) -> tuple[str, ...]:
        """The ids of the slides that lie far from the others, the farthest first."""
        far = [name for name, z in self.z.items() if abs(z) > FAR]
        return tuple(sorted(far, key=lambda name: (-abs(self.z[name]), name)))

    def words(self, name: str) -> str:
        """How far a slide lies from the others, in words."""
        above = "above" if self.z[name] > 0 else "below"
        return (
            f"{self.measure.title.lower()} {self.measure.text(self.values[name])}, far {above} the cohort's median "
            f"of {self.measure.text(self.median)} (robust z {self.z[name]:+.1f})"
        )


def distribute(records: Sequence[SlideRecord]) -> tuple[Distribution, ...]:
    """The distribution of each of :data:`MEASURES` that any slide has."""
    segmented = [record for record in records if isinstance(record, SegmentedRecord)]
    found = ((measure, _values(measure, segmented)) for measure in MEASURES)
    return tuple(_distribution(measure, values) for measure, values in found if values)


def _values(measure: Measure, records: Sequence[SegmentedRecord]) -> dict[str, float]:
    values = {record.id: measure.value(record) for record in records}
    return {name: float(v) for name, v in values.items() if v is not None and (v > 0 or not measure.ratio)}


def _distribution(measure: Measure, values: Mapping[str, float]) -> Distribution:
    plain = np.array(list(values.values()))
    compared = np.log(plain) if measure.ratio else plain
    z = robust_z(compared) if len(values) >= ENOUGH else None
    scores = {} if z is None else dict(zip(values, z.tolist(), strict=True))
    return Distribution(measure, values, float(np.median(plain)), scores)


def robust_z(values: FloatArray) -> FloatArray | None:
    """0.6745 · (x − median) / MAD of values (N,); None where more than half of them are equal."""
    away = values - np.median(values)
    spread = float(np.median(np.abs(away)))
    # Half the values differ by rounding only: nothing is far by such a measure.
    return _NORMAL * away / spread if spread > 1e-9 * max(1.0, float(np.abs(values).max())) else None

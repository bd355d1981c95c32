"""From a count of bad patches to a grade and to what the count can say at all.

Shares are compared as exact rationals: 1 bad patch of 15 is Good, whatever a float makes of 1/15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from wsiseg.errors import UsageError
from wsiseg.results.record import GradeRecord

GRADES = ("Best", "Good", "Adequate", "Problematic", "Unacceptable")
"""From best to worst."""

Kind = Literal["automatic", "human"]


@dataclass(frozen=True)
class Rubric:
    """The limits that turn a share of bad patches into a grade.

    Attributes
    ----------
    good, adequate, problematic : Fraction
        The largest share of bad patches of each grade; no bad patch at all is Best, more is Unacceptable.
    confidence : float
        Of the two-sided interval of the share.
    min_tissue_mm2 : float
        A slide with less tissue is Unacceptable: half a patch by default.
    max_failed_tiles : Fraction
        A slide with a larger share of failed tiles is Unacceptable.
    max_lost_tissue : Fraction
        A slide that has lost a larger share of its tissue to unreadable areas is Unacceptable.
    """

    good: Fraction = Fraction(1, 15)
    adequate: Fraction = Fraction(2, 15)
    problematic: Fraction = Fraction(3, 15)
    confidence: float = 0.95
    min_tissue_mm2: float = 0.03
    max_failed_tiles: Fraction = Fraction(1, 100)
    max_lost_tissue: Fraction = Fraction(1, 20)

    def __post_init__(self) -> None:
        if not 0 < self.good < self.adequate < self.problematic < 1:
            raise UsageError(
                f"The limits {self.good}, {self.adequate}, {self.problematic} of Good, Adequate and Problematic: "
                "expected shares between 0 and 1 in ascending order."
            )
        if not 0 < self.confidence < 1:
            raise UsageError(f"A confidence of {self.confidence}: expected more than 0 and less than 1.")

    def name(self, share: Fraction | float) -> str:
        """The grade of a share of bad patches."""
        limits = (0, self.good, self.adequate, self.problematic)
        return GRADES[sum(share > limit for limit in limits)]

    def to_dict(self) -> dict[str, Any]:
        """JSON; shares as "1/15"."""
        return {
            "good": str(self.good),
            "adequate": str(self.adequate),
            "problematic": str(self.problematic),
            "min_tissue_mm2": self.min_tissue_mm2,
            "max_failed_tiles": str(self.max_failed_tiles),
            "max_lost_tissue": str(self.max_lost_tissue),
        }


@dataclass(frozen=True)
class Grade:
    """The grade of a slide and what it rests on: the ``grade`` record of ``docs/format.md``.

    Attributes
    ----------
    kind : "automatic" or "human"
        Who judged the patches. Nothing automatic is ever called human.
    grade : str
        One of ``GRADES``.
    bad, patches : int
    fraction : float or None
        bad / patches; None without patches.
    interval : (float, float)
        Exact interval of the share of bad patches at ``confidence``; (0, 1) without patches.
    grade_low, grade_high : str
        The best and the worst grade whose share lies in the interval; a failure of the slide leaves only one.
    failure : str or None
        Why the slide fails as a whole, whatever its patches.
    reasons : mapping of str to int
        Bad patches by reason.
    check : str or None
        Name and version of the automatic check.
    """

    kind: Kind
    grade: str
    bad: int
    patches: int
    fraction: float | None
    interval: tuple[float, float]
    grade_low: str
    grade_high: str
    failure: str | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)
    check: str | None = None
    rubric: Rubric = field(default_factory=Rubric)

    def record(self) -> GradeRecord:
        """What the slide's record says of it."""
        return GradeRecord(
            kind=self.kind,
            grade=self.grade,
            bad=self.bad,
            patches=self.patches,
            fraction=self.fraction,
            interval=self.interval,
            confidence=self.rubric.confidence,
            grade_low=self.grade_low,
            grade_high=self.grade_high,
            failure=self.failure,
            reasons=dict(self.reasons),
            check=self.check,
            rubric=self.rubric.to_dict(),
        )


def grade_of(
    bad: int,
    total: int,
    failure: str | None = None,
    *,
    kind: Kind = "automatic",
    reasons: Mapping[str, int] | None = None,
    check: str | None = None,
    rubric: Rubric | None = None,
) -> Grade:
    """The grade of ``bad`` bad patches among ``total``.

    Parameters
    ----------
    bad, total : int
    failure : str, optional
        Why the slide fails as a whole: the grade is Unacceptable then, and the count stays visible. No patches
        at all are a failure.
    kind, reasons, check, rubric
        See :class:`Grade`.
    """
    rubric = rubric or Rubric()
    if not 0 <= bad <= total:
        raise ValueError(f"{bad} bad patches of {total}")
    if total == 0 and failure is None:
        failure = "no patches"
    low, high = clopper_pearson(bad, total, rubric.confidence)
    if failure is not None:
        grade = grade_low = grade_high = GRADES[-1]
    else:
        grade = rubric.name(Fraction(bad, total))
        grade_low, grade_high = rubric.name(low), rubric.name(high)
    fraction = bad / total if total else None
    return Grade(
        kind, grade, bad, total, fraction, (low, high), grade_low, grade_high, failure, dict(reasons or {}), check,
        rubric,
    )  # fmt: skip


def clopper_pearson(bad: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a binomial share [1]_; (0, 1) for a total of 0.

    References
    ----------
    .. [1] Clopper & Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial,
       Biometrika 26, 404-413 (1934). doi:10.1093/biomet/26.4.404
    """
    from scipy.stats import beta

    tail = (1.0 - confidence) / 2.0
    low = 0.0 if bad == 0 else float(beta.ppf(tail, bad, total - bad + 1))
    high = 1.0 if bad == total else float(beta.ppf(1.0 - tail, bad + 1, total - bad))
    return low, high

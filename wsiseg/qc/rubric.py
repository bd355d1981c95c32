"""From bad patches, counted or expected, to a grade and to what they can say at all.

Counted shares are compared as exact rationals: 1 bad patch of 15 is Good, whatever a float makes of 1/15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from wsiseg.core.geometry import FloatArray
from wsiseg.errors import UsageError
from wsiseg.qc.share import share_interval
from wsiseg.results.record import GradeRecord

GRADES = ("Best", "Good", "Adequate", "Problematic", "Unacceptable")
"""From best to worst."""
NOT_ASSESSED = "Not assessed"
"""In a grade's place where the patches cannot tell: it is none, and not the worst of them."""
WIDE = 3
"""Grades that an interval spans from which on it is said beside the grade."""
BAD = 0.5
"""P(bad) from which on a patch counts as bad."""

Kind = Literal["automatic", "human"]


@dataclass(frozen=True)
class Rubric:
    """The limits that turn a share of bad patches into a grade.

    Attributes
    ----------
    good, adequate, problematic : Fraction
        The largest share of bad patches of each grade; no bad patch at all is Best, more is Unacceptable.
    best : Fraction
        The largest expected share that is Best. It is never quite 0: half a patch in fifteen is none.
    confidence : float
        Of the two-sided interval of the share.
    min_patches : int
        A slide with room for fewer is not assessed.
    max_failed_tiles : Fraction
        A slide with a larger share of failed tiles is Unacceptable.
    max_lost_tissue : Fraction
        A slide that has lost a larger share of its tissue to unreadable areas is Unacceptable.
    """

    good: Fraction = Fraction(1, 15)
    adequate: Fraction = Fraction(2, 15)
    problematic: Fraction = Fraction(3, 15)
    best: Fraction = Fraction(1, 30)
    confidence: float = 0.95
    min_patches: int = 15
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
        """The grade of a counted share of bad patches."""
        return self._name(share, Fraction(0))

    def expected_name(self, share: float) -> str:
        """The grade of an expected share of bad patches."""
        return self._name(share, self.best)

    def _name(self, share: Fraction | float, best: Fraction) -> str:
        limits = (best, self.good, self.adequate, self.problematic)
        return GRADES[sum(share > limit for limit in limits)]

    def to_dict(self) -> dict[str, Any]:
        """JSON; shares as "1/15"."""
        return {
            "best": str(self.best),
            "good": str(self.good),
            "adequate": str(self.adequate),
            "problematic": str(self.problematic),
            "min_patches": self.min_patches,
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
        One of ``GRADES``, or ``NOT_ASSESSED``.
    bad, patches : int
        Judged bad, and judged.
    fraction : float or None
        Share of bad patches: counted, or expected by an automatic judge. None without patches.
    interval : (float, float)
        Interval of the share of bad patches at ``confidence``; (0, 1) without patches.
    grade_low, grade_high : str
        The best and the worst grade whose share lies in the interval; a failure of the slide leaves only one.
    failure : str or None
        Why the slide fails as a whole, whatever its patches.
    reasons : mapping of str to int
        Bad patches by reason.
    check : str or None
        Name and version of the automatic judge.
    assessed : bool
        False where the grade is ``NOT_ASSESSED``; what was counted stays visible.
    words : str
        Why it is not Best, or not assessed, and that it could be many grades, in sentences; "" if there is nothing
        to say.
    placed : int or None
        Patches that the slide has room for, of which ``patches`` were judged.
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
    assessed: bool = True
    words: str = ""
    placed: int | None = None

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
            assessed=self.assessed,
            words=self.words,
            placed=self.placed,
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


def expected_grade(
    p_bad: FloatArray,
    placed: int,
    shift: float,
    *,
    failure: str | None = None,
    unassessed: str | None = None,
    reasons: Mapping[str, int] | None = None,
    because: str = "",
    check: str | None = None,
    rubric: Rubric | None = None,
) -> Grade:
    """The grade of a slide by the share of its patches that are expected to be bad.

    Parameters
    ----------
    p_bad : float array (P,)
        Probability of each judged patch to be bad.
    placed : int
        Patches that the slide has room for, of which the judged ones are a random sample.
    shift : float
        How sure the judge is of all of them together, see :func:`wsiseg.qc.share.share_interval`.
    failure : str, optional
        Why the slide fails as a whole: Unacceptable.
    unassessed : str, optional
        Why its patches cannot tell, in a sentence; a failure goes before it.
    because : str
        What the bad patches have, in words.
    reasons, check, rubric
        See :class:`Grade`.
    """
    rubric = rubric or Rubric()
    total = len(p_bad)
    share = float(p_bad.mean()) if total else None
    low, high = share_interval(p_bad, placed, shift, rubric.confidence) if total else (0.0, 1.0)
    if failure is not None:
        grade = grade_low = grade_high = GRADES[-1]
        words = f"The slide fails as a whole: {failure}."
    elif unassessed is not None or share is None:
        grade, grade_low, grade_high = NOT_ASSESSED, GRADES[0], GRADES[-1]
        words = unassessed or "There is no patch to judge."
    else:
        grade = rubric.expected_name(share)
        grade_low, grade_high = rubric.expected_name(low), rubric.expected_name(high)
        words = _words(grade, grade_low, grade_high, share, total, because)
    return Grade(
        "automatic", grade, int(np.count_nonzero(p_bad >= BAD)), total, share, (low, high), grade_low, grade_high,
        failure, dict(reasons or {}), check, rubric, grade != NOT_ASSESSED, words, placed,
    )  # fmt: skip


def _words(grade: str, low: str, high: str, share: float, total: int, because: str) -> str:
    said = []
    if grade != GRADES[0]:
        expected = f"{share:.1%} of {total:,} patches are expected to be bad"
        said.append(f"{expected}: {because}." if because else f"{expected}, none of them surely.")
    spanned = GRADES.index(high) - GRADES.index(low) + 1
    if spanned >= WIDE:
        said.append(f"This is uncertain: the grade could be {low} to {high}.")
    return " ".join(said)


def clopper_pearson(bad: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a binomial share [1]_; (0, 1) for a total of 0.

    References
    ----------
    .. [1] Clopper & Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial,
       Biometrika 26, 404-413 (1934). doi:10.1093/biomet/26.4.404
    """
    from scipy.special import betaincinv  # scipy.stats takes a second to import

    tail = (1.0 - confidence) / 2.0
    low = 0.0 if bad == 0 else float(betaincinv(bad, total - bad + 1, tail))
    high = 1.0 if bad == total else float(betaincinv(bad + 1, total - bad, 1.0 - tail))
    return low, high

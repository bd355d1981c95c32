"""The grade of a slide: its patches' verdicts, and what fails a slide whatever its patches say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wsiseg.qc.check import CHECK_VERSION
from wsiseg.qc.rubric import Grade, Rubric, grade_of
from wsiseg.results.record import Tiles


def grade_slide(
    verdicts: Mapping[str, npt.NDArray[np.generic]],
    tiles: Tiles,
    lost_fraction: float,
    tissue_mm2: float,
    rubric: Rubric | None = None,
    *,
    mpp_known: bool = True,
    check: str = CHECK_VERSION,
) -> Grade:
    """The automatic grade of a slide.

    Parameters
    ----------
    verdicts : mapping of str to array (P,)
        With ``reason``, as :func:`wsiseg.qc.check.assess_patches` gives it, of all patches.
    tiles : Tiles
        What became of the slide's tiles.
    lost_fraction : float
        Share of the tissue under unreadable areas.
    tissue_mm2 : float
        Area of the tissue in the region of interest.
    mpp_known : bool
        False if the slide's mpp could not be resolved.
    check : str
        Name and version of the check that made the verdicts.
    """
    rubric = rubric or Rubric()
    counts = Counter(str(name) for name in verdicts["reason"])
    patches = counts.total()
    good = counts.pop("", 0)
    reasons = dict(sorted(counts.items()))
    failure = slide_failure(tiles, lost_fraction, tissue_mm2, rubric, mpp_known=mpp_known)
    return grade_of(patches - good, patches, failure, reasons=reasons, check=check, rubric=rubric)


def slide_failure(
    tiles: Tiles,
    lost_fraction: float,
    tissue_mm2: float,
    rubric: Rubric,
    *,
    mpp_known: bool = True,
) -> str | None:
    """Why a slide fails as a whole, or None."""
    if not mpp_known:
        return "mpp unresolved"
    if tissue_mm2 < rubric.min_tissue_mm2:
        return f"usable tissue {tissue_mm2:.3g} mm², less than {rubric.min_tissue_mm2:g} mm²"
    if tiles.total and Fraction(tiles.failed, tiles.total) > rubric.max_failed_tiles:
        return f"{tiles.failed} of {tiles.total} tiles failed, more than {float(rubric.max_failed_tiles):.1%}"
    if lost_fraction > rubric.max_lost_tissue:
        return f"{lost_fraction:.1%} of the tissue lost, more than {float(rubric.max_lost_tissue):.1%}"
    return None

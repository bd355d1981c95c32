"""The grade of a slide: its patches' verdicts, and what fails a slide whatever its patches say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wsiseg.qc.judge import load_judge
from wsiseg.qc.rubric import Grade, Rubric, expected_grade
from wsiseg.results.record import Tiles

WORDS = {
    "lost": "unreadable",
    "artefact": "under ink, a coverslip's edge or the like",
    "blurred": "out of focus",
    "uncovered": "dark places without an outline",
    "unsupported": "outlines around what is no darker than its surroundings",
    "outlines": "outlines beyond the edges of what is dark",
    "implausible": "more nuclei than tissue can hold",
    "shapes": "outlines of unlikely sizes or shapes",
    "pale": "outlines whose stain is not a nucleus'",
    "crowded": "outlines that crowd each other",
    "between": "haematoxylin between the outlines",
    "missed": "nuclei without an outline",
    "false": "outlines where no nucleus is",
    "merged": "outlines around several nuclei",
    "split": "nuclei in several pieces",
    "outline": "edges that are off",
    "image": "an image of little detail or unusual stain",
}
"""Why a patch is bad, in words, by the ``reason`` of its verdict."""

_SHOWN = 3
_OTHER_STAIN = 1.0  # optical density in blue over green: of haematoxylin and eosin .4 to .8, of DAB 1.4


def grade_slide(
    verdicts: Mapping[str, npt.NDArray[np.generic]],
    placed: int,
    tiles: Tiles,
    lost_fraction: float,
    rubric: Rubric | None = None,
    *,
    mpp_known: bool = True,
) -> Grade:
    """The automatic grade of a slide.

    Parameters
    ----------
    verdicts : mapping of str to array (P,)
        With ``reason`` and ``p_bad``, as :func:`wsiseg.qc.check.assess_patches` gives them, of the judged patches.
    placed : int
        Patches that the slide has room for.
    tiles : Tiles
        What became of the slide's tiles.
    lost_fraction : float
        Share of the tissue under unreadable areas.
    mpp_known : bool
        False if the slide's mpp could not be resolved.
    """
    rubric, judge = rubric or Rubric(), load_judge()
    reasons = Counter(str(name) for name in verdicts["reason"] if name != "")
    return expected_grade(
        np.asarray(verdicts["p_bad"], dtype=np.float64),
        placed,
        judge.shift,
        failure=slide_failure(tiles, lost_fraction, rubric, mpp_known=mpp_known),
        unassessed=why_not_assessed(verdicts, placed, rubric),
        reasons=dict(sorted(reasons.items())),
        because=_because(reasons),
        check=judge.version,
        rubric=rubric,
    )


def slide_failure(tiles: Tiles, lost_fraction: float, rubric: Rubric, *, mpp_known: bool = True) -> str | None:
    """Why a slide fails as a whole, or None."""
    if not mpp_known:
        return "mpp unresolved"
    if tiles.total and Fraction(tiles.failed, tiles.total) > rubric.max_failed_tiles:
        return f"{tiles.failed} of {tiles.total} tiles failed, more than {float(rubric.max_failed_tiles):.1%}"
    if lost_fraction > rubric.max_lost_tissue:
        return f"{lost_fraction:.1%} of the tissue lost, more than {float(rubric.max_lost_tissue):.1%}"
    return None


def why_not_assessed(verdicts: Mapping[str, npt.NDArray[np.generic]], placed: int, rubric: Rubric) -> str | None:
    """Why a slide's patches cannot tell its grade, in a sentence; None if they can."""
    if placed < rubric.min_patches:
        return (
            f"There is too little tissue: room for {placed} patches, where a grade needs {rubric.min_patches}. "
            "The patches by themselves are judged in patches.parquet."
        )
    brown = np.asarray(verdicts["blue_green"], dtype=np.float64) if "blue_green" in verdicts else np.empty(0)
    brown = brown[np.isfinite(brown)]
    if len(brown) and float(np.median(brown)) > _OTHER_STAIN:
        return "The stain is not haematoxylin and eosin, which is all that the judge knows."
    return None


def _because(reasons: Mapping[str, int]) -> str:
    """The most frequent reasons in words: "12 out of focus, 3 unreadable"."""
    shown = Counter(reasons).most_common(_SHOWN)
    left = sum(reasons.values()) - sum(count for _, count in shown)
    texts = [f"{count:,} {WORDS.get(name, name)}" for name, count in shown]
    return ", ".join([*texts, f"{left:,} for other reasons"] if left else texts)

"""From a file's coordinates to a slide's, and what becomes of outlines that do not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.interop.mending import clip, mend
from wsiseg.results.nuclei import TYPE, TYPE_PROB

#: What is counted, in the order of asking.
READ, EMPTY, MENDED, OUTSIDE, CUT, GLASS = "read", "empty", "mended", "outside", "cut", "glass"

_MISPLACED = 0.5
"""Share of nuclei on glass, or outside, from which on it is probably the wrong slide."""
_FEW = 20
_MISALIGNED = 0.7
"""Share of the haematoxylin of nuclei that what lies beside them has. On 16 annotated images: .24–.67 for outlines
that were shifted or transposed; between halves of one image, aligned, .74–1."""


@dataclass(frozen=True)
class Placement:
    """Level-0 pixels are those of the file times ``scale`` plus ``offset``; the slide is ``slide``."""

    scale: float
    offset: tuple[float, float]
    slide: Box

    def place(self, outlines: Nuclei, counts: Counter[str]) -> Nuclei:
        """Outlines as nuclei of the slide: valid polygons inside it in level-0 pixels.

        Parameters
        ----------
        outlines : Nuclei
            In the file's pixels.
        counts : Counter
            How many were read, enclosed nothing (left out), crossed themselves (the largest part was kept), lay
            outside the slide (left out), or reached beyond its edge (cut off there).
        """
        moved = Nuclei(outlines.vertices * self.scale + np.array(self.offset), outlines.offsets, outlines.columns)
        sound = mend(moved)
        inside = sound.nuclei.take(sound.nuclei.overlapping(self.slide))
        fitting = clip(inside, self.slide)
        counts[READ] += len(outlines)
        counts[EMPTY] += sound.out
        counts[MENDED] += sound.changed
        counts[OUTSIDE] += len(sound.nuclei) - len(fitting.nuclei)
        counts[CUT] += fitting.changed
        return fitting.nuclei


def with_attributes(nuclei: Nuclei, types: bool) -> Nuclei:
    """The nuclei with the columns of a segmenter's: a score, NaN where there is none, and types where there are."""
    score = nuclei.columns.get("score")
    columns = {"score": np.full(len(nuclei), np.nan) if score is None else score}
    columns |= {TYPE: nuclei.columns[TYPE], TYPE_PROB: nuclei.columns[TYPE_PROB]} if types else {}
    kinds = {"score": np.float32, TYPE: np.int16, TYPE_PROB: np.float32}
    plain = {name: np.asarray(column).astype(kinds[name]) for name, column in columns.items()}
    return Nuclei(nuclei.vertices, nuclei.offsets, plain)


def placing_notes(counts: Mapping[str, int], passed: str) -> list[str]:
    """Sentences on what was not imported as it was, by the counts of a placement and of those on glass."""
    counts = Counter(counts)
    kept = counts[READ] - counts[EMPTY] - counts[OUTSIDE]
    said = {
        EMPTY: "enclose nothing: left out",
        MENDED: "cross or touch themselves: of each the largest part is kept",
        OUTSIDE: "lie outside the slide: left out",
        CUT: "reach beyond the slide's edge: cut off there",
    }
    notes = [
        f"Outlines: {counts[name]:,} of {counts[READ]:,} {text}." for name, text in said.items() if counts[name]
    ]
    if passed:
        notes.append(f"Passed over, since they are no outlines of nuclei: {passed}.")
    misplaced = counts[OUTSIDE] + counts[GLASS]
    if counts[READ] >= _FEW and misplaced > _MISPLACED * counts[READ]:
        notes.append(
            f"Most nuclei lie on glass or outside the slide: {counts[GLASS]:,} and {counts[OUTSIDE]:,} of "
            f"{counts[READ]:,}. The segmentation is probably another slide's, or its coordinates are other ones: "
            "see --input-mpp, --scale and --offset."
        )
    elif counts[GLASS] > 0.1 * kept:
        notes.append(f"Nuclei on glass: {counts[GLASS]:,} of {kept:,}, which no patch of the grade looks at.")
    return notes


def alignment_notes(contrast: float | None) -> list[str]:
    """On nuclei that lie beside what they outline, by :func:`wsiseg.stitch.cuts.edge_contrast`."""
    if contrast is None or contrast >= _MISALIGNED:
        return []
    return [
        f"Nuclei are misaligned in tiles that are not square: they hold {contrast:.0%} of the haematoxylin of the "
        "others. So are QuIP tables of before 2019-12-07. Expected: the version since."
    ]

"""A slide's patches as examples: the worst and some typical ones, with their nuclei outlined, as pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Box
from wsiseg.errors import ReadError
from wsiseg.report.overlay import Image, render_overlay
from wsiseg.results.nuclei import read_nuclei
from wsiseg.slide import Slide

WORST, TYPICAL = "worst", "typical"
MOST_WORST, MOST_TYPICAL = 6, 3
SIDE_PX = 512
"""Pictures are about as wide: a patch of 256 µm is shown at 0.5 µm per pixel, a smaller one finer."""

_LINE_PX = 1.5
_NAME = re.compile(r"(worst|typical)-([1-9])-patch-(\d{1,9})\.jpg")


@dataclass(frozen=True, order=True)
class Example:
    """A patch that is shown.

    Attributes
    ----------
    kind : str
        ``WORST`` or ``TYPICAL``.
    place : int
        From 1, the worst or the most typical first.
    index : int
        The patch's ``index`` in ``patches.parquet``.
    """

    kind: str
    place: int
    index: int

    @property
    def file(self) -> str:
        """The name of its picture."""
        return f"{self.kind}-{self.place}-patch-{self.index}.jpg"

    @property
    def label(self) -> str:
        """What it is called on the map: the worst have numbers, the typical ones letters."""
        return str(self.place) if self.kind == WORST else "abc"[self.place - 1]


def choose_examples(verdicts: Mapping[str, npt.NDArray[np.generic]]) -> tuple[Example, ...]:
    """The patches to show: the six with the highest P(bad), and the three whose P(bad) is nearest to the median.

    Parameters
    ----------
    verdicts : mapping of str to array (P,)
        ``index``, ``reason``, ``p_bad`` and ``expected_aji`` of ``patches.parquet``.

    Returns
    -------
    tuple of Example
        None twice, of P patches at most half the worst. Equal ones are taken by expected AJI, then by index.
        Patches that could not be read show nothing and are left out.
    """
    if "index" not in verdicts:
        return ()
    seen = np.asarray(verdicts["reason"]) != "lost"
    index = np.asarray(verdicts["index"], dtype=np.int64)[seen]
    bad = np.asarray(verdicts["p_bad"], dtype=np.float64)[seen]
    aji = np.nan_to_num(np.asarray(verdicts["expected_aji"], dtype=np.float64)[seen], nan=2.0)
    order = np.lexsort((index, aji, -bad))
    worst = order[: min(MOST_WORST, -(-len(order) // 2))]
    rest = np.setdiff1d(order, worst)
    near = np.abs(bad[rest] - np.median(bad)) if len(rest) else np.empty(0)
    typical = rest[np.lexsort((index[rest], aji[rest], near))][:MOST_TYPICAL]
    return tuple(
        Example(kind, place, int(index[at]))
        for kind, chosen in ((WORST, worst), (TYPICAL, typical))
        for place, at in enumerate(chosen, start=1)
    )


def named_examples(names: Iterable[str]) -> tuple[Example, ...]:
    """The examples whose pictures have such names, the worst first; other names are passed over."""
    matches = [match for name in names if (match := _NAME.fullmatch(name))]
    found = [Example(match[1], int(match[2]), int(match[3])) for match in matches]
    return tuple(sorted(found, key=lambda one: (one.kind != WORST, one.place, one.index)))


def draw_example(slide: Slide, nuclei_parquet: Path, box: Box) -> Image | None:
    """A patch with its nuclei outlined, uint8 (h, w, 3); None where it cannot be read.

    Parameters
    ----------
    box : Box
        The patch, in level-0 pixels.
    """
    mpp = slide.require_mpp().value
    pixel = max(mpp, max(box.width, box.height) * mpp / SIDE_PX)
    zoom = max(1, round(SIDE_PX * pixel / mpp / max(box.width, box.height)))
    nuclei = read_nuclei(nuclei_parquet, box, columns=[])
    try:
        return render_overlay(slide, nuclei, box, pixel, zoom=zoom, width_px=_LINE_PX)
    except ReadError:
        return None

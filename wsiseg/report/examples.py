"""A slide's patches as examples: the worst and some typical ones, as pictures with their nuclei outlined.

Over the middle of each, where a second opinion was asked, lies the map of what the two do not share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import ReadError
from wsiseg.qc.opinion import KINDS, Seen, error_map
from wsiseg.report.overlay import Image, render_overlay
from wsiseg.results.nuclei import read_nuclei
from wsiseg.slide import Slide

WORST, TYPICAL = "worst", "typical"
MOST_WORST, MOST_TYPICAL = 6, 3
SIDE_PX = 512
"""Pictures are about as wide: a patch of 256 µm is shown at 0.5 µm per pixel, a smaller one finer."""

ERROR_COLOURS = {"missed": (40, 90, 255), "false": (230, 30, 30), "merged": (255, 140, 0), "split": (160, 0, 200)}
"""Of the kinds of disagreement that are shown; edges that differ are everywhere a little."""

Look: TypeAlias = Callable[[Box, Nuclei], "Seen | None"]
"""Asks a second opinion on a patch and the nuclei near it (:func:`wsiseg.qc.opinion.look_again`)."""

_LINE_PX = 1.5
_TINT = 0.35
_FRAME = (90, 90, 90)
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


def example_box(verdicts: Mapping[str, npt.NDArray[np.generic]], example: Example) -> Box:
    """Where an example is, in level-0 pixels, by ``x``, ``y``, ``width`` and ``height`` of ``patches.parquet``."""
    (row,) = np.flatnonzero(verdicts["index"] == example.index)
    x, y, width, height = (float(verdicts[name][row]) for name in ("x", "y", "width", "height"))
    return Box(x, y, x + width, y + height)


def named_examples(names: Iterable[str]) -> tuple[Example, ...]:
    """The examples whose pictures have such names, the worst first; other names are passed over."""
    matches = [match for name in names if (match := _NAME.fullmatch(name))]
    found = [Example(match[1], int(match[2]), int(match[3])) for match in matches]
    return tuple(sorted(found, key=lambda one: (one.kind != WORST, one.place, one.index)))


def draw_example(slide: Slide, nuclei_parquet: Path, box: Box, look: Look | None = None) -> Image | None:
    """A patch with its nuclei outlined, uint8 (h, w, 3); None where it cannot be read.

    Parameters
    ----------
    slide : Slide
    nuclei_parquet : Path
    box : Box
        The patch, in level-0 pixels.
    look : callable, optional
        Asks the second opinion. What it has against the outlines is tinted in :data:`ERROR_COLOURS`, within a thin
        frame around what was looked at.
    """
    mpp = slide.require_mpp().value
    pixel = max(mpp, max(box.width, box.height) * mpp / SIDE_PX)
    zoom = max(1, round(SIDE_PX * pixel / mpp / max(box.width, box.height)))
    nuclei = read_nuclei(nuclei_parquet, box, columns=[])
    try:
        picture = render_overlay(slide, nuclei, box, pixel, zoom=zoom, width_px=_LINE_PX)
        seen = look(box, nuclei) if look else None
    except ReadError:
        return None
    return _tinted(picture, box, seen) if seen else picture


def _tinted(picture: Image, box: Box, seen: Seen) -> Image:
    """The picture of ``box`` with the error map over the part that was seen."""
    height, width = picture.shape[:2]
    x0, x1 = (round((at - box.x0) * width / box.width) for at in (seen.box.x0, seen.box.x1))
    y0, y1 = (round((at - box.y0) * height / box.height) for at in (seen.box.y0, seen.box.y1))
    kinds = error_map(seen.labels, seen.opinion, seen.wanted)
    # Pixels of the window are not quite those of the patch at its edges.
    rows, columns = (
        np.clip(np.arange(low, high), 0, side - 1) for low, high, side in ((y0, y1, height), (x0, x1, width))
    )
    near = kinds[np.ix_(_steps(y1 - y0, kinds.shape[0]), _steps(x1 - x0, kinds.shape[1]))]
    out = picture.copy()
    part = out[np.ix_(rows, columns)].astype(np.float32)
    for kind, colour in ERROR_COLOURS.items():
        chosen = near == KINDS.index(kind) + 1
        part[chosen] += _TINT * (np.array(colour, dtype=np.float32) - part[chosen])
    part[[0, -1]] = part[:, [0, -1]] = _FRAME
    out[np.ix_(rows, columns)] = part.round().astype(np.uint8)
    return out


def _steps(shown: int, stored: int) -> npt.NDArray[np.int64]:
    """Which of the stored rows each shown one is."""
    return np.arange(shown) * stored // max(shown, 1)

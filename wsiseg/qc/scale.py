"""Are the microns per pixel right? Nuclei of all tissues are of much the same size, which the network knows.

Nuclei of one tissue may be half as large in area as another's, so their area alone does not tell a wrong scale from
an unusual tissue, and where the scale is far off hardly any are found. So where areas are odd or nuclei few, the
default network looks at some places at half and at twice the scale too: it finds more, and is surer of it, where
nuclei have the size that it knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Box, Window
from wsiseg.errors import ReadError, SlideError
from wsiseg.models.base import Segmenter
from wsiseg.qc.opinion import MARGIN_UM, OPINION_MPP, second_opinion
from wsiseg.slide import Slide

TYPICAL_UM2 = 28.0
"""Median area of a nucleus in most tissues, as the default network outlines them."""
SURE_UM2 = (23.0, 38.0)
"""Median areas that no wrong scale has given: with these nothing further is looked at."""
SCALES = (0.5, 1.0, 2.0)
"""The default network's microns per pixel are multiplied by these for the looks."""
WRONG = 0.45
"""Octaves by which nuclei look too large or too small from which on it is said; the estimate falls short of the
truth, so that twice is about 0.8."""
SCALE_WRONG = "The microns per pixel are probably wrong"
"""How the note begins."""

_ENOUGH = 100  # nuclei of the result, for their area to be sure
_FOUND = 30  # nuclei of the look that found most, without which nothing is known
_PLACES = 6
_SIDE_UM = 128.0
_NONE = 0.005  # of the places; what is covered by chance
# Least squares, octaves (docs/quality.md): constant, log of the area over the typical, of the covers at 2 and at ½
# over that at 1.
_LINE = (-0.15, 0.70, 0.10, -0.26)

Verdicts = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Look:
    """What the network finds in looked-at places of a slide at one scale.

    Attributes
    ----------
    areas : tuple of float
        Of its nuclei that are whole in their place, µm² by the slide's microns per pixel.
    covered : float
        Pixels under nuclei, each weighed by 2 · score − 1: 0 where the network is not sure at all.
    looked : int
        Pixels in all.
    """

    areas: tuple[float, ...]
    covered: float
    looked: int

    @property
    def cover(self) -> float:
        """Share of the places under nuclei."""
        return self.covered / max(self.looked, 1)


def odd_places(verdicts: Verdicts) -> list[Box]:
    """Where a slide is to be looked at, level 0; nowhere if its nuclei say by themselves that the scale is right.

    Parameters
    ----------
    verdicts : mapping of str to array (P,)
        Of the judged patches, see :func:`wsiseg.qc.check.assess_patches`: their places, ``nuclei``, ``area_log``
        and ``dark``.
    """
    nuclei, area = nuclear_area(verdicts)
    if nuclei >= _ENOUGH and area is not None and SURE_UM2[0] <= area <= SURE_UM2[1]:
        return []
    return _darkest(verdicts)


def scale_notes(looks: Sequence[Look]) -> list[str]:
    """A sentence where nuclei are too large or too small for any tissue.

    Parameters
    ----------
    looks : sequence of Look
        At :data:`SCALES`; empty: nothing was looked at.
    """
    octaves = octaves_too_large(looks) if looks else None
    if octaves is None or abs(octaves) < WRONG:
        return []
    factor = 2.0 ** abs(octaves)
    looks_so = f"{factor:.1f} times too {'large' if octaves > 0 else 'small'}"
    return [
        f"{SCALE_WRONG}: nuclei look about {looks_so} (the network knows them by size and finds more at another "
        "scale). All measurements depend on them: compare with the scanner's, and give --mpp."
    ]


def octaves_too_large(looks: Sequence[Look]) -> float | None:
    """How much too large nuclei look, as log₂ of their diameters' ratio; None where hardly any are found.

    Parameters
    ----------
    looks : sequence of Look
        At :data:`SCALES`.
    """
    if max(len(look.areas) for look in looks) < _FOUND:
        return None
    fine, own, coarse = (np.log(look.cover + _NONE) for look in looks)
    areas = looks[1].areas
    size = np.log(np.median(areas) / TYPICAL_UM2) if len(areas) else 0.0
    constant, of_size, of_coarse, of_fine = _LINE
    return float(constant + of_size * size + of_coarse * (coarse - own) + of_fine * (fine - own))


def look_at_scales(slide: Slide, places: Sequence[Box], segmenter: Segmenter) -> list[Look]:
    """What the default network finds in places of a slide at each of :data:`SCALES`.

    Parameters
    ----------
    slide : Slide
    places : sequence of Box
        Level 0. Of those that cannot be read nothing is said.
    segmenter : Segmenter
        Of :func:`wsiseg.qc.opinion.opinion_choice`.
    """
    return [_joined([_look(slide, place, segmenter, times) for place in places]) for times in SCALES]


def join_looks(places: Sequence[Sequence[Look]]) -> list[Look]:
    """Of looks at single places those at all of them, at each of :data:`SCALES`; [] of no place."""
    return [_joined(looks) for looks in zip(*places, strict=True)]


def _joined(looks: Sequence[Look]) -> Look:
    areas = tuple(itertools.chain.from_iterable(look.areas for look in looks))
    return Look(areas, sum(look.covered for look in looks), sum(look.looked for look in looks))


def _look(slide: Slide, place: Box, segmenter: Segmenter, times: float) -> Look:
    try:
        labels, score, mpp = _found(slide, place, segmenter, times)
    except (ReadError, SlideError):  # unreadable, or so coarse that nothing is to be seen
        return Look((), 0.0, 0)
    pixels = np.bincount(labels.ravel(), minlength=len(score) + 1)[1:]
    cut = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    whole = (pixels > 0) & ~np.isin(np.arange(1, len(score) + 1), cut)
    areas = pixels[whole].astype(np.float64) * mpp**2
    return Look(tuple(areas.tolist()), float((np.clip(2 * score - 1, 0, None) * pixels).sum()), labels.size)


def _found(
    slide: Slide, place: Box, segmenter: Segmenter, times: float
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], float]:
    """Labels and scores in the middle of a place, and the microns per pixel of the labels."""
    wanted = segmenter.mpp * times
    scale = slide.scale(wanted)
    lattice = slide.lattice(scale)
    window = scale.window(_middle(place, _SIDE_UM / slide.require_mpp().value))
    margin = round(MARGIN_UM / OPINION_MPP)
    read = window.pad(margin).intersection(Window(0, 0, *lattice.whole))
    image, _ = slide.read_lossy(read, scale)
    labels, score = second_opinion(segmenter, image, read, window)
    return labels, score, lattice.mpp


def _middle(place: Box, side: float) -> Box:
    """The middle of a place, ``side`` level-0 pixels wide at most."""
    x, y = (place.x0 + place.x1) / 2, (place.y0 + place.y1) / 2
    across, down = min(side, place.x1 - place.x0) / 2, min(side, place.y1 - place.y0) / 2
    return Box(x - across, y - down, x + across, y + down)


def _darkest(verdicts: Verdicts) -> list[Box]:
    """Six of the half of the judged patches with most dark spots, evenly by how many: where nuclei should be."""
    if "dark" not in verdicts or not len(verdicts["dark"]):
        return []
    order = np.argsort(-np.nan_to_num(np.asarray(verdicts["dark"], dtype=np.float64)), kind="stable")
    half = order[: max(_PLACES, (len(order) + 1) // 2)]
    chosen = np.unique(np.linspace(0, len(half) - 1, min(_PLACES, len(half))).round().astype(np.int64))
    sides = np.column_stack([verdicts[name] for name in ("x", "y", "width", "height")]).astype(np.float64)
    return [Box(x, y, x + width, y + height) for x, y, width, height in sides[half[chosen]].tolist()]


def nuclear_area(verdicts: Verdicts) -> tuple[int, float | None]:
    """How many nuclei judged patches have, and their median area (µm²): of the patches' medians, weighed by nuclei.

    Parameters as of :func:`scale_notes`; None where there are no nuclei.
    """
    if "area_log" not in verdicts:
        return 0, None
    counts, areas = (np.asarray(verdicts[name], dtype=np.float64) for name in ("nuclei", "area_log"))
    known = np.isfinite(areas) & (counts > 0)
    counts, areas = counts[known], areas[known]
    if not len(areas):
        return 0, None
    order = np.argsort(areas, kind="stable")
    middle = np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)
    return int(counts.sum()), float(np.exp(areas[order][middle]))

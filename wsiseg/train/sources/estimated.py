"""Microns per pixel that are only estimated, corrected by the network that knows the size of nuclei."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from wsiseg.core.geometry import Box
from wsiseg.models.resident import resident_segmenter
from wsiseg.qc.opinion import opinion_choice
from wsiseg.qc.scale import WRONG, look_at_scales, octaves_too_large
from wsiseg.slide import Slide, open_slide
from wsiseg.slide.held import Identity, identity
from wsiseg.tissue import find_tissue

_PLACES = 6
_SIDE_UM = 128.0
_ROUNDS = 3


def corrected_mpp(path: Path, mpp: float) -> float:
    """Microns per pixel at which the default network finds nuclei of the size that it knows, near ``mpp``.

    It looks at six places on tissue at half, once and twice the estimate (:mod:`wsiseg.qc.scale`), moves the
    estimate by what it finds, and looks again, until they agree. An estimate that is less than about a third off
    is left as it is, and so is one where hardly any nuclei are found at any scale.

    Raises
    ------
    SlideError
        The slide cannot be used.
    """
    return _corrected(path, identity(path), mpp)


@lru_cache(maxsize=4096)
def _corrected(path: Path, _: Identity, mpp: float) -> float:
    segmenter = resident_segmenter(opinion_choice("cpu", None))
    for _round in range(_ROUNDS):
        with open_slide(path, mpp=mpp) as slide:
            octaves = octaves_too_large(look_at_scales(slide, _places(slide), segmenter))
        if octaves is None or abs(octaves) < WRONG:
            break
        mpp /= 2.0**octaves
    return mpp


def _places(slide: Slide) -> list[Box]:
    """The whole of a small image; of a large one squares around six points of its tissue, evenly in their order."""
    whole = Box(0.0, 0.0, float(slide.width), float(slide.height))
    side = _SIDE_UM / slide.require_mpp().value
    if slide.width <= side and slide.height <= side:
        return [whole]
    tissue = find_tissue(slide)
    rows, columns = np.nonzero(tissue.core)
    if not len(rows):
        return []
    chosen = np.unique(np.linspace(0, len(rows) - 1, _PLACES).round().astype(np.int64))
    middles = np.column_stack([columns[chosen], rows[chosen]]).astype(np.float64) + 0.5
    centres = tissue.scale.to_level0(middles)
    around = (Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2) for x, y in centres.tolist())
    return [box.intersection(whole) for box in around]

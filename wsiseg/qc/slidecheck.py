"""A slide's quality before anything is segmented: scale, tissue, artefacts and stain, as numbers and in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsiseg.artefacts.kinds import KINDS
from wsiseg.artefacts.map import ArtefactMap, ArtefactShares, artefact_shares, find_artefacts
from wsiseg.core.stain import eosin, hematoxylin
from wsiseg.core.typed import as_plain
from wsiseg.results.notes import artefact_notes, image_notes
from wsiseg.tissue import TISSUE_MPP, make_tissue

if TYPE_CHECKING:
    from wsiseg.slide import Slide

_LEAST_CELLS = 16
"""On less tissue nothing is said of the stain."""


@dataclass(frozen=True)
class StainSummary:
    """Optical densities (base 10) of the tissue without spoiling artefacts at 8 µm: medians."""

    hematoxylin_od: float
    eosin_od: float


@dataclass(frozen=True)
class SlideCheck:
    """What :func:`check_slide` says of a slide.

    Attributes
    ----------
    name : str
    mpp : float
        Microns per pixel of level 0; ``mpp_source`` says who says so.
    width, height : int
        Level-0 pixels.
    tissue_mm2, usable_mm2 : float
        Tissue, and what of it no artefact spoils.
    usable : float
        Share of all that is not glass.
    artefacts : mapping of str to float
        The share of all that is not glass that each kind takes.
    stain : StainSummary or None
        None where there is next to no tissue.
    notes : tuple of str
        What is unusual, a sentence each.
    seconds : float
        It took so long.
    """

    name: str
    mpp: float
    mpp_source: str
    width: int
    height: int
    tissue_mm2: float
    usable_mm2: float
    usable: float
    artefacts: Mapping[str, float]
    stain: StainSummary | None
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        plain: dict[str, Any] = as_plain(self)
        return plain

    @property
    def words(self) -> tuple[str, ...]:
        """The same in sentences, the notes among them."""
        found = [f"{KINDS[name]} {share:.1%}" for name, share in self.artefacts.items() if share >= 0.0005]
        stain = self.stain
        return (
            f"{self.width:,} × {self.height:,} pixels of {self.mpp:g} µm ({self.mpp_source}).",
            f"Tissue {self.tissue_mm2:.3g} mm², of which {self.usable_mm2:.3g} mm² are usable: "
            f"{self.usable:.1%} of all that is not glass.",
            "Artefacts: " + (", ".join(found) if found else "none") + ".",
            f"Stain (median optical density of the tissue): haematoxylin {stain.hematoxylin_od:.2f}, "
            f"eosin {stain.eosin_od:.2f}."
            if stain
            else "Stain: too little tissue to tell.",
            *self.notes,
        )


@dataclass(frozen=True)
class Checked:
    """A check, and the map that it rests on."""

    check: SlideCheck
    artefacts: ArtefactMap
    shares: ArtefactShares


def check_slide(slide: Slide) -> Checked:
    """Look at a slide as a whole, without segmenting anything.

    Memory is that of the overview at 8 µm and of one block of 2 mm at 1 µm, whatever the slide.

    Raises
    ------
    MissingMppError
        Its microns per pixel are unknown.
    """
    started, mpp = time.perf_counter(), slide.require_mpp()
    image, scale = slide.overview(max(TISSUE_MPP, mpp.value))
    tissue = make_tissue(image, scale, slide.width, slide.height, mpp.value)
    artefacts = find_artefacts(slide, tissue, image)
    shares = artefact_shares(artefacts, tissue, mpp.value)
    check = SlideCheck(
        name=slide.name,
        mpp=mpp.value,
        mpp_source=mpp.source,
        width=slide.width,
        height=slide.height,
        tissue_mm2=tissue.area_mm2(mpp.value),
        usable_mm2=shares.usable_mm2,
        usable=shares.usable,
        artefacts=shares.kinds,
        stain=summarise_stain(image, tissue.core & (artefacts.bits == 0)),
        notes=(*slide.notes, *image_notes(image, tissue), *artefact_notes(shares)),
        seconds=time.perf_counter() - started,
    )
    return Checked(check, artefacts, shares)


def summarise_stain(image: npt.NDArray[np.uint8], tissue: npt.NDArray[np.bool_]) -> StainSummary | None:
    """The stain of the ``tissue`` (H, W) in an image (H, W, 3); None where there is next to none."""
    if np.count_nonzero(tissue) < _LEAST_CELLS:
        return None
    return StainSummary(*(float(np.median(stain(image)[tissue])) for stain in (hematoxylin, eosin)))

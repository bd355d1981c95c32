"""A slide's artefacts as a value: one map of bits on the lattice of the tissue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsiseg.artefacts.coarse import find_coarse
from wsiseg.artefacts.fine import blocks, find_fine
from wsiseg.artefacts.kinds import KINDS, SPOILING, bits
from wsiseg.core.geometry import FloatArray, Scale, Window
from wsiseg.core.region import touched_cells
from wsiseg.tissue import Tissue

if TYPE_CHECKING:
    from wsiseg.slide import Slide


@dataclass(frozen=True)
class ArtefactMap:
    """The artefacts of a slide.

    Attributes
    ----------
    bits : uint16 array (H, W)
        The kinds in each cell (:func:`wsiseg.artefacts.kinds.bit`); 0 for none.
    scale : Scale
        The lattice: that of the tissue.
    """

    bits: npt.NDArray[np.uint16]
    scale: Scale

    def mask(self, *names: str) -> npt.NDArray[np.bool_]:
        """Where any of the kinds is, bool (H, W)."""
        return np.asarray(self.bits & bits(names) > 0)

    def at(self, xy: FloatArray) -> npt.NDArray[np.uint16]:
        """The kinds at points (N, 2) in level-0 coordinates, as bits (N,); 0 beyond the slide."""
        cells = np.floor(self.scale.from_level0(xy)).astype(np.int64)
        height, width = self.bits.shape
        inside = (cells >= 0).all(axis=1) & (cells[:, 0] < width) & (cells[:, 1] < height)
        found = np.zeros(len(cells), dtype=np.uint16)
        found[inside] = self.bits[cells[inside, 1], cells[inside, 0]]
        return found


@dataclass(frozen=True)
class ArtefactShares:
    """What the artefacts leave of a slide's tissue.

    Attributes
    ----------
    kinds : dict of str to float
        Each kind's share of all that is not glass: tissue, and ink or dirt that may hide some. They may overlap.
    usable : float
        The share that is tissue under none of ``SPOILING``.
    usable_mm2 : float
        The same as an area, in whole cells.
    """

    kinds: dict[str, float]
    usable: float
    usable_mm2: float


def find_artefacts(slide: Slide, tissue: Tissue, image: npt.NDArray[np.uint8]) -> ArtefactMap:
    """The artefacts of a slide.

    Parameters
    ----------
    slide : Slide
    tissue : Tissue
        Of the whole slide.
    image : uint8 array (H, W, 3)
        The overview that it was found in.

    Raises
    ------
    MissingMppError
        The slide's mpp is unknown.
    """
    mpp = slide.require_mpp().value
    found = ((block, find_fine(slide, tissue, block)) for block in blocks(tissue, mpp))
    return join_artefacts(tissue, image, mpp, found)


def join_artefacts(
    tissue: Tissue,
    image: npt.NDArray[np.uint8],
    slide_mpp: float,
    found: Iterable[tuple[Window, npt.NDArray[np.uint16]]],
) -> ArtefactMap:
    """The map of what the overview tells and of what has been ``found`` in blocks."""
    mpp = tissue.scale.downsample * slide_mpp
    fine = np.zeros(tissue.core.shape, dtype=np.uint16)
    for block, part in found:
        fine[block.y : block.y1, block.x : block.x1] = part
    return ArtefactMap(find_coarse(image, tissue, mpp) | fine, tissue.scale)


def artefact_shares(artefacts: ArtefactMap, tissue: Tissue, slide_mpp: float) -> ArtefactShares:
    """How much of the tissue in the region of interest each kind takes, and what is left.

    ``tissue``: the slide's, whose region may have been made smaller.
    """
    seen = (tissue.core | tissue.artefact) & touched_cells(tissue.region, tissue.core.shape, tissue.scale)
    cells = max(1, int(np.count_nonzero(seen)))
    kinds = {name: int(np.count_nonzero(artefacts.mask(name) & seen)) / cells for name in KINDS}
    usable = int(np.count_nonzero(seen & tissue.core & ~artefacts.mask(*SPOILING)))
    return ArtefactShares(kinds, usable / cells, usable * (tissue.scale.downsample * slide_mpp / 1000) ** 2)

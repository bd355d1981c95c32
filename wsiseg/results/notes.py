"""What a slide's record says in sentences: results that are valid and that nobody would expect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsiseg.artefacts.kinds import KINDS, SPOILING
from wsiseg.artefacts.map import ArtefactShares
from wsiseg.results.record import Lost, LostBox, Outside, Seams, Tiles
from wsiseg.tissue import Tissue

_SAMPLE_PX = 500_000
_COLOUR = 8  # the least difference between two channels that is more than noise and the tint of glass
_COLOURED = 0.001  # share of coloured pixels below which an image is grey
_DARK = 215  # glass is lighter
_SHOWN = 0.01  # share of dark pixels from which on there is something to see
_WHOLE = 0.98  # share of the field from which on tissue is everywhere
_WORTH_MM2 = 0.01  # on less tissue no nuclei are no surprise
_CUT = 3.0  # straight_edge_ratio above which seams cut nuclei
_OUTSIDE = 5  # nuclei outside the tissue from which on it is no chance
_OUTSIDE_PER_MM2 = 20.0  # and so many per mm²
_USABLE = 0.8  # share of the tissue below which it is said what spoils the rest
_WORTH_SAYING = 0.01
_BADLY_STAINED = 0.5


def image_notes(image: npt.NDArray[np.uint8], tissue: Tissue) -> list[str]:
    """On a slide as a whole, from the overview (H, W, 3) that ``tissue`` was found in."""
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / _SAMPLE_PX)))
    sample = image[::step, ::step]
    low, high = sample.min(axis=2), sample.max(axis=2)
    grey = np.mean(high - low > _COLOUR) < _COLOURED and np.mean(low < _DARK) >= _SHOWN
    share = float(tissue.core.mean()) if tissue.core.size else 0.0
    notes = []
    if grey:
        notes.append(
            "The image is grey: it has no colour. Expected: haematoxylin and eosin, or another stain, in colour; "
            "where there is no colour, no tissue is found."
        )
    if share == 0:
        notes.append("No tissue was found: nothing in the image has the colours of stained tissue.")
    elif share >= _WHOLE:
        notes.append(f"Tissue all over the field: {share:.1%} of the image counts as tissue.")
    return notes


def run_notes(nuclei: int, tissue_mm2: float, tiles: Tiles, lost: Lost) -> list[str]:
    """On what became of the slide."""
    notes = []
    if nuclei == 0 and tissue_mm2 >= _WORTH_MM2:
        notes.append(f"No nucleus was found on {tissue_mm2:.2f} mm² of tissue.")
    if lost.boxes:
        failed = f"{tiles.failed} of {tiles.total} tiles were given up; " if tiles.failed else ""
        notes.append(
            f"Lost: {failed}{lost.area_mm2:.3g} mm² could not be segmented, {lost.fraction_of_tissue:.1%} of "
            f"the tissue ({_most_frequent(lost.boxes)})."
        )
    return notes


def seam_notes(seams: Seams) -> list[str]:
    """On nuclei that seams have cut."""
    ratio = seams.straight_edge_ratio
    if ratio is None or ratio < _CUT:
        return []
    return [
        f"Nuclei are cut at the seams: along the lines between tiles straight edges are {ratio:.1f} times as "
        "frequent as elsewhere. There one nucleus is two, and both are too small."
    ]


def outside_notes(outside: Outside | None) -> list[str]:
    """On what was found just outside the tissue."""
    if outside is None or outside.nuclei < _OUTSIDE or outside.per_mm2 < _OUTSIDE_PER_MM2:
        return []
    return [
        f"Nuclei outside the tissue: {outside.nuclei} in {outside.windows} windows just beside it, "
        f"{outside.per_mm2:.0f} per mm². The mask may have missed {outside.share:.1%} of the nuclei; "
        "the thumbnail shows it, and --all segments the whole slide."
    ]


def artefact_notes(shares: ArtefactShares) -> list[str]:
    """On tissue that artefacts spoil, and on what is stained badly."""
    spoiled = {name: share for name, share in shares.kinds.items() if name in SPOILING and share >= _WORTH_SAYING}
    notes = []
    if shares.usable < _USABLE and spoiled:
        listed = ", ".join(f"{KINDS[name]} {share:.0%}" for name, share in spoiled.items())
        notes.append(f"Of the tissue {shares.usable:.0%} is usable: {listed}. artefacts.png shows where.")
    for name in ("understained", "overstained"):
        if shares.kinds[name] >= _BADLY_STAINED:
            notes.append(f"Of the tissue {shares.kinds[name]:.0%} is {KINDS[name]}: the stain is unusual.")
    return notes


def _most_frequent(boxes: Sequence[LostBox]) -> str:
    reasons = Counter(box.reason for box in boxes)
    (first, _), *others = reasons.most_common()
    return f"{first}, and other reasons" if others else first

"""Are the microns per pixel right? Nuclei of all tissues are of much the same size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

TYPICAL_UM2 = 28.0
"""Median area of a nucleus in most tissues, as the default network outlines them."""
PLAUSIBLE_UM2 = (14.0, 60.0)
"""Median areas beyond these question the scale (docs/quality.md says how often rightly)."""

_ENOUGH = 100  # nuclei


def scale_notes(verdicts: Mapping[str, npt.NDArray[np.generic]]) -> list[str]:
    """A sentence where nuclei are too large or too small for any tissue.

    Parameters
    ----------
    verdicts : mapping of str to array (P,)
        With ``nuclei`` and ``area_log`` of the judged patches; see :func:`wsiseg.qc.check.assess_patches`.
    """
    nuclei, area = nuclear_area(verdicts)
    if area is None or nuclei < _ENOUGH:
        return []
    if PLAUSIBLE_UM2[0] <= area <= PLAUSIBLE_UM2[1]:
        return []
    factor = float(np.sqrt(area / TYPICAL_UM2))
    looks = f"{factor:.1f} times too large" if factor > 1 else f"{1 / factor:.1f} times too small"
    return [
        f"The microns per pixel are probably wrong: nuclei look {looks} (median area {area:.0f} µm², "
        f"in most tissues about {TYPICAL_UM2:.0f}). "
        "All measurements depend on them: compare with the scanner's, and give --mpp."
    ]


def nuclear_area(verdicts: Mapping[str, npt.NDArray[np.generic]]) -> tuple[int, float | None]:
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

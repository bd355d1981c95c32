"""What a scene adds to a patch: nuclei of its own, and where the patch's ordinary ones do not lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsiseg.synth.flow import FloatArray, Mask
from wsiseg.synth.shapes import ALL_KINDS, sample_shape

_INDEX = {kind.name: n for n, kind in enumerate(ALL_KINDS)}


@dataclass(frozen=True)
class Scene:
    """
    Attributes
    ----------
    rows : sequence of float64 array (SHAPE_FIELDS,)
        Outlines of its nuclei.
    kinds : sequence of int
        Of each, index into ``ALL_KINDS``.
    closed : bool array (H, W) or None
        Where nuclei that were there before are covered.
    keep : float
        Share of the patch's ordinary nuclei that stay elsewhere.
    """

    rows: Sequence[FloatArray]
    kinds: Sequence[int]
    closed: Mask | None
    keep: float = 1.0

    @classmethod
    def empty(cls, closed: Mask | None = None) -> Scene:
        """Without nuclei."""
        return cls((), (), closed)


def nuclei_of(
    rng: np.random.Generator,
    kind: str,
    spots: Sequence[tuple[float, ...]],
    mpp: float,
    *,
    size: float = 1.0,
    curved: bool = False,
) -> tuple[list[FloatArray], list[int]]:
    """Outlines of a kind at ``spots`` (x, y, angle), and its index for each.

    With ``curved`` a spot has a fourth number, the curvature of what the nucleus lies against, in 1 / pixels.
    """
    rows = []
    for spot in spots:
        row = sample_shape(rng, ALL_KINDS[_INDEX[kind]], (spot[0], spot[1]), spot[2], mpp, size)
        if curved:
            row[6] = np.clip(0.5 * row[2] * spot[3], -0.6, 0.6)
        rows.append(row)
    return rows, [_INDEX[kind]] * len(rows)

"""The patches that are assessed: squares over tissue on a lattice of their own, independent of tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Box, FloatArray
from wsiseg.core.region import region_share
from wsiseg.tissue import Tissue

PATCH_UM = 256.0
"""Side of a patch in microns."""
SMALL_PATCH_UM = 128.0
"""Side of a patch on slides that have not room for fifteen of the others."""
ENOUGH = 15
"""Patches from which on a slide has enough of a size."""
SAMPLE = 150
"""Patches of a slide that are judged, a random sample of all, unless all are asked for."""
MIN_TISSUE = 0.5
"""Least share of a patch that must be tissue."""
MIN_INSIDE = 0.5
"""Least share of a patch at the slide's border that must lie on the slide."""

_BLOCK_PATCHES = 6
_SEED = 15


@dataclass(frozen=True)
class Patches:
    """P patches, row by row.

    Attributes
    ----------
    x, y, width, height : int64 arrays (P,)
        Level-0 pixels; patches at the right and bottom border are clipped to the slide.
    tissue, artefact : float64 arrays (P,)
        Share of the patch (inside the slide) that is tissue in the region of interest, and that is ink, coverslip
        edge or the like.
    """

    x: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]
    height: npt.NDArray[np.int64]
    tissue: FloatArray
    artefact: FloatArray

    def __len__(self) -> int:
        return len(self.x)

    def box(self, index: int) -> Box:
        x, y = float(self.x[index]), float(self.y[index])
        return Box(x, y, x + float(self.width[index]), y + float(self.height[index]))

    def take(self, indices: npt.NDArray[np.int64]) -> Patches:
        """The patches at ``indices``."""
        return Patches(**{name: column[indices] for name, column in vars(self).items()})

    def blocks(self, indices: npt.NDArray[np.int64] | None = None) -> list[npt.NDArray[np.int64]]:
        """The patches, or those at ``indices``, in squares of 6 × 6 places: near ones need the same nuclei."""
        chosen = np.arange(len(self)) if indices is None else indices
        if len(chosen) == 0:
            return []
        side = int(self.width.max()) * _BLOCK_PATCHES
        places = np.column_stack([self.y[chosen] // side, self.x[chosen] // side])
        _, which = np.unique(places, axis=0, return_inverse=True)
        return [chosen[which == n] for n in range(int(which.max()) + 1)]

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """The columns by name."""
        return {
            "x": self.x,
            "y": self.y,
            "width": self.width,
            "height": self.height,
            "tissue": self.tissue,
            "artefact": self.artefact,
        }


def place_patches(width: int, height: int, slide_mpp: float, tissue: Tissue) -> Patches:
    """All patches of a slide: of 256 µm, or of 128 µm where fewer than fifteen of them find room.

    Parameters as of :func:`plan_patches`.
    """
    patches = plan_patches(width, height, slide_mpp, tissue)
    if len(patches) >= ENOUGH:
        return patches
    return plan_patches(width, height, slide_mpp, tissue, patch_um=SMALL_PATCH_UM)


def sample_patches(patches: Patches, most: int = SAMPLE) -> Patches:
    """At most so many of the patches, drawn at random with a fixed seed, in their order."""
    if len(patches) <= most:
        return patches
    drawn = np.random.default_rng(_SEED).permutation(len(patches))[:most]
    return patches.take(np.sort(drawn).astype(np.int64))


def plan_patches(
    width: int,
    height: int,
    slide_mpp: float,
    tissue: Tissue,
    *,
    patch_um: float = PATCH_UM,
    min_tissue: float = MIN_TISSUE,
) -> Patches:
    """The patches of a slide of ``width`` × ``height`` level-0 pixels.

    Parameters
    ----------
    slide_mpp : float
        Microns per level-0 pixel.
    patch_um : float
        Side; rounded to whole level-0 pixels.
    min_tissue : float
        Least share of tissue.

    Returns
    -------
    Patches
        On the lattice of multiples of the side from level 0's origin. Patches that the border cuts to less than
        half are left out, unless the slide is smaller than a patch.
    """
    side = max(1, round(patch_um / slide_mpp))
    columns = np.arange(-(-width // side), dtype=np.int64) * side
    rows = np.arange(-(-height // side), dtype=np.int64) * side
    widths, heights = np.minimum(side, width - columns), np.minimum(side, height - rows)
    down, across = _overlaps(rows, heights, tissue, axis=0), _overlaps(columns, widths, tissue, axis=1)
    share = region_share(tissue.region, tissue.core.shape, tissue.scale)
    cells = tissue.scale.downsample**2
    area = np.outer(heights, widths).astype(np.float64)
    covered = down @ (tissue.core * share).astype(np.float32) @ across.T * cells / area
    marked = down @ (tissue.artefact * share).astype(np.float32) @ across.T * cells / area
    whole = min(side, width) * min(side, height)
    chosen = (covered >= min_tissue - 1e-6) & (area >= MIN_INSIDE * whole)
    i, j = np.nonzero(chosen)
    return Patches(
        columns[j],
        rows[i],
        widths[j],
        heights[i],
        np.minimum(covered[i, j], 1.0).astype(np.float64),
        np.minimum(marked[i, j], 1.0).astype(np.float64),
    )


def _overlaps(
    starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], tissue: Tissue, *, axis: int
) -> npt.NDArray[np.float32]:
    """How much of each raster row (or column) lies in each patch's extent, (patches, raster), 0–1."""
    edges = np.arange(tissue.core.shape[axis] + 1) * tissue.scale.downsample
    clipped = np.clip(edges[None, :], starts[:, None], (starts + sizes)[:, None])
    return (np.diff(clipped, axis=1) / tissue.scale.downsample).astype(np.float32)

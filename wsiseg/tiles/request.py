"""What a user asks for: the options of a run, and one slide with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsiseg.models.resident import ModelChoice


@dataclass(frozen=True)
class SegmentOptions:
    """What decides a run's results, and which finished ones it may reuse.

    Attributes
    ----------
    choice : ModelChoice
        The segmenter, and what it runs on.
    tile : int
        Side of a tile's core in pixels at the model's mpp.
    mpp : float or None
        Microns per pixel of every slide, instead of what its metadata say.
    mpp_table : Path or None
        CSV with columns ``slide`` and ``mpp``, for single slides.
    roi : (x, y, width, height) or None
        In level-0 pixels.
    mask : Path or None
        GeoJSON polygons in level-0 pixels.
    tissue_only : bool
        False segments the whole slide, tissue or not.
    retry_partial : bool
        Compute slides again of which some area was lost.
    overwrite : bool
        Replace results of other settings in the same folder, instead of refusing.
    """

    choice: ModelChoice
    tile: int = 2048
    mpp: float | None = None
    mpp_table: Path | None = None
    roi: tuple[float, float, float, float] | None = None
    mask: Path | None = None
    tissue_only: bool = True
    retry_partial: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class SlideRequest:
    """What the user asked for one slide. Paths are absolute: they travel to workers in other folders."""

    path: Path
    options: SegmentOptions

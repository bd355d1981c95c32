"""What the finished stages of a slide have left in its work folder, as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wsiseg.core.sealed import FileNote
from wsiseg.results.record import LostBox, Seams, Tiles
from wsiseg.slide.lethal import Lethal

STITCH = "stitch"
LABELS = "labels"
MAPS = "maps"
PATCHES = "patches"
GRADING = "grading"
LETHAL = "lethal"
OUTSIDE = "outside"
ARTEFACTS = "artefacts"
OVERVIEW = "overview"
ARTEFACTS_DRAWN = "artefacts-drawn"
THUMBNAIL = "thumbnail"


@dataclass(frozen=True, kw_only=True)
class Stitched:
    """``stitch``: what lies in ``nuclei.parquet``, and what became of the tiles; ``segment_s`` by activity.

    ``peak_bytes``: of the process that held most when it computed tiles.

    ``notes``: sentences on what nobody would expect of the nuclei.
    """

    nuclei: int
    types: Mapping[str, int] | None = None
    seams: Seams
    tiles: Tiles
    lost: tuple[LostBox, ...]
    segment_s: Mapping[str, float]
    peak_bytes: int = 0
    file: FileNote
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FoundOutside:
    """``outside``: what was found in windows just outside the tissue.

    ``area_mm2``: what of the windows lies outside; ``rim_mm2``: all that lies so near to the tissue.
    """

    windows: int
    nuclei: int
    area_mm2: float
    rim_mm2: float
    seconds: float


@dataclass(frozen=True)
class LethalPlaces:
    """``lethal``: the stored tiles that have killed a worker."""

    places: tuple[Lethal, ...]


@dataclass(frozen=True)
class Timed:
    """Of a stage whose result lies in files: the map of labels (``labels``: empty), its shards, each picture."""

    seconds: float

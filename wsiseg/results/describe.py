"""What a record says of a slide, of a failure, and of the software."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsiseg.core.geometry import Box
from wsiseg.errors import WsisegError
from wsiseg.results.maps import lost_mask
from wsiseg.results.record import ErrorNote, FailedRecord, Lost, LostBox, SlideDescription, SlidePlace
from wsiseg.slide import Slide
from wsiseg.slide.remote import location
from wsiseg.slide.types import MISSING
from wsiseg.tissue import Tissue
from wsiseg.version import __version__

_VERSIONS = ("dask", "distributed", "imagecodecs", "numpy", "openslide-python", "shapely", "torch", "zarr")


def failure_record(path: Path, slide_id: str, error: Exception) -> FailedRecord:
    """The record of a slide that could not be segmented."""
    message = str(error) if isinstance(error, WsisegError) else f"{type(error).__name__}: {error}"
    return FailedRecord(
        id=slide_id,
        error=ErrorNote(type(error).__name__, message),
        slide=SlidePlace(location(path), path.name),
        versions=versions(),
        created=now(),
    )


def versions() -> dict[str, str]:
    """Versions of what has a say in the result."""
    found = {"wsiseg": __version__, "python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def describe_slide(slide: Slide) -> SlideDescription:
    """The slide that a record is of.

    Raises
    ------
    MissingMppError
        Its mpp is not known.
    """
    mpp, bounds = slide.require_mpp(), slide.bounds
    return SlideDescription(
        path=location(slide.path),
        name=slide.name,
        bytes=slide_bytes(slide.path),
        fingerprint=slide.fingerprint(),
        reader=slide.reader,
        vendor=slide.vendor,
        width=slide.width,
        height=slide.height,
        levels=tuple((level.width, level.height) for level in slide.levels),
        mpp=mpp.value,
        mpp_source=mpp.source,
        bounds=(bounds.x0, bounds.y0, bounds.x1, bounds.y1),
    )


def slide_bytes(path: Path) -> int | None:
    """The size of a slide's file; None for a folder, or where there is nothing."""
    return path.stat().st_size if path.is_file() else None


def describe_lost(boxes: Sequence[LostBox], tissue: Tissue, mpp: float) -> Lost:
    """The record's ``lost``. Tiles that a sparse file never held are lost only where there is tissue."""
    kept = tuple(box for box in sorted(boxes) if box.reason != MISSING or tissue.touches(Box(*box[:4])))
    mask = lost_mask(kept, tissue.core.shape, tissue.scale).astype(bool)
    area_px = sum((box.x1 - box.x0) * (box.y1 - box.y0) for box in kept)
    seen = int(np.count_nonzero(tissue.core | mask))
    return Lost(
        area_mm2=area_px * (mpp / 1000) ** 2,
        fraction_of_tissue=float(np.count_nonzero(mask) / seen) if seen else 0.0,
        boxes=kept,
    )

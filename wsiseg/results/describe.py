"""What a record says of a slide, of a failure, and of the software."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from wsiseg import __version__
from wsiseg.errors import WsisegError
from wsiseg.results.folder import FORMAT_VERSION
from wsiseg.slide import Slide

_VERSIONS = ("dask", "distributed", "imagecodecs", "numpy", "openslide-python", "shapely", "torch", "zarr")
_UNKNOWN = (
    *("key", "specification", "tiles", "lost", "nuclei"),
    *("tissue_mm2", "artefacts", "seams", "grade", "timings_s", "notes"),
)
"""What the record of a slide that failed cannot say."""


def failure_record(path: Path, slide_id: str, error: Exception) -> dict[str, Any]:
    """The record of a slide that could not be segmented."""
    message = str(error) if isinstance(error, WsisegError) else f"{type(error).__name__}: {error}"
    return {
        "schema": "wsiseg.slide",
        "version": FORMAT_VERSION,
        "id": slide_id,
        "status": "failed",
        "error": {"kind": type(error).__name__, "message": message},
        "slide": {"path": os.path.abspath(path), "name": path.name},
        **dict.fromkeys(_UNKNOWN),
        "versions": versions(),
        "created": now(),
    }


def versions() -> dict[str, str]:
    """Versions of what has a say in the result."""
    found = {"wsiseg": __version__, "python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def describe_slide(slide: Slide) -> dict[str, Any]:
    """The record's ``slide`` object (docs/format.md)."""
    mpp = slide.mpp
    bounds = slide.bounds
    return {
        "path": os.path.abspath(slide.path),
        "name": slide.name,
        "bytes": slide_bytes(slide.path),
        "fingerprint": slide.fingerprint(),
        "reader": slide.reader,
        "vendor": slide.vendor,
        "width": slide.width,
        "height": slide.height,
        "levels": [[level.width, level.height] for level in slide.levels],
        "mpp": None if mpp is None else mpp.value,
        "mpp_source": None if mpp is None else mpp.source,
        "bounds": [bounds.x0, bounds.y0, bounds.x1, bounds.y1],
    }


def slide_bytes(path: Path) -> int | None:
    """The size of a slide's file; None for a folder, or where there is nothing."""
    return path.stat().st_size if path.is_file() else None

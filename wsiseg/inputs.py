"""Which slides a user means: files, folders and glob patterns as one list without repetitions."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from wsiseg.errors import UsageError
from wsiseg.slide.dicom import WHOLE_SLIDE_IMAGE, read_series

SLIDE_SUFFIXES = frozenset(
    (
        ".svs", ".svslide", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".bif", ".czi", ".dcm",
        ".isyntax", ".png", ".jpg", ".jpeg", ".webp", ".bmp",
    )
)  # fmt: skip
_DICOM = ".dcm"


def find_slides(given: Iterable[str]) -> list[Path]:
    """Files as they are given; folders searched through for slide suffixes; glob patterns expanded.

    A file that is named is taken whatever its suffix, so that a wrong one gets its own error. Hidden files and
    folders are passed over in a search, and so is DICOM that is no whole-slide image. A ``.zarr`` folder is one
    slide. DICOM files (``.dcm``) of one series in one folder are one slide, which the first of them stands for.

    Raises
    ------
    UsageError
        If something given matches nothing.
    """
    found: list[Path] = []
    for text in given:
        path = Path(text)
        if path.is_dir() and not _is_store(path):
            matches = list(_search(path))
            if not matches:
                raise UsageError(
                    f"no slides in the folder {text}. Expected files ending in {' '.join(sorted(SLIDE_SUFFIXES))} "
                    "or .zarr folders."
                )
        elif os.path.lexists(path):
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
            if not matches:
                raise UsageError(f"no such file, folder or pattern: {text}")
        found += matches
    unique: dict[tuple[str, str], Path] = {}
    for path in found:
        folder, name = os.path.split(os.path.abspath(path))
        series = read_series(path) if _suffix(name) == _DICOM else None
        unique.setdefault((folder, name if series is None else series.uid), path)
    return list(unique.values())


def _search(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        stores = sorted(name for name in folders if _is_store(Path(root, name)))
        folders[:] = sorted(name for name in folders if name not in stores and not name.startswith("."))
        yield from (Path(root, name) for name in stores)
        names = sorted(name for name in files if _suffix(name) in SLIDE_SUFFIXES and not name.startswith("."))
        yield from (path for path in (Path(root, name) for name in names) if not _is_other_dicom(path))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_other_dicom(path: Path) -> bool:
    """Whether a file is DICOM, but no slide: annotations, for example."""
    series = read_series(path) if path.suffix.lower() == _DICOM else None
    return series is not None and series.kind != WHOLE_SLIDE_IMAGE


def _is_store(path: Path) -> bool:
    return path.suffix.lower() == ".zarr" and path.is_dir()

"""Which slides a user means: files, folders and glob patterns as one list without repetitions."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from wsiseg.core.ngff import holds_images
from wsiseg.core.url import is_url
from wsiseg.errors import SlideError, UsageError, shown
from wsiseg.slide import open_slide
from wsiseg.slide.readers.dicom import WHOLE_SLIDE_IMAGE, read_series
from wsiseg.slide.readers.omezarr.reader import tiled_from
from wsiseg.slide.remote import copy_of, find_urls

SLIDE_SUFFIXES = frozenset(
    (
        ".svs", ".svslide", ".tif", ".tiff", ".ndpi", ".ndpis", ".vms", ".vmu", ".scn", ".mrxs", ".bif", ".czi",
        ".vsi", ".dcm", ".isyntax", ".png", ".jpg", ".jpeg", ".webp", ".bmp",
    )
)  # fmt: skip
_RECORD, _RECORD_SCHEMA = "slide.json", b'"wsiseg.slide"'
_RECORD_HEAD = 1 << 12  # bytes: the schema comes first


def find_slides(given: Iterable[str]) -> list[Path]:
    """Files as they are given; folders searched through for slides; glob patterns expanded.

    A file that is named is taken whatever its suffix, so that a wrong one gets its own error. A search takes the
    suffixes of slides, and DICOM and OME-Zarr folders of any name. It passes over hidden files and folders, DICOM
    that is no whole-slide image, results of wsiseg, and stores that it tiled from a slide that is found as well.
    DICOM files of one series in one folder are one slide, which the first of them stands for. A URL is taken as the
    path that its copy has here or will have (:mod:`wsiseg.slide.remote`); nothing is fetched.

    Raises
    ------
    UsageError
        If something given matches nothing.
    """
    found: list[Path] = []
    for text in given:
        if is_url(text):
            found += [copy_of(url) for url in find_urls(text)]
            continue
        path = Path(text)
        if path.is_dir() and not _is_store(path):
            matches = _without_copies(list(_search(path)))
            if not matches:
                raise UsageError(
                    f"no slides in the folder {shown(text)}. Expected DICOM, OME-Zarr folders or files ending in "
                    f"{' '.join(sorted(SLIDE_SUFFIXES))}; results of wsiseg are passed over."
                )
        elif os.path.lexists(path):
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
            if not matches:
                raise UsageError(f"no such file, folder or pattern: {shown(text)}")
        found += matches
    unique: dict[tuple[str, str], Path] = {}
    for path in found:
        folder, name = os.path.split(os.path.abspath(path))
        series = read_series(path)
        unique.setdefault((folder, name if series is None else series.uid), path)
    return list(unique.values())


def _search(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        if _is_result(Path(root)):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        stores = [name for name in folders if _is_store(Path(root, name))]
        folders[:] = [name for name in folders if name not in stores]
        yield from (Path(root, name) for name in stores)
        yield from (Path(root, name) for name in sorted(files) if _is_wanted(Path(root, name)))


def _is_wanted(path: Path) -> bool:
    """Whether a file that is found is to be a slide; a pipe that is named as one is, and gets its own error."""
    if path.name.startswith("."):
        return False
    series = read_series(path)
    if series is not None:
        return series.kind == WHOLE_SLIDE_IMAGE
    return path.suffix.lower() in SLIDE_SUFFIXES


def _is_store(path: Path) -> bool:
    return path.is_dir() and (path.suffix.lower() == ".zarr" or holds_images(path))


def _is_result(folder: Path) -> bool:
    """Whether wsiseg segmented a slide into the folder, whose pictures are no slides."""
    record = folder / _RECORD
    try:
        if not stat.S_ISREG(os.stat(record).st_mode):
            return False
        with open(record, "rb") as file:
            return _RECORD_SCHEMA in file.read(_RECORD_HEAD)
    except OSError:
        return False


def _without_copies(found: list[Path]) -> list[Path]:
    """Leave out what ``wsiseg tile`` made of a slide that is found as well."""
    names: dict[str, list[Path]] = {}
    for path in found:
        names.setdefault(path.name, []).append(path)
    return [path for path in found if not _is_copy(path, names)]


def _is_copy(path: Path, names: dict[str, list[Path]]) -> bool:
    source = tiled_from(path) if path.is_dir() else None
    return source is not None and any(
        _fingerprint(other) == source.fingerprint for other in names.get(source.name, []) if other != path
    )


def _fingerprint(path: Path) -> str:
    try:
        with open_slide(path) as slide:
            return slide.fingerprint()
    except SlideError:
        return ""

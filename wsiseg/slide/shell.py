"""Files that are only a slide's shell: its overview, its index or its list, while the pixels lie elsewhere.

Such a file opens as the picture that it holds, and that picture is not the slide. What is missing, or what to give
instead, is said by name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_HEAD = 1 << 16
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_VMS = re.compile(rb"\s*\[(Uncompressed )?Virtual Microscope Specimen\]")
_VMS_IMAGES = re.compile(r"^\s*(?:ImageFile(?:\([\d,\s]+\))?|MapFile)\s*=\s*(.+?)\s*$", re.MULTILINE)
_NDPIS = re.compile(rb"\s*\[NanoZoomer Digital Pathology Image Set\]")
_CONVERT = "Convert it, for example with: bioformats2raw IN OUT.zarr"


class Shell(NamedTuple):
    """What the file is instead of a slide, and what to do."""

    got: str
    remedy: str


def shell(path: Path, head: bytes) -> Shell | None:
    """What is missing of the slide that a file belongs to; None where nothing is, as far as that can be told.

    Parameters
    ----------
    path : Path
        A regular file.
    head : bytes
        Its first bytes, at least 64 where it has them.
    """
    tests = (_mirax, _mirax_part, _olympus, _olympus_pixels, _hamamatsu, _hamamatsu_set, _aperio_set)
    return next((found for test in tests if (found := test(path, head)) is not None), None)


def folder_shell(path: Path) -> Shell | None:
    """The same of a folder: one that belongs to a file beside it."""
    if (path / "Slidedat.ini").is_file():
        return Shell("is the folder of a MIRAX slide", f"Give the file beside it: {path.name}.mrxs")
    if _has_ets(path):
        return Shell("holds the pixels of an Olympus VSI slide, a format that is not read", _CONVERT)
    return None


def _mirax(path: Path, head: bytes) -> Shell | None:
    if path.suffix.lower() != ".mrxs" or head[:4] in _TIFF or head[128:132] == b"DICM":
        return None
    folder = path.with_suffix("")
    if not (folder / "Slidedat.ini").is_file():
        missing = "has no Slidedat.ini" if folder.is_dir() else "is not there"
        return Shell(
            f"is only the overview of a MIRAX slide: the folder {folder.name} with its pixels {missing}",
            f"Copy the folder {folder.name} as well, whole and under its own name.",
        )
    if path.suffix != ".mrxs":
        return Shell(f"is a MIRAX slide whose name ends in {path.suffix}", "Name it .mrxs, in small letters.")
    return None


def _mirax_part(path: Path, head: bytes) -> Shell | None:
    folder = path.absolute().parent
    slide = folder.parent / f"{folder.name}.mrxs"
    if path.suffix.lower() in (".ini", ".dat") and slide.is_file():
        return Shell("is a part of a MIRAX slide", f"Give the slide itself: {slide.name}")
    return None


def _olympus(path: Path, head: bytes) -> Shell | None:
    if head[:4] not in _TIFF:
        return None
    folder = path.with_name(f"_{path.stem}_")
    if _has_ets(folder):
        where = f"the folder {folder.name} beside it holds its pixels, in a format that is not read"
    elif path.suffix.lower() == ".vsi":
        where = f"its pixels lie in a folder {folder.name} beside it, in a format that is not read"
    else:
        return None
    return Shell(f"is only the overview of an Olympus VSI slide: {where}", _CONVERT)


def _has_ets(folder: Path) -> bool:
    return folder.is_dir() and next(folder.glob("*/*.ets"), None) is not None


def _olympus_pixels(path: Path, head: bytes) -> Shell | None:
    if head[:4] == b"SIS\0":
        return Shell("holds pixels of an Olympus VSI slide, a format that is not read", _CONVERT)
    return None


def _hamamatsu(path: Path, head: bytes) -> Shell | None:
    if not _VMS.match(head.removeprefix(b"\xef\xbb\xbf")):
        return None
    with open(path, "rb") as file:
        text = file.read(_HEAD).decode("utf-8", "replace")
    gone = [name for name in _VMS_IMAGES.findall(text) if not path.with_name(Path(name).name).is_file()]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        return Shell(
            f"is the index of a Hamamatsu slide: its image {gone[0]}{more} is not beside it",
            "Copy the images that it names into the same folder.",
        )
    return None


def _hamamatsu_set(path: Path, head: bytes) -> Shell | None:
    if _NDPIS.match(head.removeprefix(b"\xef\xbb\xbf")):
        return Shell(
            "is a list of NDPI files, one for each channel of fluorescence",
            "wsiseg does not segment fluorescence. If one of them is bright-field, give that .ndpi file.",
        )
    return None


def _aperio_set(path: Path, head: bytes) -> Shell | None:
    if path.suffix.lower() == ".afi" and b"<ImageList" in head:
        return Shell(
            "is a list of SVS files, one for each channel of fluorescence",
            "wsiseg does not segment fluorescence. If one of them is bright-field, give that .svs file.",
        )
    return None

"""Which reader a path needs, decided by what it holds; the name only serves in messages."""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsiseg.errors import SlideError
from wsiseg.slide.base import Mpp, Reader, Slide
from wsiseg.slide.mpp import MppTable, from_option, read_mpp_table

if TYPE_CHECKING:
    from wsiseg.slide.tiff import Elsewhere

_EXPECTED = (
    "Expected: a whole-slide image (SVS, tiled TIFF, NDPI, MRXS, SCN, DICOM, …), OME-Zarr, PNG, JPEG or WebP."
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DIRECT = ("", "aperio", "generic-tiff")
_HELD_OPEN = 8  # readers kept for slides that arrive pickled, one task after another

_CONTENTS = (
    (b"<!doctype html", "a web page (HTML)"),
    (b"<html", "a web page (HTML)"),
    (b"<?xml", "an XML file"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"%pdf", "a PDF file"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)

_readers: OrderedDict[tuple[str, int, int, int], Reader] = OrderedDict()
_lock = threading.Lock()


def open_slide(
    path: str | Path, *, mpp: float | None = None, mpp_table: MppTable | str | Path | None = None
) -> Slide:
    """Open a slide of any supported format; the content decides which, not the suffix.

    Parameters
    ----------
    path : path
        A file, or the folder of an OME-Zarr image.
    mpp : float, optional
        Microns per level-0 pixel; overrides the metadata and the table.
    mpp_table : MppTable or path, optional
        See :func:`wsiseg.slide.read_mpp_table`; overrides the metadata of the slides that it lists.

    Returns
    -------
    Slide
        With or without mpp; :meth:`Slide.require_mpp` insists on one.

    Raises
    ------
    SlideError
        What it is, what was expected, what to do.
    UsageError
        ``mpp`` is absurd or the table cannot be used.
    """
    path = Path(path)
    override = None
    if mpp is not None:
        override = from_option(mpp)
    elif mpp_table is not None:
        override = (mpp_table if isinstance(mpp_table, MppTable) else read_mpp_table(mpp_table)).lookup(path)
    return Slide(path, _open_reader(path), override)


def reopen(path: str, override: Mpp | None) -> Slide:
    """A slide that arrives pickled; slides of the same file share one reader in each process."""
    try:
        state = os.stat(path)
    except OSError:
        return Slide(Path(path), _open_reader(Path(path)), override)
    key = (path, state.st_ino, state.st_size, state.st_mtime_ns)
    with _lock:
        reader = _readers.get(key)
        if reader is None:
            reader = _readers[key] = _open_reader(Path(path))
            if len(_readers) > _HELD_OPEN:
                # Not closed: another slide may read from it. It goes with the last one.
                _readers.popitem(last=False)
        _readers.move_to_end(key)
    return Slide(Path(path), reader, override, owns=False)


def _open_reader(path: Path) -> Reader:
    if _require_readable(path):
        return _open_directory(path)
    from wsiseg.slide import image
    from wsiseg.slide.openslide import OpenSlideReader, detect

    with open(path, "rb") as file:
        head = file.read(512)
    vendor = detect(path)
    if head[:4] in _TIFF and vendor in _DIRECT:
        return _open_tiff(path, vendor)
    if vendor:
        return OpenSlideReader(path)
    kind = image.sniff(head)
    if kind:
        return image.ImageReader(path, kind)
    raise _refused(path, f"is {_content(head)}", "Give the slide itself.")


def _open_tiff(path: Path, vendor: str) -> Reader:
    from wsiseg.slide.tiff import Elsewhere, NotBrightfield, TiffDamage, TiffReader, Unsuited

    try:
        return TiffReader(path, vendor)
    except TiffDamage as damage:
        got, _, expected = str(damage).partition("; expected ")
        raise SlideError(
            f"{_shown(path)}: is damaged: it has {got}.\nExpected: {expected or 'an intact file'}.\n"
            "Copy the slide again and compare its size and checksum with the original's."
        ) from damage
    except NotBrightfield as pixels:
        raise SlideError(
            f"{_shown(path)}: has {pixels}.\n"
            "Expected: 8-bit grey, RGB or RGBA, as a bright-field scanner writes it.\n"
            "wsiseg does not segment fluorescence; convert a bright-field image to 8-bit RGB."
        ) from pixels
    except Elsewhere as elsewhere:
        reader = _open_elsewhere(path, vendor, elsewhere)
        if reader is None:
            raise _unsuited(path, elsewhere) from elsewhere
        return reader
    except Unsuited as unsuited:
        raise _unsuited(path, unsuited) from unsuited


def _unsuited(path: Path, reason: Exception) -> SlideError:
    return _refused(
        path,
        f"is a TIFF with {reason}",
        "Convert it, for example with: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg",
    )


def _open_elsewhere(path: Path, vendor: str, elsewhere: Elsewhere) -> Reader | None:
    """Another reader for what is not decoded directly, if one gives the same picture; None if there is none."""
    from wsiseg.slide import image
    from wsiseg.slide.openslide import OpenSlideReader

    told = elsewhere.told
    if told.planes > 1:
        return None
    if elsewhere.strips:
        return image.ImageReader(path, "TIFF", told)
    if not vendor or told.page > 0:
        return None
    try:
        reader = OpenSlideReader(path)
    except SlideError:
        return None
    read = reader.description
    sizes = [(level.width, level.height) for level in read.levels]
    if sizes[0] != told.sizes[0] or not set(sizes) <= set(told.sizes):
        reader.close()
        return None  # it takes other pages for the slide
    note = f"the file has {elsewhere}: OpenSlide converts it"
    reader.description = replace(read, mpp=told.mpp, mpp_problem=told.problem, notes=(*told.notes, note))
    return reader


def _open_directory(path: Path) -> Reader:
    from wsiseg.slide.omezarr import OmeZarrReader, is_omezarr

    if not is_omezarr(path):
        raise _refused(
            path, "is a directory without OME-Zarr metadata", "Give the slide itself, or its OME-Zarr folder."
        )
    return OmeZarrReader(path)


def _require_readable(path: Path) -> bool:
    """Whether the path is a directory; SlideError unless it is one or a file that can be read and is not empty.

    Checked before anything is opened: opening a FIFO would wait for a writer for ever.
    """
    try:
        state = os.stat(path)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise _refused(
                path, f"is a link to {os.readlink(path)!r}, which does not exist", "Mend the link."
            ) from error
        raise _refused(path, "does not exist", "Check the path.") from error
    except OSError as error:
        raise _refused(
            path, f"cannot be looked at: {error.strerror}", "Check the path and its permissions."
        ) from error
    except ValueError as error:
        raise _refused(path, f"is no valid path: {error}", "Check the path.") from error
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        raise _refused(path, f"is a {_kind(state.st_mode)}", "Give a regular file.")
    if not os.access(path, os.R_OK):
        raise _refused(path, "may not be read by this user", "Change its permissions.")
    if stat.S_ISREG(state.st_mode) and state.st_size == 0:
        raise _refused(path, "is empty (0 bytes)", "Copy the slide again.")
    return stat.S_ISDIR(state.st_mode)


def _refused(path: Path, got: str, remedy: str) -> SlideError:
    return SlideError(f"{_shown(path)}: {got}.\n{_EXPECTED}\n{remedy}")


def _shown(path: Path) -> str:
    """The path on one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def _kind(mode: int) -> str:
    tests = (
        (stat.S_ISFIFO, "named pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "device"),
        (stat.S_ISBLK, "device"),
    )
    return next((name for test, name in tests if test(mode)), "special file")


def _content(head: bytes) -> str:
    text = head.lstrip().lower()
    for magic, name in _CONTENTS:
        if text.startswith(magic):
            return name
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive"
    return f"not an image that is known here (it starts with {head[:16]!r})"

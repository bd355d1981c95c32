"""Which reader a path needs, decided by what it holds; the name only serves in messages."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsiseg.errors import SlideError, shown
from wsiseg.slide.held import Held, identity
from wsiseg.slide.lethal import ChildReader, GuardedReader, Lethal
from wsiseg.slide.mpp import MppTable, from_option, read_mpp_table
from wsiseg.slide.remote import local, present
from wsiseg.slide.shell import Shell, folder_shell, shell
from wsiseg.slide.slide import Slide
from wsiseg.slide.types import Description, Mpp, Reader

if TYPE_CHECKING:
    from wsiseg.slide.readers.tiff.reader import Elsewhere

_EXPECTED = (
    "Expected: a whole-slide image (SVS, tiled TIFF, NDPI, MRXS, SCN, DICOM, …), OME-Zarr, PNG, JPEG or WebP."
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DIRECT = ("", "aperio", "generic-tiff")
_HELD_OPEN = 8  # readers kept for slides that arrive in tasks, one after another
_HELD_BYTES = 512 << 20  # of memory that those hold together, unless one alone has more
_OPENSLIDE_BYTES = 128 << 20  # its caches, one a thread
# What a description may claim. The overview is read from the coarsest level, whatever of it the file really holds.
_MOST_SIDE = 10_000_000
_MOST_LEVELS = 64
_MOST_TILE_PIXELS = 1 << 26
_MOST_OVERVIEW_PIXELS = 1 << 34
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""No fault of the file."""
_PYRAMID = "vips tiffsave IN OUT.tif --tile --pyramid"

_CONTENTS = (
    (b"<!doctype html", "a web page (HTML)"),
    (b"<html", "a web page (HTML)"),
    (b"<?xml", "an XML file"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"%pdf", "a PDF file"),
    (b"version https://git-lfs", "a Git LFS pointer"),
    (b"gif8", "a GIF image"),
    (b"\x89hdf", "an HDF5 file"),
    (b"sqlite format 3", "an SQLite database"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"rar!", "a RAR archive"),
    (b"bzh", "a bzip2 archive"),
    (b"\xfd7zxz", "an xz archive"),
    (b"\0\0\0\x0cjp  ", "a JPEG 2000 image without tiles of a slide"),
    (b"\xffo\xffq", "a JPEG 2000 image without tiles of a slide"),
    (b"ii\xbc", "a JPEG XR image"),
    (b"zisrawfile", "a CZI file that OpenSlide does not read"),
)


@dataclass(frozen=True)
class SlideSource:
    """A slide as tasks are told of it: where it is now and how large its pixels are.

    Attributes
    ----------
    path : str
        Absolute, as a worker may run in another folder; or a URL, of which each machine has a copy of its own.
    mpp : Mpp or None
        As the run decided: no task looks it up again. None leaves it to the metadata.
    """

    path: str
    mpp: Mpp | None

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def local(self) -> Path:
        """The slide on this machine; a copy of a URL need not be there yet."""
        return local(self.path)

    def open(self, lethal: Sequence[Lethal] = (), *, guarded: bool = False) -> Slide:
        """The slide; its reader is shared by all tasks of the process.

        Around stored tiles that are known to be ``lethal``, or ``guarded``, it has a reader of its own.
        """
        if not lethal and not guarded:
            return reopen(self.path, self.mpp)
        path = present(self.path)
        reader = ChildReader(path) if guarded else _open_reader(path)
        return Slide(path, GuardedReader(reader, lethal), self.mpp, reopen=reopen)


def open_slide(
    path: str | Path,
    *,
    mpp: float | None = None,
    mpp_table: MppTable | str | Path | None = None,
    guarded: bool = False,
) -> Slide:
    """Open a slide of any supported format; the content decides which, not the suffix.

    Parameters
    ----------
    path : path or URL
        A file, or the folder of an OME-Zarr image. Of a URL's file this machine keeps a copy
        (:mod:`wsiseg.slide.remote`).
    mpp : float, optional
        Microns per level-0 pixel; overrides the metadata and the table.
    mpp_table : MppTable or path, optional
        See :func:`wsiseg.slide.read_mpp_table`; overrides the metadata of the slides that it lists.
    guarded : bool
        Read in a process of its own, so that a stored tile that crashes its decoder is lost like a damaged one
        (:mod:`wsiseg.slide.lethal`); slower.

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
    path = present(path)
    override = None
    if mpp is not None:
        override = from_option(mpp)
    elif mpp_table is not None:
        override = (mpp_table if isinstance(mpp_table, MppTable) else read_mpp_table(mpp_table)).lookup(path)
    reader = GuardedReader(ChildReader(path)) if guarded else _open_reader(path)
    return Slide(path, reader, override, reopen=reopen)


def reopen(path: str, override: Mpp | None) -> Slide:
    """A slide that arrives in a task; slides of the same file share one reader in each process."""
    here = present(path)
    try:
        key = (path, identity(here))
    except (OSError, ValueError):
        return Slide(here, _open_reader(here), override, reopen=reopen)
    reader = _readers.get(key, lambda: _open_reader(here))
    return Slide(here, reader, override, owns=False, reopen=reopen)


def _held_bytes(reader: Reader) -> int:
    """Memory that an open reader keeps: a plain image is decoded whole."""
    from wsiseg.slide.readers.image import ImageReader

    if isinstance(reader, ImageReader):
        return reader.held_bytes
    return _OPENSLIDE_BYTES if reader.description.reader == "openslide" else 0


_readers: Held[Reader] = Held(_HELD_OPEN, _HELD_BYTES, _held_bytes)


def _open_reader(path: Path) -> Reader:
    try:
        reader = _recognised(path)
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        reason = error.strerror or error
        raise _refused(path, f"cannot be read: {reason}", "Check the disk, or copy the slide again.") from error
    claims = _excess(reader.description)
    if claims:
        reader.close()
        raise SlideError(f"{shown(path)}: {claims}.\nConvert it, for example with: {_PYRAMID}")
    return reader


def _recognised(path: Path) -> Reader:
    """The reader that knows what the path holds."""
    folder, head = _require_readable(path), b""
    if not folder:
        with open(path, "rb") as file:
            head = file.read(512)
        _refuse_shell(path, shell(path, head))
    for opened in READERS:
        reader = opened(path, head)
        if reader is not None:
            return reader
    if folder:
        _refuse_shell(path, folder_shell(path))
        raise _refused(
            path, "is a directory without OME-Zarr metadata", "Give the slide itself, or its OME-Zarr folder."
        )
    raise _refused(path, f"is {_content(head)}", "Give the slide itself.")


def _ome_zarr(path: Path, head: bytes) -> Reader | None:
    if head:
        return None
    from wsiseg.slide.readers.omezarr.reader import OmeZarrReader, is_omezarr

    return OmeZarrReader(path) if is_omezarr(path) else None


def _plain_image(path: Path, head: bytes) -> Reader | None:
    from wsiseg.slide.readers import image

    kind = image.sniff(head)
    if kind in ("", "TIFF") or path.suffix == ".mrxs":  # a MIRAX slide's own file is a JPEG
        return None
    return image.ImageReader(path, kind)


def _scanner_file(path: Path, head: bytes) -> Reader | None:
    """TIFF that is decoded directly, and all that OpenSlide reads; which of the two, the vendor says."""
    if not head:
        return None
    from wsiseg.slide.readers.dicom import is_dicom, odd_neighbour
    from wsiseg.slide.readers.openslide.metadata import detect
    from wsiseg.slide.readers.openslide.reader import OpenSlideReader

    odd = odd_neighbour(path) if is_dicom(head) else None
    if odd:
        got = f"is DICOM, which may be any file of its folder, and {shown(odd)} there is no file"
        raise _refused(path, got, "Remove it.")
    vendor = detect(path)
    if head[:4] in _TIFF and vendor in _DIRECT:
        return _open_tiff(path, vendor)
    return OpenSlideReader(path) if vendor else None


READERS: tuple[Callable[[Path, bytes], Reader | None], ...] = (_ome_zarr, _plain_image, _scanner_file)
"""Asked in this order with a path and its first 512 bytes (b"" of a folder), after all shells of slides have been
refused; the first that gives a reader has the slide. None: it is another's, or nobody's. A reader's module is
imported when it is asked."""


def _refuse_shell(path: Path, found: Shell | None) -> None:
    if found is not None:
        raise _refused(path, *found)


def _excess(description: Description) -> str:
    """What a slide claims to be and cannot be, and what was expected, or ``""``."""
    if len(description.levels) > _MOST_LEVELS:
        return f"has {len(description.levels)} levels.\nExpected: at most {_MOST_LEVELS}"
    for level in description.levels:
        if not 0 < max(level.width, level.height) <= _MOST_SIDE:
            return f"has a level of {level.width} × {level.height} pixels.\nExpected: at most {_MOST_SIDE:,} a side"
        if level.tile_width * level.tile_height > _MOST_TILE_PIXELS:
            return (
                f"stores its pixels in pieces of {level.tile_width} × {level.tile_height}, each decoded whole.\n"
                f"Expected: at most {_MOST_TILE_PIXELS:,} pixels a piece"
            )
    smallest = min((level for level in description.levels if not level.derived), key=lambda level: level.width)
    if smallest.width * smallest.height > _MOST_OVERVIEW_PIXELS:
        return (
            f"has no level smaller than {smallest.width} × {smallest.height} pixels.\n"
            f"Expected: one of at most {_MOST_OVERVIEW_PIXELS:,} pixels, from which the whole slide is seen"
        )
    return ""


def _open_tiff(path: Path, vendor: str) -> Reader:
    from wsiseg.slide.readers.tiff.reader import Elsewhere, NotBrightfield, TiffDamage, TiffReader, Unsuited

    try:
        return TiffReader(path, vendor)
    except TiffDamage as damage:
        got, _, expected = str(damage).partition("; expected ")
        raise SlideError(
            f"{shown(path)}: is damaged: it has {got}.\nExpected: {expected or 'an intact file'}.\n"
            "Copy the slide again and compare its size and checksum with the original's."
        ) from damage
    except NotBrightfield as pixels:
        raise SlideError(
            f"{shown(path)}: has {pixels}.\n"
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
    return _refused(path, f"is a TIFF with {reason}", f"Convert it, for example: {_PYRAMID} --compression jpeg")


def _open_elsewhere(path: Path, vendor: str, elsewhere: Elsewhere) -> Reader | None:
    """Another reader for what is not decoded directly, if one gives the same picture; None if there is none."""
    from wsiseg.slide.readers import image
    from wsiseg.slide.readers.openslide.reader import OpenSlideReader

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
    return SlideError(f"{shown(path)}: {got}.\n{_EXPECTED}\n{remedy}")


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

"""Where QuIP's tables lie: in folders, or in tar archives as they are published, which are read without unpacking.

An archive is read from its front to its end; nothing of it is written to the disk, and a member's name decides
nothing but which table it is.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from wsiseg.core.plainfile import require_plain_file
from wsiseg.errors import UsageError

ARCHIVES = (".tar", ".tar.gz", ".tgz")
TABLE_NAME = re.compile(
    r"(?P<x>\d{1,9})_(?P<y>\d{1,9})_(?P<w>\d{1,9})_(?P<h>\d{1,9})_(?P<mpp>[\d.eE+-]+)_(?P<factor>[\d.]+)-features\.csv",
    re.ASCII,
)
_NOTE = "-algmeta.json"
_ENDINGS = ("-features.csv", _NOTE)
_MOST_BYTES = 1 << 28
"""Of one table: a tile of 4000² pixels has some ten thousand nuclei and 3 MB."""


@dataclass(frozen=True)
class Table:
    """The nuclei of one tile, not read yet.

    Attributes
    ----------
    label : str
        What messages call it.
    x, y, width, height : int
        The tile in level-0 pixels, as the name says.
    mpp : float
        Of level 0.
    modified : float
        When the file was written, in seconds since 1970.
    content : callable
        Its bytes; of a table in an archive only until the next one is asked for.
    """

    label: str
    x: int
    y: int
    width: int
    height: int
    mpp: float
    modified: float
    content: Callable[[], bytes]


@dataclass(frozen=True)
class _File:
    """A file in a folder or an archive; ``slide``: the name of the folder it lies in."""

    slide: str
    name: str
    label: str
    modified: float
    content: Callable[[], bytes]


def archive_stem(path: Path) -> str | None:
    """The name of an archive without its suffix; None where the name is of none."""
    for suffix in ARCHIVES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def slides_in(path: Path) -> list[str]:
    """The slides of which a folder or an archive holds tables: the names of the folders that they lie in."""
    return sorted({file.slide for file in _files(path) if TABLE_NAME.fullmatch(file.name)})


def tables(path: Path, slide: str = "") -> Iterator[Table]:
    """The tables of a slide; those of a folder by the tiles' rows and columns, of an archive in its order.

    Parameters
    ----------
    path : Path
        The tables' folder, or an archive.
    slide : str
        Of an archive of several slides the tables in folders of this name; "" for all.

    Raises
    ------
    UsageError
        There are none, or the archive is damaged.
    """
    count = 0
    for file in _files(path):
        match = TABLE_NAME.fullmatch(file.name)
        if match and _of(file, path, slide):
            count += 1
            x, y, width, height = (int(match[name]) for name in "xywh")
            yield Table(file.label, x, y, width, height, _mpp(file, match), file.modified, file.content)
    if count == 0:
        raise UsageError(
            f"{path} holds no <x>_<y>_<w>_<h>_<mpp>_<factor>-features.csv. Expected the folder of one slide, "
            "such as brca_polygon/TCGA-….svs, or its archive."
        )


def slide_size(path: Path, slide: str = "") -> tuple[int, int] | None:
    """Width and height of the slide in level-0 pixels, by a note beside its tables; None where there is none."""
    for file in _files(path):
        if file.name.endswith(_NOTE) and _of(file, path, slide):
            try:
                note = json.loads(file.content())
                return int(note["image_width"]), int(note["image_height"])
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                return None
    return None


def _mpp(file: _File, match: re.Match[str]) -> float:
    try:
        mpp = float(match["mpp"])
    except ValueError:
        mpp = 0.0
    if not (mpp > 0 and int(match["w"]) and int(match["h"])):
        raise UsageError(
            f"{file.label}: the name says no tile. Expected <x>_<y>_<w>_<h>_<mpp>_<factor>-features.csv."
        )
    return mpp


def _of(file: _File, path: Path, slide: str) -> bool:
    return not slide or path.is_dir() or file.slide == slide


def _files(path: Path) -> Iterator[_File]:
    """Files of a folder itself, in the order of their tiles, or all of an archive."""
    if not os.path.lexists(path):
        raise UsageError(f"no such file or folder: {path}")
    return _folder_files(path) if path.is_dir() else _archived_files(path)


def _folder_files(folder: Path) -> Iterator[_File]:
    for entry in sorted(os.scandir(folder), key=_by_tile):
        if entry.name.endswith(_ENDINGS):
            file = Path(entry.path)
            modified = entry.stat(follow_symlinks=False).st_mtime
            yield _File(folder.name, entry.name, str(file), modified, partial(_read, file))


def _by_tile(entry: os.DirEntry[str]) -> tuple[int, int, str]:
    match = TABLE_NAME.fullmatch(entry.name)
    return (int(match["y"]), int(match["x"]), "") if match else (-1, -1, entry.name)


def _read(path: Path) -> bytes:
    if require_plain_file(path, "The file") > _MOST_BYTES:
        raise _too_large(str(path))
    return path.read_bytes()


def _archived_files(path: Path) -> Iterator[_File]:
    require_plain_file(path, "The archive")
    with _damage_said(path), tarfile.open(path, "r|*") as archive:  # a stream: one pass, no seeking back
        for member in archive:
            place = PurePosixPath(member.name)
            if member.isfile() and place.name.endswith(_ENDINGS):
                content = partial(_extract, path, archive, member)
                folder = place.parent.name or archive_stem(path) or path.name
                yield _File(folder, place.name, f"{path}: {member.name}", member.mtime, content)


def _extract(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _MOST_BYTES:
        raise _too_large(f"{path}: {member.name}")
    with _damage_said(path):
        stream = archive.extractfile(member)
        return stream.read() if stream else b""


@contextlib.contextmanager
def _damage_said(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise UsageError(
            f"{path} cannot be read as a tar archive: {error}.\nExpected an intact .tar or .tar.gz of QuIP's "
            "tables: compare its size with the original's."
        ) from error


def _too_large(label: str) -> UsageError:
    return UsageError(f"{label}: more than {_MOST_BYTES:,} bytes. Expected the nuclei of one tile.")

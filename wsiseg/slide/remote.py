"""Slides at URLs: each machine that reads one keeps a copy of its file, for as long as there is room.

    CACHE/https/host/folder/slide.svs         the copy of https://host/folder/slide.svs
    CACHE/https/host/folder/slide.svs.json    what the file was when it was fetched: its size and its version

A copy's path says of what it is one, so a task that gets the path on another machine fetches a copy of its own. A
copy appears by one rename when it is whole. It is fetched again where the file at the URL has changed, and the ones
that were used longest ago make room for new ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import filelock

from wsiseg.core.atomic import read_json, remove_leftovers, replacing
from wsiseg.core.environment import environment_faults
from wsiseg.core.filesystem import file_system, is_disks
from wsiseg.core.url import is_url, url_parts
from wsiseg.errors import EnvironmentFault, SlideError, UsageError, shown

CACHE_VARIABLE, ROOM_VARIABLE = "WSISEG_REMOTE_CACHE", "WSISEG_REMOTE_ROOM"
_FOLDER = "wsiseg-remote"  # by its name a path is known as a copy's, whatever the machine
_ROOM = 50 << 30
_CHECKED_S = 60.0  # a copy that was compared with its original so long ago is compared again
_NOTE = ".json"
_SAFE = "-_.~!$&'()+,;=@ []{}#^"  # within a name, on every file system
_SEVERAL = frozenset((".mrxs", ".vms", ".vmu", ".vsi", ".ndpis", ".dcm", ".zarr"))
_TAGS = (
    "ETag", "etag", "Content-MD5", "md5Hash", "content_md5", "checksum", "Digest",
    "Last-Modified", "LastModified", "last_modified", "mtime", "created",
)  # fmt: skip
"""What file systems call it; the first that there is decides."""
_checked: dict[Path, float] = {}


class _Unreachable(SlideError):
    """Nobody answers at the URL."""


@dataclass(frozen=True)
class Version:
    """What a file at a URL is: another one has another size or tag (its ETag, checksum or time of change)."""

    bytes: int | None
    tag: str


def copy_of(url: str) -> Path:
    """Where this machine's copy of a URL's file is, or will be.

    Raises
    ------
    UsageError
        The URL names no single file.
    """
    protocol, parts = url_parts(url)
    if protocol in ("file", "local"):
        raise UsageError(f"{shown(url)}: is a file of this machine: give its path")
    if len(parts) < 2 or url.endswith("/"):
        raise UsageError(f"{shown(url)}: expected the URL of a slide, PROTOCOL://PLACE/…/NAME")
    if Path(parts[-1]).suffix.lower() in _SEVERAL:
        raise UsageError(
            f"{shown(url)}: a slide of this format is several files. Expected one file (SVS, TIFF, NDPI, SCN, …); "
            "copy the whole slide to a disk, or convert it."
        )
    return cache().joinpath(protocol, *(quote(part, safe=_SAFE) for part in parts))


def url_of(path: str | os.PathLike[str]) -> str | None:
    """The URL that a path is a copy of, on this machine or another; None for any other path."""
    parts = Path(path).parts
    if _FOLDER not in parts:
        return None
    protocol, *rest = parts[parts.index(_FOLDER) + 1 :] or [""]
    return f"{protocol}://{'/'.join(map(unquote, rest))}" if len(rest) > 1 else None


def location(path: str | os.PathLike[str]) -> str:
    """Where a slide is, in a way that every machine understands: its URL, or its absolute path."""
    return url_of(path) or os.path.abspath(path)


def local(place: str | os.PathLike[str]) -> Path:
    """The path on this machine of a URL, of a copy, or of any other file; a copy need not be there yet."""
    text = os.fspath(place)
    url = text if is_url(text) else url_of(text)
    return Path(text) if url is None else copy_of(url)


def present(place: str | os.PathLike[str]) -> Path:
    """:func:`local`, with the copy in its place: fetched if it is not there, or no longer what is at the URL.

    Raises
    ------
    SlideError
        There is no such file, or it cannot be fetched.
    UsageError
        Its protocol is not installed.
    EnvironmentFault
        The disk cannot take the copy.
    """
    path = local(place)
    url = url_of(path)
    if url is None:
        return path
    if path.exists() and time.monotonic() - _checked.get(path, -_CHECKED_S) < _CHECKED_S:
        return path
    with environment_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):  # the others wait for who fetches
            _fetch(url, path)
            os.utime(path.with_name(path.name + _NOTE))  # the last use, for who makes room
    _checked[path] = time.monotonic()
    return path


def forget(path: Path) -> None:
    """Remove this machine's copy, if ``path`` is one; a reader that has it open goes on reading."""
    if url_of(path) is None:
        return
    copy = local(path)
    _checked.pop(copy, None)
    with contextlib.suppress(OSError):
        for one in (copy.with_name(copy.name + _NOTE), copy):
            one.unlink(missing_ok=True)


def find_urls(pattern: str) -> list[str]:
    """URLs of files that a URL with ``*``, ``?`` or ``[…]`` in its path matches, in order; another URL is itself.

    Raises
    ------
    UsageError
        None matches, or the protocol is not installed.
    """
    if not any(c in pattern for c in "*["):
        return [pattern]
    system, inner = file_system(pattern)
    with _remote_errors(pattern):
        found = sorted(system.glob(inner))
    if not found:
        raise UsageError(f"{shown(pattern)}: no file matches")
    protocol = pattern.partition("://")[0]
    return [one if is_url(one) else f"{protocol}://{one.lstrip('/')}" for one in found]


def cache() -> Path:
    """The folder of copies on this machine."""
    return cache_root() / _FOLDER


def cache_root() -> Path:
    """The folder that the folder of copies lies in."""
    given = os.environ.get(CACHE_VARIABLE)
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.path.abspath(base))


def _room() -> int:
    """Bytes that all copies may have together."""
    text = os.environ.get(ROOM_VARIABLE, "")
    try:
        return int(float(text) * (1 << 30)) if text else _ROOM
    except ValueError as error:
        raise UsageError(
            f"{ROOM_VARIABLE}={text!r}: expected a number, the gigabytes for copies of slides"
        ) from error


def _fetch(url: str, path: Path) -> None:
    """Make the copy what is at the URL, under its lock."""
    system, inner = file_system(url)
    system.invalidate_cache()  # of listings
    try:
        with _remote_errors(url):
            info: Mapping[str, Any] = system.info(inner)
    except _Unreachable:
        if path.exists() and path.with_name(path.name + _NOTE).exists():
            return  # whoever has a copy can go on without the network
        raise
    if info.get("type") == "directory":
        raise SlideError(f"{shown(url)}: is a folder. Expected the URL of a file, or a pattern such as …/*.svs.")
    version = _version(info)
    note = path.with_name(path.name + _NOTE)
    if path.exists() and read_json(note) == {"bytes": version.bytes, "tag": version.tag}:
        return
    remove_leftovers(path)
    _make_room(version.bytes or 0, path)
    with replacing(path) as temporary:
        with _remote_errors(url):
            system.get_file(inner, str(temporary))
        found = temporary.stat().st_size
        if version.bytes is not None and found != version.bytes:
            raise SlideError(
                f"{shown(url)}: {found} bytes came, expected {version.bytes}. The same command tries again."
            )
        note.unlink(missing_ok=True)
    with replacing(note) as temporary:
        temporary.write_text(json.dumps({"bytes": version.bytes, "tag": version.tag}))


def _version(info: Mapping[str, Any]) -> Version:
    size = info.get("size")
    tags = [str(info[name]) for name in _TAGS if info.get(name) is not None]
    return Version(None if size is None else int(size), tags[0] if tags else "")


def _make_room(needed: int, path: Path) -> None:
    """Remove the copies that were used longest ago until ``needed`` more bytes fit."""
    root, room = cache(), _room()
    if needed > room:
        raise EnvironmentFault(
            f"{shown(path)}: the slide has {needed / 2**30:.1f} GiB, and {ROOM_VARIABLE} allows {room / 2**30:.1f} "
            "GiB for copies. Allow more."
        )
    held = []
    for note in root.rglob(f"*{_NOTE}"):
        copy = note.with_name(note.name.removesuffix(_NOTE))
        with contextlib.suppress(OSError):
            held.append((note.stat().st_mtime_ns, copy.stat().st_size, copy))
    used = sum(size for _, size, _ in held)
    for _, size, copy in sorted(held):
        if used + needed <= room:
            break
        if copy != path:
            forget(copy)
            used -= size
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise EnvironmentFault(
            f"{shown(path)}: the slide has {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free there. "
            f"Free some, or give another folder by {CACHE_VARIABLE}; the same command resumes."
        )


@contextlib.contextmanager
def _remote_errors(url: str) -> Iterator[None]:
    """What goes wrong on the way, as the slide's misfortune."""
    try:
        yield
    except FileNotFoundError as error:
        raise SlideError(f"{shown(url)}: there is no such file, or it may not be read.") from error
    except PermissionError as error:
        raise SlideError(
            f"{shown(url)}: may not be read ({error}). Give credentials through fsspec's configuration or the "
            "protocol's own variables."
        ) from error
    except (SlideError, EnvironmentFault, UsageError):
        raise
    except Exception as error:  # each protocol has errors of its own, of no common kind
        if is_disks(error):
            raise
        raise _Unreachable(
            f"{shown(url)}: cannot be fetched ({type(error).__name__}: {error}). Check the connection; the same "
            "command tries again."
        ) from error

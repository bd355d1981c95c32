"""A results folder at a URL: what lies there, what is read of it, and how a slide's results get there.

    URL/<slide-id>/…            as in a folder (docs/format.md); slide.json is written last and removed first
    URL/report.html, …          the tables and the page over all slides

An object store has no rename. So a slide's results count from the moment its record is there, and before one file
of them is replaced the record goes: no reader finds a record whose files are not all there, or another result's.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsiseg.core.atomic import is_temporary, parse_json, replacing
from wsiseg.core.environment import environment_faults
from wsiseg.core.filesystem import file_system, is_disks
from wsiseg.core.sealed import FileNote
from wsiseg.core.url import url_parts
from wsiseg.errors import EnvironmentFault, UsageError, WsisegError, shown
from wsiseg.results.folder import EXPORTS, OURS, PICTURES, RESULT_FILES, RESULT_STORE, SLIDE_PAGE
from wsiseg.results.record import RECORD_NAME, NotARecord, SlideRecord, parse_record
from wsiseg.results.uploaded import UPLOADED
from wsiseg.slide.remote import cache_root

WORK_VARIABLE = "WSISEG_REMOTE_WORK"
_FOLDER = "wsiseg-results"
_PROBE = ".wsiseg-writable"
_SAFE = "-_.~ "
_AT_ONCE = 8
"""Files under way at a time: each may be held in memory."""
_ONE_GO = 16
"""Files after which whoever wants to stop is asked."""
FOR_REPORTS = ("patches.parquet", "thumbnail.png", PICTURES)
"""What the tables and pages over all slides are made from, beside the records."""

Files = Mapping[str, int]
"""Names of files in a slide's folder, with / between their parts, and their sizes."""


def work_folder(url: str) -> Path:
    """Where on this machine the results for a URL are made; it has the URL's last name, as the report has."""
    _, parts = url_parts(url)
    base = os.environ.get(WORK_VARIABLE)
    root = Path(os.path.abspath(base)) if base else cache_root()
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return root / _FOLDER / digest / quote(parts[-1], safe=_SAFE)


def fetch_file(url: str, path: Path) -> None:
    """Make ``path`` a copy of a file at a URL; atomically.

    Raises
    ------
    EnvironmentFault
        It cannot be fetched.
    """
    system, inner = file_system(url)
    with _faults(url, "read"), environment_faults(path), replacing(path) as temporary:
        system.get_file(inner, str(temporary))


@dataclass(frozen=True)
class RemoteResults:
    """The results folder at ``url``, as :func:`wsiseg.core.url.folder_url` gives it."""

    url: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        system, inner = file_system(self.url)
        return system, inner.rstrip("/")

    @property
    def parallel(self) -> bool:
        """Whether several requests at a time are a matter of course."""
        return bool(self._place[0].async_impl)

    def require_writable(self) -> None:
        """Write a small file and remove it, before anything is computed.

        Raises
        ------
        EnvironmentFault
            It may not be written: no permission, no bucket, no connection.
        UsageError
            The protocol cannot write.
        """
        system, root = self._place
        with _faults(self.url, "written"):
            system.pipe_file(f"{root}/{_PROBE}", b"wsiseg")
        with contextlib.suppress(Exception):  # who may write may still not be allowed to remove
            system.rm_file(f"{root}/{_PROBE}")

    def names(self) -> list[str]:
        """The folders there that may be slides' results."""
        system, root = self._place
        with _faults(self.url, "read"):
            system.invalidate_cache()
            try:
                found = system.ls(root, detail=True)
            except FileNotFoundError:
                return []
        names = {entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "directory"}
        return sorted(name for name in names if name and not name.startswith(".") and name != EXPORTS)

    def files(self, name: str) -> Files:
        """What lies in a slide's folder; nothing where there is none."""
        system, root = self._place
        prefix = f"{root}/{name}/"
        with _faults(f"{self.url}/{name}", "read"):
            system.invalidate_cache()
            try:
                found = system.find(prefix.rstrip("/"), detail=True)
            except FileNotFoundError:
                return {}
        return {
            path.removeprefix(prefix): int(info["size"])
            for path, info in found.items()
            if path.startswith(prefix) and info["type"] != "directory"
        }

    def content(self, name: str) -> bytes | None:
        """The text of a slide's record; None where there is none."""
        system, root = self._place
        with _faults(f"{self.url}/{name}", "read"):
            try:
                content: bytes = system.cat_file(f"{root}/{name}/{RECORD_NAME}")
            except FileNotFoundError:
                return None
        return content

    def record(self, name: str, content: bytes | None) -> SlideRecord | None:
        """The record with this text; see :func:`wsiseg.results.record.read_record`."""
        value = None if content is None else parse_json(content)
        if value is not None:
            with contextlib.suppress(NotARecord):
                return parse_record(value, f"{self.url}/{name}")
        return None

    def fetch_for_reports(self, name: str, files: Files, folder: Path) -> None:
        """Fetch into ``folder`` what pages over all slides are made from."""
        system, root = self._place
        pictures = (one for one in files if one.startswith(f"{PICTURES}/") and _is_plain(one.partition("/")[2]))
        wanted = [one for one in (*FOR_REPORTS, SLIDE_PAGE, *pictures) if one in files]
        if not wanted:
            return
        with environment_faults(folder):
            (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        with _faults(f"{self.url}/{name}", "read"):
            system.get(
                [f"{root}/{name}/{one}" for one in wanted], [str(folder / one) for one in wanted], **self._few
            )

    def upload(self, name: str, folder: Path, record: bytes, proceed: Callable[[], None]) -> None:
        """Make the folder at the URL the slide's folder here, and its record the last of it.

        Parameters
        ----------
        name : str
        folder : Path
        record : bytes
            The text of its record.
        proceed : callable
            Called now and then; what it raises ends the upload.

        Raises
        ------
        EnvironmentFault
            It cannot be written; or there is something that is not wsiseg's.
        """
        system, root = self._place
        there, here = self.files(name), _files_of(folder)
        self.require_ours(name, there)
        with _faults(f"{self.url}/{name}", "written"):
            if RECORD_NAME in there:
                system.rm_file(f"{root}/{name}/{RECORD_NAME}")
            self.put({f"{name}/{one}": folder / one for one in here}, proceed)
            stale = [f"{root}/{name}/{one}" for one in there if one not in here and one not in _LATER]
            if stale:
                system.rm(stale)
        arrived = self.files(name)
        short = [one for one, size in here.items() if arrived.get(one) != size]
        if short:
            raise EnvironmentFault(
                f"{self.url}/{name}/{short[0]}: {arrived.get(short[0], 0)} bytes arrived, expected "
                f"{here[short[0]]}. The same command tries again."
            )
        self.write(f"{name}/{RECORD_NAME}", record)

    def put(self, files: Mapping[str, Path], proceed: Callable[[], None] = lambda: None) -> None:
        """Copy files there under these names."""
        system, root = self._place
        names = list(files)
        with _faults(self.url, "written"):
            for first in range(0, len(names), _ONE_GO):
                some = names[first : first + _ONE_GO]
                system.put([str(files[one]) for one in some], [f"{root}/{one}" for one in some], **self._putting)
                proceed()

    def write(self, name: str, content: bytes) -> None:
        """Make a file there."""
        system, root = self._place
        with _faults(f"{self.url}/{name}", "written"):
            system.pipe_file(f"{root}/{name}", content)

    def require_ours(self, name: str, files: Iterable[str]) -> None:
        """Refuse a folder at the URL with files that wsiseg does not write: they might be lost.

        Raises
        ------
        EnvironmentFault
        """
        strangers = sorted({one.partition("/")[0] for one in files} - OURS)
        if strangers:
            raise EnvironmentFault(
                f"{self.url}/{name}: has to be written, but holds {strangers[0]!r}, which is not wsiseg's.\n"
                "Expected: nothing of that name, or a slide's results. Move it away, or choose another -o."
            )

    @property
    def _few(self) -> dict[str, int]:
        """How many files at a time, where the file system can be told."""
        return {"batch_size": _AT_ONCE} if self.parallel else {}

    @cached_property
    def _putting(self) -> dict[str, int]:
        """The same for copies to there, and that they replace files where the file system would not (az)."""
        system, _ = self._place
        accepted = inspect.signature(system._put_file if self.parallel else system.put_file).parameters
        return {**self._few, **({"overwrite": True} if "overwrite" in accepted else {})}


_LATER = (RECORD_NAME, SLIDE_PAGE)
"""Of a slide's folder what is written when the rest is there."""


def damage(files: Files, noted: Mapping[str, FileNote]) -> str:
    """What of a slide's results is missing at a URL or has another size than noted; ``""`` if nothing has."""
    for name in dict.fromkeys((*RESULT_FILES, RESULT_STORE, *(OURS & noted.keys()))):
        sizes = [size for path, size in files.items() if path == name or path.startswith(f"{name}/")]
        if not sizes:
            return f"{name} is missing"
        if name in noted and (sum(sizes), len(sizes)) != (noted[name]["bytes"], noted[name].get("files", 1)):
            return f"{name} is damaged"
    return ""


def _files_of(folder: Path) -> dict[str, int]:
    """The files of a slide's results that are written before its record."""
    found: dict[str, int] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [one for one in folders if not is_temporary(one)]
        for name in names:
            path = Path(place, name)
            inner = path.relative_to(folder).as_posix()
            if inner.partition("/")[0] in OURS and inner not in (*_LATER, UPLOADED) and not is_temporary(name):
                found[inner] = path.stat().st_size
    return found


def _is_plain(name: str) -> bool:
    """Whether a name at a URL may become the name of a file here."""
    return bool(name) and "/" not in name and "\0" not in name and not name.startswith(".")


@contextlib.contextmanager
def _faults(url: str, done: str) -> Iterator[None]:
    """What goes wrong at the other end as errors that say what to do; ``done``: "read" or "written"."""
    try:
        yield
    except WsisegError:
        raise
    except NotImplementedError as error:
        raise UsageError(
            f"{shown(url)}: this protocol cannot be {done}. Expected a folder, or a URL of a protocol that can: "
            "s3, gs, az …"
        ) from error
    except Exception as error:  # each protocol has errors of its own, of no common kind
        if is_disks(error):
            with environment_faults(Path(os.fsdecode(error.filename))):
                raise
        said = f"{type(error).__name__}: {error}"
        raise EnvironmentFault(f"{shown(url)}: cannot be {done} ({said}).\n{_remedy(error)}") from error


def _remedy(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "Expected: a bucket or folder that is there. Make it or choose another -o; the same command goes on."
    if isinstance(error, PermissionError):
        return (
            "Expected: permission to read and write there. Give credentials through fsspec's configuration or the "
            "protocol's own variables, or choose another -o; the same command goes on."
        )
    return "Check the connection and the credentials; what is finished here stays, and the same command uploads it."

"""The results folder on disk: identities, atomic commits, what makes a result still valid.

    OUT/<slide-id>/             appears by one rename, complete with its success record
    OUT/exports/                what other programs read, made on request
    OUT/.work/<slide-id>/<key>/ what is in progress: parts of tile batches, stage summaries, the result being built
    OUT/.lock                   held by the run that writes

A part file is final once it has its final name, so a kill at any moment loses at most the batches that were being
computed. The key says what decides the result; a run with the same key goes on where the last one stopped. What it
finds there carries checksums: what has been damaged since is discarded and computed again.

A folder that has a slide's name and not its record is somebody else's, and so is a file in a slide's folder that
wsiseg does not write: neither is ever replaced.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import struct
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import google_crc32c

from wsiseg import record as records
from wsiseg.errors import DamagedFile, EnvironmentFault, SlideError, UsageError
from wsiseg.record import FORMAT_VERSION
from wsiseg.slide import SlideSource

RECORD_NAME = "slide.json"
EXPORTS = "exports"
RESULT_FILES = ("nuclei.parquet", "patches.parquet", "thumbnail.png")
RESULT_STORE = "maps.zarr"
_OURS = frozenset((RECORD_NAME, RESULT_STORE, *RESULT_FILES))
WORK = ".work"
_MAX_ID_BYTES = 80
_PREFIX_BYTES = 80
"""Of a temporary name, so that the whole of it fits."""
_RESERVED = frozenset(("report.html", "cohort.csv", "cohort.parquet", EXPORTS))
"""What the folder holds beside the slides' results."""
_CHECKED_BYTES = 64 << 20
"""A finished file up to this size is read to see that it is intact; of a larger one the size alone must agree."""
_SEAL = struct.Struct("<4sI")
_SEAL_MARK = b"WSC1"
SEAL_BYTES = _SEAL.size
"""How much longer a sealed file is than its content."""
_LITTER = (".DS_Store", ".nfs")
"""Beginnings of names of files that systems leave and nobody misses."""

_EXHAUSTED = {
    errno.ENOSPC: "the disk is full: free space there or choose another -o; the same command resumes",
    errno.EFBIG: "a file would be larger than allowed: raise the limit (ulimit -f unlimited) or choose another "
    "disk with -o; the same command resumes",
    errno.EDQUOT: "the disk quota is used up: free space or choose another -o; the same command resumes",
    errno.EROFS: "the file system is read-only: choose another -o",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n 4096); the same command resumes",
    errno.ENFILE: "too many files are open on this machine: close some programs; the same command resumes",
}
_REFUSED = {
    errno.EACCES: "no permission to write there: choose another -o or change the permissions",
    errno.EPERM: "no permission to write there: choose another -o or change the permissions",
    errno.ENOTDIR: "a file is in the way: choose another -o",
    errno.EEXIST: "a file is in the way: choose another -o",
    errno.ENOENT: "its folder cannot be made or was removed: choose another -o",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter -o",
    errno.EIO: "the disk reports an input/output error: check it or choose another -o; the same command resumes",
    errno.ESTALE: "the network disk has lost the folder: the same command resumes",
}


@dataclass(frozen=True)
class SlideFolder:
    """Where one slide's results are (``final``) and where they are made (``work``)."""

    out: Path
    id: str

    @property
    def final(self) -> Path:
        return self.out / self.id

    @property
    def work(self) -> Path:
        return self.out / WORK / self.id

    def record(self) -> dict[str, Any] | None:
        """The slide's record, or None where there is none that can be relied on; see :func:`read_record`."""
        return read_record(self.final)

    def in_progress(self, key: str, source: SlideSource) -> WorkFolder:
        return WorkFolder(self.work / key[:16], source)

    def require_ours(self) -> None:
        """Refuse a place that is taken by something that wsiseg did not put there.

        Raises
        ------
        EnvironmentFault
            A file, a folder or a link without a slide's record.
        UsageError
            The record is of a newer format.
        """
        if os.path.lexists(self.final) and self.record() is None:
            raise EnvironmentFault(
                f"{self.final}: is there already and is no result of wsiseg ({_why_no_record(self.final)}).\n"
                "Expected: nothing of that name, or a slide's results. Move it away, or choose another -o."
            )

    def require_replaceable(self) -> None:
        """Refuse to replace an earlier result with which something else would be lost.

        Raises
        ------
        EnvironmentFault
            It is no folder of its own, or holds files that are not wsiseg's.
        """
        self.require_ours()
        if not self.final.exists():
            return
        with environment_faults(self.final):
            strangers = sorted(set(os.listdir(self.final)) - _OURS)
        strangers = [name for name in strangers if not (name.startswith(_LITTER) or is_temporary(name))]
        if os.path.islink(self.final):
            problem = "is a link, which would be replaced by a folder"
        elif strangers:
            more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
            problem = f"holds {strangers[0]!r}{more}, which would be lost"
        elif not os.access(self.final, os.W_OK):
            problem = "may not be replaced by this user"
        else:
            return
        raise EnvironmentFault(
            f"{self.final}: has to be computed again, but {problem}.\n"
            "Expected: a folder with nothing but wsiseg's files. Move what is yours away, or choose another -o."
        )

    def damage(self, record: Mapping[str, Any]) -> str:
        """What of the finished result is missing or not as its record says; ``""`` if nothing is."""
        noted = record.get("files", {})
        for name in (*RESULT_FILES, RESULT_STORE):
            path = self.final / name
            if not path.exists():
                return f"{name} is missing"
            if name in noted and not is_intact(path, noted[name]):
                return f"{name} is damaged"
        return ""

    def publish(self, work: WorkFolder) -> None:
        """Give the finished result its final name, replacing an earlier one, and drop what was temporary."""
        sync_folder(work.result)
        self.require_replaceable()
        if self.final.exists():
            retired = self.work / "retired"
            shutil.rmtree(retired, ignore_errors=True)
            os.rename(self.final, retired)
        os.rename(work.result, self.final)
        sync_folder(self.out)
        self.clean()

    def publish_failure(self, record: Mapping[str, Any]) -> None:
        """Give a failed slide its record, unless it has a result of an earlier run."""
        self.require_ours()
        earlier = self.record()
        if earlier is not None and earlier["status"] != "failed":
            return
        if earlier is not None:
            write_json(self.final / RECORD_NAME, record)
            return
        made = self.work / "failed"
        with environment_faults(self.final):
            made.mkdir(parents=True, exist_ok=True)
            write_json(made / RECORD_NAME, record)
            os.rename(made, self.final)
            for folder in (self.work, self.work.parent):  # parts of tiles that were computed stay
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def clean(self) -> None:
        """Remove everything in progress; the final result stays."""
        shutil.rmtree(self.work, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.out / WORK).rmdir()


@dataclass(frozen=True)
class WorkFolder:
    """One attempt's files, shared by every process and every resumption with the same key.

    It holds what was decided. Where the slide is (``source``) is for each run to say: it may have been moved.
    """

    path: Path
    source: SlideSource

    @property
    def result(self) -> Path:
        return self.path / "result"

    @property
    def parts(self) -> Path:
        return self.path / "parts"

    def has_parts(self) -> bool:
        """Whether an earlier run has left any."""
        return next(self.parts.glob("*.arrow"), None) is not None

    def part(self, first_tile: int, last_tile: int) -> Path:
        return self.parts / f"{first_tile:08d}-{last_tile:08d}.arrow"

    def create(self) -> None:
        with environment_faults(self.path):
            self.parts.mkdir(parents=True, exist_ok=True)
            self.result.mkdir(exist_ok=True)

    def stage(self, name: str) -> dict[str, Any] | None:
        """The summary of a finished stage, or None; one that was damaged is none."""
        return read_sealed_json(self.path / f"{name}.json")

    def require_stage(self, name: str) -> dict[str, Any]:
        """The summary of a stage that must be finished.

        Raises
        ------
        SlideError
            There is none.
        """
        summary = self.stage(name)
        if summary is None:
            raise SlideError(f"{self.path} was changed during the run. Run the same command again.")
        return summary

    def finish_stage(self, name: str, summary: Mapping[str, Any]) -> None:
        write_sealed_json(self.path / f"{name}.json", summary)

    def discard(self) -> None:
        """Begin again: remove all that the attempt has left."""
        with environment_faults(self.path):
            if self.path.exists():
                shutil.rmtree(self.path)


def absolute(path: Path) -> Path:
    """The path as every process has it that sees the same files: workers may run in another folder.

    Raises
    ------
    EnvironmentFault
        It is relative, and this process' folder has been removed.
    """
    try:
        return Path(os.path.abspath(path))
    except FileNotFoundError as error:
        raise EnvironmentFault(
            f"{path}: is relative to a folder that has been removed. Change to another one, or give a full path."
        ) from error


def assign_ids(paths: Iterable[Path], out: Path) -> dict[Path, str]:
    """A folder name for each slide: its stem, made safe, and told apart where two would collide.

    A name that is taken, in this call or by another slide's results in ``out``, gets eight hexadecimal digits of
    the absolute path's hash; so does a name that had to be altered or shortened. A slide that has results under
    its plain name keeps it.
    """
    resolved = {path: absolute(path) for path in paths}
    stems = {path: _safe_stem(path) for path in resolved}
    counts: dict[str, int] = {}
    for stem, _ in stems.values():
        counts[stem.casefold()] = counts.get(stem.casefold(), 0) + 1
    ids = {}
    for path, (stem, altered) in stems.items():
        owner = _owner(out / stem)
        alike = counts[stem.casefold()] > 1 or stem.casefold() in _RESERVED
        taken = alike if owner is None else owner != str(resolved[path])
        digest = hashlib.sha256(os.fsencode(resolved[path])).hexdigest()[:8]
        ids[path] = f"{stem}-{digest}" if taken or altered else stem
    return ids


def result_key(fingerprint: str, specification: Mapping[str, Any]) -> str:
    """SHA-256 over all that decides a slide's result: its content, the specification, the format version."""
    decisive = {"fingerprint": fingerprint, "specification": specification, "format": FORMAT_VERSION}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def read_records(out: Path) -> list[dict[str, Any]]:
    """The records of every slide in a results folder, by id; see :func:`read_record`."""
    found = (read_record(path.parent) for path in sorted(out.glob(f"*/{RECORD_NAME}")))
    return [record for record in found if record is not None]


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the slide whose results are in ``folder``; None where there is none that can be relied on.

    Raises
    ------
    UsageError
        It is of a newer format than this version knows.
    """
    record = read_json(folder / RECORD_NAME)
    if record is None or records.problem(record, _name(folder)):
        return None
    if record["version"] > FORMAT_VERSION:
        raise UsageError(
            f"{folder}: holds results of format {record['version']}, made by a newer wsiseg.\n"
            f"Expected: format {FORMAT_VERSION} at most. Use that wsiseg, or choose another folder."
        )
    return record


def describe_files(result: Path) -> dict[str, dict[str, Any]]:
    """The record's ``files``: size and checksum of each, so that damage can be told later."""
    return {
        **{name: describe_file(result / name) for name in RESULT_FILES},
        RESULT_STORE: describe_store(result / RESULT_STORE),
    }


def describe_file(path: Path) -> dict[str, Any]:
    """A file's ``bytes`` and ``crc32c``."""
    value, size = 0, 0
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 22), b""):
            value, size = google_crc32c.extend(value, block), size + len(block)
    return {"bytes": size, "crc32c": f"{value:08x}"}


def is_intact(path: Path, noted: Mapping[str, Any]) -> bool:
    """Whether a file, or a store, still is as it was described; a large file is judged by its size alone."""
    try:
        if path.is_dir():
            return describe_store(path) == noted
        size = path.stat().st_size
        return size == noted["bytes"] and (size > _CHECKED_BYTES or describe_file(path) == noted)
    except OSError:
        return False


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where the file is missing or is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write atomically: readers see the old file or the whole new one."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name may hold bytes that are no text: Python's lone surrogates, which JSON can only write escaped.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """:func:`write_json` with a checksum beside the values."""
    plain = json.loads(json.dumps(value))  # as it will be read
    write_json(path, {**plain, "crc32c": _json_checksum(plain)})


def read_sealed_json(path: Path) -> dict[str, Any] | None:
    """What :func:`write_sealed_json` wrote; None where it is missing or was changed since."""
    value = read_json(path)
    if value is None or value.pop("crc32c", None) != _json_checksum(value):
        return None
    return value


def write_sealed(path: Path, content: bytes) -> None:
    """:func:`write_bytes` with a checksum behind the content."""
    write_bytes(path, content + _SEAL.pack(_SEAL_MARK, google_crc32c.value(content)))


def read_sealed(path: Path) -> bytes:
    """What :func:`write_sealed` wrote.

    Raises
    ------
    DamagedFile
        It cannot be read, or is not what was written.
    """
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise DamagedFile(f"{path}: cannot be read: {error.strerror}. Run the same command again.") from error
    content, seal = stored[: -_SEAL.size], stored[-_SEAL.size :]
    if seal != _SEAL.pack(_SEAL_MARK, google_crc32c.value(content)):
        raise DamagedFile(f"{path}: was damaged after it was written. Run the same command again.")
    return content


def write_bytes(path: Path, content: bytes) -> None:
    """Write atomically and durably."""
    temporary = temporary_name(path)
    with environment_faults(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` to write under first, which no other process has: not even one in another container,
    whose number may be the same."""
    return path.with_name(f"{_temporary_prefix(path)}{secrets.token_hex(6)}.tmp")


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of ``path`` under temporary names; the caller holds its lock."""
    for left in path.parent.glob(f"{glob.escape(_temporary_prefix(path))}*.tmp"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files, ours and zarr's, that killed processes left in a result."""
    for pattern in (".*.tmp", "*.partial"):
        for path in folder.rglob(pattern):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the renames in ``folder`` survive a power failure, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def output_lock(out: Path) -> Iterator[None]:
    """Hold ``out`` for writing; a second run is refused. A killed run's lock is gone with it."""
    with environment_faults(out):
        out.mkdir(parents=True, exist_ok=True)
    with hold_lock(out / ".lock", out):
        with environment_faults(out):
            for name in _RESERVED:
                remove_leftovers(out / name)
        yield


@contextlib.contextmanager
def lock_beside(path: Path) -> Iterator[None]:
    """Hold a file or store for writing. The lock lies beside it: inside, readers would see a strange node."""
    file = path.with_name(f".{path.name}.lock")
    with environment_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(file, path):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def hold_lock(file: Path, out: Path) -> Iterator[None]:
    """Hold the lock ``file``, which stands for ``out``; refuse at once if another process holds it."""
    lock = filelock.FileLock(file)
    with environment_faults(out):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise EnvironmentFault(
                f"another run is writing to {out}. Wait for it, stop it, or choose another -o."
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def environment_faults(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into errors that say what to do.

    Raises
    ------
    EnvironmentFault
        The disk, or a folder on it, cannot be used.
    SlideError
        The slide's work folder has been removed: that is this slide's misfortune alone.
    """
    try:
        yield
    except OSError as error:
        attempt = _vanished_attempt(path) if error.errno == errno.ENOENT else None
        if attempt is not None:
            raise SlideError(f"{attempt} was removed during the run. Run the same command again.") from error
        fault = environment_fault(error, path, _EXHAUSTED | _REFUSED)
        if fault is None:
            raise
        raise fault from error


def environment_fault(
    error: BaseException, path: Path, causes: Mapping[int, str] = _EXHAUSTED
) -> EnvironmentFault | None:
    """The error for the user if something has run out, whatever was being done; None for another error."""
    cause = causes.get(error.errno or 0) if isinstance(error, OSError) else None
    return EnvironmentFault(f"cannot write {path}: {cause}.") if cause is not None else None


def _safe_stem(path: Path) -> tuple[str, bool]:
    name = path.name
    for suffix in (".ome.zarr", ".ome.tiff", ".ome.tif"):
        if name.lower().endswith(suffix):
            stem = name[: -len(suffix)]
            break
    else:
        stem = path.stem
    normal = unicodedata.normalize("NFC", stem)
    safe = re.sub(r"[^\w.\-]", "_", normal).lstrip(".-")
    while len(safe.encode()) > _MAX_ID_BYTES:
        safe = safe[:-1]
    safe = safe or "slide"
    # A space is the one change that loses nothing worth telling apart.
    return safe, safe != normal.replace(" ", "_") or normal != stem


def _owner(folder: Path) -> str | None:
    record = read_record(folder)
    return None if record is None else str(record["slide"]["path"])


def is_temporary(name: str) -> bool:
    """Whether a file has a name that :func:`temporary_name` gives."""
    return name.startswith(".") and name.endswith(".tmp")


def _temporary_prefix(path: Path) -> str:
    short = path.name
    while len(os.fsencode(short)) > _PREFIX_BYTES:
        short = short[:-1]
    return f".{short}."


def _name(folder: Path) -> str:
    """A folder's own name, however it was given."""
    return os.path.basename(os.path.abspath(folder))


def _why_no_record(path: Path) -> str:
    if not path.is_dir():
        return "a link that leads nowhere" if path.is_symlink() else "it is a file"
    if not (path / RECORD_NAME).exists():
        return f"it has no {RECORD_NAME}"
    record = read_json(path / RECORD_NAME)
    return f"{RECORD_NAME}: " + (records.problem(record, _name(path)) if record else "not JSON")


def describe_store(path: Path) -> dict[str, Any]:
    """Of a folder the number and the size of its files: it may have thousands."""
    sizes = [os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names]
    return {"bytes": sum(sizes), "files": len(sizes)}


def _json_checksum(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True)
    return f"{google_crc32c.value(text.encode()):08x}"


def _vanished_attempt(path: Path) -> Path | None:
    """The attempt's folder that ``path`` lies in, if it is gone while the results folder is still there."""
    for attempt in path.parents:
        if attempt.parent.parent.name == WORK:
            return attempt if not attempt.exists() and attempt.parents[2].exists() else None
    return None

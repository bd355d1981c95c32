"""The results folder on disk: identities, atomic commits, what makes a result still valid.

    OUT/<slide-id>/             appears by one rename, complete with its success record
    OUT/.work/<slide-id>/<key>/ what is in progress: parts of tile batches, stage summaries, the result being built
    OUT/.lock                   held by the run that writes

A part file is final once it has its final name, so a kill at any moment loses at most the batches that were being
computed. The key says what decides the result; a run with the same key goes on where the last one stopped.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from wsiseg.errors import EnvironmentFault

FORMAT_VERSION = 1
RECORD_NAME = "slide.json"
_MAX_ID_BYTES = 80
_RESERVED = frozenset(("report.html", "cohort.csv", "cohort.parquet"))
"""What the folder holds beside the slides' results."""

_EXHAUSTED = {
    errno.ENOSPC: "the disk is full: free space there or choose another -o; the same command resumes",
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
        return self.out / ".work" / self.id

    def record(self) -> dict[str, Any] | None:
        """The success record, or None where there is none that can be read."""
        return read_json(self.final / RECORD_NAME)

    def in_progress(self, key: str) -> WorkFolder:
        return WorkFolder(self.work / key[:16])

    def publish(self, work: WorkFolder) -> None:
        """Give the finished result its final name, replacing an earlier one, and drop what was temporary."""
        remove_unfinished(work.result)
        sync_folder(work.result)
        if self.final.exists():
            retired = self.work / "retired"
            shutil.rmtree(retired, ignore_errors=True)
            os.rename(self.final, retired)
        os.rename(work.result, self.final)
        sync_folder(self.out)
        self.clean()

    def publish_failure(self, record: Mapping[str, Any]) -> None:
        """Give a failed slide its record, unless it has a result of an earlier run."""
        earlier = self.record()
        if earlier is not None and earlier["status"] != "failed":
            return
        if self.final.is_dir():
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
            (self.out / ".work").rmdir()


@dataclass(frozen=True)
class WorkFolder:
    """One attempt's files, shared by every process and every resumption with the same key."""

    path: Path

    @property
    def result(self) -> Path:
        return self.path / "result"

    @property
    def parts(self) -> Path:
        return self.path / "parts"

    def part(self, first_tile: int, last_tile: int) -> Path:
        return self.parts / f"{first_tile:08d}-{last_tile:08d}.arrow"

    def create(self) -> None:
        with environment_faults(self.path):
            self.parts.mkdir(parents=True, exist_ok=True)
            self.result.mkdir(exist_ok=True)

    def stage(self, name: str) -> dict[str, Any] | None:
        """The summary of a finished stage, or None."""
        return read_json(self.path / f"{name}.json")

    def finish_stage(self, name: str, summary: Mapping[str, Any]) -> None:
        write_json(self.path / f"{name}.json", summary)


def assign_ids(paths: Iterable[Path], out: Path) -> dict[Path, str]:
    """A folder name for each slide: its stem, made safe, and told apart where two would collide.

    A name that is taken, in this call or by another slide's results in ``out``, gets eight hexadecimal digits of
    the absolute path's hash; so does a name that had to be altered or shortened. A slide that has results under
    its plain name keeps it.
    """
    resolved = {path: Path(os.path.abspath(path)) for path in paths}
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
    """The records of every finished slide in a results folder, by id."""
    found = (read_json(path) for path in sorted(out.glob(f"*/{RECORD_NAME}")))
    return [record for record in found if record is not None and record.get("schema") == "wsiseg.slide"]


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


def write_bytes(path: Path, content: bytes) -> None:
    """Write atomically and durably."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with environment_faults(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


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
    with _held(out / ".lock", out):
        with environment_faults(out):
            for name in _RESERVED:
                for left in out.glob(f".{name}.*.tmp"):
                    left.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def lock_beside(path: Path) -> Iterator[None]:
    """Hold a zarr store for writing. The lock lies beside it: inside, readers would take it for a strange node."""
    file = path.with_name(f".{path.name}.lock")
    with environment_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _held(file, path):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(file: Path, out: Path) -> Iterator[None]:
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
    """Turn the disk's refusals into errors that say what to do."""
    try:
        yield
    except OSError as error:
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
    record = read_json(folder / RECORD_NAME)
    if record is None:
        return None
    slide = record.get("slide")
    return slide.get("path") if isinstance(slide, dict) else None

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
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wsiseg.core.atomic import hold_lock, is_temporary, remove_leftovers, sync_folder
from wsiseg.core.environment import WORK, absolute, environment_faults
from wsiseg.core.sealed import (
    FileNote,
    describe_file,
    describe_store,
    is_intact,
    read_sealed_json,
    write_sealed_json,
)
from wsiseg.core.typed import Misfit, as_plain, as_typed
from wsiseg.errors import EnvironmentFault, SlideError, UsageError
from wsiseg.results.record import (
    FORMAT_VERSION,
    RECORD_NAME,
    FailedRecord,
    SegmentedRecord,
    SlideRecord,
    read_record,
    why_no_record,
    write_record,
)
from wsiseg.results.uploaded import UPLOADED, bring_back, read_uploaded
from wsiseg.slide import SlideSource
from wsiseg.slide.remote import location

EXPORTS = "exports"
RESULT_FILES = ("nuclei.parquet", "patches.parquet", "thumbnail.png")
ARTEFACTS_PNG = "artefacts.png"
"""Results of before there were artefact maps lack it, and are whole without."""
PICTURES = "pictures"
"""A folder; results of before there was a page for each slide lack it."""
SLIDE_PAGE = "report.html"
"""Made again with the report over all slides, so no part of what a record lists."""
RESULT_STORE = "maps.zarr"
T = TypeVar("T")
OURS = frozenset((RECORD_NAME, RESULT_STORE, ARTEFACTS_PNG, PICTURES, SLIDE_PAGE, UPLOADED, *RESULT_FILES))
"""Names in a slide's folder that are wsiseg's."""
_MAX_ID_BYTES = 80
_RESERVED = frozenset(("report.html", "cohort.csv", "cohort.parquet", "actions.csv", EXPORTS))
"""What the folder holds beside the slides' results."""
_LITTER = (".DS_Store", ".nfs")
"""Beginnings of names of files that systems leave and nobody misses."""


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

    def record(self) -> SlideRecord | None:
        """The slide's record; see :func:`wsiseg.results.record.read_record`."""
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
            strangers = sorted(set(os.listdir(self.final)) - OURS)
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

    def damage(self, noted: Mapping[str, FileNote]) -> str:
        """What of the finished result is missing or not as its record notes it; ``""`` if nothing is.

        Of one that is at a URL, whoever fetched its record has looked at the files there.
        """
        if read_uploaded(self.final) is not None:
            return ""
        for name in dict.fromkeys((*RESULT_FILES, RESULT_STORE, *(OURS & noted.keys()))):
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

    def publish_failure(self, record: FailedRecord) -> None:
        """Give a failed slide its record, unless it has a result of an earlier run."""
        self.require_ours()
        earlier = self.record()
        if earlier is not None:
            if isinstance(earlier, FailedRecord):
                write_record(self.final, record)
            return
        made = self.work / "failed"
        with environment_faults(self.final):
            made.mkdir(parents=True, exist_ok=True)
            write_record(made, record)
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

    def stage(self, name: str, kind: type[T]) -> T | None:
        """What a finished stage has left, or None; what was damaged, or is of another version, is none."""
        value = read_sealed_json(self.path / f"{name}.json")
        if value is not None:
            with contextlib.suppress(Misfit):
                return as_typed(value, kind)
        return None

    def require_stage(self, name: str, kind: type[T]) -> T:
        """What a stage that must be finished has left.

        Raises
        ------
        SlideError
            There is none.
        """
        found = self.stage(name, kind)
        if found is None:
            raise SlideError(f"{self.path} was changed during the run. Run the same command again.")
        return found

    def finish_stage(self, name: str, left: object) -> None:
        """Note what a stage has left: a value of the type that :meth:`stage` is asked for."""
        write_sealed_json(self.path / f"{name}.json", as_plain(left))

    def discard(self) -> None:
        """Begin again: remove all that the attempt has left."""
        with environment_faults(self.path):
            if self.path.exists():
                shutil.rmtree(self.path)


def assign_ids(paths: Iterable[Path], out: Path) -> dict[Path, str]:
    """A folder name for each slide: its stem, made safe, and told apart where two would collide.

    A name that is taken, in this call or by another slide's results in ``out``, gets eight hexadecimal digits of
    the hash of its absolute path or URL; so does a name that had to be altered or shortened. A slide that has
    results under its plain name keeps it.
    """
    places = {path: location(absolute(path)) for path in paths}
    stems = {path: _safe_stem(path) for path in places}
    counts: dict[str, int] = {}
    for stem, _ in stems.values():
        counts[stem.casefold()] = counts.get(stem.casefold(), 0) + 1
    ids = {}
    for path, (stem, altered) in stems.items():
        owner = _owner(out / stem)
        alike = counts[stem.casefold()] > 1 or stem.casefold() in _RESERVED
        taken = alike if owner is None else owner != places[path]
        digest = hashlib.sha256(os.fsencode(places[path])).hexdigest()[:8]
        ids[path] = f"{stem}-{digest}" if taken or altered else stem
    return ids


def result_key(fingerprint: str, specification: Mapping[str, Any]) -> str:
    """SHA-256 over all that decides a slide's result: its content, the specification, the format version."""
    decisive = {"fingerprint": fingerprint, "specification": specification, "format": FORMAT_VERSION}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def read_records(out: Path) -> list[SlideRecord]:
    """The records of every slide in a results folder, by id; see :func:`wsiseg.results.record.read_record`."""
    found = (read_record(path.parent) for path in sorted(out.glob(f"*/{RECORD_NAME}")))
    return [record for record in found if record is not None]


def describe_files(result: Path) -> dict[str, FileNote]:
    """The record's ``files``: size and checksum of each, so that damage can be told later."""
    return {
        **{name: describe_file(result / name) for name in RESULT_FILES},
        **{name: describe_file(result / name) for name in (ARTEFACTS_PNG,) if (result / name).exists()},
        **{name: describe_store(result / name) for name in (PICTURES,) if (result / name).exists()},
        RESULT_STORE: describe_store(result / RESULT_STORE),
    }


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
    return None if record is None else record.slide.path


def _why_no_record(path: Path) -> str:
    if not path.is_dir():
        return "a link that leads nowhere" if path.is_symlink() else "it is a file"
    return why_no_record(path)


def slide_results(run: Path) -> list[tuple[Path, SegmentedRecord]]:
    """(folder, record) of one slide's results, or of every slide in a results folder that has nuclei.

    Raises
    ------
    UsageError
        If there are none, or one is of a newer format.
    """
    records_below = sorted(run.glob(f"*/{RECORD_NAME}"))
    folders = [run] if (run / RECORD_NAME).exists() else [path.parent for path in records_below]
    records = [(folder, read_record(folder)) for folder in folders]
    usable = [(folder, record) for folder, record in records if isinstance(record, SegmentedRecord)]
    if not usable:
        raise UsageError(f"{run} holds no segmented slide. Expected the output of `wsiseg segment`.")
    return usable


def nuclei_file(folder: Path, record: SegmentedRecord) -> Path:
    """The nuclei of a slide's results.

    Raises
    ------
    SlideError
        They are missing, or not as they were written.
    """
    return _noted_file(folder, record, "nuclei.parquet")


def patches_file(folder: Path, record: SegmentedRecord) -> Path:
    """The verdicts on the patches of a slide's results; raises as :func:`nuclei_file`."""
    return _noted_file(folder, record, "patches.parquet")


def _noted_file(folder: Path, record: SegmentedRecord, name: str) -> Path:
    path, noted = bring_back(folder / name), record.files.get(name)
    if noted is not None and not is_intact(path, noted):
        raise SlideError(
            f"{path}: is missing, or not as it was written.\n"
            "Run the `wsiseg segment` that made it again: what is damaged is computed anew."
        )
    return path

"""The tasks that grade a slide: choose its patches, judge them block by block, gather the verdicts.

They read and write the slide's work folder and may run twice. A block's verdicts are a file of their own, so that a
stopped run goes on with the blocks that it lacks.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsiseg.core.atomic import write_bytes
from wsiseg.core.columnfile import as_table, parquet_bytes
from wsiseg.core.environment import environment_faults
from wsiseg.core.geometry import Box
from wsiseg.core.sealed import read_sealed, write_sealed
from wsiseg.errors import DamagedFile, SlideError
from wsiseg.models.resident import ModelChoice, resident_segmenter
from wsiseg.qc.agreement import Constants
from wsiseg.qc.check import assess_patches, calibrate_slide, lost_patches
from wsiseg.qc.judge import load_judge
from wsiseg.qc.patches import Patches, place_patches, sample_patches
from wsiseg.results.folder import WorkFolder
from wsiseg.results.job import once_alone
from wsiseg.results.plan import PLAN, SlidePlan
from wsiseg.results.planned import open_planned, read_planned
from wsiseg.results.stages import GRADING, STITCH, Stitched
from wsiseg.slide.held import Held, identity
from wsiseg.tissue import Tissue

_PATCHES, _VERDICTS = "patches.parquet", "verdicts"
_SECONDS = b"seconds"

Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class AssessJob:
    """Patches to assess, by their numbers.

    ``name`` tells the tasks of a slide apart. ``opinion``: who gives second opinions. ``alone``: a worker died of
    the block. ``lost``: its patches are given up.
    """

    work: WorkFolder
    name: str
    indices: tuple[int, ...]
    opinion: ModelChoice | None = None
    alone: bool = False
    lost: bool = False

    @property
    def file(self) -> Path:
        return self.work.path / _VERDICTS / f"{self.name}.parquet"

    def pieces(self) -> list[AssessJob]:
        """A job for each patch."""
        return [replace(self, name=f"{self.name}-{index}", indices=(index,)) for index in self.indices]

    def retries(self) -> Sequence[AssessJob]:
        """The block alone, its patches alone, then without them; see :mod:`wsiseg.run.isolation`."""
        if not self.alone:
            return (replace(self, alone=True),)
        if len(self.indices) > 1:
            return self.pieces()
        return () if self.lost else (replace(self, lost=True),)


@dataclass(frozen=True)
class GradeJob:
    """A slide whose patches are to be chosen. ``opinion``: who gives second opinions on them."""

    work: WorkFolder
    opinion: ModelChoice
    alone: bool = False

    def retries(self) -> Sequence[GradeJob]:
        return once_alone(self)


@dataclass(frozen=True)
class Grading:
    """What the choice of patches has left: how many there were, what dark means, who judges, how long it took."""

    placed: int
    constants: Constants
    judge: str
    seconds: float


@dataclass(frozen=True)
class Verdicts:
    """The verdicts in the order of the patches, how many patches the slide has, the seconds of all workers."""

    columns: Columns
    placed: int
    seconds: float


def plan_grading(job: GradeJob) -> list[AssessJob]:
    """Choose the patches and what dark means on this slide; the blocks of patches that are still to be assessed."""
    work, judge = job.work, load_judge().version
    planned = work.stage(GRADING, Grading)
    if planned is None or planned.judge != judge or _readable(work.path / _PATCHES) is None:
        started = time.perf_counter()
        with environment_faults(work.path):
            shutil.rmtree(work.path / _VERDICTS, ignore_errors=True)
            (work.path / _VERDICTS).mkdir()
        plan, tissue = read_planned(work)
        with open_planned(work, plan, guarded=job.alone) as slide:
            placed = place_patches(slide.width, slide.height, plan.mpp, tissue)
            patches = placed if plan.specification.get("qc_all") else sample_patches(placed)
            constants = calibrate_slide(slide, patches)
        # Found once: on a large slide each of the many tasks that assess would need half a second for it.
        write_sealed(work.path / _PATCHES, _parquet(patches.columns()))
        work.finish_stage(GRADING, Grading(len(placed), constants, judge, time.perf_counter() - started))
    present = _present(work)
    return [todo for block in _blocks(work, job.opinion) for todo in _missing(block, present)]


def assess(job: AssessJob) -> float:
    """The verdicts on some patches, into the work folder; the seconds it took."""
    started = time.perf_counter()
    work, shared = job.work, _read_shared(job.work)
    if job.lost:
        verdicts = lost_patches(shared.patches, job.indices)
    else:
        nuclei = work.result / "nuclei.parquet"
        with open_planned(work, shared.plan, guarded=job.alone) as slide:
            verdicts = assess_patches(
                slide,
                shared.patches,
                nuclei,
                shared.tissue,
                shared.constants,
                job.indices,
                opinion=resident_segmenter(job.opinion) if job.opinion else None,
                lost=shared.lost,
            )
    seconds = time.perf_counter() - started
    write_sealed(job.file, _parquet(verdicts, seconds))
    return seconds


def gather_verdicts(work: WorkFolder) -> Verdicts:
    """All verdicts, from the files of the blocks.

    Raises
    ------
    SlideError
        One is missing.
    """
    tables, present = [], _present(work)
    for block in _blocks(work):
        found = _committed(block, present)
        if sum(len(table) for table in found) != len(block.indices):
            raise SlideError(f"{work.path} was changed during the run. Run the same command again.")
        tables += found
    planned = work.require_stage(GRADING, Grading)
    seconds = planned.seconds + sum(float((table.schema.metadata or {}).get(_SECONDS, 0.0)) for table in tables)
    if not tables:
        return Verdicts({"reason": np.empty(0, dtype=np.str_), "p_bad": np.empty(0)}, planned.placed, seconds)
    table = pa.concat_tables([table.replace_schema_metadata() for table in tables]).sort_by("index")
    return Verdicts({name: table.column(name).to_numpy() for name in table.column_names}, planned.placed, seconds)


def write_table(path: Path, columns: Columns) -> None:
    """Write columns as Parquet, atomically."""
    write_bytes(path, _parquet(columns))


def _parquet(columns: Columns, seconds: float = 0.0) -> bytes:
    table = as_table(columns)
    return parquet_bytes(table.replace_schema_metadata({_SECONDS: repr(seconds)}) if seconds else table)


@dataclass(frozen=True)
class _Shared:
    """What all jobs of a slide need."""

    plan: SlidePlan
    tissue: Tissue
    patches: Patches
    constants: Constants
    lost: tuple[Box, ...]


def _read_shared(work: WorkFolder) -> _Shared:
    try:
        key = (work, *(identity(work.path / name) for name in (PLAN, f"{STITCH}.json", f"{GRADING}.json")))
    except OSError as error:
        raise SlideError(f"{work.path} was removed during the run. Run the same command again.") from error
    return _SHARED.get(key, lambda: _make_shared(work))


def _make_shared(work: WorkFolder) -> _Shared:
    constants = work.require_stage(GRADING, Grading).constants
    plan, tissue = read_planned(work)
    lost = tuple(Box(*box[:4]) for box in work.require_stage(STITCH, Stitched).lost)
    return _Shared(plan, tissue, _patches(work), constants, lost)


_SHARED: Held[_Shared] = Held(4, 1, lambda shared: 0)


def _patches(work: WorkFolder) -> Patches:
    table = _readable(work.path / _PATCHES)
    if table is None:
        raise SlideError(f"{work.path} was changed during the run. Run the same command again.")
    return Patches(**{name: table.column(name).to_numpy() for name in table.column_names})


def _blocks(work: WorkFolder, opinion: ModelChoice | None = None) -> list[AssessJob]:
    """The patches in square blocks."""
    return [AssessJob(work, f"{n:06d}", tuple(b.tolist()), opinion) for n, b in enumerate(_patches(work).blocks())]


def _present(work: WorkFolder) -> frozenset[str]:
    """Names of the files of verdicts: of one directory listing, however many blocks there are."""
    folder = work.path / _VERDICTS
    return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()


def _missing(block: AssessJob, present: frozenset[str]) -> list[AssessJob]:
    """What of a block has no verdict yet: nothing, all of it, or patches where it was being tried one by one."""
    done = {int(index) for table in _committed(block, present) for index in table.column("index").to_pylist()}
    if not done:
        return [block]
    return [piece for piece in block.pieces() if piece.indices[0] not in done]


def _committed(block: AssessJob, present: frozenset[str]) -> list[pa.Table]:
    """The verdicts on a block, or else on its patches, that are there and intact."""
    for jobs in ([block], block.pieces()):
        found = [_readable(job.file) for job in jobs if job.file.name in present]
        intact = [table for table in found if table is not None]
        if intact:
            return intact
    return []


def _readable(path: Path) -> pa.Table | None:
    """A table of the work folder; None where it is not there or damaged."""
    try:
        return pq.read_table(pa.BufferReader(read_sealed(path)))
    except DamagedFile:
        return None

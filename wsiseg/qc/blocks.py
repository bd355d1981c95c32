"""The patches that a slide is graded by, and jobs over blocks of them; what a job finds is a file of its own.

A stopped run goes on with the blocks, or the patches of a block, that it lacks.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wsiseg.core.columnfile import as_table, parquet_bytes
from wsiseg.core.environment import environment_faults
from wsiseg.core.sealed import read_sealed, write_sealed
from wsiseg.errors import DamagedFile, SlideError
from wsiseg.models.resident import ModelChoice
from wsiseg.qc.agreement import Constants
from wsiseg.qc.check import calibrate_slide
from wsiseg.qc.patches import Patches, place_patches, sample_patches
from wsiseg.results.folder import WorkFolder
from wsiseg.results.job import once_alone
from wsiseg.results.planned import open_planned, read_planned
from wsiseg.results.stages import PATCHES

OPINIONS, VERDICTS = "opinions", "verdicts"
"""Folders of what is found of the patches: by a second opinion, and by the judge."""

_PATCHES = "patches.parquet"
_INDEX, _SECONDS = "index", b"seconds"


@dataclass(frozen=True)
class GradeJob:
    """A slide that is to be graded. ``opinion``: who gives second opinions on its nuclei."""

    work: WorkFolder
    opinion: ModelChoice
    alone: bool = False

    def retries(self) -> Sequence[GradeJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


@dataclass(frozen=True)
class BlockJob:
    """Patches that something is found out about, by their numbers.

    ``folder``: where in the work folder it is kept. ``name`` tells the tasks of a slide apart. ``opinion``: who
    gives second opinions. ``bottom``: the lower edge of the lowest patch, in level-0 pixels. ``alone``: a worker
    died of the block. ``lost``: its patches are given up.
    """

    work: WorkFolder
    folder: str
    name: str
    indices: tuple[int, ...]
    bottom: float
    opinion: ModelChoice | None = None
    alone: bool = False
    lost: bool = False

    @property
    def file(self) -> Path:
        return self.work.path / self.folder / f"{self.name}.parquet"

    def pieces(self) -> list[BlockJob]:
        """A job for each patch."""
        return [replace(self, name=f"{self.name}-{index}", indices=(index,)) for index in self.indices]

    def retries(self) -> Sequence[BlockJob]:
        """The block alone, its patches alone, then without them; see :mod:`wsiseg.run.isolation`."""
        if not self.alone:
            return (replace(self, alone=True),)
        if len(self.indices) > 1:
            return self.pieces()
        return () if self.lost else (replace(self, lost=True),)


@dataclass(frozen=True)
class Chosen:
    """What the choice of patches has left: how many there were, what dark means, how long it took."""

    placed: int
    constants: Constants
    seconds: float


def choose_patches(job: GradeJob) -> Chosen:
    """Choose the patches and what dark means on this slide, unless that is done: it takes no nuclei."""
    work = job.work
    chosen = work.stage(PATCHES, Chosen)
    if chosen is not None and _readable(work.path / _PATCHES) is not None:
        return chosen
    started = time.perf_counter()
    plan, tissue = read_planned(work)
    with open_planned(work, plan, guarded=job.alone) as slide:
        placed = place_patches(slide.width, slide.height, plan.mpp, tissue)
        patches = placed if plan.specification.get("qc_all") else sample_patches(placed)
        constants = calibrate_slide(slide, patches)
    # Found once: on a large slide each of the many tasks that assess would need half a second for it.
    write_sealed(work.path / _PATCHES, parquet_bytes(as_table(patches.columns())))
    begin_blocks(work, OPINIONS)  # those on other patches are of no use
    chosen = Chosen(len(placed), constants, time.perf_counter() - started)
    work.finish_stage(PATCHES, chosen)
    return chosen


def chosen_patches(work: WorkFolder) -> Patches:
    """The patches of :func:`choose_patches`.

    Raises
    ------
    SlideError
        They are gone.
    """
    table = _readable(work.path / _PATCHES)
    if table is None:
        raise SlideError(f"{work.path} was changed during the run. Run the same command again.")
    return Patches(**{name: table.column(name).to_numpy() for name in table.column_names})


def begin_blocks(work: WorkFolder, folder: str) -> None:
    """An empty folder for what is found of blocks."""
    with environment_faults(work.path):
        shutil.rmtree(work.path / folder, ignore_errors=True)
        (work.path / folder).mkdir()


def missing_blocks(job: GradeJob, folder: str) -> list[BlockJob]:
    """The blocks of the chosen patches of which nothing is kept yet; patches of those that are tried one by one."""
    present = _present(job.work, folder)
    return [todo for block in _blocks(job.work, folder, job.opinion) for todo in _missing(block, present)]


def write_block(job: BlockJob, table: pa.Table, seconds: float) -> None:
    """Keep what was found of a job's patches: a row for each, its number as ``index``."""
    write_sealed(job.file, parquet_bytes(table.replace_schema_metadata({_SECONDS: repr(seconds)})))


def read_blocks(work: WorkFolder, folder: str, columns: Sequence[str] | None = None) -> list[pa.Table]:
    """What is kept of all blocks, or some columns of it.

    Raises
    ------
    SlideError
        Something is missing.
    """
    present = _present(work, folder)
    return [table for block in _blocks(work, folder) for table in _whole(block, present, columns)]


def read_block(job: BlockJob, folder: str) -> list[pa.Table]:
    """What another folder keeps of a job's patches, perhaps with that of others.

    Raises
    ------
    SlideError
        Something is missing.
    """
    of_block = replace(job, folder=folder, name=job.name.partition("-")[0])
    return _whole(of_block, _present(job.work, folder))


def read_patch(work: WorkFolder, folder: str, index: int) -> list[pa.Table]:
    """As :func:`read_block`, of one patch by its number."""
    (block,) = (block for block in _blocks(work, folder) if index in block.indices)
    return read_block(replace(block, indices=(index,)), folder)


def seconds_of(tables: Sequence[pa.Table]) -> float:
    """What these tables took to make, all workers together."""
    return sum(float((table.schema.metadata or {}).get(_SECONDS, 0.0)) for table in tables)


def _blocks(work: WorkFolder, folder: str, opinion: ModelChoice | None = None) -> list[BlockJob]:
    """The patches in square blocks."""
    patches = chosen_patches(work)
    bottoms = patches.y + patches.height
    return [
        BlockJob(work, folder, f"{n:06d}", tuple(block.tolist()), float(bottoms[block].max()), opinion)
        for n, block in enumerate(patches.blocks())
    ]


def _present(work: WorkFolder, folder: str) -> frozenset[str]:
    """Names of the files in a folder: of one directory listing, however many blocks there are."""
    path = work.path / folder
    return frozenset(os.listdir(path)) if path.is_dir() else frozenset()


def _missing(block: BlockJob, present: frozenset[str]) -> list[BlockJob]:
    """What of a block is not kept yet: nothing, all of it, or patches where it was being tried one by one."""
    done = _numbers(_committed(block, present, [_INDEX]))
    if not done:
        return [block]
    return [piece for piece in block.pieces() if piece.indices[0] not in done]


def _whole(block: BlockJob, present: frozenset[str], columns: Sequence[str] | None = None) -> list[pa.Table]:
    found = _committed(block, present, columns)
    if not _numbers(found).issuperset(block.indices):
        raise SlideError(f"{block.work.path} was changed during the run. Run the same command again.")
    return found


def _numbers(tables: Sequence[pa.Table]) -> set[int]:
    return {int(index) for table in tables for index in table.column(_INDEX).to_pylist()}


def _committed(block: BlockJob, present: frozenset[str], columns: Sequence[str] | None) -> list[pa.Table]:
    """What is kept of a block, or else of its patches, and is intact."""
    for jobs in ([block], block.pieces()):
        found = [_readable(job.file, columns) for job in jobs if job.file.name in present]
        intact = [table for table in found if table is not None]
        if intact:
            return intact
    return []


def _readable(path: Path, columns: Sequence[str] | None = None) -> pa.Table | None:
    """A table of the work folder; None where it is not there or damaged."""
    try:
        return pq.read_table(pa.BufferReader(read_sealed(path)), columns=columns)
    except DamagedFile:
        return None

"""The tasks that judge a slide's patches block by block, once there are opinions and, around them, nuclei.

They read and write the slide's work folder and may run twice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wsiseg.core.atomic import write_bytes
from wsiseg.core.columnfile import as_table, parquet_bytes
from wsiseg.core.geometry import Box
from wsiseg.errors import SlideError
from wsiseg.qc.agreement import Constants
from wsiseg.qc.blocks import (
    VERDICTS,
    BlockJob,
    Chosen,
    GradeJob,
    begin_blocks,
    chosen_patches,
    missing_blocks,
    read_blocks,
    seconds_of,
    write_block,
)
from wsiseg.qc.check import assess_patches, lost_patches
from wsiseg.qc.judge import load_judge
from wsiseg.qc.opinions import asking_seconds, opinions_on
from wsiseg.qc.patches import Patches
from wsiseg.results.folder import WorkFolder
from wsiseg.results.found import read_found, read_lost
from wsiseg.results.plan import PLAN, SlidePlan
from wsiseg.results.planned import open_planned, read_planned
from wsiseg.results.stages import GRADING, PATCHES
from wsiseg.slide.held import Held, identity
from wsiseg.tissue import Tissue

Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Grading:
    """What the beginning of a grading has left: who judges."""

    judge: str


@dataclass(frozen=True)
class Verdicts:
    """The verdicts in the order of the patches, how many patches the slide has, the seconds of all workers."""

    columns: Columns
    placed: int
    seconds: float


def plan_grading(job: GradeJob) -> list[BlockJob]:
    """The blocks of patches that are still to be assessed; verdicts of another judge are dropped."""
    work, begun = job.work, Grading(load_judge().version)
    if work.stage(GRADING, Grading) != begun:
        begin_blocks(work, VERDICTS)
        work.finish_stage(GRADING, begun)
    return missing_blocks(job, VERDICTS)


def assess(job: BlockJob) -> None:
    """The verdicts on some patches, into the work folder."""
    started = time.perf_counter()
    work, shared = job.work, _read_shared(job.work)
    if job.lost:
        verdicts = lost_patches(shared.patches, job.indices)
    else:
        opinions = opinions_on(job)
        with open_planned(work, shared.plan, guarded=job.alone) as slide:
            verdicts = assess_patches(
                slide,
                shared.patches,
                partial(read_found, work),
                shared.tissue,
                shared.constants,
                job.indices,
                opinions=opinions,
                lost=tuple(Box(*box[:4]) for box in read_lost(work)),
            )
    write_block(job, as_table(verdicts), time.perf_counter() - started)


def gather_verdicts(work: WorkFolder) -> Verdicts:
    """All verdicts, from the files of the blocks.

    Raises
    ------
    SlideError
        One is missing.
    """
    tables, chosen = read_blocks(work, VERDICTS), work.require_stage(PATCHES, Chosen)
    seconds = chosen.seconds + asking_seconds(work) + seconds_of(tables)
    if not tables:
        return Verdicts({"reason": np.empty(0, dtype=np.str_), "p_bad": np.empty(0)}, chosen.placed, seconds)
    table = pa.concat_tables([table.replace_schema_metadata() for table in tables]).sort_by("index")
    return Verdicts({name: table.column(name).to_numpy() for name in table.column_names}, chosen.placed, seconds)


def write_table(path: Path, columns: Columns) -> None:
    """Write columns as Parquet, atomically."""
    write_bytes(path, parquet_bytes(as_table(columns)))


@dataclass(frozen=True)
class _Shared:
    """What all jobs of a slide need."""

    plan: SlidePlan
    tissue: Tissue
    patches: Patches
    constants: Constants


def _read_shared(work: WorkFolder) -> _Shared:
    try:
        key = (work, *(identity(work.path / name) for name in (PLAN, f"{PATCHES}.json")))
    except OSError as error:
        raise SlideError(f"{work.path} was removed during the run. Run the same command again.") from error
    return _SHARED.get(key, lambda: _make_shared(work))


def _make_shared(work: WorkFolder) -> _Shared:
    constants = work.require_stage(PATCHES, Chosen).constants
    plan, tissue = read_planned(work)
    return _Shared(plan, tissue, chosen_patches(work), constants)


_SHARED: Held[_Shared] = Held(4, 1, lambda shared: 0)

"""A batch: consecutive tiles of a slide as one task, and the part file that it leaves, nuclei or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.typed import as_plain
from wsiseg.errors import DamagedFile
from wsiseg.models.resident import ModelChoice
from wsiseg.results.folder import WorkFolder
from wsiseg.results.job import LOST_CAUSE, once_alone
from wsiseg.results.partfile import BatchSummary, check_part, covering_parts, part_summary, write_part
from wsiseg.results.plan import SlidePlan, require_plan
from wsiseg.results.record import LostBox
from wsiseg.tiles.measure import MEASUREMENTS

_RESUMED_BATCHES = 64
"""Batches of an earlier run that one task reads again."""


@dataclass(frozen=True)
class BatchJob:
    """Tiles for one task.

    ``threads``: of them share a large network's windows, where cores would be idle beside it. ``alone``: a batch
    whose worker died, or one tile of it, to be tried while nothing else runs. ``lost``: why its
    tiles are given up; nothing is computed any more.
    """

    work: WorkFolder
    tiles: tuple[int, ...]
    choice: ModelChoice
    threads: int = 1
    alone: bool = False
    lost: str = ""

    def retries(self) -> Sequence[BatchJob]:
        """The batch alone, its tiles alone, then without them; see :mod:`wsiseg.run.isolation`."""
        if not self.alone:
            return (replace(self, alone=True),)
        if len(self.tiles) > 1:
            return [replace(self, tiles=(tile,)) for tile in self.tiles]
        return () if self.lost else (replace(self, lost=LOST_CAUSE),)


def give_up(job: BatchJob) -> BatchSummary:
    """Commit a part that says that its tiles could not be computed, and why.

    Raises
    ------
    SlideError
        The work folder is gone.
    """
    work = job.work
    plan = require_plan(work)
    boxes = [plan.scale.box(plan.grid.core(tile)) for tile in job.tiles]
    lost = tuple(LostBox(box.x0, box.y0, box.x1, box.y1, job.lost) for box in boxes)
    summary = BatchSummary(job.tiles, 0, tuple((tile, job.lost) for tile in job.tiles), lost)
    write_part(work.part(job.tiles[0], job.tiles[-1]), empty_candidates(plan.types), as_plain(summary))
    return summary


@dataclass(frozen=True)
class ResumeJob:
    """Batches of a slide that an earlier run may have committed. ``alone``: a worker died of them."""

    work: WorkFolder
    batches: tuple[tuple[int, ...], ...]
    alone: bool = False

    def retries(self) -> Sequence[ResumeJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


@dataclass(frozen=True)
class Resumed:
    """What an earlier run has left: the summaries of whole parts, and how many damaged ones were removed."""

    summaries: tuple[BatchSummary, ...]
    damaged: int


def resume_batches(job: ResumeJob) -> Resumed:
    """Read the parts of some batches; one that is not as it was written is removed, to be computed again."""
    summaries, damaged = [], 0
    for tiles in job.batches:
        for part in covering_parts(job.work, tiles):
            try:
                check_part(job.work.part(part[0], part[-1]))
                summaries.append(part_summary(job.work, part))
            except DamagedFile:
                damaged += 1
                job.work.part(part[0], part[-1]).unlink(missing_ok=True)
    return Resumed(tuple(summaries), damaged)


def empty_candidates(types: Sequence[str] = ()) -> Nuclei:
    """No candidates, with the columns that every part has of a model with these types of nuclei."""
    columns: dict[str, npt.NDArray[np.generic]] = {"score": np.empty(0, np.float32)}
    if types:
        columns.update(type=np.empty(0, np.int16), type_prob=np.empty(0, np.float32))
    columns.update({name: np.empty(0, np.float32) for name in MEASUREMENTS})
    columns.update(tile=np.empty(0, np.int64), owned=np.empty(0, bool), seam=np.empty(0, bool))
    return Nuclei.empty(columns)


def resume_jobs(work: WorkFolder, plan: SlidePlan) -> list[ResumeJob]:
    """Jobs for all batches of a slide."""
    batches = plan.batches
    return [
        ResumeJob(work, tuple(batches[first : first + _RESUMED_BATCHES]))
        for first in range(0, len(batches), _RESUMED_BATCHES)
    ]


def missing_batches(
    work: WorkFolder, plan: SlidePlan, choice: ModelChoice, cores: int, done: set[int]
) -> list[BatchJob]:
    """What is still to compute where the tiles ``done`` are; batches of which there are few share the ``cores``."""
    threads = max(1, cores // max(1, len(plan.batches)))
    missing: list[BatchJob] = []
    for tiles in plan.batches:
        left = [tile for tile in tiles if tile not in done]
        if len(left) == len(tiles):
            missing.append(BatchJob(work, tiles, choice, threads))
        else:  # the batch was being tried tile by tile
            missing += [BatchJob(work, (tile,), choice, threads) for tile in left]
    return missing

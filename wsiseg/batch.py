"""A batch: consecutive tiles of a slide as one task, and the part file that it leaves, nuclei or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.errors import DamagedFile
from wsiseg.isolation import LOST_CAUSE
from wsiseg.measure import MEASUREMENTS
from wsiseg.models.resident import ModelChoice
from wsiseg.nuclei import Nuclei
from wsiseg.plan import require_plan
from wsiseg.stitch import check_part, read_part_summary, write_part
from wsiseg.store import WorkFolder


@dataclass(frozen=True)
class BatchJob:
    """Tiles for one task.

    ``alone``: a batch whose worker died, or one tile of it, to be tried while nothing else runs. ``lost``: why its
    tiles are given up; nothing is computed any more.
    """

    work: WorkFolder
    tiles: tuple[int, ...]
    choice: ModelChoice
    alone: bool = False
    lost: str = ""

    def retries(self) -> Sequence[BatchJob]:
        """The batch alone, its tiles alone, then without them; see :mod:`wsiseg.isolation`."""
        if not self.alone:
            return (replace(self, alone=True),)
        if len(self.tiles) > 1:
            return [replace(self, tiles=(tile,)) for tile in self.tiles]
        return () if self.lost else (replace(self, lost=LOST_CAUSE),)


@dataclass(frozen=True)
class BatchSummary:
    """What a task returns: small, whatever the number of nuclei."""

    tiles: tuple[int, ...]
    nuclei: int
    failed: tuple[tuple[int, str], ...] = ()
    lost: tuple[tuple[float, float, float, float, str], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> BatchSummary:
        return cls(
            tuple(value["tiles"]),
            value["nuclei"],
            tuple((int(tile), str(cause)) for tile, cause in value["failed"]),
            tuple((float(x0), float(y0), float(x1), float(y1), str(c)) for x0, y0, x1, y1, c in value["lost"]),
            dict(value["seconds"]),
        )


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
    lost = tuple((box.x0, box.y0, box.x1, box.y1, job.lost) for box in boxes)
    summary = BatchSummary(job.tiles, 0, tuple((tile, job.lost) for tile in job.tiles), lost)
    write_part(work.part(job.tiles[0], job.tiles[-1]), empty_candidates(plan.types), summary.to_dict())
    return summary


def covering_parts(work: WorkFolder, tiles: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The committed parts of a batch: the batch itself, or its tiles one by one where it had to be split."""
    if work.part(tiles[0], tiles[-1]).exists():
        return [tiles]
    return [(tile,) for tile in tiles if work.part(tile, tile).exists()]


def part_summary(work: WorkFolder, tiles: tuple[int, ...]) -> BatchSummary:
    """The summary of a committed part."""
    return BatchSummary.from_dict(read_part_summary(work.part(tiles[0], tiles[-1])))


@dataclass(frozen=True)
class ResumeJob:
    """Batches of a slide that an earlier run may have committed. ``alone``: a worker died of them."""

    work: WorkFolder
    batches: tuple[tuple[int, ...], ...]
    alone: bool = False

    def retries(self) -> Sequence[ResumeJob]:
        """See :mod:`wsiseg.isolation`."""
        return () if self.alone else (replace(self, alone=True),)


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

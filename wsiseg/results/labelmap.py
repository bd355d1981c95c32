"""The tasks that draw a slide's label map: shard by shard, then its pyramid and masks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

from wsiseg.core.environment import environment_faults
from wsiseg.core.geometry import Window
from wsiseg.results import maps
from wsiseg.results.artefactfile import ARTEFACT_MAP, load_artefacts
from wsiseg.results.folder import WorkFolder
from wsiseg.results.job import WorkJob, once_alone
from wsiseg.results.plan import require_plan
from wsiseg.results.planned import read_planned
from wsiseg.results.stages import LABELS, MAPS, STITCH, PlannedLabels, Stitched, Timed

_DRAWN = "drawn"
"""The folder in the work folder that notes which shards of the label map are whole."""


@dataclass(frozen=True)
class LabelJob:
    """One shard of the label map; ``name`` tells the tasks of a slide apart. ``alone``: a worker died of it."""

    work: WorkFolder
    name: str
    shard: maps.LabelShard
    alone: bool = False

    def retries(self) -> Sequence[LabelJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


def plan_labels(job: WorkJob) -> list[LabelJob]:
    """The shards of the label map that hold nuclei and are still to be drawn; makes the empty map."""
    work = job.work
    found = work.stage(LABELS, PlannedLabels)
    if found is None:
        started = time.perf_counter()
        plan, nuclei = require_plan(work), work.result / "nuclei.parquet"
        with environment_faults(work.path):
            shutil.rmtree(work.path / _DRAWN, ignore_errors=True)
            (work.path / _DRAWN).mkdir()
        size = (plan.grid.width, plan.grid.height)
        shards = maps.plan_labels(work.result / "maps.zarr", nuclei, size, plan.scale, plan.mpp)
        windows = tuple((w.x, w.y, w.width, w.height) for w in (shard.window for shard in shards))
        found = PlannedLabels(plan.downsample, windows, time.perf_counter() - started)
        work.finish_stage(LABELS, found)
    return [job for job in _label_jobs(work, found) if work.stage(job.name, Timed) is None]


def draw_labels(job: LabelJob) -> maps.ShardSummary:
    """Draw a shard of the label map, and note that it is whole and how long it took."""
    started = time.perf_counter()
    summary = maps.write_label_shard(job.shard)
    job.work.finish_stage(job.name, Timed(time.perf_counter() - started))
    return summary


def write_label_pyramid(job: WorkJob) -> float:
    """The label map's coarser levels, tissue, lost area and artefacts; the seconds that the whole map has taken."""
    work = job.work
    finished = work.stage(MAPS, Timed)
    if finished is not None:
        return finished.seconds
    planned_labels = work.require_stage(LABELS, PlannedLabels)
    started = time.perf_counter()
    plan, tissue = read_planned(work)
    path = work.result / "maps.zarr"
    maps.write_label_levels(path)
    maps.write_masks(path, tissue.core, tissue.scale, plan.mpp, work.require_stage(STITCH, Stitched).lost)
    maps.write_artefacts(path, load_artefacts(work.path / ARTEFACT_MAP), plan.mpp)
    drawn = (work.stage(job.name, Timed) for job in _label_jobs(work, planned_labels))
    seconds = planned_labels.seconds + sum(shard.seconds for shard in drawn if shard is not None)
    seconds += time.perf_counter() - started
    work.finish_stage(MAPS, Timed(seconds))
    return seconds


def _label_jobs(work: WorkFolder, planned: PlannedLabels) -> list[LabelJob]:
    paths = str(work.result / "maps.zarr"), str(work.result / "nuclei.parquet")
    return [
        LabelJob(work, f"{_DRAWN}/{n:06d}", maps.LabelShard(*paths, planned.downsample, Window(*window)))
        for n, window in enumerate(planned.windows)
    ]

"""The tasks that draw a slide's label map: shard by shard, then its pyramid and masks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wsiseg.core.environment import environment_faults
from wsiseg.core.geometry import Box, Window
from wsiseg.results import maps
from wsiseg.results.artefactfile import ARTEFACT_MAP, load_artefacts
from wsiseg.results.folder import WorkFolder
from wsiseg.results.found import nuclei_path, read_found
from wsiseg.results.job import WorkJob, once_alone
from wsiseg.results.nuclei import read_row_groups_bounds
from wsiseg.results.plan import SlidePlan, require_plan
from wsiseg.results.planned import read_planned
from wsiseg.results.stages import LABELS, MAPS, STITCH, Stitched, Timed

_DRAWN = "drawn"
"""The folder in the work folder that notes which shards of the label map are whole."""


@dataclass(frozen=True)
class LabelJob:
    """One shard of the label map.

    Attributes
    ----------
    work : WorkFolder
    window : tuple of int
        Its x, y, width and height on the lattice.
    bottom : float
        Its lower edge in level-0 pixels: it can be drawn once all nuclei above that are stitched.
    alone : bool
        Whether a worker died of it.
    """

    work: WorkFolder
    window: tuple[int, int, int, int]
    bottom: float
    alone: bool = False

    @property
    def name(self) -> str:
        """Under which it is noted that the shard is whole."""
        x, y, *_ = self.window
        return f"{_DRAWN}/{x:08d}-{y:08d}"

    def retries(self) -> Sequence[LabelJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


def plan_labels(job: WorkJob) -> list[LabelJob]:
    """The shards of the label map that may hold nuclei and are still to be drawn; makes the empty map."""
    work, plan = job.work, require_plan(job.work)
    size = (plan.grid.width, plan.grid.height)
    if work.stage(LABELS, Timed) is None:
        started = time.perf_counter()
        with environment_faults(work.path):
            shutil.rmtree(work.path / _DRAWN, ignore_errors=True)
            (work.path / _DRAWN).mkdir()
        maps.create_labels(work.result / "maps.zarr", size, plan.scale, plan.mpp)
        work.finish_stage(LABELS, Timed(time.perf_counter() - started))
    windows = maps.shard_windows(size, _areas(work, plan))
    jobs = [LabelJob(work, (w.x, w.y, w.width, w.height), w.y1 * plan.downsample) for w in windows]
    return [job for job in jobs if work.stage(job.name, Timed) is None]


def draw_labels(job: LabelJob) -> maps.ShardSummary:
    """Draw a shard of the label map, and note that it is whole and how long it took."""
    started = time.perf_counter()
    work, window = job.work, Window(*job.window)
    plan, _ = read_planned(work)
    nuclei = read_found(work, plan.scale.box(window), ["id"])
    summary = maps.write_label_shard(work.result / "maps.zarr", window, plan.scale, nuclei)
    work.finish_stage(job.name, Timed(time.perf_counter() - started))
    return summary


def write_label_pyramid(job: WorkJob) -> float:
    """The label map's coarser levels, tissue, lost area and artefacts; the seconds that the whole map has taken."""
    work = job.work
    finished = work.stage(MAPS, Timed)
    if finished is not None:
        return finished.seconds
    planning = work.require_stage(LABELS, Timed)
    started = time.perf_counter()
    plan, tissue = read_planned(work)
    path = work.result / "maps.zarr"
    maps.write_label_levels(path)
    maps.write_masks(path, tissue.core, tissue.scale, plan.mpp, work.require_stage(STITCH, Stitched).lost)
    maps.write_artefacts(path, load_artefacts(work.path / ARTEFACT_MAP), plan.mpp)
    names = (f"{_DRAWN}/{path.stem}" for path in sorted((work.path / _DRAWN).glob("*.json")))
    drawn = (work.stage(name, Timed) for name in names)
    seconds = planning.seconds + sum(shard.seconds for shard in drawn if shard is not None)
    seconds += time.perf_counter() - started
    work.finish_stage(MAPS, Timed(seconds))
    return seconds


def _areas(work: WorkFolder, plan: SlidePlan) -> Iterator[Window]:
    """Where on the lattice nuclei are, or, while they are still being found, may be."""
    if work.stage(STITCH, Stitched) is None:
        yield from map(plan.grid.read, plan.tiles)
        return
    whole = Box(0.0, 0.0, plan.grid.width * plan.downsample, plan.grid.height * plan.downsample)
    for bounds in read_row_groups_bounds(nuclei_path(work)).tolist():
        yield plan.scale.window(Box(*bounds).intersection(whole))

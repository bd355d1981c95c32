"""One slide from its file to its record: the stages in their order, and what is resumed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wsiseg.core.environment import environment_fault
from wsiseg.errors import EnvironmentFault, ModelError, SlideError, UsageError, WorkerDied, WsisegError
from wsiseg.interop.importing import (
    ImportJob,
    ImportOptions,
    Sorted,
    SortJob,
    join_outlines,
    measure_jobs,
    measure_outlines,
    plan_import,
    sort_outlines,
)
from wsiseg.interop.segmentation import Segmentation
from wsiseg.models.resident import ModelChoice
from wsiseg.qc.artefacts import find_block, join_blocks, plan_artefacts
from wsiseg.qc.blocks import GradeJob
from wsiseg.qc.looks import look_at_place, plan_looks
from wsiseg.qc.opinion import opinion_choice
from wsiseg.qc.opinions import ask_opinions, plan_opinions
from wsiseg.qc.stage import assess, plan_grading
from wsiseg.results.describe import failure_record
from wsiseg.results.folder import SlideFolder
from wsiseg.results.job import WorkJob
from wsiseg.results.labelmap import draw_labels, plan_labels, write_label_pyramid
from wsiseg.results.moved import Moved
from wsiseg.results.partfile import BatchSummary
from wsiseg.results.plan import SlidePlan
from wsiseg.results.record import FailedRecord, SegmentedRecord, SlideRecord
from wsiseg.results.reuse import Planned
from wsiseg.run.events import Begun, Listener, Note, SlideEnded, StageStarted, TilesDone, Unchanged
from wsiseg.run.examples import draw_one_example, plan_examples
from wsiseg.run.front import Front
from wsiseg.run.isolation import Job, isolated
from wsiseg.run.pictures import draw_artefacts, draw_thumbnail, take_overview
from wsiseg.run.publish import Pace, publish_job, publish_slide, published_record
from wsiseg.run.schedule import Fork, Stage, Steps
from wsiseg.stitch.stage import RowJob, finish_stitching, plan_stitching, stitch_row
from wsiseg.tiles.batch import Resumed, missing_batches, resume_batches, resume_jobs
from wsiseg.tiles.outside import OutsideJob, check_outside
from wsiseg.tiles.plan import PlanJob, named, plan_or_reuse
from wsiseg.tiles.request import SlideRequest
from wsiseg.tiles.work import load_early, segment_batch


@dataclass(frozen=True)
class _Telling:
    """Tells of each stage of a slide that it begins."""

    name: str
    on_event: Listener

    def begun(self, stage: Stage) -> Stage:
        """The stage, of which it is told."""
        self.on_event(StageStarted(self.name, stage.name))
        return stage

    def one(self, name: str, function: Callable[[Any], Any], job: Job) -> Steps:
        """A stage of one task: what it returns."""
        (result,) = yield self.begun(isolated(name, function, [job], urgent=True))
        return result

    def planned(
        self,
        plan: tuple[str, Callable[[Any], Any]],
        stage: tuple[str, Callable[[Any], Any]],
        job: Job,
        ready: Callable[[Any], bool] | None = None,
    ) -> Steps:
        """A stage whose jobs are found by a task, and that task before it."""
        jobs = yield from self.one(*plan, job)
        yield self.begun(isolated(*stage, jobs, ready=ready))


@dataclass(frozen=True)
class Making:
    """How a slide's nuclei come about.

    Attributes
    ----------
    path : Path
        The slide.
    plan : callable
        The task that plans it, or finds its result.
    job : PlanJob or ImportJob
        That task's.
    nuclei : callable
        The steps from there to ``nuclei.parquet``, and what needs none of it beside them; they return what became
        of the tiles.
    opinion : ModelChoice
        Who gives second opinions on the nuclei.
    """

    path: Path
    plan: Callable[[Any], Planned]
    job: PlanJob | ImportJob
    nuclei: Callable[[Planned, _Telling, GradeJob], Steps]
    opinion: ModelChoice


def segmenting(request: SlideRequest, folder: SlideFolder, moved: Moved, cores: int = 1) -> Making:
    """The nuclei that a segmenter finds, on so many cores if they are on one machine."""
    job = PlanJob(folder, request, moved.candidates(request.path, folder))
    opinion = opinion_choice(request.choice.device, request.choice.threads)
    return Making(request.path, plan_or_reuse, job, partial(_segment, choice=request.choice, cores=cores), opinion)


def importing(
    path: Path,
    segmentation: Segmentation,
    options: ImportOptions,
    folder: SlideFolder,
    moved: Moved,
    opinion: ModelChoice,
) -> Making:
    """The nuclei that another program has found."""
    job = ImportJob(folder, path, segmentation, options, moved.candidates(path, folder))
    return Making(path, plan_import, job, partial(_import, segmentation=segmentation), opinion)


def loading(choice: ModelChoice, workers: int) -> Steps:
    """Idle workers load the segmenter while another plans the first slide; a fault is that one's to tell."""
    with contextlib.suppress(Exception):
        yield Stage("load-model", load_early, [choice] * workers)


def slide_steps(
    making: Making,
    moved: Moved,
    on_event: Listener,
    device_busy: Callable[[float], float | None],
) -> Steps:
    """One slide from start to record; its own failures end here, the environment's and the user's go on up.

    ``device_busy``: of the executor.
    """
    record: SlideRecord
    planned: Planned | None = None
    folder = making.job.folder
    try:
        planned = yield from _plan(making, moved, on_event)
        folder = planned.folder
        record = yield from _make(making, planned, on_event, device_busy)
    except (EnvironmentFault, ModelError, UsageError):
        raise
    except WsisegError as error:
        record = _failed(making.path, folder, error)
    except Exception as error:  # a fault of ours in one slide must not cost the others
        fault = environment_fault(error, folder.work)
        if fault is not None:
            raise fault from error
        record = _failed(making.path, folder, error)
    on_event(SlideEnded(folder.id, record))
    said = planned.plan.notes if planned and planned.plan else ()
    for text in record.notes or ():
        if text not in said:
            on_event(Note(folder.id, text))
    return record


def _plan(making: Making, moved: Moved, on_event: Listener) -> Generator[Stage | Fork, Any, Planned]:
    job = making.job
    telling = _Telling(job.folder.id, on_event)
    planned: Planned = yield from telling.one("plan-slide", making.plan, job)
    if planned.folder != job.folder and not moved.take(planned.folder):
        # Another slide with the same content was there first: this one is a copy.
        planned = yield from telling.one("plan-slide", making.plan, replace(job, moved=()))
    for text in (*planned.notes, *(planned.plan.notes if planned.plan else ())):
        on_event(Note(planned.folder.id, text))
    return planned


def _make(
    making: Making, planned: Planned, on_event: Listener, device_busy: Callable[[float], float | None]
) -> Steps:
    """The steps of a planned slide, and its record."""
    if planned.plan is None:
        on_event(Unchanged(planned.folder.id))
        return planned.unchanged
    started, telling, whole = time.perf_counter(), _Telling(planned.folder.id, on_event), WorkJob(planned.work)
    grading = GradeJob(planned.work, making.opinion)
    tiled = yield from making.nuclei(planned, telling, grading)
    yield Fork(
        [
            _looked_at(telling, grading),
            telling.one("label-pyramid", write_label_pyramid, whole),
            telling.one("draw-thumbnail", draw_thumbnail, whole),
        ]
    )
    pace = Pace(tiled.ended - started, tiled.computed, device_busy(started))
    return (yield from _publish(planned, time.perf_counter() - started, pace, telling))


@dataclass(frozen=True)
class _Tiled:
    """The tiles that failed and why, how many this run has computed, and when the last one ended."""

    failed: list[tuple[int, str]]
    computed: int
    ended: float


def _segment(planned: Planned, telling: _Telling, grading: GradeJob, choice: ModelChoice, cores: int) -> Steps:
    """From the plan to ``nuclei.parquet`` by a segmenter, and what is made of the nuclei as they come."""
    plan, work, whole = planned.plan, planned.work, WorkJob(planned.work)
    assert plan is not None
    choice, front = named(choice, plan), Front(plan.tiles)
    stage = ("segment-batch", segment_batch, partial(missing_batches, work, plan, choice, cores))
    rows = yield from _rows(telling, whole, front)
    tiled, *_ = yield Fork(
        [
            _tiles(planned, telling, front, len(plan.tiles), stage),
            _stitched(telling, whole, front, rows, ("stitch-slide", finish_stitching)),
            _judged(telling, grading, front),
            _labels(telling, whole, front),
            telling.one("check-outside", check_outside, OutsideJob(work, choice)),
        ]
    )
    if tiled.failed and len(tiled.failed) == len(plan.tiles):
        planned.folder.clean()
        raise SlideError(f"none of its {len(tiled.failed)} tiles could be computed: {tiled.failed[0][1]}")
    return tiled


def _import(planned: Planned, telling: _Telling, grading: GradeJob, segmentation: Segmentation) -> Steps:
    """From the plan to ``nuclei.parquet`` by what another program has found, and what is made of the nuclei."""
    plan, work, whole = planned.plan, planned.work, WorkJob(planned.work)
    assert plan is not None
    found: Sorted = yield from telling.one("sort-outlines", sort_outlines, SortJob(work, segmentation))
    stage = ("measure-batch", measure_outlines, partial(measure_jobs, work, plan, found))
    front = Front(found.tiles)
    rows = yield from _rows(telling, whole, front)
    tiled, *_ = yield Fork(
        [
            _tiles(planned, telling, front, len(found.tiles), stage),
            _stitched(telling, whole, front, rows, ("join-outlines", join_outlines)),
            _asked(telling, grading),
        ]
    )
    # Another program's outlines may reach beyond all that their tiles read: only the last row completes any place.
    yield Fork([_judged(telling, grading, front), _labels(telling, whole, front)])
    return tiled


def _rows(telling: _Telling, whole: WorkJob, front: Front) -> Generator[Stage | Fork, Any, Sequence[RowJob]]:
    """The rows of tiles that are to be stitched; what is kept of an earlier stitching's nuclei is theirs."""
    rows: Sequence[RowJob] = yield from telling.one("plan-stitching", plan_stitching, whole)
    front.stitches(rows)
    return rows


def _stitched(
    telling: _Telling,
    whole: WorkJob,
    front: Front,
    rows: Sequence[RowJob],
    finish: tuple[str, Callable[[Any], Any]],
) -> Steps:
    """The nuclei row by row as their tiles end, once it is known which of them lie on artefacts."""
    yield Fork([_artefacts(telling, whole), telling.one("take-overview", take_overview, whole)])
    stage = isolated("stitch-row", stitch_row, rows, front.stitched, front.has_tiles, urgent=True)
    yield Fork([telling.one("draw-artefacts", draw_artefacts, whole), _steps(telling.begun(stage))])
    yield from telling.one(*finish, whole)


def _steps(stage: Stage) -> Steps:
    """A stage as steps of its own."""
    yield stage


def _asked(telling: _Telling, grading: GradeJob) -> Steps:
    """Second opinions on patches, which take no nuclei."""
    yield from telling.planned(("plan-opinions", plan_opinions), ("ask-opinions", ask_opinions), grading)


def _artefacts(telling: _Telling, whole: WorkJob) -> Steps:
    """The map by which nuclei are flagged."""
    yield from telling.planned(("plan-artefacts", plan_artefacts), ("find-artefacts", find_block), whole)
    yield from telling.one("join-artefacts", join_blocks, whole)


def _judged(telling: _Telling, grading: GradeJob, front: Front) -> Steps:
    """The verdicts on patches, as the nuclei on them come."""
    yield from _asked(telling, grading)
    yield from telling.planned(("plan-grading", plan_grading), ("grade-patches", assess), grading, front.has_nuclei)


def _labels(telling: _Telling, whole: WorkJob, front: Front) -> Steps:
    """The shards of the label map, as the nuclei on them come."""
    yield from telling.planned(("plan-labels", plan_labels), ("label-map", draw_labels), whole, front.has_nuclei)


def _looked_at(telling: _Telling, grading: GradeJob) -> Steps:
    """Looks at other scales where verdicts leave a doubt of the slide's own, and examples."""
    yield Fork(
        [
            telling.planned(("plan-looks", plan_looks), ("look-at-scales", look_at_place), grading),
            telling.planned(("plan-examples", plan_examples), ("draw-examples", draw_one_example), grading),
        ]
    )


def _tiles(
    planned: Planned,
    telling: _Telling,
    front: Front,
    total: int,
    stage: tuple[str, Callable[[Any], BatchSummary], Callable[[set[int]], Sequence[Job]]],
) -> Generator[Stage | Fork, Any, _Tiled]:
    """The parts of all tiles: those that an earlier run has left, and the missing ones computed.

    ``stage``: its name and function, and the jobs that are missing where some tiles are done.
    """
    plan, work, name = planned.plan, planned.work, planned.folder.id
    assert plan is not None
    failed: list[tuple[int, str]] = []
    so_far = TilesDone(name, 0, total, nuclei=0, computed=0)
    telling.on_event(Begun(name, total))

    def ended(summary: BatchSummary, *, computed: bool) -> None:
        nonlocal so_far
        failed.extend(summary.failed)
        front.computed(summary.tiles)
        so_far = _further(so_far, summary, plan, computed)
        telling.on_event(so_far)

    resumed: list[Resumed] = []
    if work.has_parts():
        resumed = yield telling.begun(isolated("resume-slide", resume_batches, resume_jobs(work, plan)))
    damaged = sum(one.damaged for one in resumed)
    if damaged:
        telling.on_event(Note(name, f"{damaged} parts of an earlier run were damaged: computed again"))
    done = [summary for one in resumed for summary in one.summaries]
    for summary in done:
        ended(summary, computed=False)
    task, function, missing = stage
    jobs = missing({tile for summary in done for tile in summary.tiles})
    yield isolated(task, function, jobs, lambda job, summary: ended(summary, computed=not job.lost))
    return _Tiled(failed, so_far.computed, time.perf_counter())


def _publish(
    planned: Planned, seconds: float, pace: Pace, telling: _Telling
) -> Generator[Stage | Fork, Any, SegmentedRecord]:
    assert planned.plan is not None
    job = publish_job(planned.folder, planned.work, planned.plan.key, seconds, pace)
    try:
        record: SegmentedRecord = yield from telling.one("publish-slide", publish_slide, job)
    except WorkerDied:
        # What it died of may have come after the last rename: what is on the disk counts.
        published = published_record(job)
        if published is None:
            raise
        record = published
    return record


def _further(so_far: TilesDone, summary: BatchSummary, plan: SlidePlan, computed: bool) -> TilesDone:
    """The progress of a slide with the tiles of one more batch."""
    tiles = len(summary.tiles)
    further = replace(
        so_far,
        done=so_far.done + tiles,
        nuclei=so_far.nuclei + summary.nuclei,
        failed=so_far.failed + len(summary.failed),
    )
    if not computed:
        return further
    cores = map(plan.grid.core, summary.tiles)
    spent = {name: so_far.seconds.get(name, 0.0) + value for name, value in summary.seconds.items()}
    return replace(
        further,
        computed=so_far.computed + tiles,
        pixels=so_far.pixels + sum(core.width * core.height for core in cores),
        seconds={**so_far.seconds, **spent},
    )


def _failed(path: Path, folder: SlideFolder, error: Exception) -> FailedRecord:
    record = failure_record(path, folder.id, error)
    folder.publish_failure(record)
    return record

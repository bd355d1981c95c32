"""One slide from its file to its record: the stages in their order, and what is resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsiseg.core.environment import environment_fault
from wsiseg.errors import EnvironmentFault, ModelError, SlideError, UsageError, WorkerDied, WsisegError
from wsiseg.models.resident import ModelChoice
from wsiseg.qc.artefacts import find_block, join_blocks, plan_artefacts
from wsiseg.qc.stage import assess, plan_grading
from wsiseg.results.describe import failure_record
from wsiseg.results.folder import SlideFolder
from wsiseg.results.job import WorkJob
from wsiseg.results.labelmap import draw_labels, plan_labels, write_label_pyramid
from wsiseg.results.moved import Moved
from wsiseg.results.partfile import BatchSummary
from wsiseg.results.record import FailedRecord, SegmentedRecord, SlideRecord
from wsiseg.run.events import Begun, Listener, Note, SlideEnded, StageStarted, TilesDone, Unchanged
from wsiseg.run.isolation import Job, isolated
from wsiseg.run.publish import publish_job, publish_slide, published_record
from wsiseg.run.schedule import Stage, Steps
from wsiseg.stitch.stage import stitch_slide
from wsiseg.tiles.batch import Resumed, missing_batches, resume_batches, resume_jobs
from wsiseg.tiles.outside import OutsideJob, check_outside
from wsiseg.tiles.plan import PlanJob, Planned, plan_or_reuse
from wsiseg.tiles.request import SlideRequest
from wsiseg.tiles.work import segment_batch

Stages = Generator[Stage, list[Any], Any]


@dataclass(frozen=True)
class _Telling:
    """Makes a slide's stages, and tells of each that it begins."""

    name: str
    on_event: Listener

    def stage(self, name: str, function: Callable[[Any], Any], jobs: Sequence[Job]) -> Stage:
        self.on_event(StageStarted(self.name, name))
        return isolated(name, function, jobs)

    def one(self, name: str, function: Callable[[Any], Any], job: Job) -> Stages:
        """A stage of one task: what it returns."""
        (result,) = yield self.stage(name, function, [job])
        return result

    def planned(
        self, plan: tuple[str, Callable[[Any], Any]], stage: tuple[str, Callable[[Any], Any]], job: Job
    ) -> Stages:
        """A stage whose jobs are found by a task, and that task before it."""
        jobs = yield from self.one(*plan, job)
        yield self.stage(*stage, jobs)


def slide_steps(request: SlideRequest, folder: SlideFolder, moved: Moved, on_event: Listener) -> Steps:
    """One slide from start to record; its own failures end here, the environment's and the user's go on up."""
    record: SlideRecord
    planned: Planned | None = None
    try:
        planned = yield from _plan(request, folder, moved, on_event)
        folder = planned.folder
        record = yield from _segment(planned, request.choice, on_event)
    except (EnvironmentFault, ModelError, UsageError):
        raise
    except WsisegError as error:
        record = _failed(request.path, folder, error)
    except Exception as error:  # a fault of ours in one slide must not cost the others
        fault = environment_fault(error, folder.work)
        if fault is not None:
            raise fault from error
        record = _failed(request.path, folder, error)
    on_event(SlideEnded(folder.id, record))
    said = planned.plan.notes if planned and planned.plan else ()
    for text in record.notes or ():
        if text not in said:
            on_event(Note(folder.id, text))
    return record


def _plan(
    request: SlideRequest, folder: SlideFolder, moved: Moved, on_event: Listener
) -> Generator[Stage, list[Any], Planned]:
    telling = _Telling(folder.id, on_event)
    job = PlanJob(folder, request, moved.candidates(request.path, folder))
    planned: Planned = yield from telling.one("plan-slide", plan_or_reuse, job)
    if planned.folder != folder and not moved.take(planned.folder):
        # Another slide with the same content was there first: this one is a copy.
        planned = yield from telling.one("plan-slide", plan_or_reuse, replace(job, moved=()))
    for text in (*planned.notes, *(planned.plan.notes if planned.plan else ())):
        on_event(Note(planned.folder.id, text))
    return planned


def _segment(planned: Planned, choice: ModelChoice, on_event: Listener) -> Steps:
    """The stages of a planned slide in their order, and its record."""
    if planned.plan is None:
        on_event(Unchanged(planned.folder.id))
        return planned.unchanged
    started, telling, whole = time.perf_counter(), _Telling(planned.folder.id, on_event), WorkJob(planned.work)
    yield from _tiles(planned, choice, telling)
    yield from telling.planned(("plan-artefacts", plan_artefacts), ("find-artefacts", find_block), whole)
    yield from telling.one("join-artefacts", join_blocks, whole)
    yield from telling.one("check-outside", check_outside, OutsideJob(planned.work, choice))
    yield from telling.one("stitch-slide", stitch_slide, whole)
    yield from telling.planned(("plan-labels", plan_labels), ("label-map", draw_labels), whole)
    yield from telling.one("label-pyramid", write_label_pyramid, whole)
    yield from telling.planned(("plan-grading", plan_grading), ("grade-patches", assess), whole)
    return (yield from _publish(planned, time.perf_counter() - started, telling))


def _tiles(planned: Planned, choice: ModelChoice, telling: _Telling) -> Stages:
    """The parts of all tiles: those that an earlier run has left, and the missing ones computed."""
    plan, work, name = planned.plan, planned.work, planned.folder.id
    assert plan is not None
    failed: list[tuple[int, str]] = []
    so_far = TilesDone(name, 0, len(plan.tiles), nuclei=0, computed=0)
    telling.on_event(Begun(name, len(plan.tiles)))

    def ended(summary: BatchSummary, *, computed: bool) -> None:
        nonlocal so_far
        failed.extend(summary.failed)
        so_far = _further(so_far, summary, computed)
        telling.on_event(so_far)

    resumed: list[Resumed] = []
    if work.has_parts():
        resumed = yield telling.stage("resume-slide", resume_batches, resume_jobs(work, plan))
    damaged = sum(one.damaged for one in resumed)
    if damaged:
        telling.on_event(Note(name, f"{damaged} parts of an earlier run were damaged: computed again"))
    done = [summary for one in resumed for summary in one.summaries]
    for summary in done:
        ended(summary, computed=False)
    missing = missing_batches(work, plan, choice, {tile for summary in done for tile in summary.tiles})
    yield isolated(
        "segment-batch", segment_batch, missing, lambda job, summary: ended(summary, computed=not job.lost)
    )
    if failed and len(failed) == len(plan.tiles):
        planned.folder.clean()
        raise SlideError(f"none of its {len(failed)} tiles could be computed: {failed[0][1]}")


def _publish(planned: Planned, seconds: float, telling: _Telling) -> Generator[Stage, list[Any], SegmentedRecord]:
    assert planned.plan is not None
    job = publish_job(planned.folder, planned.work, planned.plan.key, seconds)
    try:
        record: SegmentedRecord = yield from telling.one("publish-slide", publish_slide, job)
    except WorkerDied:
        # What it died of may have come after the last rename: what is on the disk counts.
        published = published_record(job)
        if published is None:
            raise
        record = published
    return record


def _further(so_far: TilesDone, summary: BatchSummary, computed: bool) -> TilesDone:
    """The progress of a slide with the tiles of one more batch."""
    tiles = len(summary.tiles)
    return replace(
        so_far,
        done=so_far.done + tiles,
        nuclei=so_far.nuclei + summary.nuclei,
        computed=so_far.computed + (tiles if computed else 0),
    )


def _failed(path: Path, folder: SlideFolder, error: Exception) -> FailedRecord:
    record = failure_record(path, folder.id, error)
    folder.publish_failure(record)
    return record

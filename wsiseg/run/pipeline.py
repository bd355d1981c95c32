"""Slides in, a results folder out: the order of the stages, what is resumed, what happens when something fails."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsiseg.core.environment import absolute, environment_fault
from wsiseg.core.region import requested_region
from wsiseg.errors import EnvironmentFault, ModelError, SlideError, UsageError, WorkerDied, WsisegError
from wsiseg.models.registry import locate_model
from wsiseg.models.resident import ModelChoice
from wsiseg.qc.stage import judge, plan_grading
from wsiseg.report.cohort import write_cohort
from wsiseg.report.html import write_report
from wsiseg.results.describe import failure_record, slide_bytes
from wsiseg.results.folder import SlideFolder, WorkFolder, assign_ids, output_lock, read_records
from wsiseg.results.job import WorkJob
from wsiseg.results.labelmap import draw_labels, plan_labels, write_label_pyramid
from wsiseg.results.parts import BatchSummary
from wsiseg.results.plan import SlidePlan
from wsiseg.results.record import FailedRecord, SlideRecord
from wsiseg.run.events import (
    Begun,
    Event,
    Listener,
    Note,
    SlideEnded,
    StageStarted,
    Started,
    TilesDone,
    Unchanged,
    ignore,
)
from wsiseg.run.isolation import Job, isolated
from wsiseg.run.outcome import CohortResult
from wsiseg.run.publish import publish_job, publish_slide, published_record
from wsiseg.run.schedule import Executor, Stage, Steps, run_stages
from wsiseg.stitch.stage import stitch_slide
from wsiseg.tiles.parts import BatchJob, Resumed, ResumeJob, resume_batches
from wsiseg.tiles.plan import PlanJob, Planned, plan_or_reuse
from wsiseg.tiles.request import SegmentOptions, SlideRequest
from wsiseg.tiles.work import segment_batch

_RESUMED_BATCHES = 64
"""Batches of an earlier run that one task reads again."""


def segment_slides(
    paths: Sequence[Path],
    out: Path,
    options: SegmentOptions,
    executor: Executor,
    on_event: Listener = ignore,
) -> CohortResult:
    """Segment, stitch, grade and report slides into ``out``; goes on where an earlier call was stopped.

    A slide that fails is recorded and leaves the others alone. One that was moved since an earlier call keeps its
    results. Relative paths are those of this process, whatever folder its workers run in.

    Raises
    ------
    UsageError, ModelError
        If a request makes no sense whatever the slide (tile size, region, mask file, model), or if ``out`` holds
        results of other settings or of a newer format.
    EnvironmentFault
        If the disk or the cluster gives out, the same call goes on from there; or if something is in the way that
        is not wsiseg's.
    """
    if not paths:
        raise UsageError("no slides given")
    shown, out = out, absolute(out)
    options = _located(options)
    choice = options.choice(executor.device, executor.torch_threads)
    requested_region(options.roi, options.mask)  # refused before anything is computed
    started = time.perf_counter()
    computed: dict[str, int] = {}

    def tell(event: Event) -> None:
        if isinstance(event, TilesDone):
            computed[event.name] = event.computed
        try:
            on_event(event)
        except Exception as error:
            raise _WatcherFailed(error) from error

    with _watcher_errors(), output_lock(out):
        tell(Started(len(paths), executor.dashboard))
        ids = assign_ids(map(absolute, paths), out)
        folders = {path: SlideFolder(out, name) for path, name in ids.items()}
        for folder in folders.values():
            folder.require_ours()
        moved = _Moved(folders, out)
        steps = (
            _slide_steps(SlideRequest(path, options, choice), moved.home(path, folder), options, moved, tell)
            for path, folder in folders.items()
        )
        ended = dict(run_stages(executor, steps))
        records = tuple(ended[i] for i in sorted(ended))
        report = write_reports(out, records)
    return CohortResult(shown, shown / report.name, records, sum(computed.values()), time.perf_counter() - started)


def write_reports(out: Path, records: Iterable[SlideRecord] = ()) -> Path:
    """Cohort tables and ``report.html`` over every slide in ``out``, and over ``records`` that left no folder."""
    merged = {record.id: record for record in (*read_records(out), *records)}
    ordered = [merged[name] for name in sorted(merged)]
    write_cohort(out, ordered)
    return write_report(out, ordered)


class _WatcherFailed(BaseException):
    """An error of whoever watches: it ends the call, and is no slide's failure."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@contextlib.contextmanager
def _watcher_errors() -> Iterator[None]:
    try:
        yield
    except _WatcherFailed as failed:
        raise failed.error from None


class _Moved:
    """Results of slides that were moved, or renamed, since they were segmented.

    A slide whose content is that of a result whose own slide is gone is the same slide. Content is compared by the
    task that opens it, and only with results that its size, or else its name, does not rule out.
    """

    def __init__(self, folders: Mapping[Path, SlideFolder], out: Path) -> None:
        self._taken: set[str] = set()
        self._homes: dict[Path, SlideFolder] = {}
        self._gone: list[tuple[SlideFolder, str, int | None]] = []
        known = {folder.id for folder in folders.values() if folder.final.exists()}
        if len(known) == len(folders):
            return
        for record in read_records(out):
            if isinstance(record, FailedRecord) or record.id in known:
                continue
            folder, slide = SlideFolder(out, record.id), record.slide
            if Path(slide.path) in folders:
                self._homes[Path(slide.path)] = folder
            elif not os.path.lexists(slide.path):
                self._gone.append((folder, slide.name, slide.bytes))

    def home(self, path: Path, folder: SlideFolder) -> SlideFolder:
        """Where the slide's results are that it brought along from an earlier name."""
        return folder if folder.final.exists() else self._homes.get(path, folder)

    def candidates(self, path: Path, folder: SlideFolder) -> tuple[SlideFolder, ...]:
        """Results that may be those of a slide which has none under its own name."""
        if not self._gone or folder.final.exists():
            return ()
        size = slide_bytes(path)
        return tuple(
            other
            for other, name, held in self._gone
            if other.id not in self._taken and (name == path.name if None in (size, held) else size == held)
        )

    def take(self, folder: SlideFolder) -> bool:
        """Give a slide the results that it was found to have; False if another one has them already."""
        if folder.id in self._taken:
            return False
        self._taken.add(folder.id)
        return True


def _slide_steps(
    request: SlideRequest, folder: SlideFolder, options: SegmentOptions, moved: _Moved, on_event: Listener
) -> Steps:
    """One slide from start to record; its own failures end here, the environment's and the user's go on up."""
    record: SlideRecord
    try:
        planned = yield from _plan_slide(request, folder, options, moved, on_event)
        folder = planned.folder
        record = yield from _segment_slide(planned, request.choice, on_event)
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
    for text in record.notes or ():
        on_event(Note(folder.id, text))
    return record


def _plan_slide(
    request: SlideRequest, folder: SlideFolder, options: SegmentOptions, moved: _Moved, on_event: Listener
) -> Generator[Stage, list[Any], Planned]:
    candidates = moved.candidates(request.path, folder)
    job = PlanJob(folder, request, candidates)
    on_event(StageStarted(folder.id, "plan-slide"))
    (planned,) = yield isolated("plan-slide", plan_or_reuse, [job])
    if planned.folder != folder and not moved.take(planned.folder):
        # Another slide with the same content was there first: this one is a copy.
        (planned,) = yield isolated("plan-slide", plan_or_reuse, [replace(job, moved=())])
    for text in planned.notes:
        on_event(Note(planned.folder.id, text))
    found: Planned = planned
    return found


def _segment_slide(planned: Planned, choice: ModelChoice, on_event: Listener) -> Steps:
    folder, plan = planned.folder, planned.plan

    def stage(name: str, function: Callable[[Any], Any], jobs: Sequence[Job]) -> Stage:
        on_event(StageStarted(folder.id, name))
        return isolated(name, function, jobs)

    started = time.perf_counter()
    if plan is None:
        on_event(Unchanged(folder.id))
        return planned.unchanged
    work = planned.work
    on_event(Begun(folder.id, len(plan.tiles)))

    failed: list[tuple[int, str]] = []
    so_far = TilesDone(folder.id, 0, len(plan.tiles), nuclei=0, computed=0)

    def ended(summary: BatchSummary, *, computed: bool) -> None:
        nonlocal so_far
        failed.extend(summary.failed)
        so_far = _further(so_far, summary, computed)
        on_event(so_far)

    resumed: list[Resumed] = []
    if work.has_parts():
        resumed = yield stage("resume-slide", resume_batches, _resume_jobs(work, plan))
    damaged = sum(one.damaged for one in resumed)
    if damaged:
        on_event(Note(folder.id, f"{damaged} parts of an earlier run were damaged: computed again"))
    done = [summary for one in resumed for summary in one.summaries]
    for summary in done:
        ended(summary, computed=False)
    missing = _missing_batches(work, plan, choice, {tile for summary in done for tile in summary.tiles})
    yield isolated(
        "segment-batch", segment_batch, missing, lambda job, summary: ended(summary, computed=not job.lost)
    )
    if failed and len(failed) == len(plan.tiles):
        folder.clean()
        raise SlideError(f"none of its {len(failed)} tiles could be computed: {failed[0][1]}")
    whole = WorkJob(work)
    yield stage("stitch-slide", stitch_slide, [whole])
    (shards,) = yield stage("plan-labels", plan_labels, [whole])
    yield stage("label-map", draw_labels, shards)
    yield stage("label-pyramid", write_label_pyramid, [whole])
    (blocks,) = yield stage("plan-grading", plan_grading, [whole])
    yield stage("grade-patches", judge, blocks)
    publishing = publish_job(folder, work, plan.key, time.perf_counter() - started)
    try:
        (record,) = yield stage("publish-slide", publish_slide, [publishing])
    except WorkerDied:
        # What it died of may have come after the last rename: what is on the disk counts.
        published = published_record(publishing)
        if published is None:
            raise
        record = published
    return record


def _located(options: SegmentOptions) -> SegmentOptions:
    """The options with paths that mean the same in a worker's folder."""
    return replace(
        options,
        model=locate_model(options.model),
        mpp_table=absolute(options.mpp_table) if options.mpp_table else None,
        mask=absolute(options.mask) if options.mask else None,
    )


def _further(so_far: TilesDone, summary: BatchSummary, computed: bool) -> TilesDone:
    """The progress of a slide with the tiles of one more batch."""
    tiles = len(summary.tiles)
    return replace(
        so_far,
        done=so_far.done + tiles,
        nuclei=so_far.nuclei + summary.nuclei,
        computed=so_far.computed + (tiles if computed else 0),
    )


def _resume_jobs(work: WorkFolder, plan: SlidePlan) -> list[ResumeJob]:
    batches = plan.batches
    return [
        ResumeJob(work, tuple(batches[first : first + _RESUMED_BATCHES]))
        for first in range(0, len(batches), _RESUMED_BATCHES)
    ]


def _missing_batches(work: WorkFolder, plan: SlidePlan, choice: ModelChoice, done: set[int]) -> list[BatchJob]:
    """What is still to compute where the tiles ``done`` are."""
    missing: list[BatchJob] = []
    for tiles in plan.batches:
        left = [tile for tile in tiles if tile not in done]
        if len(left) == len(tiles):
            missing.append(BatchJob(work, tiles, choice))
        else:  # the batch was being tried tile by tile
            missing += [BatchJob(work, (tile,), choice) for tile in left]
    return missing


def _failed(path: Path, folder: SlideFolder, error: Exception) -> FailedRecord:
    record = failure_record(path, folder.id, error)
    folder.publish_failure(record)
    return record

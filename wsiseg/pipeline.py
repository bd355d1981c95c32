"""Slides in, a results folder out: the order of the stages, what is resumed, what happens when something fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsiseg.batch import BatchJob, BatchSummary, covering_parts, fail_batch, part_summary
from wsiseg.errors import EnvironmentFault, ModelError, SlideError, UsageError, WorkerDied, WsisegError
from wsiseg.finish import (
    PublishJob,
    failure_record,
    judge,
    judge_jobs,
    label_jobs,
    plan_grading,
    publish_slide,
    stitch_slide,
    write_label_pyramid,
)
from wsiseg.formats import maps
from wsiseg.models.resident import ModelChoice
from wsiseg.plan import PlanJob, SlidePlan, SlideRequest, plan_or_reuse
from wsiseg.region import requested_region
from wsiseg.report.cohort import write_cohort
from wsiseg.report.html import write_report
from wsiseg.schedule import Executor, Stage, Steps, run_stages
from wsiseg.segment import segment_batch
from wsiseg.store import (
    SlideFolder,
    WorkFolder,
    assign_ids,
    environment_fault,
    output_lock,
    read_records,
)


@dataclass(frozen=True)
class SegmentOptions:
    """What decides a run's results, and which finished ones it may reuse.

    Attributes
    ----------
    choice : ModelChoice
        The segmenter, and what it runs on.
    tile : int
        Side of a tile's core in pixels at the model's mpp.
    mpp : float or None
        Microns per pixel of every slide, instead of what its metadata say.
    mpp_table : Path or None
        CSV with columns ``slide`` and ``mpp``, for single slides.
    roi : (x, y, width, height) or None
        In level-0 pixels.
    mask : Path or None
        GeoJSON polygons in level-0 pixels.
    tissue_only : bool
        False segments the whole slide, tissue or not.
    retry_partial : bool
        Compute slides again of which some area was lost.
    """

    choice: ModelChoice
    tile: int = 2048
    mpp: float | None = None
    mpp_table: Path | None = None
    roi: tuple[float, float, float, float] | None = None
    mask: Path | None = None
    tissue_only: bool = True
    retry_partial: bool = False


@dataclass(frozen=True)
class Event:
    """Something a watcher may want to show.

    ``kind``: ``planned`` (``total`` tiles), ``tiles`` (``done`` tiles with ``nuclei`` more; ``computed`` now or
    by an earlier run), ``stage`` (``name``), ``unchanged``, ``finished`` (``record``).
    """

    kind: str
    slide: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CohortResult:
    """What became of each slide of one call, in the order given."""

    out: Path
    report: Path
    records: tuple[dict[str, Any], ...]
    tiles_computed: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "out": str(self.out),
            "report": str(self.report),
            "exit_code": self.exit_code,
            "tiles_computed": self.tiles_computed,
            "seconds": self.seconds,
            "slides": list(self.records),
        }

    def count(self, status: str) -> int:
        return sum(record["status"] == status for record in self.records)

    @property
    def exit_code(self) -> int:
        """0 all complete, 3 some failed or partial, 4 all failed."""
        if self.records and self.count("failed") == len(self.records):
            return 4
        return 0 if self.count("complete") == len(self.records) else 3


def segment_slides(
    paths: Sequence[Path],
    out: Path,
    options: SegmentOptions,
    executor: Executor,
    on_event: Callable[[Event], None] = lambda event: None,
) -> CohortResult:
    """Segment, stitch, grade and report slides into ``out``; goes on where an earlier call was stopped.

    A slide that fails is recorded and leaves the others alone.

    Raises
    ------
    UsageError, ModelError
        If a request makes no sense whatever the slide (tile size, region, mask file, model).
    EnvironmentFault
        If the disk or the cluster gives out; the same call goes on from there.
    """
    if not paths:
        raise UsageError("no slides given")
    requested_region(options.roi, options.mask)  # refused before anything is computed
    started = time.perf_counter()
    computed = 0

    def count(event: Event) -> None:
        nonlocal computed
        if event.kind == "tiles" and event.detail["computed"]:
            computed += event.detail["done"]
        on_event(event)

    with output_lock(out):
        ids = assign_ids(paths, out)
        steps = (_slide_steps(path, SlideFolder(out, ids[path]), options, count) for path in ids)
        ended = dict(run_stages(executor, steps))
        records = tuple(ended[i] for i in sorted(ended))
        report = write_reports(out, records)
    return CohortResult(out, report, records, computed, time.perf_counter() - started)


def write_reports(out: Path, records: Iterable[Mapping[str, Any]] = ()) -> Path:
    """Cohort tables and ``report.html`` over every slide in ``out``, and over ``records`` that left no folder."""
    merged = {record["id"]: record for record in read_records(out)}
    merged.update({record["id"]: dict(record) for record in records})
    ordered = [merged[name] for name in sorted(merged)]
    write_cohort(out, ordered)
    return write_report(out, ordered)


def _slide_steps(
    path: Path, folder: SlideFolder, options: SegmentOptions, on_event: Callable[[Event], None]
) -> Steps:
    """One slide from start to record; its own failures end here, the environment's and the user's go on up."""
    try:
        record = yield from _segment_slide(path, folder, options, on_event)
    except (EnvironmentFault, ModelError, UsageError):
        raise
    except WsisegError as error:
        record = _failed(path, folder, error)
    except Exception as error:  # a fault of ours in one slide must not cost the others
        fault = environment_fault(error, folder.work)
        if fault is not None:
            raise fault from error
        record = _failed(path, folder, error)
    on_event(Event("finished", folder.id, {"record": record}))
    return record


def _segment_slide(
    path: Path, folder: SlideFolder, options: SegmentOptions, on_event: Callable[[Event], None]
) -> Steps:
    def stage(name: str, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Stage:
        on_event(Event("stage", folder.id, {"name": name}))
        return Stage(name, function, arguments)

    started = time.perf_counter()
    request = _request(path, options)
    plan_job = PlanJob(folder, request, options.retry_partial)
    (planned,) = yield stage("plan-slide", plan_or_reuse, [plan_job])
    if planned.unchanged is not None:
        on_event(Event("unchanged", folder.id))
        return planned.unchanged
    work = folder.in_progress(planned.key)
    plan = planned.plan
    on_event(Event("planned", folder.id, {"total": len(plan.tiles)}))

    failed: list[tuple[int, str]] = []

    def ended(summary: BatchSummary, *, computed: bool = True) -> None:
        failed.extend(summary.failed)
        detail = {"done": len(summary.tiles), "nuclei": summary.nuclei, "computed": computed}
        on_event(Event("tiles", folder.id, detail))

    missing, resumed = _missing_batches(work, plan, request.choice)
    for summary in resumed:
        ended(summary, computed=False)
    yield Stage(
        "segment-batch",
        segment_batch,
        missing,
        on_result=lambda _, summary: ended(summary),
        retry=lambda job, error: _retry_batch(job, error, ended),
        alone=lambda job: job.alone,
    )
    if failed and len(failed) == len(plan.tiles):
        folder.clean()
        raise SlideError(f"none of its {len(failed)} tiles could be computed: {failed[0][1]}")
    yield stage("stitch-slide", stitch_slide, [work])
    yield stage("label-map", maps.write_label_shard, label_jobs(work))
    yield stage("label-pyramid", write_label_pyramid, [work])
    yield stage("plan-grading", plan_grading, [work])
    yield stage("grade-patches", judge, judge_jobs(work))
    job = PublishJob(folder, work, time.perf_counter() - started)
    (record,) = yield stage("publish-slide", publish_slide, [job])
    return record


def _request(path: Path, options: SegmentOptions) -> SlideRequest:
    return SlideRequest(
        path=str(path),
        mpp=options.mpp,
        mpp_table=str(options.mpp_table) if options.mpp_table else None,
        choice=options.choice,
        tile=options.tile,
        roi=options.roi,
        mask=str(options.mask) if options.mask else None,
        tissue_only=options.tissue_only,
    )


def _missing_batches(
    work: WorkFolder, plan: SlidePlan, choice: ModelChoice
) -> tuple[list[BatchJob], list[BatchSummary]]:
    """What is still to compute, and the summaries of what an earlier run has committed."""
    missing: list[BatchJob] = []
    summaries: list[BatchSummary] = []
    for tiles in plan.batches:
        parts = covering_parts(work, tiles)
        summaries += [part_summary(work, part) for part in parts]
        done = {tile for part in parts for tile in part}
        if not done:
            missing.append(BatchJob(str(work.path), tiles, choice))
        else:  # the batch was being tried tile by tile
            missing += [BatchJob(str(work.path), (tile,), choice) for tile in tiles if tile not in done]
    return missing, summaries


def _retry_batch(
    job: BatchJob, error: BaseException, give_up: Callable[[BatchSummary], None]
) -> Sequence[BatchJob] | None:
    """The tiles of a batch whose worker died are tried one by one, each while nothing else runs.

    Dask blames all that a dead worker had been given; a tile that dies alone has only itself to blame.
    """
    if not isinstance(error, WorkerDied):
        return None
    if not job.alone:
        return [replace(job, tiles=(tile,), alone=True) for tile in job.tiles]
    give_up(fail_batch(job, "its worker process died every time"))
    return []


def _failed(path: Path, folder: SlideFolder, error: Exception) -> dict[str, Any]:
    record = failure_record(path, folder.id, error)
    folder.publish_failure(record)
    return record

"""From the parts of a slide to its published result: stitch, label map, thumbnail, record.

Each function is the body of one task: it takes one picklable argument, reads and writes the slide's work folder,
returns little, and may run twice.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg import __version__
from wsiseg.batch import BatchSummary, covering_parts, part_summary
from wsiseg.errors import SlideError, WsisegError
from wsiseg.formats import maps
from wsiseg.formats.geoparquet import NucleiWriter
from wsiseg.geometry import Box, Window
from wsiseg.grading import gather_verdicts, write_table
from wsiseg.isolation import WorkJob
from wsiseg.notes import run_notes
from wsiseg.plan import SlidePlan, describe_slide, require_plan
from wsiseg.planned import open_planned, read_planned
from wsiseg.qc.grade import grade_slide
from wsiseg.report.thumbnail import LONG_SIDE_PX, write_thumbnail
from wsiseg.slide import Slide
from wsiseg.slide.base import MISSING
from wsiseg.stitch import read_part, stitch
from wsiseg.store import (
    FORMAT_VERSION,
    RECORD_NAME,
    SlideFolder,
    WorkFolder,
    describe_file,
    describe_files,
    environment_faults,
    is_intact,
    remove_unfinished,
    write_json,
)
from wsiseg.tissue import Tissue

_DRAWN = "drawn"
"""The folder in the work folder that notes which shards of the label map are whole."""
_VERSIONS = ("dask", "distributed", "imagecodecs", "numpy", "openslide-python", "shapely", "torch", "zarr")
_UNKNOWN = (
    *("key", "specification", "tiles", "lost", "nuclei"),
    *("tissue_mm2", "artefacts", "seams", "grade", "timings_s", "notes"),
)
"""What the record of a slide that failed cannot say."""


@dataclass(frozen=True)
class LabelJob:
    """One shard of the label map; ``name`` tells the tasks of a slide apart. ``alone``: a worker died of it."""

    work: WorkFolder
    name: str
    shard: maps.LabelShard
    alone: bool = False

    def retries(self) -> Sequence[LabelJob]:
        """See :mod:`wsiseg.isolation`."""
        return () if self.alone else (replace(self, alone=True),)


@dataclass(frozen=True)
class PublishJob:
    """A slide to record.

    ``seconds``: how long it has taken so far. ``earlier``: of the record that is to be replaced, see
    :func:`publish_job`. ``alone``: a worker died of it.
    """

    folder: SlideFolder
    work: WorkFolder
    key: str
    seconds: float
    earlier: tuple[int, int] | None
    alone: bool = False

    def retries(self) -> Sequence[PublishJob]:
        """See :mod:`wsiseg.isolation`."""
        return () if self.alone else (replace(self, alone=True),)


def stitch_slide(job: WorkJob) -> dict[str, Any]:
    """Join the parts into ``nuclei.parquet``, each nucleus once."""
    work = job.work
    finished, result = work.stage("stitch"), work.result / "nuclei.parquet"
    if finished is not None and is_intact(result, finished["file"]):
        return finished
    started = time.perf_counter()
    plan = require_plan(work)
    parts = [part for tiles in plan.batches for part in covering_parts(work, tiles)]
    metadata = {"slide": plan.source.name, "mpp": plan.mpp, "downsample": plan.downsample}
    with NucleiWriter(result, metadata, types=plan.types) as writer:
        audit = stitch(
            lambda i: read_part(work.part(parts[i][0], parts[i][-1])),
            [(part[0], part[-1]) for part in parts],
            plan.grid,
            plan.scale,
            writer.write,
            band_px=plan.band_px,
        )
    summaries = [part_summary(work, part) for part in parts]
    summary = {
        "nuclei": writer.count,
        **({"types": dict(zip(plan.types, writer.counts.tolist(), strict=True))} if plan.types else {}),
        "seams": asdict(audit),
        "tiles": _tiles(plan, summaries),
        "lost": [list(box) for summary in summaries for box in summary.lost],
        "segment_s": _seconds(summaries),
        "file": describe_file(result),
        "seconds": time.perf_counter() - started,
    }
    # What an earlier stitching was the ground of is not this one's.
    for stage in ("labels", "maps", "grading"):
        (work.path / f"{stage}.json").unlink(missing_ok=True)
    work.finish_stage("stitch", summary)
    return summary


def plan_labels(job: WorkJob) -> list[LabelJob]:
    """The shards of the label map that hold nuclei and are still to be drawn; makes the empty map."""
    work = job.work
    found = work.stage("labels")
    if found is None:
        started = time.perf_counter()
        plan, nuclei = require_plan(work), work.result / "nuclei.parquet"
        with environment_faults(work.path):
            shutil.rmtree(work.path / _DRAWN, ignore_errors=True)
            (work.path / _DRAWN).mkdir()
        size = (plan.grid.width, plan.grid.height)
        shards = maps.plan_labels(work.result / "maps.zarr", nuclei, size, plan.scale, plan.mpp)
        found = {
            "downsample": plan.downsample,
            "windows": [[w.x, w.y, w.width, w.height] for w in (shard.window for shard in shards)],
            "seconds": time.perf_counter() - started,
        }
        work.finish_stage("labels", found)
    return [job for job in _label_jobs(work, found) if work.stage(job.name) is None]


def draw_labels(job: LabelJob) -> maps.ShardSummary:
    """Draw a shard of the label map, and note that it is whole and how long it took."""
    started = time.perf_counter()
    summary = maps.write_label_shard(job.shard)
    job.work.finish_stage(job.name, {**asdict(summary), "seconds": time.perf_counter() - started})
    return summary


def write_label_pyramid(job: WorkJob) -> float:
    """The label map's coarser levels, the tissue and the lost area; the seconds that the whole map has taken."""
    work = job.work
    finished = work.stage("maps")
    if finished is not None:
        return float(finished["seconds"])
    planned_labels = work.require_stage("labels")
    started = time.perf_counter()
    plan, tissue = read_planned(work)
    path = work.result / "maps.zarr"
    maps.write_label_levels(path)
    maps.write_masks(path, tissue.core, tissue.scale, plan.mpp, work.require_stage("stitch")["lost"])
    drawn = [(work.stage(job.name) or {}).get("seconds", 0.0) for job in _label_jobs(work, planned_labels)]
    seconds = float(planned_labels["seconds"]) + sum(drawn) + time.perf_counter() - started
    work.finish_stage("maps", {"seconds": seconds})
    return seconds


def publish_slide(job: PublishJob) -> dict[str, Any]:
    """Grade, thumbnail and record; then the result gets its final name. Done before, it is not done again."""
    published = published_record(job)
    if published is not None:
        job.folder.clean()
        return published
    started = time.perf_counter()
    work = job.work
    (plan, tissue), summary = read_planned(work), work.require_stage("stitch")
    with open_planned(work, plan, guarded=job.alone) as slide:
        described = describe_slide(slide)
        overview, overview_scale = slide.overview(_overview_mpp(slide, plan.mpp))
    maps.write_overview(work.result / "maps.zarr", overview, overview_scale, plan.mpp)
    lost = _lost(summary["lost"], tissue, plan.mpp)
    verdicts = gather_verdicts(work)
    write_table(work.result / "patches.parquet", verdicts.columns)
    grade = grade_slide(verdicts.columns, summary["tiles"], lost["fraction_of_tissue"], plan.tissue_mm2)
    write_thumbnail(
        work.result / "thumbnail.png",
        overview,
        overview_scale,
        plan.mpp,
        tissue=tissue.core,
        tissue_scale=tissue.scale,
        nuclei_parquet=work.result / "nuclei.parquet",
        lost=lost["boxes"],
    )
    remove_unfinished(work.result)  # before the record lists what is there
    seconds = time.perf_counter() - started
    timings = {**_timings(work, plan, summary), "grade": verdicts.seconds, "publish": seconds}
    record = {
        "schema": "wsiseg.slide",
        "version": FORMAT_VERSION,
        "id": job.folder.id,
        "status": "partial" if lost["boxes"] else "complete",
        "error": None,
        "notes": [*plan.notes, *run_notes(summary["nuclei"], plan.tissue_mm2, summary["tiles"], lost)],
        "key": plan.key,
        "slide": described,
        "specification": plan.specification,
        "tiles": summary["tiles"],
        "lost": lost,
        "nuclei": summary["nuclei"],
        **({"types": summary["types"]} if plan.types else {}),
        "tissue_mm2": plan.tissue_mm2,
        "artefacts": dict(tissue.artefacts),
        "seams": summary["seams"],
        "grade": grade.to_dict(),
        "timings_s": {**timings, "total": job.seconds + seconds},
        "files": describe_files(work.result),
        "versions": versions(),
        "created": _now(),
    }
    write_json(work.result / RECORD_NAME, record)
    job.folder.publish(work)
    return record


def publish_job(folder: SlideFolder, work: WorkFolder, key: str, seconds: float) -> PublishJob:
    """The job that publishes what has been finished in ``work``."""
    return PublishJob(folder, work, key, seconds, _record_identity(folder))


def published_record(job: PublishJob) -> dict[str, Any] | None:
    """The record that this job has published, if its worker died only after that; None if there is none yet.

    An earlier result of the same key does not count.
    """
    if job.work.result.exists() or _record_identity(job.folder) == job.earlier:
        return None
    record = job.folder.record()
    return record if record is not None and record.get("key") == job.key else None


def _record_identity(folder: SlideFolder) -> tuple[int, int] | None:
    """What tells the record that is there from another; None where there is none."""
    try:
        status = os.stat(folder.final / RECORD_NAME)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def failure_record(path: Path, slide_id: str, error: Exception) -> dict[str, Any]:
    """The record of a slide that could not be segmented."""
    message = str(error) if isinstance(error, WsisegError) else f"{type(error).__name__}: {error}"
    return {
        "schema": "wsiseg.slide",
        "version": FORMAT_VERSION,
        "id": slide_id,
        "status": "failed",
        "error": {"kind": type(error).__name__, "message": message},
        "slide": {"path": os.path.abspath(path), "name": path.name},
        **dict.fromkeys(_UNKNOWN),
        "versions": versions(),
        "created": _now(),
    }


def versions() -> dict[str, str]:
    """Versions of what has a say in the result."""
    found = {"wsiseg": __version__, "python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _label_jobs(work: WorkFolder, noted: dict[str, Any]) -> list[LabelJob]:
    paths = str(work.result / "maps.zarr"), str(work.result / "nuclei.parquet")
    windows = [Window(*window) for window in noted["windows"]]
    return [
        LabelJob(work, f"{_DRAWN}/{n:06d}", maps.LabelShard(*paths, noted["downsample"], window))
        for n, window in enumerate(windows)
    ]


def _tiles(plan: SlidePlan, summaries: list[BatchSummary]) -> dict[str, int]:
    failed = sum(len(summary.failed) for summary in summaries)
    return {
        "total": len(plan.grid),
        "done": len(plan.tiles) - failed,
        "blank": len(plan.grid) - len(plan.tiles),
        "failed": failed,
    }


def _seconds(summaries: list[BatchSummary]) -> dict[str, float]:
    """Seconds by activity, summed over the workers."""
    names = sorted({name for summary in summaries for name in summary.seconds})
    return {name: sum(summary.seconds.get(name, 0.0) for summary in summaries) for name in names}


def _timings(work: WorkFolder, plan: SlidePlan, summary: dict[str, Any]) -> dict[str, Any]:
    """Seconds by stage, all workers together, over all attempts."""
    activity = summary["segment_s"]
    return {
        "tissue": plan.seconds,
        "segment": sum(activity.values()),
        "segment_by_activity": activity,
        "stitch": summary["seconds"],
        "labels": (work.stage("maps") or {}).get("seconds", 0.0),
    }


def _lost(boxes: list[list[Any]], tissue: Tissue, mpp: float) -> dict[str, Any]:
    """The record's ``lost``. Tiles that a sparse file never held are lost only where there is tissue."""
    kept = [box for box in sorted(boxes) if box[4] != MISSING or tissue.touches(Box(*box[:4]))]
    mask = maps.lost_mask(kept, tissue.core.shape, tissue.scale).astype(bool)
    area_px = sum((box[2] - box[0]) * (box[3] - box[1]) for box in kept)
    seen = int(np.count_nonzero(tissue.core | mask))
    return {
        "area_mm2": area_px * (mpp / 1000) ** 2,
        "fraction_of_tissue": float(np.count_nonzero(mask) / seen) if seen else 0.0,
        "boxes": kept,
    }


def _overview_mpp(slide: Slide, mpp: float) -> float:
    """The mpp at which the slide is about as large as its thumbnail."""
    return mpp * max(1.0, max(slide.width, slide.height) / LONG_SIDE_PX)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

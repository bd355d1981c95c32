"""From the parts of a slide to its published result: stitch, label map, thumbnail, record.

Each function is the body of one task: it takes one picklable argument, reads and writes the slide's work folder,
returns little, and may run twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wsiseg.core.atomic import remove_unfinished, write_json
from wsiseg.core.geometry import Box
from wsiseg.qc.grade import grade_slide
from wsiseg.qc.stage import gather_verdicts, write_table
from wsiseg.report.thumbnail import LONG_SIDE_PX, write_thumbnail
from wsiseg.results import maps
from wsiseg.results.describe import describe_slide, now, versions
from wsiseg.results.folder import FORMAT_VERSION, RECORD_NAME, SlideFolder, WorkFolder, describe_files
from wsiseg.results.notes import run_notes
from wsiseg.results.plan import SlidePlan
from wsiseg.results.planned import open_planned, read_planned
from wsiseg.slide import Slide
from wsiseg.slide.types import MISSING
from wsiseg.tissue import Tissue


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
        """See :mod:`wsiseg.run.isolation`."""
        return () if self.alone else (replace(self, alone=True),)


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
        "created": now(),
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

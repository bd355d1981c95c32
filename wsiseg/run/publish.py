"""The task that publishes a slide: what its stages have left becomes the record, and the result gets its name."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wsiseg.artefacts.map import artefact_shares
from wsiseg.core.atomic import remove_unfinished
from wsiseg.core.memory import peak_memory
from wsiseg.qc.grade import grade_slide
from wsiseg.qc.looks import gather_looks
from wsiseg.qc.scale import scale_notes
from wsiseg.qc.stage import gather_verdicts, write_table
from wsiseg.qc.typical import typical_values
from wsiseg.report.gallery import write_gallery
from wsiseg.results.artefactfile import ARTEFACT_MAP, load_artefacts
from wsiseg.results.describe import describe_lost, describe_slide, now, versions
from wsiseg.results.folder import SlideFolder, WorkFolder, describe_files
from wsiseg.results.job import once_alone
from wsiseg.results.notes import artefact_notes, outside_notes, run_notes, seam_notes
from wsiseg.results.overviewfile import OVERVIEW_FILE, load_overview
from wsiseg.results.plan import SlidePlan
from wsiseg.results.planned import open_planned, read_planned, read_whole
from wsiseg.results.record import RECORD_NAME, Outside, Performance, SegmentedRecord, write_record
from wsiseg.results.stages import (
    ARTEFACTS,
    ARTEFACTS_DRAWN,
    MAPS,
    OUTSIDE,
    OVERVIEW,
    STITCH,
    THUMBNAIL,
    FoundOutside,
    Stitched,
    Timed,
)
from wsiseg.run.examples import drawing_seconds


@dataclass(frozen=True)
class Pace:
    """How long a slide has taken from its plan to its last tile, and how many tiles this run has computed.

    ``device_busy``: the share of the time since the plan in which the devices computed, where that is known.
    """

    tiles_s: float
    computed: int
    device_busy: float | None = None


@dataclass(frozen=True)
class PublishJob:
    """A slide to record.

    ``seconds``: how long it has taken so far, of which ``pace`` tells the tiles' part. ``earlier``: of the record
    that is to be replaced, see :func:`publish_job`. ``alone``: a worker died of it.
    """

    folder: SlideFolder
    work: WorkFolder
    key: str
    seconds: float
    earlier: tuple[int, int] | None
    pace: Pace | None = None
    alone: bool = False

    def retries(self) -> Sequence[PublishJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


def publish_slide(job: PublishJob) -> SegmentedRecord:
    """Grade and record; then the result gets its final name. Done before, it is not done again."""
    published = published_record(job)
    if published is not None:
        job.folder.clean()
        return published
    started = time.perf_counter()
    work = job.work
    (plan, tissue), stitched = read_planned(work), work.require_stage(STITCH, Stitched)
    outside = _outside(work, stitched.nuclei)
    with open_planned(work, plan, guarded=job.alone) as slide:
        described = describe_slide(slide)
    lost = describe_lost(stitched.lost, tissue, plan.mpp)
    verdicts = gather_verdicts(work)
    looks, looks_s = gather_looks(work, verdicts.columns)
    write_table(work.result / "patches.parquet", verdicts.columns)
    grade = grade_slide(verdicts.columns, verdicts.placed, stitched.tiles, lost.fraction_of_tissue)
    whole, artefacts = replace(read_whole(work), region=tissue.region), load_artefacts(work.path / ARTEFACT_MAP)
    shares = artefact_shares(artefacts, whole, plan.mpp)
    overview, scale = load_overview(work.path / OVERVIEW_FILE)
    write_gallery(work.result, overview, scale, artefacts, verdicts.columns)
    remove_unfinished(work.result)  # before the record lists what is there
    seconds = time.perf_counter() - started
    drawn = sum(_seconds(work, stage) for stage in (OVERVIEW, ARTEFACTS_DRAWN, THUMBNAIL))
    timings = {**_timings(work, plan, stitched), "grade": verdicts.seconds + looks_s}
    timings["publish"] = drawn + drawing_seconds(work, verdicts.columns) + seconds
    record = SegmentedRecord(
        id=job.folder.id,
        status="partial" if lost.boxes else "complete",
        notes=(
            *plan.notes,
            *stitched.notes,
            *run_notes(stitched.nuclei, plan.tissue_mm2, stitched.tiles, lost),
            *seam_notes(stitched.seams),
            *scale_notes(looks),
            *outside_notes(outside),
            *artefact_notes(shares),
        ),
        key=plan.key,
        slide=described,
        specification=plan.specification,
        tiles=stitched.tiles,
        lost=lost,
        nuclei=stitched.nuclei,
        types=stitched.types,
        tissue_mm2=plan.tissue_mm2,
        artefacts=shares.kinds,
        usable_mm2=shares.usable_mm2,
        outside=outside,
        seams=stitched.seams,
        grade=grade.record(),
        typical=typical_values(verdicts.columns),
        timings_s={**timings, "total": job.seconds + seconds},
        performance=_performance(job.pace, plan, stitched, job.seconds + seconds),
        files=describe_files(work.result),
        versions=versions(),
        created=now(),
    )
    write_record(work.result, record)
    job.folder.publish(work)
    return record


def publish_job(
    folder: SlideFolder,
    work: WorkFolder,
    key: str,
    seconds: float,
    pace: Pace | None = None,
) -> PublishJob:
    """The job that publishes what has been finished in ``work``."""
    return PublishJob(folder, work, key, seconds, _record_identity(folder), pace)


def published_record(job: PublishJob) -> SegmentedRecord | None:
    """The record that this job has published, if its worker died only after that; None if there is none yet.

    An earlier result of the same key does not count.
    """
    if job.work.result.exists() or _record_identity(job.folder) == job.earlier:
        return None
    record = job.folder.record()
    return record if isinstance(record, SegmentedRecord) and record.key == job.key else None


def _record_identity(folder: SlideFolder) -> tuple[int, int] | None:
    """What tells the record that is there from another; None where there is none."""
    try:
        status = os.stat(folder.final / RECORD_NAME)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _timings(work: WorkFolder, plan: SlidePlan, stitched: Stitched) -> dict[str, float | Mapping[str, float]]:
    """Seconds by stage, all workers together, over all attempts."""
    outside = work.stage(OUTSIDE, FoundOutside)
    return {
        "tissue": plan.seconds,
        "artefacts": _seconds(work, ARTEFACTS),
        "segment": sum(stitched.segment_s.values()),
        "segment_by_activity": stitched.segment_s,
        "outside": outside.seconds if outside else 0.0,
        "stitch": stitched.seconds,
        "labels": _seconds(work, MAPS),
    }


def _seconds(work: WorkFolder, stage: str) -> float:
    found = work.stage(stage, Timed)
    return found.seconds if found else 0.0


def _performance(pace: Pace | None, plan: SlidePlan, stitched: Stitched, total_s: float) -> Performance | None:
    """How the run went; None where it has computed no tile."""
    if pace is None or not pace.computed:
        return None
    all_s = sum(stitched.segment_s.values()) or 1.0
    parts = {name: seconds / all_s * pace.tiles_s for name, seconds in stitched.segment_s.items()}
    parts["end"] = total_s - pace.tiles_s
    pixels = sum(plan.grid.core(tile).area for tile in plan.tiles) * pace.computed / len(plan.tiles)
    return Performance(
        bound=max(parts, key=lambda name: parts[name]),
        tiles_s=pace.tiles_s,
        end_s=parts["end"],
        mpx_per_s=pixels / 1e6 / total_s,
        peak_mib=max(stitched.peak_bytes, peak_memory()) / 2**20,
        device_busy=pace.device_busy,
    )


def _outside(work: WorkFolder, nuclei: int) -> Outside | None:
    """The record's ``outside``, beside the ``nuclei`` on the tissue; None where no window was looked at."""
    found = work.stage(OUTSIDE, FoundOutside)
    if found is None or not found.area_mm2:
        return None
    per_mm2 = found.nuclei / found.area_mm2
    expected = per_mm2 * found.rim_mm2
    share = expected / (nuclei + expected) if expected else 0.0
    return Outside(found.windows, found.area_mm2, found.nuclei, per_mm2, share)

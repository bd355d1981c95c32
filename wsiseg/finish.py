"""From the parts of a slide to its published result: stitch, label map, grade, thumbnail, record.

Each function is the body of one task: it takes one picklable argument, reads and writes the slide's work folder,
returns little, and may run twice.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsiseg import __version__
from wsiseg.batch import BatchSummary, covering_parts, part_summary
from wsiseg.errors import SlideError, WsisegError
from wsiseg.formats import maps
from wsiseg.formats.geoparquet import NucleiWriter
from wsiseg.formats.tissuefile import load_tissue
from wsiseg.plan import TISSUE, SlidePlan, describe_slide, require_plan
from wsiseg.qc.agreement import Constants
from wsiseg.qc.check import calibrate_slide, judge_patches
from wsiseg.qc.grade import grade_slide
from wsiseg.qc.patches import Patches, plan_patches
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
    write_bytes,
    write_json,
)
from wsiseg.tissue import Tissue

_VERSIONS = ("dask", "distributed", "imagecodecs", "numpy", "openslide-python", "shapely", "torch", "zarr")
_UNKNOWN = (
    *("key", "specification", "tiles", "lost", "nuclei"),
    *("tissue_mm2", "artefacts", "seams", "grade", "timings_s"),
)
"""What the record of a slide that failed cannot say."""


@dataclass(frozen=True)
class JudgeJob:
    """Patches to judge, by their numbers; ``name`` tells the tasks of a slide apart."""

    work: WorkFolder
    name: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class PublishJob:
    """A slide to record. ``seconds``: how long it has taken so far."""

    folder: SlideFolder
    work: WorkFolder
    seconds: float


def stitch_slide(work: WorkFolder) -> dict[str, Any]:
    """Join the parts into ``nuclei.parquet``, each nucleus once."""
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
    work.finish_stage("stitch", summary)
    return summary


def label_jobs(work: WorkFolder) -> list[maps.LabelShard]:
    """The shards of the label map that hold nuclei; makes the empty map."""
    plan = require_plan(work)
    size = (plan.grid.width, plan.grid.height)
    nuclei = work.result / "nuclei.parquet"
    return list(maps.plan_labels(work.result / "maps.zarr", nuclei, size, plan.scale, plan.mpp))


def write_label_pyramid(work: WorkFolder) -> float:
    """The label map's coarser levels, the tissue and the lost area; the seconds it took."""
    started = time.perf_counter()
    plan, tissue = require_plan(work), load_tissue(work.path / TISSUE)
    path = work.result / "maps.zarr"
    maps.write_label_levels(path)
    maps.write_masks(path, tissue.core, tissue.scale, plan.mpp, _stitched(work)["lost"])
    return time.perf_counter() - started


def plan_grading(work: WorkFolder) -> int:
    """Choose the patches and what dark means on this slide; the number of patches."""
    plan, tissue = require_plan(work), load_tissue(work.path / TISSUE)
    with contextlib.closing(plan.open()) as slide:
        patches = plan_patches(slide.width, slide.height, plan.mpp, tissue)
        constants = calibrate_slide(slide, patches)
    # Found once: on a large slide each of the many tasks that judge would need half a second for it.
    write_table(work.path / "patches.parquet", patches.columns())
    work.finish_stage("grading", constants.to_dict())
    return len(patches)


def judge_jobs(work: WorkFolder) -> list[JudgeJob]:
    """The patches in square blocks."""
    blocks = _patches(work).blocks()
    return [JudgeJob(work, f"{n:06d}", tuple(block.tolist())) for n, block in enumerate(blocks)]


def judge(job: JudgeJob) -> float:
    """The verdicts on some patches, into the work folder; the seconds it took."""
    started = time.perf_counter()
    work = job.work
    plan, tissue = require_plan(work), load_tissue(work.path / TISSUE)
    constants = Constants(**(work.stage("grading") or {}))
    with contextlib.closing(plan.open()) as slide:
        nuclei = work.result / "nuclei.parquet"
        verdicts = judge_patches(slide, _patches(work), nuclei, tissue, constants, job.indices)
    with environment_faults(work.path):
        (work.path / "verdicts").mkdir(exist_ok=True)
    write_table(work.path / "verdicts" / f"{job.name}.parquet", verdicts)
    return time.perf_counter() - started


def publish_slide(job: PublishJob) -> dict[str, Any]:
    """Grade, thumbnail and record; then the result gets its final name."""
    started = time.perf_counter()
    work = job.work
    plan, tissue, stitched = require_plan(work), load_tissue(work.path / TISSUE), _stitched(work)
    with contextlib.closing(plan.open()) as slide:
        if slide.fingerprint() != plan.fingerprint:
            raise plan.changed()
        described = describe_slide(slide)
        overview, overview_scale = slide.overview(_overview_mpp(slide, plan.mpp))
    maps.write_overview(work.result / "maps.zarr", overview, overview_scale, plan.mpp)
    lost = _lost(stitched["lost"], tissue, plan.mpp)
    verdicts = _verdicts(work)
    write_table(work.result / "patches.parquet", verdicts)
    grade = grade_slide(verdicts, stitched["tiles"], lost["fraction_of_tissue"], plan.tissue_mm2)
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
    seconds = job.seconds + time.perf_counter() - started
    record = {
        "schema": "wsiseg.slide",
        "version": FORMAT_VERSION,
        "id": job.folder.id,
        "status": "partial" if lost["boxes"] else "complete",
        "error": None,
        "key": plan.key,
        "slide": described,
        "specification": plan.specification,
        "tiles": stitched["tiles"],
        "lost": lost,
        "nuclei": stitched["nuclei"],
        **({"types": stitched["types"]} if plan.types else {}),
        "tissue_mm2": plan.tissue_mm2,
        "artefacts": dict(tissue.artefacts),
        "seams": stitched["seams"],
        "grade": grade.to_dict(),
        "timings_s": {**_timings(plan, stitched), "total": seconds},
        "files": describe_files(work.result),
        "versions": versions(),
        "created": _now(),
    }
    write_json(work.result / RECORD_NAME, record)
    job.folder.publish(work)
    return record


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


def _stitched(work: WorkFolder) -> dict[str, Any]:
    summary = work.stage("stitch")
    if summary is None:
        raise SlideError(f"{work.path} was changed during the run")
    return summary


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


def _patches(work: WorkFolder) -> Patches:
    table = pq.read_table(work.path / "patches.parquet")
    return Patches(**{name: table.column(name).to_numpy() for name in table.column_names})


def _verdicts(work: WorkFolder) -> dict[str, npt.NDArray[np.generic]]:
    """All verdicts in the order of the patches."""
    paths = [work.path / "verdicts" / f"{job.name}.parquet" for job in judge_jobs(work)]
    if not paths:
        return {"reason": np.empty(0, dtype=np.str_)}
    table = pa.concat_tables([pq.read_table(path) for path in paths]).sort_by("index")
    return {name: table.column(name).to_numpy() for name in table.column_names}


def write_table(path: Path, columns: dict[str, npt.NDArray[np.generic]]) -> None:
    """Write columns as Parquet, atomically."""
    sink = pa.BufferOutputStream()
    # Arrow knows Python's strings, not numpy's.
    plain = {name: column.tolist() if column.dtype.kind == "U" else column for name, column in columns.items()}
    pq.write_table(pa.table(plain), sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def _timings(plan: SlidePlan, stitched: dict[str, Any]) -> dict[str, Any]:
    activity = stitched["segment_s"]
    return {
        "tissue": plan.seconds,
        "segment": sum(activity.values()),
        "segment_by_activity": activity,
        "stitch": stitched["seconds"],
    }


def _lost(boxes: list[list[Any]], tissue: Tissue, mpp: float) -> dict[str, Any]:
    """The record's ``lost``. Tiles that a sparse file never held are lost only where there is tissue."""
    kept = [box for box in sorted(boxes) if box[4] != MISSING or _touches(box, tissue)]
    mask = maps.lost_mask(kept, tissue.core.shape, tissue.scale).astype(bool)
    area_px = sum((box[2] - box[0]) * (box[3] - box[1]) for box in kept)
    seen = int(np.count_nonzero(tissue.core | mask))
    return {
        "area_mm2": area_px * (mpp / 1000) ** 2,
        "fraction_of_tissue": float(np.count_nonzero(mask) / seen) if seen else 0.0,
        "boxes": kept,
    }


def _touches(box: list[Any], tissue: Tissue) -> bool:
    return bool((maps.lost_mask([box], tissue.core.shape, tissue.scale).astype(bool) & tissue.core).any())


def _overview_mpp(slide: Slide, mpp: float) -> float:
    """The mpp at which the slide is about as large as its thumbnail."""
    return mpp * max(1.0, max(slide.width, slide.height) / LONG_SIDE_PX)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

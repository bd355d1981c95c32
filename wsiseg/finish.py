"""From the parts of a slide to its published result: stitch, label map, grade, thumbnail, record.

Each function is the body of one task: it takes one picklable argument, reads and writes the slide's work folder,
returns little, and may run twice.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg import __version__
from wsiseg.errors import SlideError, WsisegError
from wsiseg.formats import maps
from wsiseg.formats.geoparquet import NucleiWriter
from wsiseg.geometry import Box, Scale
from wsiseg.segment import BatchSummary, SlidePlan, covering_parts, part_summary, read_plan
from wsiseg.stitch import read_part, stitch
from wsiseg.store import FORMAT_VERSION, RECORD_NAME, SlideFolder, WorkFolder, write_json
from wsiseg.tissue import load_tissue

_VERSIONS = ("dask", "distributed", "imagecodecs", "numpy", "openslide-python", "shapely", "torch", "zarr")
_PATCHES_PER_TASK = 32


def stitch_slide(work: WorkFolder) -> dict[str, Any]:
    """Join the parts into ``nuclei.parquet``, each nucleus once."""
    finished = work.stage("stitch")
    if finished is not None:
        return finished
    started = time.perf_counter()
    plan = _plan(work)
    parts = [part for tiles in plan.batches for part in covering_parts(work, tiles)]
    metadata = {"slide": plan.slide["name"], "mpp": plan.mpp, "downsample": plan.downsample}
    with NucleiWriter(work.result / "nuclei.parquet", metadata) as writer:
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
        "seams": asdict(audit),
        "tiles": _tiles(plan, summaries),
        "lost": [list(box) for summary in summaries for box in summary.lost],
        "segment_s": _seconds(summaries),
        "seconds": time.perf_counter() - started,
    }
    work.finish_stage("stitch", summary)
    return summary


def _plan(work: WorkFolder) -> SlidePlan:
    plan = read_plan(work)
    if plan is None:
        raise SlideError(f"{work.path} was removed during the run")
    return plan


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

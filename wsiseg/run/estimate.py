"""What a run would take: stated beforehand, from a slide's plan and a trial of one of its tiles.

Nothing is written but what a temporary folder holds for that long. The plan is the run's own: tissue, tiles, model.
A small window and then a larger one, each where there is most tissue, are computed by the run's own task in a
process like its workers; time and memory of a whole tile follow from the pixels that each reads. What is not tried
is taken from what it was on other slides, and the interval is that wide.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wsiseg.core.environment import absolute
from wsiseg.core.grid import TileGrid
from wsiseg.core.memory import peak_memory
from wsiseg.errors import SlideError
from wsiseg.models.registry import locate_model
from wsiseg.models.resident import ModelChoice
from wsiseg.qc.patches import PATCH_UM, SAMPLE
from wsiseg.results.folder import SlideFolder, WorkFolder
from wsiseg.results.partfile import BatchSummary
from wsiseg.results.plan import SlidePlan, write_plan
from wsiseg.results.planned import read_planned, read_whole
from wsiseg.run.forerunner import can_fork, start_forerunner
from wsiseg.tiles.batch import BatchJob
from wsiseg.tiles.plan import PlanJob, named, plan_or_reuse
from wsiseg.tiles.request import SegmentOptions, SlideRequest
from wsiseg.tiles.work import read_window, segment_batch
from wsiseg.tissue import Tissue

_TRIALS_PX = (256, 2048)
"""Sides of the windows that are tried. The first also loads and compiles, for which the second is not to blame."""
_END = 0.1
"""Of the time of the tiles: what stitching, labels and pictures take after them."""
_PATCH_S = 0.14
"""What a core takes to judge a patch, of which the second opinion is 0.12 (docs/quality.md)."""
_START_S = 5.0
"""Workers that start, the report, workers that end."""
_INTERVAL = (0.7, 1.6)
"""Around the time of the tiles: cores that share caches are slower than one alone, and tissue is not all alike."""
_NUCLEUS_BYTES = (400, 1200)
"""Of a nucleus in the result (GeoParquet, labels), and beside it in the work folder until the end (parts)."""
_PICTURES_BYTES = 6_000_000
_HOLES, _HOLES_TILES = 0.8, 8
"""A process gives no memory back, and no two tiles leave the same holes in it: its peak rises by so much of what
one tile takes, most of it over so many tiles (docs/design.md, "Size and speed")."""
_BESIDE_BYTES = 250 << 20
"""What second opinions and shards of the label map take where that is more than a tile's."""


@dataclass(frozen=True)
class Estimate:
    """What is expected of one slide.

    Attributes
    ----------
    slide, model : str
    tiles : int
        To be computed, of ``tile_px`` at ``mpp``.
    tissue_mm2 : float
    workers : int
        Processes that the times are for.
    memory_mib : float
        Peak of each.
    disk_mib, work_mib : float
        Of the result, and of what lies beside it until the slide is finished.
    seconds : float
        From the command to its end if this is the only slide, expected; ``seconds_low`` to ``seconds_high``.
    tile_s : float
        Of one tile on one process, of which ``activities`` take these shares.
    """

    slide: str
    model: str
    tiles: int
    tile_px: int
    mpp: float
    tissue_mm2: float
    workers: int
    memory_mib: float
    disk_mib: float
    work_mib: float
    seconds: float
    seconds_low: float
    seconds_high: float
    tile_s: float
    activities: dict[str, float]


def estimate_slide(path: Path, options: SegmentOptions, *, device: str, workers: int) -> Estimate:
    """What segmenting a slide on this machine is expected to take, were nothing of it there yet.

    Parameters
    ----------
    path : Path
    options : SegmentOptions
    device : {"cpu", "cuda"}
    workers : int
        Processes, at least 1.

    Raises
    ------
    SlideError, ModelError, UsageError
        As the run itself would.
    """
    options = replace(options, model=locate_model(options.model))
    choice = options.choice(device, 1)
    request = SlideRequest(absolute(path), options, choice)
    with tempfile.TemporaryDirectory(prefix="wsiseg-") as temporary:
        return _estimate(request, SlideFolder(Path(temporary), "slide"), workers)


def _estimate(request: SlideRequest, folder: SlideFolder, workers: int) -> Estimate:
    started = time.perf_counter()
    planned = plan_or_reuse(PlanJob(folder, request))
    assert planned.plan is not None  # the folder was empty
    plan, before_s = planned.plan, _START_S + time.perf_counter() - started
    _, tissue = read_planned(planned.work)
    trials = _try_apart(planned.work, plan, tissue, named(request.choice, plan)) if plan.tiles else []
    tile = _usual_tile(plan, tissue, trials)
    tiles_s = tile.seconds * math.ceil(len(plan.tiles) / workers) * (1 + _END)
    tiles_s += _PATCH_S * math.ceil(_judged_patches(plan, request.options.qc_all) / workers)
    low, high = (before_s + tiles_s * factor for factor in _INTERVAL)
    result, work = (size * tile.nuclei for size in _NUCLEUS_BYTES)
    return Estimate(
        slide=request.path.name,
        model=plan.specification["model"]["name"],
        tiles=len(plan.tiles),
        tile_px=plan.grid.tile,
        mpp=plan.specification["mpp_effective"],
        tissue_mm2=plan.tissue_mm2,
        workers=workers,
        memory_mib=_memory(tile, len(plan.tiles) / workers) / 2**20,
        disk_mib=(result + _PICTURES_BYTES) / 2**20,
        work_mib=work / 2**20,
        seconds=before_s + tiles_s,
        seconds_low=low,
        seconds_high=high,
        tile_s=tile.seconds,
        activities=tile.activities,
    )


def _memory(tile: _Tile, tiles: float) -> float:
    """The peak of a process that computes so many tiles and what stands beside them, in bytes."""
    if not tiles:
        return tile.base_bytes
    holes = _HOLES * (1 - math.exp(-tiles / _HOLES_TILES))
    return tile.base_bytes + max(tile.own_bytes * (1 + holes), _BESIDE_BYTES)


def _judged_patches(plan: SlidePlan, qc_all: bool) -> float:
    """About how many patches are judged."""
    placed = plan.tissue_mm2 / (PATCH_UM / 1000) ** 2
    return placed if qc_all else min(placed, SAMPLE)


@dataclass(frozen=True)
class _Trial:
    """A window that was tried: the pixels that were read for it, its tissue, and what it took."""

    read_px: int
    tissue_mm2: float
    summary: BatchSummary
    peak_bytes: int


def _try_apart(work: WorkFolder, plan: SlidePlan, tissue: Tissue, choice: ModelChoice) -> list[_Trial]:
    """The trials in a process like a run's workers: what planning has held counts for nothing there.

    Raises
    ------
    SlideError
        It died of them.
    """
    start_forerunner()
    context = multiprocessing.get_context("forkserver" if can_fork() else "spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(_try, work, plan, tissue, choice).result()
        except BrokenProcessPool as error:
            raise SlideError(
                f"the process that tried a tile of {plan.source.name} died: too little memory (take a smaller "
                "--tile) or a crash in a library"
            ) from error


def _try(work: WorkFolder, plan: SlidePlan, tissue: Tissue, choice: ModelChoice) -> list[_Trial]:
    """The windows in the place with the most tissue, the smaller one first."""
    whole, trials = read_whole(work), []
    for side in sorted({min(side, plan.grid.tile) for side in _TRIALS_PX}):
        grid = replace(plan.grid, tile=side)
        ratio = tissue.scale.downsample / plan.downsample
        area = {int(tile): _cells(tissue.core, grid, tile, ratio) for tile in grid.touching(tissue.mask, ratio)}
        tile = max(area, key=lambda tile: (area[tile], -tile))
        tried = replace(plan, grid=grid, tiles=(tile,))
        write_plan(work, tried, tissue, whole)
        summary = segment_batch(BatchJob(work, (tile,), choice))
        mm2 = area[tile] * (tissue.scale.downsample * plan.mpp / 1000) ** 2
        trials.append(_Trial(read_window(tried, tissue, tile).area, mm2, summary, peak_memory()))
    return trials


def _cells(core: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], grid: TileGrid, tile: int, ratio: float) -> int:
    """How many cells of tissue a tile holds."""
    window = grid.core(tile)
    y0, y1, x0, x1 = (round(at / ratio) for at in (window.y, window.y1, window.x, window.x1))
    return int(np.count_nonzero(core[y0:y1, x0:x1]))


@dataclass(frozen=True)
class _Tile:
    """What a tile takes by its trials, and the nuclei of the slide at their density.

    ``base_bytes``: of a process before it has a tile; ``own_bytes``: of the largest tile.
    """

    seconds: float
    activities: dict[str, float]
    base_bytes: float
    own_bytes: float
    nuclei: float


def _usual_tile(plan: SlidePlan, tissue: Tissue, trials: Sequence[_Trial]) -> _Tile:
    if not trials:
        return _Tile(0.0, {}, peak_memory(), 0.0, 0.0)
    first, last = trials[0], trials[-1]
    read_px = [read_window(plan, tissue, tile).area for tile in plan.tiles]
    seconds = sum(last.summary.seconds.values())
    bytes_px = (last.peak_bytes - first.peak_bytes) / max(1, last.read_px - first.read_px)
    return _Tile(
        seconds=seconds * statistics.mean(read_px) / last.read_px,
        activities={name: value / seconds for name, value in last.summary.seconds.items()},
        base_bytes=last.peak_bytes - bytes_px * last.read_px,
        own_bytes=bytes_px * max(read_px),
        nuclei=last.summary.nuclei / last.tissue_mm2 * plan.tissue_mm2 if last.tissue_mm2 else 0.0,
    )

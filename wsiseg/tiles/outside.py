"""The tissue's own check: windows just outside it are segmented as well, and what is found there is counted.

The windows are cells of a lattice of their own, the same for every tile size. What is found in them is no result:
it says whether the mask has missed something, and goes into the record as numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wsiseg.core.environment import environment_fault
from wsiseg.core.geometry import Window
from wsiseg.core.grid import round_up
from wsiseg.models.base import Segmenter
from wsiseg.models.engine.threads import side_by_side
from wsiseg.models.resident import ModelChoice, resident_segmenter
from wsiseg.results.folder import WorkFolder
from wsiseg.results.plan import SlidePlan
from wsiseg.results.planned import open_planned, read_planned
from wsiseg.results.stages import OUTSIDE, FoundOutside
from wsiseg.slide import Slide
from wsiseg.tiles.borders import segment_within
from wsiseg.tissue import Tissue, stained

WINDOW_UM = 128.0
"""Side of a window, and how far from the tissue one may lie."""
_WINDOWS = (4, 32)
"""The least and the most windows, where there is room for them."""
_TISSUE_PER_WINDOW = 20.0
"""Between those, one for each so many windows' worth of tissue."""
_OPEN = 0.5
"""So much of a window lies outside."""


@dataclass(frozen=True)
class OutsideJob:
    """A slide whose tissue is to be checked. ``alone``: a worker died of it; ``lost``: it is given up."""

    work: WorkFolder
    choice: ModelChoice
    alone: bool = False
    lost: bool = False

    def retries(self) -> Sequence[OutsideJob]:
        """The same alone, then without: see :mod:`wsiseg.run.isolation`."""
        if not self.alone:
            return (replace(self, alone=True),)
        return () if self.lost else (replace(self, lost=True),)


def check_outside(job: OutsideJob) -> FoundOutside:
    """Segment windows just outside the tissue as the tiles are segmented, and count the nuclei there.

    A window that cannot be read or segmented is left out.

    Raises
    ------
    SlideError
        The slide is not the one that was planned any more.
    EnvironmentFault
        The disk or the file handles have run out.
    """
    finished = job.work.stage(OUTSIDE, FoundOutside)
    if finished is not None:
        return finished
    started = time.perf_counter()
    plan, tissue = read_planned(job.work)
    windows = [] if job.lost else outside_windows(plan, tissue)
    counts: list[tuple[int, int]] = []
    if windows:
        segmenter = resident_segmenter(job.choice, plan.specification["model"])
        with open_planned(job.work, plan, guarded=job.alone) as slide, side_by_side(1):
            seen = [_count(job, plan, slide, tissue, segmenter, window) for window in windows]
            counts = [one for one in seen if one is not None]
    mm2 = (tissue.scale.downsample * plan.mpp / 1000.0) ** 2
    found = FoundOutside(
        windows=len(counts),
        nuclei=sum(nuclei for nuclei, _ in counts),
        area_mm2=sum(cells for _, cells in counts) * mm2,
        rim_mm2=float(np.count_nonzero(tissue.just_outside(WINDOW_UM, plan.mpp))) * mm2,
        seconds=time.perf_counter() - started,
    )
    job.work.finish_stage(OUTSIDE, found)
    return found


def outside_windows(plan: SlidePlan, tissue: Tissue) -> list[Window]:
    """The windows, in lattice pixels: spread evenly over those that lie mostly just outside the tissue.

    None where nothing is outside; anywhere on the glass where there is no tissue at all.
    """
    side = round_up(int(np.ceil(WINDOW_UM / (plan.mpp * plan.downsample))), plan.grid.stride)
    cell = side * plan.downsample / tissue.scale.downsample  # side of a window in cells of the mask
    rows, columns = np.nonzero(tissue.just_outside(WINDOW_UM, plan.mpp))
    across = int(np.ceil(tissue.mask.shape[1] / cell))
    index = np.floor((rows + 0.5) / cell).astype(np.int64) * across + np.floor((columns + 0.5) / cell).astype(int)
    numbers, counts = np.unique(index, return_counts=True)
    numbers = numbers[counts >= _OPEN * cell**2]
    wanted = np.clip(np.count_nonzero(tissue.mask) / (_TISSUE_PER_WINDOW * cell**2), *_WINDOWS)
    chosen = np.unique(np.linspace(0, len(numbers) - 1, min(int(wanted), len(numbers))).round().astype(np.int64))
    return [Window(int(n % across) * side, int(n // across) * side, side, side) for n in numbers[chosen]]


def _count(
    job: OutsideJob, plan: SlidePlan, slide: Slide, tissue: Tissue, segmenter: Segmenter, window: Window
) -> tuple[int, int] | None:
    """The nuclei outside the tissue in a window, and in how many cells of the mask; None where it fails."""
    scale, read = plan.scale, window.pad(plan.grid.halo)
    try:
        image, lost = slide.read_lossy(read, scale)
        if any(not part.missing for part in lost):
            return None
        found = segment_within(segmenter, image, read, slide.lattice(scale), plan.calibration)
    except Exception as error:  # as for a tile: it leaves the others alone
        fault = environment_fault(error, job.work.path)
        if fault is not None:
            raise fault from error
        return None
    xy = found.centroids()
    xy = xy[(xy >= (window.x, window.y)).all(axis=1) & (xy < (window.x1, window.y1)).all(axis=1)]
    x, y = np.floor(xy - (read.x, read.y)).astype(np.int64).T
    # Networks see nuclei along dark edges of the coverslip as well; those are grey.
    nuclei = int(np.count_nonzero(tissue.excludes(scale.to_level0(xy)) & stained(image[y, x])))
    ratio = tissue.scale.downsample / scale.downsample
    y0, y1, x0, x1 = (int(np.ceil(at / ratio - 0.5)) for at in (window.y, window.y1, window.x, window.x1))
    return nuclei, int(np.count_nonzero(tissue.outside[y0:y1, x0:x1]))

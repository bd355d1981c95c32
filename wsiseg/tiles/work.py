"""The task that segments: read, infer, decode and measure a batch's tiles, commit its part. No Dask in sight."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsiseg.core.environment import environment_fault, environment_faults
from wsiseg.core.geometry import Box, Scale, Window
from wsiseg.core.memory import peak_memory
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.typed import as_plain
from wsiseg.errors import WsisegError
from wsiseg.models.base import Segmenter
from wsiseg.models.engine.threads import side_by_side
from wsiseg.models.resident import ModelChoice, resident_segmenter
from wsiseg.results.partfile import BatchSummary, write_part
from wsiseg.results.plan import SlidePlan
from wsiseg.results.planned import open_planned, read_planned
from wsiseg.results.record import LostBox
from wsiseg.slide import Slide
from wsiseg.tiles.batch import BatchJob, empty_candidates, give_up
from wsiseg.tiles.borders import segment_within
from wsiseg.tiles.candidates import select_candidates
from wsiseg.tiles.measure import measure
from wsiseg.tissue import Tissue


def load_early(choice: ModelChoice) -> None:
    """Load what a tile needs, libraries and segmenter, in a process that is still idle."""
    resident_segmenter(choice)


def segment_batch(job: BatchJob) -> BatchSummary:
    """Compute the nuclei of some tiles and commit them as a part file.

    A tile whose pixels or whose model fail is counted and leaves the others alone. Running it twice writes the
    same part twice.

    Raises
    ------
    SlideError
        The slide is not the one that was planned any more.
    EnvironmentFault
        The disk or the file handles have run out.
    """
    if job.lost:
        return give_up(job)
    plan, tissue = read_planned(job.work)
    with open_planned(job.work, plan, guarded=job.alone) as slide, side_by_side(job.threads):
        found = _segment_tiles(job, plan, slide, tissue)
    joined = Nuclei.concatenate(found.nuclei) if found.nuclei else empty_candidates(plan.types)
    part = job.work.part(job.tiles[0], job.tiles[-1])
    with _timed(found.seconds, "write"):
        owned = int(np.count_nonzero(joined.columns["owned"]))
        summary = BatchSummary(
            job.tiles, owned, tuple(found.failed), tuple(found.lost), found.seconds, peak_memory()
        )
        with environment_faults(part):
            write_part(part, joined, as_plain(summary))
    return summary


@dataclass
class _Found:
    """What the tiles of a batch hold, as far as they could be computed."""

    nuclei: list[Nuclei] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)
    lost: list[LostBox] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def _segment_tiles(job: BatchJob, plan: SlidePlan, slide: Slide, tissue: Tissue) -> _Found:
    segmenter, batch = resident_segmenter(job.choice, plan.specification["model"]), _Found()
    for tile in job.tiles:
        try:
            found, unreadable = _segment_tile(plan, slide, tissue, segmenter, tile, batch.seconds)
        except Exception as error:
            fault = environment_fault(error, job.work.path)
            if fault is not None:
                raise fault from error
            batch.failed.append((tile, _cause(error)))
            core = plan.scale.box(plan.grid.core(tile))
            batch.lost.append(LostBox(core.x0, core.y0, core.x1, core.y1, _cause(error)))
            continue
        batch.nuclei.append(found)
        batch.lost.extend(unreadable)
    return batch


def _segment_tile(
    plan: SlidePlan, slide: Slide, tissue: Tissue, segmenter: Segmenter, tile: int, seconds: dict[str, float]
) -> tuple[Nuclei, list[LostBox]]:
    window, scale = read_window(plan, tissue, tile), plan.scale
    with _timed(seconds, "read"):
        image, lost = slide.read_lossy(window, scale)
    core = scale.box(plan.grid.core(tile)).intersection(scale.box(window))
    if lost and _covers(core, [item.box for item in lost]):
        raise WsisegError(f"no readable pixel ({lost[0].reason})")
    lattice = slide.lattice(scale)
    with _timed(seconds, "infer"):
        found = segment_within(segmenter, image, window, lattice, plan.calibration)
    with _timed(seconds, "measure"):
        candidates = select_candidates(found, plan.grid, tile, plan.band_px)
        inside = tissue.contains(scale.to_level0(candidates.centroids()))
        for item in lost:
            inside &= ~_overlaps(candidates, scale, item.box)
        kept = candidates.take(inside)
        measured = measure(kept.translate(-window.x, -window.y), image, lattice.mpp)
    order = list(empty_candidates(plan.types).columns)
    columns = {name: measured.columns[name] for name in order}
    level0 = Nuclei(kept.vertices, kept.offsets, columns).scale(scale)
    own = [(item.box.intersection(core), item.reason) for item in lost]
    return level0, [LostBox(b.x0, b.y0, b.x1, b.y1, reason) for b, reason in own if not b.empty]


def read_window(plan: SlidePlan, tissue: Tissue, tile: int) -> Window:
    """The lattice pixels that a tile reads: a halo around where it can have nuclei to hand over.

    That is on tissue, in the core or in the band around it whose nuclei seams are decided by.
    """
    near = plan.grid.core(tile).pad(math.ceil(plan.band_px))
    extent = tissue.extent(plan.scale.box(near))
    return plan.grid.read(tile, None if extent is None else plan.scale.window(extent))


def _overlaps(nuclei: Nuclei, scale: Scale, box: Box) -> npt.NDArray[np.bool_]:
    bounds = nuclei.bounds() * scale.downsample
    return (bounds[:, 0] < box.x1) & (bounds[:, 2] > box.x0) & (bounds[:, 1] < box.y1) & (bounds[:, 3] > box.y0)


def _covers(core: Box, boxes: list[Box]) -> bool:
    """Whether disjoint ``boxes`` leave nothing of ``core``."""
    return sum(core.intersection(box).area for box in boxes) >= core.area * (1 - 1e-9)


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, WsisegError) else f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the block's wall time to ``seconds[name]``."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started

"""One slide's plan and one tile batch, each in one process: no Dask in sight.

``plan_slide`` decides everything that all tiles share and writes it to the work folder; ``segment_batch`` reads it
there, computes the nuclei of some consecutive tiles and commits them as one part file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.edges import cut_at_edges, mirror_beyond
from wsiseg.errors import SlideError, WsisegError
from wsiseg.formats.tissuefile import load_tissue, save_tissue
from wsiseg.geometry import Box, Scale, Window
from wsiseg.grid import TileGrid, round_up
from wsiseg.measure import MEASUREMENTS, measure
from wsiseg.models.base import Segmenter
from wsiseg.models.registry import load_segmenter
from wsiseg.nuclei import Nuclei
from wsiseg.region import read_mask_geojson
from wsiseg.slide import Slide, open_slide
from wsiseg.stitch import BAND_UM, read_part, read_part_summary, select_candidates, write_part
from wsiseg.store import (
    SlideFolder,
    WorkFolder,
    environment_fault,
    environment_faults,
    read_json,
    result_key,
    write_json,
)
from wsiseg.tissue import Tissue, find_tissue

_CALIBRATION_WINDOWS = 16
_CALIBRATION_PX = 512
_BATCH_PX = 2048 * 2048
"""Core pixels of a batch: a second or more of computing, against two milliseconds of scheduling."""


@dataclass(frozen=True)
class ModelChoice:
    """Which segmenter a worker loads, and on what."""

    model: str
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    """Torch threads of a worker process; None leaves torch's own choice."""
    engine: str = "auto"
    """``auto``, ``torch`` or ``openvino``."""
    mirrors: bool = False
    """Average a network's maps over mirror images."""


@dataclass(frozen=True)
class SlideRequest:
    """What the user asked for one slide.

    ``mpp`` is the user's value for the slide itself (None: what its metadata say).
    """

    path: str
    mpp: float | None
    mpp_table: str | None
    choice: ModelChoice
    tile: int
    roi: tuple[float, float, float, float] | None
    mask: str | None
    tissue_only: bool


@dataclass(frozen=True)
class SlidePlan:
    """All that the tiles of one slide share; JSON on disk (``plan.json``), the tissue beside it."""

    path: str
    mpp: float
    mpp_option: float | None
    mpp_table: str | None
    downsample: float
    grid: TileGrid
    band_px: float
    calibration: Mapping[str, float]
    tiles: tuple[int, ...]
    key: str
    slide: Mapping[str, Any]
    specification: Mapping[str, Any]
    tissue_mm2: float
    seconds: float

    @property
    def scale(self) -> Scale:
        return Scale(self.downsample)

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the types that the model gives to nuclei; () for none."""
        return tuple(self.specification["model"].get("types", ()))

    @property
    def batches(self) -> list[tuple[int, ...]]:
        """The tiles in groups of consecutive ones, each the work of one task."""
        size = max(1, _BATCH_PX // self.grid.tile**2)
        return [self.tiles[i : i + size] for i in range(0, len(self.tiles), size)]

    def open(self) -> Slide:
        return open_slide(self.path, mpp=self.mpp_option, mpp_table=self.mpp_table)


@dataclass(frozen=True)
class BatchJob:
    """Tiles for one task. ``alone``: one tile of a batch whose worker died, to be tried while nothing else runs."""

    work: str
    tiles: tuple[int, ...]
    choice: ModelChoice
    alone: bool = False


@dataclass(frozen=True)
class BatchSummary:
    """What a task returns: small, whatever the number of nuclei."""

    tiles: tuple[int, ...]
    nuclei: int
    failed: tuple[tuple[int, str], ...] = ()
    lost: tuple[tuple[float, float, float, float, str], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> BatchSummary:
        return cls(
            tuple(value["tiles"]),
            value["nuclei"],
            tuple((int(tile), str(cause)) for tile, cause in value["failed"]),
            tuple((*map(float, box[:4]), str(box[4])) for box in value["lost"]),  # type: ignore[misc]
            dict(value["seconds"]),
        )


def specify(slide: Slide, request: SlideRequest, segmenter: Segmenter) -> dict[str, Any]:
    """The specification: all that, with the slide's content, decides the result. JSON."""
    mpp = slide.require_mpp()
    scale = slide.scale(segmenter.mpp)
    halo_um = segmenter.max_diameter_um
    halo = round_up(segmenter.margin_px + int(np.ceil(halo_um / segmenter.mpp)), segmenter.stride_px)
    mask = hashlib.sha256(Path(request.mask).read_bytes()).hexdigest() if request.mask else None
    return {
        "model": segmenter.describe(),
        "slide_mpp": mpp.value,
        "mpp_requested": segmenter.mpp,
        "mpp_effective": mpp.value * scale.downsample,
        "downsample": scale.downsample,
        "tile_px": request.tile,
        "halo_px": halo,
        "band_um": BAND_UM,
        "roi": list(request.roi) if request.roi else None,
        "mask_sha256": mask,
        "tissue_only": request.tissue_only,
    }


@dataclass(frozen=True)
class PlanJob:
    """A slide to plan. ``retry_partial``: a finished result that lost area does not count as finished."""

    folder: SlideFolder
    request: SlideRequest
    retry_partial: bool = False


@dataclass(frozen=True)
class Planned:
    """A plan to carry out, or the record of a finished result that is still valid."""

    key: str
    plan: SlidePlan | None = None
    unchanged: dict[str, Any] | None = None


def plan_or_reuse(job: PlanJob) -> Planned:
    """Open the slide and see whether its result is there already; plan it if not."""
    with open_slide(job.request.path, mpp=job.request.mpp, mpp_table=job.request.mpp_table) as slide:
        specification = specify(slide, job.request, resident_segmenter(job.request.choice))
        key = result_key(slide.fingerprint(), specification)
        record = job.folder.record()
        reusable = ("complete",) if job.retry_partial else ("complete", "partial")
        if record is not None and record.get("key") == key and record.get("status") in reusable:
            job.folder.clean()
            return Planned(key, unchanged=record)
        return Planned(key, plan_slide(slide, job.request, specification, key, job.folder.in_progress(key)))


def plan_slide(
    slide: Slide, request: SlideRequest, specification: Mapping[str, Any], key: str, work: WorkFolder
) -> SlidePlan:
    """Find the tissue, choose the tiles, calibrate the model; written to ``work`` and read back on resumption."""
    found = read_plan(work)
    if found is not None and found.key == key:
        return found
    started = time.perf_counter()
    segmenter = resident_segmenter(request.choice)
    mpp = slide.require_mpp()
    scale = Scale(specification["downsample"])
    width, height = scale.size(slide.width, slide.height)
    grid = TileGrid(width, height, request.tile, specification["halo_px"], segmenter.stride_px)
    everything = find_tissue(slide)
    tissue = _region(everything, request)
    tiles = grid.touching(tissue.mask, tissue.scale.downsample / scale.downsample)
    if len(tiles) == 0:
        _require_readable(slide)
    # On the whole slide's tissue: a region of interest must give the nuclei that the whole slide gives there.
    calibration = segmenter.calibrate(_samples(slide, scale, everything))
    plan = SlidePlan(
        path=str(slide.path),
        mpp=mpp.value,
        mpp_option=request.mpp,
        mpp_table=request.mpp_table,
        downsample=scale.downsample,
        grid=grid,
        band_px=BAND_UM / specification["mpp_effective"],
        calibration=dict(calibration),
        tiles=tuple(int(tile) for tile in tiles),
        key=key,
        slide=describe_slide(slide),
        specification={**specification, "calibration": dict(calibration)},
        tissue_mm2=tissue.area_mm2(mpp.value),
        seconds=time.perf_counter() - started,
    )
    work.create()
    save_tissue(work.path / "tissue.npz", tissue)
    write_json(work.path / "plan.json", asdict(plan))
    return plan


def read_plan(work: WorkFolder) -> SlidePlan | None:
    """The plan in ``work``, or None."""
    value = read_json(work.path / "plan.json")
    if value is None:
        return None
    return SlidePlan(**{**value, "grid": TileGrid(**value["grid"]), "tiles": tuple(value["tiles"])})


def describe_slide(slide: Slide) -> dict[str, Any]:
    """The record's ``slide`` object (docs/format.md)."""
    mpp = slide.mpp
    bounds = slide.bounds
    return {
        "path": os.path.abspath(slide.path),
        "name": slide.name,
        "fingerprint": slide.fingerprint(),
        "reader": slide.reader,
        "vendor": slide.vendor,
        "width": slide.width,
        "height": slide.height,
        "levels": [[level.width, level.height] for level in slide.levels],
        "mpp": None if mpp is None else mpp.value,
        "mpp_source": None if mpp is None else mpp.source,
        "bounds": [bounds.x0, bounds.y0, bounds.x1, bounds.y1],
    }


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
    work = WorkFolder(Path(job.work))
    part = work.part(job.tiles[0], job.tiles[-1])
    plan, slide, tissue, identity = _opened(job.work, threading.get_ident())
    segmenter = resident_segmenter(job.choice)
    nuclei: list[Nuclei] = []
    failed: list[tuple[int, str]] = []
    lost: list[tuple[float, float, float, float, str]] = []
    seconds: dict[str, float] = {}
    for tile in job.tiles:
        try:
            found, unreadable = _segment_tile(plan, slide, tissue, segmenter, tile, seconds)
        except Exception as error:
            fault = environment_fault(error, work.path)
            if fault is not None:
                raise fault from error
            failed.append((tile, _cause(error)))
            core = plan.scale.box(plan.grid.core(tile))
            lost.append((core.x0, core.y0, core.x1, core.y1, _cause(error)))
            continue
        nuclei.append(found)
        lost.extend(unreadable)
    if _identity(plan.path) != identity:
        raise _changed(plan)
    joined = Nuclei.concatenate(nuclei) if nuclei else empty_candidates(plan.types)
    with timed(seconds, "write"):
        owned = int(np.count_nonzero(joined.columns["owned"]))
        summary = BatchSummary(job.tiles, owned, tuple(failed), tuple(lost), seconds)
        with environment_faults(part):
            write_part(part, joined, summary.to_dict())
    return summary


def fail_batch(job: BatchJob, cause: str) -> BatchSummary:
    """Commit a part that says that its tiles could not be computed (their workers died)."""
    work = WorkFolder(Path(job.work))
    plan = read_plan(work)
    assert plan is not None
    boxes = [plan.scale.box(plan.grid.core(tile)) for tile in job.tiles]
    lost = tuple((box.x0, box.y0, box.x1, box.y1, cause) for box in boxes)
    summary = BatchSummary(job.tiles, 0, tuple((tile, cause) for tile in job.tiles), lost)
    write_part(work.part(job.tiles[0], job.tiles[-1]), empty_candidates(plan.types), summary.to_dict())
    return summary


def covering_parts(work: WorkFolder, tiles: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The committed parts of a batch: the batch itself, or its tiles one by one where it had to be split."""
    if work.part(tiles[0], tiles[-1]).exists():
        return [tiles]
    return [(tile,) for tile in tiles if work.part(tile, tile).exists()]


def part_summary(work: WorkFolder, tiles: tuple[int, ...]) -> BatchSummary:
    """The summary of a committed part."""
    return BatchSummary.from_dict(read_part_summary(work.part(tiles[0], tiles[-1])))


def part_nuclei(work: WorkFolder, tiles: tuple[int, ...]) -> Nuclei:
    """The candidates of a part."""
    return read_part(work.part(tiles[0], tiles[-1]))


def empty_candidates(types: Sequence[str] = ()) -> Nuclei:
    """No candidates, with the columns that every part has of a model with these types of nuclei."""
    columns: dict[str, npt.NDArray[np.generic]] = {"score": np.empty(0, np.float32)}
    if types:
        columns.update(type=np.empty(0, np.int16), type_prob=np.empty(0, np.float32))
    columns.update({name: np.empty(0, np.float32) for name in MEASUREMENTS})
    columns.update(tile=np.empty(0, np.int64), owned=np.empty(0, bool), seam=np.empty(0, bool))
    return Nuclei.empty(columns)


def resident_segmenter(choice: ModelChoice) -> Segmenter:
    """The process's one segmenter for a choice, loaded when it is first asked for."""
    with _LOADING:
        return _load(choice)


def _segment_tile(
    plan: SlidePlan, slide: Slide, tissue: Tissue, segmenter: Segmenter, tile: int, seconds: dict[str, float]
) -> tuple[Nuclei, list[tuple[float, float, float, float, str]]]:
    window, scale = plan.grid.read(tile), plan.scale
    with timed(seconds, "read"):
        image, lost = slide.read_lossy(window, scale)
    core = scale.box(plan.grid.core(tile))
    if lost and _covers(core, [item.box for item in lost]):
        raise WsisegError(f"no readable pixel ({lost[0].reason})")
    size = (slide.width / scale.downsample, slide.height / scale.downsample)
    with timed(seconds, "infer"):
        (found,) = segmenter.segment([mirror_beyond(image, window, size)], plan.calibration)
    with timed(seconds, "measure"):
        found = cut_at_edges(found.translate(window.x, window.y), size, plan.specification["mpp_effective"])
        candidates = select_candidates(found, plan.grid, tile, plan.band_px)
        inside = tissue.contains(scale.to_level0(candidates.centroids()))
        for item in lost:
            inside &= ~_overlaps(candidates, scale, item.box)
        kept = candidates.take(inside)
        measured = measure(kept.translate(-window.x, -window.y), image, plan.specification["mpp_effective"])
    order = list(empty_candidates(plan.types).columns)
    columns = {name: measured.columns[name] for name in order}
    level0 = Nuclei(kept.vertices, kept.offsets, columns).scale(scale)
    own = [(item.box.intersection(core), item.reason) for item in lost]
    return level0, [(b.x0, b.y0, b.x1, b.y1, reason) for b, reason in own if not b.empty]


def _overlaps(nuclei: Nuclei, scale: Scale, box: Box) -> npt.NDArray[np.bool_]:
    bounds = nuclei.bounds() * scale.downsample
    return (
        (bounds[:, 0] < box.x1) & (bounds[:, 2] > box.x0) & (bounds[:, 1] < box.y1) & (bounds[:, 3] > box.y0)
    )


def _covers(core: Box, boxes: list[Box]) -> bool:
    """Whether disjoint ``boxes`` leave nothing of ``core``."""
    return sum(core.intersection(box).area for box in boxes) >= core.area * (1 - 1e-9)


def _region(tissue: Tissue, request: SlideRequest) -> Tissue:
    """Where nuclei are wanted: tissue, inside the region of interest and the mask."""
    if not request.tissue_only:
        tissue = replace(tissue, mask=np.ones_like(tissue.mask), core=np.ones_like(tissue.core))
    if request.roi is not None:
        x, y, width, height = request.roi
        tissue = tissue.restrict(Box(x, y, x + width, y + height))
    if request.mask is not None:
        tissue = tissue.restrict(read_mask_geojson(Path(request.mask)))
    return tissue


def _require_readable(slide: Slide) -> None:
    """Tell a slide without tissue from one of which nothing can be read, by some places spread over it.

    Raises
    ------
    SlideError
        None of the places can be read.
    """
    reasons: list[str] = []
    for y in np.linspace(0, slide.height - 1, 8).astype(int):
        for x in np.linspace(0, slide.width - 1, 8).astype(int):
            _, lost = slide.read_lossy(Window(int(x), int(y), 1, 1), Scale(1.0))
            if not lost:
                return
            reasons.append(lost[0].reason)
    raise SlideError(
        f"{slide.name}: its metadata can be read, but none of its pixels ({reasons[0]}).\n"
        "Expected: an intact slide. Copy it again and compare its size and checksum with the original's."
    )


def _samples(slide: Slide, scale: Scale, tissue: Tissue) -> Iterator[npt.NDArray[np.uint8]]:
    """Images spread evenly over the tissue, the same for every tile size; read only if a model asks."""
    ratio = tissue.scale.downsample / scale.downsample
    rows, columns = np.nonzero(tissue.mask)
    if rows.size == 0:
        return
    for place in np.linspace(0, rows.size - 1, _CALIBRATION_WINDOWS).round().astype(int):
        x, y = int((columns[place] + 0.5) * ratio), int((rows[place] + 0.5) * ratio)
        half = _CALIBRATION_PX // 2
        image, _ = slide.read_lossy(Window(x - half, y - half, _CALIBRATION_PX, _CALIBRATION_PX), scale)
        yield image


@functools.lru_cache(maxsize=16)
def _opened(work: str, _thread: int) -> tuple[SlidePlan, Slide, Tissue, tuple[int, int, int]]:
    plan = read_plan(WorkFolder(Path(work)))
    if plan is None:
        raise SlideError(f"{work} was removed during the run. Run the same command again.")
    identity, slide = _identity(plan.path), plan.open()
    if slide.fingerprint() != plan.slide["fingerprint"]:
        raise _changed(plan)
    return plan, slide, load_tissue(Path(work) / "tissue.npz"), identity


def _identity(path: str) -> tuple[int, int, int]:
    """What tells, for the price of a stat, that a file is still the one that was opened."""
    try:
        status = os.stat(path)
    except OSError as error:
        cause = error.strerror
        raise SlideError(f"{path} was lost during the run: {cause}. Run the command again with it.") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _changed(plan: SlidePlan) -> SlideError:
    return SlideError(f"{plan.path} was changed during the run. Run the same command again.")


_LOADING = threading.Lock()


@functools.lru_cache(maxsize=2)
def _load(choice: ModelChoice) -> Segmenter:
    if choice.threads is not None:
        import torch

        torch.set_num_threads(choice.threads)
    return load_segmenter(
        choice.model,
        device=choice.device,
        precision=choice.precision,
        engine=choice.engine,
        mirrors=choice.mirrors,
    )


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, WsisegError) else f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the block's wall time to ``seconds[name]``."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started

"""What is to be done for one slide: decided once, written to its work folder, read there by every task.

``plan_or_reuse`` is the body of a task: it opens the slide, finds a result that is still valid, or plans one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.errors import SlideError
from wsiseg.featurefile import viewer_origin
from wsiseg.formats.tissuefile import save_tissue
from wsiseg.geometry import Scale, Window
from wsiseg.grid import TileGrid, round_up
from wsiseg.models.base import Segmenter
from wsiseg.models.resident import ModelChoice, resident_segmenter
from wsiseg.region import requested_region
from wsiseg.slide import Slide, open_slide
from wsiseg.stitch import BAND_UM
from wsiseg.store import SlideFolder, WorkFolder, read_json, result_key, write_json
from wsiseg.tissue import Tissue, find_tissue

_CALIBRATION_WINDOWS = 16
_CALIBRATION_PX = 512
_BATCH_PX = 2048 * 2048
"""Core pixels of a batch: a second or more of computing, against two milliseconds of scheduling."""


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
    notes: tuple[str, ...] = ()

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


def specify(slide: Slide, request: SlideRequest, segmenter: Segmenter) -> dict[str, Any]:
    """The specification: all that, with the slide's content, decides the result. JSON."""
    mpp = slide.require_mpp()
    scale = slide.scale(segmenter.mpp)
    halo_um = segmenter.max_diameter_um
    halo = round_up(segmenter.margin_px + int(np.ceil(halo_um / segmenter.mpp)), segmenter.stride_px)
    mask = hashlib.sha256(Path(request.mask).read_bytes()).hexdigest() if request.mask else None
    origin = viewer_origin(slide.bounds)
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
        # Only where it moves the mask: of other slides, results of before it did are as good as ever.
        **({"mask_origin": list(origin)} if mask and any(origin) else {}),
        "tissue_only": request.tissue_only,
    }


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
    tissue, notes = _region(everything, request, viewer_origin(slide.bounds))
    tiles = grid.touching(tissue.mask, tissue.scale.downsample / scale.downsample)
    if len(tiles) == 0:
        _require_readable(slide)
        notes += _nothing_left(everything, request)
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
        notes=notes,
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
    lists = {name: tuple(value.get(name, ())) for name in ("tiles", "notes")}
    return SlidePlan(**{**value, **lists, "grid": TileGrid(**value["grid"])})


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


def _region(
    tissue: Tissue, request: SlideRequest, origin: tuple[float, float]
) -> tuple[Tissue, tuple[str, ...]]:
    """Where nuclei are wanted: tissue, inside the region of interest and the mask; and what is to be said of it."""
    if not request.tissue_only:
        tissue = replace(tissue, mask=np.ones_like(tissue.mask), core=np.ones_like(tissue.core))
    requested = requested_region(request.roi, request.mask)
    region, notes = requested.on(origin), requested.notes
    if requested.mask is not None and any(origin):
        x, y = origin
        notes += (
            f"The mask was moved by {x:g}, {y:g} pixels: GeoJSON counts from the corner of the slide's bounds, "
            "as QuPath shows it.",
        )
    return (tissue if region is None else tissue.restrict(region)), notes


def _nothing_left(tissue: Tissue, request: SlideRequest) -> tuple[str, ...]:
    """What to say of a region in which there is no tile to segment, though there is tissue elsewhere."""
    if (request.roi is None and request.mask is None) or not tissue.mask.any():
        return ()
    what = "mask" if request.roi is None else "region of interest" if request.mask is None else "mask and region"
    return (f"The {what} leaves no tile: the slide has tissue, but none in it.",)


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

"""What is to be done for one slide: decided once, written to its work folder, read there by every task.

``plan_or_reuse`` is the body of a task: it opens the slide, finds a result that is still valid, or plans one. The
plan holds what follows from the slide's content and the specification; where the slide lies and what the user said
of its pixels is of the run that asks, and travels with its tasks.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wsiseg.core.featurefile import viewer_origin
from wsiseg.core.geometry import Scale, Window
from wsiseg.core.grid import TileGrid, round_up
from wsiseg.core.region import requested_region
from wsiseg.errors import SlideError
from wsiseg.models.automatic import ACCURATE, FAST, Pick, device_kind, pick_model
from wsiseg.models.base import Segmenter
from wsiseg.models.engine.threads import side_by_side
from wsiseg.models.registry import AUTO
from wsiseg.models.resident import ModelChoice, resident_segmenter
from wsiseg.results.folder import SlideFolder, WorkFolder
from wsiseg.results.job import once_alone
from wsiseg.results.notes import image_notes
from wsiseg.results.plan import SlidePlan, write_plan
from wsiseg.results.reuse import Planned, Wanted, has_begun, own_folder, reuse_or_plan
from wsiseg.slide import Slide, open_slide
from wsiseg.tiles.calibration import calibration_samples
from wsiseg.tiles.candidates import BAND_UM
from wsiseg.tiles.request import SegmentOptions, SlideRequest
from wsiseg.tissue import TISSUE_MPP, Tissue, make_tissue


@dataclass(frozen=True)
class PlanJob:
    """A slide to plan.

    Attributes
    ----------
    moved : tuple of SlideFolder
        Results of slides that are no longer where they were: if their content is this slide's, they are its own.
    alone : bool
        A worker died of it.
    """

    folder: SlideFolder
    request: SlideRequest
    moved: tuple[SlideFolder, ...] = ()
    alone: bool = False

    def retries(self) -> Sequence[PlanJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


def plan_or_reuse(job: PlanJob) -> Planned:
    """Open the slide and see whether its result is there already; plan it if not.

    Raises
    ------
    UsageError
        There is a result of another specification, and it is not to be replaced; or one of a newer format.
    EnvironmentFault
        The result cannot be replaced without losing what is not wsiseg's.
    """
    options = job.request.options
    with open_slide(job.request.path, mpp=options.mpp, mpp_table=options.mpp_table, guarded=job.alone) as slide:
        request, said = _with_model(slide, job)
        specification = _specified(slide, request)
        wanted = Wanted(specification, options.overwrite, options.retry_partial)
        return reuse_or_plan(
            slide, job.folder, job.moved, wanted,
            lambda key, work: plan_slide(slide, request, specification, key, work, said),
        )  # fmt: skip


def named(choice: ModelChoice, plan: SlidePlan) -> ModelChoice:
    """The segmenter of a plan: the choice, of a model by name where it was left to ``auto``."""
    return replace(choice, model=plan.specification["model"]["name"]) if choice.model == AUTO else choice


def _with_model(slide: Slide, job: PlanJob) -> tuple[SlideRequest, tuple[str, ...]]:
    """The request with a model by name, and the note on it where the user leaves it to ``auto``.

    What an earlier run has left under the same settings goes on with its model, whatever would be picked now.
    """
    request, choice = job.request, job.request.choice
    if choice.model != AUTO:
        return request, ()
    pick = pick_model(slide.require_mpp().value, device_kind(choice.device, choice.precision, choice.engine))
    earlier = (Pick(name, "an earlier run of this slide has taken it") for name in (FAST, ACCURATE))
    requests = {
        one: replace(request, choice=replace(choice, model=one.model))
        for one in (pick, *(one for one in earlier if one.model != pick.model))
    }
    folder = own_folder(slide, job.folder, job.moved)
    if folder.final.exists() or folder.work.exists():
        pick = next((one for one in requests if has_begun(slide, folder, _specified(slide, requests[one]))), pick)
    return requests[pick], (pick.note,)


def _specified(slide: Slide, request: SlideRequest) -> dict[str, Any]:
    return specify(slide, request.options, resident_segmenter(request.choice))


def specify(slide: Slide, options: SegmentOptions, segmenter: Segmenter) -> dict[str, Any]:
    """The specification: all that, with the slide's content, decides the result. JSON."""
    mpp = slide.require_mpp()
    scale = slide.scale(segmenter.mpp)
    longest = int(np.ceil(segmenter.max_diameter_um / segmenter.mpp))
    halo = round_up(segmenter.margin_px + longest, segmenter.stride_px)
    mask = hashlib.sha256(options.mask.read_bytes()).hexdigest() if options.mask else None
    origin = viewer_origin(slide.bounds)
    return {
        "model": segmenter.describe(),
        "slide_mpp": mpp.value,
        "mpp_requested": segmenter.mpp,
        "mpp_effective": mpp.value * scale.downsample,
        "downsample": scale.downsample,
        "tile_px": options.tile,
        "halo_px": halo,
        # Beyond the slide there is but its mirror image, and no nucleus at its edge reaches farther into that.
        "rim_px": round_up(longest, segmenter.stride_px),
        "band_um": BAND_UM,
        "roi": list(options.roi) if options.roi else None,
        "mask_sha256": mask,
        # Only where it moves the mask: of other slides, results of before it did are as good as ever.
        **({"mask_origin": list(origin)} if mask and any(origin) else {}),
        "tissue_only": options.tissue_only,
        # Only where it is asked for: results of before it could be are as good as ever.
        **({"qc_all": True} if options.qc_all else {}),
    }


def plan_slide(
    slide: Slide,
    request: SlideRequest,
    specification: Mapping[str, Any],
    key: str,
    work: WorkFolder,
    said: tuple[str, ...] = (),
) -> SlidePlan:
    """Find the tissue, choose the tiles, calibrate the model; written to ``work``, where a resumption finds it.

    ``said``: what is to stand in its notes first.
    """
    started, options = time.perf_counter(), request.options
    segmenter = resident_segmenter(request.choice, specification["model"])
    mpp = slide.require_mpp()
    scale = Scale(specification["downsample"])
    width, height = scale.size(slide.width, slide.height)
    halo, rim = specification["halo_px"], specification["rim_px"]
    grid = TileGrid(width, height, options.tile, halo, segmenter.stride_px, rim)
    image, image_scale = slide.overview(max(TISSUE_MPP, mpp.value))
    everything = make_tissue(image, image_scale, slide.width, slide.height, mpp.value)
    tissue, notes = _region(everything, options, viewer_origin(slide.bounds))
    tiles = grid.touching(tissue.mask, tissue.scale.downsample / scale.downsample)
    if len(tiles) == 0:
        _require_readable(slide)
        notes += _nothing_left(everything, options)
    notes = (*said, *slide.notes, *image_notes(image, everything), *notes)
    # On the whole slide's tissue: a region of interest must give the nuclei that the whole slide gives there.
    network = specification["model"].get("kind") == "network"
    with side_by_side(1):
        calibration = segmenter.calibrate(calibration_samples(slide, scale, everything, costly=network))
    plan = SlidePlan(
        source=work.source,
        mpp=mpp.value,
        downsample=scale.downsample,
        grid=grid,
        band_px=BAND_UM / specification["mpp_effective"],
        calibration=dict(calibration),
        tiles=tuple(int(tile) for tile in tiles),
        key=key,
        fingerprint=slide.fingerprint(),
        specification={**specification, "calibration": dict(calibration)},
        tissue_mm2=tissue.area_mm2(mpp.value),
        seconds=time.perf_counter() - started,
        notes=notes,
    )
    write_plan(work, plan, tissue, everything, slide.lethal)
    return plan


def _region(tissue: Tissue, options: SegmentOptions, origin: tuple[float, float]) -> tuple[Tissue, tuple[str, ...]]:
    """Where nuclei are wanted: tissue, inside the region of interest and the mask; and what is to be said of it."""
    if not options.tissue_only:
        tissue = replace(tissue, mask=np.ones_like(tissue.mask), core=np.ones_like(tissue.core))
    requested = requested_region(options.roi, options.mask)
    region, notes = requested.on(origin), requested.notes
    if requested.mask is not None and any(origin):
        x, y = origin
        notes += (
            f"The mask was moved by {x:g}, {y:g} pixels: GeoJSON counts from the corner of the slide's bounds, "
            "as QuPath shows it.",
        )
    return (tissue if region is None else tissue.restrict(region)), notes


def _nothing_left(tissue: Tissue, options: SegmentOptions) -> tuple[str, ...]:
    """What to say of a region in which there is no tile to segment, though there is tissue elsewhere."""
    if (options.roi is None and options.mask is None) or not tissue.mask.any():
        return ()
    what = "mask" if options.roi is None else "region of interest" if options.mask is None else "mask and region"
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

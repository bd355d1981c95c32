"""What is to be done for one slide: decided once, written to its work folder, read there by every task.

``plan_or_reuse`` is the body of a task: it opens the slide, finds a result that is still valid, or plans one. The
plan holds what follows from the slide's content and the specification; where the slide lies and what the user said
of its pixels is of the run that asks, and travels with its tasks.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from wsiseg.core.featurefile import viewer_origin
from wsiseg.core.geometry import Scale, Window
from wsiseg.core.grid import TileGrid, round_up
from wsiseg.core.region import requested_region
from wsiseg.core.sealed import write_sealed_json
from wsiseg.errors import DamagedFile, SlideError, UsageError
from wsiseg.models.base import Segmenter
from wsiseg.models.resident import resident_segmenter
from wsiseg.results.folder import SlideFolder, WorkFolder, result_key
from wsiseg.results.job import once_alone
from wsiseg.results.notes import image_notes
from wsiseg.results.plan import PLAN, TISSUE, WHOLE, SlidePlan, note_lethal, read_plan
from wsiseg.results.record import SegmentedRecord, write_record
from wsiseg.results.tissuefile import load_tissue, save_tissue
from wsiseg.slide import Slide, SlideSource, open_slide
from wsiseg.tiles.calibration import calibration_samples
from wsiseg.tiles.candidates import BAND_UM
from wsiseg.tiles.request import SegmentOptions, SlideRequest
from wsiseg.tissue import TISSUE_MPP, Tissue, make_tissue

_OF_THE_SLIDE = ("slide_mpp", "mpp_effective", "downsample")
"""What of a specification follows from the slide."""


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


@dataclass(frozen=True)
class Planned:
    """A plan to carry out in ``work``, or the record of a finished result that is still valid.

    ``notes``: what of an earlier run was not taken over, and why.
    """

    folder: SlideFolder
    plan: SlidePlan | None = None
    unchanged: SegmentedRecord | None = None
    notes: tuple[str, ...] = ()

    @property
    def work(self) -> WorkFolder:
        assert self.plan is not None
        return self.folder.in_progress(self.plan.key, self.plan.source)


def plan_or_reuse(job: PlanJob) -> Planned:
    """Open the slide and see whether its result is there already; plan it if not.

    Raises
    ------
    UsageError
        There is a result of another specification, and it is not to be replaced; or one of a newer format.
    EnvironmentFault
        The result cannot be replaced without losing what is not wsiseg's.
    """
    request, options = job.request, job.request.options
    with open_slide(request.path, mpp=options.mpp, mpp_table=options.mpp_table, guarded=job.alone) as slide:
        specification = specify(slide, options, resident_segmenter(request.choice))
        key = result_key(slide.fingerprint(), specification)
        folder = _own_folder(slide, job)
        record = folder.record()
        notes: list[str] = []
        if isinstance(record, SegmentedRecord):
            stale = _stale(folder, record, key, slide, specification, options)
            if stale is None:
                folder.clean()
                return Planned(folder, unchanged=_at_home(folder, record, slide))
            notes += [stale] if stale else []
        folder.require_replaceable()
        source = SlideSource(os.path.abspath(slide.path), slide.require_mpp())
        work = folder.in_progress(key, source)
        plan = _resumable(work)
        if plan is None:
            if (work.path / PLAN).exists():
                notes.append("what an earlier run had begun is damaged or of another version: begun again")
            work.discard()
            plan = plan_slide(slide, request, specification, key, work)
        work.create()
        return Planned(folder, plan, notes=tuple(notes))


def _own_folder(slide: Slide, job: PlanJob) -> SlideFolder:
    """Where the slide's results are: under its name, or where they were put before it was moved."""
    for other in job.moved:
        record = other.record()
        if isinstance(record, SegmentedRecord) and record.slide.fingerprint == slide.fingerprint():
            return other
    return job.folder


def _at_home(folder: SlideFolder, record: SegmentedRecord, slide: Slide) -> SegmentedRecord:
    """The record of a finished result, with the place that the slide has now."""
    moved = record.moved(os.path.abspath(slide.path), slide.name)
    if moved != record:
        write_record(folder.final, moved)
    return moved


def _stale(
    folder: SlideFolder,
    record: SegmentedRecord,
    key: str,
    slide: Slide,
    specification: Mapping[str, Any],
    options: SegmentOptions,
) -> str | None:
    """Why a finished result is to be computed again; None if it is valid, "" if there is nothing to say."""
    if record.key == key:
        if record.status == "partial" and options.retry_partial:
            return ""
        damage = folder.damage(record.files)
        return f"its finished result is not whole, {damage}: computed again" if damage else None
    changed = record.slide.fingerprint != slide.fingerprint()
    varying = ("calibration", *(_OF_THE_SLIDE if changed else ()))
    # As JSON: what was read has lists where there are tuples.
    wanted, held = (
        {name: value for name, value in settings.items() if name not in varying}
        for settings in (json.loads(json.dumps(specification)), record.specification)
    )
    if held != wanted and not options.overwrite:
        raise UsageError(
            f"{folder.final}: holds results of other settings: {_difference(held, wanted)}.\n"
            "Give --overwrite to replace them, or another -o to keep them."
        )
    return "the slide's content has changed since it was segmented: computed again" if changed else ""


def _difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first settings that differ, in words."""
    was, now = _flat(held), _flat(wanted)
    names = [name for name in {**now, **was} if was.get(name) != now.get(name)]
    texts = [f"{name} {was.get(name)} instead of {now.get(name)}"[:120] for name in names[:2]]
    return ", ".join(texts) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= _flat(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {f"{prefix}{name}": item}
    return found


def specify(slide: Slide, options: SegmentOptions, segmenter: Segmenter) -> dict[str, Any]:
    """The specification: all that, with the slide's content, decides the result. JSON."""
    mpp = slide.require_mpp()
    scale = slide.scale(segmenter.mpp)
    halo_um = segmenter.max_diameter_um
    halo = round_up(segmenter.margin_px + int(np.ceil(halo_um / segmenter.mpp)), segmenter.stride_px)
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
    slide: Slide, request: SlideRequest, specification: Mapping[str, Any], key: str, work: WorkFolder
) -> SlidePlan:
    """Find the tissue, choose the tiles, calibrate the model; written to ``work``, where a resumption finds it."""
    started, options = time.perf_counter(), request.options
    segmenter = resident_segmenter(request.choice, specification["model"])
    mpp = slide.require_mpp()
    scale = Scale(specification["downsample"])
    width, height = scale.size(slide.width, slide.height)
    grid = TileGrid(width, height, options.tile, specification["halo_px"], segmenter.stride_px)
    image, image_scale = slide.overview(max(TISSUE_MPP, mpp.value))
    everything = make_tissue(image, image_scale, slide.width, slide.height, mpp.value)
    tissue, notes = _region(everything, options, viewer_origin(slide.bounds))
    tiles = grid.touching(tissue.mask, tissue.scale.downsample / scale.downsample)
    if len(tiles) == 0:
        _require_readable(slide)
        notes += _nothing_left(everything, options)
    notes = (*slide.notes, *image_notes(image, everything), *notes)
    # On the whole slide's tissue: a region of interest must give the nuclei that the whole slide gives there.
    calibration = segmenter.calibrate(calibration_samples(slide, scale, everything))
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
    work.create()
    save_tissue(work.path / TISSUE, tissue)
    if tissue is not everything:
        save_tissue(work.path / WHOLE, everything)
    note_lethal(work, slide.lethal)
    write_sealed_json(work.path / PLAN, {k: v for k, v in asdict(plan).items() if k != "source"})
    return plan


def _resumable(work: WorkFolder) -> SlidePlan | None:
    """The plan of an earlier run, if it and the tissue beside it are whole."""
    plan = read_plan(work)
    if plan is not None:
        try:
            load_tissue(work.path / TISSUE)
            if (work.path / WHOLE).exists():
                load_tissue(work.path / WHOLE)
        except DamagedFile:
            return None
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

"""The tasks that make ``nuclei.parquet`` of another program's outlines: plan, sort by tile, measure, join.

They stand where ``tiles`` and ``stitch`` stand in a run that segments, leave the same files, and what comes after
them is the same: label map, grade, thumbnail, record. Outlines are taken as they are: nothing is looked for,
nothing is matched at seams, and what a file does not say, such as a score, is NaN.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.core.environment import environment_faults
from wsiseg.core.featurefile import listed, viewer_origin
from wsiseg.core.geometry import Box, Scale
from wsiseg.core.grid import TileGrid
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.typed import as_plain
from wsiseg.errors import SlideError, UsageError
from wsiseg.interop.placing import GLASS, Placement, alignment_notes, placing_notes, with_attributes
from wsiseg.interop.segmentation import Contents, Segmentation, describe_outlines, iter_outlines
from wsiseg.interop.spill import append_outlines, read_outlines, spilled_bytes
from wsiseg.results.folder import SlideFolder, WorkFolder
from wsiseg.results.found import nuclei_path
from wsiseg.results.job import WorkJob, once_alone
from wsiseg.results.notes import image_notes
from wsiseg.results.nuclei import iter_nuclei
from wsiseg.results.partfile import BatchSummary, write_part
from wsiseg.results.plan import SlidePlan, write_plan
from wsiseg.results.planned import open_planned, read_planned
from wsiseg.results.record import LostBox, Tiles
from wsiseg.results.reuse import Planned, Wanted, reuse_or_plan
from wsiseg.results.stages import Stitched
from wsiseg.slide import Slide, open_slide
from wsiseg.stitch.cuts import NO_SEAMS, CutLines, audit_cuts, edge_contrast
from wsiseg.stitch.stage import complete_nuclei
from wsiseg.tiles.batch import empty_candidates
from wsiseg.tiles.candidates import BAND_UM
from wsiseg.tiles.measure import measure
from wsiseg.tissue import TISSUE_MPP, make_tissue

MEASURED_MPP = 0.5
"""Nuclei are measured, and the label map is drawn, at about so many microns per pixel."""
SORTED = "outlines"
"""Name of the stage, and of its folder in the work folder."""

_TILE_PX, _HALO_PX = 2048, 64
_SAME = 0.1
"""Microns per pixel that differ by less are the same."""


@dataclass(frozen=True)
class ImportOptions:
    """How outlines are laid on their slide, and which finished results may be reused.

    Attributes
    ----------
    mpp : float or None
        Microns per level-0 pixel of the slides, instead of what their metadata say.
    mpp_table : Path or None
        CSV with columns ``slide`` and ``mpp``, for single slides.
    input_mpp : float or None
        Microns per pixel that the outlines' coordinates count in; None: level-0 pixels.
    scale : float or None
        Level-0 pixels in a pixel of the outlines; instead of ``input_mpp``.
    offset : (x, y)
        Level-0 pixels to add, after scaling.
    seams : (pitch, x, y) or None
        Side and corner of the tiles that the outlines were made in, level-0 pixels; None: what the format says.
    qc_all : bool
        Judge every patch for the grade.
    overwrite : bool
        Replace results of other settings in the same folder, instead of refusing.
    """

    mpp: float | None = None
    mpp_table: Path | None = None
    input_mpp: float | None = None
    scale: float | None = None
    offset: tuple[float, float] = (0.0, 0.0)
    seams: tuple[int, float, float] | None = None
    qc_all: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ImportJob:
    """A slide to plan an import for; ``moved`` as of :class:`wsiseg.tiles.plan.PlanJob`. Paths are absolute."""

    folder: SlideFolder
    path: Path
    segmentation: Segmentation
    options: ImportOptions
    moved: tuple[SlideFolder, ...] = ()
    alone: bool = False

    def retries(self) -> Sequence[ImportJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


@dataclass(frozen=True)
class Imported:
    """What of a specification follows from the files, and from the slide: ``imported`` in ``slide.json``.

    Attributes
    ----------
    sha256 : str
        Of the files' content; of several, and of a folder, of the list of their names and sums.
    files, bytes : int
    scale : float
    offset : (x, y)
        With the corner of the slide's bounds where coordinates begin there.
    lines : CutLines or None
        In level-0 pixels.
    """

    sha256: str
    files: int
    bytes: int
    scale: float
    offset: tuple[float, float]
    lines: CutLines | None


@dataclass(frozen=True)
class Sorted:
    """``outlines``: the tiles that hold nuclei, what was counted on the way, and what was no outline.

    ``bytes``: of the files of all tiles together, by which it is seen that they are there.
    """

    tiles: tuple[int, ...]
    bytes: int
    counts: Mapping[str, int]
    passed: str
    seconds: float


@dataclass(frozen=True)
class MeasureJob:
    """Tiles whose nuclei are to be measured. ``lost``: the pixels are given up, the outlines are not."""

    work: WorkFolder
    tiles: tuple[int, ...]
    alone: bool = False
    lost: bool = False

    def retries(self) -> Sequence[MeasureJob]:
        """The batch alone, its tiles alone, then without pixels; see :mod:`wsiseg.run.isolation`."""
        if not self.alone:
            return (replace(self, alone=True),)
        if len(self.tiles) > 1:
            return [replace(self, tiles=(tile,)) for tile in self.tiles]
        return () if self.lost else (replace(self, lost=True),)


@dataclass(frozen=True)
class SortJob:
    """A slide whose outlines are to be read. ``alone``: a worker died of it."""

    work: WorkFolder
    segmentation: Segmentation
    alone: bool = False

    def retries(self) -> Sequence[SortJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


def plan_import(job: ImportJob) -> Planned:
    """Open the slide and see whether it has been imported already; plan it if not.

    Raises
    ------
    SlideError
        The slide, or what is to be imported, cannot be read.
    UsageError
        There is a result of another specification, and it is not to be replaced; or one of a newer format.
    EnvironmentFault
        The result cannot be replaced without losing what is not wsiseg's.
    """
    options = job.options
    with open_slide(job.path, mpp=options.mpp, mpp_table=options.mpp_table, guarded=job.alone) as slide:
        try:
            contents = describe_outlines(job.segmentation)
            imported = _imported(slide, job.segmentation, options, contents)
        except UsageError as error:  # a file's fault, which leaves the other slides alone
            raise SlideError(str(error)) from error
        specification = _specify(slide, job.segmentation, options, contents, imported)
        wanted = Wanted(specification, options.overwrite, found=("calibration", "imported", "model"))
        return reuse_or_plan(
            slide, job.folder, job.moved, wanted,
            lambda key, work: _plan(slide, specification, contents, key, work),
        )  # fmt: skip


def sort_outlines(job: SortJob) -> Sorted:
    """Read the outlines, lay them on the slide, and sort them by tile into the work folder.

    Raises
    ------
    SlideError
        The files are not as their format asks, or have changed.
    """
    work = job.work
    finished, folder = work.stage(SORTED, Sorted), work.path / SORTED
    if finished is not None and spilled_bytes(folder) == finished.bytes:
        return finished
    started = time.perf_counter()
    plan, tissue = read_planned(work)
    imported = _of(plan)
    with environment_faults(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    with open_planned(work, plan, guarded=job.alone) as slide:
        placement = Placement(imported.scale, imported.offset, Box(0.0, 0.0, slide.width, slide.height))
    counts, passed, tiles = Counter[str](), Counter[str](), set[int]()
    try:
        for outlines in iter_outlines(job.segmentation, passed):
            nuclei = with_attributes(placement.place(outlines, counts), bool(plan.types))
            centroids = nuclei.centroids()
            counts[GLASS] += int(np.count_nonzero(~tissue.contains(centroids)))
            owner = plan.grid.owner(plan.scale.from_level0(centroids))
            with environment_faults(folder):
                for tile in np.unique(owner).tolist():
                    append_outlines(folder / f"{tile:08d}", nuclei.take(owner == tile))
                    tiles.add(tile)
    except UsageError as error:
        raise SlideError(str(error)) from error
    found = Sorted(
        tiles=tuple(sorted(tiles)),
        bytes=spilled_bytes(folder),
        counts=dict(counts),
        passed=listed(+passed),
        seconds=time.perf_counter() - started,
    )
    work.finish_stage(SORTED, found)
    return found


def measure_jobs(work: WorkFolder, plan: SlidePlan, found: Sorted, done: set[int]) -> list[MeasureJob]:
    """What is still to measure where the tiles ``done`` are."""
    wanted = set(found.tiles) - done
    batches = ([tile for tile in batch if tile in wanted] for batch in plan.batches)
    return [MeasureJob(work, tuple(batch)) for batch in batches if batch]


def measure_outlines(job: MeasureJob) -> BatchSummary:
    """Measure the nuclei of some tiles and commit them as a part file, as a tile that was segmented is.

    Haematoxylin is NaN of a nucleus whose pixels cannot be read; such areas are noted as lost.
    """
    started = time.perf_counter()
    plan = read_planned(job.work)[0]
    with open_planned(job.work, plan, guarded=job.alone) as slide:
        measured = [_measure_tile(job, plan, slide, tile) for tile in job.tiles]
    joined = Nuclei.concatenate([nuclei for nuclei, _ in measured])
    lost = tuple(box for _, boxes in measured for box in boxes)
    summary = BatchSummary(job.tiles, len(joined), (), lost, {"measure": time.perf_counter() - started})
    part = job.work.part(job.tiles[0], job.tiles[-1])
    with environment_faults(part):
        write_part(part, joined, as_plain(summary))
    return summary


def join_outlines(job: WorkJob) -> Stitched:
    """Complete ``nuclei.parquet``, audit it along the lines of whoever made them, and sum up."""
    work = job.work

    def amend(plan: SlidePlan, stitched: Stitched) -> Stitched:
        found, imported = work.require_stage(SORTED, Sorted), _of(plan)
        seams, contrast, made = NO_SEAMS, None, nuclei_path(work)
        if imported.lines is not None:
            with open_planned(work, plan, guarded=job.alone) as slide:
                whole = Box(0.0, 0.0, slide.width, slide.height)
            seams = audit_cuts(iter_nuclei(made, columns=()), imported.lines, whole, BAND_UM / plan.mpp)
            contrast = edge_contrast(iter_nuclei(made, columns=["hematoxylin_od"]), imported.lines, whole)
        total, done = len(plan.grid), len(found.tiles)
        return replace(
            stitched,
            seams=seams,
            tiles=Tiles(total, done, total - done, 0),
            segment_s={"sort": found.seconds, **stitched.segment_s},
            notes=(*placing_notes(found.counts, found.passed), *alignment_notes(contrast)),
        )

    return complete_nuclei(work, amend)


def _specify(
    slide: Slide, segmentation: Segmentation, options: ImportOptions, contents: Contents, imported: Imported
) -> dict[str, Any]:
    """The specification: all that, with the slide's content, decides the result. JSON."""
    mpp = slide.require_mpp()
    scale = slide.scale(max(MEASURED_MPP, mpp.value))
    return {
        "model": {
            "name": f"import:{segmentation.format}",
            **({"types": list(contents.types)} if contents.types else {}),
        },
        "imported_from": {
            "format": segmentation.format,
            "name": segmentation.name,
            "input_mpp": options.input_mpp,
            "scale": options.scale,
            "offset": list(options.offset),
            "seams": list(options.seams) if options.seams else None,
        },
        "imported": as_plain(imported),
        "slide_mpp": mpp.value,
        "mpp_effective": mpp.value * scale.downsample,
        "downsample": scale.downsample,
        "tile_px": _TILE_PX,
        **({"qc_all": True} if options.qc_all else {}),
    }


def _imported(slide: Slide, segmentation: Segmentation, options: ImportOptions, contents: Contents) -> Imported:
    mpp, (x, y) = slide.require_mpp().value, options.offset
    scale = options.input_mpp / mpp if options.input_mpp else options.scale or 1.0
    if contents.from_bounds:
        corner = viewer_origin(slide.bounds)
        x, y = x + corner[0], y + corner[1]
    lines = CutLines(*options.seams) if options.seams else contents.lines
    if lines is contents.lines and lines is not None:
        pitch = round(lines.pitch * scale)
        lines = CutLines(pitch, lines.x * scale + x, lines.y * scale + y) if pitch == lines.pitch * scale else None
    if segmentation.format == "labels" and contents.size:
        _require_size(slide, segmentation, options, contents.size, scale)
    return Imported(*_checksum(segmentation.paths), scale, (x, y), lines)


def _require_size(
    slide: Slide, segmentation: Segmentation, options: ImportOptions, size: tuple[int, int], scale: float
) -> None:
    """A label image says nothing of where it lies but its size."""
    told = options.offset != (0.0, 0.0) or options.scale is not None or options.input_mpp is not None
    width, height = size[0] * scale, size[1] * scale
    fits = abs(width - slide.width) <= scale and abs(height - slide.height) <= scale
    if not told and not fits:
        raise UsageError(
            f"{segmentation.paths[0]}: {size[0]} × {size[1]} pixels, the slide {slide.width} × {slide.height}.\n"
            "Expected: one pixel for each of the slide. Give --input-mpp or --scale if its pixels are larger, and "
            "--offset X,Y if it is a part (0,0 lies where the slide begins)."
        )


def _plan(
    slide: Slide, specification: Mapping[str, Any], contents: Contents, key: str, work: WorkFolder
) -> SlidePlan:
    """Find the tissue; written to ``work``, where a resumption finds it."""
    started, mpp = time.perf_counter(), slide.require_mpp()
    scale = Scale(specification["downsample"])
    grid = TileGrid(*scale.size(slide.width, slide.height), _TILE_PX, _HALO_PX)
    image, image_scale = slide.overview(max(TISSUE_MPP, mpp.value))
    tissue = make_tissue(image, image_scale, slide.width, slide.height, mpp.value)
    plan = SlidePlan(
        source=work.source,
        mpp=mpp.value,
        downsample=scale.downsample,
        grid=grid,
        band_px=BAND_UM / specification["mpp_effective"],
        calibration={},
        tiles=tuple(range(len(grid))),
        key=key,
        fingerprint=slide.fingerprint(),
        specification={**specification, "calibration": {}},
        tissue_mm2=tissue.area_mm2(mpp.value),
        seconds=time.perf_counter() - started,
        notes=(*slide.notes, *image_notes(image, tissue), *contents.notes, *_contradictions(slide, contents)),
    )
    write_plan(work, plan, tissue, tissue, slide.lethal)
    return plan


def _contradictions(slide: Slide, contents: Contents) -> Iterator[str]:
    """What the files say of their slide, and this one is not."""
    mpp, size = slide.require_mpp().value, contents.size
    if contents.mpp is not None and abs(contents.mpp / mpp - 1) > _SAME:
        yield (
            f"The files were made at {contents.mpp:.4g} microns per pixel, the slide has {mpp:.4g}. Is it the same "
            "slide? If the slide's are wrong, give --mpp; if coordinates count in others, --input-mpp."
        )
    if contents.mpp is not None and size is not None and size != (slide.width, slide.height):
        yield (
            f"The files are of a slide of {size[0]:,} × {size[1]:,} pixels, this one has {slide.width:,} × "
            f"{slide.height:,}. Is it the same slide?"
        )


def _of(plan: SlidePlan) -> Imported:
    imported = dict(plan.specification["imported"])
    lines = imported.pop("lines")
    x, y = imported.pop("offset")
    return Imported(**imported, offset=(x, y), lines=CutLines(**lines) if lines else None)


def _measure_tile(job: MeasureJob, plan: SlidePlan, slide: Slide, tile: int) -> tuple[Nuclei, list[LostBox]]:
    """The nuclei of a tile with all columns of a part, and what of its pixels is lost."""
    window, scale = plan.grid.read(tile), plan.scale
    nuclei = read_outlines(job.work.path / SORTED / f"{tile:08d}")
    core = scale.box(plan.grid.core(tile))
    if job.lost:
        image, gone = np.full((1, 1, 3), 255, dtype=np.uint8), [(core, "its worker process died every time")]
    else:
        image, lost = slide.read_lossy(window, scale)
        gone = [(item.box, item.reason) for item in lost]
    local = Nuclei(scale.from_level0(nuclei.vertices), nuclei.offsets).translate(-window.x, -window.y)
    measured = dict(measure(local, image, slide.lattice(scale).mpp).columns)
    for box, _ in gone:
        measured["hematoxylin_od"][nuclei.overlapping(box)] = np.nan
    count = len(nuclei)
    columns = {
        **nuclei.columns,
        **measured,
        "tile": np.full(count, tile, dtype=np.int64),
        "owned": np.ones(count, dtype=bool),
        "seam": np.zeros(count, dtype=bool),
    }
    whole = Nuclei(
        nuclei.vertices, nuclei.offsets, {name: columns[name] for name in empty_candidates(plan.types).columns}
    )
    boxes = ((box.intersection(core), reason) for box, reason in gone)
    return whole, [LostBox(b.x0, b.y0, b.x1, b.y1, reason) for b, reason in boxes if not b.empty]


def _checksum(paths: Sequence[Path]) -> tuple[str, int, int]:
    """SHA-256 of files or folders, how many files, how many bytes; their places do not count."""
    sums, total = [], 0
    for path in paths:
        files = sorted(os.scandir(path), key=lambda entry: entry.name) if path.is_dir() else [path]
        for file in files:
            if path.is_dir() and not os.path.isfile(file):
                continue
            with open(file, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            total += os.stat(file).st_size
            sums.append((os.path.basename(file), digest))
    if len(sums) == 1:
        return sums[0][1], 1, total
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums))
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest(), len(sums), total

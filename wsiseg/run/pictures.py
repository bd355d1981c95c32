"""The tasks that draw: the slide's overview, read beside the tiles; its artefacts and its nuclei over it."""

from __future__ import annotations

import time
from dataclasses import replace

from wsiseg.artefacts.map import artefact_shares
from wsiseg.errors import DamagedFile
from wsiseg.report.artefactmap import write_picture
from wsiseg.report.thumbnail import overview_mpp, write_thumbnail
from wsiseg.results import maps
from wsiseg.results.artefactfile import ARTEFACT_MAP, load_artefacts
from wsiseg.results.describe import describe_lost
from wsiseg.results.folder import ARTEFACTS_PNG, RESULT_STORE, WorkFolder
from wsiseg.results.found import nuclei_path
from wsiseg.results.job import WorkJob
from wsiseg.results.overviewfile import OVERVIEW_FILE, load_overview, save_overview
from wsiseg.results.planned import open_planned, read_planned, read_whole
from wsiseg.results.stages import ARTEFACTS_DRAWN, OVERVIEW, STITCH, THUMBNAIL, Stitched, Timed


def take_overview(job: WorkJob) -> float:
    """Read the slide's overview, for the pictures and as the image of ``maps.zarr``; the seconds it took."""
    work = job.work
    finished = _taken(work)
    if finished is not None:
        return finished.seconds
    started = time.perf_counter()
    plan, _ = read_planned(work)
    with open_planned(work, plan, guarded=job.alone) as slide:
        image, scale = slide.overview(overview_mpp(slide))
    size = (plan.grid.width, plan.grid.height)
    maps.write_overview(work.result / RESULT_STORE, image, scale, plan.mpp, label_size=size)
    save_overview(work.path / OVERVIEW_FILE, image, scale)
    return _finish(work, OVERVIEW, started)


def draw_artefacts(job: WorkJob) -> float:
    """Draw ``artefacts.png``, of the overview and the artefact map; the seconds it took."""
    work, started = job.work, time.perf_counter()
    plan, tissue = read_planned(work)
    overview, scale = load_overview(work.path / OVERVIEW_FILE)
    artefacts = load_artefacts(work.path / ARTEFACT_MAP)
    shares = artefact_shares(artefacts, replace(read_whole(work), region=tissue.region), plan.mpp)
    write_picture(work.result / ARTEFACTS_PNG, overview, scale, artefacts, shares)
    return _finish(work, ARTEFACTS_DRAWN, started)


def draw_thumbnail(job: WorkJob) -> float:
    """Draw ``thumbnail.png``, of the overview, the tissue and the nuclei; the seconds it took."""
    work, started = job.work, time.perf_counter()
    plan, tissue = read_planned(work)
    overview, scale = load_overview(work.path / OVERVIEW_FILE)
    lost = describe_lost(work.require_stage(STITCH, Stitched).lost, tissue, plan.mpp)
    write_thumbnail(
        work.result / "thumbnail.png",
        overview,
        scale,
        plan.mpp,
        tissue=tissue.core,
        tissue_scale=tissue.scale,
        nuclei_parquet=nuclei_path(work),
        lost=lost.boxes,
    )
    return _finish(work, THUMBNAIL, started)


def _taken(work: WorkFolder) -> Timed | None:
    """What an earlier run has noted of the overview, if its file is whole."""
    try:
        load_overview(work.path / OVERVIEW_FILE)
    except DamagedFile:
        return None
    return work.stage(OVERVIEW, Timed)


def _finish(work: WorkFolder, stage: str, started: float) -> float:
    seconds = time.perf_counter() - started
    work.finish_stage(stage, Timed(seconds))
    return seconds

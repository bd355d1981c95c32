"""The task that stitches: a slide's parts to ``nuclei.parquet``, each nucleus once."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from wsiseg.artefacts.kinds import KINDS
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.sealed import describe_file, is_intact
from wsiseg.results.artefactfile import ARTEFACT_MAP, load_artefacts
from wsiseg.results.folder import PICTURES, WorkFolder
from wsiseg.results.job import WorkJob
from wsiseg.results.nuclei import ARTEFACT, ATTRIBUTES, NucleiWriter
from wsiseg.results.partfile import BatchSummary, covering_parts, part_summary, read_part
from wsiseg.results.plan import SlidePlan, require_plan
from wsiseg.results.record import Tiles
from wsiseg.results.stages import GRADING, LABELS, MAPS, STITCH, Stitched
from wsiseg.stitch.stream import stitch


def stitch_slide(job: WorkJob) -> Stitched:
    """Join the parts into ``nuclei.parquet``, each nucleus once."""
    return join_parts(job.work)


def join_parts(work: WorkFolder, amend: Callable[[SlidePlan, Stitched], Stitched] | None = None) -> Stitched:
    """Join the parts that are there into ``nuclei.parquet``, and note what came of it, as ``amend`` puts it."""
    finished, result = work.stage(STITCH, Stitched), work.result / "nuclei.parquet"
    if finished is not None and is_intact(result, finished.file):
        return finished
    started = time.perf_counter()
    plan = require_plan(work)
    parts = [part for tiles in plan.batches for part in covering_parts(work, tiles)]
    metadata = {"slide": plan.source.name, "mpp": plan.mpp, "downsample": plan.downsample}
    artefacts = load_artefacts(work.path / ARTEFACT_MAP)
    attributes = {**ATTRIBUTES, ARTEFACT: "uint16"}

    def write(nuclei: Nuclei) -> None:
        writer.write(nuclei.with_columns(artefact=artefacts.at(nuclei.centroids())))

    with (
        NucleiWriter(result, {**metadata, "artefacts": list(KINDS)}, attributes, plan.types) as writer,
        _meanwhile(write) as write_meanwhile,
    ):
        seams = stitch(
            lambda i: read_part(work.part(parts[i][0], parts[i][-1])),
            [(part[0], part[-1]) for part in parts],
            plan.grid,
            plan.scale,
            write_meanwhile,
            band_px=plan.band_px,
        )
    summaries = [part_summary(work, part) for part in parts]
    stitched = Stitched(
        nuclei=writer.count,
        types=dict(zip(plan.types, writer.counts.tolist(), strict=True)) if plan.types else None,
        seams=seams,
        tiles=_tiles(plan, summaries),
        lost=tuple(box for summary in summaries for box in summary.lost),
        segment_s=_seconds(summaries),
        peak_bytes=max((summary.peak_bytes for summary in summaries), default=0),
        file=describe_file(result),
        seconds=time.perf_counter() - started,
    )
    if amend is not None:
        stitched = amend(plan, stitched)
    # What an earlier stitching was the ground of is not this one's.
    for stage in (LABELS, MAPS, GRADING):
        (work.path / f"{stage}.json").unlink(missing_ok=True)
    shutil.rmtree(work.result / PICTURES, ignore_errors=True)
    work.finish_stage(STITCH, stitched)
    return stitched


@contextlib.contextmanager
def _meanwhile(write: Callable[[Nuclei], None]) -> Iterator[Callable[[Nuclei], None]]:
    """``write`` in a thread of its own while the next nuclei are decided: one call at a time, in order.

    What a call raises, the next one or the end of the block does.
    """
    with ThreadPoolExecutor(1, "write-nuclei") as thread:
        last: Future[None] | None = None

        def hand_over(nuclei: Nuclei) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = thread.submit(write, nuclei)

        yield hand_over
        if last is not None:
            last.result()


def _tiles(plan: SlidePlan, summaries: list[BatchSummary]) -> Tiles:
    total, failed = len(plan.grid), sum(len(summary.failed) for summary in summaries)
    return Tiles(total, len(plan.tiles) - failed, total - len(plan.tiles), failed)


def _seconds(summaries: list[BatchSummary]) -> dict[str, float]:
    """Seconds by activity, summed over the workers."""
    names = sorted({name for summary in summaries for name in summary.seconds})
    return {name: sum(summary.seconds.get(name, 0.0) for summary in summaries) for name in names}

"""The tasks that stitch: a slide's parts to ``nuclei.parquet``, each nucleus once, a row of tiles at a time."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from wsiseg.artefacts.kinds import KINDS
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.sealed import is_intact
from wsiseg.errors import DamagedFile, SlideError
from wsiseg.results.artefactfile import ARTEFACT_MAP, load_artefacts
from wsiseg.results.folder import PICTURES, WorkFolder
from wsiseg.results.found import check_found, nuclei_path, show_found
from wsiseg.results.job import WorkJob, once_alone
from wsiseg.results.nuclei import ARTEFACT, ATTRIBUTES
from wsiseg.results.nucleiwriter import Grown, NucleiFormat, Stretch, complete
from wsiseg.results.partfile import check_part, covering_parts, part_summary, read_part
from wsiseg.results.plan import SlidePlan, require_plan
from wsiseg.results.planned import read_planned
from wsiseg.results.record import Tiles
from wsiseg.results.stages import GRADING, LABELS, MAPS, STITCH, Stitched
from wsiseg.stitch.saved import Saved, load, save
from wsiseg.stitch.stream import Stitching, stitch_rows

_SAVED = "stitching.npz"


@dataclass(frozen=True)
class RowJob:
    """A row of tiles to stitch after those before it, once its tiles are there.

    Attributes
    ----------
    work : WorkFolder
    number : int
        From 0.
    last : int
        The last tile of its last batch.
    following : int or None
        The first tile of the next row's; None where this is the last one.
    alone : bool
        Whether a worker died of it.
    """

    work: WorkFolder
    number: int
    last: int
    following: int | None
    alone: bool = False

    def retries(self) -> Sequence[RowJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


def plan_stitching(job: WorkJob) -> list[RowJob]:
    """The rows of a slide that are still to be stitched.

    Where nothing intact is left of an earlier stitching, all of them; what that was the ground of is dropped.
    """
    work, plan = job.work, require_plan(job.work)
    if _finished(work) is not None:
        return []
    saved = _left_behind(work, plan) or _begin(work, plan)
    _show(work, saved)  # the run may have been stopped before it did
    firsts = {plan.grid.position(batch[0])[0]: batch[0] for batch in reversed(plan.batches)}
    lasts = {plan.grid.position(batch[0])[0]: batch[-1] for batch in plan.batches}
    following = [*[firsts[row] for row in lasts][1:], None]
    jobs = [
        RowJob(work, n, last, first) for n, (last, first) in enumerate(zip(lasts.values(), following, strict=False))
    ]
    return jobs[saved.rows :]


def stitch_row(job: RowJob) -> float:
    """Stitch a row of tiles; how far down the slide its nuclei are now all written, in level-0 pixels."""
    started = time.perf_counter()
    work = job.work
    plan, _ = read_planned(work)
    saved = _load(work, plan)
    if saved.rows < job.number:
        raise SlideError(f"{work.path} was changed during the run. Run the same command again.")
    if saved.rows == job.number:  # else a worker has died of it in the end
        saved = _further(saved, job, plan, started)
        save(work.path / _SAVED, saved)
    _show(work, saved)
    return _bottom(saved, job, plan)


def finish_stitching(job: WorkJob) -> Stitched:
    """Complete ``nuclei.parquet`` once all rows are stitched, and note what came of them."""
    return complete_nuclei(job.work)


def complete_nuclei(work: WorkFolder, amend: Callable[[SlidePlan, Stitched], Stitched] | None = None) -> Stitched:
    """Give ``nuclei.parquet`` its end, and note what came of the parts, as ``amend`` puts it."""
    finished = _finished(work)
    if finished is not None:
        return finished
    started = time.perf_counter()
    plan, _ = read_planned(work)
    saved = _load(work, plan)
    file = complete(nuclei_path(work), _declared(plan), saved.grown)
    written, sums, total = saved.grown.written, saved.sums, len(plan.grid)
    by_type = written.by_type or (0,) * len(plan.types)
    stitched = Stitched(
        nuclei=written.count,
        types=dict(zip(plan.types, by_type, strict=True)) if plan.types else None,
        seams=saved.stitching.tally.audit(),
        tiles=Tiles(total, len(plan.tiles) - sums.failed, total - len(plan.tiles), sums.failed),
        lost=sums.lost,
        segment_s=sums.seconds,
        peak_bytes=sums.peak_bytes,
        file=file,
        seconds=saved.seconds + time.perf_counter() - started,
    )
    if amend is not None:
        stitched = amend(plan, stitched)
    work.finish_stage(STITCH, stitched)
    return stitched


def _finished(work: WorkFolder) -> Stitched | None:
    """What came of an earlier stitching, if all that it has left is intact."""
    finished = work.stage(STITCH, Stitched)
    if finished is None or not is_intact(nuclei_path(work), finished.file):
        return None
    try:
        check_found(work)
    except (DamagedFile, SlideError):
        return None
    return finished


def _left_behind(work: WorkFolder, plan: SlidePlan) -> Saved | None:
    """What a stopped run has stitched, if that and the parts that it has read and not decided are intact."""
    try:
        saved = _load(work, plan)
        read = list(itertools.islice(_parts(work, plan, saved, len(plan.grid)), len(saved.stitching.masks)))
        for part in read:
            check_part(work.part(part[0], part[-1]))
    except DamagedFile:
        return None
    whole = len(read) == len(saved.stitching.masks) and saved.grown.is_in(nuclei_path(work))
    return saved if whole else None


def _begin(work: WorkFolder, plan: SlidePlan) -> Saved:
    """Begin to stitch: what was made of nuclei before is not of those that come."""
    for stage in (STITCH, LABELS, MAPS, GRADING):
        (work.path / f"{stage}.json").unlink(missing_ok=True)
    shutil.rmtree(work.result / PICTURES, ignore_errors=True)
    begun = Saved(Stitching.begin(plan.grid, plan.scale, plan.band_px), Grown.nothing(_declared(plan)))
    save(work.path / _SAVED, begun)
    return begun


def _load(work: WorkFolder, plan: SlidePlan) -> Saved:
    return load(work.path / _SAVED, plan.grid, plan.scale, plan.band_px)


def _parts(work: WorkFolder, plan: SlidePlan, saved: Saved, last: int) -> Iterator[tuple[int, ...]]:
    """The parts up to a tile's that are not decided."""
    for tiles in plan.batches:
        if tiles[-1] >= saved.first and tiles[0] <= last:
            yield from (part for part in covering_parts(work, tiles) if part[0] >= saved.first)


def _declared(plan: SlidePlan) -> NucleiFormat:
    metadata = {"slide": plan.source.name, "mpp": plan.mpp, "downsample": plan.downsample, "artefacts": list(KINDS)}
    return NucleiFormat(metadata, {**ATTRIBUTES, ARTEFACT: "uint16"}, plan.types)


def _show(work: WorkFolder, saved: Saved) -> None:
    show_found(work, saved.grown.footer, saved.sums.lost)


def _further(saved: Saved, job: RowJob, plan: SlidePlan, started: float) -> Saved:
    """The nuclei of one more row in the file, as far as they can be decided."""
    work = job.work
    artefacts = load_artefacts(work.path / ARTEFACT_MAP)
    parts = list(_parts(work, plan, saved, job.last))
    stretch = Stretch(_declared(plan), saved.grown)

    def write(nuclei: Nuclei) -> None:
        stretch.write(nuclei.with_columns(artefact=artefacts.at(nuclei.centroids())))

    with _meanwhile(write) as write_meanwhile:
        stitching = stitch_rows(
            saved.stitching,
            lambda i: read_part(work.part(parts[i][0], parts[i][-1])),
            [(part[0], part[-1]) for part in parts],
            job.following,
            write_meanwhile,
        )
    decided = stitching.parts - saved.stitching.parts
    undecided = parts[decided][0] if decided < len(parts) else job.following
    sums = saved.sums
    for part in parts[len(saved.stitching.masks) :]:
        sums = sums.plus(part_summary(work, part))
    return Saved(
        stitching,
        stretch.append(nuclei_path(work)),
        job.number + 1,
        len(plan.grid) if undecided is None else undecided,
        sums,
        saved.seconds + time.perf_counter() - started,
    )


def _bottom(saved: Saved, job: RowJob, plan: SlidePlan) -> float:
    """Above this, in level-0 pixels, no nucleus is missing: none reaches farther than its tile reads."""
    if job.following is None:
        return float("inf")
    waiting = saved.stitching.waiting
    first = saved.first if waiting is None else int(waiting.columns["tile"].min())
    return (plan.grid.position(first)[0] * plan.grid.tile - plan.grid.halo) * plan.downsample


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

"""Slides in, a results folder out."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wsiseg.core.environment import absolute
from wsiseg.core.region import requested_region
from wsiseg.errors import UsageError
from wsiseg.interop.importing import ImportOptions
from wsiseg.interop.segmentation import Segmentation
from wsiseg.models.registry import AUTO, locate_model
from wsiseg.qc.opinion import opinion_choice
from wsiseg.report.actions import write_actions
from wsiseg.report.cohort import write_cohort
from wsiseg.report.html import write_report
from wsiseg.report.slidepage import write_slide_pages
from wsiseg.results.folder import SlideFolder, assign_ids, read_records
from wsiseg.results.moved import Moved
from wsiseg.results.record import FailedRecord, SlideRecord
from wsiseg.run.events import (
    Event,
    Listener,
    Started,
    TilesDone,
    ignore,
)
from wsiseg.run.outcome import CohortResult
from wsiseg.run.place import Place, place_of
from wsiseg.run.schedule import Executor, Steps, run_stages
from wsiseg.run.steps import Making, importing, loading, segmenting, slide_steps
from wsiseg.slide.remote import forget
from wsiseg.tiles.request import SegmentOptions, SlideRequest


def segment_slides(
    paths: Sequence[Path],
    out: str | os.PathLike[str],
    options: SegmentOptions,
    executor: Executor,
    on_event: Listener = ignore,
) -> CohortResult:
    """Segment, stitch, grade and report slides into ``out``; goes on where an earlier call was stopped.

    A slide that fails is recorded and leaves the others alone. One that was moved since an earlier call keeps its
    results. Relative paths are those of this process, whatever folder its workers run in.

    Raises
    ------
    UsageError, ModelError
        If a request makes no sense whatever the slide (tile size, region, mask file, model), or if ``out`` holds
        results of other settings or of a newer format.
    EnvironmentFault
        If the disk or the cluster gives out, the same call goes on from there; or if something is in the way that
        is not wsiseg's.
    """
    if not paths:
        raise UsageError("no slides given")
    options = _located(options)
    choice = options.choice(executor.device, executor.torch_threads)
    requested_region(options.roi, options.mask)  # refused before anything is computed

    cores = executor.cores // len(paths)

    def making(path: Path, folder: SlideFolder, moved: Moved) -> Making:
        return segmenting(SlideRequest(path, options, choice), folder, moved, cores)

    early = [loading(choice, executor.slots - 1)] if choice.model != AUTO else []
    return _run(paths, out, executor, making, on_event, early)


def import_outlines(
    pairs: Mapping[Path, Segmentation],
    out: str | os.PathLike[str],
    options: ImportOptions,
    executor: Executor,
    on_event: Listener = ignore,
) -> CohortResult:
    """Make results of outlines from elsewhere: measured, graded and reported in ``out`` like those of our own.

    Parameters
    ----------
    pairs : mapping of Path to Segmentation
        Slides and their outlines (:func:`wsiseg.interop.pairing.pair`). Relative paths are those of this process.
    out : path or URL
        The results folder; each slide gets a folder in it.
    options : ImportOptions
    executor : Executor
    on_event : Listener

    Raises
    ------
    UsageError
        If options contradict each other, or if ``out`` holds results of other settings or of a newer format.
    EnvironmentFault
        If the disk or the cluster gives out, the same call goes on from there; or if something is in the way that
        is not wsiseg's.
    """
    if options.scale is not None and options.input_mpp is not None:
        raise UsageError("--scale and --input-mpp say the same in two ways: give one of them")
    options = replace(options, mpp_table=absolute(options.mpp_table) if options.mpp_table else None)
    opinion = opinion_choice(executor.device, executor.torch_threads)
    outlines = {absolute(path): replace(one, paths=tuple(map(absolute, one.paths))) for path, one in pairs.items()}

    def making(path: Path, folder: SlideFolder, moved: Moved) -> Making:
        return importing(path, outlines[path], options, folder, moved, opinion)

    return _run(list(pairs), out, executor, making, on_event)


def _run(
    paths: Sequence[Path],
    out: str | os.PathLike[str],
    executor: Executor,
    making: Callable[[Path, SlideFolder, Moved], Making],
    on_event: Listener,
    early: Sequence[Steps] = (),
) -> CohortResult:
    """Slides through their stages to their results, and the report over these; ``early``: steps before theirs."""
    if not paths:
        raise UsageError("no slides given")
    place, started = place_of(out), time.perf_counter()
    computed: dict[str, int] = {}

    def tell(event: Event) -> None:
        if isinstance(event, TilesDone):
            computed[event.name] = event.computed
        executor.tell(event)
        try:
            on_event(event)
        except Exception as error:
            raise _WatcherFailed(error) from error

    with _watcher_errors(), place.held():
        tell(Started(len(paths), executor.dashboard))
        place.begin(executor, tell)
        ids = assign_ids(map(absolute, paths), place.out)
        folders = {path: SlideFolder(place.out, name) for path, name in ids.items()}
        place.require_ours(folders.values())
        moved = Moved(folders, place.out)
        steps = (
            slide_steps(making(path, moved.home(path, folder), moved), moved, tell, executor.device_busy)
            for path, folder in folders.items()
        )
        given = list(folders)
        ended: dict[int, SlideRecord] = {}
        for i, record in run_stages(executor, itertools.chain(early, steps)):
            ended[i] = record
            if i >= len(early):
                place.slide_ended(record.id)
                if not isinstance(record, FailedRecord):
                    forget(given[i - len(early)])  # the copy of a slide at a URL; one that failed is tried again
        records = tuple(ended[i] for i in sorted(ended) if i >= len(early))
        place.gather()
        report = write_reports(place.out, records)
        place.finish()
    seconds = time.perf_counter() - started
    return CohortResult(place.shown, place.shown / report.name, records, sum(computed.values()), seconds, place.url)


def write_reports(out: Path, records: Iterable[SlideRecord] = ()) -> Path:
    """Tables and pages over every slide in ``out``, and over ``records`` that left no folder; the cohort's page."""
    merged = {record.id: record for record in (*read_records(out), *records)}
    ordered = [merged[name] for name in sorted(merged)]
    write_cohort(out, ordered)
    write_actions(out, ordered)
    write_slide_pages(out, ordered)
    return write_report(out, ordered)


def report_again(results: str | os.PathLike[str]) -> str:
    """Write the tables and pages over what is finished in a folder or at a URL; where the cohort's page is.

    Raises
    ------
    UsageError
        Nothing is finished there.
    EnvironmentFault
        The disk, or the URL, cannot be used.
    """
    place = place_of(results)
    if place.url is None:
        _require_finished(place)  # before a lock is left where nothing is
    with place.held():
        place.begin()
        _require_finished(place)
        name = write_reports(place.out).name
        place.finish()
    return f"{place.url}/{name}" if place.url else str(place.shown / name)


def _require_finished(place: Place) -> None:
    if not read_records(place.out):
        raise UsageError(
            f"{place.url or place.shown} has no finished slides. Expected the output folder of `wsiseg segment`."
        )


class _WatcherFailed(BaseException):
    """An error of whoever watches: it ends the call, and is no slide's failure."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@contextlib.contextmanager
def _watcher_errors() -> Iterator[None]:
    try:
        yield
    except _WatcherFailed as failed:
        raise failed.error from None


def _located(options: SegmentOptions) -> SegmentOptions:
    """The options with paths that mean the same in a worker's folder."""
    return replace(
        options,
        model=locate_model(options.model),
        mpp_table=absolute(options.mpp_table) if options.mpp_table else None,
        mask=absolute(options.mask) if options.mask else None,
    )

"""Segmenting from Python: slides to results in one call, on a cluster that lives as long as the call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, overload

from wsiseg.errors import UsageError, shown
from wsiseg.run.events import Listener, ignore
from wsiseg.run.outcome import CohortResult, SegmentResult
from wsiseg.run.pipeline import segment_slides
from wsiseg.run.schedule import Executor
from wsiseg.run.watch import watch
from wsiseg.slide.discover import find_slides
from wsiseg.tiles.request import SegmentOptions

if TYPE_CHECKING:
    from wsiseg.run.cluster import Scheduler


@overload
def segment(  # type: ignore[overload-overlap]  # a str is a sequence of str as well
    slides: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: SegmentOptions | None = None,
    *,
    workers: int | None = None,
    device: str = "auto",
    scheduler: Scheduler | None = None,
    executor: Executor | None = None,
    progress: bool | Listener = True,
) -> SegmentResult: ...
@overload
def segment(
    slides: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: SegmentOptions | None = None,
    *,
    workers: int | None = None,
    device: str = "auto",
    scheduler: Scheduler | None = None,
    executor: Executor | None = None,
    progress: bool | Listener = True,
) -> CohortResult: ...
def segment(
    slides: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: SegmentOptions | None = None,
    *,
    workers: int | None = None,
    device: str = "auto",
    scheduler: Scheduler | None = None,
    executor: Executor | None = None,
    progress: bool | Listener = True,
) -> SegmentResult | CohortResult:
    """Segment the nuclei of slides, stitch and measure them, grade each slide, and write all that into a folder.

    A call that was stopped goes on where it was when it is made again; one whose results are there computes
    nothing. Results of other settings are kept, and the call refused, unless the options say ``overwrite``.

    Parameters
    ----------
    slides : path or iterable of paths
        One slide gives its result and raises its error. Several, of which each may also be a folder or a glob
        pattern, give a :class:`CohortResult` in which those that failed say why.
    out : path or URL
        The results folder; each slide gets a folder in it. At a URL (docs/remote.md) it is a text.
    options : SegmentOptions, optional
        The model, microns per pixel, regions, tiles.
    workers : int, optional
        Processes of a Dask cluster on this machine, started for this call; by default one a CUDA device if there
        is one, else one a core. 0: none, all is done in this process.
    device : {"auto", "cpu", "cuda"}
        What computes.
    scheduler : str or distributed.Client, optional
        A running Dask cluster that sees the same files: its address, or a client of it. It is left running.
    executor : Executor, optional
        What :func:`wsiseg.open_executor` gives, for many calls on one cluster.
    progress : bool or function
        Shown in a notebook or on standard error; a function gets the events (:mod:`wsiseg.run.events`) instead.

    Returns
    -------
    SegmentResult or CohortResult

    Raises
    ------
    SlideError
        The one slide cannot be segmented. Its record stays in ``out``.
    UsageError, ModelError
        The request makes no sense, or ``out`` holds results of other settings.
    EnvironmentFault
        The disk or the cluster gives out; the same call goes on from there.

    Notes
    -----
    In a script, call it below ``if __name__ == "__main__":``, or with ``workers=0``: worker processes import the
    script that started them.
    """
    one = isinstance(slides, str | os.PathLike)
    given = [os.fspath(path) for path in ([slides] if isinstance(slides, str | os.PathLike) else slides)]
    paths = find_slides(given)
    if one and len(paths) != 1:
        raise UsageError(
            f"{shown(given[0])}: names {len(paths)} slides; expected one.\n"
            "For several, give a list: its folders and patterns are searched."
        )
    with _listener(progress) as on_event, _running(executor, workers, device, scheduler) as running:
        cohort = segment_slides(paths, out, options or SegmentOptions(), running, on_event)
    if not one:
        return cohort
    result = cohort[0]
    result.require_segmented()
    return result


def _running(
    executor: Executor | None, workers: int | None, device: str, scheduler: Scheduler | None
) -> AbstractContextManager[Executor]:
    """An executor for the length of a block."""
    if executor is not None:
        if (workers, device, scheduler) != (None, "auto", None):
            raise UsageError("executor= runs on what it was opened with: give no workers=, device= or scheduler=.")
        return contextlib.nullcontext(executor)
    from wsiseg.run.cluster import ClusterOptions, open_executor  # only here: it imports Dask

    return open_executor(ClusterOptions(scheduler, workers, device))


def _listener(progress: bool | Listener) -> AbstractContextManager[Listener]:
    if callable(progress):
        return contextlib.nullcontext(progress)
    return watch() if progress else contextlib.nullcontext(ignore)

"""The tasks that look at places of a slide at other scales, where its nuclei do not say that its scale is right.

They write into the slide's work folder and may run twice; a stopped run goes on with the places that it lacks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from wsiseg.core.geometry import Box
from wsiseg.errors import SlideError
from wsiseg.models.resident import ModelChoice, resident_segmenter
from wsiseg.qc.blocks import GradeJob
from wsiseg.qc.scale import Look, Verdicts, join_looks, look_at_scales, odd_places
from wsiseg.qc.stage import gather_verdicts
from wsiseg.results.folder import WorkFolder
from wsiseg.results.job import once_alone
from wsiseg.results.planned import open_planned, read_planned


@dataclass(frozen=True)
class LookJob:
    """A place to look at, level 0, and its number. ``opinion``: who looks. ``alone``: a worker died of it."""

    work: WorkFolder
    number: int
    place: Box
    opinion: ModelChoice
    alone: bool = False

    def retries(self) -> Sequence[LookJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


@dataclass(frozen=True)
class Looked:
    """``look-<number>``: what was found in a place at each scale, and how long it took."""

    place: Box
    looks: tuple[Look, ...]
    seconds: float


def plan_looks(job: GradeJob) -> list[LookJob]:
    """The places of a judged slide that are still to be looked at; none where its nuclei are of a usual size."""
    places = odd_places(gather_verdicts(job.work).columns)
    jobs = [LookJob(job.work, number, place, job.opinion) for number, place in enumerate(places)]
    return [one for one in jobs if _looked(job.work, one.number, one.place) is None]


def look_at_place(job: LookJob) -> None:
    """Look at one place with the default network, and note what it finds."""
    started = time.perf_counter()
    plan, _ = read_planned(job.work)
    segmenter = resident_segmenter(job.opinion)
    with open_planned(job.work, plan, guarded=job.alone) as slide:
        looks = tuple(look_at_scales(slide, [job.place], segmenter))
    job.work.finish_stage(_name(job.number), Looked(job.place, looks, time.perf_counter() - started))


def gather_looks(work: WorkFolder, verdicts: Verdicts) -> tuple[list[Look], float]:
    """What was found at each scale in the places that these verdicts ask for, and the seconds of all workers.

    Raises
    ------
    SlideError
        A place was not looked at.
    """
    found = [_looked(work, number, place) for number, place in enumerate(odd_places(verdicts))]
    looked = [one for one in found if one is not None]
    if len(looked) < len(found):
        raise SlideError(f"{work.path} was changed during the run. Run the same command again.")
    return join_looks([one.looks for one in looked]), sum(one.seconds for one in looked)


def _looked(work: WorkFolder, number: int, place: Box) -> Looked | None:
    """What is noted of this very place."""
    found = work.stage(_name(number), Looked)
    return found if found is not None and found.place == place else None


def _name(number: int) -> str:
    return f"look-{number}"

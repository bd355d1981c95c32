"""The tasks that draw a slide's examples, each a picture of its own, once its patches are judged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsiseg.core.environment import environment_faults
from wsiseg.core.geometry import Box
from wsiseg.qc.blocks import GradeJob
from wsiseg.qc.opinion import look_again
from wsiseg.qc.opinions import opinion_on_patch
from wsiseg.qc.stage import gather_verdicts
from wsiseg.report.examples import Example, choose_examples, draw_example, example_box, named_examples
from wsiseg.report.gallery import write_jpeg
from wsiseg.results.folder import PICTURES, WorkFolder
from wsiseg.results.found import nuclei_path
from wsiseg.results.job import once_alone
from wsiseg.results.planned import open_planned, read_planned
from wsiseg.results.stages import Timed


@dataclass(frozen=True)
class ExampleJob:
    """An example to draw, and where it is, level 0. ``alone``: a worker died of it."""

    work: WorkFolder
    example: Example
    box: Box
    alone: bool = False

    def retries(self) -> Sequence[ExampleJob]:
        """See :mod:`wsiseg.run.isolation`."""
        return once_alone(self)


def plan_examples(job: GradeJob) -> list[ExampleJob]:
    """The examples of a judged slide that are still to be drawn; pictures of an earlier judgement's are removed."""
    work, verdicts = job.work, gather_verdicts(job.work).columns
    examples, folder = choose_examples(verdicts), work.result / PICTURES
    with environment_faults(folder):
        folder.mkdir(exist_ok=True)
        drawn = set(named_examples(path.name for path in folder.iterdir()))
        for other in drawn.difference(examples):
            (folder / other.file).unlink(missing_ok=True)
    missing = (one for one in examples if one not in drawn)
    return [ExampleJob(work, one, example_box(verdicts, one)) for one in missing]


def draw_one_example(job: ExampleJob) -> None:
    """Draw one example into the results; none where it cannot be read."""
    work, started = job.work, time.perf_counter()
    plan, tissue = read_planned(work)
    opinion = opinion_on_patch(work, job.example.index)
    with open_planned(work, plan, guarded=job.alone) as slide:
        picture = draw_example(
            slide,
            nuclei_path(work),
            job.box,
            lambda box, nuclei: look_again(slide, box, nuclei, tissue, opinion) if opinion else None,
        )
    if picture is not None:
        write_jpeg(work.result / PICTURES / job.example.file, Image.fromarray(picture))
    work.finish_stage(_stage(job.example), Timed(time.perf_counter() - started))


def drawing_seconds(work: WorkFolder, verdicts: Mapping[str, npt.NDArray[np.generic]]) -> float:
    """The seconds that the examples of these verdicts have taken, all workers together."""
    noted = (work.stage(_stage(example), Timed) for example in choose_examples(verdicts))
    return sum(one.seconds for one in noted if one is not None)


def _stage(example: Example) -> str:
    return f"example-{example.kind}-{example.place}"

"""The whole system on a slide whose every nucleus is known: made, segmented, graded, compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsiseg.evaluate import match_polygons
from wsiseg.models.registry import DEFAULT_MODEL
from wsiseg.results.nuclei import read_nuclei
from wsiseg.run.events import Listener, ignore
from wsiseg.run.pipeline import CohortResult, segment_slides
from wsiseg.run.schedule import Executor
from wsiseg.testing import write_slide
from wsiseg.tiles.request import SegmentOptions

MATCH_IOU = 0.5


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration found, against what it had drawn."""

    cohort: CohortResult
    slide: Path
    true_nuclei: int
    found_nuclei: int
    precision: float
    recall: float
    f1: float

    def to_dict(self) -> dict[str, Any]:
        numbers = {name: value for name, value in asdict(self).items() if name != "cohort"}
        return {**numbers, "slide": str(self.slide), "report": str(self.cohort.report)}


def run_demo(
    out: Path,
    executor: Executor,
    *,
    model: str = DEFAULT_MODEL,
    side: int = 6144,
    seed: int = 0,
    on_event: Listener = ignore,
) -> DemoResult:
    """Write a synthetic Aperio slide into ``out``, segment it into ``out/results``, and match it with the truth.

    Parameters
    ----------
    side : int
        Width and height of the slide in pixels at 0.25 mpp.
    seed : int
        Decides the slide's content.
    """
    out.mkdir(parents=True, exist_ok=True)
    slide = out / "demo.svs"
    truth = write_slide(slide, width=side, height=side, mpp=0.25, seed=seed).nuclei
    cohort = segment_slides([slide], out / "results", SegmentOptions(model), executor, on_event)
    record = cohort.records[0]
    if record.status == "failed":
        return DemoResult(cohort, slide, len(truth), 0, 0.0, 0.0, 0.0)
    found = read_nuclei(out / "results" / record.id / "nuclei.parquet")
    match = match_polygons(truth, found, iou=MATCH_IOU)
    return DemoResult(cohort, slide, len(truth), len(found), match.precision, match.recall, match.f1)

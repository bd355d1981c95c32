"""Whole runs in this process with the segmenter that needs no weights, and what is to be true of two of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from wsiseg.results.folder import SLIDE_PAGE
from wsiseg.run.events import Event
from wsiseg.run.outcome import CohortResult
from wsiseg.run.pipeline import segment_slides
from wsiseg.run.schedule import SerialExecutor
from wsiseg.tiles.request import SegmentOptions

CLASSICAL = "classical"


class StopsAfter(SerialExecutor):
    """Stops like a kill: after some tasks nothing more happens, and nothing is cleaned up."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.left = tasks

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any, urgent: bool = False) -> Future[Any]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().submit(name, function, argument, urgent)


class ShuffledExecutor(SerialExecutor):
    """Ends tasks in random order and counts how many were submitted at once."""

    slots = 3
    window = 7

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.most = 0
        self.calls: list[tuple[str, Any]] = []
        self.pending: dict[Future[Any], Callable[[], Future[Any]]] = {}

    def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> Future[Any]:
        task: Future[Any] = Future()
        run = super().submit
        self.pending[task] = lambda: run(name, function, argument)
        task.add_done_callback(self.pending.pop)
        self.calls.append((name, argument))
        self.most = max(self.most, len(self.pending))
        return task

    def wait(self, tasks: Collection[Future[Any]]) -> set[Future[Any]]:
        task = self.random.choice([task for task in self.pending if task in tasks])
        ended = self.pending[task]()
        if ended.exception() is None:
            task.set_result(ended.result())
        else:
            task.set_exception(ended.exception())
        return {task}


def run(
    slides: list[Path], out: Path, executor: SerialExecutor | None = None, **settings: Any
) -> tuple[CohortResult, list[Event]]:
    events: list[Event] = []
    options = SegmentOptions(CLASSICAL, **{"tile": 512, **settings})
    return segment_slides(slides, out, options, executor or SerialExecutor(), events.append), events


def same_results(first: Path, second: Path) -> None:
    """All files equal; slide.json but for times, the page that tells it is there."""
    names = sorted(str(p.relative_to(first)) for p in first.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(second)) for p in second.rglob("*") if p.is_file())
    for name in names:
        one, other = (first / name).read_bytes(), (second / name).read_bytes()
        if name.endswith("slide.json"):
            records = [json.loads(text) for text in (one, other)]
            for record in records:
                record.pop("timings_s")
                record.pop("performance")
                record.pop("created")
            assert records[0] == records[1]
        elif name != SLIDE_PAGE:
            assert one == other, name


def nothing_temporary(out: Path) -> bool:
    return not [p for p in out.rglob("*") if p.name == ".work" or p.suffix in (".tmp", ".partial")]

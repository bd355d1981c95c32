"""What the events of a run amount to, for whoever watches it from elsewhere: numbers and lines, as JSON is made."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wsiseg.run.events import Begun, Event, Note, SlideEnded, StageStarted, Started, TilesDone, Unchanged

_RECENT_S = 30.0
"""Over which the present speed is a mean."""
_MOST_ROWS = 50
"""Of the slides that have ended, the last so many are kept."""
_MOST_NOTES = 10


@dataclass
class _SlideRow:
    """A slide in progress."""

    total: int
    done: int = 0
    nuclei: int = 0
    failed: int = 0
    pixels: int = 0
    stage: str = "tiles"
    seconds: dict[str, float] = field(default_factory=dict)

    def line(self, name: str, outcome: str) -> dict[str, Any]:
        return {
            "slide": name,
            "done": self.done,
            "total": self.total,
            "nuclei": self.nuclei,
            "failed": self.failed,
            "outcome": outcome,
        }


class Board:
    """Hears the events of a run and says how it stands; its memory does not grow with the number of slides.

    Parameters
    ----------
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin(0)

    def _begin(self, slides: int) -> None:
        self._began = self._clock()
        self._slides = slides
        self._statuses: Counter[str] = Counter()
        self._grades: Counter[str] = Counter()
        self._active: dict[str, _SlideRow] = {}
        self._ended: deque[dict[str, Any]] = deque(maxlen=_MOST_ROWS)
        self._notes: deque[str] = deque(maxlen=_MOST_NOTES)
        self._totals: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._recent: deque[tuple[float, int]] = deque([(self._began, 0)])

    def hear(self, event: Event) -> None:
        """Count an event in; what is none of a run's slides is passed over."""
        match event:
            case Started(slides):
                self._begin(slides)
            case Begun(name, total):
                self._active[name] = _SlideRow(total)
                self._totals["tiles_total"] += total
            case TilesDone(name) if name in self._active:
                self._add(self._active[name], event)
            case StageStarted(name, stage):
                row = self._active.get(name)
                if row is not None and row.done >= row.total:  # until then tiles are what takes time
                    row.stage = stage
            case Note(name, text):
                self._notes.append(f"{name}: {text}")
            case Unchanged(name):
                self._statuses["unchanged"] += 1
            case SlideEnded(name, record):
                row = self._active.pop(name, None) or _SlideRow(0)
                self._statuses[record.status] += 1
                if record.status == "failed":
                    outcome = f"failed: {record.error.message}"
                else:
                    outcome = record.grade.grade + (", partial" if record.status == "partial" else "")
                    self._grades[record.grade.grade] += 1
                    row.nuclei = record.nuclei
                self._ended.append(row.line(name, outcome))
            case _:
                pass

    def _add(self, row: _SlideRow, event: TilesDone) -> None:
        """The difference that an event makes: what it counts is counted from the slide's beginning."""
        self._totals["tiles_done"] += event.done - row.done
        self._totals["nuclei"] += event.nuclei - row.nuclei
        self._totals["tiles_failed"] += event.failed - row.failed
        self._totals["pixels"] += event.pixels - row.pixels
        for activity, value in event.seconds.items():
            self._seconds[activity] += value - row.seconds.get(activity, 0.0)
        row.done, row.nuclei, row.failed, row.pixels = event.done, event.nuclei, event.failed, event.pixels
        row.seconds = dict(event.seconds)
        now = self._clock()
        self._recent.append((now, self._totals["pixels"]))
        while len(self._recent) > 2 and now - self._recent[1][0] > _RECENT_S:
            self._recent.popleft()

    def shown(self) -> dict[str, Any]:
        """How the run stands.

        Returns
        -------
        dict
            ``slides``, ``slides_ended``, ``statuses`` and ``grades`` (counts by name), ``tiles_done``,
            ``tiles_total`` (of the slides that have begun), ``tiles_failed``, ``nuclei``, ``pixels`` (of the
            network's input, computed by this run), ``mpx_s`` (the last half minute's), ``mpx_s_mean``,
            ``elapsed_s``, ``seconds`` (of all workers together, by activity), ``rows`` (slides: those in progress,
            then the last that ended), ``notes``.
        """
        now = self._clock()
        first, before = self._recent[0]
        pixels, elapsed = self._totals["pixels"], now - self._began
        ended = self._statuses.total() - self._statuses["unchanged"]
        totals = ("tiles_done", "tiles_total", "tiles_failed", "nuclei", "pixels")
        return {
            "slides": self._slides,
            "slides_ended": ended,
            "statuses": dict(self._statuses),
            "grades": dict(self._grades),
            **{name: self._totals[name] for name in totals},
            "mpx_s": (pixels - before) / 1e6 / max(now - first, 1e-3),
            "mpx_s_mean": pixels / 1e6 / max(elapsed, 1e-3),
            "elapsed_s": elapsed,
            "seconds": dict(self._seconds),
            "rows": [row.line(name, row.stage) for name, row in self._active.items()] + list(self._ended)[::-1],
            "notes": list(self._notes),
        }

"""Progress of a run: bars for slides and cohort on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wsiseg_cli.interrupt import heed_interrupt
from wsiseg_cli.terminal import is_terminal, mention, note, one_line, printable, tell_json, terminal_file

if TYPE_CHECKING:
    from wsiseg.run.events import Event, Listener, Note, SlideEnded
    from wsiseg.run.outcome import CohortResult

BELOW_MIN_GRADE = 6
"""Exit code where all slides are complete and one has a worse grade than --min-grade."""
_PLAIN_INTERVAL_S = 15.0


@contextlib.contextmanager
def watch(*, quiet: bool = False) -> Iterator[Listener]:
    """A listener for the events of a run that shows them on standard error."""
    with _shown(quiet) as show:

        def listen(event: Event) -> None:
            heed_interrupt()
            show(event)

        yield listen


@contextlib.contextmanager
def _shown(quiet: bool) -> Iterator[Listener]:
    if quiet:
        yield lambda event: None
    elif is_terminal():
        with _bars() as listener:
            yield listener
    else:
        yield _Lines()


class _Lines:
    """One line a finished slide, and one now and then for a slide that takes long."""

    def __init__(self) -> None:
        self._slides = 0
        self._finished = 0
        self._began: dict[str, float] = {}
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        from wsiseg.run.events import Begun, Note, SlideEnded, Started, TilesDone

        match event:
            case Started(slides, dashboard):
                self._slides = slides
                if dashboard:
                    note(f"dashboard: {one_line(dashboard)}")
            case Begun(name, total):
                self._began[name] = time.monotonic()
                note(f"{one_line(name)}: {total} tiles")
            case TilesDone(name, done, total, nuclei):
                if time.monotonic() - self._last > _PLAIN_INTERVAL_S:
                    self._last = time.monotonic()
                    left = (time.monotonic() - self._began[name]) / done * (total - done)
                    note(f"{one_line(name)}: {done}/{total} tiles, {nuclei} nuclei, about {left:.0f} s left")
            case Note():
                note(note_line(event))
            case SlideEnded():
                self._finished += 1
                note(f"[{self._finished}/{self._slides}] {outcome_line(event)}")


@contextlib.contextmanager
def _bars() -> Iterator[Listener]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from wsiseg.run.events import Begun, Note, SlideEnded, StageStarted, Started, TilesDone

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    console = Console(file=terminal_file())
    with Progress(*columns, console=console) as progress:
        cohort = progress.add_task("slides", total=None, note="", visible=False)
        tasks: dict[str, TaskID] = {}
        nuclei: dict[str, int] = {}
        unfinished: set[str] = set()  # slides of which tiles are computed, whatever else goes on beside them

        def listen(event: Event) -> None:
            match event:
                case Started(slides, dashboard):
                    if dashboard:
                        progress.console.print(escape(f"dashboard: {one_line(dashboard)}"))
                    progress.update(cohort, total=slides, visible=True)
                case Begun(name, total):
                    tasks[name] = progress.add_task(escape(one_line(name)), total=total, note="tiles")
                    nuclei[name] = 0
                    if total:
                        unfinished.add(name)
                case TilesDone(name, done, total):
                    nuclei[name] = event.nuclei
                    if done == total:
                        unfinished.discard(name)
                    progress.update(tasks[name], completed=done, note=f"{event.nuclei:,} nuclei")
                case StageStarted(name, stage) if name in tasks and name not in unfinished:
                    progress.update(tasks[name], note=f"{nuclei[name]:,} nuclei · {stage}")
                case Note():
                    progress.console.print(escape(note_line(event)))
                case SlideEnded(name):
                    if name in tasks:
                        progress.remove_task(tasks.pop(name))
                        unfinished.discard(name)
                    progress.advance(cohort)
                    progress.console.print(escape(outcome_line(event)))

        yield listen


def conclude(result: CohortResult, min_grade: str | None, *, as_json: bool) -> int:
    """Tell what became of a run's slides; the exit code."""
    if as_json:
        tell_json(result.to_dict())
    else:
        counts = ", ".join(f"{result.count(status)} {status}" for status in ("complete", "partial", "failed"))
        tiles = f"{result.tiles_computed} tiles in {result.seconds:.0f} s"
        mention(f"{len(result.records)} slides: {counts}; {tiles}")
        mention(f"report: {one_line(result.report_place)}")
    below = result.below(min_grade) if min_grade else ()
    if below and not as_json:
        mention(f"worse than {min_grade}: {one_line(', '.join(below))}")
    return result.exit_code or (BELOW_MIN_GRADE if below else 0)


def note_line(event: Note) -> str:
    """What nobody would expect, in one line."""
    return printable(f"{event.name}: {event.text}")


def outcome_line(event: SlideEnded) -> str:
    """What became of a slide, in one line."""
    record, name = event.record, one_line(event.name)
    if record.status == "failed":
        return printable(f"{name}: FAILED: {record.error.message}")
    grade = record.grade
    low, high = grade.interval
    text = (
        f"{name}: {record.nuclei:,} nuclei in {record.tissue_mm2:.2f} mm², "
        f"{grade.grade} ({grade.summary}, {low:.0%}–{high:.0%})"
    )
    if record.status == "partial":
        text += f", PARTIAL: {record.lost.area_mm2:.3f} mm² lost"
    if grade.words:
        text += f". {grade.words}"
    if record.performance is not None:
        from wsiseg.report.pace import pace_text

        text += f" [{pace_text(record.performance)}]"
    return printable(text)

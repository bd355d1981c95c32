"""Progress of a run: bars for slides and cohort on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from wsiseg_cli.interrupt import heed_interrupt
from wsiseg_cli.terminal import is_terminal, note, one_line, printable, terminal_file

if TYPE_CHECKING:
    from wsiseg.run.pipeline import Event

_PLAIN_INTERVAL_S = 15.0

Listener = Callable[["Event"], None]


@contextlib.contextmanager
def watch(slides: int, dashboard: str | None, *, quiet: bool = False) -> Iterator[Listener]:
    """A listener for the pipeline's events that shows them on standard error."""
    with _shown(slides, dashboard, quiet) as show:

        def listen(event: Event) -> None:
            heed_interrupt()
            show(event)

        yield listen


@contextlib.contextmanager
def _shown(slides: int, dashboard: str | None, quiet: bool) -> Iterator[Listener]:
    if quiet:
        yield lambda event: None
        return
    if dashboard:
        note(f"dashboard: {one_line(dashboard)}")
    if is_terminal():
        with _bars(slides) as listener:
            yield listener
    else:
        yield _Lines(slides)


class _Lines:
    """One line a finished slide, and one now and then for a slide that takes long."""

    def __init__(self, slides: int) -> None:
        self._slides = slides
        self._finished = 0
        self._tiles: dict[str, tuple[int, int, int, float]] = {}
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        if event.kind == "planned":
            total = event.detail["total"]
            self._tiles[event.slide] = (0, total, 0, time.monotonic())
            note(f"{one_line(event.slide)}: {total} tiles")
        elif event.kind == "tiles":
            done, total, nuclei, since = self._tiles[event.slide]
            done, nuclei = done + event.detail["done"], nuclei + event.detail["nuclei"]
            self._tiles[event.slide] = (done, total, nuclei, since)
            if time.monotonic() - self._last > _PLAIN_INTERVAL_S:
                self._last = time.monotonic()
                left = (time.monotonic() - since) / done * (total - done)
                name = one_line(event.slide)
                note(f"{name}: {done}/{total} tiles, {nuclei} nuclei, about {left:.0f} s left")
        elif event.kind == "note":
            note(note_line(event))
        elif event.kind == "finished":
            self._finished += 1
            note(f"[{self._finished}/{self._slides}] {outcome_line(event)}")


@contextlib.contextmanager
def _bars(slides: int) -> Iterator[Listener]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    console = Console(file=terminal_file())
    with Progress(*columns, console=console) as progress:
        cohort = progress.add_task("slides", total=slides, note="")
        tasks: dict[str, TaskID] = {}
        nuclei: dict[str, int] = {}

        def listen(event: Event) -> None:
            name = event.slide
            if event.kind == "planned":
                tasks[name] = progress.add_task(escape(one_line(name)), total=event.detail["total"], note="tiles")
                nuclei[name] = 0
            elif event.kind == "tiles":
                nuclei[name] += event.detail["nuclei"]
                progress.update(tasks[name], advance=event.detail["done"], note=f"{nuclei[name]:,} nuclei")
            elif event.kind == "stage" and name in tasks:
                progress.update(tasks[name], note=f"{nuclei[name]:,} nuclei · {event.detail['name']}")
            elif event.kind == "note":
                progress.console.print(escape(note_line(event)))
            elif event.kind == "finished":
                if name in tasks:
                    progress.remove_task(tasks.pop(name))
                progress.advance(cohort)
                progress.console.print(escape(outcome_line(event)))

        yield listen


def note_line(event: Event) -> str:
    """What of an earlier run is computed again, in one line."""
    return printable(f"{event.slide}: {event.detail['text']}")


def outcome_line(event: Event) -> str:
    """What became of a slide, in one line."""
    record, name = event.detail["record"], one_line(event.slide)
    if record.status == "failed":
        return printable(f"{name}: FAILED: {record.error.message}")
    grade = record.grade
    low, high = grade.interval
    text = (
        f"{name}: {record.nuclei:,} nuclei in {record.tissue_mm2:.2f} mm², "
        f"{grade.grade} ({grade.bad} of {grade.patches} patches bad, {low:.0%}–{high:.0%})"
    )
    if record.status == "partial":
        text += f", PARTIAL: {record.lost.area_mm2:.3f} mm² lost"
    return text

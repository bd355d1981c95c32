"""Progress of a run as whoever calls from Python sees it: a bar in a notebook, a line on a terminal.

Where standard error is neither, a line a slide is written. Nothing here needs more than IPython's own display, so
a saved notebook shows its last state wherever it is opened.
"""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from wsiseg.errors import shown
from wsiseg.results.record import SlideRecord
from wsiseg.run.events import Begun, Event, Listener, Note, SlideEnded, StageStarted, Started, TilesDone

_INTERVAL_S = 0.2
"""What is shown is not renewed more often."""
_MOST_LINES = 12
"""Of the slides that ended and of notes, so many are shown in a notebook."""
_WIDTH = 100

Show = Callable[["Progress"], None]


@dataclass
class Progress:
    """What the events so far amount to.

    Attributes
    ----------
    slides, ended : int
    current : str
        What is being done, in a few words.
    fraction : float or None
        Share of the current slide's tiles that are done.
    lines : list of str
        What became of slides, and notes.
    """

    slides: int = 0
    ended: int = 0
    current: str = "starting"
    fraction: float | None = None
    lines: list[str] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        match event:
            case Started(slides):
                self.slides = slides
            case Begun(name, total):
                self.current, self.fraction = f"{name}: {total} tiles", 0.0 if total else 1.0
            case TilesDone(name, done, total, nuclei):
                self.current, self.fraction = f"{name}: {done} of {total} tiles, {nuclei:,} nuclei", done / total
            case StageStarted(name, stage) if self.fraction in (None, 1.0):  # else tiles are what takes time
                self.current = f"{name}: {stage}"
            case Note(name, text):
                self.lines.append(f"{name}: {text}")
            case SlideEnded(name, record):
                self.ended += 1
                self.lines.append(f"{name}: {_outcome(record)}")

    def __str__(self) -> str:
        counted = f"[{self.ended}/{self.slides}] " if self.slides > 1 else ""
        return shown(counted + self.current)


@contextlib.contextmanager
def watch() -> Iterator[Listener]:
    """A listener that shows the events of a run where its caller looks."""
    progress, since = Progress(), time.monotonic()
    show, close = _notebook() if _in_notebook() else _stream()
    last = 0.0

    def listen(event: Event) -> None:
        nonlocal last
        progress.hear(event)
        if time.monotonic() - last >= _INTERVAL_S or isinstance(event, SlideEnded | Note):
            show(progress)
            last = time.monotonic()

    try:
        yield listen
        progress.current, progress.fraction = f"{_slides(progress.ended)} in {time.monotonic() - since:.0f} s", 1.0
    except BaseException:
        progress.current = f"stopped: {progress.current}"
        raise
    finally:
        show(progress)
        close()


def _in_notebook() -> bool:
    """Whether there is a notebook's kernel to display with."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _notebook() -> tuple[Show, Callable[[], None]]:
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    return lambda progress: handle.update(HTML(as_html(progress))), lambda: None


def as_html(progress: Progress) -> str:
    """A bar, what is being done, and what became of the slides."""
    value = "" if progress.fraction is None else f' value="{progress.fraction:.3f}"'
    lines = "".join(f"<br>{html.escape(shown(line))}" for line in progress.lines[-_MOST_LINES:])
    bar = f"<progress{value}></progress> {html.escape(str(progress))}"
    return f'<div style="font-family: monospace">{bar}{lines}</div>'


def _stream() -> tuple[Show, Callable[[], None]]:
    """On standard error: what is being done on a line that is written over, if a terminal reads it."""
    stream = sys.stderr
    terminal = stream.isatty()
    written = 0

    def show(progress: Progress) -> None:
        nonlocal written
        start = "\r\x1b[K" if terminal else ""
        for line in progress.lines[written:]:
            stream.write(f"{start}{shown(line)}\n")
        written = len(progress.lines)
        if terminal:
            stream.write(f"{start}{str(progress)[:_WIDTH]}")
        stream.flush()

    def close() -> None:
        if terminal:
            stream.write("\n")
            stream.flush()

    return show, close


def _outcome(record: SlideRecord) -> str:
    if record.status == "failed":
        return f"failed: {record.error.message}"
    return f"{record.nuclei:,} nuclei, {record.grade.grade}" + (", partial" if record.status == "partial" else "")


def _slides(count: int) -> str:
    return f"{count} slide" if count == 1 else f"{count} slides"

"""Progress of a training: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from wsiseg.run.events import (
    Begun,
    Event,
    Listener,
    Note,
    PatchesDone,
    RoundEnded,
    StageStarted,
    StepsDone,
    Validated,
)
from wsiseg_cli.terminal import is_terminal, note, one_line, terminal_file

_PLAIN_INTERVAL_S = 30.0


@contextlib.contextmanager
def watch_training(*, quiet: bool = False) -> Iterator[Listener]:
    """A listener for the events of :func:`wsiseg.train.run.train_recipe`, on standard error."""
    if quiet:
        yield lambda event: None
    elif is_terminal():
        with _bar() as listener:
            yield listener
    else:
        yield _Lines()


def outcome(event: Event) -> str | None:
    """What an event says in one line; None for those that only move the bar."""
    match event:
        case Validated():
            scores = ", ".join(f"{key} {value:.3f}" for key, value in event.scores.items())
            note = " (best)" if event.better else ""
            note += "; no better one for long: stopped" if event.stopped else ""
            return f"step {event.step}: {scores}{note}"
        case StageStarted():
            return f"making the patches of a source {event.name!r}"
        case Begun(name, total, done):
            verb = "training" if done == 0 else f"going on after step {done}:"
            return f"{verb} {name}, {total} steps"
        case RoundEnded():
            aji = event.scores.get("aji", 0.0)
            note = "the next teacher" if event.better else "not better than its teacher, which stays"
            return f"round {event.number} of {event.rounds}: aji {aji:.3f}, {note}"
        case Note():
            return event.text
    return None


class _Lines:
    """A line for what matters, and one now and then for steps."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._began: tuple[int, float] | None = None

    def __call__(self, event: Event) -> None:
        line = outcome(event)
        if isinstance(event, Begun):
            self._began = (event.done, time.monotonic())
        if line is None and time.monotonic() - self._last > _PLAIN_INTERVAL_S:
            line = self._position(event)
        if line is not None:
            self._last = time.monotonic()
            note(one_line(line))

    def _position(self, event: Event) -> str | None:
        match event:
            case PatchesDone(name, done, total):
                return f"patches of {name}: {done}" + (f" of {total}" if total is not None else "")
            case StepsDone(_, done, total, loss):
                text = f"step {done} of {total}, loss {loss:.3f}"
                if self._began is not None and done > self._began[0]:
                    first, began = self._began
                    left = (time.monotonic() - began) / (done - first) * (total - done)
                    text += f", about {left / 60:.0f} min left"
                return text
        return None


@contextlib.contextmanager
def _bar() -> Iterator[Listener]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(file=terminal_file())) as progress:
        task = progress.add_task("preparing", total=None, note="")

        def listen(event: Event) -> None:
            line = outcome(event)
            if line is not None:
                progress.console.print(escape(one_line(line)))
            match event:
                case Begun(name, total, done):
                    progress.reset(task, total=total, completed=done, description=escape(one_line(name)))
                case StepsDone(_, done, _, loss):
                    progress.update(task, completed=done, note=f"loss {loss:.3f}")
                case PatchesDone(name, done, total):
                    description = f"patches of {escape(one_line(name))}"
                    progress.update(task, description=description, completed=done, total=total, note="")

        yield listen

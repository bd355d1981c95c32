"""Progress of a training: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from wsiseg_cli.terminal import is_terminal, note, one_line, terminal_file

_PLAIN_INTERVAL_S = 30.0
Listener = Callable[[str, dict[str, Any]], None]


@contextlib.contextmanager
def watch_training(*, quiet: bool = False) -> Iterator[Listener]:
    """A listener for the events of :func:`wsiseg.train.run.train_recipe`, on standard error."""
    if quiet:
        yield lambda event, detail: None
    elif is_terminal():
        with _bar() as listener:
            yield listener
    else:
        yield _Lines()


def outcome(event: str, detail: dict[str, Any]) -> str | None:
    """What an event says in one line; None for those that only move the bar."""
    if event == "validation":
        scores = ", ".join(f"{key} {value:.3f}" for key, value in detail["scores"].items())
        note = " (best)" if detail["better"] else ""
        note += "; no better one for long: stopped" if detail["stopped"] else ""
        return f"step {detail['step']}: {scores}{note}"
    if event == "source":
        return f"making the patches of a source {detail['kind']!r}"
    if event == "begin":
        verb = "training" if detail["step"] == 0 else f"going on after step {detail['step']}:"
        return f"{verb} {detail['folder']}, {detail['steps']} steps"
    if event == "round":
        aji = detail["scores"].get("aji", 0.0)
        note = "the next teacher" if detail["better"] else "not better than its teacher, which stays"
        return f"round {detail['round']} of {detail['rounds']}: aji {aji:.3f}, {note}"
    return str(detail["text"]) if event == "note" else None


class _Lines:
    """A line for what matters, and one now and then for steps."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._began: tuple[int, float] | None = None

    def __call__(self, event: str, detail: dict[str, Any]) -> None:
        line = outcome(event, detail)
        if event == "begin":
            self._began = (detail["step"], time.monotonic())
        if line is None and time.monotonic() - self._last > _PLAIN_INTERVAL_S:
            line = self._position(event, detail)
        if line is not None:
            self._last = time.monotonic()
            note(one_line(line))

    def _position(self, event: str, detail: dict[str, Any]) -> str:
        if event != "step":
            total = f" of {detail['total']}" if "total" in detail else ""
            return f"{event}: {detail['done']}{total}"
        text = f"step {detail['step']} of {detail['steps']}, loss {detail['loss']:.3f}"
        if self._began is not None and detail["step"] > self._began[0]:
            first, began = self._began
            left = (time.monotonic() - began) / (detail["step"] - first) * (detail["steps"] - detail["step"])
            text += f", about {left / 60:.0f} min left"
        return text


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

        def listen(event: str, detail: dict[str, Any]) -> None:
            line = outcome(event, detail)
            if line is not None:
                progress.console.print(escape(one_line(line)))
            if event == "begin":
                folder = escape(one_line(detail["folder"]))
                progress.reset(task, total=detail["steps"], completed=detail["step"], description=folder)
            elif event == "step":
                progress.update(task, completed=detail["step"], note=f"loss {detail['loss']:.3f}")
            elif event in ("patches", "labels"):
                kind = escape(one_line(str(detail.get("kind", ""))))
                description, total = f"{event} {kind}", detail.get("total")
                progress.update(task, description=description, completed=detail["done"], total=total, note="")

        yield listen

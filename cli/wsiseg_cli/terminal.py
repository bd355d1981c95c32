"""What the commands print, and the only place that prints it: safe on any stream, whatever it holds.

A file name, a slide's property or a model's card may hold anything: sequences that a terminal obeys, bytes that are
no text, letters that the terminal's encoding lacks. A stream may be closed, full, or a pipe whose reader has left.
None of that may end a run, or hide how it ended.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import select
import sys
from typing import IO, Any, TextIO, cast

import click


def tell(text: str, *, color: tuple[int, int, int] | None = None) -> None:
    """Write to standard output what the command was asked for; with a square of ``color`` before it."""
    if color is not None:
        _write_styled(sys.stdout, click.style("■", fg=color) if sys.stdout.isatty() else "■")
        text = f" {text}"
    _write(sys.stdout, f"{text}\n")


def mention(text: str) -> None:
    """Write to standard output what is on disk by now: nothing is lost if nobody can read it."""
    descriptor = _descriptor(sys.stdout)
    before = None if descriptor is None else descriptor.failure
    tell(text)
    _flush(sys.stdout)
    if descriptor is not None:
        descriptor.failure = before


def tell_json(value: Any) -> None:
    """Write ``value`` as JSON, which stays JSON on a stream that cannot show every letter; no number is null."""
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError:
        value = _finite(value)
        text = json.dumps(value, indent=1, ensure_ascii=False)
    if printable(text) != text or not _can_show(sys.stdout, text):
        text = json.dumps(value, indent=1)
    tell(text)


def note(text: str) -> None:
    """Write to standard error: progress, and what went wrong."""
    _write(sys.stderr, f"{text}\n")


def printable(text: str) -> str:
    """Text without what a terminal would obey, or could not show: a file name may hold any byte."""
    return "\n".join(line if line.isprintable() else one_line(line, "\t") for line in text.split("\n"))


def one_line(text: str, kept: str = "") -> str:
    """Printable text that has no line ends either, for a name or a value that is a part of a line."""
    return "".join(c if c.isprintable() or c in kept else _escaped(c) for c in text)


def is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def terminal_file() -> IO[str]:
    """Standard error for a library that draws on a terminal; what it draws must be made of :func:`one_line`."""
    return cast(IO[str], _Styled(sys.stderr))


def guard_streams() -> None:
    """Give this process standard streams that never raise; what has taken a stream's place stays."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would get its number, and be written to
            os.open(os.devnull, os.O_RDWR)
    if os.name == "posix" and sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(1, sys.stdout)
    if os.name == "posix" and sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(2, sys.stderr)


def output_fault() -> str | None:
    """Why what the command was asked for did not reach standard output; None if it did, or nobody wants it."""
    _flush(sys.stdout)
    descriptor = _descriptor(sys.stdout)
    failure = None if descriptor is None else descriptor.failure
    if failure is None or failure.errno == errno.EPIPE:  # a reader that leaves has what it wanted
        return None
    return f"cannot write to standard output: {failure.strerror}. Free space there, or send it elsewhere."


class _Descriptor(io.FileIO):
    """A standard stream's file descriptor: remembers its first failure, and takes what follows without a word."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # full for the moment: somebody made it non-blocking
                select.select([], [self], [])
            return written
        except OSError as error:
            self.failure = self.failure or error
            return len(data)


class _Stream(io.TextIOWrapper):
    """A text stream on which nothing reaches the terminal as a command, whichever library writes."""

    def write(self, text: str) -> int:
        return super().write(printable(text))

    def write_styled(self, text: str) -> int:
        return super().write(text)


class _Styled:
    """A stream as a file whose text is trusted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        _write_styled(self._stream, text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _guarded(number: int, stream: TextIO | None) -> TextIO:
    raw = _Descriptor(number, "w", closefd=False)
    encoding = stream.encoding if stream is not None else "utf-8"
    lines = number == 2 or raw.isatty()
    return _Stream(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=lines)


def _descriptor(stream: TextIO) -> _Descriptor | None:
    """None for a stream that is not guarded: of a program that calls the commands as functions."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Descriptor) else None


def _write(stream: TextIO, text: str) -> None:
    stream.write(printable(text))


def _write_styled(stream: TextIO, text: str) -> None:
    write = stream.write_styled if isinstance(stream, _Stream) else stream.write
    write(text)


def _flush(stream: TextIO) -> None:
    with contextlib.suppress(OSError):
        stream.flush()


def _can_show(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()

"""A slide read by a process that may die: a stored tile that kills it is lost, and not whoever asked for it.

A damaged file can crash the library that decodes it, and a crash takes the whole process along. Where that has
happened, the task is tried again with a :class:`GuardedReader`: every read goes to a child process, and where the
child dies, the stored tiles are asked for one by one to see which of them it was. What was found is avoided from
then on: a :class:`GuardedReader` without a child reads around it in this process, at no cost elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.core.geometry import Window
from wsiseg.errors import SlideError
from wsiseg.slide.types import Description, Level, Pixels, Reader, Unread

_PROGRAM = ("-m", "wsiseg.slide.child")
_MOST_DEATHS = 256
"""So many stored tiles of a slide may kill their reader, half a second each, before the file is refused."""


@dataclass(frozen=True)
class Lethal:
    """A stored tile that killed a process: the whole of it, in the pixels of ``level``."""

    level: int
    window: Window
    reason: str


class ChildDied(Exception):
    """The process that reads has died; the text says of what."""


class GuardedReader:
    """A :class:`wsiseg.slide.types.Reader` that reads around the stored tiles that kill, and can find them.

    Parameters
    ----------
    reader : Reader
        A :class:`ChildReader` finds further tiles that kill; any other reader is only kept from the known ones.
    lethal : iterable of Lethal
        Those that are known.
    """

    def __init__(self, reader: Reader, lethal: Iterable[Lethal] = ()) -> None:
        self._reader = reader
        self._lethal = list(lethal)

    @property
    def description(self) -> Description:
        return self._reader.description

    @property
    def lethal(self) -> tuple[Lethal, ...]:
        """The known and the found."""
        return tuple(self._lethal)

    def read_level(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        try:
            return self._read_around(level, window, [window])
        except ChildDied:
            tiles = _stored_tiles(self.description.levels[level], window)
            return self._read_around(level, window, list(tiles), search=True)

    def associated_image(self, name: str) -> Pixels:
        return self._reader.associated_image(name)

    def close(self) -> None:
        self._reader.close()

    def _read_around(
        self, level: int, window: Window, parts: Sequence[Window], *, search: bool = False
    ) -> tuple[Pixels, tuple[Unread, ...]]:
        met = self._met(level, window)
        if not met and parts == [window]:
            return self._reader.read_level(level, window)
        pixels = np.empty((*window.shape, 3), dtype=np.uint8)
        pixels[:] = self.description.background
        unread: dict[Unread, None] = {}
        for tile in parts:
            for piece in tile.intersection(window).without([place.window for place in met]):
                try:
                    pixels[piece.within(window)], more = self._reader.read_level(level, piece)
                except ChildDied as death:
                    if not search:
                        raise
                    self._note(Lethal(level, tile, f"reading it crashes: {death}"))
                    continue
                unread |= dict.fromkeys(more)
        unread |= {Unread(place.window, place.reason): None for place in self._met(level, window)}
        return pixels, tuple(unread)

    def _met(self, level: int, window: Window) -> list[Lethal]:
        return [p for p in self._lethal if p.level == level and p.window.intersection(window).area]

    def _note(self, place: Lethal) -> None:
        self._lethal.append(place)
        if len(self._lethal) > _MOST_DEATHS:
            raise SlideError(
                f"more than {_MOST_DEATHS} stored tiles of this slide crash the library that reads them "
                f"({place.reason}).\n"
                "Expected: an intact slide. Copy it again and compare its size and checksum with the original's."
            )


class ChildReader:
    """A :class:`wsiseg.slide.types.Reader` in a process of its own, which is started again when it has died.

    Raises
    ------
    SlideError
        The slide cannot be opened, or opening it kills.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        try:
            self.description: Description = self._answer(None)
        except ChildDied as death:
            raise SlideError(
                f"{path}: opening it crashes the library that reads it ({death}).\n"
                "Expected: an intact slide. Copy it again and compare its size and checksum with the original's."
            ) from death

    def read_level(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        """As the protocol says.

        Raises
        ------
        ChildDied
            Reading it killed the process.
        """
        pixels, unread = self._answer(("read_level", level, window))
        return pixels, unread

    def associated_image(self, name: str) -> Pixels:
        image: Pixels = self._answer(("associated_image", name))
        return image

    def close(self) -> None:
        with self._lock:
            self._end()

    def _answer(self, question: tuple[Any, ...] | None) -> Any:
        """What the child says to ``question``; to none, the description that it begins with."""
        with self._lock:
            try:
                if self._process is None:
                    self._process = _start(self._path)
                    described = self._receive()
                    if question is None:
                        return described
                assert self._process.stdin is not None
                pickle.dump(question, self._process.stdin)
                self._process.stdin.flush()
                return self._receive()
            except (EOFError, BrokenPipeError, pickle.UnpicklingError) as end:
                raise ChildDied(self._end()) from end

    def _receive(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        value = pickle.load(self._process.stdout)
        if isinstance(value, Exception):
            raise value
        return value

    def _end(self) -> str:
        """Let the child go; why it went."""
        process, self._process = self._process, None
        if process is None:
            return ""
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"exit code {code}"


def _start(path: Path) -> subprocess.Popen[bytes]:
    # Not multiprocessing: a Dask worker is a daemon, which may have no children of that kind.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    return subprocess.Popen(
        [sys.executable, *_PROGRAM, os.fspath(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def _stored_tiles(level: Level, window: Window) -> Iterator[Window]:
    """The stored tiles that ``window`` touches, each whole, clipped to the level."""
    width, height = max(level.tile_width, 1), max(level.tile_height, 1)
    whole = Window(0, 0, level.width, level.height)
    for y in range(window.y // height * height, window.y1, height):
        for x in range(window.x // width * width, window.x1, width):
            yield Window(x, y, width, height).intersection(whole)

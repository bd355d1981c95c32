"""A program of its own: what OpenSlide says of files from strangers, asked where a crash costs nothing.

``guard.py`` runs it as ``python -P sandbox.py`` and keeps it: it reads one request a line from its standard input
and answers on its standard output until the input ends. Each request has a process of its own, forked from
this one, with limits of memory and time: a crash costs a fork. OpenSlide is all that is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import openslide

MEMORY = 2 << 30  # bytes, above what the process has at its start
SECONDS_CPU = 5
SECONDS = 30
ANSWER = 64 << 20  # bytes: no metadata are larger
MAX_ASSOCIATED_PIXELS = 1 << 25
_DIRECT = ("aperio", "generic-tiff")  # OpenSlide only knows their metadata better than we do
_SAMPLE = 64  # pixels a side of what is read of a level
_SMALL = 1 << 18  # pixels of a level that is read whole


def main() -> None:
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.set_inheritable(requests.fileno(), False)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # libraries print
        os.dup2(null, standard)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, for its parent
    for line in requests:
        payload = _in_a_fork(json.loads(line), requests)
        answers.write(struct.pack("<Q", len(payload)) + payload)
        answers.flush()


def _in_a_fork(request: dict[str, Any], requests: BinaryIO) -> bytes:
    """The answer of a process that may die: JSON on a line, then bytes; an ``"ended"`` signal where it died."""
    receiving, sending = os.pipe()
    process = os.fork()
    if not process:
        status = 1
        try:
            os.close(requests.fileno())
            os.close(receiving)
            _limit()
            with os.fdopen(sending, "wb") as pipe:
                pipe.writelines(_answer(request))
            status = 0
        finally:
            os._exit(status)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        payload = pipe.read(ANSWER + 4 * MAX_ASSOCIATED_PIXELS)
    _, ended = os.waitpid(process, 0)
    if os.WIFSIGNALED(ended):
        return _line({"ended": signal.Signals(os.WTERMSIG(ended)).name})
    return payload if ended == 0 else _line({"ended": "memory"})


def _limit() -> None:
    limits = {resource.RLIMIT_CPU: SECONDS_CPU, resource.RLIMIT_CORE: 0}
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as sizes:  # elsewhere memory has no limit
        limits[resource.RLIMIT_AS] = int(sizes.read().split()[0]) * resource.getpagesize() + MEMORY
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    signal.alarm(SECONDS)


def _answer(request: dict[str, Any]) -> Iterator[bytes]:
    path, task = request["path"], request["task"]
    try:
        if task == "identify":
            yield _line(_identify(path))
        elif task == "describe":
            yield _line(_describe(path))
        else:
            yield from _associated(path, request["name"])
    except (openslide.OpenSlideError, OSError) as error:
        yield _line({"refused": _reason(error)})


def _identify(path: str) -> dict[str, Any]:
    """The vendor, and the metadata of slides whose pixels we read ourselves."""
    vendor = ""
    try:
        vendor = openslide.OpenSlide.detect_format(path) or ""
        if vendor in _DIRECT:
            with openslide.OpenSlide(path) as slide:
                return {"vendor": vendor} | _metadata(slide)
    except (openslide.OpenSlideError, OSError):
        pass
    return {"vendor": vendor, "properties": {}, "associated": []}


def _metadata(slide: openslide.OpenSlide) -> dict[str, Any]:
    return {"properties": dict(slide.properties), "associated": sorted(slide.associated_images)}


def _describe(path: str) -> dict[str, Any]:
    """Metadata and levels, once pixels of each level were read: what crashes shall crash here."""
    slide = _Slide(path)
    sizes, downsamples = slide.handle.level_dimensions, slide.handle.level_downsamples
    for level, (width, height) in enumerate(sizes):
        side = max(width, height) if width * height <= _SMALL else _SAMPLE
        places = {(0, 0), (width // 2, height // 2)}
        problems = [slide.problem(level, x, y, min(side, width), min(side, height)) for x, y in places]
        if level == 0 and all(problems):
            # Damage of a part is found where it is read; a slide of nothing else would cost a handle a block.
            grid = ((width * i // 5, height * j // 5) for i in range(5) for j in range(5))
            if all(slide.problem(0, x, y, min(side, width), min(side, height)) for x, y in grid):
                return {"refused": f"no pixels can be read: {problems[0][:150]}"}
    return _metadata(slide.handle) | {"sizes": sizes, "downsamples": downsamples}


class _Slide:
    """A slide and a handle of it, which is replaced after an error: one that failed fails for good."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.handle = openslide.OpenSlide(path)

    def problem(self, level: int, x: int, y: int, width: int, height: int) -> str:
        """Why a region cannot be read, or ``""``; in pixels of the level."""
        downsample = self.handle.level_downsamples[level]
        try:
            self.handle.read_region((round(x * downsample), round(y * downsample)), level, (width, height))
        except openslide.OpenSlideError as error:
            self.handle = openslide.OpenSlide(self._path)
            return _reason(error)
        return ""


def _associated(path: str, name: str) -> Iterator[bytes]:
    with openslide.OpenSlide(path) as slide:
        if name not in slide.associated_images:
            yield _line({"refused": "it has no such image"})
            return
        claimed = f"openslide.associated.{name}."
        width, height = (int(slide.properties[claimed + side]) for side in ("width", "height"))
        if width * height > MAX_ASSOCIATED_PIXELS:
            yield _line({"refused": f"{width} × {height} pixels, more than {MAX_ASSOCIATED_PIXELS:,}"})
            return
        image = slide.associated_images[name]
        yield _line({"size": image.size})
        yield image.tobytes()


def _reason(error: Exception) -> str:
    """On one line."""
    return " ".join(str(error).split())[:200] or "it is damaged"


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


if __name__ == "__main__":
    main()

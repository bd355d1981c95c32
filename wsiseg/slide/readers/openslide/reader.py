"""Whatever OpenSlide reads: the vendors that :mod:`wsiseg.slide.readers.tiff.reader` does not decode itself.

An OpenSlide handle that failed once fails for good, so it is replaced after an error, and what cannot be read is
narrowed down to blocks. What it says of a file, and its first pixels, are asked of another process before it opens
the file in this one, see :mod:`wsiseg.slide.readers.openslide.guard`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openslide

from wsiseg.core.geometry import Box, Window
from wsiseg.errors import SlideError
from wsiseg.slide.mpp import from_metadata
from wsiseg.slide.readers.openslide import guard
from wsiseg.slide.readers.openslide.metadata import opaque, read_associated, refusal
from wsiseg.slide.types import Description, Level, Mpp, Pixels, Unread, nominal_downsample

BLOCK = 256  # level pixels: the granularity at which damage is reported
_CELL = 2048  # pixels a side of one call: its ARGB buffers stay at 16 MiB each


class OpenSlideReader:
    """A :class:`wsiseg.slide.types.Reader`; one OpenSlide handle a thread.

    Raises
    ------
    SlideError
        OpenSlide does not open the file; with its reason.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        try:
            found = guard.describe(path)
        except guard.Refused as refused:
            raise refusal(path, refused) from refused
        self.description = _describe(found)
        self._exact = [float(value) for value in found["downsamples"]]

    def close(self) -> None:
        """Close this thread's handle; those of other threads close with their threads."""
        self._drop()

    def read_level(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        pixels = np.empty((*window.shape, 3), dtype=np.uint8)
        unread: list[Unread] = []
        for part in _cells(window, _CELL, self._size(level)):
            common = part.intersection(window)
            # Where OpenSlide's downsample is not a whole number, it interpolates by an amount that depends on the
            # corner that is asked for. Whole cells of a fixed grid keep a pixel's value independent of the window.
            asked = common if self._whole(level) else part
            try:
                pixels[common.within(window)] = self._read(level, asked)[common.within(asked)]
            except _Unreadable:
                pixels[common.within(window)], found = self._read_blocks(level, common)
                unread.extend(found)
        return pixels, tuple(unread)

    def associated_image(self, name: str) -> Pixels:
        return read_associated(self._path, name)

    def _read_blocks(self, level: int, window: Window) -> tuple[Pixels, list[Unread]]:
        """Block by block on the level's own grid, so that any window reports the same blocks."""
        pixels = np.empty((*window.shape, 3), dtype=np.uint8)
        unread = []
        for block in _cells(window, BLOCK, self._size(level)):
            common = block.intersection(window)
            try:
                pixels[common.within(window)] = self._read(level, block)[common.within(block)]
            except _Unreadable as error:
                pixels[common.within(window)] = self.description.background
                unread.append(Unread(block, str(error)))
        return pixels, unread

    def _read(self, level: int, window: Window) -> Pixels:
        # OpenSlide takes the corner in level-0 pixels and divides it by its own, unrounded downsample.
        try:
            handle = self._handle()
            exact = self._exact[level]
            corner = (round(window.x * exact), round(window.y * exact))
            region = handle.read_region(corner, level, (window.width, window.height))
        except (openslide.OpenSlideError, SlideError) as error:
            self._drop()
            raise _Unreadable(str(error)[:120]) from error
        return opaque(np.asarray(region), self.description.background)

    def _size(self, level: int) -> Window:
        return Window(0, 0, self.description.levels[level].width, self.description.levels[level].height)

    def _whole(self, level: int) -> bool:
        return self._exact[level].is_integer()

    def _handle(self) -> openslide.OpenSlide:
        handle = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = open_handle(self._path)
        return handle

    def _drop(self) -> None:
        handle, self._local.handle = getattr(self._local, "handle", None), None
        if handle is not None:
            handle.close()


class _Unreadable(Exception):
    pass


def open_handle(path: Path) -> openslide.OpenSlide:
    """An OpenSlide handle; SlideError with OpenSlide's reason if there is none."""
    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise refusal(path, f"OpenSlide cannot open it: {str(error)[:200]}") from error


def _cells(window: Window, side: int, level: Window) -> Iterator[Window]:
    """The cells of a grid over the level that ``window`` touches, row by row, clipped to the level."""
    for y in range(window.y // side * side, window.y1, side):
        for x in range(window.x // side * side, window.x1, side):
            yield Window(x, y, side, side).intersection(level)


def _describe(found: dict[str, Any]) -> Description:
    properties = dict(found["properties"])
    width, height = found["sizes"][0]
    levels = []
    for index, (level_width, level_height) in enumerate(found["sizes"]):
        tile_width = int(properties.get(f"openslide.level[{index}].tile-width", BLOCK))
        tile_height = int(properties.get(f"openslide.level[{index}].tile-height", BLOCK))
        downsample = nominal_downsample(width, height, level_width, level_height)
        levels.append(Level(level_width, level_height, downsample, tile_width, tile_height))
    mpp, problem = _mpp(properties)
    colour = properties.get("openslide.background-color", "FFFFFF")
    return Description(
        reader="openslide",
        vendor=properties.get("openslide.vendor", ""),
        levels=tuple(levels),
        mpp=mpp,
        mpp_problem=problem,
        bounds=_bounds(properties, width, height),
        properties=properties,
        associated=tuple(found["associated"]),
        background=(int(colour[0:2], 16), int(colour[2:4], 16), int(colour[4:6], 16)),
    )


def _mpp(properties: dict[str, str]) -> tuple[Mpp | None, str]:
    vendor = properties.get("openslide.vendor", "openslide")
    return from_metadata(
        properties.get("openslide.mpp-x"),
        properties.get("openslide.mpp-y"),
        f"openslide.{vendor}.mpp",
        properties.get("openslide.objective-power"),
    )


def _bounds(properties: dict[str, str], width: int, height: int) -> Box:
    whole = Box(0.0, 0.0, float(width), float(height))
    try:
        x, y, w, h = (float(properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return whole
    box = Box(x, y, x + w, y + h).intersection(whole)
    return whole if box.empty else box

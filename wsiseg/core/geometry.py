"""Boxes, windows and scales: the only place where coordinates are converted.

Two coordinate systems exist. **Level-0 coordinates** are continuous: pixel (row i, column j) of the slide's
largest level covers [j, j+1) × [i, i+1), x before y, the origin at the top left corner of level 0. A
**lattice** is the pixel grid at some scale: its pixel (row i, column j) covers
[j·d, (j+1)·d) × [i·d, (i+1)·d) of level 0, d being the downsample. A lattice is anchored at level 0's origin,
so that every reader, tile size and worker means the same pixel by the same indices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, order=True)
class Box:
    """A half-open rectangle [x0, x1) × [y0, y1) in continuous level-0 coordinates."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        return max(self.width, 0.0) * max(self.height, 0.0)

    @property
    def empty(self) -> bool:
        return self.x1 <= self.x0 or self.y1 <= self.y0

    def intersection(self, other: Box) -> Box:
        return Box(max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1))

    def intersects(self, other: Box) -> bool:
        return not self.intersection(other).empty

    def buffer(self, distance: float) -> Box:
        return Box(self.x0 - distance, self.y0 - distance, self.x1 + distance, self.y1 + distance)

    def contains(self, xy: FloatArray) -> npt.NDArray[np.bool_]:
        """Which of the points ``xy``, shape (N, 2), lie inside; the right and bottom edges do not."""
        x, y = xy[:, 0], xy[:, 1]
        return (x >= self.x0) & (x < self.x1) & (y >= self.y0) & (y < self.y1)


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of whole lattice pixels: columns [x, x + width), rows [y, y + height)."""

    x: int
    y: int
    width: int
    height: int

    @property
    def x1(self) -> int:
        return self.x + self.width

    @property
    def y1(self) -> int:
        return self.y + self.height

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), the shape of an array that holds the window."""
        return self.height, self.width

    def pad(self, margin: int) -> Window:
        return Window(self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin)

    def intersection(self, other: Window) -> Window:
        """The common part; width or height 0 where there is none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        return Window(x, y, max(0, min(self.x1, other.x1) - x), max(0, min(self.y1, other.y1) - y))

    def without(self, holes: Iterable[Window]) -> tuple[Window, ...]:
        """Disjoint windows that cover this one but for ``holes``."""
        parts = [self]
        for hole in holes:
            parts = [piece for part in parts for piece in part._around(part.intersection(hole))]
        return tuple(part for part in parts if part.area)

    def _around(self, hole: Window) -> tuple[Window, ...]:
        """What is above, below, left and right of a window inside this one."""
        if hole.area == 0:
            return (self,)
        return (
            Window(self.x, self.y, self.width, hole.y - self.y),
            Window(self.x, hole.y1, self.width, self.y1 - hole.y1),
            Window(self.x, hole.y, hole.x - self.x, hole.height),
            Window(hole.x1, hole.y, self.x1 - hole.x1, hole.height),
        )

    def within(self, outer: Window) -> tuple[slice, slice]:
        """The (rows, columns) slices of this window in an array that holds ``outer``."""
        x, y = self.x - outer.x, self.y - outer.y
        return slice(y, y + self.height), slice(x, x + self.width)


@dataclass(frozen=True, order=True)
class Scale:
    """The lattice whose pixels are ``downsample`` level-0 pixels wide and high."""

    downsample: float

    def to_level0(self, xy: FloatArray) -> FloatArray:
        """Lattice coordinates, shape (N, 2) as x, y, in level-0 coordinates."""
        return np.asarray(xy, dtype=np.float64) * self.downsample

    def from_level0(self, xy: FloatArray) -> FloatArray:
        """Level-0 coordinates, shape (N, 2) as x, y, in lattice coordinates."""
        return np.asarray(xy, dtype=np.float64) / self.downsample

    def box(self, window: Window) -> Box:
        """The part of level 0 that ``window`` covers, exactly."""
        d = self.downsample
        return Box(window.x * d, window.y * d, window.x1 * d, window.y1 * d)

    def window(self, box: Box) -> Window:
        """The smallest window that covers ``box``."""
        d = self.downsample
        x, y = math.floor(box.x0 / d + _TIE), math.floor(box.y0 / d + _TIE)
        return Window(x, y, math.ceil(box.x1 / d - _TIE) - x, math.ceil(box.y1 / d - _TIE) - y)

    def size(self, width: float, height: float) -> tuple[int, int]:
        """(width, height) in lattice pixels that covers width × height level-0 pixels."""
        window = self.window(Box(0.0, 0.0, width, height))
        return window.width, window.height


@dataclass(frozen=True)
class Lattice:
    """A slide at a scale.

    Attributes
    ----------
    scale : Scale
    width, height : float
        Of the slide in lattice pixels, exactly: it may cover its last pixels in part.
    mpp : float
        Microns per lattice pixel.
    """

    scale: Scale
    width: float
    height: float
    mpp: float

    @property
    def whole(self) -> tuple[int, int]:
        """(width, height) in pixels that the slide covers whole."""
        return math.floor(self.width + _TIE), math.floor(self.height + _TIE)


# A box that was made from whole lattice pixels must come back as the same pixels although x·d/d rounds.
_TIE = 1e-6

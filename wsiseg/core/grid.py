"""The partition of a slide into tiles: who reads what, who owns which point, where the seams run.

Pure arithmetic on a lattice (see :mod:`wsiseg.core.geometry`). A tile *owns* the points in its core and *reads* its
core and a halo around it. Cores start at multiples of the tile size from the lattice's origin, so a tile size
that is a multiple of the network's stride puts every tile on the same pooling phase; the halo is rounded up to
the stride for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import FloatArray, Window
from wsiseg.errors import UsageError

LARGEST_TILE = 1 << 31
"""Pixels of a tile's side: beyond all slides, and whole numbers that every format holds."""


@dataclass(frozen=True)
class TileGrid:
    """Cores of ``tile`` × ``tile`` lattice pixels over a lattice of ``width`` × ``height``.

    Attributes
    ----------
    width, height : int
        Size of the slide in lattice pixels.
    tile : int
        Side of a core in lattice pixels, a multiple of ``stride``.
    halo : int
        Lattice pixels read around a core, a multiple of ``stride``.
    stride : int
        The network's coarsest pooling step.
    rim : int or None
        Lattice pixels beyond the slide's edge that are read at most, a multiple of ``stride``; None: as many as the
        halo has.
    """

    width: int
    height: int
    tile: int
    halo: int
    stride: int = 1
    rim: int | None = None

    def __post_init__(self) -> None:
        if self.tile > LARGEST_TILE:
            raise UsageError(f"tile size {self.tile}: expected at most {LARGEST_TILE:,} pixels a side.")
        if self.tile <= 0 or self.tile % self.stride:
            raise UsageError(
                f"tile size {self.tile}: expected a positive multiple of {self.stride}, the network's stride. "
                f"Try --tile {max(self.stride, round(self.tile / self.stride) * self.stride)}."
            )
        if self.halo < 0 or self.halo % self.stride:
            raise ValueError(f"halo {self.halo} is not a multiple of the stride {self.stride}")
        if self.rim is not None and (self.rim < 0 or self.rim % self.stride):
            raise ValueError(f"rim {self.rim} is not a multiple of the stride {self.stride}")

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile)

    @property
    def rows(self) -> int:
        return -(-self.height // self.tile)

    def __len__(self) -> int:
        return self.columns * self.rows

    def position(self, index: int) -> tuple[int, int]:
        """(row, column) of a tile; tiles are numbered row by row."""
        if not 0 <= index < len(self):
            raise IndexError(f"tile {index} of a grid of {len(self)}")
        return divmod(index, self.columns)

    def core(self, index: int) -> Window:
        """The lattice pixels that the tile owns, clipped to the slide."""
        row, column = self.position(index)
        full = Window(column * self.tile, row * self.tile, self.tile, self.tile)
        return full.intersection(Window(0, 0, self.width, self.height))

    def read(self, index: int, wanted: Window | None = None) -> Window:
        """The lattice pixels that the tile needs: core, halo, and what rounds its sides up to the stride.

        It may reach beyond the slide as far as ``rim`` says; there a slide reads as background.

        Parameters
        ----------
        index : int
        wanted : Window, optional
            Where nuclei are wanted, if that is not all of the core: the window then ends a halo beyond it, and
            begins at a multiple of the stride as before.
        """
        core = self.core(index)
        width, height = round_up(core.width, self.stride), round_up(core.height, self.stride)
        window = Window(core.x, core.y, width, height).pad(self.halo)
        if self.rim is not None:
            whole = Window(0, 0, round_up(self.width, self.stride), round_up(self.height, self.stride))
            window = window.intersection(whole.pad(self.rim))
        if wanted is None:
            return window
        x, y = wanted.x // self.stride * self.stride, wanted.y // self.stride * self.stride
        x1, y1 = round_up(wanted.x1, self.stride), round_up(wanted.y1, self.stride)
        return window.intersection(Window(x, y, x1 - x, y1 - y).pad(self.halo))

    def owner(self, xy: FloatArray) -> npt.NDArray[np.int64]:
        """The index of the tile whose core holds each point of ``xy``, shape (N, 2), in lattice coordinates.

        Points outside the slide belong to the nearest tile, so that every point has exactly one owner.
        """
        cells = np.floor(np.asarray(xy, dtype=np.float64) / self.tile).astype(np.int64)
        column = np.clip(cells[:, 0], 0, self.columns - 1)
        row = np.clip(cells[:, 1], 0, self.rows - 1)
        return row * self.columns + column

    def seam_distance(self, xy: FloatArray) -> FloatArray:
        """Distance of each point, shape (N, 2), to the nearest seam, in lattice pixels; inf without seams."""
        xy = np.asarray(xy, dtype=np.float64)
        distance = np.full(len(xy), np.inf)
        for axis, count in ((0, self.columns), (1, self.rows)):
            if count > 1:
                nearest = np.clip(np.round(xy[:, axis] / self.tile), 1, count - 1) * self.tile
                distance = np.minimum(distance, np.abs(xy[:, axis] - nearest))
        return distance

    def touching(self, mask: npt.NDArray[np.bool_], mask_pixel: float) -> npt.NDArray[np.int64]:
        """Indices of the tiles whose core touches a true pixel of ``mask``, in ascending order.

        Parameters
        ----------
        mask : bool array (H, W)
            Anchored at the lattice's origin.
        mask_pixel : float
            Side of a mask pixel in lattice pixels.
        """
        rows, columns = np.nonzero(mask)
        if rows.size == 0:
            return np.empty(0, dtype=np.int64)
        hit = np.zeros((self.rows, self.columns), dtype=bool)
        # A mask pixel may straddle several cores: mark the whole range between its two edges.
        top, bottom = _cells(rows, mask_pixel, self.tile, self.rows)
        left, right = _cells(columns, mask_pixel, self.tile, self.columns)
        for dy in range(int((bottom - top).max()) + 1):
            for dx in range(int((right - left).max()) + 1):
                hit[np.minimum(top + dy, bottom), np.minimum(left + dx, right)] = True
        return np.flatnonzero(hit)


def round_up(value: int, step: int) -> int:
    """The smallest multiple of ``step`` that is not below ``value``."""
    return -(-value // step) * step


def _cells(
    indices: npt.NDArray[np.int64], pixel: float, tile: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    first = np.floor(indices * pixel / tile).astype(np.int64)
    last = np.ceil((indices + 1) * pixel / tile).astype(np.int64) - 1
    return np.clip(first, 0, count - 1), np.clip(np.maximum(first, last), 0, count - 1)

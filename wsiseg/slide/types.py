"""What every reader describes and delivers, as values, and what a reader is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Box, Window

Pixels = npt.NDArray[np.uint8]
WHITE = (255, 255, 255)
ENLARGED = 10.0  # times that pixels are enlarged at most: beyond, an error in the mpp costs and shows nothing
MISSING = "missing"  # the reason of a stored tile that the file declares and does not hold


@dataclass(frozen=True)
class Level:
    """One stored resolution.

    Attributes
    ----------
    width, height : int
        Size in the level's own pixels.
    downsample : float
        Level-0 pixels per pixel of this level; a whole number where the sizes allow one (see
        :func:`nominal_downsample`).
    tile_width, tile_height : int
        The stored tile; reads that follow it decode nothing twice.
    derived : bool
        Made by wsiseg for viewers: shown, never segmented.
    """

    width: int
    height: int
    downsample: float
    tile_width: int
    tile_height: int
    derived: bool = False


@dataclass(frozen=True)
class Mpp:
    """Microns per pixel of level 0 and where the number comes from.

    ``source`` is ``"metadata:aperio.MPP"``, ``"option"``, ``"table:FILE"`` and the like. ``note`` is empty or one
    sentence about a contradiction, for example with the objective power.
    """

    value: float
    source: str
    note: str = ""


@dataclass(frozen=True)
class Description:
    """What a reader knows about a slide once it is open.

    Attributes
    ----------
    reader, vendor : str
        ``"tiff"``, ``"openslide"``, ``"image"``, ``"ome-zarr"``; and the maker, ``""`` if unknown.
    levels : tuple of Level
        At least one, by falling resolution; level 0 has downsample 1.
    mpp : Mpp or None
        From the metadata, checked by :func:`wsiseg.slide.mpp.from_metadata`.
    mpp_problem : str
        Why ``mpp`` is None, for the error message; ``""`` if the metadata simply has none.
    bounds : Box
        The scanned part in level-0 coordinates; the whole slide where the format does not say.
    properties : mapping of str to str
        The file's own metadata.
    associated : tuple of str
        Names of the associated images: label, macro, thumbnail.
    background : tuple of 3 int
        RGB of what the scanner did not cover.
    notes : tuple of str
        A sentence each on what is unusual: what else the file holds and was not read, how a contradiction was
        resolved.
    icc_profile : bytes
        As the file holds it, for whoever wants to manage colours; ``b""`` if there is none. Pixels are delivered as
        they are stored, never transformed by it.
    """

    reader: str
    vendor: str
    levels: tuple[Level, ...]
    mpp: Mpp | None
    bounds: Box
    mpp_problem: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    associated: tuple[str, ...] = ()
    background: tuple[int, int, int] = WHITE
    notes: tuple[str, ...] = ()
    icc_profile: bytes = b""


@dataclass(frozen=True)
class Told:
    """What the directories of a TIFF say, whoever decodes the pixels.

    Attributes
    ----------
    page : int
        Position of the slide in the main chain of the file.
    sizes : tuple of (int, int)
        Width and height of its levels.
    planes : int
        Pages that make one picture: 1, or 3 of one colour each.
    mpp, problem : Mpp or None, str
        See :func:`wsiseg.slide.readers.tiff.declared.declared_mpp`.
    notes : tuple of str
    """

    page: int
    sizes: tuple[tuple[int, int], ...]
    planes: int
    mpp: Mpp | None
    problem: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Unread:
    """Pixels of a level that could not be delivered: the whole stored tile or block, in the level's pixels."""

    window: Window
    reason: str


@dataclass(frozen=True)
class Lost:
    """A part of the slide that could not be read, in level-0 coordinates, clipped to the slide."""

    box: Box
    reason: str

    @property
    def missing(self) -> bool:
        """Not damaged: the file declares the tile and holds no data for it, as sparse slides do."""
        return self.reason == MISSING


class Reader(Protocol):
    """What a file format implements.

    Methods are called from several threads at once; a reader whose handle cannot bear that keeps one a thread.
    A reader is never pickled: a slide travels as its path and opens a new one where it lands.
    """

    @property
    def description(self) -> Description: ...

    def read_level(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        """Pixels of ``window``, uint8 (h, w, 3), and what of it could not be read.

        ``window`` is in the level's pixels and lies inside the level (the caller clips). Unreadable or missing
        tiles hold the description's background in the pixels and one :class:`Unread` each, unclipped by
        ``window`` and clipped to the level, so that two reads that meet the same tile report the same. Damage
        never raises; a fault of the environment (no memory, no file handles) does.
        """
        ...

    def associated_image(self, name: str) -> Pixels:
        """uint8 (h, w, 3); ``name`` is one of ``description.associated``. Raises ReadError if damaged."""
        ...

    def close(self) -> None: ...


def nominal_downsample(width: int, height: int, level_width: int, level_height: int) -> float:
    """Level-0 pixels per level pixel: a whole number where rounding of the sizes explains the rest.

    Scanners floor (some round up) the sizes of the lower levels, so a level that was reduced 4 times seems reduced
    4.0003 times. Powers of two go first: a tiny level fits several whole numbers.
    """
    ratio = (width / level_width + height / level_height) / 2
    for whole in (2 ** round(math.log2(ratio)), round(ratio)):
        if whole >= 1 and abs(width / whole - level_width) < 1 and abs(height / whole - level_height) < 1:
            return float(whole)
    return float(round(ratio)) if round(ratio) and abs(ratio / round(ratio) - 1) <= 0.005 else ratio

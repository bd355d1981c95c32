"""A slide as a value: what every reader describes and delivers, and pixels at any scale on top of it.

A reader (one file each in this package) knows levels and stored pixels and nothing else: no scale, no padding, no
policy on damage. :class:`Slide` adds those, the same for every format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsiseg.core.geometry import Box, Lattice, Scale, Window
from wsiseg.errors import MissingMppError, ReadError, SlideError
from wsiseg.slide import resample
from wsiseg.slide.mpp import override_note
from wsiseg.slide.types import ENLARGED, Description, Level, Lost, Mpp, Pixels, Reader, Unread

if TYPE_CHECKING:
    import dask.array
    import zarr

    from wsiseg.slide.lethal import Lethal


class Slide:
    """An open slide: levels, mpp with its provenance, and pixels at any scale.

    Made by :func:`wsiseg.slide.open_slide`. A Slide pickles as its path and its mpp override and opens anew
    where it lands. Reading is a function of lattice indices alone: two windows that share a lattice pixel
    agree on it.
    """

    def __init__(
        self,
        path: Path,
        reader: Reader,
        override: Mpp | None = None,
        *,
        owns: bool = True,
        reopen: Callable[[str, Mpp | None], Slide] | None = None,
    ) -> None:
        self.path = path
        self._reader = reader
        self._override = override
        self._reopen = reopen
        self._owns = owns  # the reader of an unpickled slide is shared within the process and stays open
        self._fingerprint = ""

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[str, Mpp | None], Slide], tuple[str, Mpp | None]]:
        if self._reopen is None:
            raise TypeError(f"{self!r} has no way to be opened where it lands: open it with open_slide")
        return self._reopen, (os.path.abspath(self.path), self._override)  # it may land in another folder

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        return "wsiseg.Slide", self.fingerprint(), repr(self.mpp)

    def __repr__(self) -> str:
        mpp = f"{self.mpp.value:g} mpp" if self.mpp else "mpp unknown"
        return f"<Slide {self.name!r} {self.width}×{self.height}, {len(self.levels)} levels, {mpp}, {self.reader}>"

    @property
    def description(self) -> Description:
        return self._reader.description

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def reader(self) -> str:
        return self.description.reader

    @property
    def vendor(self) -> str:
        return self.description.vendor

    @property
    def levels(self) -> tuple[Level, ...]:
        return self.description.levels

    @property
    def width(self) -> int:
        return self.levels[0].width

    @property
    def height(self) -> int:
        return self.levels[0].height

    @property
    def override(self) -> Mpp | None:
        """The microns per pixel that were given for it, instead of what its metadata say."""
        return self._override

    @property
    def mpp(self) -> Mpp | None:
        return self._override or self.description.mpp

    @property
    def bounds(self) -> Box:
        return self.description.bounds

    @property
    def properties(self) -> Mapping[str, str]:
        return self.description.properties

    @property
    def associated(self) -> tuple[str, ...]:
        return self.description.associated

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about the file, a sentence each, the note on its microns per pixel included."""
        noted = self.mpp.note if self.mpp else ""
        overridden = override_note(self._override, self.description.mpp) if self._override else ""
        return (*(text for text in (noted, overridden) if text), *self.description.notes)

    @property
    def lethal(self) -> tuple[Lethal, ...]:
        """Stored tiles that crash their decoder: known when the slide was opened, or found by a guarded one."""
        from wsiseg.slide.lethal import GuardedReader

        return self._reader.lethal if isinstance(self._reader, GuardedReader) else ()

    def close(self) -> None:
        if self._owns:
            self._reader.close()

    def require_mpp(self) -> Mpp:
        """The microns per pixel.

        Raises
        ------
        MissingMppError
            With the reason and the remedy.
        """
        if self.mpp is None:
            got = self.description.mpp_problem or "its metadata have no microns per pixel"
            raise MissingMppError(
                f"{self.name}: {got}.\n"
                "Expected: the size of a level-0 pixel in µm, about 0.25 for a 40x scan and 0.5 for a 20x scan.\n"
                "Give it with --mpp VALUE, or for many slides with --mpp-csv FILE (columns slide,mpp)."
            )
        return self.mpp

    def scale(self, mpp: float, *, snap: float = 0.05) -> Scale:
        """The lattice for ``mpp`` microns per pixel.

        Parameters
        ----------
        mpp : float
            Microns per lattice pixel that is asked for.
        snap : float
            Largest relative deviation at which a whole multiple of a stored level's downsample is taken instead,
            the coarsest level first: a mean over whole pixels is exact, fast and does not blur. 0 takes only
            what is equal.

        Raises
        ------
        MissingMppError
            The slide's own mpp is unknown.
        SlideError
            The slide is so coarse that its pixels would be enlarged more than ``ENLARGED`` times.
        """
        if not (math.isfinite(mpp) and mpp > 0):
            raise ValueError(f"mpp {mpp}: expected a positive number")
        own = self.require_mpp()
        wanted = mpp / own.value
        if wanted * ENLARGED < 1 - 1e-9:
            raise SlideError(
                f"{self.name}: has {own.value:g} µm a pixel ({own.source}), and {mpp:g} are asked for: "
                f"an enlargement of {1 / wanted:.3g} times.\n"
                f"Expected: at most {ENLARGED:g} times; a 40x scan has about 0.25 µm a pixel and a 20x scan 0.5.\n"
                "Give the right value with --mpp VALUE or --mpp-csv FILE, or a slide that was scanned finer."
            )
        for level in sorted(self._stored(), key=lambda level: -level.downsample):
            multiple = round(wanted / level.downsample)
            if multiple >= 1 and abs(multiple * level.downsample / wanted - 1) <= snap + 1e-9:
                return Scale(multiple * level.downsample)
        return Scale(wanted)

    def lattice(self, scale: Scale) -> Lattice:
        """The slide at a scale.

        Raises
        ------
        MissingMppError
            Its microns per pixel are unknown.
        """
        d = scale.downsample
        return Lattice(scale, self.width / d, self.height / d, self.require_mpp().value * d)

    def read_window(self, window: Window, scale: Scale) -> Pixels:
        """Pixels of a lattice window.

        Parameters
        ----------
        window : Window
            In pixels of ``scale``'s lattice; what lies beyond the slide is background.
        scale : Scale
            Any downsample; see :meth:`scale`.

        Returns
        -------
        uint8 array (height, width, 3)

        Raises
        ------
        ReadError
            A stored tile under the window is damaged. Tiles that a sparse file does not hold are background.
        """
        pixels, lost = self.read_lossy(window, scale)
        damaged = [part for part in lost if not part.missing]
        if damaged:
            raise ReadError(_damage_message(self.name, damaged))
        return pixels

    def read_lossy(self, window: Window, scale: Scale) -> tuple[Pixels, tuple[Lost, ...]]:
        """Pixels of a lattice window, and the stored tiles under it that are damaged or missing.

        Those tiles hold background; each is reported whole, clipped to the slide, in level-0 coordinates.

        Returns
        -------
        pixels : uint8 array (height, width, 3)
        lost : tuple of Lost
        """
        return self._read_from(self._best_level(scale), window, scale)

    def read(self, box: Box, mpp: float) -> Pixels:
        """The lattice pixels of ``scale(mpp)`` that cover ``box``, uint8 (h, w, 3)."""
        scale = self.scale(mpp)
        return self.read_window(scale.window(box), scale)

    def overview(self, mpp: float) -> tuple[Pixels, Scale]:
        """The whole slide at ``mpp``, uint8 (h, w, 3), and its lattice.

        Read in strips, so that memory is the result's and one strip's. Where the level that fits best is damaged,
        the next finer one is read; what no level holds is background.
        """
        scale = self.scale(mpp)
        width, height = scale.size(self.width, self.height)
        result = np.empty((height, width, 3), dtype=np.uint8)
        best = self._best_level(scale)
        rows = resample.strip_rows(width, scale.downsample / self.levels[best].downsample)
        for y in range(0, height, rows):
            strip = Window(0, y, width, min(rows, height - y))
            result[y : strip.y1] = self._read_from_any(strip, scale, best)
        return result, scale

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Pixels of one level, uint8 (height, width, 3); x, y in the level's pixels, background beyond it.

        Raises
        ------
        ReadError
            A stored tile is damaged.
        """
        pixels, unread = self._padded(level, Window(x, y, width, height))
        damaged = [part for part in self._lost(level, unread) if not part.missing]
        if damaged:
            raise ReadError(_damage_message(self.name, damaged))
        return pixels

    def associated_image(self, name: str) -> Pixels:
        """The label, macro or thumbnail image, uint8 (h, w, 3).

        Raises
        ------
        KeyError
            There is no such image; ``associated`` lists them.
        ReadError
            It is damaged.
        """
        if name not in self.associated:
            raise KeyError(
                f"{self.name} has no associated image {name!r}; it has: {', '.join(self.associated) or 'none'}"
            )
        return self._reader.associated_image(name)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the size and sampled content; independent of path and time."""
        from wsiseg.slide.fingerprint import fingerprint

        if not self._fingerprint:
            # OpenSlide's own hash stands for the other files of formats that consist of several.
            quickhash = self.properties.get("openslide.quickhash-1", "") if self.reader == "openslide" else ""
            self._fingerprint = fingerprint(self.path, quickhash)
        return self._fingerprint

    def dask(self, level: int = 0) -> dask.array.Array:
        """One level as a lazy array (height, width, 3) of stored tiles; nothing is read or copied yet."""
        from wsiseg.slide.lazy import dask_level

        return dask_level(self, level)

    def zarr(self) -> zarr.Group:
        """The levels as arrays "0", "1", … of a read-only zarr group; chunks are decoded as they are read."""
        from wsiseg.slide.lazy import zarr_group

        return zarr_group(self)

    def _stored(self) -> list[Level]:
        return [level for level in self.levels if not level.derived]

    def _best_level(self, scale: Scale) -> int:
        """The coarsest stored level that is not coarser than the lattice, whole multiples first."""
        usable = [
            (resample.whole_ratio(scale.downsample / level.downsample) > 0, level.downsample, index)
            for index, level in enumerate(self.levels)
            if not level.derived and level.downsample <= scale.downsample * (1 + 1e-9)
        ]
        return max(usable, key=lambda entry: entry[:2])[2] if usable else 0

    def _read_from(self, level: int, window: Window, scale: Scale) -> tuple[Pixels, tuple[Lost, ...]]:
        ratio = scale.downsample / self.levels[level].downsample
        support = resample.support(window, ratio)
        pixels, unread = self._padded(level, support)
        return resample.reduce(pixels, support, window, ratio), self._lost(level, unread)

    def _read_from_any(self, window: Window, scale: Scale, best: int) -> Pixels:
        pixels, lost = self._read_from(best, window, scale)
        finer = [i for i in range(best) if not self.levels[i].derived] if lost else []
        for level in reversed(finer):
            again, lost_again = self._read_from(level, window, scale)
            if sum(part.box.area for part in lost_again) < sum(part.box.area for part in lost):
                pixels, lost = again, lost_again
            if not lost:
                break
        return pixels

    def _padded(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        size = self.levels[level]
        inside = window.intersection(Window(0, 0, size.width, size.height))
        if inside == window and window.area:
            return self._reader.read_level(level, window)
        pixels = np.empty((*window.shape, 3), dtype=np.uint8)
        pixels[:] = self.description.background
        if inside.area == 0:
            return pixels, ()
        pixels[inside.within(window)], unread = self._reader.read_level(level, inside)
        return pixels, unread

    def _lost(self, level: int, unread: Iterable[Unread]) -> tuple[Lost, ...]:
        whole = Box(0.0, 0.0, float(self.width), float(self.height))
        scale = Scale(self.levels[level].downsample)
        return tuple(Lost(scale.box(part.window).intersection(whole), part.reason) for part in unread)


def _damage_message(name: str, damaged: list[Lost]) -> str:
    box = damaged[0].box
    where = f"x {box.x0:.0f}–{box.x1:.0f}, y {box.y0:.0f}–{box.y1:.0f}"
    more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    return (
        f"{name}: cannot read the stored tile at {where} (level 0){more}: {damaged[0].reason}.\n"
        "Expected: intact pixels. Copy the slide again and compare its size and checksum with the original's."
    )

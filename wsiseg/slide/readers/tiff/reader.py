"""TIFF read directly: the stored tiles are located once, then read with pread and decoded without the GIL.

For Aperio SVS and plain pyramids (generic TIFF, OME-TIFF); strips are tiles as wide as the image. What other
vendors do with TIFF (overlapping tiles, several scanned regions) and rare kinds of pixels are left to OpenSlide and
Pillow, see :mod:`wsiseg.slide.open`.
"""

from __future__ import annotations

import errno
import itertools
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wsiseg.core.geometry import Box, Window
from wsiseg.errors import EnvironmentFault
from wsiseg.slide.cache import SHARED
from wsiseg.slide.readers.tiff import codec, icc, looks, tags
from wsiseg.slide.readers.tiff.blocks import Blocks, Plane, Unsuited, locate, require_whole
from wsiseg.slide.readers.tiff.declared import declared_mpp
from wsiseg.slide.readers.tiff.directory import Directory, TiffDamage, read_directories
from wsiseg.slide.readers.tiff.pages import NotBrightfield, Selection, choose
from wsiseg.slide.types import MISSING, WHITE, Description, Level, Pixels, Told, Unread, nominal_downsample

_READERS = itertools.count()
_ENVIRONMENT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_STRIPS = 64  # rows that are read together where a strip has fewer
_TRIED = 8  # tiles that are asked for what the tags do not decide, until one is intact
_LOOKS, _LOOK_PX = 3, 1024  # how a page is compared with a larger one


class Elsewhere(Exception):
    """For another reader, which is given what the directories say; ``strips`` tells Pillow's from OpenSlide's."""

    def __init__(self, reason: str, told: Told, *, strips: bool) -> None:
        super().__init__(reason)
        self.told = told
        self.strips = strips


class TiffReader:
    """A :class:`wsiseg.slide.types.Reader`; one file descriptor for all threads, since pread keeps no position.

    Parameters
    ----------
    path : Path
    vendor : str
        As OpenSlide names it: ``"aperio"``, ``"generic-tiff"``; ``""`` where OpenSlide does not know the file.

    Raises
    ------
    TiffDamage
        The file contradicts itself or is truncated.
    Elsewhere
        It is a TIFF for another reader.
    Unsuited
        It is a TIFF for none.
    NotBrightfield
        Its pixels are none of a bright-field slide.
    """

    def __init__(self, path: Path, vendor: str) -> None:
        self._path = path
        self._identity = next(_READERS)
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._release = weakref.finalize(self, _release, self._fd, self._identity)
        try:
            size = os.fstat(self._fd).st_size
            pages = read_directories(self._fd, size)
            for page in pages:
                for directory in (page, *page.children):
                    require_whole(directory, size)
            selection = choose(pages, vendor, self._alike)
            told = _tell(pages, selection)
            try:
                self._tiles = [locate(planes) for planes in selection.levels]
                self._refuse_subsampled()
            except Unsuited as unsuited:
                if not unsuited.convertible:
                    raise
                raise Elsewhere(str(unsuited), told, strips=not selection.base.tiled) from unsuited
            self.description = _describe(path, vendor, pages, selection, told, self._tiles, self._colour_notes())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._fd = -1
        self._release()

    def read_level(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        return self._read(self._tiles[level], window)

    def associated_image(self, name: str) -> Pixels:
        from wsiseg.slide.readers.openslide.metadata import read_associated

        return read_associated(self._path, name)

    def _read(self, tiles: Blocks, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        width, height = tiles.width, tiles.height
        pixels = np.empty((*window.shape, 3), dtype=np.uint8)
        unread: list[Unread] = []
        for row in range(window.y // height, -(-window.y1 // height)):
            for column in range(window.x // width, -(-window.x1 // width)):
                tile = Window(column * width, row * height, width, height)
                common = tile.intersection(window)
                try:
                    pixels[common.within(window)] = self._tile(tiles, row * tiles.columns + column)[
                        common.within(tile)
                    ]
                except codec.TileDamage as damage:
                    pixels[common.within(window)] = WHITE
                    unread.append(Unread(tile.intersection(tiles.extent), str(damage)))
        return pixels, tuple(unread)

    def _tile(self, tiles: Blocks, index: int) -> Pixels:
        key = (self._identity, tiles.number, index)
        cached = SHARED.get(key)
        if cached is not None:
            return cached
        tile = self._decode(tiles, index)
        SHARED.put(key, tile)
        return tile

    def _decode(self, tiles: Blocks, index: int) -> Pixels:
        parts = [codec.decode(self._stored(plane, index), tiles.stored(plane, index)) for plane in tiles.planes]
        return parts[0] if len(parts) == 1 else np.stack([part[:, :, 0] for part in parts], axis=-1)

    def _stored(self, plane: Plane, index: int) -> bytes:
        offset, count = int(plane.offsets[index]), int(plane.counts[index])
        if count == 0 or offset == 0:
            raise codec.TileDamage(MISSING)
        if self._fd < 0:
            raise ValueError(f"{self._path.name} has been closed")
        try:
            data = os.pread(self._fd, count, offset)
        except OSError as error:
            if error.errno in _ENVIRONMENT:
                raise EnvironmentFault(f"{self._path.name}: {error.strerror} while reading.") from error
            raise codec.TileDamage(f"input/output error: {error.strerror}") from error
        if len(data) != count:
            raise codec.TileDamage(f"{len(data)} of {count} bytes: the file has shrunk")
        return data

    def _refuse_subsampled(self) -> None:
        """JPEG 2000 with smaller colour components is left to OpenSlide; one tile tells for all."""
        for tiles in self._tiles:
            if tiles.planes[0].stored.jpeg2000 and self._of_an_intact_tile(tiles, _subsampled):
                raise Unsuited("JPEG 2000 tiles with subsampled colour")

    def _colour_notes(self) -> tuple[str, ...]:
        said = (self._of_an_intact_tile(tiles, codec.contradiction) for tiles in self._tiles)
        return tuple(dict.fromkeys(str(note) for note in said if note))

    def _of_an_intact_tile(self, tiles: Blocks, ask: Callable[[bytes, codec.TileFormat], bool | str]) -> bool | str:
        plane = tiles.planes[0]
        held = np.flatnonzero((plane.counts > 0) & (plane.offsets > 0))
        for index in map(int, held[:_TRIED]):
            try:
                return ask(self._stored(plane, index), tiles.stored(plane, index))
            except (ValueError, codec.TileDamage):
                continue  # a damaged tile is no reason to refuse the slide
        return False

    def _alike(self, page: Directory, base: Directory) -> bool:
        """Whether ``page`` shows what ``base`` does, by its fullest tiles."""
        try:
            small, large = locate((page,)), locate((base,))
        except (Unsuited, NotBrightfield, TiffDamage):
            return False
        ratio = base.width / page.width
        side = max(looks.GRID, int(_LOOK_PX / ratio))
        votes = []
        for index in looks.fullest(small.planes[0].counts, small.columns, _LOOKS):
            x, y = index % small.columns * small.width, index // small.columns * small.height
            part = Window(x, y, min(side, small.width), min(side, small.height))
            part = part.intersection(Window(0, 0, page.width, page.height))
            whole = Window(
                int(part.x * ratio), int(part.y * ratio), int(part.width * ratio), int(part.height * ratio)
            )
            whole = whole.intersection(Window(0, 0, base.width, base.height))
            if min(*whole.shape, *part.shape) >= looks.GRID:
                (few, lost), (many, missed) = self._read(small, part), self._read(large, whole)
                votes += [] if lost or missed else [looks.resemble(few, many)]
        return bool(votes) and sum(votes) * 2 > len(votes)


def _subsampled(data: bytes, stored: codec.TileFormat) -> bool:
    return codec.subsampled_jpeg2000(data)


def _release(descriptor: int, identity: int) -> None:
    os.close(descriptor)
    SHARED.discard(identity)


def _tell(pages: Sequence[Directory], selection: Selection) -> Told:
    mpp, problem = declared_mpp(selection.base, pages[0], selection.ome)
    sizes = tuple((planes[0].width, planes[0].height) for planes in selection.levels)
    return Told(selection.page, sizes, len(selection.levels[0]), mpp, problem, selection.notes)


def _describe(
    path: Path,
    vendor: str,
    pages: Sequence[Directory],
    selection: Selection,
    told: Told,
    located: Sequence[Blocks],
    colours: tuple[str, ...],
) -> Description:
    from wsiseg.slide.readers.openslide.metadata import read_metadata

    properties, associated = read_metadata(path) if vendor else ({}, ())
    base = selection.base
    text = pages[0].text(tags.DESCRIPTION)
    if not properties and text:
        properties = {"tiff.ImageDescription": text}
    profile = base.raw(tags.ICC_PROFILE)
    if profile:
        properties |= {"icc.size": str(len(profile)), "icc.description": icc.describe(profile)}
    grey = ("the slide is grey: there are no colours of stains in it",) if _is_grey(selection) else ()
    return Description(
        reader="tiff",
        vendor=vendor,
        levels=tuple(
            Level(
                width,
                height,
                nominal_downsample(base.width, base.height, width, height),
                tiles.width,
                tiles.height * max(1, _STRIPS // tiles.height),
            )
            for tiles, (width, height) in zip(located, told.sizes, strict=True)
        ),
        mpp=told.mpp,
        mpp_problem=told.problem,
        bounds=Box(0.0, 0.0, float(base.width), float(base.height)),
        properties=properties,
        associated=associated,
        notes=told.notes + colours + grey,
        icc_profile=profile,
    )


def _is_grey(selection: Selection) -> bool:
    return len(selection.levels[0]) == 1 and selection.base.samples == 1

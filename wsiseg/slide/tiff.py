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
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.errors import EnvironmentFault
from wsiseg.geometry import Box, Window
from wsiseg.slide import codec, icc, looks, tiffdir, tiffpages
from wsiseg.slide.base import (
    MISSING,
    WHITE,
    Description,
    Level,
    Mpp,
    Pixels,
    Unread,
    nominal_downsample,
)
from wsiseg.slide.cache import SHARED
from wsiseg.slide.declared import declared_mpp
from wsiseg.slide.tiffdir import Directory, TiffDamage
from wsiseg.slide.tiffpages import NotBrightfield, Selection

MAX_TILE_PIXELS = 1 << 26
MAX_STRIP_PIXELS = 1 << 22  # a strip is read whole for any part of it
_ROWS = 64  # of a strip of uncompressed pixels, which can be divided at will
_READERS, _NUMBERS = itertools.count(), itertools.count()
_ENVIRONMENT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_UNASSOCIATED = 2  # of EXTRA_SAMPLES: colours that were not multiplied by the opacity
_COLOURS = {
    1: (codec.WHITE_IS_ZERO, codec.BLACK_IS_ZERO),
    3: (codec.RGB, codec.YCBCR),
    4: (codec.RGB,),
}
_TRIED = 8  # tiles that are asked for what the tags do not decide, until one is intact
_LOOKS, _LOOK_PX = 3, 1024  # how a page is compared with a larger one


class Unsuited(Exception):
    """Not for direct decoding; the text says what the file has instead.

    Attributes
    ----------
    told : Told
        What the directories say of the slide, for the reader that decodes it instead.
    strips : bool
        Whether the slide is stored in strips.
    """

    def __init__(self, text: str, told: Told | None = None, *, strips: bool = False) -> None:
        super().__init__(text)
        self.told = told
        self.strips = strips


@dataclass(frozen=True)
class Told:
    """What the directories of a file say, whoever decodes the pixels.

    Attributes
    ----------
    page : int
        Position of the slide in the main chain of the file.
    sizes : tuple of (int, int)
        Width and height of its levels.
    planes : int
        Pages that make one picture: 1, or 3 of one colour each.
    mpp, problem : Mpp or None, str
        See :func:`wsiseg.slide.declared.declared_mpp`.
    notes : tuple of str
    """

    page: int
    sizes: tuple[tuple[int, int], ...]
    planes: int
    mpp: Mpp | None
    problem: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Plane:
    """Where the tiles of one plane of a level are, and how they are stored."""

    offsets: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.uint64]
    stored: codec.TileFormat


@dataclass(frozen=True)
class _Tiles:
    """The tiles of one level: of one plane, or of three of one sample, red, green, blue."""

    planes: tuple[_Plane, ...]
    columns: int
    rows: int
    width: int
    height: int
    last_height: int  # of the last row: a strip ends with the image, a tile does not
    extent: Window
    number: int = field(default_factory=lambda: next(_NUMBERS))  # the cache's key within a process


class TiffReader:
    """A :class:`wsiseg.slide.base.Reader`; one file descriptor for all threads, since pread keeps no position.

    Parameters
    ----------
    path : Path
    vendor : str
        As OpenSlide names it: ``"aperio"``, ``"generic-tiff"``; ``""`` where OpenSlide does not know the file.

    Raises
    ------
    TiffDamage
        The file contradicts itself or is truncated.
    Unsuited
        It is a TIFF for another reader.
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
            pages = tiffdir.read_directories(self._fd, size)
            for page in pages:
                for directory in (page, *page.children):
                    _require_whole(directory, size)
            selection = tiffpages.choose(pages, vendor, self._alike)
            told = _tell(pages, selection)
            try:
                self._tiles = [_locate(planes) for planes in selection.levels]
                self._refuse_subsampled()
            except Unsuited as unsuited:
                raise Unsuited(str(unsuited), told, strips=not selection.base.tiled) from unsuited
            self.description = _describe(path, vendor, pages, selection, told, self._colour_notes())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._fd = -1
        self._release()

    def read_level(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        return self._read(self._tiles[level], window)

    def associated_image(self, name: str) -> Pixels:
        from wsiseg.slide.openslide import read_associated

        return read_associated(self._path, name)

    def _read(self, tiles: _Tiles, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
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

    def _tile(self, tiles: _Tiles, index: int) -> Pixels:
        key = (self._identity, tiles.number, index)
        cached = SHARED.get(key)
        if cached is not None:
            return cached
        tile = self._decode(tiles, index)
        SHARED.put(key, tile)
        return tile

    def _decode(self, tiles: _Tiles, index: int) -> Pixels:
        last = index // tiles.columns == tiles.rows - 1
        parts = []
        for plane in tiles.planes:
            stored = replace(plane.stored, height=tiles.last_height) if last else plane.stored
            parts.append(codec.decode(self._stored(plane, index), stored))
        return parts[0] if len(parts) == 1 else np.stack([part[:, :, 0] for part in parts], axis=-1)

    def _stored(self, plane: _Plane, index: int) -> bytes:
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

    def _of_an_intact_tile(self, tiles: _Tiles, ask: Callable[[bytes, codec.TileFormat], bool | str]) -> bool | str:
        plane = tiles.planes[0]
        held = np.flatnonzero((plane.counts > 0) & (plane.offsets > 0))
        for index in held[:_TRIED]:
            last = int(index) // tiles.columns == tiles.rows - 1
            stored = replace(plane.stored, height=tiles.last_height) if last else plane.stored
            try:
                return ask(self._stored(plane, int(index)), stored)
            except (ValueError, codec.TileDamage):
                continue  # a damaged tile is no reason to refuse the slide
        return False

    def _alike(self, page: Directory, base: Directory) -> bool:
        """Whether ``page`` shows what ``base`` does, by its fullest tiles."""
        try:
            small, large = _locate((page,)), _locate((base,))
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


def _require_whole(directory: Directory, size: int) -> None:
    """Refuse a file that ends before its pixels do, be they only those of the label: it was not copied whole."""
    values = directory.values
    for offsets_tag, counts_tag in (
        (tiffdir.TILE_OFFSETS, tiffdir.TILE_COUNTS),
        (tiffdir.STRIP_OFFSETS, tiffdir.STRIP_COUNTS),
    ):
        if offsets_tag not in values or counts_tag not in values:
            continue
        start, length = values[offsets_tag].astype(np.uint64), values[counts_tag].astype(np.uint64)
        common = min(len(start), len(length))
        start, length = start[:common], length[:common]
        beyond = (length > np.uint64(size)) | (start > np.uint64(size) - np.minimum(length, np.uint64(size)))
        if (beyond & (length > 0)).any():
            raise TiffDamage(
                f"{int(beyond.sum())} of {common} tiles or strips beyond the end of a file of {size} bytes; "
                f"expected at least {int(start[beyond].max()) + int(length[beyond].max())} bytes: truncated?"
            )


def _locate(planes: Sequence[Directory]) -> _Tiles:
    first = planes[0]
    for page in planes:
        _require_suited(page)
        if (page.tile_width, page.tile_height, page.tiled) != (first.tile_width, first.tile_height, first.tiled):
            raise Unsuited("colour planes with different tiles", strips=not first.tiled)
    columns, rows, height = first.columns, first.rows, first.tile_height
    located = [plane for page in planes for plane in _planes(page)]
    if _divisible(first):
        height = min(_ROWS, first.height)
        rows = -(-first.height // height)
        located = [_divided(plane, first, height, rows) for plane in located]
    return _Tiles(
        planes=tuple(located),
        columns=columns,
        rows=rows,
        width=first.tile_width,
        height=height,
        last_height=height if first.tiled else first.height - (rows - 1) * height,
        extent=Window(0, 0, first.width, first.height),
    )


def _planes(directory: Directory) -> list[_Plane]:
    """One plane, or three where the colours of a page are stored apart."""
    apart = directory.number(tiffdir.PLANAR, 1) == 2 and directory.samples > 1
    expected = directory.columns * directory.rows * (directory.samples if apart else 1)
    names = (tiffdir.TILE_OFFSETS, tiffdir.STRIP_OFFSETS), (tiffdir.TILE_COUNTS, tiffdir.STRIP_COUNTS)
    found = []
    for name, (tag, other) in zip(("offsets", "byte counts"), names, strict=True):
        array = directory.values.get(tag, directory.values.get(other))
        if array is None or len(array) != expected:
            got = 0 if array is None else len(array)
            extent = f"{directory.width} × {directory.height} pixels"
            raise TiffDamage(f"{got} tile {name} for an image of {extent}; expected {expected}")
        found.append(array.astype(np.uint64))
    stored = codec.TileFormat(
        compression=directory.compression,
        photometric=codec.BLACK_IS_ZERO if apart else directory.photometric,
        samples=1 if apart else directory.samples,
        width=directory.tile_width,
        height=directory.tile_height,
        predictor=directory.number(tiffdir.PREDICTOR, 1),
        jpeg_tables=directory.raw(tiffdir.JPEG_TABLES),
        premultiplied=directory.number(tiffdir.EXTRA_SAMPLES, 0) != _UNASSOCIATED,
    )
    each = directory.columns * directory.rows
    return [
        _Plane(found[0][start : start + each], found[1][start : start + each], stored)
        for start in range(0, expected, each)
    ]


def _divisible(directory: Directory) -> bool:
    """Whether the image is one long strip of pixels as they are, which may be read in any parts."""
    return not directory.tiled and directory.compression == codec.NONE and directory.rows == 1


def _divided(plane: _Plane, directory: Directory, height: int, rows: int) -> _Plane:
    row = directory.width * plane.stored.samples
    if not plane.offsets[0] or int(plane.counts[0]) < row * directory.height:
        raise TiffDamage(f"a strip of {int(plane.counts[0])} bytes; expected {row * directory.height}")
    starts = np.arange(rows, dtype=np.uint64) * np.uint64(row * height)
    counts = np.full(rows, row * height, dtype=np.uint64)
    counts[-1] = row * (directory.height - (rows - 1) * height)
    return _Plane(plane.offsets[0] + starts, counts, replace(plane.stored, height=height))


def _require_suited(directory: Directory) -> None:
    block, strips = f"{directory.tile_width} × {directory.tile_height} pixels", not directory.tiled
    if min(directory.tile_width, directory.tile_height) < 1:
        raise TiffDamage(f"tiles of {block}; expected a positive size")
    if directory.tile_width * directory.tile_height > MAX_TILE_PIXELS and directory.tiled:
        raise TiffDamage(f"tiles of {block}; expected at most {MAX_TILE_PIXELS}")
    if directory.bits != 8 or directory.number(tiffdir.SAMPLE_FORMAT, 1) != 1:
        if strips:
            raise Unsuited(f"{directory.bits or 'mixed'}-bit samples", strips=True)
        raise NotBrightfield(f"{directory.bits or 'mixed'}-bit samples")
    apart = directory.number(tiffdir.PLANAR, 1) != 1 and directory.samples > 1
    colours = _COLOURS.get(directory.samples)
    if (
        colours is None
        or (directory.samples == 4 and directory.photometric < codec.RGB)
        or (apart and directory.samples > 3)
    ):
        raise NotBrightfield(f"{directory.samples} channels")
    if strips and directory.tile_width * directory.tile_height > MAX_STRIP_PIXELS and not _divisible(directory):
        raise Unsuited(f"strips of {block}", strips=True)
    if directory.compression not in codec.NAMES:
        name = codec.UNREAD.get(directory.compression)
        raise Unsuited(f"compression {directory.compression}" + (f" ({name})" if name else ""), strips=strips)
    if directory.number(tiffdir.PREDICTOR, 1) not in (1, 2):
        raise Unsuited(f"predictor {directory.number(tiffdir.PREDICTOR)}", strips=strips)
    packed = directory.photometric == codec.YCBCR and directory.compression not in codec.OWN_COLOURS
    four = directory.compression == codec.JPEG and directory.samples == 4
    if directory.photometric not in colours or packed or four or (apart and directory.photometric != codec.RGB):
        name = (
            "YCbCr" if directory.photometric == codec.YCBCR else codec.PHOTOMETRICS.get(directory.photometric, "")
        )
        kind = name or f"photometric interpretation {directory.photometric}"
        raise Unsuited(f"colours as {kind} with {directory.samples} channels", strips=strips)


def _tell(pages: Sequence[Directory], selection: Selection) -> Told:
    mpp, problem = declared_mpp(selection.base, pages[0], selection.ome)
    sizes = tuple((planes[0].width, planes[0].height) for planes in selection.levels)
    return Told(selection.page, sizes, len(selection.levels[0]), mpp, problem, selection.notes)


def _describe(
    path: Path, vendor: str, pages: Sequence[Directory], selection: Selection, told: Told, colours: tuple[str, ...]
) -> Description:
    from wsiseg.slide.openslide import read_metadata

    properties, associated = read_metadata(path) if vendor else ({}, ())
    base = selection.base
    text = pages[0].text(tiffdir.DESCRIPTION)
    if not properties and text:
        properties = {"tiff.ImageDescription": text}
    profile = base.raw(tiffdir.ICC_PROFILE)
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
                planes[0].tile_width,
                planes[0].tile_height if planes[0].tiled else min(planes[0].tile_height, _ROWS),
            )
            for planes, (width, height) in zip(selection.levels, told.sizes, strict=True)
        ),
        mpp=told.mpp,
        mpp_problem=told.problem,
        bounds=Box(0.0, 0.0, float(base.width), float(base.height)),
        properties=properties,
        associated=associated,
        notes=told.notes + colours + grey,
    )


def _is_grey(selection: Selection) -> bool:
    return len(selection.levels[0]) == 1 and selection.base.samples == 1

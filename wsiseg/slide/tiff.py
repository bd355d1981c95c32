"""Tiled TIFF read directly: the stored tiles are located once, then read with pread and decoded without the GIL.

For Aperio SVS and plain pyramids (generic tiled TIFF, OME-TIFF). What other vendors do with TIFF (overlapping
tiles, several scanned regions) and what has no tiles is left to OpenSlide, see :mod:`wsiseg.slide.open`.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.errors import EnvironmentFault
from wsiseg.geometry import Box, Window
from wsiseg.slide import codec, tiffdir
from wsiseg.slide.base import MISSING, WHITE, Description, Level, Mpp, Pixels, Unread, nominal_downsample
from wsiseg.slide.cache import SHARED
from wsiseg.slide.mpp import from_metadata
from wsiseg.slide.tiffdir import Directory, TiffDamage

MAX_TILE_PIXELS = 1 << 26
_READERS = itertools.count()
_ENVIRONMENT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_INCH = 2
_UNIT_UM = {_INCH: 25400.0, 3: 10000.0}
_PRINTED = 10.0  # µm per pixel: 2540 pixels per inch
_MICRONS = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4}


class Unsuited(Exception):
    """Not for direct decoding; the text says what the file has instead."""


class NotBrightfield(Exception):
    """Not for any reader: the pixels are no 8-bit grey or RGB; the text says what they are."""


@dataclass(frozen=True)
class _Tiles:
    """Where the tiles of one level are."""

    offsets: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.uint64]
    columns: int
    stored: codec.TileFormat


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
            directories = tiffdir.read_directories(self._fd, size)
            for directory in directories:
                _require_whole(directory, size)
            pyramid = _pyramid(directories)
            self._tiles = [_locate(directory) for directory in pyramid]
            self._refuse_subsampled()
            self.description = _describe(path, vendor, directories, pyramid)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._fd = -1
        self._release()

    def read_level(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        tiles = self._tiles[level]
        width, height = tiles.stored.width, tiles.stored.height
        pixels = np.empty((*window.shape, 3), dtype=np.uint8)
        unread: list[Unread] = []
        for row in range(window.y // height, -(-window.y1 // height)):
            for column in range(window.x // width, -(-window.x1 // width)):
                tile = Window(column * width, row * height, width, height)
                common = tile.intersection(window)
                try:
                    pixels[common.within(window)] = self._tile(level, row * tiles.columns + column)[
                        common.within(tile)
                    ]
                except codec.TileDamage as damage:
                    pixels[common.within(window)] = WHITE
                    size = self.description.levels[level]
                    unread.append(Unread(tile.intersection(Window(0, 0, size.width, size.height)), str(damage)))
        return pixels, tuple(unread)

    def associated_image(self, name: str) -> Pixels:
        from wsiseg.slide.openslide import read_associated

        return read_associated(self._path, name)

    def _tile(self, level: int, index: int) -> Pixels:
        key = (self._identity, level, index)
        cached = SHARED.get(key)
        if cached is not None:
            return cached
        tile = codec.decode(self._stored(level, index), self._tiles[level].stored)
        SHARED.put(key, tile)
        return tile

    def _stored(self, level: int, index: int) -> bytes:
        tiles = self._tiles[level]
        offset, count = int(tiles.offsets[index]), int(tiles.counts[index])
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
        for level, tiles in enumerate(self._tiles):
            held = np.flatnonzero((tiles.counts > 0) & (tiles.offsets > 0))
            if tiles.stored.jpeg2000 and held.size:
                try:
                    subsampled = codec.subsampled_jpeg2000(self._stored(level, int(held[0])))
                except (ValueError, codec.TileDamage):
                    continue  # one damaged tile is no reason to refuse the slide
                if subsampled:
                    raise Unsuited("JPEG 2000 tiles with subsampled colour")


def _pyramid(directories: list[Directory]) -> list[Directory]:
    """The tiled images that are the first one at lower resolution, by falling size."""
    tiled = [directory for directory in directories if directory.tiled]
    if not tiled:
        raise Unsuited("no tiled image")
    base = max(tiled, key=lambda directory: directory.width * directory.height)
    if not (base.width and base.height):
        raise TiffDamage(f"an image of {base.width} × {base.height} pixels; expected a positive size")
    levels = {
        (directory.width, directory.height): directory for directory in reversed(tiled) if _reduces(directory, base)
    }
    return [levels[size] for size in sorted(levels, reverse=True)]


def _reduces(directory: Directory, base: Directory) -> bool:
    if not (directory.width and directory.height):
        return False
    ratio = base.width / directory.width
    # Sizes are rounded to whole pixels, by up to one in either direction.
    return abs(base.height / ratio - directory.height) <= 1 + directory.height / directory.width


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


def _locate(directory: Directory) -> _Tiles:
    _require_suited(directory)
    expected = directory.columns * directory.rows
    offsets = directory.values.get(tiffdir.TILE_OFFSETS, directory.values.get(tiffdir.STRIP_OFFSETS))
    counts = directory.values.get(tiffdir.TILE_COUNTS, directory.values.get(tiffdir.STRIP_COUNTS))
    for name, array in (("offsets", offsets), ("byte counts", counts)):
        if array is None or len(array) != expected:
            got = 0 if array is None else len(array)
            extent = f"{directory.width} × {directory.height} pixels"
            raise TiffDamage(f"{got} tile {name} for an image of {extent}; expected {expected}")
    assert offsets is not None
    assert counts is not None
    stored = codec.TileFormat(
        compression=directory.compression,
        photometric=directory.photometric,
        samples=directory.samples,
        width=directory.tile_width,
        height=directory.tile_height,
        predictor=directory.number(tiffdir.PREDICTOR, 1),
        jpeg_tables=directory.raw(tiffdir.JPEG_TABLES),
    )
    return _Tiles(offsets.astype(np.uint64), counts.astype(np.uint64), directory.columns, stored)


def _require_suited(directory: Directory) -> None:
    if min(directory.tile_width, directory.tile_height) < 1:
        raise TiffDamage(
            f"tiles of {directory.tile_width} × {directory.tile_height} pixels; expected a positive size"
        )
    if directory.tile_width * directory.tile_height > MAX_TILE_PIXELS:
        raise TiffDamage(
            f"tiles of {directory.tile_width} × {directory.tile_height} pixels; expected at most {MAX_TILE_PIXELS}"
        )
    if directory.bits != 8 or directory.number(tiffdir.SAMPLE_FORMAT, 1) != 1:
        raise NotBrightfield(f"{directory.bits or 'mixed'}-bit samples")
    if directory.samples not in (1, 3, 4):
        raise NotBrightfield(f"{directory.samples} channels")
    if directory.number(tiffdir.PLANAR, 1) != 1:
        raise Unsuited("separate colour planes")
    if directory.compression not in codec.NAMES:
        raise Unsuited(f"compression {directory.compression}")
    if directory.number(tiffdir.PREDICTOR, 1) not in (1, 2):
        raise Unsuited(f"predictor {directory.number(tiffdir.PREDICTOR)}")
    colours = (2, 6) if directory.samples == 3 else (1,)
    if directory.photometric not in colours or (directory.photometric == 6 and directory.compression == codec.NONE):
        raise Unsuited(f"photometric interpretation {directory.photometric} with {directory.samples} channels")


def _describe(path: Path, vendor: str, directories: list[Directory], pyramid: list[Directory]) -> Description:
    from wsiseg.slide.openslide import read_metadata

    properties, associated = read_metadata(path) if vendor else ({}, ())
    base = pyramid[0]
    text = directories[0].text(tiffdir.DESCRIPTION)
    if not properties and text:
        properties = {"tiff.ImageDescription": text}
    mpp, problem = declared_mpp(directories[0])
    return Description(
        reader="tiff",
        vendor=vendor,
        levels=tuple(
            Level(
                level.width,
                level.height,
                nominal_downsample(base.width, base.height, level.width, level.height),
                level.tile_width,
                level.tile_height,
            )
            for level in pyramid
        ),
        mpp=mpp,
        mpp_problem=problem,
        bounds=Box(0.0, 0.0, float(base.width), float(base.height)),
        properties=properties,
        associated=associated,
    )


def declared_mpp(directory: Directory) -> tuple[Mpp | None, str]:
    """The microns per pixel that a TIFF image declares: Aperio's, OME's or the resolution tags."""
    text = directory.text(tiffdir.DESCRIPTION)
    if text.startswith("Aperio"):
        fields = dict(part.split("=", 1) for part in text.split("|")[1:] if "=" in part)
        known = {name.strip(): value.strip() for name, value in fields.items()}
        return from_metadata(known.get("MPP"), None, "aperio.MPP", known.get("AppMag"))
    sizes = [_physical_size(text, axis) for axis in "XY"]
    if any(size is not None for size in sizes):
        return from_metadata(sizes[0], sizes[1], "ome.PhysicalSize")
    unit = directory.number(tiffdir.RESOLUTION_UNIT, 2)
    x, y = (directory.ratio(tag) for tag in (tiffdir.X_RESOLUTION, tiffdir.Y_RESOLUTION))
    if unit not in _UNIT_UM or not (x and y):
        return None, ""
    # Ten decimals: the tag is a fraction of two 32-bit numbers, and 0.25 should not read as 0.25000000001.
    values = round(_UNIT_UM[unit] / x, 10), round(_UNIT_UM[unit] / y, 10)
    if unit == _INCH and min(values) > _PRINTED:
        return (
            None,
            f"its resolution of {x:g} pixels per inch is one for printing ({values[0]:g} microns per pixel)",
        )
    return from_metadata(*values, "tiff.resolution")


def _physical_size(text: str, axis: str) -> str | float | None:
    """PhysicalSizeX or Y of OME-XML in µm; a search, not a parse: the XML comes from a stranger."""
    size = re.search(rf'\bPhysicalSize{axis}="([^"]{{1,40}})"', text)
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]{{1,10}})"', text)
    if size is None:
        return None
    factor = _MICRONS.get(unit.group(1), 1.0) if unit else 1.0
    try:
        return float(size.group(1)) * factor
    except ValueError:
        return size.group(1)

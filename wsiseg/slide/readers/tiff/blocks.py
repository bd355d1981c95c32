"""Where the stored tiles of a TIFF page are and how they are stored; strips are tiles as wide as the image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Window
from wsiseg.slide.readers.tiff import codec, tags
from wsiseg.slide.readers.tiff.directory import Directory, TiffDamage
from wsiseg.slide.readers.tiff.pages import NotBrightfield

MAX_TILE_PIXELS = 1 << 26
MAX_STRIP_PIXELS = 1 << 22  # a strip is read whole for any part of it
_ROWS = 64  # of a strip of uncompressed pixels, which can be divided at will
_NUMBERS = itertools.count()
_UNASSOCIATED = 2  # of EXTRA_SAMPLES: colours that were not multiplied by the opacity
_COLOURS = {
    1: (codec.WHITE_IS_ZERO, codec.BLACK_IS_ZERO),
    3: (codec.RGB, codec.YCBCR),
    4: (codec.RGB,),
}


class Unsuited(Exception):
    """Not for direct decoding; the text says what the file has instead.

    ``convertible``: another program may know these pixels; otherwise they make no sense.
    """

    def __init__(self, text: str, *, convertible: bool = True) -> None:
        super().__init__(text)
        self.convertible = convertible


@dataclass(frozen=True)
class Plane:
    """Where the tiles of one plane of a level are, and how they are stored."""

    offsets: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.uint64]
    stored: codec.TileFormat


@dataclass(frozen=True)
class Blocks:
    """The tiles of one level: of one plane, or of three of one sample, red, green, blue."""

    planes: tuple[Plane, ...]
    columns: int
    rows: int
    width: int
    height: int
    last_height: int  # of the last row: a strip ends with the image, a tile does not
    extent: Window
    number: int = field(default_factory=lambda: next(_NUMBERS))  # the cache's key within a process

    def stored(self, plane: Plane, index: int) -> codec.TileFormat:
        """How one tile of a plane is stored."""
        last = index // self.columns == self.rows - 1
        return replace(plane.stored, height=self.last_height) if last else plane.stored


def require_whole(directory: Directory, size: int) -> None:
    """Refuse a file that contradicts itself or ends before its pixels do, be they only those of the label.

    Raises
    ------
    TiffDamage
    """
    if directory.tiled:
        _require_sound(directory)
    values = directory.values
    for offsets_tag, counts_tag in (
        (tags.TILE_OFFSETS, tags.TILE_COUNTS),
        (tags.STRIP_OFFSETS, tags.STRIP_COUNTS),
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


def _require_sound(directory: Directory) -> None:
    """Refuse tiles that no reader should be asked for, be they only those of the label."""
    if not directory.pixels:
        raise TiffDamage(f"an image of {directory.width} × {directory.height} pixels; expected a positive size")
    block = f"{directory.tile_width} × {directory.tile_height} pixels"
    if min(directory.tile_width, directory.tile_height) < 1:
        raise TiffDamage(f"tiles of {block}; expected a positive size")
    if directory.tile_width * directory.tile_height > MAX_TILE_PIXELS:
        raise TiffDamage(f"tiles of {block}; expected at most {MAX_TILE_PIXELS}")
    _where(directory, directory.columns * directory.rows * (directory.samples if _apart(directory) else 1))


def locate(planes: Sequence[Directory]) -> Blocks:
    """Where the tiles of a level are: of one page, or of three pages that are red, green and blue.

    Raises
    ------
    TiffDamage
        The page contradicts itself.
    Unsuited
        Its pixels are stored in a way that :mod:`wsiseg.slide.readers.tiff.codec` does not decode.
    NotBrightfield
        Its pixels are none of a bright-field slide.
    """
    first = planes[0]
    for page in planes:
        _require_suited(page)
        if (page.tile_width, page.tile_height, page.tiled) != (first.tile_width, first.tile_height, first.tiled):
            raise Unsuited("colour planes with different tiles", convertible=False)
    columns, rows, height = first.columns, first.rows, first.tile_height
    located = [plane for page in planes for plane in _planes(page)]
    if _divisible(first):
        height = min(_ROWS, first.height)
        rows = -(-first.height // height)
        located = [_divided(plane, first, height, rows) for plane in located]
    return Blocks(
        planes=tuple(located),
        columns=columns,
        rows=rows,
        width=first.tile_width,
        height=height,
        last_height=height if first.tiled else first.height - (rows - 1) * height,
        extent=Window(0, 0, first.width, first.height),
    )


def _planes(directory: Directory) -> list[Plane]:
    """One plane, or three where the colours of a page are stored apart."""
    apart = _apart(directory)
    expected = directory.columns * directory.rows * (directory.samples if apart else 1)
    offsets, counts = (array[:expected].astype(np.uint64) for array in _where(directory, expected))
    stored = codec.TileFormat(
        compression=directory.compression,
        photometric=codec.BLACK_IS_ZERO if apart else directory.photometric,
        samples=1 if apart else directory.samples,
        width=directory.tile_width,
        height=directory.tile_height,
        predictor=directory.number(tags.PREDICTOR, 1),
        jpeg_tables=directory.raw(tags.JPEG_TABLES),
        premultiplied=directory.number(tags.EXTRA_SAMPLES, 0) != _UNASSOCIATED,
    )
    each = directory.columns * directory.rows
    return [
        Plane(offsets[start : start + each], counts[start : start + each], stored)
        for start in range(0, expected, each)
    ]


def _apart(directory: Directory) -> bool:
    """Whether the samples of a pixel are stored in planes of their own."""
    return directory.number(tags.PLANAR, 1) == 2 and directory.samples > 1


def _where(directory: Directory, expected: int) -> list[npt.NDArray[np.generic]]:
    """Offsets and lengths of the stored tiles or strips; TiffDamage unless there are as many as expected."""
    names = (tags.TILE_OFFSETS, tags.STRIP_OFFSETS), (tags.TILE_COUNTS, tags.STRIP_COUNTS)
    found = []
    for name, (tag, other) in zip(("offsets", "byte counts"), names, strict=True):
        array = directory.values.get(tag, directory.values.get(other))
        if array is None or len(array) != expected:
            got = 0 if array is None else len(array)
            extent = f"{directory.width} × {directory.height} pixels"
            raise TiffDamage(f"{got} tile {name} for an image of {extent}; expected {expected}")
        found.append(array)
    return found


def _divisible(directory: Directory) -> bool:
    """Whether the image is one long strip of pixels as they are, which may be read in any parts."""
    return not directory.tiled and directory.compression == codec.NONE and directory.rows == 1


def _divided(plane: Plane, directory: Directory, height: int, rows: int) -> Plane:
    row = directory.width * plane.stored.samples
    if not plane.offsets[0] or int(plane.counts[0]) < row * directory.height:
        raise TiffDamage(f"a strip of {int(plane.counts[0])} bytes; expected {row * directory.height}")
    starts = np.arange(rows, dtype=np.uint64) * np.uint64(row * height)
    counts = np.full(rows, row * height, dtype=np.uint64)
    counts[-1] = row * (directory.height - (rows - 1) * height)
    return Plane(plane.offsets[0] + starts, counts, replace(plane.stored, height=height))


def _require_suited(directory: Directory) -> None:
    samples, photometric, strips = directory.samples, directory.photometric, not directory.tiled
    if directory.tile_height < 1:
        raise TiffDamage(f"strips of {directory.tile_height} rows; expected a positive number")
    if directory.bits != 8 or directory.number(tags.SAMPLE_FORMAT, 1) != 1:
        if strips and samples <= 4:  # pictures of 1 or 16 bits
            raise Unsuited(f"{directory.bits or 'mixed'}-bit samples")
        raise NotBrightfield(f"{directory.bits or 'mixed'}-bit samples")
    apart = _apart(directory)
    if samples not in _COLOURS or (samples == 4 and (photometric < codec.RGB or apart)):
        raise NotBrightfield(f"{samples} channels")
    if strips and directory.tile_width * directory.tile_height > MAX_STRIP_PIXELS and not _divisible(directory):
        raise Unsuited(f"strips of {directory.tile_width} × {directory.tile_height} pixels")
    if directory.compression not in codec.NAMES:
        name = codec.UNREAD.get(directory.compression, "unknown")
        raise Unsuited(f"compression {directory.compression} ({name})", convertible=name != "unknown")
    if directory.number(tags.PREDICTOR, 1) not in (1, 2):
        raise Unsuited(f"predictor {directory.number(tags.PREDICTOR)}")
    packed = photometric == codec.YCBCR and directory.compression not in codec.OWN_COLOURS
    four = directory.compression == codec.JPEG and samples == 4
    if photometric not in _COLOURS[samples] or packed or four or (apart and photometric != codec.RGB):
        name = codec.PHOTOMETRICS.get(photometric, f"photometric interpretation {photometric}")
        raise Unsuited(f"colours as {name} in {samples} channels", convertible=photometric in codec.CONVERTIBLE)

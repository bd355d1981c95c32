"""The directories of a TIFF or BigTIFF file, read with distrust.

Every count is held against the file's size before anything of that size is allocated, so that a header which claims
a terabyte costs nothing. Only the tags that decide pixels and scale are kept.

.. [1] Adobe, "TIFF Revision 6.0", 1992. BigTIFF: https://www.awaresystems.be/imaging/tiff/bigtiff.html
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_DIRECTORIES = 256
MAX_ENTRIES = 4096
MAX_TILES = 1 << 25
MAX_TEXT = 1 << 24

_TYPES = {
    1: "u1", 2: "u1", 3: "u2", 4: "u4", 5: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 10: "i4", 11: "f4", 12: "f8",
    13: "u4", 16: "u8", 17: "i8", 18: "u8",
}  # fmt: skip
_RATIONAL = (5, 10)

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 254, 256, 257, 258, 259, 262, 270
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS, X_RESOLUTION, Y_RESOLUTION = 273, 277, 278, 279, 282, 283
PLANAR, RESOLUTION_UNIT, SOFTWARE, PREDICTOR, TILE_WIDTH, TILE_HEIGHT = 284, 296, 305, 317, 322, 323
TILE_OFFSETS, TILE_COUNTS, SUB_DIRECTORIES, SAMPLE_FORMAT, JPEG_TABLES = 324, 325, 330, 339, 347
_KEPT = frozenset(
    {
        *(SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, STRIP_OFFSETS, SAMPLES),
        *(ROWS_PER_STRIP, STRIP_COUNTS, X_RESOLUTION, Y_RESOLUTION, PLANAR, RESOLUTION_UNIT, SOFTWARE, PREDICTOR),
        *(TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, SUB_DIRECTORIES, SAMPLE_FORMAT, JPEG_TABLES),
    }
)


class TiffDamage(Exception):
    """The file contradicts itself; the text says what was got and what was expected, on one line each."""


@dataclass(frozen=True)
class Directory:
    """One image of a TIFF file: the values of the tags that were kept."""

    values: Mapping[int, npt.NDArray[np.generic]]

    def number(self, tag: int, default: int = 0) -> int:
        array = self.values.get(tag)
        return int(array[0]) if array is not None and array.size else default

    def text(self, tag: int) -> str:
        array = self.values.get(tag)
        return array.tobytes().split(b"\0")[0].decode("utf-8", "replace") if array is not None else ""

    def raw(self, tag: int) -> bytes:
        array = self.values.get(tag)
        return array.tobytes() if array is not None else b""

    def ratio(self, tag: int) -> float | None:
        array = self.values.get(tag)
        return float(array[0]) if array is not None and array.size else None

    @property
    def width(self) -> int:
        return self.number(WIDTH)

    @property
    def height(self) -> int:
        return self.number(HEIGHT)

    @property
    def tile_width(self) -> int:
        return self.number(TILE_WIDTH)

    @property
    def tile_height(self) -> int:
        return self.number(TILE_HEIGHT)

    @property
    def tiled(self) -> bool:
        return TILE_WIDTH in self.values and TILE_HEIGHT in self.values

    @property
    def samples(self) -> int:
        return self.number(SAMPLES, 1)

    @property
    def bits(self) -> int:
        """Bits per sample if all samples agree, else 0."""
        array = self.values.get(BITS)
        if array is None or not array.size:
            return 1
        return int(array[0]) if (array == array[0]).all() else 0

    @property
    def compression(self) -> int:
        return self.number(COMPRESSION, 1)

    @property
    def photometric(self) -> int:
        return self.number(PHOTOMETRIC, -1)

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile_width)

    @property
    def rows(self) -> int:
        return -(-self.height // self.tile_height)


def read_directories(fd: int, size: int) -> list[Directory]:
    """All directories of the main chain, and behind the first one its subdirectories.

    Parameters
    ----------
    fd : int
        Open for reading; its position does not matter.
    size : int
        Of the file in bytes.

    Raises
    ------
    TiffDamage
        A directory or a value lies beyond the file, the chain loops, or there is no directory.
    """
    head = os.pread(fd, 16, 0)
    order = "<" if head[:2] == b"II" else ">"
    if len(head) < 8:
        raise TiffDamage(f"a TIFF header of {len(head)} bytes; expected at least 8")
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    if big and len(head) < 16:
        raise TiffDamage(f"a BigTIFF header of {len(head)} bytes; expected 16")
    start = struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])[0]
    found: list[Directory] = []
    seen: set[int] = set()
    while start:
        directory, start = _read_one(fd, size, start, order, big, seen)
        found.append(directory)
    if not found:
        raise TiffDamage("a TIFF without any image directory; expected at least one")
    children = found[0].values.get(SUB_DIRECTORIES, np.empty(0, dtype=np.int64))
    extra = [_read_one(fd, size, int(child), order, big, seen)[0] for child in children[:MAX_DIRECTORIES] if child]
    return [found[0], *extra, *found[1:]]


def _read_one(fd: int, size: int, start: int, order: str, big: bool, seen: set[int]) -> tuple[Directory, int]:
    if start in seen:
        raise TiffDamage(
            f"image directories that loop (the one at byte {start} follows itself); expected a chain that ends"
        )
    if len(seen) >= MAX_DIRECTORIES:
        raise TiffDamage(f"more than {MAX_DIRECTORIES} image directories; expected a pyramid of a few")
    seen.add(start)
    count_format, entry_format, pointer, width = ("Q", "HHQ8s", "Q", 8) if big else ("H", "HHI4s", "I", 4)
    head = _read(fd, size, start, struct.calcsize("<" + count_format), "an image directory")
    count = struct.unpack(order + count_format, head)[0]
    if count > MAX_ENTRIES:
        raise TiffDamage(f"an image directory at byte {start} with {count} entries; expected at most {MAX_ENTRIES}")
    each = struct.calcsize("<" + entry_format)
    body = _read(fd, size, start + len(head), count * each + width, "an image directory")
    values: dict[int, npt.NDArray[np.generic]] = {}
    for tag, kind, number, inline in struct.iter_unpack(order + entry_format, body[: count * each]):
        if tag in _KEPT and kind in _TYPES:
            values[tag] = _value(fd, size, (tag, kind, number, inline), order, pointer)
    return Directory(values), struct.unpack(order + pointer, body[count * each :])[0]


def _value(
    fd: int, size: int, entry: tuple[int, int, int, bytes], order: str, pointer: str
) -> npt.NDArray[np.generic]:
    tag, kind, number, inline = entry
    dtype = np.dtype(order + _TYPES[kind]) if _TYPES[kind][1] != "1" else np.dtype(_TYPES[kind])
    length = number * dtype.itemsize * (2 if kind in _RATIONAL else 1)
    if number > MAX_TILES or (kind in (1, 2, 7) and length > MAX_TEXT):
        raise TiffDamage(f"tag {tag} with {number} values; expected far fewer")
    if length <= len(inline):
        data = inline[:length]
    else:
        data = _read(fd, size, struct.unpack(order + pointer, inline)[0], length, f"the values of tag {tag}")
    array = np.frombuffer(data, dtype=dtype)
    if kind in _RATIONAL:
        numerator, denominator = array[0::2].astype(np.float64), array[1::2].astype(np.float64)
        return np.divide(numerator, denominator, out=np.full(number, np.nan), where=denominator != 0)
    return array.astype(dtype.newbyteorder("="))


def _read(fd: int, size: int, offset: int, length: int, what: str) -> bytes:
    if offset + length > size:
        raise TiffDamage(
            f"{what} at bytes {offset} to {offset + length} of a file of {size}; expected it inside: truncated?"
        )
    data = os.pread(fd, length, offset)
    if len(data) != length:
        raise TiffDamage(f"{len(data)} of {length} bytes of {what} at byte {offset}; the file ended")
    return data

"""The directories of a TIFF or BigTIFF file, read with distrust.

Every count is held against the file's size before anything of that size is allocated, so that a header which claims
a terabyte costs nothing. Only the tags that decide pixels and scale are kept.

.. [1] Adobe, "TIFF Revision 6.0", 1992. BigTIFF: https://www.awaresystems.be/imaging/tiff/bigtiff.html
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsiseg.slide.readers.tiff import tags

MAX_DIRECTORIES = 4096  # a stack has one a plane, and one more for each of its reductions
MAX_ENTRIES = 4096
MAX_VALUES = 1 << 29  # bytes of all directories together: they may all point at the same values
MAX_TILES = 1 << 25
MAX_TEXT = 1 << 24

_TYPES = {
    1: "u1", 2: "u1", 3: "u2", 4: "u4", 5: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 10: "i4", 11: "f4", 12: "f8",
    13: "u4", 16: "u8", 17: "i8", 18: "u8",
}  # fmt: skip
_RATIONAL = (5, 10)
_FRACTIONAL = (*_RATIONAL, 11, 12)


class TiffDamage(Exception):
    """The file contradicts itself; the text says what was got and what was expected, on one line each."""


@dataclass(frozen=True, eq=False)
class Directory:
    """One image of a TIFF file: the values of the tags that were kept, and the images that it refers to."""

    values: Mapping[int, npt.NDArray[np.generic]]
    children: tuple[Directory, ...] = ()

    def number(self, tag: int, default: int = 0) -> int:
        array = self.values.get(tag)
        return int(array[0]) if array is not None and array.size else default

    def text(self, tag: int) -> str:
        array = self.values.get(tag)
        data = array.tobytes().split(b"\0")[0] if array is not None else b""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data.decode("latin-1")  # as older programs write the µ of µm

    def raw(self, tag: int) -> bytes:
        array = self.values.get(tag)
        return array.tobytes() if array is not None else b""

    def ratio(self, tag: int) -> float | None:
        array = self.values.get(tag)
        return float(array[0]) if array is not None and array.size else None

    @property
    def width(self) -> int:
        return max(0, self.number(tags.WIDTH))

    @property
    def height(self) -> int:
        return max(0, self.number(tags.HEIGHT))

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def subfile(self) -> int:
        return self.number(tags.SUBFILE)

    @property
    def tile_width(self) -> int:
        """Of a stored block: a tile, or a strip over the whole width."""
        return self.number(tags.TILE_WIDTH) if self.tiled else self.width

    @property
    def tile_height(self) -> int:
        return (
            self.number(tags.TILE_HEIGHT)
            if self.tiled
            else min(self.number(tags.ROWS_PER_STRIP, 1 << 32), self.height)
        )

    @property
    def tiled(self) -> bool:
        return tags.TILE_WIDTH in self.values and tags.TILE_HEIGHT in self.values

    @property
    def samples(self) -> int:
        return self.number(tags.SAMPLES, 1)

    @property
    def bits(self) -> int:
        """Bits per sample if all samples agree, else 0."""
        array = self.values.get(tags.BITS)
        if array is None or not array.size:
            return 1
        return int(array[0]) if (array == array[0]).all() else 0

    @property
    def compression(self) -> int:
        return self.number(tags.COMPRESSION, 1)

    @property
    def photometric(self) -> int:
        return self.number(tags.PHOTOMETRIC, -1)

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile_width)

    @property
    def rows(self) -> int:
        return -(-self.height // self.tile_height)


def read_directories(fd: int, size: int) -> list[Directory]:
    """The directories of the main chain, each with its subdirectories.

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
    file = _File(fd, size, order, big)
    found: list[Directory] = []
    while start:
        directory, start = _read_one(file, start)
        found.append(directory)
    if not found:
        raise TiffDamage("a TIFF without any image directory; expected at least one")
    return [replace(directory, children=_children(file, directory)) for directory in found]


class _File:
    """What is read from, and how much of it has been."""

    def __init__(self, fd: int, size: int, order: str, big: bool) -> None:
        self.fd, self.size, self.order, self.big = fd, size, order, big
        self.pointer = "Q" if big else "I"
        self.seen: set[int] = set()
        self.taken = 0

    def read(self, offset: int, length: int, what: str) -> bytes:
        if offset + length > self.size:
            raise TiffDamage(
                f"{what} at bytes {offset} to {offset + length} of a file of {self.size}; expected it inside: "
                "truncated?"
            )
        self.taken += length
        if self.taken > MAX_VALUES:
            raise TiffDamage(f"image directories of more than {MAX_VALUES} bytes; expected far fewer")
        data = os.pread(self.fd, length, offset)
        if len(data) != length:
            raise TiffDamage(f"{len(data)} of {length} bytes of {what} at byte {offset}; the file ended")
        return data


def _children(file: _File, directory: Directory) -> tuple[Directory, ...]:
    pointers = directory.values.get(tags.SUB_DIRECTORIES, np.empty(0, dtype=np.int64))
    return tuple(_read_one(file, int(child))[0] for child in pointers[:MAX_DIRECTORIES] if child > 0)


def _read_one(file: _File, start: int) -> tuple[Directory, int]:
    if start in file.seen:
        raise TiffDamage(
            f"image directories that loop (the one at byte {start} follows itself); expected a chain that ends"
        )
    if len(file.seen) >= MAX_DIRECTORIES:
        raise TiffDamage(f"more than {MAX_DIRECTORIES} image directories; expected a pyramid of a few")
    file.seen.add(start)
    count_format, entry_format, width = ("Q", "HHQ8s", 8) if file.big else ("H", "HHI4s", 4)
    head = file.read(start, struct.calcsize("<" + count_format), "an image directory")
    count = struct.unpack(file.order + count_format, head)[0]
    if count > MAX_ENTRIES:
        raise TiffDamage(f"an image directory at byte {start} with {count} entries; expected at most {MAX_ENTRIES}")
    each = struct.calcsize("<" + entry_format)
    body = file.read(start + len(head), count * each + width, "an image directory")
    values: dict[int, npt.NDArray[np.generic]] = {}
    for tag, kind, number, inline in struct.iter_unpack(file.order + entry_format, body[: count * each]):
        # Only a resolution may be a fraction; a width that is none of the integers has no meaning.
        if tag in tags.KEPT and kind in _TYPES and (kind not in _FRACTIONAL or tag in tags.RESOLUTIONS):
            values[tag] = _value(file, (tag, kind, number, inline))
    return Directory(values), struct.unpack(file.order + file.pointer, body[count * each :])[0]


def _value(file: _File, entry: tuple[int, int, int, bytes]) -> npt.NDArray[np.generic]:
    tag, kind, number, inline = entry
    dtype = np.dtype(file.order + _TYPES[kind]) if _TYPES[kind][1] != "1" else np.dtype(_TYPES[kind])
    length = number * dtype.itemsize * (2 if kind in _RATIONAL else 1)
    if number > MAX_TILES or (kind in (1, 2, 7) and length > MAX_TEXT):
        raise TiffDamage(f"tag {tag} with {number} values; expected far fewer")
    if length <= len(inline):
        data = inline[:length]
    else:
        offset = struct.unpack(file.order + file.pointer, inline)[0]
        data = file.read(offset, length, f"the values of tag {tag}")
    array = np.frombuffer(data, dtype=dtype)
    if kind in _RATIONAL:
        numerator, denominator = array[0::2].astype(np.float64), array[1::2].astype(np.float64)
        return np.divide(numerator, denominator, out=np.full(number, np.nan), where=denominator != 0)
    return array.astype(dtype.newbyteorder("="))

"""The headers of a JPEG 2000 tile, read before a decoder takes their word for what it needs.

The codestream is found as the decoder finds it: by the boxes of a JP2 file, or at the first byte.

.. [1] ITU-T T.800 (2002), annexes A and I.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_START, _SIZE, _CODING, _CODING_OF_ONE, _TILE, _DATA, _END = (
    0xFF4F, 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9,
)  # fmt: skip
_SIGNATURE = b"\0\0\0\x0cjP  "
_SYCC = 18
_MAX_TILES = 1 << 10
_MAX_PACKETS = 1 << 20  # layers × precincts × components: a decoder keeps a mark of each
_MAX_PARTS = 1 << 12


@dataclass(frozen=True)
class Stream:
    """What a codestream says: its components' sampling steps, and whether it decodes to RGB on its own."""

    width: int
    height: int
    steps: tuple[int, ...]
    decodes_to_rgb: bool


def inspect(data: bytes) -> Stream:
    """The size of a JPEG 2000 tile, a bare codestream or a JP2 file.

    Raises
    ------
    ValueError
        There is no codestream, its headers contradict each other or claim more than a tile needs.
    """
    try:
        return _inspect(data)
    except struct.error as error:
        raise ValueError("a damaged JPEG 2000 header") from error


def _inspect(data: bytes) -> Stream:
    start, header, space = 0, b"", 0
    if data[:4] != b"\xff\x4f\xff\x51":
        start, header, space = _find_codestream(data)
    if struct.unpack_from(">HH", data, start) != (_START, _SIZE):
        raise ValueError("no JPEG 2000 codestream")
    x1, y1, x0, y0, tile_width, tile_height, tile_x, tile_y, count = struct.unpack_from(">8IH", data, start + 8)
    if not 1 <= count <= 16:
        raise ValueError(f"{count} components")
    parts = struct.unpack_from(f">{3 * count}B", data, start + 42)
    width, height = x1 - x0, y1 - y0
    if any(depth != 7 for depth in parts[0::3]):
        raise ValueError("components that are not of 8 bits")
    if not (width > 0 and height > 0 and tile_width and tile_height and tile_x <= x0 and tile_y <= y0):
        raise ValueError("a damaged JPEG 2000 size")
    if header and struct.unpack_from(">IIH", header) != (height, width, count):
        raise ValueError("two sizes in one JP2 file")
    tiles = math.ceil((x1 - tile_x) / tile_width) * math.ceil((y1 - tile_y) / tile_height)
    if tiles > _MAX_TILES:
        raise ValueError(f"{tiles} tiles within a tile")
    transform, layers = False, 1
    for kind, body in _segments(data, start + 2):
        if kind == _CODING:
            style, _, layers, mixed = struct.unpack_from(">BBHB", body)
            transform = transform or mixed == 1
            _limit(body[5:], style, layers, (width, height), count)
        elif kind == _CODING_OF_ONE:
            at = 1  # one byte names the component where there are fewer than 257
            _limit(body[at + 1 :], body[at] if len(body) > at else 0, layers, (width, height), 1)
    return Stream(width, height, tuple(max(pair) for pair in zip(parts[1::3], parts[2::3], strict=True)),
                  transform or space == _SYCC)  # fmt: skip


def _find_codestream(data: bytes) -> tuple[int, bytes, int]:
    """Where the first codestream box begins; the image header before it and its enumerated colour space."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("no JPEG 2000 codestream")
    header, space = b"", 0
    for kind, begin, end in _boxes(data, 0, len(data)):
        if kind == b"jp2c":
            if not header:
                raise ValueError("a JP2 file without image header")
            return begin, header, space
        if kind == b"jp2h":
            for inner, at, stop in _boxes(data, begin, end):
                if inner == b"ihdr" and not header:
                    header = data[at:stop]
                elif inner == b"colr" and not space and data[at : at + 1] == b"\1":
                    space = struct.unpack_from(">I", data, at + 3)[0]
    raise ValueError("no JPEG 2000 codestream")


def _boxes(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while position + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, position)
        begin = position + 8
        if length == 1:
            length, begin = struct.unpack_from(">Q", data, begin)[0], begin + 8
        stop = end if length == 0 else position + length
        if stop < begin or (stop > end and kind != b"jp2c"):
            raise ValueError("a damaged JP2 box")
        yield kind, begin, stop
        position = stop


def _segments(data: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    """The marker segments of the main header and of the tile parts' headers, up to where the data end."""
    part, part_start, parts = 0, 0, 0
    while position + 4 <= len(data):
        kind, length = struct.unpack_from(">HH", data, position)
        if kind == _END:
            return
        if kind == _DATA:
            if not part:  # to the end of the stream
                return
            position = part_start + part
            continue
        if kind < 0xFF00 or length < 2:
            return  # damage: the decoder will say so
        if kind == _TILE:
            part_start, part, parts = position, struct.unpack_from(">I", data, position + 6)[0], parts + 1
            if parts > _MAX_PARTS or 0 < part < 14:
                raise ValueError("damaged tile parts")
        yield kind, data[position + 4 : position + 2 + length]
        position += 2 + length


def _limit(body: bytes, style: int, layers: int, size: tuple[int, int], components: int) -> None:
    """ValueError if the layers and precincts that a segment asks for are more than a tile can have use for."""
    levels = body[0] if body else 0
    if levels > 32:
        raise ValueError(f"{levels} decompositions")
    precincts = body[5 : 6 + levels] if style & 1 else b"\xff" * (levels + 1)
    packets = 0
    for level, exponents in enumerate(precincts):
        shift = levels - level
        packets += math.prod((side >> (shift + power)) + 2 for side, power in
                             zip(size, (exponents & 15, exponents >> 4), strict=True))  # fmt: skip
    if packets * max(1, layers) * components > _MAX_PACKETS:
        raise ValueError(f"{layers} layers of {packets} precincts")

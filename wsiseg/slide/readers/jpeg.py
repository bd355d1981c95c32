"""A stored JPEG tile to pixels by libjpeg-turbo, whose every warning is damage.

Decoders answer damage with grey or shifted blocks and a warning that most bindings drop; a segmentation of such a
tile looks plausible and is wrong. simplejpeg makes the warning an error. A cut tile and a zeroed page of a disk are
found; of single flipped bits a fifth to a half, because Huffman codes fall back into step and nothing in the stream
can tell.

What is done here is what no binding does: size and colours are known before anything is decoded, and the header
that the decoder gets holds nothing but what decides pixels: a TIFF's tables where the stream lacks them, and its
colours.

.. [1] ITU-T T.81 (1992), annex B.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

_HUFFMAN, _ARITHMETIC, _QUANTIZATION, _RESTARTS = 0xC4, 0xCC, 0xDB, 0xDD
_TABLES = (_HUFFMAN, _QUANTIZATION)  # of a TIFF's tables the rest is void: a stream's start resets it
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_HUFFMAN, 0xC8, _ARITHMETIC}
_DECIDE = (*_TABLES, *_FRAMES, _ARITHMETIC, _RESTARTS)
_START, _END, _SCAN, _JFIF, _ADOBE = b"\xff\xd8", b"\xff\xd9", 0xDA, 0xE0, 0xEE
_ADOBE_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0"  # and the transform
_TRANSFORMS = {"RGB": b"\0", "YCBCR": b"\1"}
_MOST_SCANS = 100  # a progressive stream has about ten, and each is a walk over all pixels
_ARITHMETIC_FRAMES = (0xC9, 0xCA, 0xCB)  # without Huffman codes; libjpeg knows no differential ones


@dataclass(frozen=True)
class Stream:
    """A JPEG stream, and what its header says.

    ``colour`` is ``"RGB"`` or ``"YCBCR"`` where the stream itself decides: by a JFIF marker (always YCbCr), the
    transform of an Adobe marker, components named R, G, B, or chroma that is stored at lower resolution. ``""``
    where it leaves that to its container.
    """

    width: int
    height: int
    components: int
    colour: str
    arithmetic: bool
    header: bytes
    scans: bytes


def inspect(data: bytes) -> Stream:
    """What a complete or an abbreviated stream says of itself.

    Raises
    ------
    ValueError
        What is wrong with its header, in a few words.
    """
    frame, kind, end, jfif, transform, header = b"", 0, 0, False, -1, []
    for marker, at, content in _segments(data):
        if marker in _FRAMES:
            if frame:  # which of two counts is the decoder's guess
                raise ValueError("a damaged header")
            frame, kind = content, marker
        elif marker == _JFIF and len(content) >= 14 and content.startswith(b"JFIF"):
            jfif = True
        elif marker == _ADOBE and len(content) >= 12 and content.startswith(b"Adobe"):
            transform = content[11]
        elif marker == _SCAN:
            end = at
        if marker in _DECIDE:
            header.append(data[at : at + 4 + len(content)])
    if not end or len(frame) < 9 or len(frame) != 6 + 3 * frame[5]:
        raise ValueError("a damaged header")
    height, width = struct.unpack_from(">HH", frame, 1)
    if not (width and height):
        raise ValueError("a damaged header")
    colour = _colour(frame, jfif, transform)
    return Stream(width, height, frame[5], colour, kind in _ARITHMETIC_FRAMES, b"".join(header), data[end:])


def decode(stream: Stream, tables: bytes = b"", space: str = "YCBCR") -> npt.NDArray[np.uint8]:
    """Pixels of a stream that is intact as far as its coding can tell.

    Parameters
    ----------
    stream : Stream
    tables : bytes
        The tables of an abbreviated stream (TIFF's JPEGTables).
    space : {"YCBCR", "RGB"}
        Of three stored components, where the stream leaves it open.

    Returns
    -------
    uint8 array (h, w, 3), or (h, w, 1) of one component

    Raises
    ------
    ValueError
        What is wrong, in a few words.
    """
    if stream.scans.count(_marker(_SCAN)) > _MOST_SCANS:
        raise ValueError(f"more than {_MOST_SCANS} scans")
    if not stream.arithmetic and _marker(_HUFFMAN) not in stream.header + tables:
        raise ValueError("its Huffman tables are missing")  # the decoder would take the usual ones
    three = stream.components == 3
    colour = _ADOBE_MARKER + _TRANSFORMS[stream.colour or space] if three else b""
    whole = b"".join((_START, colour, _only_tables(tables), stream.header, stream.scans))
    return np.asarray(simplejpeg.decode_jpeg(whole, "RGB" if three else "GRAY"))


def _marker(code: int) -> bytes:
    return bytes([0xFF, code])


@functools.lru_cache(maxsize=32)
def _only_tables(data: bytes) -> bytes:
    found = _segments(data) if data else ()
    return b"".join(data[at : at + 4 + len(content)] for marker, at, content in found if marker in _TABLES)


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, start and content of each segment, up to that of the first scan or to the end."""
    if not data.startswith(_START):
        raise ValueError("no JPEG stream")
    at, marker = len(_START), 0
    while marker != _SCAN:
        while data[at : at + 2] == b"\xff\xff":
            at += 1  # filled
        if data[at : at + 2] == _END:
            return
        head = data[at : at + 4]
        length = int.from_bytes(head[2:], "big")
        if len(head) < 4 or head[0] != 0xFF or length < 2 or at + 2 + length > len(data):
            raise ValueError("a damaged header")
        marker = head[1]
        yield marker, at, data[at + 4 : at + 2 + length]
        at += 2 + length


def _colour(frame: bytes, jfif: bool, transform: int) -> str:
    """libjpeg's order, and sampling before all."""
    if frame[5] != 3:
        return ""
    names, sampling = frame[6::3], frame[7::3]
    if jfif or any(n >> 4 < sampling[0] >> 4 or n & 15 < sampling[0] & 15 for n in sampling[1:]):
        return "YCBCR"
    if transform >= 0:
        return "RGB" if transform == 0 else "YCBCR"
    return "RGB" if names == b"RGB" else ""

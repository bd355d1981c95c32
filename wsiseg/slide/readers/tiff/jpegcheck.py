"""Is a baseline JPEG tile intact? The entropy-coded part is walked through without reconstructing pixels.

Decoders answer damage with grey or shifted blocks and a warning that bindings drop; a segmentation of such a
tile looks plausible and is wrong. What is looked for are undefined codes, coefficients outside their block, data
that end early and data left over. A cut tile and a zeroed disk sector are found; of single flipped bits a fifth to
a half, because Huffman codes fall back into step and nothing in the stream can tell. A walk costs about a quarter
of a decode.

.. [1] ITU-T T.81 (1992), annexes B, C and F.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Tables = npt.NDArray[np.int32]

_LOOK = 9  # bits resolved by one table access; longer codes are rare
# A lookup entry is what _entry packs; 0 where the code is longer or undefined.
_ENOUGH = 32  # bits for any symbol: a code of up to 16 and a value of up to 15
_END, _INVALID = 192, 65  # advances of an end of block and of a symbol that none may be, apart from each other
_ROW = (1 << _LOOK) + 18 + 18 + 256 + 1  # lookup, largest code and value offset by length, values, defined?
_JFIF, _ADOBE = 27, 28
_MAX, _OFFSET, _VALUES, _DEFINED = 1 << _LOOK, (1 << _LOOK) + 18, (1 << _LOOK) + 36, (1 << _LOOK) + 36 + 256

_REASONS = {
    1: "no JPEG stream",
    2: "a damaged header",
    3: "a Huffman table is missing or damaged",
    4: "an undefined Huffman code",
    5: "a coefficient outside its block",
    6: "the data end early",
    7: "data left over at the end",
    8: "a restart marker is missing",
}


_COLOURS = ("", "RGB", "YCBCR")


class Frame(NamedTuple):
    """What a JPEG stream says of itself.

    ``colour`` is ``"RGB"`` or ``"YCBCR"`` where the stream itself decides: by a JFIF marker (always YCbCr), the
    transform of an Adobe marker, components named R, G, B, or chroma that is stored at lower resolution. ``""``
    where it leaves that to its container.
    """

    width: int
    height: int
    components: int
    colour: str


def check(data: bytes, tables: bytes = b"") -> Frame:
    """Size and colours of a JPEG stream that is intact as far as its coding can tell.

    Parameters
    ----------
    data : bytes
        A complete or an abbreviated stream.
    tables : bytes
        The tables of an abbreviated stream (TIFF's JPEGTables).

    Raises
    ------
    ValueError
        What is wrong, in a few words. Progressive, lossless and arithmetic streams are only checked for size.
    """
    code, width, height, components, colour = _walk(np.frombuffer(data, dtype=np.uint8), _parse_tables(tables))
    if code:
        raise ValueError(_REASONS[code])
    return Frame(width, height, components, _COLOURS[colour])


@functools.lru_cache(maxsize=32)
def _parse_tables(tables: bytes) -> Tables:
    """Huffman tables of a tables-only stream, int32 (8, _ROW): rows 0–3 DC, 4–7 AC."""
    parsed = np.zeros((8, _ROW), dtype=np.int32)
    if tables:
        _headers(np.frombuffer(tables, dtype=np.uint8), parsed, np.zeros(32, dtype=np.int32))
    return parsed


@compiled
def _define(data: Bytes, position: int, end: int, tables: Tables) -> int:
    """Read the tables of one DHT segment; 0 or a reason."""
    while position + 17 <= end:
        kind, slot = data[position] >> 4, data[position] & 15
        total = 0
        for length in range(16):
            total += data[position + 1 + length]
        if kind > 1 or slot > 3 or total > 256 or position + 17 + total > end:
            return 3
        row = tables[kind * 4 + slot]
        row[:] = 0
        code, index = 0, 0
        for length in range(1, 17):
            count = data[position + length]
            row[_OFFSET + length] = index - code
            for _ in range(count):
                value = data[position + 17 + index]
                row[_VALUES + index] = value
                if length <= _LOOK:
                    first = code << (_LOOK - length)
                    packed = _entry(length, value, kind)
                    for entry in range(first, min(first + (1 << (_LOOK - length)), 1 << _LOOK)):
                        row[entry] = packed
                code += 1
                index += 1
            row[_MAX + length] = code - 1 if count else -1
            if code > (1 << length):
                return 3
            code <<= 1
        row[_DEFINED] = 1
        position += 17 + total
    return 0 if position == end else 3


@compiled
def _headers(data: Bytes, tables: Tables, frame: npt.NDArray[np.int32]) -> int:
    """Walk the marker segments up to the scan; fills ``tables`` and ``frame``; 0 or a reason.

    ``frame``: width, height, kind (0 baseline, 1 other), components, restart interval, scan start, DRI, then
    4 × (id, horizontal, vertical sampling, DC table, AC table), then JFIF (0, 1) and Adobe's transform + 1.
    """
    size = len(data)
    if size < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return 1
    position = 2
    while position + 4 <= size:
        if data[position] != 0xFF:
            return 2
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xD9:
            return 0
        length = (np.int64(data[position + 2]) << 8) | data[position + 3]
        start, end = position + 4, position + 2 + length
        if length < 2 or end > size:
            return 2
        if marker == 0xC4:
            reason = _define(data, start, end, tables)
            if reason:
                return reason
        elif marker == 0xDD:
            if length != 4:
                return 2
            frame[4] = (np.int32(data[start]) << 8) | data[start + 1]
        elif marker == 0xE0 and length >= 16 and data[start] == 0x4A and data[start + 1] == 0x46:  # "JF"IF
            frame[_JFIF] = 1 if data[start + 2] == 0x49 and data[start + 3] == 0x46 else 0
        elif marker == 0xEE and length >= 14 and data[start] == 0x41 and data[start + 1] == 0x64:  # "Ad"obe
            frame[_ADOBE] = np.int32(data[start + 11]) + 1
        elif 0xC0 <= marker <= 0xCF and marker != 0xC8 and marker != 0xCC:
            if length < 8 or frame[3]:  # a second frame: which one counts is the decoder's guess
                return 2
            frame[2] = 0 if marker <= 0xC1 and data[start] == 8 else 1
            frame[1] = (np.int32(data[start + 1]) << 8) | data[start + 2]
            frame[0] = (np.int32(data[start + 3]) << 8) | data[start + 4]
            count = data[start + 5]
            if count < 1 or count > 4 or length != 8 + 3 * count:
                return 2
            frame[3] = count
            for n in range(count):
                sampling = data[start + 7 + 3 * n]
                frame[7 + 5 * n] = data[start + 6 + 3 * n]
                frame[8 + 5 * n], frame[9 + 5 * n] = sampling >> 4, sampling & 15
                if not (1 <= frame[8 + 5 * n] <= 4 and 1 <= frame[9 + 5 * n] <= 4):
                    return 2
        elif marker == 0xDA:
            count = data[start] if length > 2 else 0
            if frame[3] == 0 or count < 1 or count > 4 or length != 6 + 2 * count:
                return 2
            if count != frame[3]:
                frame[2] = 1  # several scans: left to the decoder
            for n in range(min(count, frame[3])):
                if data[start + 1 + 2 * n] != frame[7 + 5 * n]:
                    return 2
                selected = data[start + 2 + 2 * n]
                frame[10 + 5 * n], frame[11 + 5 * n] = selected >> 4, 4 + (selected & 15)
                if selected >> 4 > 3 or selected & 15 > 3:
                    return 2
            frame[5] = end
            return 0
        position = end
    return 2


@compiled
def _walk(data: Bytes, shared: Tables) -> tuple[int, int, int, int, int]:
    """(reason or 0, width, height, components, index of the colour) of one stream."""
    tables = shared.copy()
    frame = np.zeros(32, dtype=np.int32)
    reason = _headers(data, tables, frame)
    width, height = frame[0], frame[1]
    if reason or frame[5] == 0 or width == 0 or height == 0:
        return reason if reason else 2, width, height, 0, 0
    colour = _colour(frame)
    if frame[2]:
        return 0, width, height, frame[3], colour
    return _scan(data, tables, frame), width, height, frame[3], colour


@compiled
def _colour(frame: npt.NDArray[np.int32]) -> int:
    """1 for RGB, 2 for YCbCr, 0 where three components do not say; libjpeg's order, and sampling before all."""
    if frame[3] != 3:
        return 0
    for n in range(1, 3):
        if frame[8 + 5 * n] < frame[8] or frame[9 + 5 * n] < frame[9]:
            return 2
    if frame[_JFIF]:
        return 2
    if frame[_ADOBE]:
        return 1 if frame[_ADOBE] == 1 else 2
    return 1 if frame[7] == 0x52 and frame[12] == 0x47 and frame[17] == 0x42 else 0


@compiled
def _scan(data: Bytes, tables: Tables, frame: npt.NDArray[np.int32]) -> int:
    components = frame[3]
    widest = tallest = 1
    for n in range(components):
        if not (tables[frame[10 + 5 * n], _DEFINED] and tables[frame[11 + 5 * n], _DEFINED]):
            return 3
        widest, tallest = max(widest, frame[8 + 5 * n]), max(tallest, frame[9 + 5 * n])
    if components == 1:  # not interleaved: one block a unit, whatever the sampling says
        widest = tallest = 1
    units = (-(-frame[0] // (8 * widest))) * (-(-frame[1] // (8 * tallest)))
    # The tables of each block of a unit, as offsets into one flat array; unsigned: no index can be negative.
    flat = tables.reshape(-1)
    bases = np.empty((64, 2), dtype=np.uint64)
    blocks = 0
    for n in range(components):
        for _ in range(1 if components == 1 else frame[8 + 5 * n] * frame[9 + 5 * n]):
            if blocks == 64:
                return 2
            bases[blocks, 0], bases[blocks, 1] = frame[10 + 5 * n] * _ROW, frame[11 + 5 * n] * _ROW
            blocks += 1
    interval = frame[4]
    position, size = np.uint64(frame[5]), np.uint64(len(data))
    bits, held, ended = np.uint64(0), np.int64(0), False
    one, two, mask = np.uint64(1), np.uint64(2), np.uint64((1 << _LOOK) - 1)
    for unit in range(units):
        if interval and unit and unit % interval == 0:
            marker = 0xD0 + (unit // interval - 1) % 8
            if held >= 8:
                return 7
            if position + one >= size or data[position] != 0xFF or data[position + one] != marker:
                return 8
            position += two
            bits, held, ended = np.uint64(0), np.int64(0), False
        for block in range(blocks):
            base, k = bases[block, 0], 0
            while k < 64:
                if held < _ENOUGH:
                    if held < 0:
                        return 6
                    if not ended:
                        bits, held, position, ended = _refill(data, size, position, bits, held)
                index = bits >> np.uint64(held - _LOOK) if held >= _LOOK else bits << np.uint64(_LOOK - held)
                entry = flat[base + (index & mask)]
                if entry == 0:
                    entry = _long_code(flat, base, bits, held)
                    if entry == 0:
                        return 4 if held > 16 else 6
                held -= entry & 63
                k += entry >> 6
                base = bases[block, 1]
            if 64 < k < _END:
                return 5
    if held < 0:
        return 6
    if held >= 8 or (not ended and position < size and data[position] != 0xFF):
        return 7
    while position + one < size and data[position] == 0xFF and data[position + one] == 0xFF:
        position += one
    if position + one >= size:
        return 6
    return 0 if data[position] == 0xFF and data[position + one] == 0xD9 else 7


@compiled
def _refill(
    data: Bytes, size: np.uint64, position: np.uint64, bits: np.uint64, held: np.int64
) -> tuple[np.uint64, np.int64, np.uint64, bool]:
    """Bits enough for the next symbol, with stuffed zeros dropped; ended at a marker or at the end of the data."""
    one, two, three, four, byte = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4), np.uint64(8)
    if position + four <= size:
        a, b, c, d = data[position], data[position + one], data[position + two], data[position + three]
        if a != 0xFF and b != 0xFF and c != 0xFF and d != 0xFF:
            word = (
                (np.uint64(a) << np.uint64(24))
                | (np.uint64(b) << np.uint64(16))
                | (np.uint64(c) << byte)
                | np.uint64(d)
            )
            return (bits << np.uint64(32)) | word, held + 32, position + four, False
    while held <= 48:
        if position < size and data[position] != 0xFF:
            bits = (bits << byte) | np.uint64(data[position])
            position += one
        elif position + one < size and data[position + one] == 0:
            bits = (bits << byte) | np.uint64(0xFF)
            position += two
        else:
            return bits, held, position, True
        held += 8
    return bits, held, position, False


@compiled
def _entry(length: int, value: int, kind: int) -> int:
    """Bits of code and value together, and how far the symbol goes in its block << 6; kind 0 is DC."""
    size, run = value & 15, value >> 4
    if kind == 0:
        advance = 1 if value <= 11 else _INVALID
    elif size:
        advance = run + 1
    elif run == 15:
        advance = 16
    else:
        advance = _END if run == 0 else _INVALID
    return (advance << 6) | (length + size)


@compiled
def _long_code(flat: npt.NDArray[np.int32], base: np.uint64, bits: np.uint64, held: np.int64) -> np.int64:
    """The entry of a code that is longer than the lookup; 0 if there is none."""
    for length in range(_LOOK + 1, 17):
        if length > held:
            return np.int64(0)
        code = np.int64((bits >> np.uint64(held - length)) & np.uint64((1 << length) - 1))
        if code <= flat[base + np.uint64(_MAX + length)]:
            value = flat[base + np.uint64(_VALUES + ((code + flat[base + np.uint64(_OFFSET + length)]) & 255))]
            return np.int64(_entry(length, value, 0 if base < np.uint64(4 * _ROW) else 1))
    return np.int64(0)

"""A Parquet file that is written a stretch at a time, by processes that follow one another.

A Parquet file [1]_ is row groups, one behind the other, and a footer that says where each of them lies. Its writers
begin at the beginning. So a stretch of row groups is written as a file of its own, its bytes go to where they
belong in the whole, and the places in its footer are moved there. The footer is a struct in Thrift's compact
protocol [2]_, which is copied field by field; nothing else of it is understood.

References
----------
.. [1] Apache Parquet, file format and ``FileMetaData``, https://github.com/apache/parquet-format
.. [2] Apache Thrift, compact protocol, https://github.com/apache/thrift/blob/master/doc/specs
"""

from __future__ import annotations

import io
import struct

import pyarrow as pa
import pyarrow.parquet as pq

MAGIC = b"PAR1"

_PLACES = {(4, 1, 2), (4, 1, 3, 9), (4, 1, 3, 10), (4, 1, 3, 11), (4, 5)}
"""Fields of ``FileMetaData`` that are places in the file: of a column chunk its own (2) and those of its pages
(9–11), and of a row group (5). Zero means that none is given."""
_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 11, 12


def take_apart(file: pa.Buffer, at: int) -> tuple[pa.Buffer, pq.FileMetaData]:
    """The row groups of a Parquet file, and its metadata if these begin ``at`` a place of another."""
    length = struct.unpack("<I", file[file.size - 8 : file.size - 4].to_pybytes())[0]
    end = file.size - 8 - length
    footer = _Mover(file[end : end + length].to_pybytes(), at - len(MAGIC)).moved()
    return file[len(MAGIC) : end], read_metadata(footer + struct.pack("<I", len(footer)) + MAGIC)


def footer_bytes(metadata: pq.FileMetaData) -> bytes:
    """What stands behind the last row group of a file."""
    sink = io.BytesIO()
    metadata.write_metadata_file(sink)
    return sink.getvalue()[len(MAGIC) :]


def read_metadata(footer: bytes) -> pq.FileMetaData:
    """The inverse of :func:`footer_bytes`."""
    return pq.read_metadata(pa.BufferReader(MAGIC + footer))


class _Mover:
    """Copies a ``FileMetaData`` in Thrift's compact protocol with its places moved."""

    def __init__(self, footer: bytes, by: int) -> None:
        self._footer, self._by = footer, by
        self._at, self._copied = 0, 0
        self._out = bytearray()

    def moved(self) -> bytes:
        self._struct(())
        return bytes(self._out + self._footer[self._copied :])

    def _struct(self, path: tuple[int, ...]) -> None:
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else _signed(self._varint())
            self._value(head & 15, (*path, field))

    def _value(self, kind: int, path: tuple[int, ...]) -> None:
        if kind in (_TRUE, _FALSE):
            return
        if kind == _BYTE:
            self._at += 1
        elif kind == _I64 and path in _PLACES:
            self._place()
        elif kind < _DOUBLE:
            self._varint()
        elif kind == _DOUBLE:
            self._at += 8
        elif kind == _BINARY:
            length = self._varint()  # which moves on itself
            self._at += length
        elif kind in (_LIST, _SET):
            self._elements(path)
        elif kind == _STRUCT:
            self._struct(path)
        else:
            raise ValueError(f"a footer with a value of kind {kind}, which Parquet's have not")

    def _elements(self, path: tuple[int, ...]) -> None:
        head = self._byte()
        count, kind = head >> 4, head & 15
        for _ in range(self._varint() if count == 15 else count):
            if kind in (_TRUE, _FALSE):
                self._at += 1
            else:
                self._value(kind, path)

    def _place(self) -> None:
        before = self._at
        place = _signed(self._varint())
        if place > 0:
            self._out += self._footer[self._copied : before] + _as_varint(2 * (place + self._by))
            self._copied = self._at

    def _byte(self) -> int:
        self._at += 1
        return self._footer[self._at - 1]

    def _varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7


def _signed(zigzag: int) -> int:
    return (zigzag >> 1) ^ -(zigzag & 1)


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])

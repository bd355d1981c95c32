"""Shards of zarr v3 [1]_, written and read as bytes: one file holds 8 × 8 chunks, and absent chunks cost nothing.

This is the one array layout that wsiseg writes for pixels: uint8 (c, y, x) with three channels, chunks of 512²
pixels, shards of 4096², a checksum on every chunk. It is plain zarr, which any implementation of version 3 reads;
going past zarr-python's event loop makes reads a pread and a decode that scale with threads. Arrays in any other
layout are read by zarr-python (see :mod:`wsiseg.slide.readers.omezarr.reader`).

References
----------
.. [1] Zarr specification 3.1 and its sharding codec (ZEP 2), https://zarr-specs.readthedocs.io
"""

from __future__ import annotations

import errno
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import google_crc32c
import imagecodecs
import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import Window
from wsiseg.slide.cache import TileCache
from wsiseg.slide.readers import jpeg
from wsiseg.slide.types import Pixels, Unread

Codec: TypeAlias = Literal["zstd", "jpeg"]
CHUNK_PX = 512
SHARD_PX = 4096
FILL = 255
JPEG_QUALITY = 90

_ZSTD_LEVEL = 1  # level 9 makes files of H&E 2% smaller and takes four times as long
_ABSENT = np.uint64(2**64 - 1)
_CRC_BYTES = 4
_OVERHEAD = 1 << 16  # bytes of a chunk's headers; incompressible pixels take little more than themselves
# Out of handles or memory is a fault of this process; any other refusal to read is damage of the store.
ENVIRONMENT_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class ShardError(ValueError):
    """A shard or chunk is not what the format says."""


@dataclass(frozen=True)
class ShardLayout:
    """How an array of pixels lies in files.

    Attributes
    ----------
    width, height : int
        Pixels.
    codec : {"zstd", "jpeg"}
        "zstd" is exact; "jpeg" is lossy (quality 90, no chroma subsampling).
    chunk, shard : int
        Sides in pixels; a shard is a whole number of chunks.
    """

    width: int
    height: int
    codec: Codec
    chunk: int = CHUNK_PX
    shard: int = SHARD_PX

    @property
    def columns(self) -> int:
        return -(-self.width // self.shard)

    @property
    def rows(self) -> int:
        return -(-self.height // self.shard)

    @property
    def side(self) -> int:
        """Chunks along a side of a shard."""
        return self.shard // self.chunk

    @property
    def index_bytes(self) -> int:
        """Length of a shard's index: all there is of a shard without chunks."""
        return self.side**2 * 16 + _CRC_BYTES

    def window(self, row: int, column: int) -> Window:
        """The pixels of a shard, clipped to the array."""
        full = Window(column * self.shard, row * self.shard, self.shard, self.shard)
        return full.intersection(Window(0, 0, self.width, self.height))

    def chunk_window(self, row: int, column: int, i: int, j: int) -> Window:
        """The pixels of chunk (i, j) of a shard, clipped to the array; no area where it lies beyond it."""
        x, y = column * self.shard + j * self.chunk, row * self.shard + i * self.chunk
        return Window(x, y, self.chunk, self.chunk).intersection(Window(0, 0, self.width, self.height))

    def shards(self) -> Iterator[tuple[int, int]]:
        """(row, column) of every shard, row by row."""
        return ((row, column) for row in range(self.rows) for column in range(self.columns))

    def path(self, array: Path, row: int, column: int) -> Path:
        """The file of a shard of the array in folder ``array``."""
        return array / "c" / "0" / str(row) / str(column)

    def metadata(self) -> dict[str, Any]:
        """The content of the array's ``zarr.json``."""
        inner: dict[str, list[dict[str, Any]]] = {
            "zstd": [
                {"name": "bytes"},
                {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}},
            ],
            # The name and options under which the package imagecodecs registers JPEG for zarr v3.
            "jpeg": [
                {"name": "transpose", "configuration": {"order": [1, 2, 0]}},
                {
                    "name": "imagecodecs_jpeg",
                    "configuration": {"level": JPEG_QUALITY, "subsampling": "444"},
                },
            ],
        }
        sharding = {
            "chunk_shape": [3, self.chunk, self.chunk],
            "codecs": [*inner[self.codec], {"name": "crc32c"}],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [3, self.height, self.width],
            "data_type": "uint8",
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [3, self.shard, self.shard]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": FILL,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
            "dimension_names": ["c", "y", "x"],
            "storage_transformers": [],
        }


def layout_of(metadata: dict[str, Any]) -> ShardLayout | None:
    """The layout that an array's ``zarr.json`` describes, or None where it is not a :class:`ShardLayout`."""
    try:
        sharding = metadata["codecs"][0]["configuration"]
        _, height, width = metadata["shape"]
        _, _, shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        _, _, chunk = sharding["chunk_shape"]
        sizes = (height, width, shard, chunk)
        if any(type(size) is not int for size in sizes) or min(sizes) < 1 or shard % chunk:
            return None
        codecs = {codec["name"] for codec in sharding["codecs"]}
        layout = ShardLayout(width, height, "jpeg" if "imagecodecs_jpeg" in codecs else "zstd", chunk, shard)
        written = layout.metadata()
        # The options of a compressor matter when writing only.
        for own, other in zip(written["codecs"][0]["configuration"]["codecs"], sharding["codecs"], strict=True):
            if own["name"] != other["name"] or (own["name"] == "transpose" and own != other):
                return None
        written["codecs"][0]["configuration"]["codecs"] = sharding["codecs"]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    written["attributes"] = metadata.get("attributes", {})
    return layout if written == {"storage_transformers": [], **metadata} else None


def encode_shard(layout: ShardLayout, pixels: Pixels, keep: npt.NDArray[np.bool_] | None = None) -> bytes:
    """The file of a shard.

    Parameters
    ----------
    layout : ShardLayout
    pixels : uint8 array (h, w, 3)
        The shard, clipped to the array.
    keep : bool array (side, side), optional
        Chunks to leave out where false. Chunks that are all white are left out in any case.
    """
    index = np.full((layout.side, layout.side, 2), _ABSENT, dtype="<u8")
    parts: list[bytes] = []
    offset = 0
    for i in range(layout.side):
        for j in range(layout.side):
            y, x = i * layout.chunk, j * layout.chunk
            part = pixels[y : y + layout.chunk, x : x + layout.chunk]
            if part.size == 0 or (keep is not None and not keep[i, j]) or _is_filled(part):
                continue
            data = _encode_chunk(layout, part)
            index[i, j] = offset, len(data)
            offset += len(data)
            parts.append(data)
    parts.append(_with_checksum(index.tobytes()))
    return b"".join(parts)


@dataclass(frozen=True)
class Shard:
    """An open shard file: ``chunk(i, j)`` is its pixels, None for a chunk that is not stored."""

    descriptor: int
    layout: ShardLayout
    index: npt.NDArray[np.uint64]

    def chunk(self, i: int, j: int) -> npt.NDArray[np.uint8] | None:
        """uint8 planes (3, chunk, chunk) or, of JPEG, pixels (chunk, chunk, 3). Raises ShardError if damaged."""
        offset, length = self.index[i, j]
        if offset == _ABSENT:
            return None
        if length > 2 * 3 * self.layout.chunk**2 + _OVERHEAD:
            raise ShardError(f"the shard's index claims a chunk of {length} bytes")
        stored = os.pread(self.descriptor, int(length), int(offset))
        if len(stored) != length:
            raise ShardError("the shard file is cut short")
        return _decode_chunk(self.layout, _without_checksum(stored, "a chunk"))


def read_index(descriptor: int, layout: ShardLayout) -> npt.NDArray[np.uint64]:
    """(offset, length) of each chunk, uint64 (side, side, 2). Raises ShardError if the index is damaged."""
    size = os.fstat(descriptor).st_size
    if size < layout.index_bytes:
        raise ShardError("the shard file is cut short")
    stored = os.pread(descriptor, layout.index_bytes, size - layout.index_bytes)
    content = _without_checksum(stored, "the shard's index")
    return np.frombuffer(content, dtype="<u8").reshape(layout.side, layout.side, 2)


class ShardedLevel:
    """Reads pixels of one array in :class:`ShardLayout`; keeps the indices of the shards it has met.

    Parameters
    ----------
    array : Path
        Folder of the array.
    layout : ShardLayout
    absent : function
        Why the file of shard (row, column) is missing, ``""`` if it is a shard of background.
    cache : TileCache, optional
        Keeps decoded chunks, for windows that meet the same chunk at their edges.
    """

    def __init__(
        self,
        array: Path,
        layout: ShardLayout,
        absent: Callable[[int, int], str],
        cache: TileCache | None = None,
    ) -> None:
        self.width, self.height = layout.width, layout.height
        self.chunk_width = self.chunk_height = layout.chunk
        self._array, self._layout, self._absent, self._cache = array, layout, absent, cache
        self._owner = object()
        self._indices: dict[tuple[int, int], npt.NDArray[np.uint64]] = {}

    def read(self, window: Window, background: tuple[int, int, int]) -> tuple[Pixels, tuple[Unread, ...]]:
        """Pixels of ``window`` inside the array, and the chunks or shards of it that are damaged or missing."""
        layout = self._layout
        pixels = np.empty((*window.shape, 3), dtype=np.uint8)
        unread: list[Unread] = []
        for row in range(window.y // layout.shard, -(-window.y1 // layout.shard)):
            for column in range(window.x // layout.shard, -(-window.x1 // layout.shard)):
                unread += self._read_shard(row, column, window, pixels, background)
        return pixels, tuple(unread)

    def close(self) -> None:
        """Forget the decoded chunks."""
        if self._cache is not None:
            self._cache.discard(self._owner)

    def _read_shard(
        self, row: int, column: int, window: Window, pixels: Pixels, background: tuple[int, int, int]
    ) -> list[Unread]:
        whole = self._layout.window(row, column)
        target = pixels[window.intersection(whole).within(window)]
        try:
            # At once: should the file be a pipe, nobody will write into it.
            descriptor = os.open(self._layout.path(self._array, row, column), os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            reason = self._absent(row, column)
            target[:] = background if reason else FILL
            return [Unread(whole, reason)] if reason else []
        except OSError as error:
            return [Unread(whole, _damage(error, target, background))]
        try:
            index = self._indices.get((row, column))
            if index is None:
                index = self._indices[row, column] = read_index(descriptor, self._layout)
            shard = Shard(descriptor, self._layout, index)
            return self._read_chunks(shard, row, column, window, pixels, background)
        except (OSError, ShardError) as error:
            return [Unread(whole, _damage(error, target, background))]
        finally:
            os.close(descriptor)

    def _read_chunks(
        self,
        shard: Shard,
        row: int,
        column: int,
        window: Window,
        pixels: Pixels,
        background: tuple[int, int, int],
    ) -> list[Unread]:
        unread = []
        side, size = self._layout.side, self._layout.chunk
        inside = window.intersection(self._layout.window(row, column))
        top, left = row * side, column * side
        for i in range(inside.y // size - top, -(-inside.y1 // size) - top):
            for j in range(inside.x // size - left, -(-inside.x1 // size) - left):
                place = self._layout.chunk_window(row, column, i, j)
                part = window.intersection(place)
                target = pixels[part.within(window)]
                try:
                    chunk = self._chunk(shard, top + i, left + j)
                except (OSError, ShardError) as error:
                    unread.append(Unread(place, _damage(error, target, background)))
                    continue
                if chunk is None:
                    target[:] = FILL
                elif self._layout.codec == "jpeg":
                    target[:] = chunk[part.within(place)]
                else:
                    _interleave(chunk, part.y - place.y, part.x - place.x, target)
        return unread

    def _chunk(self, shard: Shard, row: int, column: int) -> npt.NDArray[np.uint8] | None:
        """Chunk (row, column) of the array, decoded once as long as the cache holds it."""
        key = (self._owner, row, column)
        chunk = self._cache.get(key) if self._cache is not None else None
        if chunk is None:
            chunk = shard.chunk(row % self._layout.side, column % self._layout.side)
            if chunk is not None and self._cache is not None:
                self._cache.put(key, chunk)
        return chunk


def _damage(error: OSError | ShardError, target: Pixels, background: tuple[int, int, int]) -> str:
    if isinstance(error, OSError):
        if error.errno in ENVIRONMENT_ERRNOS:
            raise error
        reason = f"the file cannot be read ({error.strerror})"
    else:
        reason = str(error)
    target[:] = background
    return reason


def _encode_chunk(layout: ShardLayout, part: Pixels) -> bytes:
    size = layout.chunk
    if layout.codec == "zstd":
        planes = np.full((3, size, size), FILL, dtype=np.uint8)
        _separate(part, planes)
        return _with_checksum(imagecodecs.zstd_encode(planes.tobytes(), level=_ZSTD_LEVEL))
    # White beyond the edge would ring into the last pixels; what repeats the edge does not.
    bottom, right = size - part.shape[0], size - part.shape[1]
    padded = np.pad(part, ((0, bottom), (0, right), (0, 0)), mode="edge")
    return _with_checksum(imagecodecs.jpeg8_encode(padded, level=JPEG_QUALITY, subsampling="444"))


def _decode_chunk(layout: ShardLayout, data: bytes) -> npt.NDArray[np.uint8]:
    size = layout.chunk
    shape = (3, size, size) if layout.codec == "zstd" else (size, size, 3)
    try:
        if layout.codec == "jpeg":
            stream = jpeg.inspect(data)
            if (stream.width, stream.height) != (size, size):  # before the decoder makes room for it
                raise ValueError(f"not {size} × {size} pixels")
            decoded = jpeg.decode(stream)
        else:
            decoded = np.frombuffer(imagecodecs.zstd_decode(data, out=math.prod(shape)), dtype=np.uint8)
        return np.asarray(decoded.reshape(shape))
    except (RuntimeError, ValueError) as error:
        raise ShardError(f"a chunk cannot be decoded ({error})") from error


def _with_checksum(data: bytes | bytearray) -> bytes:
    return bytes(data) + struct.pack("<I", google_crc32c.value(data))


def _without_checksum(stored: bytes, what: str) -> bytes:
    content = stored[:-_CRC_BYTES]
    if struct.pack("<I", google_crc32c.value(content)) != stored[-_CRC_BYTES:]:
        raise ShardError(f"{what} does not match its checksum")
    return content


@compiled
def _is_filled(part: Pixels) -> bool:
    height, width, channels = part.shape
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                if part[i, j, c] != FILL:
                    return False
    return True


@compiled
def _separate(part: Pixels, planes: npt.NDArray[np.uint8]) -> None:
    """(h, w, 3) pixels into (3, ≥ h, ≥ w) planes."""
    height, width, _ = part.shape
    for i in range(height):
        for j in range(width):
            for c in range(3):
                planes[c, i, j] = part[i, j, c]


@compiled
def _interleave(planes: npt.NDArray[np.uint8], top: int, left: int, out: Pixels) -> None:
    """The part of (3, H, W) planes that starts at (top, left) into (h, w, 3) pixels."""
    height, width, _ = out.shape
    for i in range(height):
        red, green, blue = planes[0, top + i], planes[1, top + i], planes[2, top + i]
        for j in range(width):
            out[i, j, 0] = red[left + j]
            out[i, j, 1] = green[left + j]
            out[i, j, 2] = blue[left + j]

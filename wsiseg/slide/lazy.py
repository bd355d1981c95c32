"""Lazy views of a slide: Dask arrays and a zarr group that decode chunks as they are read and copy nothing.

Both pickle as the slide does, so they work on threads, on processes and on other machines that see the path.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import dask.array
import numpy as np
import zarr
from dask.base import tokenize
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from wsiseg.slide.types import Level, Mpp, Pixels

if TYPE_CHECKING:
    from zarr.abc.buffer import Buffer, BufferPrototype

_CHUNK = 1024  # pixels a side, about


class Leveled(Protocol):
    """What a view needs of a slide."""

    @property
    def path(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def levels(self) -> tuple[Level, ...]: ...
    @property
    def mpp(self) -> Mpp | None: ...

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels: ...


def chunk_size(slide: Leveled, level: int) -> tuple[int, int]:
    """(height, width) of a chunk: whole stored tiles, about 1024 pixels a side."""
    size = slide.levels[level]
    height, width = (tile * max(1, round(_CHUNK / tile)) for tile in (size.tile_height, size.tile_width))
    return min(height, size.height), min(width, size.width)


def dask_level(slide: Leveled, level: int) -> dask.array.Array:
    """One level as uint8 (height, width, 3), in chunks of whole stored tiles."""
    view = LevelView(slide, level)
    return dask.array.from_array(
        view,
        chunks=(*chunk_size(slide, level), 3),
        name=f"slide-level-{tokenize(slide, level)}",
        asarray=False,
        meta=np.empty((0, 0, 0), dtype=np.uint8),
    )


def zarr_group(slide: Leveled) -> zarr.Group:
    """A read-only zarr v3 group with one array (height, width, 3) a level, named "0", "1", …"""
    return zarr.open_group(SlideStore(slide), mode="r", zarr_format=3)


class LevelView:
    """The least that Dask asks of an array: shape, dtype and slicing."""

    def __init__(self, slide: Leveled, level: int) -> None:
        size = slide.levels[level]
        self._slide, self._level = slide, level
        self.shape = (size.height, size.width, 3)
        self.dtype = np.dtype(np.uint8)
        self.ndim = 3

    def __getitem__(self, key: Any) -> Pixels:
        """What numpy gives of the decoded level for any index; no more is read than its rows and columns span."""
        places = _by_axis(key, self.ndim)
        spans, shifted = [], list(places)
        for axis, at in enumerate(index for index, part in enumerate(places) if _takes(part)):
            span, shifted[at] = _span(places[at], self.shape[axis], axis)
            spans.append(span)
        rows, columns, channels = spans
        if len(rows) and len(columns):
            block = self._slide.read_level(self._level, columns.start, rows.start, len(columns), len(rows))
        else:
            block = np.empty((len(rows), len(columns), 3), dtype=self.dtype)
        return np.asarray(block[:, :, channels.start : channels.stop][tuple(shifted)])


def _by_axis(key: Any, axes: int) -> list[Any]:
    """The index with an entry for every axis, without masks.

    None, for a new axis, stays; so does an ellipsis that stands for nothing: it keeps the lists at its sides apart.
    """
    parts: list[Any] = []
    for part in key if isinstance(key, tuple) else (key,):
        if part is None or part is Ellipsis or isinstance(part, slice):
            parts.append(part)
            continue
        array = np.asarray(part)
        # A mask stands for the indices of what is true in it, one array for each of its axes.
        parts += np.nonzero(array) if array.dtype == np.bool_ and array.ndim else [part]
    given = sum(map(_takes, parts))
    dots = sum(part is Ellipsis for part in parts)
    if given > axes or dots > 1:
        raise IndexError(f"too many indices: {key!r} for the {axes} axes y, x and colour")
    at = next((index for index, part in enumerate(parts) if part is Ellipsis), len(parts))
    between = [slice(None)] * (axes - given) or parts[at : at + 1]
    return [*parts[:at], *between, *parts[at + 1 :]]


def _takes(part: Any) -> bool:
    """Whether an entry of an index is for an axis that is there."""
    return part is not None and part is not Ellipsis


def _span(part: Any, size: int, axis: int) -> tuple[range, Any]:
    """The indices from the first to the last that ``part`` takes of an axis, and ``part`` counted from there."""
    if isinstance(part, slice):
        taken = range(*part.indices(size))
        if not taken:
            return range(0), slice(0, 0)
        first, last = min(taken[0], taken[-1]), max(taken[0], taken[-1])
        stop = taken[-1] - first + taken.step
        return range(first, last + 1), slice(taken[0] - first, stop if stop >= 0 else None, taken.step)
    wanted = np.asarray(part)
    if wanted.size == 0:
        return range(0), wanted.astype(np.intp)
    if wanted.dtype.kind not in "iu":
        raise IndexError(f"index {part!r} of axis {axis}: expected integers, slices, masks, None or an ellipsis")
    if wanted.min() < -size or wanted.max() >= size:
        raise IndexError(f"index {part!r} is out of bounds for axis {axis} with size {size}")
    wanted = np.where(wanted < 0, wanted + size, wanted).astype(np.intp)
    first = int(wanted.min())
    shifted = wanted - first
    return range(first, int(wanted.max()) + 1), shifted if np.ndim(part) else int(shifted)


class SlideStore(Store):
    """A zarr store whose chunks are decoded from the slide on demand; read-only and pickled as the slide."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, slide: Leveled) -> None:
        super().__init__(read_only=True)
        self._slide = slide
        self._documents = _documents(slide)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SlideStore)
            and other._slide.path == self._slide.path
            and other._documents == self._documents
        )

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"slide://{self._slide.name}"

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        document = self._documents.get(key)
        if document is not None:
            data: bytes | Pixels = document
        else:
            place = self._place(key)
            if place is None:
                return None
            data = (await asyncio.to_thread(self._slide.read_level, *place)).reshape(-1)
        start, stop = _range(byte_range, len(data))
        piece = data[start:stop]
        if isinstance(piece, bytes):
            return prototype.buffer.from_bytes(piece)
        return prototype.buffer.from_array_like(piece)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        return key in self._documents or self._place(key) is not None

    async def set(self, key: str, value: Buffer) -> None:
        raise PermissionError(f"{self} is read-only")

    async def delete(self, key: str) -> None:
        raise PermissionError(f"{self} is read-only")

    async def list(self) -> AsyncIterator[str]:
        for key in self._documents:
            yield key
        for level, size in enumerate(self._slide.levels):
            height, width = chunk_size(self._slide, level)
            for row in range(-(-size.height // height)):
                for column in range(-(-size.width // width)):
                    yield f"{level}/c/{row}/{column}/0"

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        prefix = prefix.rstrip("/")
        if not prefix:
            yield "zarr.json"
            for level in range(len(self._slide.levels)):
                yield str(level)
            return
        seen = set()
        async for key in self.list_prefix(prefix + "/"):
            name = key[len(prefix) + 1 :].split("/")[0]
            if name not in seen:
                seen.add(name)
                yield name

    def _place(self, key: str) -> tuple[int, int, int, int, int] | None:
        """(level, x, y, width, height) of a chunk's key; None if there is no such chunk."""
        parts = key.split("/")
        if (
            len(parts) != 5
            or parts[1] != "c"
            or parts[4] != "0"
            or not all(p.isdecimal() for p in parts[:1] + parts[2:4])
        ):
            return None
        level, row, column = int(parts[0]), int(parts[2]), int(parts[3])
        if level >= len(self._slide.levels):
            return None
        size = self._slide.levels[level]
        height, width = chunk_size(self._slide, level)
        if row * height >= size.height or column * width >= size.width:
            return None
        return level, column * width, row * height, width, height


def _range(wanted: ByteRequest | None, length: int) -> tuple[int, int]:
    if isinstance(wanted, RangeByteRequest):
        return wanted.start, wanted.end
    if isinstance(wanted, OffsetByteRequest):
        return wanted.offset, length
    if isinstance(wanted, SuffixByteRequest):
        return max(0, length - wanted.suffix), length
    return 0, length


def _documents(slide: Leveled) -> dict[str, bytes]:
    mpp = slide.mpp.value if slide.mpp else None
    group: dict[str, Any] = {
        "wsiseg": {"slide": slide.name, "mpp": mpp, "downsamples": [level.downsample for level in slide.levels]}
    }
    documents = {"zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": group}}
    for index, level in enumerate(slide.levels):
        documents[f"{index}/zarr.json"] = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [level.height, level.width, 3],
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*chunk_size(slide, index), 3]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 255,
            "codecs": [{"name": "bytes"}],
            "dimension_names": ["y", "x", "c"],
            "attributes": {"downsample": level.downsample},
        }
    return {key: json.dumps(document).encode() for key, document in documents.items()}

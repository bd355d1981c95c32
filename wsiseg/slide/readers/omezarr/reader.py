"""OME-Zarr as a slide: what ``wsiseg tile`` wrote, and bright-field images that other tools wrote.

A store of our own (:mod:`wsiseg.convert`) brings its source's microns per pixel with their provenance, its bounds
and what of the source was damaged. A shard that is not there is background only if the store says so; in a store
whose tiling did not finish, or that was copied in part, it is lost and says why.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from wsiseg.core.geometry import Box, Window
from wsiseg.core.ngff import Multiscale, is_omezarr, read_json, read_multiscale, within
from wsiseg.errors import ReadError, SlideError
from wsiseg.slide.cache import SHARED
from wsiseg.slide.mpp import from_metadata
from wsiseg.slide.readers.omezarr.shards import ENVIRONMENT_ERRNOS, ShardedLevel, ShardLayout, layout_of
from wsiseg.slide.types import WHITE, Description, Level, Mpp, Pixels, Unread, nominal_downsample

if TYPE_CHECKING:
    import zarr

SCHEMA = "wsiseg.tiles"
NOT_WRITTEN = "not written: the tiling of this store did not finish"
_MOST_CHUNK_BYTES = 1 << 28  # each chunk is decoded whole
_MOST_CHUNKS = 1 << 20  # of a shard, whose index is read whole
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup")


class Source(NamedTuple):
    """The slide that a store was tiled from."""

    name: str
    fingerprint: str


def tiled_from(path: Path) -> Source | None:
    """What ``wsiseg tile`` noted of a store's source; None for stores of others."""
    try:
        own = read_json(path / "zarr.json")["attributes"]["wsiseg"]
        return Source(own["source"]["name"], own["source"]["fingerprint"]) if own["schema"] == SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


class LevelSource(Protocol):
    """Pixels of one array."""

    width: int
    height: int
    chunk_width: int
    chunk_height: int

    def read(self, window: Window, background: tuple[int, int, int]) -> tuple[Pixels, tuple[Unread, ...]]: ...

    def close(self) -> None: ...


class OmeZarrReader:
    """Reads an OME-Zarr 0.4 or 0.5 image; see :class:`wsiseg.slide.types.Reader`.

    Parameters
    ----------
    path : path
        The store's folder.

    Raises
    ------
    SlideError
        It is not OME-Zarr, not of one bright-field RGB image, or its metadata are damaged.
    """

    def __init__(self, path: str | Path) -> None:
        image = read_multiscale(Path(path))
        try:
            records = _level_records(image)
            self._sources = [
                _open_level(image, name, record) for name, record in zip(image.paths, records, strict=True)
            ]
            self._lost = [_lost_windows(record) for record in records]
            self._description = _describe(image, self._sources, records)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise SlideError(
                f"{image.group.name}: its wsiseg metadata are damaged "
                f"({type(error).__name__}: {str(error)[:200]}).\n"
                "Expected: the zarr.json that wsiseg wrote. Copy the whole folder again."
            ) from error

    @property
    def description(self) -> Description:
        return self._description

    def read_level(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        """Pixels of ``window``, uint8 (h, w, 3), and what of it cannot be read or was damaged in the source."""
        pixels, unread = self._sources[level].read(window, self.description.background)
        lost = tuple(part for part in self._lost[level] if part.window.intersection(window).area)
        return pixels, unread + lost

    def associated_image(self, name: str) -> Pixels:
        """OME-Zarr has none: a slide's label may name the patient, so it is not copied."""
        raise ReadError(f"OME-Zarr stores hold no associated image {name!r}")

    def close(self) -> None:
        """Forget what was decoded; no file stays open between reads."""
        for source in self._sources:
            source.close()


class ZarrLevel:
    """An array of any layout, read by zarr-python."""

    def __init__(
        self, array: zarr.Array[Any], axes: tuple[str, ...], channels: tuple[int, ...] = (0, 1, 2)
    ) -> None:
        sizes = dict(zip(axes, array.shape, strict=True))
        chunks = dict(zip(axes, array.chunks, strict=True))
        self.width, self.height = int(sizes["x"]), int(sizes["y"])
        self.chunk_width, self.chunk_height = int(chunks["x"]), int(chunks["y"])
        self.focal_planes, self.times = int(sizes.get("z", 1)), int(sizes.get("t", 1))
        self._array, self._axes, self._channels = array, axes, channels

    @property
    def notes(self) -> tuple[str, ...]:
        """Which of several planes is read."""
        notes = []
        if self.focal_planes > 1:
            middle = self.focal_planes // 2 + 1
            notes.append(f"{self.focal_planes} focal planes, of which the middle one, number {middle}, is read")
        if self.times > 1:
            notes.append(f"{self.times} points in time, of which the first is read")
        return tuple(notes)

    def read(self, window: Window, background: tuple[int, int, int]) -> tuple[Pixels, tuple[Unread, ...]]:
        """Pixels of ``window``, and the chunks of it that cannot be decoded."""
        try:
            return self._pixels(window), ()
        except Exception as error:  # codecs raise what they like
            _raise_if_environment(error)
        pixels = np.empty((*window.shape, 3), dtype=np.uint8)
        unread = []
        width, height = self.chunk_width, self.chunk_height
        whole = Window(0, 0, self.width, self.height)
        for y in range(window.y - window.y % height, window.y1, height):
            for x in range(window.x - window.x % width, window.x1, width):
                chunk = Window(x, y, width, height).intersection(whole)
                part = chunk.intersection(window)
                try:
                    pixels[part.within(window)] = self._pixels(part)
                except Exception as error:
                    _raise_if_environment(error)
                    pixels[part.within(window)] = background
                    unread.append(Unread(chunk, f"a chunk cannot be decoded ({error})"))
        return pixels, tuple(unread)

    def close(self) -> None:
        """zarr-python keeps no file open."""

    def _pixels(self, window: Window) -> Pixels:
        spans = {"y": slice(window.y, window.y1), "x": slice(window.x, window.x1), "c": slice(None)}
        places: dict[str, slice | int] = {**spans, "z": self.focal_planes // 2, "t": 0}
        block = np.asarray(self._array[tuple(places[axis] for axis in self._axes)])
        kept = [axis for axis in self._axes if axis in spans]
        pixels = block.transpose([kept.index(axis) for axis in "yxc"])
        if self._channels != (0, 1, 2):
            pixels = pixels[:, :, list(self._channels)]
        return np.ascontiguousarray(pixels)


def stored_bits(stored: list[bool]) -> str:
    """Which shards have a file, row by row, as hexadecimal digits: a million pixels squared are 15,000 digits."""
    return np.packbits(np.asarray(stored, dtype=bool)).tobytes().hex()


def _level_records(image: Multiscale) -> list[dict[str, Any]]:
    """What wsiseg noted about each level; empty records in stores of others."""
    if image.own.get("schema") != SCHEMA:
        return [{} for _ in image.paths]
    if image.own.get("version") != 1:
        raise SlideError(
            f"{image.group.name}: is version {image.own.get('version')} of {SCHEMA}; expected version 1.\n"
            "Use a newer wsiseg."
        )
    records = {record["path"]: record for record in image.own["levels"]}
    return [{**records.get(path, {}), "complete": image.own["complete"]} for path in image.paths]


def _open_level(image: Multiscale, path: str, record: dict[str, Any]) -> LevelSource:
    folder = within(image.group, image.group, path)
    metadata = _array_metadata(folder)
    layout = layout_of(metadata) if isinstance(metadata, dict) else None
    if layout is not None and image.axes == ("c", "y", "x") and image.channels == (0, 1, 2):
        _require_affordable(image, path, (3, layout.chunk, layout.chunk), 1, layout.side**2)
        return ShardedLevel(folder, layout, _absent(layout, record), SHARED)
    import zarr

    try:
        if metadata is None:
            raise ValueError("its metadata cannot be read")
        array = zarr.open_array(str(folder), mode="r")
        sizes = dict(zip(image.axes, array.shape, strict=True))
        chunks = math.prod(array.shards or array.chunks) // max(1, math.prod(array.chunks))
    except Exception as error:
        _raise_if_environment(error)
        raise SlideError(
            f"{image.group.name}: level {path} cannot be opened ({type(error).__name__}: {str(error)[:200]}).\n"
            "Expected: a zarr array as the metadata say. Copy the whole folder again."
        ) from error
    if str(array.dtype) != "uint8" or sizes["c"] != 3 or min(sizes.values()) < 1:
        shape = " × ".join(f"{axis} {size}" for axis, size in sizes.items())
        raise SlideError(
            f"{image.group.name}: is {array.dtype} of {shape}.\nExpected: a bright-field RGB image: uint8, three "
            "channels."
        )
    _require_affordable(image, path, array.chunks, array.dtype.itemsize, chunks)
    return ZarrLevel(array, image.axes, image.channels)


def _array_metadata(folder: Path) -> Any:
    """The metadata of an array of zarr v3 or v2; None where there are none, or none that can be read."""
    for name in ("zarr.json", ".zarray"):
        try:
            return read_json(folder / name)
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return None
    return None


def _require_affordable(image: Multiscale, path: str, chunk: tuple[int, ...], itemsize: int, chunks: int) -> None:
    """Refuse what a header can claim for nothing and a reader would pay for."""
    if math.prod(chunk) * itemsize <= _MOST_CHUNK_BYTES and chunks <= _MOST_CHUNKS:
        return
    shape = " × ".join(map(str, chunk))
    raise SlideError(
        f"{image.group.name}: level {path} has chunks of {shape}, {chunks:,} in a file.\n"
        f"Expected: chunks of at most {_MOST_CHUNK_BYTES >> 20} MiB, since each is decoded whole, and at most "
        f"{_MOST_CHUNKS:,} in a file.\nWrite it again in chunks of about 1024 × 1024 pixels."
    )


def _require_pixels(image: Multiscale) -> None:
    """Refuse an array without any chunk: whatever its size, it was not copied or never written."""
    folder = within(image.group, image.group, image.paths[0])
    if not any(name not in _METADATA for _, _, names in os.walk(folder) for name in names):
        raise SlideError(
            f"{image.group.name}: level {image.paths[0]} holds no pixels: not one of its chunks is there.\n"
            "Expected: at least one. Copy the whole folder again."
        )


def _absent(layout: ShardLayout, record: dict[str, Any]) -> Callable[[int, int], str]:
    """Why a shard's file is missing: says a function of (row, column), "" where it is background."""
    if not record:  # another writer's: zarr's rule is the fill value
        return lambda row, column: ""
    if not record["complete"]:
        return lambda row, column: NOT_WRITTEN
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(record["stored"]), dtype=np.uint8))

    def reason(row: int, column: int) -> str:
        return "its shard file is missing from the store" if bits[row * layout.columns + column] else ""

    return reason


def _lost_windows(record: dict[str, Any]) -> tuple[Unread, ...]:
    return tuple(
        Unread(Window(x, y, width, height), f"damaged in the source: {reason}")
        for x, y, width, height, reason in record.get("lost", [])
    )


def _describe(image: Multiscale, sources: list[LevelSource], records: list[dict[str, Any]]) -> Description:
    width, height = sources[0].width, sources[0].height
    levels = tuple(
        Level(
            width=source.width,
            height=source.height,
            downsample=float(
                record.get("downsample") or nominal_downsample(width, height, source.width, source.height)
            ),
            tile_width=source.chunk_width,
            tile_height=source.chunk_height,
            derived=bool(record.get("derived", False)),
        )
        for source, record in zip(sources, records, strict=True)
    )
    if any(a.width < b.width for a, b in itertools.pairwise(levels)):
        raise SlideError(f"{image.group.name}: its levels are not ordered from the largest to the smallest.")
    value, problem = from_metadata(image.mpp_x, image.mpp_y, "ome-zarr")
    own = image.own if image.own.get("schema") == SCHEMA else {}
    if not own:
        _require_one_picture(image, levels)
        _require_pixels(image)
    if value is not None and own:
        value = Mpp(value.value, f"metadata:ome-zarr ({own['mpp_source']})", own.get("mpp_note", ""))
    properties = dict(own.get("properties", {}))
    if image.series > 1:
        properties["ome-zarr.images"] = str(image.series)
    return Description(
        reader="ome-zarr",
        vendor=str(own.get("source", {}).get("vendor", "")),
        levels=levels,
        mpp=value,
        mpp_problem=image.mpp_problem or problem,
        bounds=Box(*own["bounds"]) if own else Box(0.0, 0.0, float(width), float(height)),
        properties=properties,
        background=tuple(own.get("background", WHITE)),
        notes=image.notes + (sources[0].notes if isinstance(sources[0], ZarrLevel) else ()),
    )


def _require_one_picture(image: Multiscale, levels: tuple[Level, ...]) -> None:
    """Refuse levels that are not the first at a lower resolution: their pixels are of something else."""
    first = levels[0]
    for path, level in zip(image.paths, levels, strict=True):
        # Sizes are rounded to whole pixels, by up to one in either direction.
        if abs(first.height * level.width / first.width - level.height) > 1 + level.height / level.width:
            raise SlideError(
                f"{image.group.name}: level {path} has {level.width} × {level.height} pixels, which is not the "
                f"shape of level {image.paths[0]}, {first.width} × {first.height}.\n"
                "Expected: the levels of one picture. Give the image alone, or write it again."
            )


def _raise_if_environment(error: Exception) -> None:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRNOS):
        raise error


__all__ = ["NOT_WRITTEN", "SCHEMA", "OmeZarrReader", "ZarrLevel", "is_omezarr", "stored_bits"]

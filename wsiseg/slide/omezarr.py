"""OME-Zarr as a slide: what ``wsiseg tile`` wrote, and bright-field images that other tools wrote.

A store of our own (:mod:`wsiseg.tiling`) brings its source's microns per pixel with their provenance, its bounds
and what of the source was damaged. A shard that is not there is background only if the store says so; in a store
whose tiling did not finish, or that was copied in part, it is lost and says why.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wsiseg.errors import ReadError, SlideError
from wsiseg.geometry import Box, Window
from wsiseg.slide import mpp as microns
from wsiseg.slide.base import WHITE, Description, Level, Mpp, Pixels, Unread, nominal_downsample
from wsiseg.slide.cache import SHARED
from wsiseg.slide.ngff import Multiscale, is_omezarr, read_multiscale
from wsiseg.slide.shards import ENVIRONMENT_ERRNOS, ShardedLevel, ShardLayout, layout_of

if TYPE_CHECKING:
    import zarr

SCHEMA = "wsiseg.tiles"
NOT_WRITTEN = "not written: the tiling of this store did not finish"


class LevelSource(Protocol):
    """Pixels of one array."""

    width: int
    height: int
    chunk_width: int
    chunk_height: int

    def read(self, window: Window, background: tuple[int, int, int]) -> tuple[Pixels, tuple[Unread, ...]]: ...

    def close(self) -> None: ...


class OmeZarrReader:
    """Reads an OME-Zarr 0.4 or 0.5 image; see :class:`wsiseg.slide.base.Reader`.

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
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SlideError(
                f"{image.group.name}: its wsiseg metadata are damaged ({type(error).__name__}: {error}).\n"
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

    def __init__(self, array: zarr.Array[Any], axes: tuple[str, ...]) -> None:
        sizes = dict(zip(axes, array.shape, strict=True))
        chunks = dict(zip(axes, array.chunks, strict=True))
        self.width, self.height = int(sizes["x"]), int(sizes["y"])
        self.chunk_width, self.chunk_height = int(chunks["x"]), int(chunks["y"])
        self._array, self._axes = array, axes

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
        block = np.asarray(self._array[tuple(spans.get(axis, 0) for axis in self._axes)])
        kept = [axis for axis in self._axes if axis in spans]
        return np.ascontiguousarray(block.transpose([kept.index(axis) for axis in "yxc"]))


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
    folder = image.group / path
    layout = layout_of(_json(folder / "zarr.json"))
    if layout is not None and image.axes == ("c", "y", "x"):
        return ShardedLevel(folder, layout, _absent(layout, record), SHARED)
    import zarr

    try:
        array = zarr.open_array(str(folder), mode="r")
        sizes = dict(zip(image.axes, array.shape, strict=True))
    except Exception as error:
        _raise_if_environment(error)
        raise SlideError(
            f"{image.group.name}: level {path} cannot be opened ({type(error).__name__}: {error}).\n"
            "Expected: a zarr array as the metadata say. Copy the whole folder again."
        ) from error
    planes = {axis: size for axis, size in sizes.items() if axis in "tz"}
    if str(array.dtype) != "uint8" or sizes["c"] != 3 or any(size != 1 for size in planes.values()):
        shape = " × ".join(f"{axis} {size}" for axis, size in sizes.items())
        raise SlideError(
            f"{image.group.name}: is {array.dtype} of {shape}.\nExpected: a bright-field RGB image: uint8, three "
            "channels, one focal plane, one time point."
        )
    return ZarrLevel(array, image.axes)


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
    value, problem = microns.from_metadata(image.mpp_x, image.mpp_y, "ome-zarr")
    own = image.own if image.own.get("schema") == SCHEMA else {}
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
        mpp_problem=problem,
        bounds=Box(*own["bounds"]) if own else Box(0.0, 0.0, float(width), float(height)),
        properties=properties,
        background=tuple(own.get("background", WHITE)),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _raise_if_environment(error: Exception) -> None:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRNOS):
        raise error


__all__ = ["NOT_WRITTEN", "SCHEMA", "OmeZarrReader", "ZarrLevel", "is_omezarr", "stored_bits"]

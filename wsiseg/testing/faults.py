"""Damage that real slides have, done to a copy on purpose."""

from __future__ import annotations

import re
from pathlib import Path

import tifffile

_TILE_OFFSETS, _TILE_BYTE_COUNTS = 324, 325


def _level_page(tiff: tifffile.TiffFile, level: int) -> tifffile.TiffPage:
    tiled = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
    return tiled[level]


def tile_count(path: str | Path, level: int = 0) -> int:
    """How many tiles a level stores."""
    with tifffile.TiffFile(path) as tiff:
        return len(_level_page(tiff, level).dataoffsets)


def corrupt_tile(path: str | Path, index: int, level: int = 0) -> None:
    """Invert every byte of a stored tile, in place: no decoder takes the result for an image.

    Parameters
    ----------
    path : path
        A tiled TIFF; changed in place.
    index : int
        The stored tile, counted row by row.
    level : int
        The pyramid level, 0 being the largest.
    """
    with tifffile.TiffFile(path) as tiff:
        page = _level_page(tiff, level)
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with open(path, "r+b") as file:
        file.seek(offset)
        stored = file.read(count)
        file.seek(offset)
        file.write(bytes(byte ^ 0xFF for byte in stored))


def drop_tile(path: str | Path, index: int, level: int = 0) -> None:
    """Let a stored tile have offset and length 0, in place, as scanners leave tiles they never saw."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = _level_page(tiff, level)
        for code in (_TILE_OFFSETS, _TILE_BYTE_COUNTS):
            values = [int(value) for value in _as_tuple(page.tags[code].value)]
            values[index] = 0
            page.tags[code].overwrite(values if len(values) > 1 else values[0])


def strip_mpp(path: str | Path) -> None:
    """Remove ``MPP`` from every page's description, in place, as de-identification tools do."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            tag = page.tags.get(270) if isinstance(page, tifffile.TiffPage) else None
            if tag is not None and "MPP" in tag.value:
                tag.overwrite(re.sub(r"\|\s*MPP\s*=[^|]*", "", tag.value))


def truncate(path: str | Path, fraction: float) -> None:
    """Keep only the first ``fraction`` of a file's bytes, in place, as an interrupted copy does."""
    target = Path(path)
    with open(target, "r+b") as file:
        file.truncate(int(target.stat().st_size * fraction))


def _as_tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)

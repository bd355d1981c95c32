"""Write Aperio SVS files of any content, with a pyramid and the associated images, from a stream of tiles."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageDraw

from wsiseg.core.geometry import Window

Pixels = npt.NDArray[np.uint8]
PixelSource = Callable[[Window], Pixels]
Codec = Literal["jpeg", "jpeg2000"]

_OVERVIEW = 16  # the thumbnail and the macro image are made from means of 16 × 16 pixels
_BIGTIFF_FROM = 2_000_000_000  # pixels; a JPEG tile of dense tissue stays below 1.5 bytes a pixel


@dataclass(frozen=True)
class _Format:
    """How tiles are stored."""

    tile: int
    codec: Codec
    quality: int
    subsampling: str

    def encode(self, tile: Pixels) -> bytes:
        if self.codec == "jpeg2000":
            return bytes(imagecodecs.jpeg2k_encode(tile, codecformat="J2K", reversible=True, mct=False))
        return bytes(
            imagecodecs.jpeg8_encode(
                tile,
                level=self.quality,
                colorspace="RGB",
                outcolorspace="YCBCR",
                subsampling=self.subsampling,
            )
        )

    def options(self) -> dict[str, Any]:
        """What the TIFF writer must know about tiles that come encoded."""
        common = {"tile": (self.tile, self.tile), "metadata": None, "software": False, "subfiletype": 0}
        if self.codec == "jpeg2000":
            return {**common, "photometric": "rgb", "compression": 33005}
        ratio = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}[self.subsampling]
        # 'ycbcr' would shift the colours without a word; with 'rgb' the writer sets the right tag by itself.
        return {
            **common,
            "photometric": "rgb",
            "compression": "jpeg",
            "compressionargs": {"level": self.quality, "outcolorspace": "YCBCR"},
            "subsampling": ratio,
        }

    def describe(self) -> str:
        kind = f"JPEG/RGB Q={self.quality}" if self.codec == "jpeg" else "J2K/KDU Q=100"
        return f"({self.tile}x{self.tile}) {kind}"


@dataclass(frozen=True)
class _Level:
    """The tiles of one level, reduced to what the next one needs; equal tiles share one array."""

    width: int
    height: int
    tile: int
    reduced: list[Pixels]
    overview: list[Pixels]

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile)

    @property
    def rows(self) -> int:
        return -(-self.height // self.tile)


def write_svs(
    path: str | Path,
    pixels: Pixels | PixelSource,
    size: tuple[int, int] | None = None,
    *,
    mpp: float | None = 0.25,
    levels: tuple[int, ...] = (1, 4, 16),
    tile: int = 240,
    codec: Codec = "jpeg",
    quality: int = 90,
    subsampling: Literal["444", "422", "420"] = "422",
    app_mag: float | None = None,
    properties: Mapping[str, str] | None = None,
    associated: bool = True,
    key: Callable[[Window], Hashable | None] | None = None,
) -> Path:
    """Write a pyramidal SVS that OpenSlide takes for one of Aperio's.

    Level 0 is streamed in rows of tiles; a level is the mean of the pixels of the level before (before they
    are coded), and its size is rounded down, as Aperio's are. What stays in memory is the first reduction of
    the tiles that differ from each other: 1/16 of level 0 where all do.

    Parameters
    ----------
    path : path
        Overwritten if it exists.
    pixels : uint8 array (height, width, 3), or function
        A function gets a `Window` of level 0, inside the slide, and returns its uint8 (h, w, 3) pixels. It is
        called once for each tile, row by row.
    size : (int, int), optional
        Width and height of level 0 in pixels; needed with a function.
    mpp : float, optional
        Microns per pixel of level 0. None leaves it out, and the magnification with it.
    levels : tuple of int
        Downsample of each level, each a multiple of the one before.
    tile : int
        Side of a stored tile in pixels, a multiple of 16.
    codec : {"jpeg", "jpeg2000"}
        "jpeg2000" is lossless here, and slow.
    quality : int
        Of JPEG, 1–100.
    subsampling : {"444", "422", "420"}
        Of JPEG's chroma.
    app_mag : float, optional
        Magnification; by default 40 below 0.375 mpp and 20 above.
    properties : mapping of str to str, optional
        Further ``name = value`` pairs of the description.
    associated : bool
        Whether to add thumbnail, label and macro images.
    key : function, optional
        Windows of the same size with the same key have the same pixels: they are rendered and coded once.
        None as a key makes no such promise.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ValueError
        Sizes, levels or tile sides that do not go together.
    """
    if isinstance(pixels, np.ndarray):
        size = pixels.shape[1], pixels.shape[0]
        source: PixelSource = _array_source(pixels)
    else:
        source = pixels
    if size is None:
        raise ValueError("a function of pixels needs size=(width, height)")
    width, height = size
    _check(width, height, levels, tile)
    store = _Format(tile, codec, quality, subsampling)
    extra = _description(mpp, app_mag, properties)
    steps = [b // a for a, b in pairwise(levels)] + [1]
    target = Path(path)
    with tifffile.TiffWriter(target, bigtiff=width * height > _BIGTIFF_FROM) as writer:
        level = _Level(width, height, tile, [], [])
        text = f"{width}x{height} [0,0 {width}x{height}] {store.describe()}"
        _write_level(writer, store, level, _level0(level, source, store, steps[0], key), text + extra)
        overview = _overview(level)
        if associated:
            _write_thumbnail(writer, overview, text, extra)
        for step, following in pairwise(steps):
            below, level = (
                level,
                _Level(level.width // step, level.height // step, tile, [], []),
            )
            shown = f"{text} -> {level.width}x{level.height} {store.describe().split(' ')[1]}"
            _write_level(writer, store, level, _lower(level, below, store, step, following), shown + extra)
        if associated:
            _write_label_and_macro(writer, overview, target.name)
    return target


def _check(width: int, height: int, levels: tuple[int, ...], tile: int) -> None:
    if tile <= 0 or tile % 16:
        raise ValueError(f"tile side {tile}: expected a positive multiple of 16")
    if levels[:1] != (1,):
        raise ValueError(f"levels {levels}: expected the first to be 1")
    for a, b in pairwise(levels):
        if b <= a or b % a or tile % (b // a):
            raise ValueError(f"levels {levels}: {b} after {a} does not divide tiles of {tile} pixels")
    if min(width, height) // levels[-1] < 1:
        raise ValueError(f"a slide of {width} × {height} pixels has nothing left at 1:{levels[-1]}")


def _array_source(image: Pixels) -> PixelSource:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 (h, w, 3) pixels, got {image.dtype} {image.shape}")
    return lambda window: image[window.y : window.y1, window.x : window.x1]


def _write_level(
    writer: tifffile.TiffWriter, store: _Format, level: _Level, tiles: Iterator[bytes], description: str
) -> None:
    writer.write(
        tiles,
        shape=(level.height, level.width, 3),
        dtype=np.uint8,
        description=f"Aperio Image Library v12.0.15 \r\n{description}",
        **store.options(),
    )


def _level0(
    level: _Level,
    source: PixelSource,
    store: _Format,
    step: int,
    key: Callable[[Window], Hashable | None] | None,
) -> Iterator[bytes]:
    """Render and code level 0 row by row, and keep what the lower levels and the overview need."""
    whole = Window(0, 0, level.width, level.height)
    known: dict[Hashable, tuple[bytes, Pixels, Pixels]] = {}
    for index in range(level.rows * level.columns):
        row, column = divmod(index, level.columns)
        t = level.tile
        window = Window(column * t, row * t, t, t).intersection(whole)
        name = key(window) if key is not None else None
        entry = known.get((name, window.shape)) if name is not None else None
        if entry is None:
            block = _fill(source(window), t)
            entry = store.encode(block), _mean(block, step), _mean(block, _OVERVIEW)
            if name is not None:
                known[name, window.shape] = entry
        code, reduced, overview = entry
        level.reduced.append(reduced)
        level.overview.append(overview)
        yield code


def _lower(level: _Level, below: _Level, store: _Format, step: int, following: int) -> Iterator[bytes]:
    """Assemble the tiles of ``level`` from the reduced tiles of the level before."""
    known: dict[tuple[int, ...], tuple[bytes, Pixels]] = {}
    side = level.tile // step
    for row in range(level.rows):
        for column in range(level.columns):
            places = [
                (i, j, (row * step + i) * below.columns + column * step + j)
                for i in range(step)
                for j in range(step)
                if row * step + i < below.rows and column * step + j < below.columns
            ]
            # Equal tiles share one array, which `below` keeps alive: its identity stands for its content.
            name = tuple(id(below.reduced[place]) for _, _, place in places)
            entry = known.get(name)
            if entry is None:
                block = np.full((level.tile, level.tile, 3), 255, dtype=np.uint8)
                for i, j, place in places:
                    block[i * side : (i + 1) * side, j * side : (j + 1) * side] = below.reduced[place]
                entry = store.encode(block), _mean(block, following)
                known[name] = entry
            level.reduced.append(entry[1])
            yield entry[0]


def _fill(block: Pixels, tile: int) -> Pixels:
    """A tile at the slide's edge, filled up with its own border so that JPEG does not ring."""
    h, w = block.shape[:2]
    if (h, w) == (tile, tile):
        return np.ascontiguousarray(block)
    return np.pad(block, ((0, tile - h), (0, tile - w), (0, 0)), mode="edge")


def _mean(block: Pixels, step: int) -> Pixels:
    """Means of ``step`` × ``step`` pixels, rounded half up."""
    if step == 1:
        return block[:0]  # nothing follows
    h, w = block.shape[0] // step, block.shape[1] // step
    rows = block.reshape(h, step, w * step, 3).sum(axis=1, dtype=np.uint32)
    total = rows.reshape(h, w, step, 3).sum(axis=2, dtype=np.uint32)
    count = step * step
    return ((2 * total + count) // (2 * count)).astype(np.uint8)


def _overview(level: _Level) -> Image.Image:
    side = level.tile // _OVERVIEW
    grid = np.stack(level.overview).reshape(level.rows, level.columns, side, side, 3)
    image = grid.transpose(0, 2, 1, 3, 4).reshape(level.rows * side, level.columns * side, 3)
    h, w = max(1, level.height // _OVERVIEW), max(1, level.width // _OVERVIEW)
    return Image.fromarray(np.ascontiguousarray(image[:h, :w]))


def _description(mpp: float | None, app_mag: float | None, properties: Mapping[str, str] | None) -> str:
    pairs: dict[str, str] = {}
    if app_mag is None and mpp is not None:
        app_mag = 40 if mpp < 0.375 else 20
    if app_mag is not None:
        pairs["AppMag"] = f"{app_mag:g}"
    if mpp is not None:
        pairs["MPP"] = f"{mpp:.4f}"
    pairs.update(properties or {})
    return "".join(f"|{name} = {value}" for name, value in pairs.items())


def _write_image(writer: tifffile.TiffWriter, image: Image.Image, kind: int, compression: str, text: str) -> None:
    """One associated image; readers tell them apart by subfile type and by the description's second line."""
    options: dict[str, Any] = {"compressionargs": {"level": 80}} if compression == "jpeg" else {}
    writer.write(
        np.asarray(image),
        photometric="rgb",
        compression=compression,
        rowsperstrip=image.height,
        subfiletype=kind,
        metadata=None,
        software=False,
        description=f"Aperio Image Library v12.0.15 \r\n{text}",
        **options,
    )


def _write_thumbnail(writer: tifffile.TiffWriter, overview: Image.Image, text: str, extra: str) -> None:
    image = overview.copy()
    image.thumbnail((1024, 768))
    size = text.split(" ")[0]
    _write_image(writer, image, 0, "jpeg", f"{size} -> {image.width}x{image.height} - {extra}")


def _write_label_and_macro(writer: tifffile.TiffWriter, overview: Image.Image, name: str) -> None:
    label = Image.new("RGB", (384, 432), (236, 234, 226))
    draw = ImageDraw.Draw(label)
    draw.text((24, 24), "SYNTHETIC", fill=(20, 20, 20))
    draw.text((24, 48), "".join(c if c.isascii() else "?" for c in name)[:40], fill=(20, 20, 20))
    for x in range(24, 360, 8):
        draw.rectangle((x, 330, x + 2 + (x * 7 % 5), 400), fill=(20, 20, 20))
    macro = Image.new("RGB", (1280, 432), (232, 231, 230))
    macro.paste(label, (0, 0))
    section = overview.copy()
    section.thumbnail((820, 390))
    macro.paste(section, (420 + (820 - section.width) // 2, (432 - section.height) // 2))
    _write_image(writer, label, 1, "lzw", f"label {label.width}x{label.height}")
    _write_image(writer, macro, 9, "jpeg", f"macro {macro.width}x{macro.height}")

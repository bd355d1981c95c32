"""Outlines of nuclei on the slide's pixels, exact to a fraction of a pixel."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsiseg.core.atomic import write_bytes
from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import UsageError

if TYPE_CHECKING:
    from wsiseg.slide.slide import Slide

Image = npt.NDArray[np.uint8]

OUTLINE = (0, 230, 118)  # a green that neither haematoxylin nor eosin has
_MOST_PIXELS = 100_000_000


def render_overlay(
    slide: Slide,
    nuclei: Nuclei,
    box: Box,
    mpp: float | None = None,
    *,
    zoom: int = 1,
    color: npt.ArrayLike = OUTLINE,
    width_px: float = 2.0,
) -> Image:
    """A region of the slide with the outlines of its nuclei.

    Parameters
    ----------
    slide : Slide
    nuclei : Nuclei
        In level-0 coordinates; what lies outside the box is not drawn.
    box : Box
        In level-0 coordinates. The picture shows the whole pixels that cover it.
    mpp : float, optional
        Microns per pixel of what is read; by default level 0.
    zoom : int
        Each pixel becomes ``zoom`` × ``zoom`` equal ones, so that the outlines' position on the pixels' edges can
        be seen.
    color : (3,) or (N, 3) uint8
        One colour, or one a nucleus.
    width_px : float
        Width of the lines in pixels of the picture, centred on the outline.

    Returns
    -------
    uint8 array (h, w, 3)

    Raises
    ------
    UsageError
        The box is empty, or the picture would have more than 100 megapixels.
    """
    if box.empty or zoom < 1:
        raise UsageError(f"nothing to draw in {box} at zoom {zoom}: expected x1 > x0, y1 > y0 and zoom >= 1")
    scale = slide.scale(mpp if mpp is not None else slide.require_mpp().value)
    window = scale.window(box)
    pixels = window.area * zoom**2
    if pixels > _MOST_PIXELS:
        raise UsageError(
            f"the picture would have {pixels / 1e6:.0f} megapixels, more than {_MOST_PIXELS / 1e6:.0f}: "
            "choose a smaller region or a larger mpp"
        )
    image = slide.read_window(window, scale)
    image = np.repeat(np.repeat(image, zoom, axis=0), zoom, axis=1)
    shown = nuclei_near(nuclei, scale.box(window))
    colors = np.asarray(color, dtype=np.uint8)
    placed = nuclei.take(shown)
    vertices = (scale.from_level0(placed.vertices) - np.array([window.x, window.y])) * zoom
    return draw_outlines(
        image,
        Nuclei(vertices, placed.offsets),
        colors if colors.ndim == 1 else colors[shown],
        width_px,
    )


def save_overlay(
    slide: Slide,
    nuclei: Nuclei,
    box: Box,
    out: Path,
    *,
    mpp: float | None = None,
    zoom: int = 1,
    color: npt.ArrayLike = OUTLINE,
) -> None:
    """Write :func:`render_overlay` as PNG, atomically.

    Raises
    ------
    UsageError
        As :func:`render_overlay`.
    EnvironmentFault
        The disk refuses.
    """
    from PIL import Image as PillowImage

    buffer = io.BytesIO()
    PillowImage.fromarray(render_overlay(slide, nuclei, box, mpp, zoom=zoom, color=color)).save(buffer, "PNG")
    write_bytes(out, buffer.getvalue())


def nuclei_near(nuclei: Nuclei, box: Box) -> npt.NDArray[np.bool_]:
    """Which nuclei have bounds that meet ``box``."""
    bounds = nuclei.bounds()
    return (bounds[:, 0] <= box.x1) & (bounds[:, 2] >= box.x0) & (bounds[:, 1] <= box.y1) & (bounds[:, 3] >= box.y0)


def draw_outlines(image: Image, nuclei: Nuclei, color: npt.ArrayLike = OUTLINE, width_px: float = 2.0) -> Image:
    """A copy of ``image`` (h, w, 3) with the rings drawn in it, in its pixel coordinates, anti-aliased.

    A pixel's share of a line follows from the distance of its centre: a line of width 2 along a pixel edge covers
    the two pixels at its sides fully and no other.
    """
    colors = np.asarray(color, dtype=np.uint8)
    if colors.ndim == 1:
        colors = np.broadcast_to(colors, (len(nuclei), 3))
    drawn = np.ascontiguousarray(image).copy()
    _draw(drawn, nuclei.vertices, nuclei.offsets, np.ascontiguousarray(colors), float(width_px) / 2)
    return drawn


@compiled
def _draw(image, vertices, offsets, colors, half):  # type: ignore[no-untyped-def]
    height, width = image.shape[:2]
    cover = np.zeros((0, 0), dtype=np.float64)
    for n in range(len(offsets) - 1):
        first, last = offsets[n], offsets[n + 1]
        if last == first:
            continue
        # One cover a ring, so that where its edges meet nothing is blended twice.
        low_x, low_y = vertices[first, 0], vertices[first, 1]
        high_x, high_y = low_x, low_y
        for v in range(first, last):
            low_x, high_x = min(low_x, vertices[v, 0]), max(high_x, vertices[v, 0])
            low_y, high_y = min(low_y, vertices[v, 1]), max(high_y, vertices[v, 1])
        left, right = _range(low_x, high_x, half, width)
        top, bottom = _range(low_y, high_y, half, height)
        if right <= left or bottom <= top:
            continue
        if cover.shape[0] < bottom - top or cover.shape[1] < right - left:
            cover = np.zeros((bottom - top, right - left), dtype=np.float64)
        cover[: bottom - top, : right - left] = 0.0
        for v in range(first, last):
            after = v + 1 if v + 1 < last else first
            ax, ay, bx, by = vertices[v, 0], vertices[v, 1], vertices[after, 0], vertices[after, 1]
            _cover_edge(cover, ax, ay, bx, by, half, left, right, top, bottom)
        for i in range(top, bottom):
            for j in range(left, right):
                share = cover[i - top, j - left]
                if share > 0.0:
                    for c in range(3):
                        old = np.float64(image[i, j, c])
                        image[i, j, c] = np.uint8(np.rint(old + (np.float64(colors[n, c]) - old) * share))


@compiled
def _cover_edge(cover, ax, ay, bx, by, half, left, right, top, bottom):  # type: ignore[no-untyped-def]
    j0, j1 = _range(min(ax, bx), max(ax, bx), half, right)
    i0, i1 = _range(min(ay, by), max(ay, by), half, bottom)
    ex, ey = bx - ax, by - ay
    squared = ex * ex + ey * ey
    for i in range(max(i0, top), i1):
        for j in range(max(j0, left), j1):
            px, py = j + 0.5 - ax, i + 0.5 - ay
            along = 0.0 if squared == 0.0 else min(1.0, max(0.0, (px * ex + py * ey) / squared))
            dx, dy = px - along * ex, py - along * ey
            share = min(1.0, half + 0.5 - math.sqrt(dx * dx + dy * dy))
            if share > cover[i - top, j - left]:
                cover[i - top, j - left] = share


@compiled
def _range(low, high, half, size):  # type: ignore[no-untyped-def]
    """Pixels whose centres may lie within a line's reach: [first, stop), inside [0, size)."""
    first = max(0.0, math.floor(low - half - 1.0))
    stop = min(np.float64(size), math.ceil(high + half + 1.0))
    return np.int64(first), np.int64(max(first, stop))

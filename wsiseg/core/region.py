"""Regions of interest: a box or polygons in level-0 coordinates, which points they hold, which raster cells."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import shapely
from scipy import ndimage

from wsiseg.core.featurefile import NotGeoJson, listed, polygons_in, read_features, ring_arrays
from wsiseg.core.geometry import Box, FloatArray, Scale
from wsiseg.core.union import TooIntricate, covered_area
from wsiseg.errors import SlideError, UsageError

BoolArray = npt.NDArray[np.bool_]
Region: TypeAlias = Box | shapely.Geometry
COORDINATES = "Expected: coordinates in pixels of the slide's largest level, x before y."
"""What errors about regions ask for."""
_MOST_BYTES, _MOST_VALUES = 1 << 28, 20_000_000
"""Of a mask's file: seven million corners, about 1 GB of memory."""


@dataclass(frozen=True)
class RegionRequest:
    """Where nuclei are wanted, as the user says it; which part of a slide that is, :meth:`on` tells.

    Attributes
    ----------
    roi : Box or None
        In level-0 pixels.
    mask : shapely geometry or None
        In GeoJSON's coordinates, which begin where QuPath's view of the slide does.
    notes : tuple of str
        What the mask's file holds beside areas, a sentence each.
    """

    roi: Box | None = None
    mask: shapely.Geometry | None = None
    notes: tuple[str, ...] = ()

    def on(self, origin: tuple[float, float] = (0.0, 0.0)) -> Region | None:
        """The region in level-0 pixels of a slide whose view begins at ``origin``; None: everywhere.

        Raises
        ------
        SlideError
            Rectangle and mask share nothing there.
        """
        mask = None if self.mask is None else moved(self.mask, origin)
        if self.roi is None or mask is None:
            return mask if self.roi is None else self.roi
        common = common_region(self.roi, mask)
        if common is None:
            raise SlideError(
                f"The region of interest {describe_region(self.roi)} and the mask {describe_region(mask)} "
                f"share nothing.\n{COORDINATES}"
            )
        return common


def requested_region(
    roi: tuple[float, float, float, float] | None, mask: str | os.PathLike[str] | None
) -> RegionRequest:
    """Where nuclei are wanted, whatever the slide: in a rectangle, in a file's polygons, or in what both share.

    Parameters
    ----------
    roi : (x, y, width, height) or None
        In level-0 pixels.
    mask : path or None
        See :func:`read_mask`.

    Raises
    ------
    UsageError
        No slide can have such a region: numbers that are not finite or no size, a file without polygons, or
        nothing right of and below the origin.
    """
    box: Box | None = None
    area: shapely.Geometry | None = None
    notes: tuple[str, ...] = ()
    if roi is not None:
        x, y, width, height = roi
        if not all(map(math.isfinite, roi)) or width <= 0 or height <= 0:
            raise UsageError(f"The region of interest is {roi}: expected finite X,Y,W,H, with W and H above 0.")
        box = Box(x, y, x + width, y + height)
    if mask is not None:
        area, notes = read_mask(mask)
    for part in (box, area):
        if part is not None and min(region_bounds(part)[2:]) <= 0:
            raise UsageError(f"The region {describe_region(part)} lies outside every slide.\n{COORDINATES}")
    return RegionRequest(box, area, notes)


def moved(region: shapely.Geometry, by: tuple[float, float]) -> shapely.Geometry:
    """The polygons moved; the same object where there is nothing to move by."""
    return region if by == (0.0, 0.0) else shapely.transform(region, lambda xy: xy + np.array(by))


def region_contains(region: Region, xy: FloatArray) -> BoolArray:
    """Which points, shape (N, 2) in level-0 coordinates, lie in the region: bool (N,)."""
    if isinstance(region, Box):
        return region.contains(xy)
    shapely.prepare(region)
    return np.asarray(shapely.intersects_xy(region, xy[:, 0], xy[:, 1]))


def region_contains_grid(region: Region, x: FloatArray, y: FloatArray) -> BoolArray:
    """:func:`region_contains` for every point of the grid of ascending ``x`` (W,) and ``y`` (H,): bool (H, W)."""
    if isinstance(region, Box):
        return ((y >= region.y0) & (y < region.y1))[:, None] & ((x >= region.x0) & (x < region.x1))[None, :]
    if len(x) == 0 or len(y) == 0:
        return np.zeros((len(y), len(x)), dtype=bool)
    shapely.prepare(region)
    around = shapely.box(x[0], y[0], x[-1], y[-1])
    if not shapely.intersects(region, around) or shapely.covers(region, around):
        return np.full((len(y), len(x)), bool(shapely.intersects_xy(region, x[0], y[0])))
    return np.asarray(shapely.intersects_xy(region, *np.broadcast_arrays(x[None, :], y[:, None])))


def common_region(first: Region, second: Region) -> Region | None:
    """The common part of two regions; None where it has no area."""
    if isinstance(first, Box) and isinstance(second, Box):
        box = first.intersection(second)
        return None if box.empty else box
    common = shapely.intersection(_polygon(first), _polygon(second))
    return None if shapely.area(common) == 0 else common


def _polygon(region: Region) -> shapely.Geometry:
    return shapely.box(region.x0, region.y0, region.x1, region.y1) if isinstance(region, Box) else region


def region_bounds(region: Region) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1)."""
    return (region.x0, region.y0, region.x1, region.y1) if isinstance(region, Box) else region.bounds


def describe_region(region: Region) -> str:
    """The corners of the region's bounds, for messages."""
    return "({:.10g}, {:.10g})–({:.10g}, {:.10g})".format(*region_bounds(region))


def region_share(region: Region, size: tuple[int, int], scale: Scale) -> npt.NDArray[np.float32]:
    """How much of each raster cell lies in the region, (H, W)."""
    if isinstance(region, Box):
        rows = _overlap(region.y0, region.y1, size[0], scale.downsample)
        columns = _overlap(region.x0, region.x1, size[1], scale.downsample)
        return (rows[:, None] * columns[None, :]).astype(np.float32)
    return _centres_inside(region, size, scale).astype(np.float32)


def touched_cells(region: Region, size: tuple[int, int], scale: Scale) -> BoolArray:
    """The raster cells that the region touches; for polygons a cell more all around."""
    if isinstance(region, Box):
        return region_share(region, size, scale) > 0
    touched = _centres_inside(region, size, scale)
    # A sliver may hold no cell's centre: the outline, at steps of at most a cell, marks those.
    outline = shapely.get_coordinates(shapely.segmentize(region.boundary, scale.downsample))
    cells = np.floor(scale.from_level0(outline)).astype(np.int64)
    touched[np.clip(cells[:, 1], 0, size[0] - 1), np.clip(cells[:, 0], 0, size[1] - 1)] = True
    return ndimage.binary_dilation(touched, structure=np.ones((3, 3), dtype=bool))


def _centres_inside(region: shapely.Geometry, size: tuple[int, int], scale: Scale) -> BoolArray:
    inside = np.zeros(size, dtype=bool)
    x0, y0, x1, y1 = region.bounds
    window = scale.window(Box(max(x0, 0.0), max(y0, 0.0), x1, y1))
    rows = np.arange(window.y, min(window.y1, size[0]))
    columns = np.arange(window.x, min(window.x1, size[1]))
    x = (columns + 0.5) * scale.downsample
    for row in rows:
        y = np.full(len(x), (row + 0.5) * scale.downsample)
        inside[row, columns] = region_contains(region, np.column_stack([x, y]))
    return inside


def _overlap(low: float, high: float, count: int, step: float) -> npt.NDArray[np.float64]:
    """The share of each of ``count`` intervals [i·step, (i+1)·step) that lies in [low, high)."""
    edges = np.clip(np.arange(count + 1) * step, low, high)
    return np.diff(edges) / step


def read_mask(path: str | os.PathLike[str]) -> tuple[shapely.Geometry, tuple[str, ...]]:
    """The polygons of a GeoJSON file as one area, and what it holds beside them.

    Parameters
    ----------
    path : path
        GeoJSON in any of the forms that :mod:`wsiseg.core.featurefile` reads. Overlapping polygons are joined; an
        outline that crosses itself is split where it does. Points, lines and features without a geometry are
        passed over.

    Returns
    -------
    shapely Polygon or MultiPolygon
        In the file's coordinates.
    tuple of str
        A sentence on what was passed over, if anything was.

    Raises
    ------
    UsageError
        The file cannot be read, is not GeoJSON, has no polygon, or costs too much: the text, the number of corners
        and how often outlines cross are limited.
    """
    name = os.fspath(path)
    expected = "Expected: polygons in pixels of the slide's largest level, for example exported from QuPath."
    features = read_features(path, "The mask", most_bytes=_MOST_BYTES, most_values=_MOST_VALUES)
    passed: Counter[str] = Counter()
    try:
        polygons = [rings for feature in features for rings in polygons_in(feature.geometry, passed)]
        vertices, offsets = ring_arrays([ring for rings in polygons for ring in rings])
    except NotGeoJson as error:
        raise UsageError(f"The mask {name} is not GeoJSON of polygons: {error}.\n{expected}") from error
    held = listed(passed)
    if not polygons:
        raise UsageError(f"The mask {name} holds {f'{held} and ' if held else ''}no area.\n{expected}")
    ring_of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    polygon_of = np.repeat(np.arange(len(polygons)), list(map(len, polygons)))
    outlines = shapely.polygons(shapely.linearrings(vertices, indices=ring_of), indices=polygon_of)
    try:
        area = covered_area(outlines)
    except TooIntricate as error:
        raise UsageError(
            f"The mask {name} is too intricate: {error}.\n"
            "Expected: outlines as people draw them. Simplify them, or export them again."
        ) from error
    if shapely.area(area) == 0:
        raise UsageError(f"The mask {name} holds no area: its outlines enclose nothing.\n{expected}")
    return area, (f"The mask {name} also holds {held}, passed over: they have no area.",) if held else ()

"""Regions of interest: a box or polygons in level-0 coordinates, which points they hold, which raster cells."""

from __future__ import annotations

import json
import math
import os
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import shapely
from scipy import ndimage
from shapely.geometry import shape

from wsiseg.errors import UsageError
from wsiseg.geometry import Box, FloatArray, Scale

BoolArray = npt.NDArray[np.bool_]
Region: TypeAlias = Box | shapely.Geometry
COORDINATES = "Expected: coordinates in pixels of the slide's largest level, x before y."
"""What errors about regions ask for."""


def requested_region(
    roi: tuple[float, float, float, float] | None, mask: str | os.PathLike[str] | None
) -> Region | None:
    """Where nuclei are wanted, whatever the slide: in a rectangle, in a file's polygons, or in what both share.

    Parameters
    ----------
    roi : (x, y, width, height) or None
        In level-0 pixels.
    mask : path or None
        See :func:`read_mask_geojson`.

    Returns
    -------
    Box, shapely geometry or None
        None: everywhere.

    Raises
    ------
    UsageError
        No slide can have such a region: numbers that are not finite or no size, a file without polygons, nothing
        that both share, or nothing right of and below the origin.
    """
    parts: list[Region] = []
    if roi is not None:
        x, y, width, height = roi
        if not all(map(math.isfinite, roi)) or width <= 0 or height <= 0:
            raise UsageError(f"The region of interest is {roi}: expected finite X,Y,W,H, with W and H above 0.")
        parts.append(Box(x, y, x + width, y + height))
    if mask is not None:
        parts.append(read_mask_geojson(mask))
    for part in parts:
        _, _, x1, y1 = region_bounds(part)
        if x1 <= 0 or y1 <= 0:
            raise UsageError(f"The region {describe_region(part)} lies outside every slide.\n{COORDINATES}")
    if len(parts) < 2:
        return parts[0] if parts else None
    common = common_region(parts[0], parts[1])
    if common is None:
        raise UsageError(
            f"The region of interest {describe_region(parts[0])} and the mask {describe_region(parts[1])} "
            f"share nothing.\n{COORDINATES}"
        )
    return common


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


def read_mask_geojson(path: str | os.PathLike[str]) -> shapely.Geometry:
    """The polygons of a GeoJSON file as one geometry, in level-0 pixels.

    Parameters
    ----------
    path : path
        A geometry, a Feature, a FeatureCollection or, as QuPath writes it, a list of Features. Overlapping
        polygons are joined; an outline that crosses itself is split where it does.

    Returns
    -------
    shapely Polygon or MultiPolygon

    Raises
    ------
    UsageError
        The file cannot be read, is not GeoJSON, or has something else than polygons in it.
    """
    name = os.fspath(path)
    expected = "Expected: polygons in pixels of the slide's largest level, for example exported from QuPath."
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as error:
        raise UsageError(f"The mask {name} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # also UnicodeDecodeError
        raise UsageError(f"The mask {name} is not JSON: {error}.\n{expected}") from error
    try:
        with np.errstate(invalid="ignore"):
            shapes = [shape(geometry) for geometry in _geometries(document)]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise UsageError(f"The mask {name} is not GeoJSON of polygons: {error!r}.\n{expected}") from error
    others = sorted({part.geom_type for part in shapes} - {"Polygon", "MultiPolygon"})
    if others:
        raise UsageError(f"The mask {name} holds {', '.join(others)}.\n{expected}")
    if not all(np.isfinite(shapely.get_coordinates(part)).all() for part in shapes):
        raise UsageError(f"The mask {name} holds coordinates that are not finite numbers.\n{expected}")
    whole = shapely.union_all(shapely.make_valid(np.array(shapes, dtype=object)))
    faces = [part for part in shapely.get_parts(shapely.get_parts(whole)) if part.geom_type == "Polygon"]
    area = shapely.union_all(faces)
    if shapely.is_empty(area):
        raise UsageError(f"The mask {name} holds no area.\n{expected}")
    return area


def _geometries(document: Any) -> list[Any]:
    """The geometry objects in a GeoJSON document, collections taken apart."""
    if isinstance(document, list):
        return [geometry for item in document for geometry in _geometries(item)]
    kind = document["type"]
    if kind == "FeatureCollection":
        return _geometries(document["features"])
    if kind == "Feature":
        return _geometries(document["geometry"])
    if kind == "GeometryCollection":
        return _geometries(document["geometries"])
    return [document]

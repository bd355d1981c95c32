"""Where the tissue is, on a coarse lattice; and the region of interest that it is restricted to.

The decision is absolute in optical density, not a split of the histogram: a field that is tissue from edge
to edge stays whole, and an empty slide stays empty. Haematoxylin, eosin and DAB all take more green than
red, or more green than blue; grey things (dust, a coverslip's edge, black ink) take all three alike, and
green and blue ink takes red most. The excess of green is therefore the tissue signal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
import shapely
from scipy import ndimage
from shapely.geometry import shape

from wsiseg.errors import UsageError
from wsiseg.geometry import Box, FloatArray, Scale

if TYPE_CHECKING:
    from wsiseg.slide import Slide

BoolImage = npt.NDArray[np.bool_]
Region: TypeAlias = Box | shapely.Geometry

TISSUE_MPP = 8.0
"""Microns per pixel of the lattice on which tissue is found."""
TISSUE_OD = (0.009, 0.03)
"""Smoothed excess of green optical density above which a place is tissue: the least and the most that the noise
of the glass may ask for. Pale fat has a median of 0.012; glass of one tint less than 0.004 nearly everywhere."""
SATURATION_OD = 0.03
"""A larger excess counts as this much: strong stain must not leak into the glass beside it."""
SMOOTHING_UM = 12.0
"""Standard deviation of the Gaussian that joins threads of fat and loose stroma."""
OBJECT_UM2 = 4_000.0
"""Smaller pieces of tissue are debris."""
HOLE_UM2 = 20_000.0
"""Smaller holes are fat cells, lumina and vessels: filled."""
MARGIN_UM = 16.0
"""Nuclei this far beyond the tissue are still kept, so that its rim loses none."""
INK_UM2 = 10_000.0
"""Smaller blue, green, grey or black spots are no ink or edge."""
RED_INK_UM2 = 25_000.0
"""Smaller red spots are no ink: blood and red ink have much the same colour."""
INK_MARGIN_UM = 24.0
"""Ink fades out; this far around it there is no tissue."""

_COOL, _WARM, _GREY = 1, 2, 3


@dataclass(frozen=True)
class TissueMask:
    """What :func:`tissue_mask` finds in an image (H, W): three disjoint bool masks."""

    tissue: BoolImage
    pen: BoolImage
    dark: BoolImage


@dataclass(frozen=True)
class Tissue:
    """The tissue of a slide.

    Attributes
    ----------
    mask : bool array (H, W)
        Tissue and a margin around it, inside the region: where nuclei are looked for and kept.
    core : bool array (H, W)
        Tissue without the margin; areas and quality control are about this.
    artefact : bool array (H, W)
        Ink, coverslip edges and other dark grey things. Never tissue.
    scale : Scale
        The lattice of the masks, anchored at level 0's origin.
    region : Box or shapely geometry
        The whole slide, or the region of interest, in level-0 coordinates; decides membership exactly.
    artefacts : mapping of str to float
        ``pen`` and ``dark`` as fractions of all that is not glass.
    """

    mask: BoolImage
    core: BoolImage
    artefact: BoolImage
    scale: Scale
    region: Region
    artefacts: Mapping[str, float]

    def area_mm2(self, slide_mpp: float) -> float:
        """Area of the tissue in the region, mm².

        Exact in the raster for a box; for polygons a raster cell counts if its centre lies inside.
        """
        share = region_share(self.region, self.core.shape, self.scale)
        cells = float(np.sum(share, where=self.core, dtype=np.float64))
        return cells * (self.scale.downsample * slide_mpp / 1000.0) ** 2

    def contains(self, xy: FloatArray) -> BoolImage:
        """Which points, shape (N, 2) in level-0 coordinates, lie on the mask and in the region: bool (N,)."""
        xy = np.asarray(xy, dtype=np.float64)
        cells = np.floor(self.scale.from_level0(xy)).astype(np.int64)
        height, width = self.mask.shape
        inside = (cells >= 0).all(axis=1) & (cells[:, 0] < width) & (cells[:, 1] < height)
        inside[inside] = self.mask[cells[inside, 1], cells[inside, 0]]
        inside[inside] = _inside(self.region, xy[inside])
        return inside

    def restrict(self, region: Region) -> Tissue:
        """The tissue in a box or in polygons, both in level-0 coordinates.

        Membership of points is exact; the masks keep every raster cell that the region touches.

        Raises
        ------
        UsageError
            The region does not overlap the slide, or what was left of it by an earlier restriction.
        """
        common = _common(self.region, region)
        if common is None:
            raise UsageError(
                f"The region of interest {_describe(region)} does not overlap {_describe(self.region)}.\n"
                "Expected: coordinates in pixels of the slide's largest level, x before y."
            )
        touched = _touched(common, self.mask.shape, self.scale)
        return replace(self, mask=self.mask & touched, core=self.core & touched, region=common)


def find_tissue(slide: Slide, *, mpp: float = TISSUE_MPP, margin_um: float = MARGIN_UM) -> Tissue:
    """The tissue of a slide.

    Parameters
    ----------
    slide : Slide
    mpp : float
        Microns per pixel of the masks; a slide that is coarser is taken as it is.
    margin_um : float
        How far ``mask`` reaches beyond the tissue.

    Raises
    ------
    MissingMppError
        The slide's mpp is unknown.
    """
    slide_mpp = slide.require_mpp().value
    image, scale = slide.overview(max(mpp, slide_mpp))
    return make_tissue(image, scale, slide.width, slide.height, slide_mpp, margin_um=margin_um)


def make_tissue(
    image: npt.NDArray[np.uint8],
    scale: Scale,
    width: float,
    height: float,
    slide_mpp: float,
    *,
    margin_um: float = MARGIN_UM,
) -> Tissue:
    """:func:`find_tissue` for an overview image (H, W, 3) of a slide of ``width`` × ``height`` level-0 pixels."""
    mpp = scale.downsample * slide_mpp
    found = tissue_mask(image, mpp)
    artefact = found.pen | found.dark
    seen = max(1, int(np.count_nonzero(found.tissue) + np.count_nonzero(artefact)))
    fractions = {
        "pen": float(np.count_nonzero(found.pen)) / seen,
        "dark": float(np.count_nonzero(found.dark)) / seen,
    }
    mask = _dilate(found.tissue, margin_um / mpp)
    return Tissue(mask, found.tissue, artefact, scale, Box(0.0, 0.0, width, height), fractions)


def tissue_mask(image: npt.NDArray[np.uint8], mpp: float) -> TissueMask:
    """Tissue, pen ink and dark grey things in an image of a few microns per pixel.

    Parameters
    ----------
    image : uint8 array (H, W, 3)
    mpp : float
        Microns per pixel; the thresholds above hold for about 4–16.

    Returns
    -------
    TissueMask
        ``pen``: green, blue and red ink. ``dark``: black ink, coverslip edges, dust. A field of blood of more
        than ``RED_INK_UM2`` may be taken for red ink.
    """
    glass = _glass(image)
    excess, kind = _excess_and_kind(np.ascontiguousarray(image), _density_tables(_white(glass)), SATURATION_OD)
    threshold = _threshold(glass)
    cell = mpp * mpp
    cool = _solid(kind, _COOL, INK_UM2 / cell)
    warm = _solid(kind, _WARM, RED_INK_UM2 / cell)
    grey = _solid(kind, _GREY, INK_UM2 / cell)
    ink_margin = INK_MARGIN_UM / mpp
    pen = _dilate(cool | warm, ink_margin)
    dark = _dilate(grey, ink_margin) & ~pen
    artefact = pen | dark
    ndimage.gaussian_filter(excess, SMOOTHING_UM / mpp, output=excess, mode="nearest", truncate=3.0)
    tissue = (excess > threshold) & ~artefact
    tissue = _without_small(tissue, min(OBJECT_UM2 / cell, tissue.size / 4))  # a tiny image may be one object
    holes = ~tissue & ~artefact
    tissue |= holes & ~_without_small(holes, HOLE_UM2 / cell, keep_border=True)
    return TissueMask(tissue, pen, dark)


def _glass(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A sample (N, 3) of flat, bright, nearly colourless pixels; empty if they are less than 1%."""
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / 500_000)))
    here = image[:-1:step, :-1:step].astype(np.int16)
    if here.size == 0:
        return np.empty((0, 3), dtype=np.uint8)
    flat = np.ones(here.shape[:2], dtype=bool)
    for there in (image[1::step, :-1:step], image[:-1:step, 1::step]):
        flat &= np.abs(here - there[: here.shape[0], : here.shape[1]]).max(axis=2) <= 4
    low, high = here.min(axis=2), here.max(axis=2)
    # What a scanner never saw is filled with 255 exactly: it says nothing about the glass.
    glass = flat & (low >= 215) & (high - low <= 16) & (low < 255)
    enough = np.count_nonzero(glass) >= 0.01 * glass.size
    return here[glass].astype(np.uint8) if enough else np.empty((0, 3), dtype=np.uint8)


def _white(glass: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The colour of glass, or a usual one without any."""
    return np.median(glass, axis=0).astype(np.float64) if len(glass) else np.full(3, 243.0)


def _threshold(glass: npt.NDArray[np.uint8]) -> float:
    """The excess that is tissue: above what tints and noise give to most of the glass."""
    low, high = TISSUE_OD
    if len(glass) == 0:
        return low
    density = _density_tables(_white(glass))
    red, green, blue = (density[channel, glass[:, channel]] for channel in range(3))
    noise = np.percentile(np.maximum(green - np.minimum(red, blue), 0.0), 90)
    return float(np.clip(1.3 * noise, low, high))


def _density_tables(white: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Optical density of each intensity against ``white``, shape (channel, 256); lighter than white is 0."""
    levels = np.maximum(np.arange(256), 1)
    return np.maximum(-np.log10(levels / white[:, None]), 0.0).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _excess_and_kind(
    image: npt.NDArray[np.uint8], tables: npt.NDArray[np.float32], saturation: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """The tissue signal, and the kind of ink that a pixel's colour suggests.

    The limits on the shares of red, green and blue in the summed density were read off tissue (30 fields of
    7 organs, 110 textures, 2 slides: misjudged 0.0%, 0.2%, 0.0% of pixels for cool, warm, grey) and marked ink.
    """
    height, width = image.shape[0], image.shape[1]
    excess = np.empty((height, width), dtype=np.float32)
    kind = np.zeros((height, width), dtype=np.uint8)
    for i in range(height):
        for j in range(width):
            red, green, blue = tables[0, image[i, j, 0]], tables[1, image[i, j, 1]], tables[2, image[i, j, 2]]
            total = red + green + blue
            signal = green - min(red, blue)
            excess[i, j] = min(max(signal, np.float32(-saturation)), np.float32(saturation))
            if total > 0.4 and signal < 0.08 * total and abs(red - green) < 0.12 * total:
                kind[i, j] = 3
                excess[i, j] = 0.0
            elif total > 0.2 and red - green > 0.01:
                kind[i, j] = 1
                excess[i, j] = 0.0
            elif total > 0.6 and ((blue > 0.36 * total and red < 0.12 * total) or green - blue < 0.13 * total):
                kind[i, j] = 2
    return excess, kind


def _solid(kind: npt.NDArray[np.uint8], which: int, size: float) -> BoolImage:
    """Where most of each 3 × 3 is of kind ``which``, without pieces of fewer than ``size`` pixels."""
    return _without_small(_majority(kind, which), size)


@numba.njit(cache=True, nogil=True)
def _majority(kind: npt.NDArray[np.uint8], which: int) -> BoolImage:
    height, width = kind.shape
    out = np.zeros((height, width), dtype=np.bool_)
    for i in range(height):
        for j in range(width):
            count, cells = 0, 0
            for y in range(max(i - 1, 0), min(i + 2, height)):
                for x in range(max(j - 1, 0), min(j + 2, width)):
                    cells += 1
                    count += kind[y, x] == which
            out[i, j] = 2 * count > cells
    return out


def _without_small(mask: BoolImage, size: float, *, keep_border: bool = False) -> BoolImage:
    """``mask`` without 4-connected pieces of fewer than ``size`` pixels, except, if asked, at the border."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= size
    if keep_border:
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[edge] = True
    keep[0] = False
    return keep[labels]


def _dilate(mask: BoolImage, radius: float) -> BoolImage:
    """``mask`` and what lies within ``radius`` pixels of it, centre to centre; at least one pixel."""
    reach = int(np.ceil(radius - 1e-9))
    if reach <= 0 or not mask.any():
        return mask.copy()
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.argwhere((x * x + y * y) <= max(radius, 1.0) ** 2 + 1e-9) - reach
    return _spread(mask, disc)


@numba.njit(cache=True, nogil=True)
def _spread(mask: BoolImage, steps: npt.NDArray[np.int64]) -> BoolImage:
    """``mask`` and all that lies ``steps``, rows of (dy, dx), from a pixel of its rim."""
    height, width = mask.shape
    out = mask.copy()
    for i in range(height):
        for j in range(width):
            if not mask[i, j]:
                continue
            inner = (
                0 < i < height - 1
                and 0 < j < width - 1
                and mask[i - 1, j]
                and mask[i + 1, j]
                and mask[i, j - 1]
                and mask[i, j + 1]
            )
            if inner:
                continue
            for k in range(len(steps)):
                y, x = i + steps[k, 0], j + steps[k, 1]
                if 0 <= y < height and 0 <= x < width:
                    out[y, x] = True
    return out


def _inside(region: Region, xy: FloatArray) -> BoolImage:
    if isinstance(region, Box):
        return region.contains(xy)
    shapely.prepare(region)
    return np.asarray(shapely.intersects_xy(region, xy[:, 0], xy[:, 1]))


def _common(first: Region, second: Region) -> Region | None:
    """The common part of two regions; None where it has no area."""
    if isinstance(first, Box) and isinstance(second, Box):
        box = first.intersection(second)
        return None if box.empty else box
    common = shapely.intersection(_polygon(first), _polygon(second))
    return None if shapely.area(common) == 0 else common


def _polygon(region: Region) -> shapely.Geometry:
    return shapely.box(region.x0, region.y0, region.x1, region.y1) if isinstance(region, Box) else region


def _describe(region: Region) -> str:
    bounds = (region.x0, region.y0, region.x1, region.y1) if isinstance(region, Box) else region.bounds
    return "({:g}, {:g})–({:g}, {:g})".format(*bounds)


def region_share(region: Region, size: tuple[int, int], scale: Scale) -> npt.NDArray[np.float32]:
    """How much of each raster cell lies in the region, (H, W)."""
    if isinstance(region, Box):
        rows = _overlap(region.y0, region.y1, size[0], scale.downsample)
        columns = _overlap(region.x0, region.x1, size[1], scale.downsample)
        return (rows[:, None] * columns[None, :]).astype(np.float32)
    return _centres_inside(region, size, scale).astype(np.float32)


def _touched(region: Region, size: tuple[int, int], scale: Scale) -> BoolImage:
    """The raster cells that the region touches; for polygons a cell more all around."""
    if isinstance(region, Box):
        return region_share(region, size, scale) > 0
    touched = _centres_inside(region, size, scale)
    # A sliver may hold no cell's centre: the outline, at steps of at most a cell, marks those.
    outline = shapely.get_coordinates(shapely.segmentize(region.boundary, scale.downsample))
    cells = np.floor(scale.from_level0(outline)).astype(np.int64)
    touched[np.clip(cells[:, 1], 0, size[0] - 1), np.clip(cells[:, 0], 0, size[1] - 1)] = True
    return ndimage.binary_dilation(touched, structure=np.ones((3, 3), dtype=bool))


def _centres_inside(region: shapely.Geometry, size: tuple[int, int], scale: Scale) -> BoolImage:
    inside = np.zeros(size, dtype=bool)
    x0, y0, x1, y1 = region.bounds
    window = scale.window(Box(max(x0, 0.0), max(y0, 0.0), x1, y1))
    rows = np.arange(window.y, min(window.y1, size[0]))
    columns = np.arange(window.x, min(window.x1, size[1]))
    x = (columns + 0.5) * scale.downsample
    for row in rows:
        y = np.full(len(x), (row + 0.5) * scale.downsample)
        inside[row, columns] = _inside(region, np.column_stack([x, y]))
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

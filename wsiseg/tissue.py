"""Where the tissue is, on a coarse lattice; and the region of interest that it is restricted to.

The decision is absolute in optical density, not a split of the histogram: a field that is tissue from edge
to edge stays whole, and an empty slide stays empty. Haematoxylin, eosin and DAB all take more green than
red, or more green than blue; grey things (dust, a coverslip's edge, black ink) take all three alike, and
green and blue ink takes red most. The excess of green is therefore the tissue signal, in two ways: where there is
much of it, and where it varies from one pixel to the next. Glass is flat, whatever its tint; a nucleus, a membrane
of fat or a fibre of pale stroma is not, however little of the field it fills. So a nucleus is tissue.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import Box, FloatArray, Scale, Window
from wsiseg.core.region import (
    COORDINATES,
    Region,
    common_region,
    describe_region,
    region_contains,
    region_contains_grid,
    region_share,
    touched_cells,
)
from wsiseg.errors import SlideError

if TYPE_CHECKING:
    from wsiseg.slide import Slide

BoolImage = npt.NDArray[np.bool_]

TISSUE_MPP = 8.0
"""Microns per pixel of the lattice on which tissue is found."""
TISSUE_OD = (0.009, 0.03)
"""Smoothed excess of green optical density above which a place is tissue: the least and the most that the noise
of the glass may ask for. Pale fat has a median of 0.012; glass of one tint less than 0.004 nearly everywhere."""
CONTRAST_OD = 0.012
"""A range of the excess within 3 × 3 pixels above which a place is tissue. Of 75,000 nuclei 99.5% make more than
0.0166, and 98% more than 0.0116 where the stain is half as strong; light places without nuclei, 0.002 to 0.0055."""
CONTRAST_NOISE = 2.5
"""At least so many times what the noise of the glass makes."""
SATURATION_OD = 0.03
"""A larger excess counts as this much: strong stain must not leak into the glass beside it."""
SMOOTHING_UM = 12.0
"""Standard deviation of the Gaussian that joins threads of fat and loose stroma."""
OBJECT_UM2 = 4_000.0
"""Smaller pieces of tissue are debris, unless they have so much contrast as nuclei."""
SPOT_UM2 = 800.0
"""Smaller spots of contrast are debris, unless others are near: one dark pixel makes a spot of 576 µm²."""
COMPANY_UM = 64.0
"""Spots that lie no further apart count together."""
BORDER_SHARE = 0.25
"""Of a piece or a hole at the image's border this much may be all that is seen."""
HOLE_UM2 = 20_000.0
"""Smaller holes are fat cells, lumina and vessels: filled."""
MARGIN_UM = 16.0
"""Nuclei this far beyond the tissue are still kept, so that its rim loses none."""
INK_UM2 = 10_000.0
"""Smaller blue, green, grey or black spots are no ink or edge."""
RED_INK_UM2 = 25_000.0
"""Smaller red spots alone are no ink: blood and red ink have much the same colour."""
RED_STROKE_UM2 = (100_000.0, 5_000.0)
"""On a slide with so large a spot of pure red, so much pure red elsewhere is ink as well: a dry pen's strokes."""
STROKE_GAP_UM = 32.0
"""Gaps in a stroke are up to so wide."""
FILL_UM2 = 40_000.0
"""A smaller area without any texture is not taken for one that was never scanned."""
USUAL_WHITE = 243.0
"""The grey level of glass where an image has none."""
BLACK = 16
"""No stain is so dark in all colours, at some microns per pixel."""
GREY_SHARE = 0.08
"""An excess of less than this share of the summed density is grey: dust, edges, black ink."""
GLASS = (215, 16)
"""Glass is at least so light, and its channels differ by no more."""
GLASS_TINT = 1.032
"""Red or blue of glass is at most so many times green: 1.031 in the glare of tissue; of pale stroma more."""
GLASS_FLAT = 4
"""Grey levels by which a pixel of glass differs from its neighbours at most. Of pale stroma 90% differ by more."""
GLASS_SHARE = 0.01
"""An image with less glass says nothing of it."""
INK_MARGIN_UM = 24.0
"""Ink fades out; this far around it there is no tissue."""

_COOL, _WARM, _GREY, _DULL, _RED = 1, 2, 3, 4, 5
_SAMPLE_PX = 500_000


@dataclass(frozen=True)
class TissueMask:
    """What :func:`tissue_mask` finds in an image (H, W): disjoint bool masks of tissue and of each artefact."""

    tissue: BoolImage
    artefacts: Mapping[str, BoolImage]

    @property
    def artefact(self) -> BoolImage:
        """All artefacts."""
        return np.logical_or.reduce(list(self.artefacts.values()))


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
        Each of ``ARTEFACTS`` as a fraction of all that is not glass.
    marks : mapping of str to bool array (H, W)
        Each of ``ARTEFACTS`` apart; :attr:`artefact` is all of them.
    """

    mask: BoolImage
    core: BoolImage
    artefact: BoolImage
    scale: Scale
    region: Region
    artefacts: Mapping[str, float]
    marks: Mapping[str, BoolImage] = field(default_factory=dict)

    def area_mm2(self, slide_mpp: float) -> float:
        """Area of the tissue in the region, mm².

        Exact in the raster for a box; for polygons a raster cell counts if its centre lies inside.
        """
        share = region_share(self.region, self.core.shape, self.scale)
        cells = float(np.sum(share, where=self.core, dtype=np.float64))
        return cells * (self.scale.downsample * slide_mpp / 1000.0) ** 2

    def contains(self, xy: FloatArray) -> BoolImage:
        """Which points, shape (N, 2) in level-0 coordinates, lie on the mask and in the region: bool (N,)."""
        return self._on(self.mask, xy)

    def excludes(self, xy: FloatArray) -> BoolImage:
        """Which points, shape (N, 2) in level-0 coordinates, lie on :attr:`outside` and in the region: (N,)."""
        return self._on(self.outside, xy)

    def _on(self, mask: BoolImage, xy: FloatArray) -> BoolImage:
        xy = np.asarray(xy, dtype=np.float64)
        cells = np.floor(self.scale.from_level0(xy)).astype(np.int64)
        height, width = mask.shape
        inside = (cells >= 0).all(axis=1) & (cells[:, 0] < width) & (cells[:, 1] < height)
        inside[inside] = mask[cells[inside, 1], cells[inside, 0]]
        inside[inside] = region_contains(self.region, xy[inside])
        return inside

    @functools.cached_property
    def outside(self) -> BoolImage:
        """Cells (H, W) in the region that are neither on the mask nor an artefact: glass, as it seems."""
        return touched_cells(self.region, self.mask.shape, self.scale) & ~self.mask & ~self.artefact

    def just_outside(self, within_um: float, slide_mpp: float) -> BoolImage:
        """Of :attr:`outside` what lies so near to the mask; all of it where the mask is empty."""
        near = _dilate(self.mask, within_um / (self.scale.downsample * slide_mpp))
        return self.outside & near if near.any() else self.outside

    def touches(self, box: Box) -> bool:
        """Whether a box in level-0 coordinates meets a raster cell with tissue."""
        height, width = self.core.shape
        whole = Window(0, 0, width, height)
        return bool(self.core[self.scale.window(box).intersection(whole).within(whole)].any())

    def extent(self, box: Box) -> Box | None:
        """The smallest box of raster cells that holds every cell of :attr:`mask` that ``box`` meets; None: none.

        Both in level-0 coordinates. No point of ``box`` outside it is contained.
        """
        height, width = self.mask.shape
        whole = Window(0, 0, width, height)
        cells = self.scale.window(box).intersection(whole)
        rows, columns = np.nonzero(self.mask[cells.within(whole)])
        if rows.size == 0:
            return None
        x, y = int(columns.min()), int(rows.min())
        held = Window(cells.x + x, cells.y + y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y)
        return self.scale.box(held)

    def contains_pixels(self, window: Window, scale: Scale) -> BoolImage:
        """:meth:`contains` for the centre of every pixel of ``window`` on the lattice ``scale``: bool (h, w)."""
        x = np.arange(window.x + 0.5, window.x1, dtype=np.float64) * scale.downsample
        y = np.arange(window.y + 0.5, window.y1, dtype=np.float64) * scale.downsample
        height, width = self.mask.shape
        columns = np.floor(x / self.scale.downsample).astype(np.int64)
        rows = np.floor(y / self.scale.downsample).astype(np.int64)
        across, down = (columns >= 0) & (columns < width), (rows >= 0) & (rows < height)
        inside = np.zeros(window.shape, dtype=bool)
        inside[np.ix_(down, across)] = self.mask[np.ix_(rows[down], columns[across])]
        return inside & region_contains_grid(self.region, x, y)

    def restrict(self, region: Region) -> Tissue:
        """The tissue in a box or in polygons, both in level-0 coordinates.

        Membership of points is exact; the masks keep every raster cell that the region touches.

        Raises
        ------
        SlideError
            The region does not overlap the slide, or what was left of it by an earlier restriction.
        """
        common = common_region(self.region, region)
        if common is None:
            raise SlideError(
                f"The region of interest {describe_region(region)} does not overlap the slide's "
                f"{describe_region(self.region)}.\n{COORDINATES} Slides that need another region are segmented by "
                "another call, into the same folder."
            )
        touched = touched_cells(common, self.mask.shape, self.scale)
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
    artefact = found.artefact
    seen = max(1, int(np.count_nonzero(found.tissue) + np.count_nonzero(artefact)))
    fractions = {name: float(np.count_nonzero(mask)) / seen for name, mask in found.artefacts.items()}
    mask = _dilate(found.tissue, margin_um / mpp)
    return Tissue(mask, found.tissue, artefact, scale, Box(0.0, 0.0, width, height), fractions, found.artefacts)


def stained(colours: npt.NDArray[np.uint8]) -> BoolImage:
    """Which ``colours`` (N, 3) may be of a stain: those that are not grey."""
    red, green, blue = (_density_tables(np.full(3, USUAL_WHITE))[k, colours[:, k]] for k in range(3))
    return np.asarray(green - np.minimum(red, blue) >= GREY_SHARE * (red + green + blue))


def tissue_mask(image: npt.NDArray[np.uint8], mpp: float) -> TissueMask:
    """Tissue and artefacts in an image of a few microns per pixel.

    Parameters
    ----------
    image : uint8 array (H, W, 3)
    mpp : float
        Microns per pixel; the thresholds above hold for about 4–16.

    Returns
    -------
    TissueMask
        Where two artefacts meet, the earlier of ``ARTEFACTS`` has the place.
    """
    image = np.ascontiguousarray(image)
    place = _sample(_glass(image))
    glass = image[place]
    excess, kind = _excess_and_kind(image, _density_tables(_white(glass)))
    threshold = _threshold(glass)
    cell = mpp * mpp
    fill = _fill(image, FILL_UM2 / cell)
    if fill is not None:
        excess[fill], kind[fill] = 0.0, 0
    view, artefacts = Overview(image, kind, mpp), {}
    artefact = np.zeros(kind.shape, dtype=bool)
    for name, find in ARTEFACTS.items():
        artefacts[name] = find(view) & ~artefact
        artefact |= artefacts[name]
    textured = _textured(excess, kind, place)
    np.clip(excess, -SATURATION_OD, SATURATION_OD, out=excess)
    _smooth(excess, SMOOTHING_UM / mpp)
    if fill is not None:  # as if the picture ended there, instead of fading into nothing
        seen = (~fill).astype(np.float32)
        _smooth(seen, SMOOTHING_UM / mpp)
        excess /= np.maximum(seen, 1e-3)
        artefact |= fill
    textured &= ~artefact
    tissue = ((excess > threshold) & ~artefact) | textured
    tissue = _without_small(
        tissue, min(OBJECT_UM2 / cell, tissue.size / 4), BORDER_SHARE
    )  # a tiny image may be one
    tissue |= textured & _without_small(
        _dilate(textured, COMPANY_UM / 2 / mpp), SPOT_UM2 / cell, BORDER_SHARE, textured
    )
    holes = ~tissue & ~artefact
    tissue |= holes & ~_without_small(holes, HOLE_UM2 / cell, BORDER_SHARE)
    return TissueMask(tissue, artefacts)


@dataclass(frozen=True)
class Overview:
    """What artefacts are found in: an image (H, W, 3) of ``mpp``, and the kind of each pixel's colour (H, W)."""

    image: npt.NDArray[np.uint8]
    kind: npt.NDArray[np.uint8]
    mpp: float


def pen(view: Overview) -> BoolImage:
    """Green, blue and red ink. A field of blood of more than ``RED_INK_UM2`` may be taken for red ink."""
    cell = view.mpp * view.mpp
    red = view.kind == _RED
    cool = _solid(view.kind == _COOL, INK_UM2 / cell)
    warm = _solid(red | (view.kind == _WARM), RED_INK_UM2 / cell)
    least, stroke = (size / cell for size in RED_STROKE_UM2)
    if _solid(red, least).any():
        joined = _dilate(red, STROKE_GAP_UM / 2 / view.mpp)
        warm |= red & _without_small(joined, stroke, counted=red)
    return _dilate(cool | warm, INK_MARGIN_UM / view.mpp)


def dark(view: Overview) -> BoolImage:
    """Black ink, coverslip edges, dust."""
    return _dilate(_solid(view.kind == _GREY, INK_UM2 / (view.mpp * view.mpp)), INK_MARGIN_UM / view.mpp)


ARTEFACTS: Mapping[str, Callable[[Overview], BoolImage]] = MappingProxyType({"pen": pen, "dark": dark})
"""What is never tissue, by its name in the record: each finds its places (H, W) in the overview of a slide."""


def _smooth(image: npt.NDArray[np.float32], sigma: float) -> None:
    ndimage.gaussian_filter(image, sigma, output=image, mode="nearest", truncate=3.0)


def _fill(image: npt.NDArray[np.uint8], size: float) -> BoolImage | None:
    """Where nothing was scanned: black, or one colour without any texture, over ``size`` pixels or more; or None.

    Light grey is left to be glass, which is no tissue either.
    """
    plain = _plain(image)
    if np.count_nonzero(plain) < min(size, plain.size / 4):
        return None
    plain = _without_small(plain, min(size, plain.size / 4))
    if not plain.any() or plain.all():  # a picture of nothing else has no margin
        return None
    return _dilate(plain, 1.0)


@compiled
def _plain(image: npt.NDArray[np.uint8]) -> BoolImage:
    """Which pixels are black, or not like glass and equal to their neighbours on all four sides."""
    height, width = image.shape[0], image.shape[1]
    out = np.zeros((height, width), dtype=np.bool_)
    for i in range(height):
        for j in range(width):
            red, green, blue = image[i, j, 0], image[i, j, 1], image[i, j, 2]
            low, high = min(red, green, blue), max(red, green, blue)
            if high < BLACK:
                out[i, j] = True
            elif low < GLASS[0] or high - low > GLASS[1]:
                same = True
                for y, x in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                    if 0 <= y < height and 0 <= x < width:
                        same &= image[y, x, 0] == red and image[y, x, 1] == green and image[y, x, 2] == blue
                out[i, j] = same
    return out


@compiled
def _glass(image: npt.NDArray[np.uint8]) -> BoolImage:
    """Bright, nearly colourless pixels (H, W) that differ from none of their eight neighbours by much.

    What a scanner never saw is filled with 255 exactly: it says nothing about the glass.
    """
    height, width = image.shape[0], image.shape[1]
    out = np.zeros((height, width), dtype=np.bool_)
    for i in range(1, height - 1):
        for j in range(1, width - 1):
            red, green, blue = np.int16(image[i, j, 0]), np.int16(image[i, j, 1]), np.int16(image[i, j, 2])
            low, high = min(red, green, blue), max(red, green, blue)
            if low < GLASS[0] or low == 255 or high - low > GLASS[1] or max(red, blue) > GLASS_TINT * green:
                continue
            flat = True
            for y in range(i - 1, i + 2):
                for x in range(j - 1, j + 2):
                    flat = flat and abs(image[y, x, 0] - red) <= GLASS_FLAT
                    flat = flat and abs(image[y, x, 1] - green) <= GLASS_FLAT
                    flat = flat and abs(image[y, x, 2] - blue) <= GLASS_FLAT
            out[i, j] = flat
    return out


def _sample(glass: BoolImage) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of a regular sample of the glass; none if there is too little to speak of."""
    step = max(1, int(np.sqrt(glass.size / _SAMPLE_PX)))
    rows, columns = np.nonzero(glass[::step, ::step])
    if len(rows) < GLASS_SHARE * glass[::step, ::step].size:
        return rows[:0], columns[:0]
    return rows * step, columns * step


def _white(glass: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The colour of glass, or a usual one without any."""
    return np.median(glass, axis=0).astype(np.float64) if len(glass) else np.full(3, USUAL_WHITE)


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


@compiled
def _excess_and_kind(
    image: npt.NDArray[np.uint8], tables: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """The tissue signal, and the kind of ink or grey that a pixel's colour suggests.

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
            excess[i, j] = signal
            if total > 0.4 and signal < GREY_SHARE * total and abs(red - green) < 0.12 * total:
                kind[i, j] = _GREY
                excess[i, j] = 0.0
            elif total > 0.2 and red - green > 0.01:
                kind[i, j] = _COOL
                excess[i, j] = 0.0
            elif total > 0.6 and blue > 0.36 * total and red < 0.12 * total:
                kind[i, j] = _RED
            elif total > 0.6 and green - blue < 0.13 * total:
                kind[i, j] = _WARM
            elif total > 0.1 and signal < GREY_SHARE * total:
                kind[i, j] = _DULL
    return excess, kind


def _textured(
    excess: npt.NDArray[np.float32],
    kind: npt.NDArray[np.uint8],
    glass: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]],
) -> BoolImage:
    """Where the excess varies by more than it does on the pixels of ``glass``."""
    contrast = _contrast(excess, kind)
    noise = float(np.percentile(contrast[glass], 90)) if len(glass[0]) else 0.0
    return contrast > np.float32(max(CONTRAST_OD, CONTRAST_NOISE * noise))


@compiled
def _contrast(excess: npt.NDArray[np.float32], kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The range of ``excess`` within each 3 × 3, without cool ink and what is grey: edges of dirt have none."""
    height, width = excess.shape
    out = np.zeros((height, width), dtype=np.float32)
    for i in range(height):
        for j in range(width):
            low, high = np.float32(np.inf), np.float32(-np.inf)
            for y in range(max(i - 1, 0), min(i + 2, height)):
                for x in range(max(j - 1, 0), min(j + 2, width)):
                    if kind[y, x] == _COOL or kind[y, x] == _GREY or kind[y, x] == _DULL:
                        continue
                    low, high = min(low, excess[y, x]), max(high, excess[y, x])
            if high > low:
                out[i, j] = high - low
    return out


def _solid(mask: BoolImage, size: float) -> BoolImage:
    """Where most of each 3 × 3 is of ``mask``, without pieces of fewer than ``size`` pixels."""
    return _without_small(_majority(mask), size)


@compiled
def _majority(mask: BoolImage) -> BoolImage:
    height, width = mask.shape
    out = np.zeros((height, width), dtype=np.bool_)
    for i in range(height):
        for j in range(width):
            count, cells = 0, 0
            for y in range(max(i - 1, 0), min(i + 2, height)):
                for x in range(max(j - 1, 0), min(j + 2, width)):
                    cells += 1
                    count += mask[y, x]
            out[i, j] = 2 * count > cells
    return out


def _without_small(
    mask: BoolImage, size: float, border_share: float = 1.0, counted: BoolImage | None = None
) -> BoolImage:
    """``mask`` without 4-connected pieces of fewer than ``size`` pixels; of ``border_share`` of it at the border.

    ``counted``: the pixels that count, within ``mask``; by default all of it.
    """
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    area = np.bincount(labels[mask if counted is None else counted], minlength=count + 1)
    keep = area >= size
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        keep[edge] = area[edge] >= size * border_share
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


@compiled
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

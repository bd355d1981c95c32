"""What only pixels of 1 µm can tell: focus, near-black spots, how dark nuclei are and where there are none.

A block of cells (the tissue's lattice, 8 µm) is measured on its own, so blocks can be done anywhere and in any
order. They lie on a lattice of their own, whatever the tiles.

Focus is told by three bands of detail of the green optical density, an octave apart (about 1–2, 2–4 and 4–8 µm):
tissue has much the same energy in each, a blurred image ever less in the finer ones, and neither stain nor contrast
matters for their ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.artefacts.kinds import bit
from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import Window
from wsiseg.core.stain import hematoxylin, optical_density_table
from wsiseg.tissue import Tissue

if TYPE_CHECKING:
    from wsiseg.slide import Slide

BoolImage = npt.NDArray[np.bool_]
FloatImage = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]

FINE_MPP = 1.0
"""Microns per pixel at which a block is read."""
COARSEST_MPP = 2.0
"""Of a slide that is coarser nothing is said: its blocks are not looked at."""
BLOCK_CELLS = 256
"""Side of a block in cells."""
SHARP = (0.6, 0.5)
"""Amplitude of the first band over the second, and of the second over the third, below which it is blurred."""
LEAST_DETAIL_OD = 0.002
"""With less detail in the third band there is nothing that could be sharp: no statement."""
FOCUS_UM = 72.0
"""Side of the square that focus is told in."""
FOCUS_RIM_UM = 24.0
"""Within so much of its border a blurred place is outshone by the sharp tissue beside it: what is found grows."""
LEAST_TISSUE = 0.25
"""Of a square so much must be tissue."""
NEAR_BLACK = 75
"""A pixel is near-black if no channel is lighter, and blue exceeds red by less than ``NEAR_BLACK_BLUE``."""
NEAR_BLACK_BLUE = 20
SPOT_SHARE = 0.3
"""Of a cell so much is near-black in debris and pigment."""
RED = (0.5, 0.22, 0.31)
"""Red cells and keratin: summed optical density at least, share of red at most, share of blue at least."""
RED_SHARE = 0.6
"""Of a square of ``RED_UM`` so much has that colour where there is nothing but red cells, keratin or the like."""
RED_UM = 40.0
NUCLEUS_OD = 0.22
"""Haematoxylin that a nucleus exceeds, smoothed over 2 µm: nearly all, and of red cells one in twenty."""
NUCLEUS_SHARE = 0.15
"""Of the cells of such a square at most so many hold anything as dark."""
PALE_OD = 0.18
"""Where nothing within ``STAIN_UM`` is so dark, tissue is too pale, or has no nuclei."""
STAIN_UM = 256.0

_SPECK = 3
_MARGIN_PX = 8
"""How far the bands reach, in pixels."""


@dataclass(frozen=True)
class Cells:
    """Sums over the pixels of each cell (H, W), float32; ``count`` pixels each."""

    count: FloatImage
    bands: FloatImage  # (3, H, W)
    black: FloatImage
    red: FloatImage
    nucleus: FloatImage  # the largest haematoxylin


def blocks(tissue: Tissue, slide_mpp: float) -> tuple[Window, ...]:
    """The windows of cells, at most ``BLOCK_CELLS`` a side, that hold tissue; none of a coarse slide."""
    if slide_mpp > COARSEST_MPP:
        return ()
    height, width = tissue.core.shape
    whole, side = Window(0, 0, width, height), BLOCK_CELLS
    windows = (
        Window(x, y, side, side).intersection(whole) for y in range(0, height, side) for x in range(0, width, side)
    )
    return tuple(window for window in windows if tissue.core[window.within(whole)].any())


def find_fine(slide: Slide, tissue: Tissue, block: Window) -> Bits:
    """The artefacts that pixels of 1 µm tell, as bits, in a block of cells.

    Parameters
    ----------
    slide : Slide
    tissue : Tissue
    block : Window
        In cells of the tissue's lattice.

    Returns
    -------
    uint16 array (h, w)
        What cannot be read is no artefact: it is lost, which is noted elsewhere.
    """
    height, width = tissue.core.shape
    mpp = tissue.scale.downsample * slide.require_mpp().value
    reach = int(np.ceil(STAIN_UM / 2 / mpp)) + 1
    padded = block.pad(reach).intersection(Window(0, 0, width, height))
    core = tissue.core[padded.y : padded.y1, padded.x : padded.x1]
    found = judge_cells(measure_cells(slide, tissue, padded), core, mpp)
    return found[block.within(padded)]


def measure_cells(slide: Slide, tissue: Tissue, cells: Window) -> Cells:
    """Measure the pixels of each cell of a window; a pixel counts for the cell that its centre lies in."""
    scale = slide.scale(max(FINE_MPP, slide.require_mpp().value))
    ratio = scale.downsample / tissue.scale.downsample
    width, height = scale.size(slide.width, slide.height)
    x, columns = _pixels(cells.x, cells.x1, ratio, width)
    y, rows = _pixels(cells.y, cells.y1, ratio, height)
    inner = Window(x, y, len(columns), len(rows))
    outer = inner.pad(_MARGIN_PX).intersection(Window(0, 0, width, height))
    image, _ = slide.read_lossy(outer, scale)
    inside = inner.within(outer)
    shape = (3, cells.height, cells.width)
    place = (rows, columns)
    density = _density(image, optical_density_table().astype(np.float32))
    bands = np.zeros(shape, dtype=np.float32)
    for band in range(3):
        smooth = _blur(density, 1 << band)
        _add_squares(density[inside], smooth[inside], *place, bands[band])
        density = smooth
    counted = np.zeros(shape, dtype=np.float32)
    _count_colours(image[inside], optical_density_table(), *place, counted)
    nucleus = np.zeros(shape[1:], dtype=np.float32)
    _largest(_blur(hematoxylin(image), 1)[inside], *place, nucleus)
    return Cells(counted[0], bands, counted[1], counted[2], nucleus)


def judge_cells(cells: Cells, tissue: BoolImage, mpp: float) -> Bits:
    """The artefacts of measured cells of ``mpp`` µm, as bits; uint16 (h, w), 0 where there is no ``tissue``."""
    count = np.where(tissue, cells.count, 0)
    found = np.zeros(tissue.shape, dtype=np.uint16)
    for name, mask in (
        ("out_of_focus", _blurred(cells, count, mpp)),
        ("dark", cells.black > SPOT_SHARE * cells.count),
        ("acellular", _acellular(cells, count, mpp)),
        ("understained", _pale(cells, count, mpp)),
    ):
        found[mask & tissue] |= bit(name)
    return found


def _blurred(cells: Cells, count: FloatImage, mpp: float) -> BoolImage:
    side = _side(FOCUS_UM, mpp)
    seen = _mean(count, side)
    first, second, third = (np.sqrt(_mean(np.where(count > 0, band, 0), side)) for band in cells.bands)
    enough = (seen > LEAST_TISSUE * count.max(initial=0)) & (third > LEAST_DETAIL_OD * np.sqrt(seen))
    blurred: BoolImage = enough & ((first < SHARP[0] * second) | (second < SHARP[1] * third))
    return np.asarray(
        ndimage.binary_dilation(_without_specks(blurred), iterations=max(1, round(FOCUS_RIM_UM / mpp)))
    )


def _acellular(cells: Cells, count: FloatImage, mpp: float) -> BoolImage:
    side = _side(RED_UM, mpp)
    seen = count > 0
    red = _mean(np.where(seen, cells.red, 0), side) > RED_SHARE * _mean(count, side)
    held = _mean(seen & (cells.nucleus > NUCLEUS_OD), side)
    return _without_specks(np.asarray(red & (held <= NUCLEUS_SHARE * _mean(seen, side))))


def _pale(cells: Cells, count: FloatImage, mpp: float) -> BoolImage:
    side = _side(STAIN_UM, mpp)
    darkest = ndimage.maximum_filter(np.where(count > 0, cells.nucleus, 0), side, mode="constant")
    return np.asarray((darkest < PALE_OD) & (_mean(count, side) > LEAST_TISSUE * count.max(initial=0)))


def _without_specks(mask: BoolImage) -> BoolImage:
    """``mask`` without what no square of ``_SPECK`` cells fits into: chance. Local, so that blocks agree."""
    padded = np.pad(mask, _SPECK, mode="edge")  # what the slide's border cuts may go on beyond it
    opened = ndimage.binary_opening(padded, np.ones((_SPECK, _SPECK)))
    return np.asarray(opened[_SPECK:-_SPECK, _SPECK:-_SPECK])


def _side(microns: float, mpp: float) -> int:
    """An odd number of cells."""
    return max(1, round(microns / mpp) | 1)


def _mean(values: npt.NDArray[np.generic], side: int) -> FloatImage:
    return np.maximum(ndimage.uniform_filter(values.astype(np.float64), side, mode="constant"), 0).astype(
        np.float32
    )


def _pixels(first: int, last: int, ratio: float, size: int) -> tuple[int, npt.NDArray[np.int64]]:
    """The first pixel whose centre lies in cells ``first`` to ``last``, and the cell, from ``first``, of each."""
    pixels = np.arange(max(0, int(first / ratio) - 1), min(size, int(last / ratio) + 2), dtype=np.int64)
    cell = np.floor((pixels + 0.5) * ratio).astype(np.int64)
    chosen = (cell >= first) & (cell < last)
    return int(pixels[chosen][0]) if chosen.any() else 0, cell[chosen] - first


@compiled
def _density(image: npt.NDArray[np.uint8], table: FloatImage) -> FloatImage:
    height, width = image.shape[0], image.shape[1]
    out = np.empty((height, width), dtype=np.float32)
    for i in range(height):
        for j in range(width):
            out[i, j] = table[image[i, j, 1]]
    return out


@compiled
def _blur(image: FloatImage, step: int) -> FloatImage:
    """Weights 1, 2, 1 along both axes, ``step`` pixels apart; the border continues as it is."""
    height, width = image.shape
    half, out = np.empty((height, width), dtype=np.float32), np.empty((height, width), dtype=np.float32)
    quarter, two = np.float32(0.25), np.float32(2)
    for i in range(height):
        above, below = image[max(i - step, 0)], image[min(i + step, height - 1)]
        for j in range(width):
            half[i, j] = quarter * (above[j] + two * image[i, j] + below[j])
    for i in range(height):
        for j in range(width):
            left, right = half[i, max(j - step, 0)], half[i, min(j + step, width - 1)]
            out[i, j] = quarter * (left + two * half[i, j] + right)
    return out


@compiled
def _add_squares(
    one: FloatImage,
    other: FloatImage,
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    out: FloatImage,
) -> None:
    for i in range(len(rows)):
        for j in range(len(columns)):
            difference = one[i, j] - other[i, j]
            out[rows[i], columns[j]] += difference * difference


@compiled
def _largest(
    values: FloatImage, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], out: FloatImage
) -> None:
    for i in range(len(rows)):
        for j in range(len(columns)):
            out[rows[i], columns[j]] = max(out[rows[i], columns[j]], values[i, j])


@compiled
def _count_colours(
    image: npt.NDArray[np.uint8],
    table: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    out: FloatImage,
) -> None:
    """Pixels, near-black ones and red ones of each cell."""
    for i in range(len(rows)):
        for j in range(len(columns)):
            red, green, blue = image[i, j, 0], image[i, j, 1], image[i, j, 2]
            out[0, rows[i], columns[j]] += np.float32(1)
            if max(red, green, blue) < NEAR_BLACK and np.int16(blue) - np.int16(red) < NEAR_BLACK_BLUE:
                out[1, rows[i], columns[j]] += np.float32(1)
            total = table[red] + table[green] + table[blue]
            if total > RED[0] and table[red] < RED[1] * total and table[blue] > RED[2] * total:
                out[2, rows[i], columns[j]] += np.float32(1)

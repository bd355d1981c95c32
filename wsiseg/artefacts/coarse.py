"""What the overview at 8 µm tells: pen and black ink, edges of coverslips and bubbles, folds, overstaining."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.artefacts.kinds import bit
from wsiseg.core.stain import optical_density_table
from wsiseg.tissue import Tissue

BoolImage = npt.NDArray[np.bool_]
FloatImage = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]

FOLD = (1.25, 1.6)
"""A fold's optical density, summed over the channels, is so many times that of the tissue around, and in a quarter
of the fold so many times."""
FOLD_OD = 0.6
"""And at least so much."""
FOLD_SIGMA_UM = 250.0
"""Standard deviation of the Gaussian that says what is around."""
FOLD_HUE = 0.02
"""The share of red in a fold's optical density differs by less from that of the tissue beside it: it is the same
tissue, twice, and darker than that as the quarter is than what is around. Crowded nuclei have more, blood less."""
FOLD_SIDE_UM = 48.0
"""How far beside a fold that is looked at."""
FOLD_UM2 = 6_000.0
"""Smaller ones are no folds."""
EDGE_OD = 0.08
"""Summed optical density, against the glass, of the edges of coverslips and bubbles."""
EDGE_GREY = (0.08, 0.12)
"""Less than this share of the summed optical density of an edge is the excess of green, which stain has, and the
difference of green and red, which ink has."""
EDGE_UM = 200.0
"""Edges are at least so long."""
EDGE_THIN = 4.0
"""And so many times as long as they are wide."""
BUBBLE_UM2 = (20_000.0, 25e6)
"""An edge that closes around so much, at least and at most, is that of a bubble, which is marked as a whole."""
OVERSTAINED_OD = 1.5
"""Summed optical density of tissue, mean over ``STAIN_UM``, above which it is too dark."""
STAIN_UM = 128.0

_NONE = 1e-3
_CALM_PX = 0.7
_SURE = 0.25


def find_coarse(image: npt.NDArray[np.uint8], tissue: Tissue, mpp: float) -> Bits:
    """The artefacts that the overview tells, as bits.

    Parameters
    ----------
    image : uint8 array (H, W, 3)
        What ``tissue`` was found in.
    tissue : Tissue
    mpp : float
        Of ``image``.

    Returns
    -------
    uint16 array (H, W)
    """
    density = optical_density_table().astype(np.float32)[image]
    core = tissue.core
    found = np.zeros(core.shape, dtype=np.uint16)
    for name, mask in (
        *tissue.marks.items(),
        ("edge", _edges(density, ~(core | tissue.artefact), mpp)),
        ("fold", _folds(density, core, mpp)),
        ("overstained", _dark(density, core, mpp)),
    ):
        found[mask] |= bit(name)
    return found


def _edges(density: FloatImage, glass: BoolImage, mpp: float) -> BoolImage:
    """Long thin lines of grey, and what they enclose."""
    total = density.sum(axis=2)
    base = float(np.median(total[glass])) if glass.any() else 0.0
    red, green, blue = np.moveaxis(density, 2, 0)
    stained, inked = np.abs(green - np.minimum(red, blue)), np.abs(green - red)
    grey = (total - base > EDGE_OD) & (stained < EDGE_GREY[0] * total) & (inked < EDGE_GREY[1] * total)
    labels, count = ndimage.label(grey, np.ones((3, 3)))
    if count == 0:
        return grey
    boxes = ndimage.find_objects(labels)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    long = np.zeros(count + 1, dtype=bool)
    for number, (rows, columns) in enumerate(boxes, start=1):
        length = float(np.hypot(rows.stop - rows.start, columns.stop - columns.start))
        long[number] = length * mpp >= EDGE_UM and length * length >= EDGE_THIN * area[number]
    lines = long[labels]
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(lines, 2), iterations=2))[2:-2, 2:-2] & ~lines
    return lines | _of_size(inside, *(size / mpp**2 for size in BUBBLE_UM2))


def _folds(density: FloatImage, tissue: BoolImage, mpp: float) -> BoolImage:
    """Where the tissue lies twofold: darker than around it, of the colour of what is beside it."""
    total = density.sum(axis=2)
    around = _mean(total, tissue, FOLD_SIGMA_UM / mpp)
    calm = _mean(total, tissue, _CALM_PX)
    dark = ndimage.binary_opening(tissue & (calm > FOLD_OD) & (calm > FOLD[0] * around))
    labels, count = ndimage.label(dark)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    sure = np.bincount(labels[dark & (calm > FOLD[1] * around)], minlength=count + 1)
    keep = (area >= FOLD_UM2 / mpp**2) & (sure >= _SURE * area)
    side = max(2, round(FOLD_SIDE_UM / mpp))
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        if keep[number]:
            near = tuple(slice(max(0, s.start - side), s.stop + side) for s in place)
            piece, seen = labels[near] == number, tissue[near] & (total[near] > 0)
            beside = ndimage.binary_dilation(piece, iterations=side) & ~ndimage.binary_dilation(piece) & seen
            keep[number] = _twofold(density[near], piece, beside)
    keep[0] = False
    return np.asarray(keep[labels])


def _twofold(density: FloatImage, piece: BoolImage, beside: BoolImage) -> bool:
    """Whether a piece is as what is beside it, but for being darker."""
    if not beside.any():
        return False
    (red, total), (red_beside, total_beside) = (
        (float(density[mask][:, 0].mean()), float(density[mask].sum(axis=1).mean())) for mask in (piece, beside)
    )
    darker = total > FOLD[1] * total_beside
    return darker and abs(red / total - red_beside / total_beside) < FOLD_HUE


def _dark(density: FloatImage, tissue: BoolImage, mpp: float) -> BoolImage:
    """Where the tissue is dark all around."""
    return np.asarray(tissue & (_mean(density.sum(axis=2), tissue, STAIN_UM / 2 / mpp) > OVERSTAINED_OD))


def _mean(values: FloatImage, tissue: BoolImage, sigma: float) -> FloatImage:
    """The Gaussian mean of the tissue around each cell; what is beyond the image has no part in it."""

    def smooth(image: FloatImage) -> FloatImage:
        return np.asarray(ndimage.gaussian_filter(image, sigma, mode="constant", truncate=3.0))

    weight = np.maximum(smooth(tissue.astype(np.float32)), np.float32(_NONE))
    return np.asarray(smooth(np.where(tissue, values, np.float32(0))) / weight, dtype=np.float32)


def _of_size(mask: BoolImage, least: float, most: float) -> BoolImage:
    """``mask`` without pieces of fewer than ``least`` or more than ``most`` pixels."""
    labels, count = ndimage.label(mask)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    keep = (area >= least) & (area <= most)
    keep[0] = False
    return np.asarray(keep[labels])

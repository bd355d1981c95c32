"""What decoders do to masks and labels: components, holes, openings, means and majorities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.nuclei import IntArray, Nuclei
from wsiseg.core.raster import Labels, components, trace
from wsiseg.models.decoders.maps import Map

Mask = npt.NDArray[np.bool_]

# An ellipse of 5 × 5 pixels: the rows' first and last offsets from the centre.
_ELLIPSE = np.array([(-2, 0, 0), (-1, -2, 2), (0, -2, 2), (1, -2, 2), (2, 0, 0)])


def label(mask: Mask, min_area_px: int = 1) -> Labels:
    """4-connected components of a mask (h, w) with at least ``min_area_px`` pixels, 1 … N in raster order."""
    rows, firsts, stops, roots = components(mask)
    sizes = np.bincount(roots, weights=stops - firsts, minlength=len(roots))
    heads = np.flatnonzero(sizes >= max(min_area_px, 1))
    names = np.zeros(len(roots), dtype=np.int32)
    names[heads] = np.arange(len(heads)) + 1
    out = np.zeros(mask.shape, dtype=np.int32)
    _fill_runs(out, rows, firsts, stops, names[roots])
    return out


def fill_enclosed(mask: Mask) -> Mask:
    """``mask`` with every 4-connected part of its complement added that does not touch the image's border."""
    rows, firsts, stops, roots = components(~mask)
    height, width = mask.shape
    touches = (rows == 0) | (rows == height - 1) | (firsts == 0) | (stops == width)
    outside = np.zeros(len(roots), dtype=bool)
    outside[roots[touches]] = True
    filled = mask.astype(np.int32)
    _fill_runs(filled, rows, firsts, stops, 1 - outside[roots].astype(np.int32))
    return filled.astype(bool)


def open_ellipse(mask: Mask) -> Mask:
    """Opening of a mask (h, w) by an ellipse of 5 × 5 pixels; the border itself erodes nothing."""
    return _open(np.ascontiguousarray(mask))


def means(labels: Labels, image: Map) -> Map:
    """Mean of ``image`` over each label, float32 (labels.max() + 1,); 0 where a label has no pixels."""
    count = int(labels.max(initial=0)) + 1
    return _means(labels, np.ascontiguousarray(image, dtype=np.float32), count)


def majorities(labels: Labels, types: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int16], Map]:
    """The type that most pixels of each label have, and their fraction.

    Type 0, the background, only where a label has no other; of equally frequent types the lowest.

    Returns
    -------
    types : int16 array (labels.max() + 1,)
    fraction : float32 array (labels.max() + 1,)
    """
    count = int(labels.max(initial=0)) + 1
    kinds = int(types.max(initial=0)) + 1
    votes = np.bincount(
        labels.ravel().astype(np.int64) * kinds + types.ravel().astype(np.int64), minlength=count * kinds
    ).reshape(count, kinds)
    favoured = votes.copy()
    favoured[votes[:, 1:].any(axis=1), 0] = 0
    chosen = favoured.argmax(axis=1)
    fraction = votes[np.arange(count), chosen] / np.maximum(votes.sum(axis=1), 1)
    return chosen.astype(np.int16), fraction.astype(np.float32)


def nuclei_of_labels(
    labels: Labels, columns: dict[str, npt.NDArray[np.generic]], min_area_px: float, max_diameter_px: float
) -> Nuclei:
    """Outlines of the labels that are neither too small nor too long (by their bounds' longer side).

    Parameters
    ----------
    labels : int32 array (h, w)
    columns : mapping of str to array (labels.max() + 1,)
        Indexed by label.
    """
    nuclei = trace(labels)
    names = nuclei.columns["label"]
    nuclei = Nuclei(nuclei.vertices, nuclei.offsets, {key: value[names] for key, value in columns.items()})
    bounds = nuclei.bounds()
    extent = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
    return nuclei.take((nuclei.areas() >= min_area_px) & (extent <= max_diameter_px))


@compiled
def _fill_runs(
    image: Labels, rows: IntArray, firsts: IntArray, stops: IntArray, values: npt.NDArray[np.int32]
) -> None:
    for run in range(len(rows)):
        if values[run] != 0:
            image[rows[run], firsts[run] : stops[run]] = values[run]


@compiled
def _open(mask: Mask) -> Mask:
    height, width = mask.shape
    out = np.zeros((height, width), dtype=np.bool_)
    for i in range(height):
        for j in range(width):
            if not mask[i, j]:
                continue
            fits = True
            for row in _ELLIPSE:
                y = i + row[0]
                if not 0 <= y < height:
                    continue
                for x in range(max(0, j + row[1]), min(width, j + row[2] + 1)):
                    fits = fits and mask[y, x]
            if not fits:
                continue
            for row in _ELLIPSE:
                y = i + row[0]
                if 0 <= y < height:
                    out[y, max(0, j + row[1]) : j + row[2] + 1] = True
    return out


@compiled
def _means(labels: Labels, image: Map, count: int) -> Map:
    total = np.zeros(count, dtype=np.float64)
    pixels = np.zeros(count, dtype=np.int64)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            total[labels[i, j]] += image[i, j]
            pixels[labels[i, j]] += 1
    out = np.zeros(count, dtype=np.float32)
    for name in range(count):
        if pixels[name] > 0:
            out[name] = total[name] / pixels[name]
    return out

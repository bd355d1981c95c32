"""Watershed by a priority queue: floods a surface from markers, lowest pixel first.

The order is that of Meyer's algorithm [1]_ as scikit-image has it: by value, then by the time a pixel was
reached; for markers, which are all there at the start, by position. With ``compactness`` the value of a pixel
grows with its distance from the marker's pixel that the flood came from [2]_.

References
----------
.. [1] Soille, Ansoult, Automated basin delineation from digital elevation models using mathematical morphology,
   Signal Processing 20, 171-182 (1990), doi:10.1016/0165-1684(90)90127-K.
.. [2] Neubert, Protzel, Compact watershed and preemptive SLIC, ICPR 2014, doi:10.1109/ICPR.2014.181.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.nuclei import IntArray
from wsiseg.core.raster import Labels

Surface = npt.NDArray[np.float64]


def watershed(
    surface: npt.NDArray[np.floating], markers: Labels, mask: npt.NDArray[np.bool_], compactness: float = 0.0
) -> Labels:
    """Grow labels over a mask, low surface first.

    Parameters
    ----------
    surface : float array (h, w)
        Basins are low.
    markers : int32 array (h, w)
        Labels to begin with; those outside of ``mask`` are ignored.
    mask : bool array (h, w)
        What may be flooded, through the four neighbours of a pixel.
    compactness : float
        Added to the surface for each pixel of distance from the source of the flood.

    Returns
    -------
    int32 array (h, w)
        0 outside of the mask and where no marker reaches.
    """
    labels = np.where(mask, markers, 0).astype(np.int32)
    heights = np.ascontiguousarray(surface, dtype=np.float64)
    if compactness > 0:
        return _compact(heights, labels, np.ascontiguousarray(mask), compactness)
    return _plain(heights, labels, np.ascontiguousarray(mask))


@compiled
def _before(values: Surface, ages: IntArray, pixels: IntArray, a: int, b: int) -> bool:
    if values[a] != values[b]:
        return bool(values[a] < values[b])
    if ages[a] != ages[b]:
        return bool(ages[a] < ages[b])
    return bool(pixels[a] < pixels[b])


@compiled
def _rise(heap: IntArray, at: int, values: Surface, ages: IntArray, pixels: IntArray) -> None:
    """Restore the heap's order after an entry was put at the end."""
    while at > 0:
        parent = (at - 1) // 2
        if not _before(values, ages, pixels, heap[at], heap[parent]):
            return
        heap[at], heap[parent] = heap[parent], heap[at]
        at = parent


@compiled
def _sink(heap: IntArray, size: int, values: Surface, ages: IntArray, pixels: IntArray) -> None:
    """Restore the heap's order after the first entry was replaced by the last."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _before(values, ages, pixels, heap[child + 1], heap[child]):
            child += 1
        if not _before(values, ages, pixels, heap[child], heap[at]):
            return
        heap[at], heap[child] = heap[child], heap[at]
        at = child


@compiled
def _plain(surface: Surface, labels: Labels, mask: npt.NDArray[np.bool_]) -> Labels:
    """A pixel gets its label when it enters the queue, hence enters it once."""
    height, width = mask.shape
    most = np.count_nonzero(mask)
    values = np.empty(most, dtype=np.float64)
    ages = np.empty(most, dtype=np.int64)
    pixels = np.empty(most, dtype=np.int64)
    heap = np.empty(most, dtype=np.int64)
    entries, size, age = 0, 0, 0
    for i in range(height):
        for j in range(width):
            if labels[i, j] != 0:
                values[entries], ages[entries], pixels[entries] = surface[i, j], 0, i * width + j
                heap[size] = entries
                entries += 1
                size += 1
                _rise(heap, size - 1, values, ages, pixels)
    while size > 0:
        pixel = pixels[heap[0]]
        size -= 1
        heap[0] = heap[size]
        _sink(heap, size, values, ages, pixels)
        i, j = pixel // width, pixel % width
        for k in range(4):
            y, x = i + (k == 3) - (k == 0), j + (k == 2) - (k == 1)
            if 0 <= y < height and 0 <= x < width and mask[y, x] and labels[y, x] == 0:
                labels[y, x] = labels[i, j]
                age += 1
                values[entries], ages[entries], pixels[entries] = surface[y, x], age, y * width + x
                heap[size] = entries
                entries += 1
                size += 1
                _rise(heap, size - 1, values, ages, pixels)
    return labels


@compiled
def _compact(surface: Surface, labels: Labels, mask: npt.NDArray[np.bool_], compactness: float) -> Labels:
    """A pixel gets its label when it leaves the queue: until then a nearer source may take it."""
    height, width = mask.shape
    most = 5 * np.count_nonzero(mask) + 1  # a pixel enters once for each neighbour and once as a marker
    values = np.empty(most, dtype=np.float64)
    ages = np.empty(most, dtype=np.int64)
    pixels = np.empty(most, dtype=np.int64)
    sources = np.empty(most, dtype=np.int64)
    heap = np.empty(most, dtype=np.int64)
    entries, size, age = 0, 0, 0
    for i in range(height):
        for j in range(width):
            if labels[i, j] != 0:
                values[entries], ages[entries], pixels[entries] = surface[i, j], 0, i * width + j
                sources[entries] = i * width + j
                heap[size] = entries
                entries += 1
                size += 1
                _rise(heap, size - 1, values, ages, pixels)
    while size > 0:
        first = heap[0]
        pixel, source = pixels[first], sources[first]
        size -= 1
        heap[0] = heap[size]
        _sink(heap, size, values, ages, pixels)
        i, j = pixel // width, pixel % width
        if labels[i, j] != 0 and pixel != source:
            continue
        si, sj = source // width, source % width
        labels[i, j] = labels[si, sj]
        for k in range(4):
            y, x = i + (k == 3) - (k == 0), j + (k == 2) - (k == 1)
            if 0 <= y < height and 0 <= x < width and mask[y, x] and labels[y, x] == 0:
                age += 1
                far = np.sqrt(float((y - si) ** 2 + (x - sj) ** 2))
                values[entries], ages[entries] = surface[y, x] + compactness * far, age
                pixels[entries], sources[entries] = y * width + x, source
                heap[size] = entries
                entries += 1
                size += 1
                _rise(heap, size - 1, values, ages, pixels)
    return labels

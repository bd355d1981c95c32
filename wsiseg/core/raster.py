"""Between label images and polygons: crack tracing and its inverse.

A contour runs along the *cracks* between pixels, so that a one-pixel object is the unit square and the area of
a polygon is the number of its pixels; contours through pixel centres would make every nucleus half a pixel
smaller on each side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import IntArray, Nuclei

Labels = npt.NDArray[np.int32]

# Headings east, south, west, north: the step, then the pixels ahead on the left and on the right of it,
# as (row, column) relative to the vertex.
_STEP_X = np.array([1, 0, -1, 0])
_STEP_Y = np.array([0, 1, 0, -1])
_LEFT_ROW = np.array([-1, 0, 0, -1])
_LEFT_COLUMN = np.array([0, 0, -1, -1])
_RIGHT_ROW = np.array([0, 0, -1, -1])
_RIGHT_COLUMN = np.array([0, -1, -1, 0])


def trace(labels: npt.NDArray[np.integer]) -> Nuclei:
    """The outer contour of every label as one simple, valid polygon.

    Parameters
    ----------
    labels : integer array (h, w)
        0 is background; negative values are background too. Labels are expected to be 4-connected; of a label
        with several 4-connected components only the largest is traced (of equally large ones the first in
        raster order).

    Returns
    -------
    Nuclei
        In image pixels: pixel (row i, column j) covers [j, j+1) × [i, i+1). Ordered by label, which is the int32
        column ``label``. A ring starts at the top left corner of the object's first pixel in raster order
        and keeps the object on its right as seen with y pointing down (counter-clockwise by the shoelace
        sign). Collinear points are merged. Holes are filled, and so are bays that only a diagonal contact of
        two pixels closes: a ring that followed them would touch itself and not be valid.
    """
    image = np.ascontiguousarray(labels, dtype=np.int32)
    rows, columns, names, image = _starts(image)
    vertices, offsets = _trace(image, rows, columns)
    return Nuclei(vertices, offsets, {"label": names})


def largest_components(labels: npt.NDArray[np.integer]) -> Labels:
    """``labels`` (h, w) with only the largest 4-connected component of each label left."""
    return _starts(np.ascontiguousarray(labels, dtype=np.int32))[3]


def components(mask: npt.NDArray[np.bool_]) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """The horizontal runs of a bool image (h, w) and the 4-connected components that they form.

    Returns
    -------
    rows, firsts, stops : int64 arrays (R,)
        Run r is ``mask[rows[r], firsts[r]:stops[r]]``; in raster order.
    roots : int64 array (R,)
        The first run of r's component, which names the component.
    """
    rows, firsts, stops, names = _runs(np.ascontiguousarray(mask).view(np.int8))
    return rows, firsts, stops, _components(rows, firsts, stops, np.zeros_like(names), 1)[0]


def rasterize(
    nuclei: Nuclei,
    values: npt.ArrayLike,
    shape: tuple[int, int],
    origin: tuple[float, float] = (0.0, 0.0),
) -> Labels:
    """An image with ``values[n]`` wherever a pixel's centre lies inside polygon n; 0 elsewhere.

    Parameters
    ----------
    nuclei : Nuclei
        Even-odd interior; a centre on a left or top edge is inside, on a right or bottom edge outside, so that
        polygons that share an edge share no pixel. Of overlapping polygons the later one wins.
    values : int array (N,)
    shape : (h, w)
    origin : (x, y)
        Coordinates of the image's top left corner in those of ``nuclei``.

    Returns
    -------
    int32 array (h, w)
        Inverse of :func:`trace` for labels without holes.
    """
    painted = np.asarray(values).astype(np.int32)
    if painted.shape != (len(nuclei),):
        raise ValueError(f"values of shape {painted.shape} for {len(nuclei)} nuclei")
    image = np.zeros(shape, dtype=np.int32)
    vertices = np.ascontiguousarray(nuclei.vertices - np.asarray(origin, dtype=np.float64))
    _paint(vertices, nuclei.offsets, painted, image)
    return image


def _starts(image: Labels) -> tuple[IntArray, IntArray, Labels, Labels]:
    """Row, column and name of the first pixel of each label's largest component; and the image without the rest."""
    rows, firsts, stops, names = _runs(image)
    dense = names
    if len(names) and names.max() > image.size:  # a table by label would be larger than the image
        dense = np.unique(names, return_inverse=True)[1]
    root, chosen = _components(rows, firsts, stops, dense, int(dense.max()) + 1 if len(dense) else 0)
    heads = chosen[chosen >= 0]
    if np.count_nonzero(root == np.arange(len(root))) > len(heads):
        image = image.copy()
        _erase(image, rows, firsts, stops, dense, root, chosen)
    return rows[heads], firsts[heads], names[heads].astype(np.int32), image


@compiled
def _runs(image: npt.NDArray[np.integer]) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Maximal horizontal runs of equal positive labels in raster order: row, first column, stop, label."""
    height, width = image.shape
    count, capacity = 0, 1024
    runs = np.empty((capacity, 4), dtype=np.int64)
    for i in range(height):
        j = 0
        while j < width:
            name = image[i, j]
            if name <= 0:
                j += 1
                continue
            first = j
            while j < width and image[i, j] == name:
                j += 1
            if count == capacity:
                capacity *= 2
                grown = np.empty((capacity, 4), dtype=np.int64)
                grown[:count] = runs[:count]
                runs = grown
            runs[count, 0], runs[count, 1], runs[count, 2], runs[count, 3] = i, first, j, name
            count += 1
    return (runs[:count, 0].copy(), runs[:count, 1].copy(), runs[:count, 2].copy(), runs[:count, 3].copy())


@compiled
def _find(parent: IntArray, run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@compiled
def _components(
    rows: IntArray, firsts: IntArray, stops: IntArray, names: IntArray, labels: int
) -> tuple[IntArray, IntArray]:
    """The first run of every run's 4-connected component, and of every label's largest one (-1 without)."""
    count = len(rows)
    parent = np.arange(count)
    above, end = 0, 0  # the runs of the row above are [above, end)
    begin = 0
    while begin < count:
        stop = begin
        while stop < count and rows[stop] == rows[begin]:
            stop += 1
        if end == 0 or rows[end - 1] != rows[begin] - 1:
            above = end
        k = above
        for run in range(begin, stop):
            while k < end and stops[k] <= firsts[run]:
                k += 1
            m = k
            while m < end and firsts[m] < stops[run]:
                if names[m] == names[run]:
                    a, b = _find(parent, m), _find(parent, run)
                    parent[max(a, b)] = min(a, b)
                m += 1
        above, end, begin = begin, stop, stop
    size = np.zeros(count, dtype=np.int64)
    for run in range(count):
        parent[run] = _find(parent, run)
        size[parent[run]] += stops[run] - firsts[run]
    chosen = np.full(labels, -1, dtype=np.int64)
    for run in range(count):
        if parent[run] == run and (chosen[names[run]] < 0 or size[run] > size[chosen[names[run]]]):
            chosen[names[run]] = run
    return parent, chosen


@compiled
def _erase(
    image: Labels,
    rows: IntArray,
    firsts: IntArray,
    stops: IntArray,
    names: IntArray,
    root: IntArray,
    chosen: IntArray,
) -> None:
    for run in range(len(rows)):
        if chosen[names[run]] != root[run]:
            image[rows[run], firsts[run] : stops[run]] = 0


@compiled
def _trace(image: Labels, rows: IntArray, columns: IntArray) -> tuple[FloatArray, IntArray]:
    height, width = image.shape
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    count, capacity = 0, 32 * len(rows) + 64
    vertices = np.empty((capacity, 2), dtype=np.float64)
    for n in range(len(rows)):
        y, x = rows[n], columns[n]
        name = image[y, x]
        heading = 0
        turned = True
        while True:
            if turned:
                if count == capacity:
                    capacity *= 2
                    grown = np.empty((capacity, 2), dtype=np.float64)
                    grown[:count] = vertices[:count]
                    vertices = grown
                vertices[count, 0], vertices[count, 1] = x, y
                count += 1
            x += _STEP_X[heading]
            y += _STEP_Y[heading]
            if x == columns[n] and y == rows[n]:
                break
            # Left before straight before right: at a saddle the ring crosses over to the diagonal pixel.
            row, column = y + _LEFT_ROW[heading], x + _LEFT_COLUMN[heading]
            turned = True
            if 0 <= row < height and 0 <= column < width and image[row, column] == name:
                heading = (heading + 3) % 4
                continue
            row, column = y + _RIGHT_ROW[heading], x + _RIGHT_COLUMN[heading]
            if 0 <= row < height and 0 <= column < width and image[row, column] == name:
                turned = False
                continue
            heading = (heading + 1) % 4
        offsets[n + 1] = count
    return vertices[:count].copy(), offsets


@compiled
def spans(ring: FloatArray, height: int, width: int) -> IntArray:
    """The pixels of a (height, width) image whose centres lie inside a ring, as rows of (row, first, stop).

    ``ring`` is (V, 2) as x, y in pixels of that image and may reach beyond it. Spans come in raster order.
    """
    count = len(ring)
    low, high = height, -1
    for k in range(count):
        low = min(low, max(0, int(np.ceil(ring[k, 1] - 0.5))))
        high = max(high, min(height, int(np.ceil(ring[k, 1] - 0.5))) - 1)
    if high < low:
        return np.empty((0, 3), dtype=np.int64)
    start = np.zeros(high - low + 2, dtype=np.int64)
    for fill in range(2):
        if fill == 0:
            crossings = np.empty(0, dtype=np.int64)
        else:
            for i in range(1, len(start)):
                start[i] += start[i - 1]
            crossings = np.empty(start[-1], dtype=np.int64)
            used = start[:-1].copy()
        for k in range(count):
            m = k + 1 if k + 1 < count else 0
            if ring[k, 1] > ring[m, 1]:  # always from the upper end: neighbours must agree on a shared edge
                k, m = m, k
            xa, ya, xb, yb = ring[k, 0], ring[k, 1], ring[m, 0], ring[m, 1]
            for i in range(max(low, int(np.ceil(ya - 0.5))), min(high + 1, int(np.ceil(yb - 0.5)))):
                if fill == 0:
                    start[i - low + 1] += 1
                    continue
                x = xa + (i + 0.5 - ya) * ((xb - xa) / (yb - ya))
                column = min(max(int(np.ceil(x - 0.5)), 0), width)
                at = used[i - low]
                while at > start[i - low] and crossings[at - 1] > column:
                    crossings[at] = crossings[at - 1]
                    at -= 1
                crossings[at] = column
                used[i - low] += 1
    out = np.empty((len(crossings) // 2, 3), dtype=np.int64)
    total = 0
    for i in range(low, high + 1):
        for c in range(start[i - low], start[i - low + 1] - 1, 2):
            if crossings[c] < crossings[c + 1]:
                out[total, 0], out[total, 1], out[total, 2] = i, crossings[c], crossings[c + 1]
                total += 1
    return out[:total]


@compiled
def _paint(vertices: FloatArray, offsets: IntArray, values: Labels, image: Labels) -> None:
    height, width = image.shape
    for n in range(len(values)):
        inside = spans(vertices[offsets[n] : offsets[n + 1]], height, width)
        for s in range(len(inside)):
            image[inside[s, 0], inside[s, 1] : inside[s, 2]] = values[n]

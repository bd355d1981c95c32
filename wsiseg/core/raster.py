"""Between label images and polygons: crack tracing and its inverse.

A contour runs along the *cracks* between pixels, so that a one-pixel object is the unit square and the area of
a polygon is the number of its pixels; contours through pixel centres would make every nucleus half a pixel
smaller on each side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import IntArray, Nuclei

Labels = npt.NDArray[np.int32]

_SPARSE = 64
"""A table by label may have so many entries for each run; labels that are rarer are numbered anew."""


@dataclass(frozen=True)
class Runs:
    """Where the labels of an image are: maximal horizontal runs of one label, in raster order.

    Attributes
    ----------
    rows, firsts, stops : int64 arrays (R,)
        Run r is ``labels[rows[r], firsts[r]:stops[r]]``.
    names : int64 array (R,)
        The label of each, above 0.
    """

    rows: IntArray
    firsts: IntArray
    stops: IntArray
    names: IntArray


def runs_of(labels: npt.NDArray[np.integer]) -> Runs:
    """The runs of an integer image (h, w); 0 and negative values are background."""
    return Runs(*_runs(np.ascontiguousarray(labels, dtype=np.int32)))


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
    return trace_runs(runs_of(labels))


def trace_runs(runs: Runs) -> Nuclei:
    """What :func:`trace` gives of the image with these runs."""
    roots, chosen = _chosen(runs)
    vertices, offsets = _trace(runs.rows, runs.firsts, runs.stops, roots, chosen)
    return Nuclei(vertices, offsets, {"label": runs.names[chosen].astype(np.int32)})


def largest_components(labels: npt.NDArray[np.integer]) -> Labels:
    """``labels`` (h, w) with only the largest 4-connected component of each label left."""
    runs = runs_of(labels)
    roots, chosen = _chosen(runs)
    image = np.zeros(labels.shape, dtype=np.int32)
    _fill_chosen(image, runs.rows, runs.firsts, runs.stops, runs.names, roots, chosen)
    return image


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


def _chosen(runs: Runs) -> tuple[IntArray, IntArray]:
    """The first run of each run's component; and of each label's largest component, in the order of the labels."""
    dense = runs.names
    if len(dense) and dense.max() > _SPARSE * len(dense):
        dense = np.unique(dense, return_inverse=True)[1]
    labels = int(dense.max()) + 1 if len(dense) else 0
    roots, chosen = _components(runs.rows, runs.firsts, runs.stops, dense, labels)
    return roots, chosen[chosen >= 0]


@compiled
def _runs(image: npt.NDArray[np.integer]) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Maximal horizontal runs of equal positive labels in raster order: row, first column, stop, label."""
    height, width = image.shape
    count, capacity = 0, 1024
    runs = np.empty((capacity, 4), dtype=np.int64)
    # Where a pixel differs from the one before it, a byte each: most words of eight are 0 and passed over at once.
    differs = np.zeros((width // 8 + 1) * 8, dtype=np.uint8)
    words = differs.view(np.uint64)
    differs[width] = 1  # the row's end ends a run
    for i in range(height if width > 0 else 0):
        line = image[i]
        before, here, changed = line[:-1], line[1:], differs[1:width]
        differs[0] = line[0] != 0
        for j in range(width - 1):
            changed[j] = here[j] != before[j]
        first, name = 0, 0
        for word in range(len(words)):
            if words[word] == 0:
                continue
            for j in range(8 * word, 8 * word + 8):
                if differs[j] == 0:
                    continue
                if name > 0:
                    if count == capacity:
                        capacity *= 2
                        grown = np.empty((capacity, 4), dtype=np.int64)
                        grown[:count] = runs[:count]
                        runs = grown
                    runs[count, 0], runs[count, 1], runs[count, 2], runs[count, 3] = i, first, j, name
                    count += 1
                first, name = j, (line[j] if j < width else 0)
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
def _fill_chosen(
    image: Labels,
    rows: IntArray,
    firsts: IntArray,
    stops: IntArray,
    names: IntArray,
    roots: IntArray,
    chosen: IntArray,
) -> None:
    """Paint the components whose first runs are ``chosen``."""
    keep = np.zeros(len(rows), dtype=np.bool_)
    keep[chosen] = True
    for run in range(len(rows)):
        if keep[roots[run]]:
            image[rows[run], firsts[run] : stops[run]] = names[run]


@compiled
def _grouped(roots: IntArray, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """The runs of each chosen component, one component after the other, and where each begins."""
    number = np.full(len(roots), -1, dtype=np.int64)
    for n in range(len(chosen)):
        number[chosen[n]] = n
    begin = np.zeros(len(chosen) + 1, dtype=np.int64)
    for run in range(len(roots)):
        n = number[roots[run]]
        if n >= 0:
            begin[n + 1] += 1
    for n in range(len(chosen)):
        begin[n + 1] += begin[n]
    order, used = np.empty(begin[-1], dtype=np.int64), begin[:-1].copy()
    for run in range(len(roots)):
        n = number[roots[run]]
        if n >= 0:
            order[used[n]] = run
            used[n] += 1
    return order, begin


@compiled
def _trace(
    rows: IntArray, firsts: IntArray, stops: IntArray, roots: IntArray, chosen: IntArray
) -> tuple[FloatArray, IntArray]:
    """Outlines of the components whose first runs are ``chosen``.

    Each is painted alone into a small mask with a rim of background, followed there and wiped out again: its pixels
    stay in the fastest cache, and the cost is that of its runs and its outline, however large its bounds are.
    """
    order, begin = _grouped(roots, chosen)
    left, wide, largest = np.empty(len(chosen), np.int64), np.empty(len(chosen), np.int64), 0
    for n in range(len(chosen)):
        own = order[begin[n] : begin[n + 1]]
        low, high = firsts[own[0]], stops[own[0]]
        for run in own:
            low, high = min(low, firsts[run]), max(high, stops[run])
        left[n], wide[n] = low - 1, high - low + 2
        largest = max(largest, (rows[own[-1]] - rows[own[0]] + 3) * wide[n])
    mask = np.zeros(largest, dtype=np.uint8)
    offsets = np.zeros(len(chosen) + 1, dtype=np.int64)
    count, capacity = 0, 32 * len(chosen) + 64
    vertices = np.empty((capacity, 2), dtype=np.float64)
    step, ahead_left, ahead_right = np.empty(4, np.int64), np.empty(4, np.int64), np.empty(4, np.int64)
    for n in range(len(chosen)):
        own, width = order[begin[n] : begin[n + 1]], wide[n]
        top = rows[own[0]] - 1
        for run in own:
            at = (rows[run] - top) * width - left[n]
            mask[at + firsts[run] : at + stops[run]] = 1
        # Headings east, south, west, north: the step of a vertex, which goes by the pixel whose top left corner it
        # is, and the pixels ahead of it on both sides.
        step[0], step[1], step[2], step[3] = 1, width, -1, -width
        ahead_left[0], ahead_left[1], ahead_left[2], ahead_left[3] = -width, 0, -1, -width - 1
        ahead_right[0], ahead_right[1], ahead_right[2], ahead_right[3] = 0, -1, -width - 1, -width
        start = width + firsts[own[0]] - left[n]
        at, heading, turned = start, 0, True
        while True:
            if turned:
                if count == capacity:
                    capacity *= 2
                    grown = np.empty((capacity, 2), dtype=np.float64)
                    grown[:count] = vertices[:count]
                    vertices = grown
                vertices[count, 0], vertices[count, 1] = at % width + left[n], at // width + top
                count += 1
            at += step[heading]
            if at == start:
                break
            # Left before straight before right: at a saddle the ring crosses over to the diagonal pixel.
            turned = True
            if mask[at + ahead_left[heading]] != 0:
                heading = (heading + 3) % 4
            elif mask[at + ahead_right[heading]] != 0:
                turned = False
            else:
                heading = (heading + 1) % 4
        for run in own:
            at = (rows[run] - top) * width - left[n]
            mask[at + firsts[run] : at + stops[run]] = 0
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

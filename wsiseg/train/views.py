"""A view of a patch: a square looked at through a turn, a reflection, a rotation and an enlargement.

Everything that a target needs is found in the patch's own pixels and carried over by the view, so a centre is the
whole nucleus' centre although the view shows a part of it, and no turned copy is ever made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.train.patches import OUTSIDE, PatchPool
from wsiseg.train.settings import Augment

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class View:
    """Where the pixels of a square lie in a patch: position (y, x) is at ``matrix`` @ (y, x) + ``origin``.

    Pixel (i, j) has its centre at (i + ½, j + ½), in the square as in the patch.

    Attributes
    ----------
    matrix : float64 array (2, 2)
    origin : float64 array (2,)
    side : int
        Of the square, in pixels.
    """

    matrix: FloatArray
    origin: FloatArray
    side: int

    @property
    def exact(self) -> bool:
        """Whether pixels meet pixels: nothing is interpolated."""
        whole = np.array_equal(self.matrix, np.rint(self.matrix))
        corner = self.matrix @ (0.5, 0.5) + self.origin - 0.5
        return bool(whole and np.array_equal(corner, np.rint(corner)))


@dataclass(frozen=True)
class Sample:
    """What a view shows, and what is known of the nuclei in it.

    Attributes
    ----------
    image : uint8 array (s, s, 3)
    labels : int32 array (s, s)
    covered : float32 array (s, s)
        Foreground fraction, 0 to 1.
    known : uint8 array (s, s)
    depth : float32 array (s, s)
        Distance to the nucleus' border over its largest distance, 0 to 1.
    centre : float64 array (n + 1, 2)
        Centroid of each label, in the view's pixels (a pixel's own centre has whole coordinates).
    low, high : float64 array (n + 1, 2)
        Least and greatest coordinates of its pixels.
    cut : bool array (n + 1,)
        The patch or its image ends there: centre and extent are not the nucleus' own.
    """

    image: npt.NDArray[np.uint8]
    labels: Int32
    covered: Float32
    known: npt.NDArray[np.uint8]
    depth: Float32
    centre: FloatArray
    low: FloatArray
    high: FloatArray
    cut: npt.NDArray[np.bool_]


def draw_view(rng: np.random.Generator, shape: tuple[int, int], side: int, augment: Augment) -> View:
    """A random view of ``side`` pixels on a patch of ``shape`` (h, w), within it where it fits."""
    matrix = np.eye(2)
    turns, mirror, angle = int(rng.integers(4)), int(rng.integers(2)), rng.uniform(0, 2 * math.pi)
    if augment.symmetries:
        for _ in range(turns):
            matrix = np.array([[0.0, 1.0], [-1.0, 0.0]]) @ matrix
        if mirror:
            matrix = matrix @ np.diag([1.0, -1.0])
    if rng.random() < augment.rotate:
        sine, cosine = math.sin(angle), math.cos(angle)
        matrix = np.array([[cosine, sine], [-sine, cosine]]) @ matrix
    low, high = np.log(augment.scale)
    if high > low:
        matrix = matrix / math.exp(rng.uniform(low, high))
    elif low != 0:
        matrix = matrix / math.exp(low)
    # The sides of the square's bounds in the patch; whole, so that a view that only turns stays on the pixels.
    extent = np.ceil(np.abs(matrix).sum(axis=1) * side - 1e-9).astype(int)
    first = [int(rng.integers(n - e + 1)) if n >= e else (n - e) // 2 for n, e in zip(shape, extent, strict=True)]
    middle = np.array(first) + extent / 2
    matrix = np.ascontiguousarray(matrix)
    return View(matrix, middle - matrix @ np.full(2, side / 2), side)


def whole_view(shape: tuple[int, int], side: int) -> View:
    """The middle of a patch of ``shape`` (h, w), as it is."""
    return View(np.eye(2), np.array([float((n - side) // 2) for n in shape]), side)


def look(pool: PatchPool, index: int, view: View, reach_px: int) -> Sample:
    """What ``view`` shows of a patch; beyond the patch its mirror image, ``OUTSIDE`` and without nuclei.

    Parameters
    ----------
    reach_px : int
        Nuclei in the view are followed this far beyond it.
    """
    corners = np.array([(y, x) for y in (0, view.side) for x in (0, view.side)], dtype=np.float64)
    there = corners @ view.matrix.T + view.origin
    height, width = pool.labels.shape[1:]
    low = np.clip(np.floor(there.min(axis=0)) - reach_px, 0, [height - 1, width - 1]).astype(int)
    high = np.clip(np.ceil(there.max(axis=0)) + reach_px, low + 1, [height, width]).astype(int)
    box = (slice(low[0], high[0]), slice(low[1], high[1]))
    image, labels = np.asarray(pool.images[index][box]), np.asarray(pool.labels[index][box]).astype(np.int32)
    covered, known = np.asarray(pool.covered[index][box]), np.asarray(pool.known[index][box])
    origin = view.origin - low
    count = int(labels.max(initial=0)) + 1
    inverse = np.ascontiguousarray(np.linalg.inv(view.matrix), dtype=np.float64)
    nuclei = _nuclei(labels, known, inverse, -inverse @ origin, count)
    shown = _sample(image, labels, covered, known, depth(labels, count), view.matrix, origin, view.side, view.exact)
    return Sample(*shown, *nuclei)


@compiled
def depth(labels: Int32, count: int) -> Float32:
    """Distance to the border of a pixel's nucleus over the largest there, for labels (h, w) below ``count``.

    Pixels at the border, one step from another label, have distance 1; the array's edge is no border.
    The exact Euclidean transform by columns, then by parabolas along rows (Felzenszwalb & Huttenlocher 2012,
    doi:10.4086/toc.2012.v008a019).
    """
    height, width = labels.shape
    far = np.float32(height + width)
    column = np.empty((height, width), dtype=np.float32)
    for i in range(height):
        for j in range(width):
            here = labels[i, j]
            border = (
                (i > 0 and labels[i - 1, j] != here)
                or (i < height - 1 and labels[i + 1, j] != here)
                or (j > 0 and labels[i, j - 1] != here)
                or (j < width - 1 and labels[i, j + 1] != here)
            )
            above = column[i - 1, j] + np.float32(1) if i > 0 else far
            column[i, j] = np.float32(0) if border else min(above, far)
    for i in range(height - 2, -1, -1):
        for j in range(width):
            column[i, j] = min(column[i, j], column[i + 1, j] + np.float32(1))
    out = np.zeros((height, width), dtype=np.float32)
    largest = np.ones(count, dtype=np.float32)
    vertex = np.empty(width, dtype=np.int64)
    start = np.empty(width + 1, dtype=np.float64)
    for i in range(height):
        k = 0
        vertex[0], start[0], start[1] = 0, -np.inf, np.inf
        for j in range(1, width):
            own = float(column[i, j]) ** 2 + j * j
            while True:
                v = vertex[k]
                meet = (own - (float(column[i, v]) ** 2 + v * v)) / (2.0 * (j - v))
                if meet > start[k]:
                    break
                k -= 1
            k += 1
            vertex[k], start[k], start[k + 1] = j, meet, np.inf
        k = 0
        for j in range(width):
            while start[k + 1] < j:
                k += 1
            here = labels[i, j]
            if here > 0:
                v = vertex[k]
                distance = np.float32(math.sqrt((j - v) ** 2 + float(column[i, v]) ** 2) + 1.0)
                out[i, j] = distance
                largest[here] = max(largest[here], distance)
    for i in range(height):
        for j in range(width):
            out[i, j] /= largest[labels[i, j]]
    return out


@compiled
def _nuclei(
    labels: Int32, known: npt.NDArray[np.uint8], inverse: FloatArray, origin: FloatArray, count: int
) -> tuple[FloatArray, FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Centre, bounds and whether it is cut, of each label: see :class:`Sample`."""
    height, width = labels.shape
    area = np.zeros(count, dtype=np.int64)
    total = np.zeros((count, 2), dtype=np.float64)
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    cut = np.zeros(count, dtype=np.bool_)
    for i in range(height):
        for j in range(width):
            name = labels[i, j]
            if name == 0:
                continue
            y = inverse[0, 0] * (i + 0.5) + inverse[0, 1] * (j + 0.5) + origin[0] - 0.5
            x = inverse[1, 0] * (i + 0.5) + inverse[1, 1] * (j + 0.5) + origin[1] - 0.5
            area[name] += 1
            total[name, 0] += y
            total[name, 1] += x
            low[name, 0], low[name, 1] = min(low[name, 0], y), min(low[name, 1], x)
            high[name, 0], high[name, 1] = max(high[name, 0], y), max(high[name, 1], x)
            if (
                i == 0
                or j == 0
                or i == height - 1
                or j == width - 1
                or known[i - 1, j] == OUTSIDE
                or known[i + 1, j] == OUTSIDE
                or known[i, j - 1] == OUTSIDE
                or known[i, j + 1] == OUTSIDE
                or known[i, j] == OUTSIDE
            ):
                cut[name] = True
    for name in range(count):
        if area[name] > 0:
            total[name] /= area[name]
    return total, low, high, cut


@compiled
def mirrored(position: int, length: int) -> int:
    """An index beyond an axis, reflected into it."""
    if 0 <= position < length:
        return position
    position %= 2 * length
    return position if position < length else 2 * length - 1 - position


@compiled
def _sample(
    image: npt.NDArray[np.uint8],
    labels: Int32,
    covered: npt.NDArray[np.uint8],
    known: npt.NDArray[np.uint8],
    deep: Float32,
    matrix: FloatArray,
    origin: FloatArray,
    side: int,
    exact: bool,
) -> tuple[npt.NDArray[np.uint8], Int32, Float32, npt.NDArray[np.uint8], Float32]:
    height, width = labels.shape
    colours = np.empty((side, side, 3), dtype=np.uint8)
    names = np.zeros((side, side), dtype=np.int32)
    cover = np.zeros((side, side), dtype=np.float32)
    knowledge = np.full((side, side), OUTSIDE, dtype=np.uint8)
    depths = np.zeros((side, side), dtype=np.float32)
    for i in range(side):
        for j in range(side):
            y = matrix[0, 0] * (i + 0.5) + matrix[0, 1] * (j + 0.5) + origin[0]
            x = matrix[1, 0] * (i + 0.5) + matrix[1, 1] * (j + 0.5) + origin[1]
            near_y, near_x = math.floor(y), math.floor(x)
            inside = 0 <= near_y < height and 0 <= near_x < width
            if inside:
                names[i, j] = labels[near_y, near_x]
                knowledge[i, j] = known[near_y, near_x]
            if exact:
                y0, x0 = mirrored(near_y, height), mirrored(near_x, width)
                colours[i, j] = image[y0, x0]
                if inside:
                    cover[i, j] = covered[y0, x0] / np.float32(255)
                    depths[i, j] = deep[y0, x0]
                continue
            top, left = math.floor(y - 0.5), math.floor(x - 0.5)
            down, right = np.float32(y - 0.5 - top), np.float32(x - 0.5 - left)
            y0, x0 = mirrored(top, height), mirrored(left, width)
            y1, x1 = mirrored(top + 1, height), mirrored(left + 1, width)
            a, b = (1 - down) * (1 - right), (1 - down) * right
            c, d = down * (1 - right), down * right
            for channel in range(3):
                value = (
                    a * image[y0, x0, channel]
                    + b * image[y0, x1, channel]
                    + c * image[y1, x0, channel]
                    + d * image[y1, x1, channel]
                )
                colours[i, j, channel] = np.uint8(value + np.float32(0.5))
            if inside:
                value = a * covered[y0, x0] + b * covered[y0, x1] + c * covered[y1, x0] + d * covered[y1, x1]
                cover[i, j] = value / np.float32(255)
                if names[i, j] > 0:
                    depths[i, j] = a * deep[y0, x0] + b * deep[y0, x1] + c * deep[y1, x0] + d * deep[y1, x1]
    return colours, names, cover, knowledge, depths

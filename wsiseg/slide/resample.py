"""From a level's pixels to lattice pixels, as a function of the lattice index alone.

A whole ratio k is the mean of k × k pixels, rounded half up. Any other ratio is the cubic convolution of Keys [1]_,
widened by the ratio when it reduces so that it does not alias, with the weights of each output row and column
computed from its absolute index. All sums are integers, so the result does not depend on the window that is read.

.. [1] R. Keys, "Cubic convolution interpolation for digital image processing", IEEE Transactions on Acoustics,
   Speech, and Signal Processing 29(6), 1981. doi:10.1109/TASSP.1981.1163711
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import Window

Pixels = npt.NDArray[np.uint8]

_RADIUS = 2.0  # of the cubic kernel, in output pixels when reducing and input pixels when enlarging
_WEIGHT_BITS = 14
_CARRIED_BITS = 6  # fraction kept between the two passes: 255 · 2⁶ and the overshoot fit int16
_STRIP_PIXELS = 32 << 20


def whole_ratio(ratio: float) -> int:
    """``ratio`` as an int if it is a whole number (up to rounding), else 0."""
    whole = round(ratio)
    return whole if whole >= 1 and abs(ratio - whole) <= 1e-9 * whole else 0


def support(window: Window, ratio: float) -> Window:
    """The level pixels that decide the lattice pixels of ``window``; ``ratio`` level pixels per lattice pixel."""
    whole = whole_ratio(ratio)
    if whole:
        return Window(window.x * whole, window.y * whole, window.width * whole, window.height * whole)
    x0, x1 = _span(window.x, window.x1, ratio)
    y0, y1 = _span(window.y, window.y1, ratio)
    return Window(x0, y0, x1 - x0, y1 - y0)


def reduce(pixels: Pixels, source: Window, window: Window, ratio: float) -> Pixels:
    """The lattice pixels of ``window``, uint8 (h, w, 3), from ``pixels`` of ``source = support(window, ratio)``."""
    whole = whole_ratio(ratio)
    if whole == 1 or window.area == 0:
        return pixels if window.area else np.empty((*window.shape, 3), dtype=np.uint8)
    pixels = np.ascontiguousarray(pixels)
    if whole:
        return box_mean(pixels, whole)
    rows, row_weights = _coefficients(window.y, window.y1, ratio, source.y)
    columns, column_weights = _coefficients(window.x, window.x1, ratio, source.x)
    flat = pixels.reshape(pixels.shape[0], -1)
    carried = _filter_rows(flat, rows, row_weights).reshape(window.height, source.width, 3)
    return np.asarray(_filter_columns(carried, columns, column_weights))


def box_mean(pixels: Pixels, k: int) -> Pixels:
    """The mean of each k × k block, rounded half up; uint8 (h·k, w·k, 3) → (h, w, 3)."""
    flat = pixels.reshape(pixels.shape[0], -1)
    shape = (pixels.shape[0] // k, pixels.shape[1] // k, 3)
    out = np.empty(shape, dtype=np.uint8)
    if k == 2:
        _halve(flat, out.reshape(shape[0], -1))
    else:
        _box(flat, out.reshape(shape[0], -1), k)
    return out


def strip_rows(width: int, ratio: float) -> int:
    """Lattice rows to read at once so that a strip of level pixels stays bounded."""
    return max(1, int(_STRIP_PIXELS / max(1.0, ratio) ** 2 / max(width, 1)))


def _span(first: int, last: int, ratio: float) -> tuple[int, int]:
    radius = _RADIUS * max(1.0, ratio)
    return math.floor((first + 0.5) * ratio - radius), math.ceil((last - 0.5) * ratio + radius)


def _coefficients(
    first: int, last: int, ratio: float, origin: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """For each output index: where its taps start, relative to ``origin``, and their weights (sum 2¹⁴)."""
    widen = max(1.0, ratio)
    centre = (np.arange(first, last, dtype=np.float64) + 0.5) * ratio
    start = np.floor(centre - _RADIUS * widen).astype(np.int64)
    taps = math.ceil(2 * _RADIUS * widen) + 1
    distance = np.abs(start[:, None] + np.arange(taps) + 0.5 - centre[:, None]) / widen
    kernel = np.where(
        distance < 1,
        (1.5 * distance - 2.5) * distance**2 + 1,
        np.where(distance < 2, ((-0.5 * distance + 2.5) * distance - 4) * distance + 2, 0.0),
    )
    kernel /= kernel.sum(axis=1, keepdims=True)
    weights = np.rint(kernel * (1 << _WEIGHT_BITS)).astype(np.int32)
    # The rounded weights must still sum to one, or white would not stay white: the largest tap takes the rest.
    largest = weights.argmax(axis=1)
    weights[np.arange(len(weights)), largest] += (1 << _WEIGHT_BITS) - weights.sum(axis=1)
    return start - origin, weights


@compiled
def _halve(pixels: Pixels, out: Pixels) -> None:
    two = np.uint32(2)
    for i in range(out.shape[0]):
        upper, lower, row = pixels[2 * i], pixels[2 * i + 1], out[i]
        for j in range(out.shape[1] // 3):
            for c in range(3):
                n = 6 * j + c
                total = (
                    np.uint32(upper[n]) + np.uint32(upper[n + 3]) + np.uint32(lower[n]) + np.uint32(lower[n + 3])
                )
                row[3 * j + c] = np.uint8((total + two) >> two)


@compiled
def _box(pixels: Pixels, out: Pixels, k: int) -> None:
    height, width = out.shape
    half, count = np.uint32(k * k // 2), np.uint32(k * k)
    sums = np.empty(width * k, dtype=np.uint32)
    for i in range(height):
        sums[:] = 0
        for n in range(k):
            line = pixels[i * k + n]
            for j in range(width * k):
                sums[j] += line[j]
        for j in range(width // 3):
            for c in range(3):
                total = half
                for n in range(k):
                    total += sums[3 * (j * k + n) + c]
                out[i, 3 * j + c] = np.uint8(total // count)


@compiled
def _filter_rows(
    pixels: Pixels, start: npt.NDArray[np.int64], weights: npt.NDArray[np.int32]
) -> npt.NDArray[np.int16]:
    out = np.empty((len(start), pixels.shape[1]), dtype=np.int16)
    shift = _WEIGHT_BITS - _CARRIED_BITS
    sums = np.empty(pixels.shape[1], dtype=np.int32)
    for i in range(len(start)):
        sums[:] = 1 << (shift - 1)
        for t in range(weights.shape[1]):
            weight, row = weights[i, t], start[i] + t
            if weight != 0:
                line = pixels[row]
                for j in range(len(sums)):
                    sums[j] += weight * np.int32(line[j])
        for j in range(len(sums)):
            out[i, j] = np.int16(sums[j] >> shift)
    return out


@compiled
def _clamp(value: np.int32) -> np.uint8:
    return np.uint8(0) if value < 0 else np.uint8(255) if value > 255 else np.uint8(value)


@compiled
def _filter_columns(
    pixels: npt.NDArray[np.int16], start: npt.NDArray[np.int64], weights: npt.NDArray[np.int32]
) -> Pixels:
    out = np.empty((pixels.shape[0], len(start), 3), dtype=np.uint8)
    shift = _WEIGHT_BITS + _CARRIED_BITS
    for i in range(pixels.shape[0]):
        for j in range(len(start)):
            red = green = blue = np.int32(1 << (shift - 1))
            for t in range(weights.shape[1]):
                weight, column = weights[j, t], start[j] + t
                if weight != 0:
                    red += weight * np.int32(pixels[i, column, 0])
                    green += weight * np.int32(pixels[i, column, 1])
                    blue += weight * np.int32(pixels[i, column, 2])
            out[i, j, 0] = _clamp(red >> shift)
            out[i, j, 1] = _clamp(green >> shift)
            out[i, j, 2] = _clamp(blue >> shift)
    return out

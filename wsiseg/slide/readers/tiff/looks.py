"""Does a smaller image show what a larger one does? Asked where a file does not say which pages belong together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

GRID = 16  # means a side that are compared
_FLAT = 3.0  # grey levels of deviation below which there is nothing to correlate
_NEAR, _CORRELATED = 8.0, 0.6  # grey levels between flat parts; of a reduction it is above 0.9, of others about 0


def fullest(counts: npt.NDArray[np.uint64], columns: int, number: int) -> list[int]:
    """The tiles with the most bytes, of equal ones those nearest to the middle."""
    index = np.arange(len(counts))
    row, column = index // columns, index % columns
    middle = np.hypot(column - (columns - 1) / 2, row - row[-1] / 2)
    return [int(at) for at in np.lexsort((middle, -counts.astype(np.int64)))[:number]]


def resemble(small: Pixels, large: Pixels) -> bool:
    """Whether two pictures of the same place, uint8 (h, w, 3) each, are of the same thing."""
    one, other = _means(small), _means(large)
    if max(one.std(axis=(0, 1)).max(), other.std(axis=(0, 1)).max()) < _FLAT:
        return bool(np.abs(one - other).mean() < _NEAR)
    one, other = one - one.mean(axis=(0, 1)), other - other.mean(axis=(0, 1))
    spread = np.sqrt((one**2).sum() * (other**2).sum())
    return bool(spread > 0 and (one * other).sum() / spread > _CORRELATED)


def _means(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Means over a grid of GRID × GRID cells, or as many as there are pixels."""
    means = pixels.astype(np.float64)
    for axis in (0, 1):
        edges = np.linspace(0, means.shape[axis], GRID, endpoint=False).astype(np.int64)
        sizes = np.diff(edges, append=means.shape[axis])
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        means = np.add.reduceat(means, edges, axis=axis) / sizes.reshape(shape)
    return means

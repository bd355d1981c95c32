"""Where nuclei are likely: Perlin noise of four octaves fitted to a blurred mask, or an expert's map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from wsiseg.errors import UsageError
from wsiseg.interop.labelimage import read_labels
from wsiseg.synth.parts import crop, turned

FloatArray = npt.NDArray[np.float64]

BLUR_PX = 30.0
"""Standard deviation of the Gaussian that makes a density of a mask."""
PERIODS = (256.0, 128.0, 64.0, 32.0)
"""Pixels between the lattice points of each octave."""
_STEP = 8
_DESCENTS = 300
_RIDGE = 1e-3
_UNIT_VARIANCE = 0.04653
"""Of noise whose gradients have a mean square of 1, over all places."""


@dataclass(frozen=True)
class PerlinPrior:
    """What a fit leaves for others of its kind: the mean, and how strong the gradients of each octave are.

    Attributes
    ----------
    mean : float
        Of the density, 0–1.
    strengths : tuple of float
        Root mean square of the gradients, of each of ``PERIODS``.
    """

    mean: float
    strengths: tuple[float, ...]

    def sample(self, rng: np.random.Generator, side: int) -> FloatArray:
        """Another density with the same parameters, float64 (side, side), 0–1; 0: no nucleus."""
        values = np.full((side, side), self.mean)
        for period, strength in zip(PERIODS, self.strengths, strict=True):
            origin = rng.uniform(0.0, 1.0, 2)
            cells = int(np.ceil(side / period)) + 2
            gradients = rng.normal(0.0, strength / np.sqrt(2.0), (cells * cells, 2))
            lines = (np.arange(side) + 0.5) / period
            values += (_octave(lines + origin[0], lines + origin[1], cells) @ gradients.ravel()).reshape(side, side)
        return np.clip(values, 0.0, 1.0)


def blurred(labels: npt.NDArray[np.integer]) -> FloatArray:
    """The density of nuclei: a mask (h, w) blurred by ``BLUR_PX``."""
    return ndimage.gaussian_filter((labels > 0).astype(np.float64), BLUR_PX, mode="reflect")


def fit_perlin(density: FloatArray) -> tuple[PerlinPrior, FloatArray]:
    """Perlin noise [1]_ as close to a density (h, w) as gradient descent brings its lattice's gradients.

    Returns
    -------
    PerlinPrior
    float64 array (ceil(h / 8), ceil(w / 8))
        The fitted noise, at each eighth pixel of ``density``.

    References
    ----------
    .. [1] Perlin 2002, Improving noise, doi:10.1145/566654.566636.
    """
    rows, columns = (np.arange(0, size, _STEP) + 0.5 for size in density.shape)
    target = density[::_STEP, ::_STEP].ravel()
    mean = float(target.mean())
    cells = [int(np.ceil(max(density.shape) / period)) + 2 for period in PERIODS]
    design = sparse.hstack(
        [_octave(rows / period, columns / period, n) for period, n in zip(PERIODS, cells, strict=True)]
    ).tocsc()
    gradients = _descend(design.tocsr(), target - mean)
    ends = np.cumsum([2 * n * n for n in cells])[:-1]
    octaves = [
        design[:, first:last] @ gradients[first:last]
        for first, last in zip([0, *ends], [*ends, len(gradients)], strict=True)
    ]
    # So strong that others of its kind vary as the density does, each octave by its share in the fit. The fitted
    # gradients themselves are weaker: few that agree with each other raise or lower what is large.
    total = max(float(sum(np.var(octave) for octave in octaves)), 1e-12)
    strengths = tuple(float(np.sqrt(target.var() * np.var(octave) / total / _UNIT_VARIANCE)) for octave in octaves)
    fitted = np.clip(mean + design @ gradients, 0.0, 1.0).reshape(len(rows), len(columns))
    return PerlinPrior(mean, strengths), fitted


def read_priors(path: Path) -> list[FloatArray]:
    """An expert's maps: a grey image, or a folder of them; the brightest value a file could hold is 1.

    Raises
    ------
    UsageError
        Nothing there that can be read, or a map without a place for nuclei.
    """
    files = sorted(file for file in path.iterdir() if not file.name.startswith(".")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path}: there is nothing in it; expected grey images of where nuclei are likely")
    maps = []
    for file in files:
        values = read_labels(file)
        if not values.any():
            raise UsageError(f"{file}: is 0 everywhere: no nucleus has a place; expected above 0 where one may lie")
        maps.append(values / float(np.iinfo(values.dtype).max))
    return maps


def sample_map(rng: np.random.Generator, maps: Sequence[FloatArray], side: int) -> FloatArray:
    """A part of one of an expert's maps, float64 (side, side), turned at random, mirrored where it is smaller."""
    chosen = maps[int(rng.integers(len(maps)))]
    room = np.maximum(np.array(chosen.shape) - side, 0)
    row, column = rng.integers(0, room + 1).tolist()
    while min(chosen.shape) < side:
        chosen = np.pad(chosen, [(0, size) for size in chosen.shape], mode="symmetric")
    return turned(crop(chosen, (row, column), side), int(rng.integers(8)))


def _octave(y: npt.NDArray[np.floating], x: npt.NDArray[np.floating], cells: int) -> sparse.csr_matrix:
    """What the gradients of a lattice of ``cells``² points have to do with the noise at rows ``y``, columns ``x``.

    Perlin noise is linear in its gradients: the columns are (y, x) of each lattice point, row by row.
    """
    corners = []
    for dy in (0, 1):
        for dx in (0, 1):
            i, j = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
            away_y, away_x = y - i, x - j
            weight = np.outer(_fade(1.0 - np.abs(away_y)), _fade(1.0 - np.abs(away_x)))
            point = (i[:, None] * cells + j).ravel()
            corners.append((point, (weight * away_y[:, None]).ravel(), (weight * away_x).ravel()))
    pixels = np.arange(len(y) * len(x))
    columns = np.concatenate([np.concatenate([2 * point, 2 * point + 1]) for point, _, _ in corners])
    values = np.concatenate([np.concatenate([down, right]) for _, down, right in corners])
    return sparse.csr_matrix((values, (np.tile(pixels, 8), columns)), shape=(len(pixels), 2 * cells * cells))


def _fade(t: FloatArray) -> FloatArray:
    return t**3 * (t * (6.0 * t - 15.0) + 10.0)


def _descend(design: sparse.csr_matrix, target: FloatArray) -> FloatArray:
    """Least squares with a small ridge, by gradient descent with Nesterov's momentum."""
    count = len(target)
    steepest = np.ones(design.shape[1]) / np.sqrt(design.shape[1])
    for _ in range(20):
        steepest = design.T @ (design @ steepest)
        largest = np.linalg.norm(steepest)
        steepest /= max(largest, 1e-12)
    rate = 1.0 / (largest / count + _RIDGE)
    found, ahead = np.zeros(design.shape[1]), np.zeros(design.shape[1])
    for n in range(_DESCENTS):
        slope = design.T @ (design @ ahead - target) / count + _RIDGE * ahead
        step = ahead - rate * slope
        ahead = step + n / (n + 3) * (step - found)
        found = step
    return found

"""Painting in optical density: nuclei with chromatin, rims and nucleoli; cytoplasm; unlabelled distractors."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.core.compiled import compiled
from wsiseg.synth.shapes import Float32, bounding_box, relative_radius

NOISE_SIZE = 512
# opacity, softness px, chromatin, pale centre, rim, rim width px, fine share, noise row, noise column, nucleoli
LOOK_FIELDS = 10
NUCLEOLUS_FIELDS = 4  # u, v (relative), radius px, strength
MAX_NUCLEOLI = 3


@lru_cache(maxsize=1)
def noise_fields() -> Float32:
    """Periodic Gaussian noise of unit variance, shape (4, 512, 512): grains of 0.8, 1.8, 5 and 16 pixels (σ)."""
    rng = np.random.default_rng(20240501)
    fields = []
    for sigma in (0.8, 1.8, 5.0, 16.0):
        field = ndimage.gaussian_filter(rng.normal(size=(NOISE_SIZE, NOISE_SIZE)), sigma, mode="wrap")
        fields.append(field / field.std())
    return np.stack(fields).astype(np.float32)


@lru_cache(maxsize=1)
def fibre_field() -> Float32:
    """Periodic noise that is long along x, unit variance, shape (512, 512)."""
    rng = np.random.default_rng(20240502)
    thin = ndimage.gaussian_filter(rng.normal(size=(NOISE_SIZE, NOISE_SIZE)), (1.6, 24.0), mode="wrap")
    wide = ndimage.gaussian_filter(rng.normal(size=(NOISE_SIZE, NOISE_SIZE)), (5.0, 40.0), mode="wrap")
    field = thin / thin.std() + 0.8 * wide / wide.std()
    return (field / field.std()).astype(np.float32)


@compiled
def paint_nucleus(
    density: Float32,
    shape: npt.NDArray[np.float64],
    colour: Float32,
    clear: Float32,
    look: Float32,
    nucleoli: Float32,
    noise: Float32,
) -> None:
    """Blend one nucleus of mean optical density ``colour`` (3,) into ``density`` (H, W, 3), in place.

    A pale centre has the optical density ``clear`` (3,) between the clumps of chromatin.
    """
    height, width, _ = density.shape
    i0, i1, j0, j1 = bounding_box(shape, height, width, look[1])
    for i in range(i0, i1):
        for j in range(j0, j1):
            _, d = relative_radius(shape, j + 0.5, i + 0.5)
            _paint_pixel(density, i, j, d, shape[0], shape[1], shape[3], colour, clear, look, nucleoli, noise)


@compiled
def paint_region(
    density: Float32,
    distance: Float32,
    origin: tuple[int, int],
    shape: npt.NDArray[np.float64],
    colour: Float32,
    clear: Float32,
    look: Float32,
    nucleoli: Float32,
    noise: Float32,
) -> None:
    """As :func:`paint_nucleus`, of any outline.

    ``distance`` (h, w) is the one to the border in pixels, positive inside, from the pixel ``origin`` (row,
    column) on; of ``shape`` only centre and semi-minor axis are used.
    """
    for i in range(distance.shape[0]):
        for j in range(distance.shape[1]):
            _paint_pixel(
                density, origin[0] + i, origin[1] + j, distance[i, j], shape[0], shape[1], shape[3],
                colour, clear, look, nucleoli, noise,
            )  # fmt: skip


@compiled
def _paint_pixel(
    density: Float32,
    i: int,
    j: int,
    d: float,
    x: float,
    y: float,
    semi_minor: float,
    colour: Float32,
    clear: Float32,
    look: Float32,
    nucleoli: Float32,
    noise: Float32,
) -> None:
    """One pixel at ``d`` px within the border of a nucleus around (x, y)."""
    opacity, soft, chromatin, pale, rim, rim_width, fine = (
        look[0],
        look[1],
        look[2],
        look[3],
        look[4],
        look[5],
        look[6],
    )
    row, column, count = int(look[7]), int(look[8]), int(look[9])
    alpha = 0.5 + d / soft
    if alpha <= 0.0:
        return
    alpha = opacity * min(alpha, 1.0)
    a, b = (i + row) % 512, (j + column) % 512
    grain = fine * noise[0, a, b] + (1.0 - fine) * noise[1, a, b] + 0.5 * noise[2, a, b]
    depth = min(max(d, 0.0) / (2.0 * rim_width), 1.0)
    level = 1.0 + chromatin * grain + rim * math.exp(-((d / rim_width) ** 2))
    for n in range(count):
        dx = (j + 0.5 - x) - nucleoli[n, 0] * semi_minor
        dy = (i + 0.5 - y) - nucleoli[n, 1] * semi_minor
        level += nucleoli[n, 3] * math.exp(-(dx * dx + dy * dy) / (nucleoli[n, 2] ** 2))
    level = max(level, 0.12)
    empty = min(max(pale * depth - 0.8 * (level - 1.0), 0.0), 1.0)
    for c in range(3):
        value = colour[c] * level + empty * (clear[c] - colour[c])
        density[i, j, c] += alpha * (max(value, 0.0) - density[i, j, c])


@compiled
def paint_body(
    density: Float32,
    shape: npt.NDArray[np.float64],
    colour: Float32,
    opacity: float,
    soft: float,
    noise: Float32,
    grain: float,
    row: int,
    column: int,
) -> None:
    """Blend a textured body (cytoplasm, halo, debris) into ``density`` (H, W, 3), in place."""
    height, width, _ = density.shape
    i0, i1, j0, j1 = bounding_box(shape, height, width, soft)
    for i in range(i0, i1):
        for j in range(j0, j1):
            _, d = relative_radius(shape, j + 0.5, i + 0.5)
            alpha = 0.5 + d / soft
            if alpha <= 0.0:
                continue
            alpha = opacity * min(alpha, 1.0)
            a, b = (i + row) % 512, (j + column) % 512
            level = max(1.0 + grain * (0.6 * noise[1, a, b] + 0.6 * noise[2, a, b]), 0.1)
            for c in range(3):
                density[i, j, c] += alpha * (colour[c] * level - density[i, j, c])


def paint_field(
    density: Float32, field: Float32, threshold: float, colour: Float32, opacity: float, soft: float
) -> None:
    """Blend ``colour`` where ``field`` (H, W) exceeds ``threshold``, with an edge ``soft`` field units wide."""
    alpha = opacity * np.clip(0.5 + (field - threshold) / soft, 0.0, 1.0)[..., None]
    density += alpha.astype(np.float32) * (colour - density)


def turned(field: Float32, size: int, angle: float, zoom: float, origin: tuple[float, float]) -> Float32:
    """A ``size`` × ``size`` piece of a periodic field, turned and enlarged."""
    c, s = math.cos(angle) / zoom, math.sin(angle) / zoom
    matrix = np.array([[c, -s], [s, c]])
    return ndimage.affine_transform(
        field, matrix, offset=origin, output_shape=(size, size), order=1, mode="grid-wrap"
    )


def blend(a: Float32, b: Float32, weight: float) -> Float32:
    """From ``a`` (3,) by ``weight`` of the way to ``b``."""
    return (a + weight * (b - a)).astype(np.float32)


def paint_random_body(
    rng: np.random.Generator,
    density: Float32,
    shape: npt.NDArray[np.float64],
    colour: Float32,
    opacity: float,
    grain: float,
) -> None:
    """:func:`paint_body` with an edge and a grain at random."""
    row, column = (int(v) for v in rng.integers(0, NOISE_SIZE, 2))
    paint_body(density, shape, colour, opacity, float(rng.lognormal(1.6, 0.7)), noise_fields(), grain, row, column)

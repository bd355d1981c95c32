"""Wavy lines across a patch, and spots on a grid or in an outline: what the scenes are laid out by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.synth.paint import NOISE_SIZE, fibre_field, noise_fields, turned
from wsiseg.synth.shapes import Float32, place_shapes

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Flow:
    """Lines v = A sin(k u + p) + B sin(m u + n v + q) in axes turned by ``angle``; lengths in pixels."""

    angle: float
    wave: tuple[float, float, float]
    second: tuple[float, float, float, float]

    def lines(self, x: Float32, y: Float32) -> tuple[Float32, Float32]:
        """Coordinates along and across the lines."""
        u, v = self._axes(x, y)
        (a, k, p), (b, m, n, q) = self.wave, self.second
        return u, v - a * np.sin(k * u + p) - b * np.sin(m * u + n * v + q)

    def direction(self, x: float, y: float) -> float:
        u, v = self._axes(x, y)
        (a, k, p), (b, m, n, q) = self.wave, self.second
        return self.angle + math.atan(a * k * math.cos(k * u + p) + b * m * math.cos(m * u + n * v + q))

    def _axes(self, x, y):  # type: ignore[no-untyped-def]  # numbers and arrays alike
        c, s = math.cos(self.angle), math.sin(self.angle)
        return c * x + s * y, c * y - s * x


def sample_flow(rng: np.random.Generator, mpp: float) -> Flow:
    """Waves of 40–200 µm, up to steep; nearly straight now and then."""
    k = 2 * math.pi / (rng.uniform(40, 160) / mpp)
    m = 2 * math.pi / (rng.uniform(80, 250) / mpp)
    steep, also = rng.choice([0.05, 0.35, 0.8]) * rng.uniform(0.5, 1.2), rng.uniform(0.0, 0.4)
    phases = rng.uniform(0, 2 * math.pi, 2)
    return Flow(
        float(rng.uniform(0, math.pi)),
        (steep / k, k, float(phases[0])),
        (also / m, m, float(rng.uniform(-1, 1)) * m, float(phases[1])),
    )


def grid(size: int) -> tuple[Float32, Float32]:
    """x and y of the centres of the pixels, float32 (size, size) each."""
    axis = np.arange(size, dtype=np.float32) + 0.5
    x, y = np.meshgrid(axis, axis)
    return x, y


def strands(rng: np.random.Generator, flow: Flow, size: int, zoom: float) -> Float32:
    """Fibres along ``flow``, of unit variance, (size, size): of uneven width, here and there entangled."""
    u, v = flow.lines(*grid(size))
    for grain, reach, scale in ((3, (2.0, 9.0), (0.8, 2.0)), (2, (0.5, 2.5), (1.0, 2.0))):
        noise = turned(noise_fields()[grain], size, rng.uniform(0, 6), rng.uniform(*scale), random_origin(rng))
        v = v + rng.uniform(*reach) * noise
    row, column = random_origin(rng)
    across, lengthwise = v / zoom + row, rng.uniform(1.0, 3.0) * u / zoom + column
    return ndimage.map_coordinates(
        fibre_field(), [across, lengthwise], order=1, mode="grid-wrap", output=np.float32
    )


def random_origin(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(0, NOISE_SIZE)), float(rng.uniform(0, NOISE_SIZE))


def region(rng: np.random.Generator, size: int, share: tuple[float, float], soft: float = 0.25) -> Float32:
    """Weights 0–1 (size, size) of one smooth part of a patch, between those shares of it."""
    wanted = rng.uniform(*share)
    if wanted >= 1.0:
        return np.ones((size, size), dtype=np.float32)
    field = turned(noise_fields()[3], size, rng.uniform(0, 6), rng.uniform(2.5, 5.0), random_origin(rng))
    level = float(np.quantile(field[::4, ::4], 1.0 - wanted))
    return np.clip(0.5 + (field - level) / soft, 0.0, 1.0).astype(np.float32)


def hexagonal(rng: np.random.Generator, size: int, pitch: float, jitter: float, margin: float = 1.0) -> FloatArray:
    """Spots (N, 2), x and y, of a turned and shaken hexagonal grid that reaches ``margin`` pitches beyond."""
    reach = 0.75 * size + (margin + 1) * pitch
    axis = np.arange(-reach, reach, pitch)
    x, y = np.meshgrid(axis, axis * math.sqrt(0.75))
    x = x + 0.5 * pitch * (np.arange(len(axis))[:, None] % 2)
    angle = rng.uniform(0, math.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    spots = np.stack([x.ravel(), y.ravel()], axis=1) @ turn + size / 2 + rng.uniform(-pitch, pitch, 2)
    spots = spots + rng.normal(0, jitter * pitch, spots.shape)
    edge = margin * pitch
    spots = spots[((spots > -edge) & (spots < size + edge)).all(axis=1)]
    rng.shuffle(spots)
    return spots


def value_at(field: npt.NDArray[Any], spots: FloatArray) -> npt.NDArray[Any]:
    """``field`` (H, W) at ``spots`` (N, 2); beyond its edge that of the edge."""
    j, i = (np.clip(spots[:, k].astype(int), 0, field.shape[1 - k] - 1) for k in (0, 1))
    return field[i, j]


def inside(outline: FloatArray, size: int) -> Mask:
    """The pixels of one outline."""
    labels = np.zeros((size, size), dtype=np.int32)
    place_shapes(labels, outline[None], np.zeros(1), 1)
    return labels > 0

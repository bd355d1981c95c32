"""How the colours of a patch are varied: stains, exposure, blur, JPEG and noise, each by the recipe's strength."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.train.settings import Augment
from wsiseg.train.views import mirrored

Image = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

# Rows: optical density of haematoxylin, eosin and a residual (Ruifrok & Johnston 2001).
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_UNIT = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
DENSITY = -np.log((np.arange(256) + 1) / 256).astype(np.float32)
_BLUR_REACH = 4  # at least


@dataclass(frozen=True)
class Restaining:
    """Optical densities that are mixed and shifted, and the brightness of the channels.

    Attributes
    ----------
    matrix : float32 array (3, 3)
        New densities by old ones.
    shift, light : float32 array (3,)
        What is added to the densities, and what the light is multiplied with.
    """

    matrix: Float32
    shift: Float32
    light: Float32

    @classmethod
    def by(cls, matrix: npt.NDArray[np.floating[Any]]) -> Restaining:
        """Densities times ``matrix``, nothing else."""
        mixing = np.ascontiguousarray(matrix, dtype=np.float32)
        return cls(mixing, np.zeros(3, np.float32), np.ones(3, np.float32))


@dataclass(frozen=True)
class Variation:
    """What was drawn for the colours of one patch, in the order in which it is done.

    Attributes
    ----------
    stains : Restaining or None
    blur_px : float
        Standard deviation; 0: none.
    jpeg_quality : int
        0: no JPEG.
    noise : float
        Standard deviation in grey levels; 0: none.
    noise_seed : int
    transport : Restaining or None
        Another patch's stains, before all else.
    """

    stains: Restaining | None
    blur_px: float
    jpeg_quality: int
    noise: float
    noise_seed: int
    transport: Restaining | None = None


def vary_colours(rng: np.random.Generator, image: Image, augment: Augment) -> Image:
    """Another rendering of an image uint8 (h, w, 3), by draws of ``rng``."""
    return varied(image, draw_variation(rng, augment))


def draw_variation(rng: np.random.Generator, augment: Augment) -> Variation:
    """What ``augment`` does to one patch."""
    # Every draw is made whether it is used or not: one setting leaves the others' draws alone.
    gain, shift, light = rng.standard_normal((3, 3))
    chances, amounts = rng.random(3), rng.random(3)
    noise_seed = int(rng.integers(2**63))
    stains = None
    if augment.stain > 0 or augment.shift > 0 or augment.exposure > 0:
        # One matrix: take the stains apart, scale each, put them together again.
        matrix = np.linalg.inv(_UNIT) @ np.diag(np.exp(augment.stain * gain)) @ _UNIT
        stains = Restaining(
            np.ascontiguousarray(matrix.T, dtype=np.float32),
            (augment.shift * shift).astype(np.float32),
            np.exp(augment.exposure * light).astype(np.float32),
        )
    blur_px = _between(augment.blur_px, amounts[0]) if chances[0] < augment.blur else 0.0
    quality = round(_between(augment.jpeg_quality, amounts[1])) if chances[1] < augment.jpeg else 0
    noise = augment.noise_level * amounts[2] if chances[2] < augment.noise else 0.0
    return Variation(stains, float(blur_px), quality, float(noise), noise_seed)


def varied(image: Image, variation: Variation) -> Image:
    """An image uint8 (h, w, 3) in other colours."""
    image = np.asarray(image)
    for stains in (variation.transport, variation.stains):
        if stains is not None:
            image = restain(image, stains)
    if variation.blur_px > 0:
        image = blur(image, variation.blur_px)
    if variation.jpeg_quality > 0:
        image = recompress(image, variation.jpeg_quality)
    if variation.noise > 0:
        field = np.random.default_rng(variation.noise_seed).standard_normal(image.shape, dtype=np.float32)
        noisy = image + np.float32(variation.noise) * field
        image = np.clip(noisy + np.float32(0.5), 0, 255).astype(np.uint8)
    return image


def _between(ends: tuple[float, float], share: float) -> float:
    low, high = ends
    return low + (high - low) * share


def blur(image: Image, sigma_px: float) -> Image:
    """A Gaussian over an image uint8 (h, w, 3), mirrored at its border."""
    return _blur(np.ascontiguousarray(image), blur_taps(sigma_px))


def blur_taps(sigma_px: float) -> Float32:
    """The weights of a Gaussian, float32 of odd length: as far as 3σ, and ``_BLUR_REACH`` px at least."""
    far = max(_BLUR_REACH, math.ceil(3 * sigma_px))
    reach = np.arange(-far, far + 1)
    taps = np.exp(-0.5 * (reach / sigma_px) ** 2)
    return (taps / taps.sum()).astype(np.float32)


def recompress(image: Image, quality: int) -> Image:
    """An image uint8 (h, w, 3) as JPEG leaves it."""
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Pillow.open(stream))


def restain(image: Image, stains: Restaining) -> Image:
    """An image uint8 (h, w, 3) in other densities and another light."""
    return _restain(np.ascontiguousarray(image), DENSITY, stains.matrix, stains.shift, stains.light)


@compiled
def _restain(image: Image, table: Float32, matrix: Float32, shift: Float32, light: Float32) -> Image:
    out = np.empty_like(image)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            r, g, b = table[image[i, j, 0]], table[image[i, j, 1]], table[image[i, j, 2]]
            for c in range(3):
                density = matrix[c, 0] * r + matrix[c, 1] * g + matrix[c, 2] * b + shift[c]
                value = (np.exp(-density) * np.float32(256) - np.float32(1)) * light[c] + np.float32(0.5)
                out[i, j, c] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))
    return out


@compiled
def _blur(image: Image, taps: Float32) -> Image:
    height, width, channels = image.shape
    reach = len(taps) // 2
    rows = np.zeros((height, width, channels), dtype=np.float32)
    for i in range(height):
        for k in range(-reach, reach + 1):
            y = mirrored(i + k, height)
            weight = taps[k + reach]
            for j in range(width):
                for c in range(channels):
                    rows[i, j, c] += weight * image[y, j, c]
    out = np.empty_like(image)
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                total = np.float32(0.5)
                for k in range(-reach, reach + 1):
                    total += taps[k + reach] * rows[i, mirrored(j + k, width), c]
                out[i, j, c] = np.uint8(min(max(total, np.float32(0)), np.float32(255)))
    return out

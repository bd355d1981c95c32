"""How the colours of a patch are varied: stains, exposure, blur, JPEG and noise, each by the recipe's strength."""

from __future__ import annotations

import io
import math
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


def vary_colours(rng: np.random.Generator, image: Image, augment: Augment) -> Image:
    """Another rendering of an image uint8 (h, w, 3), by draws of ``rng``."""
    # Every draw is made whether it is used or not: one setting leaves the others' draws alone.
    gain, shift, light = rng.standard_normal((3, 3))
    chances, amounts = rng.random(3), rng.random(3)
    noise_seed = int(rng.integers(2**63))
    varied = np.asarray(image)
    if augment.stain > 0 or augment.shift > 0 or augment.exposure > 0:
        # One matrix: take the stains apart, scale each, put them together again.
        matrix = np.linalg.inv(_UNIT) @ np.diag(np.exp(augment.stain * gain)) @ _UNIT
        varied = _restain(
            np.ascontiguousarray(image),
            DENSITY,
            np.ascontiguousarray(matrix.T, dtype=np.float32),
            (augment.shift * shift).astype(np.float32),
            np.exp(augment.exposure * light).astype(np.float32),
        )
    if chances[0] < augment.blur:
        low, high = augment.blur_px
        varied = blur(varied, low + (high - low) * amounts[0])
    if chances[1] < augment.jpeg:
        low, high = augment.jpeg_quality
        varied = recompress(varied, round(low + (high - low) * amounts[1]))
    if chances[2] < augment.noise:
        field = np.random.default_rng(noise_seed).standard_normal(varied.shape, dtype=np.float32)
        noisy = varied + np.float32(augment.noise_level * amounts[2]) * field
        varied = np.clip(noisy + np.float32(0.5), 0, 255).astype(np.uint8)
    return varied


def blur(image: Image, sigma_px: float) -> Image:
    """A Gaussian over an image uint8 (h, w, 3), mirrored at its border."""
    far = max(_BLUR_REACH, math.ceil(3 * sigma_px))
    reach = np.arange(-far, far + 1)
    taps = np.exp(-0.5 * (reach / sigma_px) ** 2)
    return _blur(np.ascontiguousarray(image), (taps / taps.sum()).astype(np.float32))


def recompress(image: Image, quality: int) -> Image:
    """An image uint8 (h, w, 3) as JPEG leaves it."""
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Pillow.open(stream))


def mix_densities(image: Image, matrix: npt.NDArray[np.floating[Any]]) -> Image:
    """The image uint8 (h, w, 3) whose optical densities are ``matrix`` (3, 3) times those of ``image``."""
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    return _restain(np.ascontiguousarray(image), DENSITY, matrix, np.zeros(3, np.float32), np.ones(3, np.float32))


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

"""Artefacts drawn over a picture of tissue, each with the pixels that it takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def defocus(image: Pixels, where: Mask, sigma_px: float) -> Pixels:
    """The picture (h, w, 3) out of focus ``where``: a Gaussian of ``sigma_px``."""
    blurred = ndimage.gaussian_filter(image, (sigma_px, sigma_px, 0), mode="nearest", truncate=3.0)
    return np.where(where[..., None], blurred, image)


def ink(image: Pixels, where: Mask, colour: tuple[int, int, int]) -> Pixels:
    """Translucent ink ``where``: what is below shines through."""
    return np.where(where[..., None], (image / 255.0 * np.array(colour)).astype(np.uint8), image)


def fold(image: Pixels, where: Mask, shift_px: int) -> Pixels:
    """Twice the tissue ``where``: optical densities of the place and of one ``shift_px`` beside it are summed."""
    twice = (image / 255.0 * np.roll(image, shift_px, axis=1)).astype(np.uint8)
    return np.where(where[..., None], np.maximum(twice, 8), image)


def bubble(image: Pixels, x: float, y: float, radius_px: float, rim_px: float) -> tuple[Pixels, Mask]:
    """An air bubble: a grey rim, and what is inside out of focus; with the mask (h, w) of all of it."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    distance = np.hypot(columns - x, rows - y)
    inside = distance < radius_px
    rim = inside & (distance > radius_px - rim_px)
    drawn = defocus(image, inside, rim_px / 4)
    return np.where(rim[..., None], (drawn * 0.15).astype(np.uint8), drawn), inside

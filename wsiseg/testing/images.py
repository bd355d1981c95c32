"""Pictures drawn for a purpose: smooth colours that compress well, and stains in known amounts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

RGB = npt.NDArray[np.uint8]
HEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])


def texture(height: int, width: int, seed: int = 0, period: int = 8) -> RGB:
    """Smooth colours, so that JPEG blocks hold something and neighbours differ."""
    shape = (height // period + 2, width // period + 2, 3)
    small = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def stained(seed: int, size: int = 160, discs: int = 12) -> RGB:
    """Textured eosin with discs of haematoxylin, uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    pink = 0.25 + 0.12 * ndimage.gaussian_filter(rng.normal(0, 6, (size, size)), 2)
    blue = np.zeros((size, size))
    y, x = np.mgrid[:size, :size]
    for cy, cx in rng.uniform(10, size - 10, (discs, 2)):
        blue[np.hypot(y - cy, x - cx) < 8] = 0.8
    density = np.maximum(pink, 0)[..., None] * EOSIN + ndimage.gaussian_filter(blue, 0.7)[..., None] * HEMATOXYLIN
    return np.clip(255 * 10**-density, 0, 255).astype(np.uint8)

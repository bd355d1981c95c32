"""Maps as a network gives them for nuclei that are known: perfect ones, and ones disturbed by smooth noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Labels = npt.NDArray[np.int32]
Maps = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def discs(size: int, seed: int, spacing: int = 14, radii: tuple[int, int] = (5, 8)) -> Labels:
    """Labels (2·size)² of discs that touch, with centres on a jittered lattice, in half-pixels of the maps."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: 2 * size, : 2 * size] + 0.5
    labels, nearest = np.zeros(y.shape, np.int32), np.full(y.shape, np.inf)
    name = 0
    for cy in np.arange(spacing / 2, size, spacing):
        for cx in np.arange(spacing / 2, size, spacing):
            name += 1
            r = 2 * rng.uniform(*radii)
            py, px = 2 * (np.array([cy, cx]) + rng.uniform(-2, 2, 2))
            distance = np.hypot(y - py, x - px) / r
            inside = (distance < 1) & (distance < nearest)
            labels[inside], nearest[inside] = name, distance[inside]
    return labels


def perfect_maps(labels: Labels) -> Maps:
    """Foreground and offsets at half the labels' resolution, as a faultless network would give them."""
    height, width = labels.shape[0] // 2, labels.shape[1] // 2
    quads = labels.reshape(height, 2, width, 2).transpose(0, 2, 1, 3).reshape(height, width, 4)
    foreground = (quads > 0).mean(-1).astype(np.float32)
    name = quads.max(-1)
    index = np.arange(labels.max() + 1)
    count = np.maximum(ndimage.sum_labels(np.ones(labels.shape), labels, index), 1)
    rows, columns = np.indices(labels.shape)
    cy = (ndimage.sum_labels(rows, labels, index) / count + 0.5) / 2 - 0.5
    cx = (ndimage.sum_labels(columns, labels, index) / count + 0.5) / 2 - 0.5
    i, j = np.indices(name.shape)
    return foreground, (np.stack([cy[name] - i, cx[name] - j]) * (name > 0)).astype(np.float32)


def disturbed(maps: Maps, seed: int, offset_px: float = 1.5, foreground: float = 0.08) -> Maps:
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.normal(size=maps[0].shape), 3) for _ in range(3)]
    noise = [part / part.std() for part in noise]
    soft = np.clip(ndimage.gaussian_filter(maps[0], 0.7) + foreground * noise[0], 0, 1)
    return soft.astype(np.float32), (maps[1] + offset_px * np.stack(noise[1:])).astype(np.float32)

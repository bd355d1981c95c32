"""Maps as networks give them for nuclei that are known: perfect ones, and ones disturbed by smooth noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Labels = npt.NDArray[np.int32]
RAYS = 32
Plane = npt.NDArray[np.float32]
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


def ellipses(size: int, seed: int, spacing: int = 22) -> Labels:
    """Labels (size, size) of ellipses that touch, on a jittered lattice."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] + 0.5
    labels, nearest = np.zeros((size, size), np.int32), np.full((size, size), np.inf)
    centres = [(cy, cx) for cy in np.arange(spacing, size, spacing) for cx in np.arange(spacing, size, spacing)]
    for name, centre in enumerate(centres):
        cy, cx = centre + rng.uniform(-2, 2, 2)
        a, b = rng.uniform(0.42, 0.62, 2) * spacing
        turn = rng.uniform(0, np.pi)
        u, v = np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy), np.cos(turn) * (y - cy) - np.sin(turn) * (x - cx)
        distance = np.hypot(u / a, v / b)
        inside = (distance < 1) & (distance < nearest)
        labels[inside], nearest[inside] = name + 1, distance[inside]
    return labels


def noise(shape: tuple[int, int], seed: int, sigma: float = 2.0) -> Plane:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return (field / field.std()).astype(np.float32)


def hover_maps(labels: Labels, seed: int, level: float = 0.05) -> Maps:
    """Foreground and distances as a good network gives them: blurred and disturbed."""
    distances = np.zeros((2, *labels.shape), np.float32)
    for name, window in enumerate(ndimage.find_objects(labels)):
        if window is None:
            continue
        inside = labels[window] == name + 1
        for axis, part in ((1, 0), (0, 1)):
            offset = np.nonzero(inside)[axis] - np.nonzero(inside)[axis].mean()
            side = np.where(offset < 0, -offset.min(), offset.max())
            distances[part][window][inside] = offset / np.maximum(side, 1e-6)
    foreground = ndimage.gaussian_filter((labels > 0).astype(np.float32), 0.7) + level * noise(labels.shape, seed)
    blurred = [ndimage.gaussian_filter(part, 0.7) for part in distances]
    disturbed = [part + level * noise(labels.shape, seed + k) for k, part in enumerate(blurred)]
    return np.clip(foreground, 0, 1).astype(np.float32), np.stack(disturbed).astype(np.float32)


def star_maps(labels: Labels, level: float = 0.0, seed: int = 0) -> Maps:
    """Probability, 1 at the deepest pixel of a nucleus, and rays found by steps of an eighth of a pixel."""
    probability = np.zeros(labels.shape, np.float32)
    padded = np.pad(labels, 1)
    for name, window in enumerate(ndimage.find_objects(padded)):
        if window is None:
            continue
        depth = ndimage.distance_transform_edt(padded[window] == name + 1)
        inner = tuple(slice(part.start - 1, part.stop - 1) for part in window)
        probability[inner] = np.maximum(probability[inner], depth / depth.max())
    rays = np.zeros((RAYS, *labels.shape), np.float32)
    i, j = np.nonzero(labels)
    for k in range(RAYS):
        angle, a, b = 2 * np.pi * k / RAYS, i, j  # those whose ray is still inside
        for length in np.arange(0.125, 30, 0.125):
            y = np.floor(a + 0.5 + length * np.sin(angle)).astype(int)
            x = np.floor(b + 0.5 + length * np.cos(angle)).astype(int)
            inside = (y >= 0) & (y < labels.shape[0]) & (x >= 0) & (x < labels.shape[1])
            inside[inside] = labels[y[inside], x[inside]] == labels[a[inside], b[inside]]
            a, b = a[inside], b[inside]
            rays[k, a, b] = length
            if not len(a):
                break
    rng = np.random.default_rng(seed)
    return probability, (rays * (1 + level * rng.normal(size=rays.shape))).astype(np.float32)


def seed_maps(labels: Labels, seed: int) -> Maps:
    detection = np.zeros(labels.shape, np.float32)
    centres = np.round(ndimage.center_of_mass(labels > 0, labels, np.unique(labels)[1:])).astype(int)
    detection[tuple(centres.T)] = 1
    detection = ndimage.gaussian_filter(ndimage.grey_dilation(detection, (3, 3)), 0.7)
    segmentation = ndimage.gaussian_filter((labels > 0).astype(np.float32), 1) + 0.05 * noise(labels.shape, seed)
    return detection, np.clip(segmentation, 0, 1).astype(np.float32)

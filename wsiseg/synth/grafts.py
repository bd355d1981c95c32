"""Real nuclei in rendered patches: cut out of textures where a network was sure of them, and set elsewhere.

Drawn nuclei have drawn chromatin. A graft has real chromatin and a real rim; its label is as good as the network
that found it, so only sure and compact nuclei are cut (as in copy-paste augmentation [1]_).

References
----------
.. [1] Ghiasi et al. 2021, Simple Copy-Paste, doi:10.1109/CVPR46437.2021.00294.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.synth.shapes import Float32, Int32

_PAD_PX = 6
_AREA_PX = (90, 6000)
_MIN_SOLIDITY = 0.93
_MAX_OVERLAP = 0.12
_FEATHER_PX = 1.2

Mask = npt.NDArray[np.bool_]
Spots = list[tuple[float, float]]


@dataclass(frozen=True)
class Graft:
    """One nucleus at 0.25 µm a pixel: ``mask`` bool (h, w), and ``density`` float32 (h, w, 3) of the whole box."""

    density: Float32
    mask: Mask


def cut_grafts(density: Float32, labels: Int32) -> list[Graft]:
    """The nuclei ``labels`` (H, W) of a texture of optical density (H, W, 3) that are whole and compact."""
    grafts = []
    for n, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        rows, columns = (slice(s.start - _PAD_PX, s.stop + _PAD_PX) for s in box)
        if rows.start < 0 or columns.start < 0 or rows.stop > labels.shape[0] or columns.stop > labels.shape[1]:
            continue
        mask = labels[rows, columns] == n
        if _AREA_PX[0] <= mask.sum() <= _AREA_PX[1] and _solidity(mask) >= _MIN_SOLIDITY:
            grafts.append(Graft(density[rows, columns].copy(), mask))
    return grafts


def set_grafts(
    rng: np.random.Generator,
    density: Float32,
    labels: Int32,
    grafts: Sequence[Graft],
    count: int,
    colour: Float32,
) -> None:
    """Set up to ``count`` grafts into free places of a patch, in place; they get the next labels.

    Parameters
    ----------
    density : float32 array (H, W, 3)
        Optical density of the patch.
    labels : int32 array (H, W)
    grafts : sequence of Graft
    colour : float32 array (3,)
        Optical density of the patch's own nuclei, toward which each graft's is moved by a random part.
    """
    crowded = rng.random() < 0.5
    spots: Spots = []
    label = int(labels.max()) + 1
    for _ in range(5 * count + 20):
        if count == 0:
            break
        graft = grafts[int(rng.integers(len(grafts)))]
        pixels, mask = _turned(rng, graft)
        corner = _corner(rng, labels.shape, mask.shape, spots if crowded else [])
        place, part = _common(corner, mask.shape, labels.shape)
        inside, taken = mask[part] > 0.5, labels[place] > 0
        area = int(inside.sum())
        if area < 12 or (inside & taken).sum() > _MAX_OVERLAP * area:
            continue
        alpha = _alpha(mask > 0.5)[part] * ~taken
        # Where another nucleus lies, this one is behind it; the cut between them is feathered a little.
        alpha = ndimage.gaussian_filter(alpha.astype(np.float32), 0.6)[..., None]
        own = graft.density[graft.mask].mean(axis=0)
        gain = (np.maximum(colour, 0.05) / np.maximum(own, 0.05)) ** rng.uniform(0.0, 0.9)
        gain = (gain * math.exp(rng.normal(0.0, 0.08))).astype(np.float32)
        density[place] += alpha * (pixels[part] * gain - density[place])
        labels[place][inside & ~taken] = label
        spots.append((corner[0] + mask.shape[0] / 2, corner[1] + mask.shape[1] / 2))
        label += 1
        count -= 1


def _turned(rng: np.random.Generator, graft: Graft) -> tuple[Float32, Float32]:
    """The graft turned, mirrored and enlarged at random: pixels (s, s, 3) and mask (s, s) in 0–1."""
    angle, zoom = rng.uniform(0, 2 * math.pi), math.exp(rng.uniform(-0.2, 0.2))
    mirror = 1 if rng.random() < 0.5 else -1
    shape = np.array(graft.mask.shape)
    side = math.ceil(math.hypot(*shape) * zoom) + 1
    c, s = math.cos(angle) / zoom, math.sin(angle) / zoom
    matrix = np.array([[c, -s * mirror], [s, c * mirror]])
    offset = (shape - 1) / 2 - matrix @ np.full(2, (side - 1) / 2)
    mask = ndimage.affine_transform(graft.mask.astype(np.float32), matrix, offset, (side, side), order=1)
    channels = [
        ndimage.affine_transform(graft.density[..., k], matrix, offset, (side, side), order=1, mode="nearest")
        for k in range(3)
    ]
    return np.stack(channels, axis=2), mask


def _corner(
    rng: np.random.Generator, patch: tuple[int, ...], graft: tuple[int, ...], spots: Spots
) -> tuple[int, int]:
    """Where the upper left corner goes: anywhere, or beside one of ``spots``."""
    if spots and rng.random() < 0.8:
        y, x = spots[int(rng.integers(len(spots)))]
        y, x = y + rng.normal(0, 0.6 * graft[0]), x + rng.normal(0, 0.6 * graft[1])
    else:
        y, x = rng.uniform(0, patch[0]), rng.uniform(0, patch[1])
    return int(y) - graft[0] // 2, int(x) - graft[1] // 2


def _common(
    corner: tuple[int, int], graft: tuple[int, ...], patch: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the patch that the graft covers, and the part of the graft on the patch."""
    place, part = [], []
    for start, length, end in zip(corner, graft, patch, strict=True):
        low, high = max(start, 0), max(min(start + length, end), max(start, 0))
        place.append(slice(low, high))
        part.append(slice(low - start, high - start))
    return (place[0], place[1]), (part[0], part[1])


def _alpha(mask: Mask) -> Float32:
    wide = ndimage.binary_dilation(mask, iterations=2).astype(np.float32)
    return np.clip(ndimage.gaussian_filter(wide, _FEATHER_PX), 0.0, 1.0)


def _solidity(mask: Mask) -> float:
    """Area over that of the convex hull of the pixels' centres."""
    from scipy.spatial import ConvexHull

    points = np.argwhere(mask)
    return float(len(points) / max(ConvexHull(points).volume, 1.0))

"""Targets and augmentation: exact symmetries before the centres are computed, colour on whole batches."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from wsiseg.train.patches import KNOWN, OUTSIDE, PatchPool

# Rows: optical density of haematoxylin, eosin and a residual (Ruifrok & Johnston 2001).
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def targets(
    labels: npt.NDArray[np.int16], covered: npt.NDArray[np.uint8], known: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Foreground, offset y, offset x, depth, weight of the foreground, weight of the offsets: float32 (6, h, w).

    Offsets lead to the centroid, in pixels. A nucleus that the border of the patch or of its image cuts has an
    unknown centroid: its offsets have weight 0. A mirrored or turned patch must be mirrored or turned before this
    is called.
    """
    ids = np.ascontiguousarray(labels).astype(np.int64)
    count = int(ids.max()) + 1
    height, width = ids.shape
    flat = ids.ravel()
    area = np.maximum(np.bincount(flat, minlength=count), 1)
    rows, columns = np.divmod(np.arange(flat.size), width)
    cy = np.bincount(flat, rows, count) / area
    cx = np.bincount(flat, columns, count) / area
    cut = np.zeros(count, dtype=bool)
    for edge in (ids[0], ids[-1], ids[:, 0], ids[:, -1]):
        cut[edge] = True
    if (known == OUTSIDE).any():
        cut[ids[ndimage.binary_dilation(known == OUTSIDE)]] = True
    inside = ids > 0
    out = np.zeros((6, height, width), dtype=np.float32)
    out[0] = covered / 255.0
    out[1] = np.where(inside, (cy[flat] - rows).reshape(ids.shape), 0)
    out[2] = np.where(inside, (cx[flat] - columns).reshape(ids.shape), 0)
    out[3] = _depth(ids, count)
    out[4] = known == KNOWN
    out[5] = inside & ~cut[ids]
    return out


def crop(
    pool: PatchPool, index: int, side: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """One of the eight symmetries of a patch, then a random crop: image (s, s, 3) and targets (6, s, s)."""
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    arrays = [pool.images[index], pool.labels[index], pool.covered[index], pool.known[index]]
    arrays = [np.rot90(a[:, ::-1] if mirror else a, turns) for a in arrays]
    target = targets(arrays[1], arrays[2], arrays[3])
    y, x = (int(rng.integers(0, n - side + 1)) for n in arrays[0].shape[:2])
    return arrays[0][y : y + side, x : x + side], target[:, y : y + side, x : x + side]


def colour_jitter(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Stain, exposure, blur and noise jitter of a batch, float (N, 3, h, w) in 0–255; the same range comes back."""
    n = images.shape[0]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    stains = torch.tensor(STAINS, dtype=torch.float32)
    stains = stains / stains.norm(dim=1, keepdim=True)
    density = -torch.log((images.clamp(0, 255) + 1) / 256)
    # One 3 × 3 matrix an image: unmix, scale the three stains, mix again.
    gain = torch.exp(strength * 0.16 * normal(n, 3))
    matrix = torch.linalg.inv(stains) @ torch.diag_embed(gain) @ stains
    density = torch.einsum("nchw,ncd->ndhw", density, matrix)
    density = density + strength * 0.03 * normal(n, 3, 1, 1)
    out = torch.exp(-density) * 256 - 1
    out = out * torch.exp(strength * 0.05 * normal(n, 3, 1, 1))
    if torch.rand(1, generator=generator).item() < 0.25:
        sigma = 0.3 + 0.7 * torch.rand(1, generator=generator).item()
        out = _blur(out, sigma)
    if torch.rand(1, generator=generator).item() < 0.3:
        out = out + 5 * torch.rand(1, generator=generator).item() * torch.randn(out.shape, generator=generator)
    return out.clamp(0, 255)


def _depth(labels: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float32]:
    """Distance to the nucleus' border over its largest distance, 0 … 1."""
    border = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        before = [slice(None), slice(None)]
        after = [slice(None), slice(None)]
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        border[tuple(before)] |= differs
        border[tuple(after)] |= differs
    if not border.any():
        return (labels > 0).astype(np.float32)
    distance = ndimage.distance_transform_edt(~border) + 1.0
    distance[labels == 0] = 0
    largest = np.ones(count)
    np.maximum.at(largest, labels.ravel(), distance.ravel())
    return (distance / largest[labels]).astype(np.float32)


def _blur(images: Tensor, sigma: float) -> Tensor:
    reach = torch.arange(-2, 3, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (reach / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    rows = torch.nn.functional.conv2d(padded, kernel.view(1, 1, 1, 5).expand(3, 1, 1, 5), groups=3)
    return torch.nn.functional.conv2d(rows, kernel.view(1, 1, 5, 1).expand(3, 1, 5, 1), groups=3)


def network_input(images: Tensor) -> Tensor:
    """0 … 255 to -1 … 1, as the networks expect."""
    return images / 127.5 - 1.0


def learning_rate(step: int, steps: int, peak: float, warmup: int = 60) -> float:
    """Linear warm-up, then one cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

"""The votes' decoder on a device: what :func:`decode_offsets` does, by torch.

Votes are accumulated by ``index_add_``, seeds are maxima of ``max_pool2d``, pixels are assigned by gathering from
the map of nearest seeds. The compiled decoder is the oracle: labels agree but where two values are equal up to
rounding: votes are added in another order, on CUDA in none that is fixed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsiseg.core.nuclei import Nuclei
from wsiseg.models.decoders.maps import Map, kernel_radius
from wsiseg.models.decoders.offsets import OffsetDecoder


def decode_on_device(decoder: OffsetDecoder, foreground: Map, offsets: Map, device: str) -> Nuclei:
    """What ``decoder.decode`` gives, labelled on ``device``; outlines are traced on the processor."""
    maps = [torch.from_numpy(np.ascontiguousarray(value)).to(device) for value in (foreground, offsets)]
    labels, scores = decode_offsets_on_device(maps[0], maps[1], decoder)
    return decoder.nuclei(labels.cpu().numpy(), scores.cpu().numpy())


@torch.inference_mode()
def decode_offsets_on_device(foreground: Tensor, offsets: Tensor, params: OffsetDecoder) -> tuple[Tensor, Tensor]:
    """Label every foreground pixel with the seed that it votes for.

    Parameters
    ----------
    foreground : float32 (h, w)
        Probability of a nucleus.
    offsets : float32 (2, h, w)
        dy, dx in pixels from each pixel's centre to the centroid of its nucleus.
    params : OffsetDecoder

    Returns
    -------
    labels : int32 (upsample · h, upsample · w)
        1 … N, the seeds in raster order; 0 is background.
    scores : float32 (N,)
        Mean foreground probability of each label's pixels, 0 for a label without pixels.
    """
    density = _smooth(_votes(foreground, offsets, params), params.vote_sigma_px)
    seeds = _maxima(density, params.seed_radius_px, params.min_votes)
    nearest = _nearest_seed(seeds, foreground.shape, params.assign_radius_px)
    return _assign(foreground, offsets, nearest, len(seeds), params)


def _votes(foreground: Tensor, offsets: Tensor, params: OffsetDecoder) -> Tensor:
    """Density of the points voted for, each split between the four pixels around it."""
    height, width = foreground.shape
    reach = torch.tensor(params.reach_px, dtype=torch.float32)
    dy, dx = offsets
    voting = (foreground > params.threshold) & (dy * dy + dx * dx <= (reach * reach).to(dy.device))
    rows, columns = torch.nonzero(voting, as_tuple=True)
    weight, dy, dx = foreground[rows, columns], dy[rows, columns], dx[rows, columns]
    fy, fx = dy.floor(), dx.floor()
    ty, tx = dy - fy, dx - fx
    y, x = rows + fy.long(), columns + fx.long()
    inside = (y >= 0) & (y < height - 1) & (x >= 0) & (x < width - 1)
    place = (y * width + x)[inside]
    weight, ty, tx = weight[inside], ty[inside], tx[inside]
    votes = torch.zeros(height * width, dtype=torch.float32, device=foreground.device)
    votes.index_add_(0, place, weight * (1 - ty) * (1 - tx))
    votes.index_add_(0, place + 1, weight * (1 - ty) * tx)
    votes.index_add_(0, place + width, weight * ty * (1 - tx))
    votes.index_add_(0, place + width + 1, weight * ty * tx)
    return votes.view(height, width)


def _smooth(image: Tensor, sigma_px: float) -> Tensor:
    """Gaussian smoothing of a map that counts as 0 beyond its border."""
    if sigma_px <= 0:
        return image
    radius = kernel_radius(sigma_px)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma_px) ** 2)
    taps = (taps / taps.sum()).to(torch.float32).to(image.device)
    down = functional.conv2d(image[None, None], taps.view(1, 1, -1, 1), padding=(radius, 0))
    return functional.conv2d(down, taps.view(1, 1, 1, -1), padding=(0, radius))[0, 0]


def _maxima(image: Tensor, radius_px: float, minimum: float) -> Tensor:
    """Rows and columns (N, 2), in raster order, of the pixels that no other within ``radius_px`` surpasses.

    Of equal values the first in raster order surpasses the others, as in the compiled one: candidates that are
    equal to the largest value of their disc are few, and compared one shift after the other.
    """
    reach = int(radius_px)
    shifts = [
        (dy, dx)
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
        if 0 < dy * dy + dx * dx <= radius_px**2
    ]
    # Rows of the disc are maxima along one axis: reach·2 + 1 poolings instead of one of a square.
    highest = torch.full_like(image, -math.inf)
    padded = functional.pad(image[None, None], (reach,) * 4, value=-math.inf)
    height, width = image.shape
    for dy in range(-reach, reach + 1):
        half = math.isqrt(int(radius_px**2 - dy * dy))
        band = padded[:, :, reach + dy : reach + dy + height, reach - half : reach + half + width]
        highest = torch.maximum(highest, functional.max_pool2d(band, (1, 2 * half + 1), stride=1)[0, 0])
    found = torch.nonzero((image >= highest) & (image > minimum))
    values = image[found[:, 0], found[:, 1]]
    first = torch.ones(len(found), dtype=torch.bool, device=image.device)
    for dy, dx in shifts:
        if dy < 0 or (dy == 0 and dx < 0):
            other = padded[0, 0, found[:, 0] + reach + dy, found[:, 1] + reach + dx]
            first &= other != values
    return found[first]


def _nearest_seed(seeds: Tensor, shape: torch.Size, radius: float) -> Tensor:
    """1 + index of the nearest seed within ``radius`` of each pixel, the earlier one of two; 0 without."""
    height, width = shape
    reach = int(radius)
    far = (reach + 1) ** 2 * 2
    count = len(seeds) + 1
    best = torch.full((height * width,), far * count, dtype=torch.int64, device=seeds.device)
    index = torch.arange(1, count, device=seeds.device)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            distance = dy * dy + dx * dx
            if distance > radius * radius:
                continue
            y, x = seeds[:, 0] + dy, seeds[:, 1] + dx
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            # Distance first, then the index: one number whose least is the nearest, earliest seed.
            key = distance * count + index[inside]
            best.scatter_reduce_(0, y[inside] * width + x[inside], key, "amin")
    nearest = torch.where(best < far * count, best % count, 0)
    return nearest.view(height, width)


def _assign(
    foreground: Tensor, offsets: Tensor, nearest: Tensor, seeds: int, params: OffsetDecoder
) -> tuple[Tensor, Tensor]:
    """Labels at ``upsample`` times the resolution, and the labels' mean foreground."""
    height, width = foreground.shape
    up = params.upsample
    device = foreground.device
    labels = torch.zeros(height, up, width, up, dtype=torch.int32, device=device)
    total = torch.zeros(seeds + 1, dtype=torch.float64, device=device)
    count = torch.zeros(seeds + 1, dtype=torch.int64, device=device)
    reach = torch.tensor(params.reach_px, dtype=torch.float32, device=device)
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    for p in range(up):
        down, b = _phase(p, up)
        i2 = (rows + down).clamp(0, height - 1)
        for q in range(up):
            right, d = _phase(q, up)
            j2 = (columns + right).clamp(0, width - 1)
            corners = [(rows, columns, (1 - b) * (1 - d)), (rows, j2, (1 - b) * d)]
            corners += [(i2, columns, b * (1 - d)), (i2, j2, b * d)]
            weights = [w * foreground[i][:, j] for i, j, w in corners]
            probability = sum(weights[1:], weights[0])
            dy, dx = (
                sum(w * axis[i][:, j] for w, (i, j, _) in zip(weights, corners, strict=True)) / probability
                for axis in offsets
            )
            voting = (probability > params.threshold) & (dy * dy + dx * dx <= reach * reach)
            y = rows[:, None] + torch.where(voting, (dy + down * b + 0.5).floor(), 0).long()
            x = columns + torch.where(voting, (dx + right * d + 0.5).floor(), 0).long()
            voting &= (y >= 0) & (y < height) & (x >= 0) & (x < width)
            seed = torch.where(voting, nearest[y.clamp(0, height - 1), x.clamp(0, width - 1)], 0)
            labels[:, p, :, q] = seed.to(torch.int32)
            flat = seed.flatten()
            total.index_add_(0, flat, probability.flatten().double().nan_to_num())
            count.index_add_(0, flat, torch.ones_like(flat))
    scores = (total[1:] / count[1:].clamp(min=1)).to(torch.float32)
    return labels.view(height * up, width * up), scores


def _phase(p: int, factor: int) -> tuple[int, float]:
    """The other neighbour of a new pixel along the side of an old one, and its weight."""
    shift = (p + 0.5) / factor - 0.5
    return (-1 if shift < 0 else 1), abs(shift)

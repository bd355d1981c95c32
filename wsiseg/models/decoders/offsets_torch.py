"""The votes' decoder on a device: what :func:`decode_offsets` does, by torch.

Maps stay where they are. What comes down are the runs of the labels, some MB a tile, of which the processor makes
outlines. The compiled decoder is the oracle: labels agree but where two values are equal up to rounding. Votes and
scores are added as whole numbers, whose sums do not depend on the order: a device gives the same labels each time.
The number of torch calls does not depend on the maps' content, and not on radii but for those of smoothing and of
seeds.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from wsiseg.core.raster import Runs
from wsiseg.models.decoders.maps import kernel_radius
from wsiseg.models.decoders.offsets import OffsetDecoder

_WHOLE = 2.0**24
"""Votes and probabilities are added in units of one part of this, the precision of float32 below 1."""
_MOST_PAIRS = 1 << 23
"""Pairs of seeds and pixels that are compared at once: 200 MB, more than a dense tile's."""


def find_on_device(
    foreground: Tensor, offsets: Tensor, params: OffsetDecoder
) -> tuple[Runs, npt.NDArray[np.float32]]:
    """What :meth:`OffsetDecoder.nuclei` makes nuclei of, found on the device of the maps."""
    labels, scores = decode_offsets_on_device(foreground, offsets, params)
    return label_runs(labels), scores.cpu().numpy()


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


@torch.inference_mode()
def label_runs(labels: Tensor) -> Runs:
    """The runs of non-negative labels (h, w), found where they lie and brought to the processor as int32."""
    if labels.numel() == 0:
        return Runs(*np.empty((4, 0), dtype=np.int64))
    changed = labels[:, 1:] != labels[:, :-1]
    begins, ends = (functional.pad(changed, side, value=True) & (labels > 0) for side in ((1, 0), (0, 1)))
    rows, firsts = torch.nonzero(begins, as_tuple=True)
    stops = torch.nonzero(ends, as_tuple=True)[1] + 1
    found = torch.stack([part.to(torch.int32) for part in (rows, firsts, stops, labels[rows, firsts])])
    return Runs(*found.cpu().numpy().astype(np.int64))


def _votes(foreground: Tensor, offsets: Tensor, params: OffsetDecoder) -> Tensor:
    """Density of the points voted for, each split between the four pixels around it."""
    height, width = foreground.shape
    dy, dx = offsets
    voting = (foreground > params.threshold) & (dy * dy + dx * dx <= _squared(params.reach_px))
    rows, columns = torch.nonzero(voting, as_tuple=True)
    weight, dy, dx = foreground[rows, columns], dy[rows, columns], dx[rows, columns]
    fy, fx = dy.floor(), dx.floor()
    ty, tx = dy - fy, dx - fx
    y, x = rows + fy.long(), columns + fx.long()
    inside = (y >= 0) & (y < height - 1) & (x >= 0) & (x < width - 1)
    place = (y * width + x)[inside]
    weight, ty, tx = weight[inside], ty[inside], tx[inside]
    votes = torch.zeros(height * width, dtype=torch.int64, device=foreground.device)
    votes.index_add_(0, place, _whole(weight * (1 - ty) * (1 - tx)))
    votes.index_add_(0, place + 1, _whole(weight * (1 - ty) * tx))
    votes.index_add_(0, place + width, _whole(weight * ty * (1 - tx)))
    votes.index_add_(0, place + width + 1, _whole(weight * ty * tx))
    return (votes.view(height, width).double() / _WHOLE).float()


def _whole(values: Tensor) -> Tensor:
    """Values as whole numbers of parts: adding these on a device gives one result, whatever the order."""
    return (values * _WHOLE).round().long()


def _smooth(image: Tensor, sigma_px: float) -> Tensor:
    """Gaussian smoothing of a map that counts as 0 beyond its border.

    By sums of shifted maps: a convolution may be computed in TF32, whose rounding would move maxima.
    """
    if sigma_px <= 0:
        return image
    radius = kernel_radius(sigma_px)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
    weights = [float(tap) for tap in (taps / taps.sum()).astype(np.float32)]
    for axis in (0, 1):
        size = image.shape[axis]
        padded = functional.pad(image, (0, 0, radius, radius) if axis == 0 else (radius, radius))
        image = torch.zeros_like(image)
        for shift, weight in enumerate(weights):
            image.add_(padded.narrow(axis, shift, size), alpha=weight)
    return image


def _maxima(image: Tensor, radius_px: float, minimum: float) -> Tensor:
    """Rows and columns (N, 2), in raster order, of the pixels that no other within ``radius_px`` surpasses.

    Of equal values the first in raster order surpasses the others, as in the compiled one: a seed is above all
    that come before it in its disc, and not below any that come after it.
    """
    reach = int(radius_px)
    padded = functional.pad(image[None, None], (reach,) * 4, value=-math.inf)
    height, width = image.shape
    before, after = (torch.full_like(image, -math.inf) for _ in range(2))
    for dy in range(-reach, reach + 1):
        half = math.isqrt(int(radius_px**2 - dy * dy))
        if dy == 0 and half == 0:
            continue
        span = 2 * half + 1 if dy else half
        for highest, first in ((before, -half), (after, -half if dy else 1)):
            if (dy > 0 and highest is before) or (dy < 0 and highest is after):
                continue
            left = reach + first
            band = padded[:, :, reach + dy : reach + dy + height, left : left + span - 1 + width]
            torch.maximum(highest, functional.max_pool2d(band, (1, span), stride=1)[0, 0], out=highest)
    return torch.nonzero((image > before) & (image >= after) & (image > minimum))


def _nearest_seed(seeds: Tensor, shape: torch.Size, radius: float) -> Tensor:
    """1 + index of the nearest seed within ``radius`` of each pixel, the earlier one of two; 0 without."""
    height, width = shape
    reach = int(radius)
    span = torch.arange(-reach, reach + 1, device=seeds.device)
    dy, dx = (axis.flatten() for axis in torch.meshgrid(span, span, indexing="ij"))
    distance = dy * dy + dx * dx
    dy, dx, distance = (part[distance <= radius * radius] for part in (dy, dx, distance))
    count = len(seeds) + 1
    none = (reach + 1) ** 2 * 2 * count
    best = torch.full((height * width,), none, dtype=torch.int64, device=seeds.device)
    step = max(1, _MOST_PAIRS // len(distance))
    for first in range(0, len(seeds), step):
        part = seeds[first : first + step]
        y, x = part[:, :1] + dy, part[:, 1:] + dx
        # Distance first, then the index: one number whose least is the nearest, earliest seed.
        index = torch.arange(first + 1, first + 1 + len(part), device=seeds.device)
        key = distance * count + index[:, None]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        place = torch.where(inside, y * width + x, part[:, :1] * width + part[:, 1:])
        key = torch.where(inside, key, none)
        best.scatter_reduce_(0, place.flatten(), key.flatten(), "amin")
    return torch.where(best < none, best % count, 0).view(height, width)


def _assign(
    foreground: Tensor, offsets: Tensor, nearest: Tensor, seeds: int, params: OffsetDecoder
) -> tuple[Tensor, Tensor]:
    """Labels at ``upsample`` times the resolution, and the labels' mean foreground."""
    height, width = foreground.shape
    up = params.upsample
    device = foreground.device
    labels = torch.zeros(height, up, width, up, dtype=torch.int32, device=device)
    total = torch.zeros(seeds + 1, dtype=torch.int64, device=device)
    count = torch.zeros(seeds + 1, dtype=torch.int64, device=device)
    # Neighbours are views of maps that continue beyond their border as they end there.
    maps = functional.pad(torch.cat([foreground[None], offsets])[None], (1,) * 4, mode="replicate")[0]
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)
    for p in range(up):
        down, b = _phase(p, up)
        for q in range(up):
            right, d = _phase(q, up)
            corners = [
                (maps[:, 1 + i : 1 + i + height, 1 + j : 1 + j + width], weight_y * weight_x)
                for i, weight_y in ((0, 1 - b), (down, b))
                for j, weight_x in ((0, 1 - d), (right, d))
            ]
            weights = [weight * corner[0] for corner, weight in corners]
            probability = sum(weights[1:], weights[0])
            dy, dx = (
                sum(weight * corner[axis] for weight, (corner, _) in zip(weights, corners, strict=True))
                / probability
                for axis in (1, 2)
            )
            voting = (probability > params.threshold) & (dy * dy + dx * dx <= _squared(params.reach_px))
            y = rows + torch.where(voting, (dy + down * b + 0.5).floor(), 0).long()
            x = columns + torch.where(voting, (dx + right * d + 0.5).floor(), 0).long()
            voting &= (y >= 0) & (y < height) & (x >= 0) & (x < width)
            seed = torch.where(voting, nearest[y.clamp(0, height - 1), x.clamp(0, width - 1)], 0)
            labels[:, p, :, q] = seed
            # Without the background, which would be added up in one place by all at once.
            own = seed > 0
            total.index_add_(0, seed[own], _whole(probability[own]))
            count.index_add_(0, seed[own], torch.ones_like(seed[own]))
    scores = (total[1:].double() / _WHOLE / count[1:].clamp(min=1)).float()
    return labels.view(height * up, width * up), scores


def _squared(length: float) -> float:
    """The square in float32, as the compiled decoder has it."""
    return float(np.float32(length) * np.float32(length))


def _phase(p: int, factor: int) -> tuple[int, float]:
    """The other neighbour of a new pixel along the side of an old one, and its weight."""
    shift = (p + 0.5) / factor - 0.5
    return (-1 if shift < 0 else 1), abs(shift)

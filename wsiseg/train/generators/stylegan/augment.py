"""Adaptive discriminator augmentation: what the discriminator sees is varied, as much as it overfits [1]_.

The published pipeline's first groups: pixel blitting, geometry, colour. Images are sampled linearly between pixels;
the published code filters them with a wavelet before and after. All of it can be differentiated twice, as the
gradient penalty needs.

References
----------
.. [1] Karras et al. 2020, Training generative adversarial networks with limited data, arXiv:2006.06676.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LUMA = (1 / math.sqrt(3),) * 3
_SHIFT, _SCALE, _BRIGHTNESS, _CONTRAST, _SATURATION = 0.125, 0.2, 0.2, 0.5, 1.0


def augmented(images: Tensor, probability: float, source: torch.Generator | None = None) -> Tensor:
    """Each image varied by each transformation with the same probability.

    Parameters
    ----------
    images : tensor (N, 3, side, side)
    probability : float
        0: the images as they are.
    source : torch.Generator, optional
        Of the processor; by default torch's random state.
    """
    if probability <= 0:
        return images
    count, _, side, _ = images.shape
    place = _geometry(count, side, probability, source).to(images.device)
    colour = _colours(count, probability, source).to(images.device)
    moved = _sampled(images, place)
    return torch.einsum("nij,njhw->nihw", colour[:, :3, :3], moved) + colour[:, :3, 3, None, None]


def adapted(probability: float, signs: float, target: float, images: int, thousands: float) -> float:
    """The probability after ``images`` more images: up where the discriminator overfits, else down.

    Parameters
    ----------
    signs : float
        Mean sign of the discriminator's logits of real images.
    target : float
        What that is to be, 0.6 as published.
    thousands : float
        Of images in which the probability goes from 0 to 1.
    """
    step = images / (thousands * 1000)
    return min(max(probability + (step if signs > target else -step), 0.0), 1.0)


def _geometry(count: int, side: int, probability: float, source: torch.Generator | None) -> Tensor:
    """Matrices (N, 3, 3) from where a pixel is to where its value is taken, from -1 to 1 across the image."""

    def uniform() -> Tensor:
        return torch.rand(count, generator=source)

    def normal() -> Tensor:
        return torch.randn(count, generator=source)

    def chosen(values: Tensor, chance: float = probability, neutral: float = 0.0) -> Tensor:
        return torch.where(uniform() < chance, values, torch.full_like(values, neutral))

    mirror = 1 - 2 * chosen((uniform() * 2).floor())
    place = _scaled(mirror, torch.ones(count))
    place = place @ _turned(chosen((uniform() * 4).floor()) * (math.pi / 2))
    shift = [(chosen((2 * uniform() - 1) * _SHIFT) * side).round() * (2 / side) for _ in range(2)]
    place = place @ _shifted(*shift)
    scale = chosen(torch.exp2(normal() * _SCALE), neutral=1.0)
    place = place @ _scaled(scale, scale)
    # A rotation before and one after: together with the probability asked for.
    once = 1 - math.sqrt(1 - probability)
    place = place @ _turned(chosen((2 * uniform() - 1) * math.pi, once))
    stretch = chosen(torch.exp2(normal() * _SCALE), neutral=1.0)
    place = place @ _scaled(stretch, 1 / stretch)
    place = place @ _turned(chosen((2 * uniform() - 1) * math.pi, once))
    return place @ _shifted(*(chosen(normal() * _SHIFT) * 2 for _ in range(2)))


def _colours(count: int, probability: float, source: torch.Generator | None) -> Tensor:
    """Matrices (N, 4, 4) of red, green, blue and 1."""

    def uniform() -> Tensor:
        return torch.rand(count, generator=source)

    def normal() -> Tensor:
        return torch.randn(count, generator=source)

    def chosen(values: Tensor, neutral: float = 0.0) -> Tensor:
        return torch.where(uniform() < probability, values, torch.full_like(values, neutral))

    matrix = torch.eye(4).repeat(count, 1, 1)
    matrix[:, :3, 3] = chosen(normal() * _BRIGHTNESS)[:, None]
    contrast = chosen(torch.exp2(normal() * _CONTRAST), 1.0)
    matrix = _four(contrast[:, None, None] * torch.eye(3)) @ matrix
    axis = torch.tensor(_LUMA)
    luma = axis[:, None] * axis
    flip = chosen((uniform() * 2).floor())
    matrix = _four(torch.eye(3) - 2 * flip[:, None, None] * luma) @ matrix
    matrix = _four(_about(axis, chosen((2 * uniform() - 1) * math.pi))) @ matrix
    saturation = chosen(torch.exp2(normal() * _SATURATION), 1.0)
    return _four(luma + (torch.eye(3) - luma) * saturation[:, None, None]) @ matrix


def _sampled(images: Tensor, place: Tensor) -> Tensor:
    """Images at the places that matrices say, linearly between pixels, mirrored at the edges."""
    count, channels, side, _ = images.shape
    line = (torch.arange(side, device=images.device) * 2 + 1) / side - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    at = ((place[:, :2] @ grid + 1) * side / 2) % (2 * side)  # the first pixel is from 0 to 1
    at = (side - (at - side).abs() - 0.5).clamp(0, side - 1)
    low = at.floor().clamp(max=side - 2)
    part, first = at - low, low.long()
    flat = images.flatten(2)
    which = torch.arange(count, device=images.device)[:, None]
    total = torch.zeros((count, side * side, channels), dtype=images.dtype, device=images.device)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = _share(part[:, 1], dy) * _share(part[:, 0], dx)
            index = (first[:, 1] + dy) * side + first[:, 0] + dx
            # By index and not by grid_sample: on a GPU it gives the same gradient each time, and a second one.
            total = total + flat[which, :, index] * weight[..., None]
    return total.transpose(1, 2).reshape(images.shape)


def _share(part: Tensor, side: int) -> Tensor:
    return part if side else 1 - part


def _matrices(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _scaled(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrices([[1 / x, zero, zero], [zero, 1 / y, zero], [zero, zero, one]])


def _turned(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = angle.cos(), angle.sin()
    return _matrices([[cos, sin, zero], [-sin, cos, zero], [zero, zero, one]])


def _shifted(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrices([[one, zero, -x], [zero, one, -y], [zero, zero, one]])


def _about(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotations (N, 3, 3) about an axis."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * torch.eye(3) + sin * cross + (1 - cos) * (axis[:, None] * axis)


def _four(matrix: Tensor) -> Tensor:
    """Matrices (N, 3, 3) as (N, 4, 4)."""
    whole = torch.eye(4).repeat(len(matrix), 1, 1)
    whole[:, :3, :3] = matrix
    return whole

"""Losses, by head: raw maps and targets to terms, of which ``total`` is the weighted sum.

A batch's loss is a mean over what is known in it, each patch counting with its weight. Maps that lack a margin (of
networks without padding) are compared with the middle of the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Terms = dict[str, Tensor]
_SMOOTH_PX = 50.0  # of Dice: a patch with hardly a nucleus says little


@dataclass(frozen=True)
class OffsetLoss:
    """Weights of the terms of the head ``offsets``; offsets count in units of ``offset_scale_px``."""

    cross_entropy: float = 1.0
    dice: float = 1.0
    offset: float = 1.0
    depth: float = 0.5
    offset_scale_px: float = 8.0

    def terms(self, maps: Mapping[str, Tensor], target: Mapping[str, Tensor], weight: Tensor) -> Terms:
        known, inside = target["known"] * weight, target["inside"] * weight
        logit, truth = maps["foreground"][:, 0], target["foreground"]
        offset, aim = maps["offsets"] / self.offset_scale_px, target["offset"] / self.offset_scale_px
        off = functional.smooth_l1_loss(offset, aim, reduction="none", beta=0.25)
        return {
            "cross_entropy": _mean(_cross_entropy(logit, truth), known),
            "dice": _dice(logit, truth, target["known"], weight),
            "offset": _mean(off.sum(1), inside),
            "depth": _mean((maps["depth"][:, 0] - target["depth"]) ** 2, known),
        }


@dataclass(frozen=True)
class ForegroundLoss:
    """Weights of the terms of the head ``foreground``."""

    cross_entropy: float = 1.0
    dice: float = 1.0

    def terms(self, maps: Mapping[str, Tensor], target: Mapping[str, Tensor], weight: Tensor) -> Terms:
        logit, truth = maps["foreground"][:, 0], target["foreground"]
        return {
            "cross_entropy": _mean(_cross_entropy(logit, truth), target["known"] * weight),
            "dice": _dice(logit, truth, target["known"], weight),
        }


@dataclass(frozen=True)
class SeedLoss:
    """Weights of the terms of the head ``seeds``; the outer ``border_px`` of a patch count ``border_weight``."""

    detection: float = 1.0
    segmentation: float = 1.0
    border_px: int = 50
    border_weight: float = 0.01

    def terms(self, maps: Mapping[str, Tensor], target: Mapping[str, Tensor], weight: Tensor) -> Terms:
        known = target["known"] * weight * self._window(target["known"])
        detection, segmentation = maps["detection"][:, 0], maps["segmentation"][:, 0]
        return {
            "detection": _mean(_cross_entropy(detection, target["seed"]), known * target["meant"]),
            "segmentation": _mean(_cross_entropy(segmentation, target["foreground"]), known),
        }

    def _window(self, like: Tensor) -> Tensor:
        window = torch.full_like(like[:1], self.border_weight)
        inner = slice(self.border_px, -self.border_px or None)
        window[:, inner, inner] = 1.0
        return window


@dataclass(frozen=True)
class HoverLoss:
    """Weights of the terms of the head ``hover`` (Graham et al. 2019, doi:10.1016/j.media.2019.101563).

    ``slope`` is the squared difference of the distances' derivatives, inside nuclei.
    """

    cross_entropy: float = 1.0
    dice: float = 1.0
    distance: float = 1.0
    slope: float = 1.0

    def terms(self, maps: Mapping[str, Tensor], target: Mapping[str, Tensor], weight: Tensor) -> Terms:
        known = target["known"] * weight
        logit, truth = maps["np"][:, 1] - maps["np"][:, 0], target["foreground"]
        # Distances of background are 0 and count; those of cut nuclei do not.
        meant = known * torch.where(target["foreground"] > 0, target["inside"], torch.ones_like(known))
        difference = maps["hv"] - target["distance"]
        return {
            "cross_entropy": _mean(_cross_entropy(logit, truth), known),
            "dice": _dice(logit, truth, target["known"], weight),
            "distance": _mean((difference**2).sum(1), meant),
            "slope": _mean((_slopes(difference) ** 2).sum(1), target["inside"] * weight),
        }


@dataclass(frozen=True)
class StarLoss:
    """Weights of the terms of the head ``star``; rays count by the relative distance to the border, as is usual
    (Schmidt et al. 2018, doi:10.1007/978-3-030-00934-2_30)."""

    probability: float = 1.0
    rays: float = 0.2

    def terms(self, maps: Mapping[str, Tensor], target: Mapping[str, Tensor], weight: Tensor) -> Terms:
        wrong = (maps["rays"] - target["rays"]).abs().mean(1)
        counts = target["inside"] * weight * target["depth"]
        return {
            "probability": _mean(
                _cross_entropy(maps["probability"][:, 0], target["depth"]), target["known"] * weight
            ),
            "rays": _mean(wrong, counts),
        }


HEAD_LOSSES: Mapping[str, type[Any]] = MappingProxyType(
    {
        "offsets": OffsetLoss,
        "foreground": ForegroundLoss,
        "seeds": SeedLoss,
        "hover": HoverLoss,
        "star": StarLoss,
    }
)


def loss_terms(loss: Any, maps: Mapping[str, Tensor], target: Mapping[str, Tensor], weight: Tensor) -> Terms:
    """The terms of a loss and their weighted sum ``total``, each a float32 scalar.

    Parameters
    ----------
    loss
        One of :data:`HEAD_LOSSES`.
    maps : mapping of str to tensor (N, c, h, w)
        A network's raw maps.
    target : mapping of str to tensor (N, H, W) or (N, c, H, W)
        See :mod:`wsiseg.train.targets`; H - h and W - w are even.
    weight : tensor (N,)
        Of each patch.
    """
    height, width = next(iter(maps.values())).shape[-2:]
    middle = {name: _middle(value, height, width) for name, value in target.items()}
    wide = {name: value.float() for name, value in maps.items()}
    terms: Terms = loss.terms(wide, middle, weight[:, None, None])
    return {**terms, "total": torch.stack([getattr(loss, name) * value for name, value in terms.items()]).sum()}


def _middle(target: Tensor, height: int, width: int) -> Tensor:
    top, left = (target.shape[-2] - height) // 2, (target.shape[-1] - width) // 2
    return target[..., top : top + height, left : left + width]


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of (N, h, w) over the pixels whose ``counts`` are above 0, each times its count."""
    return (values * counts).sum() / (counts > 0).sum().clamp(min=1)


def _cross_entropy(logit: Tensor, truth: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logit, truth, reduction="none")


def _dice(logit: Tensor, truth: Tensor, known: Tensor, weight: Tensor) -> Tensor:
    """1 - Dice's coefficient of each patch, in the mean."""
    probability, truth = torch.sigmoid(logit) * known, truth * known
    overlap = (probability * truth).sum((1, 2))
    dice = 1 - (2 * overlap + _SMOOTH_PX) / (probability.sum((1, 2)) + truth.sum((1, 2)) + _SMOOTH_PX)
    return (dice * weight[:, 0, 0]).mean()


def _slopes(distance: Tensor) -> Tensor:
    """Derivative of the horizontal distance by x and of the vertical by y, by Sobel's weights over 5 pixels."""
    reach = torch.arange(-2, 3, dtype=distance.dtype, device=distance.device)
    y, x = torch.meshgrid(reach, reach, indexing="ij")
    kernel = x / (x * x + y * y).clamp(min=1e-6)
    kernel = kernel / (kernel * x).sum()
    horizontal = functional.conv2d(distance[:, :1], kernel[None, None], padding=2)
    vertical = functional.conv2d(distance[:, 1:], kernel.T[None, None], padding=2)
    return torch.cat([horizontal, vertical], dim=1)

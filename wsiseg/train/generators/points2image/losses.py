"""The losses of Points2Image [1]_.

References
----------
.. [1] Li, Ren et al. 2023, arXiv:2308.09835; least squares: Mao et al. 2017, doi:10.1109/ICCV.2017.304.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from wsiseg.train.losses import HoverLoss, loss_terms


@dataclass(frozen=True)
class Weights:
    """What the terms count beside the discriminators' opinion; the defaults are the published ones.

    Attributes
    ----------
    image_cycle : float
        L1 of an image and what becomes of it by way of its own maps.
    layout_cycle : float
        The instance loss of a layout and what is found in its image: times ``distances`` for distances and their
        slopes, ``nuclei`` for Dice and cross-entropy.
    distances, nuclei : float
    points : float
        -log of the probability of a nucleus at the points, in real and in generated images; 0: it is not used.
    """

    image_cycle: float = 5.0
    layout_cycle: float = 5.0
    distances: float = 1.0
    nuclei: float = 1.0
    points: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: got {value}; expected 0 or more")


def convinces(opinion: Tensor) -> Tensor:
    """The generator's part of the least squares game: ½ mean (opinion - 1)²."""
    return 0.5 * (opinion - 1).square().mean()


def distinguishes(real: Tensor, generated: Tensor) -> Tensor:
    """The discriminator's part: ½ mean (1 - opinion of real)² + ½ mean (opinion of generated)²."""
    return 0.5 * (1 - real).square().mean() + 0.5 * generated.square().mean()


def instance_loss(found: Mapping[str, Tensor], maps: Tensor, weights: Weights) -> Tensor:
    """How far what F finds in a generated image is from its layout: HoVer-Net's loss.

    Parameters
    ----------
    found : mapping
        As :func:`wsiseg.synth.renderers.points2image.networks.invert` gives.
    maps : tensor (N, 3, h, w)
        The layout.
    weights : Weights
    """
    nuclei, distances = weights.nuclei, weights.distances
    target = {
        "foreground": maps[:, 2],
        "distance": maps[:, :2],
        "inside": maps[:, 2],
        "known": torch.ones_like(maps[:, 2]),
    }
    loss = HoverLoss(nuclei, nuclei, distances, distances)
    return loss_terms(loss, found, target, maps.new_ones(len(maps)))["total"]


def point_loss(logits: Tensor, points: Sequence[Tensor]) -> Tensor:
    """-log of the probability of a nucleus at the points, their mean; 0 without any.

    Parameters
    ----------
    logits : tensor (N, 2, h, w)
        Of background and nucleus.
    points : sequence of int64 tensor (n, 2)
        Row and column of each, one tensor an image.
    """
    image = torch.cat([torch.full((len(p),), n, dtype=torch.int64) for n, p in enumerate(points)])
    if not len(image):
        return logits.sum() * 0.0
    row, column = torch.cat(list(points)).unbind(1)
    there = logits[image.to(logits.device), :, row.to(logits.device), column.to(logits.device)]
    return functional.cross_entropy(there, torch.ones(len(there), dtype=torch.int64, device=logits.device))


def role_losses(
    found_generated: Mapping[str, Tensor],
    found_real: Mapping[str, Tensor],
    maps: Tensor,
    points: Sequence[Tensor],
    weights: Weights,
) -> dict[str, Tensor]:
    """The terms that say which of the two classes is the nuclei: ``instance`` and ``point``.

    Without ``point``, F and G may agree to swap the looks of nuclei and background: F still finds each layout in
    its image, so ``instance`` is as low as without the swap.
    """
    terms = {"instance": weights.layout_cycle * instance_loss(found_generated, maps, weights)}
    if weights.points > 0:
        on_both = point_loss(found_generated["np"], points) + point_loss(found_real["np"], points)
        terms["point"] = weights.points * on_both
    return terms

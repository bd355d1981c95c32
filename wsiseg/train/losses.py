"""Losses of the offset network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of :func:`offset_loss`."""

    cross_entropy: float = 1.0
    dice: float = 1.0
    offset: float = 1.0
    depth: float = 0.5


def offset_loss(output: Tensor, target: Tensor, scale_px: float, weights: LossWeights) -> dict[str, Tensor]:
    """Terms and ``total`` of the loss.

    Parameters
    ----------
    output : float (N, 4, h, w)
        See :data:`wsiseg.models.unet.OUTPUTS`.
    target : float (N, 6, h, w)
        See :func:`wsiseg.train.augment.targets`.
    scale_px : float
        Pixels of one unit of the offset outputs.
    """
    output = output.float()
    truth, known, inside = target[:, 0], target[:, 4], target[:, 5]
    logit = output[:, 0]
    entropy = functional.binary_cross_entropy_with_logits(logit, truth, reduction="none")
    entropy = (entropy * known).sum() / known.sum().clamp(min=1)
    probability = torch.sigmoid(logit) * known
    overlap = (probability * truth).sum((1, 2))
    dice = 1 - (2 * overlap + 50) / (probability.sum((1, 2)) + (truth * known).sum((1, 2)) + 50)
    offset = functional.smooth_l1_loss(output[:, 1:3], target[:, 1:3] / scale_px, reduction="none", beta=0.25)
    offset = (offset.sum(1) * inside).sum() / inside.sum().clamp(min=1)
    depth = ((output[:, 3] - target[:, 3]) ** 2 * known).sum() / known.sum().clamp(min=1)
    terms = {"cross_entropy": entropy, "dice": dice.mean(), "offset": offset, "depth": depth}
    total = (
        weights.cross_entropy * terms["cross_entropy"]
        + weights.dice * terms["dice"]
        + weights.offset * terms["offset"]
        + weights.depth * terms["depth"]
    )
    return {**terms, "total": total}

"""The losses of StyleGAN2 [1]_.

References
----------
.. [1] Karras et al. 2020, arXiv:1912.04958; the gradient penalty R1: Mescheder et al. 2018, arXiv:1801.04406.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def convinces(logits: Tensor) -> Tensor:
    """The generator's loss, which does not saturate: mean of -log sigmoid."""
    return functional.softplus(-logits).mean()


def distinguishes(real: Tensor, generated: Tensor) -> Tensor:
    """The discriminator's loss: cross-entropy of both."""
    return functional.softplus(-real).mean() + functional.softplus(generated).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Half the squared norm of the logits' gradient by real images, the mean over images."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, styles: Tensor) -> Tensor:
    """How far images move with their styles, (N,): along random directions, the mean over layers."""
    direction = torch.randn(images.shape).to(images.device) / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * direction).sum(), styles, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()

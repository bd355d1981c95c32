"""StyleGAN2's discriminator: residual blocks at each size, and how much the images of a group differ [1]_.

References
----------
.. [1] Karras et al. 2020, arXiv:1912.04958; differences in a group: Karras et al. 2018, arXiv:1710.10196.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from wsiseg.synth.renderers.stylegan.networks import Conv, Linear, StyleGanConfig, lifted

_GROUP = 4


class _Block(nn.Module):
    """Two convolutions and a shortcut to half the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = Conv(inputs, inputs, 3)
        self.conv2 = Conv(inputs, outputs, 3, halve=True)
        self.shortcut = Conv(inputs, outputs, 1, bias=False, halve=True)

    def forward(self, x: Tensor) -> Tensor:
        y = lifted(self.conv2(lifted(self.conv1(x))))
        total: Tensor = (y + self.shortcut(x)) / math.sqrt(2.0)
        return total


class Discriminator(nn.Module):
    """Images (N, 3, side, side) in [-1, 1] to logits (N,): real above 0."""

    def __init__(self, config: StyleGanConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.first = Conv(3, widths[0], 1)
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in pairwise(widths)))
        self.conv = Conv(widths[-1] + 1, widths[-1], 3)
        self.dense = Linear(widths[-1] * 16, widths[-1])
        self.last = Linear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(lifted(self.first(images)))
        x = lifted(self.conv(torch.cat([x, differences(x)], dim=1)))
        y: Tensor = self.last(lifted(self.dense(x.flatten(1))))[:, 0]
        return y


def differences(x: Tensor) -> Tensor:
    """Standard deviation within groups of four images, one number a group, as a map (N, 1, h, w).

    Of N images that cannot be divided in groups of four, all are one group.
    """
    count = len(x)
    group = _GROUP if count % _GROUP == 0 else count
    parts = x.reshape(group, -1, *x.shape[1:])
    deviation = (parts.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])

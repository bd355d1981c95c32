"""Xception without its classifier; parameters are named as in timm's ``legacy_xception``.

The first two convolutions are padded, so that the features lie at exact fractions of the image.

References
----------
Chollet, Xception: deep learning with depthwise separable convolutions, CVPR 2017, doi:10.1109/CVPR.2017.195.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class _Separable(nn.Module):
    """A 3 × 3 convolution of each channel by itself, then a 1 × 1 convolution over the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.conv1(x))
        return y


class _Block(nn.Module):
    """Separable convolutions of the given widths beside a shortcut, halved in size where ``stride`` is 2."""

    def __init__(self, widths: tuple[int, ...], stride: int, rectify_first: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.ReLU(), _Separable(a, b), nn.BatchNorm2d(b)]
        if not rectify_first:
            layers = layers[1:]
        if stride != 1:
            layers.append(nn.MaxPool2d(3, stride, 1))
        self.rep = nn.Sequential(*layers)
        self.skip: nn.Module | None = None
        if stride != 1 or widths[0] != widths[-1]:
            self.skip = nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rep(x)
        return y + (x if self.skip is None else self.skipbn(self.skip(x)))


class Xception(nn.Module):
    """Images (N, 3, h, w), normalised by ``MEAN`` and ``STD``, to features at 1/2, 1/4, 1/8, 1/16 and 1/32."""

    channels = (64, 128, 256, 728, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.block1 = _Block((64, 128, 128), 2, rectify_first=False)
        self.block2 = _Block((128, 256, 256), 2)
        self.block3 = _Block((256, 728, 728), 2)
        for n in range(4, 12):
            setattr(self, f"block{n}", _Block((728,) * 4, 1))
        self.block12 = _Block((728, 728, 1024), 2)
        self.conv3 = _Separable(1024, 1536)
        self.bn3 = nn.BatchNorm2d(1536)
        self.conv4 = _Separable(1536, 2048)
        self.bn4 = nn.BatchNorm2d(2048)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        features = [x]
        for block in (self.block1, self.block2, self.block3):
            x = block(x)
            features.append(x)
        for n in range(4, 12):
            x = getattr(self, f"block{n}")(x)
        features[-1] = x
        x = torch.relu(self.bn3(self.conv3(self.block12(x))))
        features.append(self.bn4(self.conv4(x)))
        return features

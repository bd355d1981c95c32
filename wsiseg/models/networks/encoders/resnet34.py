"""ResNet-34 without its classifier; parameters are named as in torchvision.

References
----------
He et al., Deep residual learning for image recognition, CVPR 2016, doi:10.1109/CVPR.2016.90.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def _layer(inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
    others = [_BasicBlock(outputs, outputs, 1) for _ in range(depth - 1)]
    return nn.Sequential(_BasicBlock(inputs, outputs, stride), *others)


class ResNet34(nn.Module):
    """Images (N, 3, h, w), normalised by ``MEAN`` and ``STD``, to features at 1/2, 1/4, 1/8, 1/16 and 1/32."""

    channels = (64, 64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _layer(64, 64, 3, 1)
        self.layer2 = _layer(64, 128, 4, 2)
        self.layer3 = _layer(128, 256, 6, 2)
        self.layer4 = _layer(256, 512, 3, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = torch.relu(self.bn1(self.conv1(x)))
        features = [x]
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features

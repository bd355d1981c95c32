"""DenseNet-121 without its classifier; parameters are named as in torchvision.

References
----------
Huang et al., Densely connected convolutional networks, CVPR 2017, doi:10.1109/CVPR.2017.243.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GROWTH, _BOTTLENECK = 32, 4
_DEPTHS = (6, 12, 24, 16)


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, _BOTTLENECK * _GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(_BOTTLENECK * _GROWTH)
        self.conv2 = nn.Conv2d(_BOTTLENECK * _GROWTH, _GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(torch.relu(self.norm1(x)))
        new = self.conv2(torch.relu(self.norm2(new)))
        return torch.cat([x, new], dim=1)


class DenseNet121(nn.Module):
    """Images (N, 3, h, w), normalised by ``MEAN`` and ``STD``, to features at 1/2, 1/4, 1/8, 1/16 and 1/32.

    The features of a dense block are taken before the transition halves their width and size.
    """

    channels = (64, 256, 512, 1024, 1024)

    def __init__(self) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv0"] = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        layers["norm0"] = nn.BatchNorm2d(64)
        width = 64
        for n, depth in enumerate(_DEPTHS):
            names = [f"denselayer{k + 1}" for k in range(depth)]
            parts = [(name, _DenseLayer(width + k * _GROWTH)) for k, name in enumerate(names)]
            layers[f"denseblock{n + 1}"] = nn.Sequential(OrderedDict(parts))
            width += depth * _GROWTH
            if n < len(_DEPTHS) - 1:
                norm, conv = nn.BatchNorm2d(width), nn.Conv2d(width, width // 2, 1, bias=False)
                layers[f"transition{n + 1}"] = nn.ModuleDict({"norm": norm, "conv": conv})
                width //= 2
        layers["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        parts = self.features
        x = torch.relu(parts["norm0"](parts["conv0"](x)))
        out = [x]
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for n in range(1, len(_DEPTHS)):
            x = parts[f"denseblock{n}"](x)
            transition = parts[f"transition{n}"]
            assert isinstance(transition, nn.ModuleDict)
            x = torch.relu(transition["norm"](x))
            out.append(x)
            x = nn.functional.avg_pool2d(transition["conv"](x), 2)
        out.append(parts["norm5"](parts["denseblock4"](x)))
        return out

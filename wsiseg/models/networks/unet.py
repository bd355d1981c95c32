"""The default network: a plain U-Net whose head is a parameter, so that heads are compared on one trunk [1]_.

Two 3 × 3 convolutions a level, batch normalisation, pooling by maxima; on the way up a 1 × 1 convolution, a nearest
enlargement and a skip: no transposed convolution, hence no checkerboard. With ``stem`` 2 a convolution of 4 × 4 and
stride 2 comes before, the U-Net works at half the resolution, and the last layer gives each of its pixels the four
of the maps.

References
----------
.. [1] Ronneberger, Fischer, Brox 2015, doi:10.1007/978-3-319-24574-4_28.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from wsiseg.models.heads import head_by_name
from wsiseg.models.networks.last_layer import named_maps
from wsiseg.models.networks.sizes import require_multiple


@dataclass(frozen=True)
class UNetConfig:
    """Architecture.

    Attributes
    ----------
    widths : tuple of int
        Channels of the levels, the finest first.
    offset_scale_px : float
        The last layer gives lengths in units of this many pixels, so that all its outputs are of order one. The
        maps themselves are in pixels.
    stem : int
        1: the first level has the image's resolution; 2: half of it.
    head : str
        A name of :data:`wsiseg.models.heads.HEADS`: which maps there are.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    offset_scale_px: float = 8.0
    stem: int = 1
    head: str = "offsets"

    window_px: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if not self.widths or not all(isinstance(width, int) and width > 0 for width in self.widths):
            raise ValueError(f"widths are {self.widths!r}: expected positive whole numbers, one a level")
        if self.stem not in (1, 2):
            raise ValueError(f"stem is {self.stem!r}, not 1 or 2")
        if not self.offset_scale_px > 0:
            raise ValueError(f"offset_scale_px is {self.offset_scale_px!r}: expected a positive number")
        head_by_name(self.head)

    @property
    def stride_px(self) -> int:
        """The sides of an input must be multiples of this."""
        return int(self.stem * 2 ** (len(self.widths) - 1))

    @property
    def reach_px(self) -> int:
        """The farthest that a pixel can have an effect."""
        coarse = int(2 ** (len(self.widths) - 1))
        # Two convolutions a level, down and up (2, 4, 8 …, the coarsest once), and the pooling's cells.
        reach = 2 * (2 * coarse - 1) + 2 * (coarse - 1) + coarse - 1
        return reach if self.stem == 1 else 2 * reach + 2

    @property
    def outputs(self) -> dict[str, int]:
        """Names and channels of the maps, those of the head."""
        return head_by_name(self.head).outputs

    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """Size of the maps of an image of height × width; ValueError where it does not fit."""
        require_multiple(height, width, self.stride_px)
        return height, width


class _Block(nn.Module):
    """Two 3 × 3 convolutions, each with batch normalisation and a rectifier."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm1(self.conv1(x)))
        return torch.relu_(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    """Images (N, 3, h, w) in [-1, 1] to the maps of ``config.head``, each (N, channels, h, w).

    Probabilities are logits; offsets and rays are in pixels of the image.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, stem = config.widths, config.stem
        if stem > 1:
            self.stem = nn.Conv2d(3, widths[0], 2 * stem, stride=stem, padding=stem // 2)
        first = widths[0] if stem > 1 else 3
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip((first, *widths[:-1]), widths, strict=True))
        pairs = list(pairwise(widths))[::-1]
        self.reduce = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.up = nn.ModuleList(_Block(2 * fine, fine) for fine, _ in pairs)
        self.maps = config.outputs
        self.head = nn.Conv2d(widths[0], sum(self.maps.values()) * stem**2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.config.output_shape(x.shape[2], x.shape[3])
        if self.config.stem > 1:
            x = torch.relu_(self.stem(x))
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for reduce, block, skip in zip(self.reduce, self.up, skips[-2::-1], strict=True):
            x = nn.functional.interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        config = self.config
        return named_maps(self.head(x), self.maps, config.head, config.stem, config.offset_scale_px)


def drop_auxiliary(network: UNet) -> UNet:
    """Remove the maps that only training needs from the last layer, in place."""
    auxiliary = head_by_name(network.config.head).auxiliary
    kept: list[int] = []
    first = 0
    for name, channels in network.maps.items():
        after = first + channels * network.config.stem**2
        kept += [] if name in auxiliary else range(first, after)
        first = after
    head = network.head
    slim = nn.Conv2d(head.in_channels, len(kept), 1)
    with torch.no_grad():
        slim.weight.copy_(head.weight[kept])
        if slim.bias is not None and head.bias is not None:
            slim.bias.copy_(head.bias[kept])
    network.head = slim
    network.maps = {name: channels for name, channels in network.maps.items() if name not in auxiliary}
    return network

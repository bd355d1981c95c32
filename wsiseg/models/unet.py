"""A plain U-Net for nuclei at 0.5 µm a pixel: foreground, offset to the nucleus' centre, relative depth.

Two 3 × 3 convolutions a level, batch normalisation, pooling by maxima; on the way up a 1 × 1 convolution, a nearest
enlargement and a skip: no transposed convolution, hence no checkerboard.

References
----------
Ronneberger, Fischer, Brox 2015, doi:10.1007/978-3-319-24574-4_28.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

OUTPUTS = ("foreground", "offset_y", "offset_x", "depth")


@dataclass(frozen=True)
class UNetConfig:
    """Architecture.

    Attributes
    ----------
    widths : tuple of int
        Channels of the levels, the finest first.
    offset_scale_px : float
        The offset outputs are in units of this many pixels, so that all outputs are of order one.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    offset_scale_px: float = 8.0

    @property
    def stride_px(self) -> int:
        """The sides of an input must be multiples of this."""
        return 2 ** (len(self.widths) - 1)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


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
    """Maps images (N, 3, h, w) in [-1, 1] to outputs (N, 4, h, w), see ``OUTPUTS``.

    The first output is a logit; the offsets lead from a pixel to its nucleus' centre, y before x, in units of
    ``config.offset_scale_px``; the depth is an auxiliary target of the training only.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True))
        pairs = list(pairwise(widths))[::-1]
        self.reduce = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.up = nn.ModuleList(_Block(2 * fine, fine) for fine, _ in pairs)
        self.head = nn.Conv2d(widths[0], len(OUTPUTS), 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for reduce, block, skip in zip(self.reduce, self.up, skips[-2::-1], strict=True):
            x = nn.functional.interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return self.head(x)


def channels_last(network: UNet) -> UNet:
    """The network with its weights in the layout that convolutions are fastest in, in place."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def fold_batch_norm(network: UNet) -> UNet:
    """Merge each batch normalisation into the convolution before it, in place; for inference only."""
    network.eval()
    for block in network.modules():
        if isinstance(block, _Block):
            for conv, norm in (("conv1", "norm1"), ("conv2", "norm2")):
                folded = nn.utils.fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm))
                setattr(block, conv, folded)
                setattr(block, norm, nn.Identity())
    return network


def drop_auxiliary(network: UNet) -> UNet:
    """Remove the outputs that only training needs, in place: (N, 3, h, w) remain."""
    head = network.head
    slim = nn.Conv2d(head.in_channels, 3, 1)
    with torch.no_grad():
        slim.weight.copy_(head.weight[:3])
        if slim.bias is not None and head.bias is not None:
            slim.bias.copy_(head.bias[:3])
    network.head = slim
    return network

"""Hou et al.'s segmenter: a deep, narrow U-Net that detects and segments nuclei at once.

3 × 3 convolutions, 16 × 3, 32 × 4, 64 × 4, 128 × 5 and 256 × 6 (width × number), mirrored without the last; leaky
rectifiers of slope 0.2; 2 × 2 transposed convolutions that keep their width; a 3 × 3 head with two outputs [1]_.
The loss counts the outer 50 pixels of a patch at a hundredth.

References
----------
.. [1] Hou et al., Dataset of segmented nuclei in hematoxylin and eosin stained histopathology images of ten cancer
   types, Scientific Data 7, 185 (2020), doi:10.1038/s41597-020-0528-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wsiseg.models.networks.sizes import require_multiple

SLOPE = 0.2
BORDER_PX = 50  # of a training patch, weighted BORDER_WEIGHT in the loss
BORDER_WEIGHT = 0.01


@dataclass(frozen=True)
class HouConfig:
    """Architecture.

    Attributes
    ----------
    widths : tuple of int
        Channels of the levels, the finest first.
    depths : tuple of int
        Convolutions of each level on the way down; the same on the way up.
    batch_norm : bool
        Batch normalisation in the coarsest level, which the authors left off by default.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    depths: tuple[int, ...] = (3, 4, 4, 5, 6)
    batch_norm: bool = False

    window_px: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths):
            raise ValueError(f"{len(self.widths)} widths but {len(self.depths)} depths")

    @property
    def stride_px(self) -> int:
        """The sides of an input must be multiples of this."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def reach_px(self) -> int:
        """The farthest that a pixel can have an effect."""
        down = sum(depth * 2**level for level, depth in enumerate(self.depths))
        up = down - self.depths[-1] * self.stride_px
        return down + up + 1 + self.stride_px - 1  # the head's convolution, and the pooling's cells

    @property
    def outputs(self) -> dict[str, int]:
        """Names and channels of the maps: logits of a nucleus' centre and of its area."""
        return {"detection": 1, "segmentation": 1}

    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """Size of the maps of an image of height × width; ValueError where it does not fit."""
        require_multiple(height, width, self.stride_px)
        return height, width


def _level(inputs: int, outputs: int, depth: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in range(depth):
        layers.append(nn.Conv2d(inputs if n == 0 else outputs, outputs, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.LeakyReLU(SLOPE))
    return nn.Sequential(*layers)


class HouUNet(nn.Module):
    """Images (N, 3, h, w) in [-1, 1] to ``detection`` and ``segmentation``, each (N, 1, h, w)."""

    def __init__(self, config: HouConfig) -> None:
        super().__init__()
        self.config = config
        widths, depths = config.widths, config.depths
        last = len(widths) - 1
        self.down = nn.ModuleList(
            _level(a, b, depth, config.batch_norm and n == last)
            for n, (a, b, depth) in enumerate(zip((3, *widths[:-1]), widths, depths, strict=True))
        )
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(w, w, 2, stride=2) for w in widths[:0:-1])
        self.up = nn.ModuleList(
            _level(widths[n + 1] + widths[n], widths[n], depths[n], False) for n in reversed(range(last))
        )
        self.head = nn.Conv2d(widths[0], 2, 3, padding=1)
        for module in self.modules():
            # Thirty-nine layers without normalisation: the scale must survive all of them.
            if isinstance(module, nn.Conv2d) and module is not self.head:
                nn.init.kaiming_normal_(module.weight, a=SLOPE)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.config.output_shape(x.shape[2], x.shape[3])
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for enlarge, block, skip in zip(self.enlarge, self.up, skips[-2::-1], strict=True):
            x = nn.functional.leaky_relu(enlarge(x), SLOPE)
            x = block(torch.cat([x, skip], dim=1))
        detection, segmentation = self.head(x).split(1, dim=1)
        return {"detection": detection, "segmentation": segmentation}

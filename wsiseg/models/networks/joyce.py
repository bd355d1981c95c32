"""The U-Net of Joyce & Bunyak's nuclei pipeline: the red channel in, one probability out.

Widths 16 to 256, two 3 × 3 convolutions a level with dropout between them, 2 × 2 transposed convolutions on the
way up, no normalisation: 1,940,817 parameters. A quarter of the width of Ronneberger's network [1]_. The rates of
dropout are not in the paper; these are the customary ones of the Keras example that it resembles.

References
----------
.. [1] Ronneberger, Fischer, Brox, U-Net, MICCAI 2015, doi:10.1007/978-3-319-24574-4_28.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from wsiseg.models.networks.sizes import require_multiple


@dataclass(frozen=True)
class JoyceConfig:
    """Architecture.

    Attributes
    ----------
    widths : tuple of int
        Channels of the levels, the finest first.
    dropout : tuple of float
        Rate of each level, on the way down and on the way up.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    dropout: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2, 0.3)

    window_px: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.dropout):
            raise ValueError(f"{len(self.widths)} widths but {len(self.dropout)} rates of dropout")

    @property
    def stride_px(self) -> int:
        """The sides of an input must be multiples of this."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def reach_px(self) -> int:
        """The farthest that a pixel can have an effect."""
        # Two convolutions a level, down and up, and the pooling's cells.
        return 2 * (2 * self.stride_px - 1) + 2 * (self.stride_px - 1) + self.stride_px - 1

    @property
    def outputs(self) -> dict[str, int]:
        """Names and channels of the maps: the foreground's logit."""
        return {"foreground": 1}

    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """Size of the maps of an image of height × width; ValueError where it does not fit."""
        require_multiple(height, width, self.stride_px)
        return height, width


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(torch.relu(self.conv1(x)))
        return torch.relu(self.conv2(x))


class JoyceUNet(nn.Module):
    """Images (N, 3, h, w) in [-1, 1], of which the red channel is used, to ``foreground`` (N, 1, h, w)."""

    def __init__(self, config: JoyceConfig) -> None:
        super().__init__()
        self.config = config
        widths, rates = config.widths, config.dropout
        self.down = nn.ModuleList(
            _Block(a, b, rate) for a, b, rate in zip((1, *widths[:-1]), widths, rates, strict=True)
        )
        pairs = list(pairwise(widths))[::-1]
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(
            _Block(2 * fine, fine, rate) for (fine, _), rate in zip(pairs, rates[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.head:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.config.output_shape(x.shape[2], x.shape[3])
        x = x[:, :1] * 0.5 + 0.5
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for enlarge, block, skip in zip(self.enlarge, self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([enlarge(x), skip], dim=1))
        return {"foreground": self.head(x)}

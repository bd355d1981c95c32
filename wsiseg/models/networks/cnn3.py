"""CNN3 of Kumar et al.: a patch classifier with three classes, background, inside and boundary [1]_.

A patch of 51² tells the class of its centre. Written from memory of the paper's table, which is not open: 4 × 4,
5 × 5 and 6 × 6 convolutions with 25, 50 and 80 maps, each followed by a 2 × 2 maximum; two layers of 1,024. A side
of 5 pixels is pooled to 2, its last pixel left out, so that the last rows and columns of a patch have no effect.

:class:`CNN3` computes every pixel of an image at once: convolutions and maxima are dilated instead of strided [2]_,
which gives what the patches would give one by one.

References
----------
.. [1] Kumar et al., A dataset and a technique for generalized nuclear segmentation for computational pathology,
   IEEE Transactions on Medical Imaging 36, 1550-1560 (2017), doi:10.1109/TMI.2017.2677499.
.. [2] Giusti et al., Fast image scanning with deep max-pooling convolutional neural networks, ICIP 2013,
   doi:10.1109/ICIP.2013.6738831.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

PATCH_PX = 51
CLASSES = ("background", "inside", "boundary")
_KERNELS = (4, 5, 6)


@dataclass(frozen=True)
class CNN3Config:
    """Architecture.

    Attributes
    ----------
    maps : tuple of int
        Channels of the three convolutions.
    hidden : int
        Width of the two fully connected layers.
    dropout : float
        Rate after each of those.
    """

    maps: tuple[int, int, int] = (25, 50, 80)
    hidden: int = 1024
    dropout: float = 0.5

    window_px: ClassVar[int | None] = 256  # 1,024 channels at full resolution

    @property
    def stride_px(self) -> int:
        """Any size of at least a patch is accepted."""
        return 1

    @property
    def reach_px(self) -> int:
        """The farthest that a pixel can have an effect: half a patch."""
        return PATCH_PX // 2

    @property
    def outputs(self) -> dict[str, int]:
        """Names and channels of the maps: logits of ``CLASSES``."""
        return {"classes": len(CLASSES)}

    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """Size of the map: one pixel for each whole patch. ValueError where there is none."""
        if min(height, width) < PATCH_PX:
            raise ValueError(f"image of {height} × {width}: sides must be at least {PATCH_PX}")
        return height - PATCH_PX + 1, width - PATCH_PX + 1


class CNN3(nn.Module):
    """Images (N, 3, h, w) in [-1, 1] to ``classes`` (N, 3, h - 50, w - 50).

    Pixel (i, j) of the map belongs to pixel (i + 25, j + 25) of the image.
    """

    def __init__(self, config: CNN3Config) -> None:
        super().__init__()
        self.config = config
        widths = (3, *config.maps)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, k) for a, b, k in zip(widths[:-1], widths[1:], _KERNELS, strict=True)
        )
        self.hidden1 = nn.Conv2d(widths[-1], config.hidden, 2)
        self.hidden2 = nn.Conv2d(config.hidden, config.hidden, 1)
        self.head = nn.Conv2d(config.hidden, len(CLASSES), 1)
        self.dropout = nn.Dropout(config.dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.head:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        height, width = self.config.output_shape(x.shape[2], x.shape[3])
        dilation = 1
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            x = torch.relu(nn.functional.conv2d(x, conv.weight, conv.bias, dilation=dilation))
            x = nn.functional.max_pool2d(x, 2, stride=1, dilation=dilation)
            dilation *= 2
        x = nn.functional.conv2d(x, self.hidden1.weight, self.hidden1.bias, dilation=dilation)
        return {"classes": self._classify(x)[..., :height, :width]}

    def classify(self, patches: Tensor) -> Tensor:
        """Logits (N, 3) of the centres of patches (N, 3, 51, 51), computed as in training on patches."""
        if patches.shape[2:] != (PATCH_PX, PATCH_PX):
            raise ValueError(f"patches of {tuple(patches.shape)}: expected (N, 3, {PATCH_PX}, {PATCH_PX})")
        x = patches
        for conv in self.convs:
            x = nn.functional.max_pool2d(torch.relu(conv(x)), 2)
        return self._classify(self.hidden1(x)).flatten(1)

    def _classify(self, x: Tensor) -> Tensor:
        x = self.dropout(torch.relu(x))
        x = self.dropout(torch.relu(self.hidden2(x)))
        logits: Tensor = self.head(x)
        return logits

"""The default network with its maps in one tensor, as ``wsiseg.train`` takes it; see ``networks.unet``."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from wsiseg.models.networks import unet
from wsiseg.models.networks.unet import UNetConfig

__all__ = ["OUTPUTS", "UNet", "UNetConfig", "channels_last"]

_Network = TypeVar("_Network", bound=nn.Module)
OUTPUTS = ("foreground", "offset_y", "offset_x", "depth")


class UNet(unet.UNet):
    """Maps images (N, 3, h, w) in [-1, 1] to outputs (N, 4, h, w), see ``OUTPUTS``; offsets in
    ``config.offset_scale_px``.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        maps = super().forward(x)
        maps["offsets"] = maps["offsets"] / self.config.offset_scale_px
        return torch.cat(list(maps.values()), dim=1)


def channels_last(network: _Network) -> _Network:
    """The network with its weights in the layout that convolutions are fastest in, in place."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network

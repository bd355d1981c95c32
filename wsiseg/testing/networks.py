"""Networks small enough for a test, with random weights that are not trivial."""

from __future__ import annotations

import torch
from torch import nn

from wsiseg.models.networks import build_network
from wsiseg.models.networks.unet import UNet, UNetConfig
from wsiseg.synth.renderers.transfer.refiner import RefinerConfig

TINY = UNetConfig(widths=(4, 8, 8))
TINY_REFINER = RefinerConfig(width=8, code=8, discriminator_width=8)
THIN: dict[str, dict[str, object]] = {
    "unet": {"widths": (4, 8, 8), "stem": 2},
    "joyce": {"widths": (4, 8), "dropout": (0, 0)},
    "hou": {"widths": (4, 8), "depths": (2, 2), "batch_norm": True},
    "hovernet-original": {"divisor": 8},
    "hovernet-fast": {"divisor": 8, "types": 3},
    "cnn3": {"maps": (4, 4, 4), "hidden": 8},
}


def tiny_network(seed: int = 0) -> UNet:
    """Random weights, and batch statistics that are not trivial."""
    torch.manual_seed(seed)
    network = UNet(TINY)
    network.train()
    for _ in range(3):
        network(torch.randn(2, 3, 32, 32))
    return network.eval()


def thin(name: str, seed: int = 0) -> nn.Module:
    """Random weights, and statistics of batch normalisation that are not trivial."""
    torch.manual_seed(seed)
    network = build_network(name, THIN.get(name))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 4)
            nn.init.uniform_(module.weight, 0.3, 1)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()

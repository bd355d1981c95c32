"""The networks of Points2Image that are kept: the generator G from maps to images, and its inverse F [1]_.

References
----------
.. [1] Li, Ren, Ach, Gerig 2023, Microscopy image segmentation via point and shape regularized data synthesis,
   arXiv:2308.09835; residual blocks after Park et al. 2019, doi:10.1109/CVPR.2019.00244; noise after Sushko et
   al. 2021, arXiv:2012.04781.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from wsiseg.models.networks.hovernet import HoVerNet, HoVerNetConfig
from wsiseg.synth.renderers.networkfile import read_described, restore, write_networks

FORMAT = "wsiseg-points2image-1"
MAPS = 3
"""Channels of a layout: horizontal and vertical distance, nucleus."""


@dataclass(frozen=True)
class PairConfig:
    """Architecture of the two networks; the defaults are the published size.

    Attributes
    ----------
    widths : tuple of int
        Channels of the generator from its coarsest image to its last; a residual block between each two, and an
        enlargement by 2 between blocks. Of images of 256², seven of them begin at 8².
    noise : int
        Channels of the noise that every layer sees beside the maps; 0: none.
    spade : int
        Channels between the maps and a normalisation's scale and shift.
    inverse_mode : str
        Of the inverse network, a HoVer-Net without shrinking: ``original`` or ``fast``.
    inverse_divisor : int
        All of its widths are divided by this.
    """

    widths: tuple[int, ...] = (512, 512, 512, 256, 128, 64, 32)
    noise: int = 64
    spade: int = 128
    inverse_mode: str = "original"
    inverse_divisor: int = 1

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or not all(width > 0 for width in self.widths):
            raise ValueError(f"widths: got {list(self.widths)}; expected two or more positive whole numbers")
        if self.noise < 0 or self.spade < 1:
            raise ValueError(f"noise {self.noise}, spade {self.spade}: expected at least 0 and 1")
        self.inverse  # noqa: B018  refuses what is impossible

    @property
    def inverse(self) -> HoVerNetConfig:
        """Of the inverse network."""
        return HoVerNetConfig(self.inverse_mode, divisor=self.inverse_divisor, same=True)

    @property
    def stride_px(self) -> int:
        """The sides of a generated image are multiples of this."""
        return int(2 ** (len(self.widths) - 2))


class _Spade(nn.Module):
    """Instance normalisation whose scale and shift are functions of the maps at each place."""

    def __init__(self, channels: int, maps: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.shared = nn.Conv2d(maps, hidden, 3, padding=1)
        self.scale = nn.Conv2d(hidden, channels, 3, padding=1)
        self.shift = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        hidden = functional.relu(self.shared(maps))
        y: Tensor = self.norm(x) * (1 + self.scale(hidden)) + self.shift(hidden)
        return y


class _Block(nn.Module):
    """A residual block of two normalised convolutions, and a third on the shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int, maps: int, hidden: int) -> None:
        super().__init__()
        inner = min(inputs, outputs)
        self.norm1, self.norm2 = _Spade(inputs, maps, hidden), _Spade(inner, maps, hidden)
        self.conv1 = spectral_norm(nn.Conv2d(inputs, inner, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(inner, outputs, 3, padding=1))
        self.changes = inputs != outputs
        if self.changes:
            self.norm0 = _Spade(inputs, maps, hidden)
            self.conv0 = spectral_norm(nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        shortcut = self.conv0(self.norm0(x, maps)) if self.changes else x
        y = self.conv1(functional.leaky_relu(self.norm1(x, maps), 0.2))
        y = self.conv2(functional.leaky_relu(self.norm2(y, maps), 0.2))
        total: Tensor = shortcut + y
        return total


class Generator(nn.Module):
    """Maps (N, 3, h, w) and noise (N, config.noise, h, w) to images (N, 3, h, w) in [-1, 1].

    Sides are multiples of ``config.stride_px``. A coarser layer sees the mean of the maps and of the noise in each
    of its pixels' area, the noise of single pixels scaled so that its variance stays.
    """

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        maps = MAPS + config.noise
        self.first = nn.Conv2d(maps, config.widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(_Block(a, b, maps, config.spade) for a, b in pairwise(config.widths))
        self.last = nn.Conv2d(config.widths[-1], 3, 3, padding=1)

    def forward(self, maps: Tensor, noise: Tensor) -> Tensor:
        levels = [torch.cat([maps, noise], dim=1)]
        scale = levels[0].new_ones((1, levels[0].shape[1], 1, 1))
        scale[:, MAPS + self.config.noise // 2 :] = 2.0
        for _ in self.blocks[1:]:
            levels.append(functional.avg_pool2d(levels[-1], 2) * scale)
        x = self.first(levels[-1])
        for number, block in enumerate(self.blocks):
            if number > 0:
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(x, levels[-1 - number])
        return torch.tanh(self.last(functional.leaky_relu(x, 0.2)))


@dataclass(frozen=True)
class NetworkPair:
    """Generator and inverse network.

    Attributes
    ----------
    config : PairConfig
    mpp : float
        Microns per pixel of the images.
    generator : Generator
    inverse : HoVerNet
        See :func:`invert`.
    """

    config: PairConfig
    mpp: float
    generator: Generator
    inverse: HoVerNet

    @classmethod
    def new(cls, config: PairConfig, mpp: float, seed: int) -> NetworkPair:
        """Untrained ones, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, mpp, Generator(config), HoVerNet(config.inverse))

    def save(self, path: Path, card: Mapping[str, Any]) -> None:
        """Write a safetensors file that :meth:`load` reads, atomically; ``card`` (JSON) stands in its header."""
        parts = {"generator": self.generator, "inverse": self.inverse}
        write_networks(path, FORMAT, {"config": asdict(self.config), "mpp": self.mpp, "card": dict(card)}, parts)

    @classmethod
    def load(cls, path: Path) -> NetworkPair:
        """Read what :meth:`save` wrote, in evaluation mode.

        Raises
        ------
        ModelError
            No such file, or none of this format.
        """
        config, mpp, tensors = read_described(path, FORMAT, PairConfig)
        pair = cls.new(config, mpp, 0)
        parts: dict[str, nn.Module] = {"generator": pair.generator, "inverse": pair.inverse}
        restore(path, parts, tensors)
        for part in parts.values():
            part.eval()
        return pair


def draw_noise(config: PairConfig, shape: tuple[int, int, int], source: torch.Generator | None = None) -> Tensor:
    """Noise for N images of (h, w), float32 (N, config.noise, h, w), on the processor.

    The first half of the channels is one number an image: its look as a whole. The others have one a pixel. The
    paper says that the noise has three dimensions, not how it is drawn.
    """
    count, height, width = shape
    whole = config.noise // 2
    look = torch.randn((count, whole, 1, 1), generator=source).expand(-1, -1, height, width)
    return torch.cat([look, torch.randn((count, config.noise - whole, height, width), generator=source)], dim=1)


def invert(inverse: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """F: images (N, 3, h, w) in [-1, 1] to raw ``np`` (N, 2, h, w), logits, and ``hv`` (N, 2, h, w) in (-1, 1)."""
    raw: dict[str, Any] = inverse(images)
    return {"np": raw["np"], "hv": torch.tanh(raw["hv"])}


def as_maps(found: dict[str, Tensor]) -> Tensor:
    """What :func:`invert` gives in the form of a layout: maps (N, 3, h, w) of distances and a probability."""
    return torch.cat([found["hv"], found["np"].softmax(1)[:, 1:]], dim=1)

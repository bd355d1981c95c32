"""StyleGAN2's generator: a code to a style, a style to an image [1]_.

Weights are drawn with variance one and scaled where they are used, so that all of them learn at one rate. A style
scales the inputs of a convolution and, with the convolution's own weights, its outputs: the same as scaling
its weights for each image, without a copy of them for each.

References
----------
.. [1] Karras et al. 2020, Analyzing and improving the image quality of StyleGAN, arXiv:1912.04958.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiseg.synth.renderers.networkfile import read_described, restore, write_networks

FORMAT = "wsiseg-stylegan-1"
_COARSEST = 4
_MAPPING_RATE = 0.01
_GAIN = math.sqrt(2.0)


@dataclass(frozen=True)
class StyleGanConfig:
    """Architecture; the defaults are the published size for 512².

    Attributes
    ----------
    widths : tuple of int
        Channels of the images of 4², 8², 16² …; as many as there are sizes.
    code : int
        Numbers of a code and of a style.
    layers : int
        Of the network from code to style.
    """

    widths: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 128, 64)
    code: int = 512
    layers: int = 8

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or not all(width > 0 for width in self.widths):
            raise ValueError(f"widths: got {list(self.widths)}; expected two or more positive whole numbers")
        if self.code < 1 or self.layers < 1:
            raise ValueError(f"code {self.code}, layers {self.layers}: expected at least 1")

    @property
    def side(self) -> int:
        """Of the images, in pixels."""
        return int(_COARSEST * 2 ** (len(self.widths) - 1))

    @property
    def styles(self) -> int:
        """Styles of an image: two a size; the last of a size is that of the next one's first layer, too."""
        return 2 * len(self.widths)


class Linear(nn.Module):
    """A fully connected layer (N, inputs) to (N, outputs) with scaled weights."""

    def __init__(self, inputs: int, outputs: int, start: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), start / rate))
        self.gain, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.gain, self.bias * self.rate)


class Conv(nn.Module):
    """A convolution with scaled weights, padded to keep the size; ``halve``: to half of it, after a filter."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True, halve: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain, self.padding, self.halve = 1 / math.sqrt(inputs * kernel * kernel), kernel // 2, halve

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.gain
        if self.halve:
            return functional.conv2d(blurred(x, self.padding + 1), weight, self.bias, stride=2)
        return functional.conv2d(x, weight, self.bias, padding=self.padding)


class MappingNetwork(nn.Module):
    """A code (N, code) to a style (N, code); ``mean`` follows the mean style while it is trained."""

    mean: Tensor

    def __init__(self, config: StyleGanConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Linear(config.code, config.code, rate=_MAPPING_RATE) for _ in range(config.layers)
        )
        self.register_buffer("mean", torch.zeros(config.code))

    def forward(self, code: Tensor) -> Tensor:
        x = code * (code.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            x = lifted(layer(x))
        return x


class _Modulated(nn.Module):
    """A convolution whose inputs a style scales; ``demodulate`` brings its outputs back to variance one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, code: int, up: bool, demodulate: bool) -> None:
        super().__init__()
        self.style = Linear(code, inputs, start=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.up, self.demodulate = up, demodulate
        self.gain, self.padding = 1 / math.sqrt(inputs * kernel * kernel), kernel // 2

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, weight = self.style(style), self.weight * self.gain
        x = x * scale[:, :, None, None]
        if self.up:
            x = blurred(functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, 4.0)
        else:
            x = functional.conv2d(x, weight, padding=self.padding)
        if self.demodulate:
            power = scale.square() @ weight.square().sum(dim=(2, 3)).T
            x = x * (power + 1e-8).rsqrt()[:, :, None, None]
        return x


class _Layer(nn.Module):
    """A modulated convolution, noise for each pixel, a bias and a leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, code: int, up: bool) -> None:
        super().__init__()
        self.conv = _Modulated(inputs, outputs, 3, code, up, demodulate=True)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, style: Tensor, source: torch.Generator | None) -> Tensor:
        x = self.conv(x, style)
        shape = (x.shape[0], 1, *x.shape[2:])
        noise = torch.randn(shape, generator=source).to(x.device)
        return lifted(x + noise * self.strength + self.bias[:, None, None])


class _ToImage(nn.Module):
    def __init__(self, inputs: int, code: int) -> None:
        super().__init__()
        self.conv = _Modulated(inputs, 3, 1, code, up=False, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        y: Tensor = self.conv(x, style) + self.bias[:, None, None]
        return y


class Synthesis(nn.Module):
    """Styles (N, config.styles, code) to images (N, 3, side, side), about -1 to 1: a sum over all sizes."""

    def __init__(self, config: StyleGanConfig) -> None:
        super().__init__()
        widths, code = config.widths, config.code
        self.first = nn.Parameter(torch.randn(widths[0], _COARSEST, _COARSEST))
        self.plain = nn.ModuleList(_Layer(width, width, code, up=False) for width in widths)
        self.enlarging = nn.ModuleList(_Layer(a, b, code, up=True) for a, b in pairwise(widths))
        self.to_image = nn.ModuleList(_ToImage(width, code) for width in widths)

    def forward(self, styles: Tensor, source: torch.Generator | None = None) -> Tensor:
        x = self.first.expand(len(styles), -1, -1, -1)
        x = self.plain[0](x, styles[:, 0], source)
        image = self.to_image[0](x, styles[:, 1])
        for n, (enlarge, layer, to_image) in enumerate(
            zip(self.enlarging, self.plain[1:], self.to_image[1:], strict=True)
        ):
            x = enlarge(x, styles[:, 2 * n + 1], source)
            x = layer(x, styles[:, 2 * n + 2], source)
            image = enlarged(image) + to_image(x, styles[:, 2 * n + 3])
        return image


@dataclass(frozen=True)
class StyleGan:
    """The two networks that make an image of a code.

    Attributes
    ----------
    config : StyleGanConfig
    mpp : float
        Microns per pixel of the images.
    mapping : MappingNetwork
    synthesis : Synthesis
    """

    config: StyleGanConfig
    mpp: float
    mapping: MappingNetwork
    synthesis: Synthesis

    @classmethod
    def new(cls, config: StyleGanConfig, mpp: float, seed: int) -> StyleGan:
        """Untrained ones, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, mpp, MappingNetwork(config), Synthesis(config))

    def styles(self, codes: Tensor, truncation: float = 1.0) -> Tensor:
        """A style for every layer, (N, config.styles, code), from codes (N, code).

        ``truncation`` below 1 moves them towards the mean style: more typical images, less different ones.
        """
        style = self.mapping(codes)
        if truncation < 1:
            style = torch.lerp(self.mapping.mean, style, truncation)
        return style[:, None].expand(-1, self.config.styles, -1)

    def save(self, path: Path, card: Mapping[str, Any]) -> None:
        """Write a safetensors file that :meth:`load` reads, atomically; ``card`` (JSON) stands in its header."""
        parts = {"mapping": self.mapping, "synthesis": self.synthesis}
        write_networks(path, FORMAT, {"config": asdict(self.config), "mpp": self.mpp, "card": dict(card)}, parts)

    @classmethod
    def load(cls, path: Path) -> StyleGan:
        """Read what :meth:`save` wrote, in evaluation mode.

        Raises
        ------
        ModelError
            No such file, or none of this format.
        """
        config, mpp, tensors = read_described(path, FORMAT, StyleGanConfig)
        made = cls.new(config, mpp, 0)
        restore(path, {"mapping": made.mapping, "synthesis": made.synthesis}, tensors)
        return made


def lifted(x: Tensor) -> Tensor:
    """A leaky rectifier that keeps the variance."""
    return functional.leaky_relu(x, 0.2) * _GAIN


def blurred(x: Tensor, pad: int, gain: float = 1.0) -> Tensor:
    """Each channel by the binomial filter 1 3 3 1 along both axes, its sum ``gain``."""
    line = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = (line[:, None] * line * gain).expand(x.shape[1], 1, 4, 4)
    return functional.conv2d(x, kernel, padding=pad, groups=x.shape[1])


def enlarged(x: Tensor) -> Tensor:
    """Twice the size: zeros between the pixels, then the filter."""
    line = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 4
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 4, 4)
    return functional.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])

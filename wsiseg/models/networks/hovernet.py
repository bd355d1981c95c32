"""HoVer-Net: foreground, horizontal and vertical distances and, if wanted, types of nuclei [1]_.

A pre-activated ResNet-50 that keeps full resolution in its first group, and a decoder for each map, whose dense
blocks shrink their input instead of padding it: of 270 pixels a side 80 remain (``original``: 5 × 5
convolutions), of 256 remain 164 (``fast``: 3 × 3); ``same`` pads it instead. Parameters have the names and shapes
of the checkpoints that the authors publish; :mod:`wsiseg.models.networks.published` loads those.

References
----------
.. [1] Graham et al., HoVer-Net: simultaneous segmentation and classification of nuclei in multi-tissue histology
   images, Medical Image Analysis 58, 101563 (2019), doi:10.1016/j.media.2019.101563.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wsiseg.models.networks.sizes import require_multiple

_MODES = ("original", "fast")
_GROWTH, _SPLIT = 32, 4
FIRST_WIDTH = 256  # of the decoders


@dataclass(frozen=True)
class HoVerNetConfig:
    """Architecture.

    Attributes
    ----------
    mode : str
        ``original`` or ``fast``.
    types : int
        Number of types with the background as type 0, as the authors count them; 0 for none.
    divisor : int
        All widths are divided by this, a power of 2 up to 8; 1 is the authors' network.
    same : bool
        Every convolution is padded, so that maps have the size of the image, as a cycle of networks needs it [2]_.
        The authors' weights fit, but were not trained so.

    References
    ----------
    .. [2] Li, Ren et al. 2023, arXiv:2308.09835.
    """

    mode: str = "original"
    types: int = 0
    divisor: int = 1
    same: bool = False

    # 256 channels at full resolution: a quarter of a gigabyte for each of several arrays in float32.
    window_px: ClassVar[int | None] = 512

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f"no mode {self.mode!r}; there are {', '.join(_MODES)}")
        if self.types == 1 or self.types < 0:
            raise ValueError(f"types is {self.types}: give 0, or at least 2 with the background as one of them")

        if self.divisor not in (1, 2, 4, 8):
            raise ValueError(f"divisor is {self.divisor}, not 1, 2, 4 or 8")

    @property
    def kernel(self) -> int:
        """Side of the convolutions in the decoders."""
        return 5 if self.mode == "original" else 3

    @property
    def stride_px(self) -> int:
        """The sides of an input must be multiples of this, plus ``extra_px``."""
        return 8

    @property
    def reach_px(self) -> int:
        """The farthest that a pixel can have an effect, as found by trial (docs/models.md)."""
        return 156 if self.mode == "original" else 109

    @property
    def extra_px(self) -> int:
        """The first convolution of ``original`` is not padded."""
        return 6 if self.mode == "original" and not self.same else 0

    @property
    def border_px(self) -> int:
        """What the maps lack of the image on each side."""
        if self.same:
            return 0
        return 95 if self.mode == "original" else 46

    @property
    def outputs(self) -> dict[str, int]:
        """Names and channels of the maps: logits of background and nucleus; distances x, y; logits of types."""
        return {"np": 2, "hv": 2} | ({"tp": self.types} if self.types else {})

    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """Size of the maps of an image of height × width; ValueError where it does not fit."""
        require_multiple(height, width, self.stride_px, self.extra_px)
        lost = 2 * self.border_px
        if min(height, width) <= lost:
            raise ValueError(f"image of {height} × {width}: nothing is left within a border of {self.border_px}")
        return height - lost, width - lost


class _SamePadding(nn.Module):
    """Zeros around an image, as TensorFlow's "same" puts them: the odd one below and on the right."""

    def __init__(self, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        # All sizes are multiples of the stride here: output_shape sees to that.
        total = self.kernel - self.stride
        before, after = total // 2, total - total // 2
        return nn.functional.pad(x, (before, after, before, after))


def _norm_relu(channels: int, prefix: str = "") -> list[tuple[str, nn.Module]]:
    return [(f"{prefix}bn", nn.BatchNorm2d(channels)), (f"{prefix}relu", nn.ReLU(inplace=True))]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _sequence(layers: list[tuple[str, nn.Module]]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _centre(x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


class _ResidualGroup(nn.Module):
    """Bottleneck units; the activation that precedes a unit stands at the end of the group before it."""

    def __init__(self, inputs: int, inner: int, outputs: int, count: int, stride: int) -> None:
        super().__init__()
        units = []
        for n in range(count):
            width = inputs if n == 0 else outputs
            step = stride if n == 0 else 1
            layers = _norm_relu(width, "preact/") if n > 0 else []
            layers += [("conv1", _conv(width, inner, 1)), *_norm_relu(inner, "conv1/")]
            layers += [("conv2/pad", _SamePadding(3, step)), ("conv2", _conv(inner, inner, 3, step))]
            layers += [*_norm_relu(inner, "conv2/"), ("conv3", _conv(inner, outputs, 1))]
            units.append(_sequence(layers))
        self.units = nn.ModuleList(units)
        self.shortcut = _conv(inputs, outputs, 1, stride)
        self.blk_bna = _sequence(_norm_relu(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        for n, unit in enumerate(self.units):
            shortcut = unit(x if n == 0 else shortcut) + shortcut
        y: Tensor = self.blk_bna(shortcut)
        return y


class _DenseGroup(nn.Module):
    """Units that each add ``growth`` channels and, unless ``same``, shrink the image by ``kernel - 1``."""

    def __init__(self, inputs: int, growth: int, kernel: int, count: int, same: bool) -> None:
        super().__init__()
        units = []
        inner = _SPLIT * growth
        for n in range(count):
            width = inputs + n * growth
            layers = [*_norm_relu(width, "preact_bna/"), ("conv1", _conv(width, inner, 1))]
            layers += [*_norm_relu(inner, "conv1/")]
            layers += [("conv2/pad", _SamePadding(kernel))] if same else []
            layers += [("conv2", _conv(inner, growth, kernel, groups=_SPLIT))]
            units.append(_sequence(layers))
        self.units = nn.ModuleList(units)
        self.blk_bna = _sequence(_norm_relu(inputs + count * growth))

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            new = unit(x)
            x = torch.cat([_centre(x, new.shape[2], new.shape[3]), new], dim=1)
        y: Tensor = self.blk_bna(x)
        return y


class _Enlarge(nn.Module):
    """Twice the size, each pixel repeated."""

    def __init__(self) -> None:
        super().__init__()
        # Nothing but ones, and not used: published checkpoints contain it.
        self.register_buffer("unpool_mat", torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _branch(config: HoVerNetConfig, outputs: int) -> nn.Sequential:
    kernel, by = config.kernel, config.divisor
    growth = _GROWTH // by

    def level(inputs: int, width: int, count: int) -> nn.Sequential:
        grown = width + count * growth
        parts: list[tuple[str, nn.Module]] = [("conva/pad", _SamePadding(kernel))] if config.same else []
        parts += [("conva", _conv(inputs, width, kernel))]
        parts += [("dense", _DenseGroup(width, growth, kernel, count, config.same))]
        parts += [("convf", _conv(grown, grown, 1))]
        return _sequence(parts)

    last = _sequence([("conva/pad", _SamePadding(kernel)), ("conva", _conv(256 // by, 64 // by, kernel))])
    head = _sequence([*_norm_relu(64 // by), ("conv", nn.Conv2d(64 // by, outputs, 1))])
    u3, u2 = level(1024 // by, FIRST_WIDTH // by, 8), level(512 // by, 128 // by, 4)
    return _sequence([("u3", u3), ("u2", u2), ("u1", last), ("u0", head)])


class HoVerNet(nn.Module):
    """Images (N, 3, h, w) in [-1, 1] to ``np`` (N, 2, …), ``hv`` (N, 2, …) and, with types, ``tp`` (N, types, …).

    The maps are smaller than the image by ``config.border_px`` on each side.
    """

    def __init__(self, config: HoVerNetConfig) -> None:
        super().__init__()
        self.config = config
        by = config.divisor
        stem: list[tuple[str, nn.Module]] = [("/", _conv(3, 64 // by, 7)), *_norm_relu(64 // by)]
        if config.mode == "fast" or config.same:
            stem.insert(0, ("pad", _SamePadding(7)))
        self.conv0 = _sequence(stem)
        self.d0 = _ResidualGroup(64 // by, 64 // by, 256 // by, count=3, stride=1)
        self.d1 = _ResidualGroup(256 // by, 128 // by, 512 // by, count=4, stride=2)
        self.d2 = _ResidualGroup(512 // by, 256 // by, 1024 // by, count=6, stride=2)
        self.d3 = _ResidualGroup(1024 // by, 512 // by, 2048 // by, count=3, stride=2)
        self.conv_bot = _conv(2048 // by, 1024 // by, 1)
        channels = {name: config.outputs[name] for name in ("tp", "np", "hv") if name in config.outputs}
        self.decoder = nn.ModuleDict({name: _branch(config, count) for name, count in channels.items()})
        self.upsample2x = _Enlarge()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.config.output_shape(x.shape[2], x.shape[3])
        d0 = self.d0(self.conv0(x * 0.5 + 0.5))
        d1 = self.d1(d0)
        d2 = self.d2(d1)
        bottom = self.upsample2x(self.conv_bot(self.d3(d2))) + d2
        return {name: self._decode(self.decoder[name], bottom, d1, d0) for name in self.config.outputs}

    def _decode(self, branch: nn.Module, bottom: Tensor, d1: Tensor, d0: Tensor) -> Tensor:
        assert isinstance(branch, nn.Sequential)
        u3, u2, u1, u0 = branch
        x = bottom
        for level, skip in ((u3, d1), (u2, d0)):
            x = self.upsample2x(level(x))
            x += _centre(skip, x.shape[2], x.shape[3])  # in place: at full resolution each is a GB a Mpx
        y: Tensor = u0(u1(x))
        return y

"""EfficientNet-Lite 0 to 2 without their classifier; parameters are named as in efficientnet-lite-pytorch.

EfficientNet [1]_ without squeeze-and-excitation and with rectifiers that end at 6 [2]_. Convolutions of stride 2
are padded as TensorFlow does, more after than before, as the published weights were trained.

References
----------
.. [1] Tan, Le, EfficientNet: rethinking model scaling for convolutional neural networks, ICML 2019,
   arXiv:1905.11946.
.. [2] Liu, Higher accuracy on vision models with EfficientNet-Lite, TensorFlow blog 2020 (weights: Apache-2.0).
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
_STEM = 32
_KERNELS, _STRIDES = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)
# Of each size: channels and blocks of the seven stages.
_WIDTHS = {
    0: (16, 24, 40, 80, 112, 192, 320),
    1: (16, 24, 40, 80, 112, 192, 320),
    2: (16, 24, 48, 88, 120, 208, 352),
}
_DEPTHS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}
_LAST_OF_SCALE = (0, 1, 2, 4, 6)


class _Convolution(nn.Conv2d):
    """A convolution without bias; its output is the input's size over the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = 0 if stride > 1 else kernel // 2
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            before = (self.kernel_size[0] - self.stride[0]) // 2
            after = self.kernel_size[0] - self.stride[0] - before
            x = nn.functional.pad(x, (before, after, before, after))
        return super().forward(x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """Widen six times, convolve each channel by itself, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.expands, self.skips = expand > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = _Convolution(inputs, wide, 1)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _Convolution(wide, wide, kernel, stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv = _Convolution(wide, outputs, 1)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expands:
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class EfficientNetLite(nn.Module):
    """Images (N, 3, h, w), normalised by ``MEAN`` and ``STD``, to features at 1/2, 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.channels = tuple(_WIDTHS[size][stage] for stage in _LAST_OF_SCALE)
        self._conv_stem = _Convolution(3, _STEM, 3, 2)
        self._bn0 = _norm(_STEM)
        blocks: list[nn.Module] = []
        ends: list[int] = []
        stages = zip(pairwise((_STEM, *_WIDTHS[size])), _DEPTHS[size], _KERNELS, _STRIDES, strict=True)
        for number, ((inputs, outputs), depth, kernel, stride) in enumerate(stages):
            expand = 6 if number else 1
            blocks.append(_Block(inputs, outputs, kernel, stride, expand))
            blocks += [_Block(outputs, outputs, kernel, 1, expand) for _ in range(depth - 1)]
            ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._kept = {ends[stage] for stage in _LAST_OF_SCALE}

    def forward(self, x: Tensor) -> list[Tensor]:
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        features: list[Tensor] = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self._kept:
                features.append(x)
        return features

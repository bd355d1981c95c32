"""A U-Net whose way down is an image classifier: ResNet-34, DenseNet-121 or Xception, as SNOW uses them [1]_, or
EfficientNet-Lite.

On the way up five blocks, each a nearest enlargement, a skip and two 3 × 3 convolutions with batch normalisation;
parameters are named as in segmentation-models-pytorch (``encoder.…``, ``decoder.blocks.…``,
``segmentation_head.0``), so that state dicts of its ``Unet`` fit. With four blocks the way up ends at half the
resolution, and the last layer gives each of its pixels the four of the maps.

References
----------
.. [1] Ding et al., A large-scale synthetic pathological dataset for deep learning-enabled segmentation of breast
   cancer, Scientific Data 10, 231 (2023), doi:10.1038/s41597-023-02125-y.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from wsiseg.errors import ModelError
from wsiseg.models.heads import head_by_name
from wsiseg.models.networks.last_layer import named_maps
from wsiseg.models.networks.sizes import require_multiple


@dataclass(frozen=True)
class _Encoder:
    """Where an encoder is, how it is made, and the farthest that a pixel has an effect through it and back."""

    module: str
    kind: str
    reach_px: int
    arguments: tuple[int, ...] = ()


_ENCODERS: Mapping[str, _Encoder] = MappingProxyType(
    {
        "resnet34": _Encoder("resnet34", "ResNet34", 543),
        "densenet121": _Encoder("densenet121", "DenseNet121", 1115),
        "xception": _Encoder("xception", "Xception", 635),
        "efficientnet-lite0": _Encoder("efficientnet_lite", "EfficientNetLite", 519, (0,)),
        "efficientnet-lite1": _Encoder("efficientnet_lite", "EfficientNetLite", 651, (1,)),
        "efficientnet-lite2": _Encoder("efficientnet_lite", "EfficientNetLite", 651, (2,)),
    }
)
# What a classifier has after its last features.
_CLASSIFIERS = ("fc.", "classifier.", "last_linear.", "_conv_head.", "_bn1.", "_fc.")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


@dataclass(frozen=True)
class EncoderUNetConfig:
    """Architecture.

    Attributes
    ----------
    encoder : str
        ``resnet34``, ``densenet121``, ``xception``, or ``efficientnet-lite0`` to ``efficientnet-lite2``.
    widths : tuple of int
        Channels of the five blocks on the way up, the coarsest first; or of four.
    head : str
        A name of :data:`wsiseg.models.heads.HEADS`: which maps there are.
    offset_scale_px : float
        The last layer gives lengths in units of this many pixels, as that of the default network.
    """

    encoder: str = "resnet34"
    widths: tuple[int, ...] = (256, 128, 64, 32, 16)
    head: str = "foreground"
    offset_scale_px: float = 8.0

    window_px: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if self.encoder not in _ENCODERS:
            raise ValueError(f"no encoder {self.encoder!r}; there are {', '.join(_ENCODERS)}")
        if len(self.widths) not in (4, 5):
            raise ValueError(f"four or five widths are needed, not {len(self.widths)}")
        if not self.offset_scale_px > 0:
            raise ValueError(f"offset_scale_px is {self.offset_scale_px!r}: expected a positive number")
        head_by_name(self.head)

    @property
    def stride_px(self) -> int:
        """The sides of an input must be multiples of this."""
        return 32

    @property
    def stem(self) -> int:
        """Pixels of the maps a side for each of the last block's."""
        return 1 if len(self.widths) == 5 else 2

    @property
    def reach_px(self) -> int:
        """The farthest that a pixel can have an effect, as found by trial (docs/models.md)."""
        return _ENCODERS[self.encoder].reach_px

    @property
    def outputs(self) -> dict[str, int]:
        """Names and channels of the maps, those of the head."""
        return head_by_name(self.head).outputs

    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """Size of the maps of an image of height × width; ValueError where it does not fit."""
        require_multiple(height, width, self.stride_px)
        return height, width


def _conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class _UpBlock(nn.Module):
    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm(inputs + skip, outputs)
        self.conv2 = _conv_norm(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        y: Tensor = self.conv2(self.conv1(x if skip is None else torch.cat([x, skip], dim=1)))
        return y


class EncoderUNet(nn.Module):
    """Images (N, 3, h, w) in [-1, 1] to the maps of ``config.head``; each encoder gets its own normalisation.

    Probabilities are logits; offsets and rays are in pixels of the image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderUNetConfig) -> None:
        super().__init__()
        self.config = config
        entry = _ENCODERS[config.encoder]
        module = importlib.import_module(f"wsiseg.models.networks.encoders.{entry.module}")
        # Of images in [-1, 1]; not persistent: a constant of the encoder, not a weight.
        self.register_buffer("mean", 2 * torch.tensor(module.MEAN).view(3, 1, 1) - 1, persistent=False)
        self.register_buffer("std", 2 * torch.tensor(module.STD).view(3, 1, 1), persistent=False)
        self.encoder: nn.Module = getattr(module, entry.kind)(*entry.arguments)
        channels: tuple[int, ...] = self.encoder.channels
        skips = (*channels[-2::-1], 0)[: len(config.widths)]  # none at full resolution
        inputs = (channels[-1], *config.widths[:-1])
        blocks = [_UpBlock(a, s, b) for a, s, b in zip(inputs, skips, config.widths, strict=True)]
        self.decoder = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        self.maps = config.outputs
        head = nn.Conv2d(config.widths[-1], sum(self.maps.values()) * config.stem**2, 3, padding=1)
        self.segmentation_head = nn.Sequential(head)
        for module_ in self.modules():
            if isinstance(module_, nn.Conv2d):
                nn.init.kaiming_normal_(module_.weight, mode="fan_out", nonlinearity="relu")
        nn.init.xavier_uniform_(head.weight)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.config.output_shape(x.shape[2], x.shape[3])
        *skips, x = self.encoder((x - self.mean) / self.std)
        blocks = self.decoder["blocks"]
        assert isinstance(blocks, nn.ModuleList)
        for block, skip in zip(blocks, [*skips[::-1], None][: len(blocks)], strict=True):
            x = block(x, skip)
        config = self.config
        return named_maps(self.segmentation_head(x), self.maps, config.head, config.stem, config.offset_scale_px)


def load_encoder_weights(network: EncoderUNet, state: Mapping[str, Tensor]) -> None:
    """Fill the encoder from a classifier's state dict, as torchvision and timm save it; its classifier is left out.

    Raises
    ------
    ModelError
        Names or shapes that do not fit.
    """
    kept = {
        _OLD_DENSENET.sub(r"\1\2", name): value
        for name, value in state.items()
        if not name.startswith(_CLASSIFIERS)
    }
    try:
        network.encoder.load_state_dict(kept)
    except RuntimeError as error:
        raise ModelError(f"weights do not fit the encoder {network.config.encoder}: {error}") from error

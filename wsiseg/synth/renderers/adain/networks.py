"""Adaptive instance normalisation: an encoder to relu4_1, its mirror as decoder.

Huang & Belongie 2017, doi:10.1109/ICCV.2017.167.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiseg.errors import ModelError
from wsiseg.models.engine.threads import one_thread
from wsiseg.synth.renderers.networkfile import read_described, restore, write_networks

FORMAT = "wsiseg-adain-1"
STRIDE = 8
# VGG-19 to relu4_1, as torchvision names its layers; trained on these colours.
_VGG_LAYERS = (0, 2, 5, 7, 10, 12, 14, 16, 19)
_VGG_MEAN, _VGG_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class AdaINConfig:
    """Channels and 3 × 3 convolutions of each of the encoder's four levels; those of VGG-19 by default."""

    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (2, 2, 4, 1)

    def __post_init__(self) -> None:
        if not all(1 <= size <= 1024 for size in (*self.widths, *self.depths)):
            raise ValueError(f"widths {self.widths}, depths {self.depths}: expected 1 to 1024 each")


class Encoder(nn.Module):
    """Images (N, 3, h, w) in 0–1 to relu1_1, relu2_1, relu3_1 and relu4_1, at 1, 1/2, 1/4 and 1/8 of their size."""

    mean: Tensor
    sd: Tensor

    def __init__(self, config: AdaINConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList(
            nn.ModuleList(_convolution(inner, outer) for inner, outer in pairs) for pairs in _levels(config)
        )
        self.register_buffer("mean", torch.tensor(_VGG_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(_VGG_SD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images - self.mean) / self.sd
        found = []
        for n, level in enumerate(self.levels):
            if n:
                x = functional.max_pool2d(x, 2)
            assert isinstance(level, nn.ModuleList)
            for k, convolution in enumerate(level):
                x = functional.relu(convolution(_mirrored(x)))
                if k == 0:
                    found.append(x)
        return found


class Decoder(nn.Module):
    """relu4_1 (N, c, h / 8, w / 8) to an image (N, 3, h, w), about 0–1: the encoder mirrored."""

    def __init__(self, config: AdaINConfig) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ModuleList(_convolution(outer, inner) for inner, outer in reversed(pairs))
            for pairs in reversed(_levels(config))
        )

    def forward(self, features: Tensor) -> Tensor:
        x = features
        last = len(self.levels) - 1
        for n, level in enumerate(self.levels):
            assert isinstance(level, nn.ModuleList)
            for k, convolution in enumerate(level):
                x = convolution(_mirrored(x))
                if n < last or k < len(level) - 1:
                    x = functional.relu(x)
            if n < last:
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
        return x


def normalise(content: Tensor, style: Tensor) -> Tensor:
    """``content`` (N, c, h, w) with the mean and standard deviation of ``style``'s channels."""
    mean, sd = moments(content)
    goal_mean, goal_sd = moments(style)
    return (content - mean) / sd * goal_sd + goal_mean


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of (N, c, h, w), (N, c, 1, 1) each."""
    variance, mean = torch.var_mean(features, dim=(2, 3), keepdim=True, correction=0)
    return mean, (variance + 1e-5).sqrt()


@dataclass(frozen=True, eq=False)
class StyleTransfer:
    """An encoder and the decoder that was trained to invert it after normalisation, on images of ``mpp``."""

    config: AdaINConfig
    mpp: float
    encoder: Encoder
    decoder: Decoder

    @classmethod
    def new(cls, config: AdaINConfig, mpp: float, seed: int) -> StyleTransfer:
        """Untrained, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, mpp, Encoder(config), Decoder(config))

    def transfer_alone(self, content: npt.NDArray[np.uint8], style: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """One image (h, w, 3) in the style of another, uint8 (h, w, 3), on one thread."""
        height, width = content.shape[:2]
        short = [(0, -height % STRIDE), (0, -width % STRIDE), (0, 0)]
        padded = np.pad(content, short, mode="symmetric")
        with one_thread(), torch.inference_mode():
            target = normalise(self.encoder(to_tensor(padded[None]))[-1], self.encoder(to_tensor(style[None]))[-1])
            made = to_images(self.decoder(target))[0]
        return np.ascontiguousarray(made[:height, :width])

    def save(self, path: Path, card: Mapping[str, Any]) -> None:
        """Write a safetensors file that :meth:`load` reads, atomically; ``card`` (JSON) stands in its header."""
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        write_networks(path, FORMAT, {"config": asdict(self.config), "mpp": self.mpp, "card": dict(card)}, parts)

    @classmethod
    def load(cls, path: Path) -> StyleTransfer:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ModelError
            No such file, or none of this format.
        """
        config, mpp, tensors = read_described(path, FORMAT, AdaINConfig)
        made = cls.new(config, mpp, 0)
        restore(path, {"encoder": made.encoder, "decoder": made.decoder}, tensors)
        return made


def load_vgg(path: Path) -> Encoder:
    """An encoder with a user's VGG-19: a safetensors file with torchvision's names (``features.0.weight``).

    Raises
    ------
    ModelError
        No such file, or other weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read as weights of VGG-19: {error}") from error
    encoder = Encoder(AdaINConfig())
    depths = encoder.config.depths
    names = [f"levels.{n}.{k}" for n, depth in enumerate(depths) for k in range(depth)]
    try:
        encoder.load_state_dict(
            {
                f"{name}.{part}": tensors[f"features.{layer}.{part}"]
                for name, layer in zip(names, _VGG_LAYERS, strict=True)
                for part in ("weight", "bias")
            }
        )
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"{path}: no weights of VGG-19 ({error}); expected features.0.weight … features.19.bias of torchvision"
        ) from error
    return encoder


def to_tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 (N, h, w, 3) to float32 (N, 3, h, w) in 0–1."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255.0


def to_images(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """The inverse of :func:`to_tensor`, rounded and clipped."""
    values = (tensor.detach() * 255.0).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(values.cpu().numpy().transpose(0, 2, 3, 1))


def _levels(config: AdaINConfig) -> list[list[tuple[int, int]]]:
    """Channels before and after each convolution, level by level."""
    levels, inner = [], 3
    for width, depth in zip(config.widths, config.depths, strict=True):
        levels.append([(inner if k == 0 else width, width) for k in range(depth)])
        inner = width
    return levels


def _convolution(inner: int, outer: int) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3)


def _mirrored(x: Tensor) -> Tensor:
    """One pixel more on each side, as padding by reflection does, whose gradient on a GPU depends on an order."""
    x = torch.cat([x[:, :, 1:2], x, x[:, :, -2:-1]], dim=2)
    return torch.cat([x[..., 1:2], x, x[..., -2:-1]], dim=3)

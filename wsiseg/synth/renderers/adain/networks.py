"""Adaptive instance normalisation: an encoder to relu4_1, its mirror as decoder, and their loss.

Huang & Belongie 2017, doi:10.1109/ICCV.2017.167.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiseg.core.atomic import write_bytes
from wsiseg.errors import ModelError
from wsiseg.models.engine.threads import one_thread

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


SMALL = AdaINConfig((16, 32, 64, 128), (1, 1, 2, 1))
"""An encoder that is trained here, where no weights of VGG-19 are given."""


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
                x = functional.relu(convolution(x))
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
                x = convolution(x)
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


def style_loss(output: Sequence[Tensor], target: Tensor, style: Sequence[Tensor]) -> Tensor:
    """MSE(relu4_1, t) + Σ (MSE of the means + MSE of the standard deviations) over relu1_1 … relu4_1."""
    loss = functional.mse_loss(output[-1], target)
    for made, real in zip(output, style, strict=True):
        for one, other in zip(moments(made), moments(real), strict=True):
            loss = loss + functional.mse_loss(one, other)
    return loss


@dataclass(frozen=True, eq=False)
class StyleTransfer:
    """An encoder and the decoder that was trained to invert it after normalisation."""

    config: AdaINConfig
    encoder: Encoder
    decoder: Decoder

    @classmethod
    def new(cls, config: AdaINConfig, seed: int = 0) -> StyleTransfer:
        """Untrained, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, Encoder(config), Decoder(config))

    def transfer_alone(self, content: npt.NDArray[np.uint8], style: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """One image (h, w, 3) in the style of another, uint8 (h, w, 3), on one thread."""
        height, width = content.shape[:2]
        short = [(0, -height % STRIDE), (0, -width % STRIDE), (0, 0)]
        padded = np.pad(content, short, mode="symmetric")
        with one_thread(), torch.inference_mode():
            target = normalise(self.encoder(to_tensor(padded[None]))[-1], self.encoder(to_tensor(style[None]))[-1])
            made = to_images(self.decoder(target))[0]
        return np.ascontiguousarray(made[:height, :width])

    def save(self, path: Path) -> None:
        """Write a safetensors file that :meth:`load` reads, atomically."""
        from safetensors.torch import save

        parts = (("encoder", self.encoder), ("decoder", self.decoder))
        tensors = {
            f"{name}.{key}": v.contiguous() for name, module in parts for key, v in module.state_dict().items()
        }
        note = {key: " ".join(map(str, value)) for key, value in asdict(self.config).items()}
        write_bytes(path, save(tensors, {"format": FORMAT, **note}))

    @classmethod
    def load(cls, path: Path) -> StyleTransfer:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ModelError
            No such file, or not of this format.
        """
        tensors, note = _read(path)
        if note.get("format") != FORMAT:
            raise ModelError(f"{path}: not a style transfer: its format is {note.get('format')!r}, not {FORMAT!r}")
        try:
            sizes = {key: tuple(int(word) for word in note[key].split()) for key in ("widths", "depths")}
            if not all(len(value) == 4 and all(1 <= size <= 1024 for size in value) for value in sizes.values()):
                raise ModelError(f"{path}: a damaged style transfer: its configuration is {note}")
            made = cls.new(AdaINConfig(**sizes))  # type: ignore[arg-type]
            for name, module in (("encoder", made.encoder), ("decoder", made.decoder)):
                start = f"{name}."
                module.load_state_dict({k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)})
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelError(f"{path}: cannot be read as a style transfer: {error}") from error
        return made


def load_vgg(path: Path) -> Encoder:
    """An encoder with a user's VGG-19: a safetensors file with torchvision's names (``features.0.weight``).

    Raises
    ------
    ModelError
        No such file, or other weights.
    """
    tensors, _ = _read(path)
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
    return np.ascontiguousarray(values.numpy().transpose(0, 2, 3, 1))


def _levels(config: AdaINConfig) -> list[list[tuple[int, int]]]:
    """Channels before and after each convolution, level by level."""
    levels, inner = [], 3
    for width, depth in zip(config.widths, config.depths, strict=True):
        levels.append([(inner if k == 0 else width, width) for k in range(depth)])
        inner = width
    return levels


def _convolution(inner: int, outer: int) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, padding_mode="reflect")


def _read(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error

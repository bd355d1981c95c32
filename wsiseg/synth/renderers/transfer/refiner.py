"""The reference-conditioned refiner, and the discriminator on (image, reference) pairs."""

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
from wsiseg.synth.renderers.networkfile import (
    read_described,
    read_tensors,
    restore,
    to_images,
    to_tensor,
    write_networks,
)
from wsiseg.synth.samplers.polygons import MPP

FORMAT, FORMAT_2 = "wsiseg-hou-refiner-3", "wsiseg-hou-refiner-2"
SYNTHETIC, REAL = 0, 1


@dataclass(frozen=True)
class RefinerConfig:
    """``width`` channels in the refiner's ``blocks`` residual blocks; ``code`` numbers describe the reference."""

    width: int = 32
    blocks: int = 5
    code: int = 32
    discriminator_width: int = 32

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 1 <= value <= 1024:
                raise ValueError(f"{name}: got {value}; expected 1 to 1024")
        if self.code < 2:
            raise ValueError(f"code: got {self.code}; expected 2 or more")


class _ReferenceCode(nn.Module):
    """A global code of an image: strided convolutions, then the mean over the image."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, code // 2, 5, stride=2, padding=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(code // 2, code, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(code, code, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
        )

    def forward(self, reference: Tensor) -> Tensor:
        code: Tensor = self.layers(reference).mean(dim=(2, 3))
        return code


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class Refiner(nn.Module):
    """Synthetic image and reference, (N, 3, h, w) in [-1, 1] each, to the refined image, clipped leakily to that.

    A residual network at full resolution [1]_; the reference's code is tiled over the image and joins its first
    features. The last layer starts at zero, so that an untrained refiner changes nothing.

    References
    ----------
    .. [1] Hou et al. 2019, doi:10.1109/CVPR.2019.00873, after Shrivastava et al. 2017, doi:10.1109/CVPR.2017.241.
    """

    def __init__(self, config: RefinerConfig = RefinerConfig()) -> None:
        super().__init__()
        self.reference = _ReferenceCode(config.code)
        self.stem = nn.Conv2d(3, config.width, 5, padding=2)
        self.join = nn.Conv2d(config.width + config.code, config.width, 1)
        self.blocks = nn.Sequential(*(_Block(config.width) for _ in range(config.blocks)))
        self.head = nn.Conv2d(config.width, 3, 1)
        nn.init.zeros_(self.head.weight)
        self.head.bias = nn.Parameter(torch.zeros(3))

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        features = functional.relu(self.stem(image))
        code = self.reference(reference)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        features = functional.relu(self.join(torch.cat([features, code], dim=1)))
        refined = image + self.head(self.blocks(features))
        return refined.clamp(-1.0, 1.0) + 0.01 * (refined - refined.clamp(-1.0, 1.0))


class Discriminator(nn.Module):
    """Image and reference, (N, 3, h, w) in [-1, 1] each, to logits (N, 2, h / 8, w / 8): synthetic, real.

    Each position judges the 65 px around it (a patch softmax) in the light of the reference's code: a nucleus and
    its neighbours. Of 17 px, which it would be without the two dilated layers, it learns little.
    """

    def __init__(self, config: RefinerConfig = RefinerConfig()) -> None:
        super().__init__()
        width = config.discriminator_width
        self.reference = _ReferenceCode(config.code)
        self.image = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(2 * width, 2 * width, 3, padding=2, dilation=2),
            nn.LeakyReLU(0.1),
        )
        last = nn.Conv2d(2 * width, 2, 1)
        self.head = nn.Sequential(nn.Conv2d(2 * width + config.code, 2 * width, 1), nn.LeakyReLU(0.1), last)
        for module in self.modules():  # torch's own start shrinks what passes through so many layers
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, a=0.1)
                nn.init.zeros_(module.bias)
        nn.init.normal_(last.weight, std=0.01)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        features = self.image(image)
        code = self.reference(reference)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        logits: Tensor = self.head(torch.cat([features, code], dim=1))
        return logits


def real_probability(logits: Tensor) -> Tensor:
    """Spatial mean of the probability of being real, (N,), from logits (N, 2, h, w)."""
    return functional.softmax(logits, dim=1)[:, REAL].mean(dim=(1, 2))


@dataclass(frozen=True)
class RefinerPair:
    """A refiner and the discriminator that it was trained against."""

    config: RefinerConfig
    refiner: Refiner
    discriminator: Discriminator

    @classmethod
    def new(cls, config: RefinerConfig = RefinerConfig(), seed: int = 0) -> RefinerPair:
        """Untrained ones, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, Refiner(config), Discriminator(config))

    def refine(
        self, images: npt.NDArray[np.uint8], references: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
        """Refined images, uint8 (N, h, w, 3), and how likely each is real, float64 (N,)."""
        self.refiner.eval()
        self.discriminator.eval()
        with torch.inference_mode():
            reference = to_tensor(references)
            refined = to_images(self.refiner(to_tensor(images), reference))
            # The discriminator sees what a reader of the dataset will: eight bits.
            probability = real_probability(self.discriminator(to_tensor(refined), reference))
        return refined, probability.double().numpy().clip(0.0, 1.0)

    def refine_alone(
        self, image: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.uint8], float]:
        """As :meth:`refine`, for one image (h, w, 3), on one thread.

        Sums of several threads, or of batches of other sizes, differ in their last bits.
        """
        with one_thread():
            refined, probability = self.refine(image[None], reference[None])
        return refined[0], float(probability[0])

    def judge_alone(self, image: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8]) -> float:
        """How likely an image (h, w, 3) is real, 0–1, on one thread."""
        self.discriminator.eval()
        with one_thread(), torch.inference_mode():
            logits = self.discriminator(to_tensor(image[None]), to_tensor(reference[None]))
            return min(max(float(real_probability(logits)[0]), 0.0), 1.0)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"refiner": self.refiner, "discriminator": self.discriminator}

    def save(self, path: Path, card: Mapping[str, Any]) -> None:
        """Write a safetensors file that :meth:`load` reads, atomically; ``card`` (JSON) stands in its header."""
        note = {"config": asdict(self.config), "mpp": MPP, "card": dict(card)}
        write_networks(path, FORMAT, note, self.networks)

    @classmethod
    def load(cls, path: Path) -> RefinerPair:
        """Read what :meth:`save` wrote, or a file of the format before it.

        Raises
        ------
        ModelError
            No such file, or not a refiner of this format.
        """
        header, tensors = read_tensors(path)
        before = header.get("format") == FORMAT_2
        config = _config_2(path, header) if before else read_described(path, FORMAT, RefinerConfig)[0]
        pair = cls.new(config)
        restore(path, pair.networks, tensors)
        return pair


def _config_2(path: Path, header: Mapping[str, str]) -> RefinerConfig:
    """Of the format before this one, in which each number is an entry of the header."""
    try:
        return RefinerConfig(**{key: int(value) for key, value in header.items() if key != "format"})
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: its description cannot be used: {error}") from error

"""The contest of AdaIN: a decoder paints masks in the style of real patches, and an encoder judges them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiseg.core.tables import parse_table
from wsiseg.errors import UsageError
from wsiseg.synth.likeness import Features, default_features, frechet_distance
from wsiseg.synth.renderers.adain.networks import (
    STRIDE,
    AdaINConfig,
    StyleTransfer,
    load_vgg,
    normalise,
    to_images,
    to_tensor,
)
from wsiseg.synth.renderers.adain.styles import content_of
from wsiseg.train.generators.adain.losses import transfer_losses
from wsiseg.train.generators.contest import Picture, descend, draw_batch, require_side, tiled
from wsiseg.train.generators.recipe import GeneratorRecipe
from wsiseg.train.pools import Portion

_SHOWN, _SCORED, _PART = 6, 64, 8
_SHEET, _SCORES = 2, 3  # streams of random numbers beside that of the steps


@dataclass(frozen=True)
class Method:
    """How the networks are trained.

    Attributes
    ----------
    rate, decay : float
        Learning rate of Adam, divided by 1 + ``decay`` × step.
    encoder_steps : int
        The first steps, in which encoder and decoder learn to reproduce images. None where weights of an encoder
        are given.
    brightness, contrast : float
        Styles are made brighter or darker by up to this part of white, and their deviations from their mean are
        scaled by 1 ± up to this.
    """

    rate: float = 1e-4
    decay: float = 5e-5
    encoder_steps: int = 1000
    brightness: float = 0.05
    contrast: float = 0.1

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.decay >= 0 and self.encoder_steps >= 0):
            raise ValueError(
                f"rate {self.rate}, decay {self.decay}, encoder_steps {self.encoder_steps}: expected above 0, "
                "and at least 0 and 0"
            )
        if not (0 <= self.brightness < 1 and 0 <= self.contrast < 1):
            raise ValueError(f"brightness {self.brightness}, contrast {self.contrast}: expected 0 to below 1")


@dataclass(frozen=True)
class Batch:
    """Masks and real images of other places (N, 3, h, w), 0–1, and the nuclei (N, h, w) of the masks."""

    content: Tensor
    style: Tensor
    nuclei: Tensor


def adain_contest(recipe: GeneratorRecipe, portions: list[Portion], device: str) -> StyleContest:
    """The contest that a recipe describes, before its first step.

    Raises
    ------
    UsageError
        Networks or a method that cannot be, or patches whose side does not fit them.
    ModelError
        The weights of the encoder cannot be read.
    """
    config = parse_table(AdaINConfig, recipe.network, "network")
    method = parse_table(Method, recipe.method, "method")
    if recipe.data.side % STRIDE or recipe.data.side < 4 * STRIDE:
        raise UsageError(
            f"data.side: got {recipe.data.side}; expected a multiple of {STRIDE}, at least {4 * STRIDE}"
        )
    require_side(portions, recipe.data.side)
    networks = StyleTransfer.new(config, recipe.data.mpp, recipe.seed)
    if recipe.encoder:
        if config != AdaINConfig():
            raise UsageError("network: is not VGG-19, of which weights are given; leave network or encoder out")
        networks = dataclasses.replace(networks, encoder=load_vgg(Path(recipe.encoder)))
    return StyleContest(recipe, networks, method, portions, device)


class StyleContest:
    """See :class:`wsiseg.train.generators.contest.Contest`."""

    def __init__(
        self,
        recipe: GeneratorRecipe,
        transfer: StyleTransfer,
        method: Method,
        portions: list[Portion],
        device: str,
    ) -> None:
        self.recipe, self.transfer, self.method = recipe, transfer, method
        self.portions, self.device = portions, device
        for network in self.networks.values():
            network.to(device)
        painter = list(transfer.decoder.parameters())
        self._optimisers = {
            "reproduce": torch.optim.Adam([*transfer.encoder.parameters(), *painter], method.rate),
            "paint": torch.optim.Adam(painter, method.rate),
        }
        self._features: Features | None = None

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"encoder": self.transfer.encoder, "decoder": self.transfer.decoder}

    @property
    def optimisers(self) -> Mapping[str, torch.optim.Optimizer]:
        return self._optimisers

    def memory(self) -> dict[str, Any]:
        return {}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Networks and optimisers are all."""

    def step(self, number: int) -> dict[str, float]:
        rate = self.method.rate / (1 + self.method.decay * number)
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate
        batch = self._batch(np.random.default_rng([self.recipe.seed, number]), self.recipe.batch)
        learns = not self.recipe.encoder and number < self.method.encoder_steps
        self.transfer.encoder.requires_grad_(learns)
        return self._reproduce(batch.style) if learns else self._paint(batch)

    def sheet(self) -> Picture:
        """Rows of a mask, a real image, the mask in its style, and the image as the decoder reproduces it."""
        batch = self._batch(np.random.default_rng([self.recipe.seed, _SHEET, 0]), _SHOWN)
        with torch.inference_mode():
            again = self.transfer.decoder(self.transfer.encoder(batch.style)[-1])
            columns = [to_images(x) for x in (batch.content, batch.style, self._painted(batch), again)]
        return tiled([list(row) for row in zip(*columns, strict=True)])

    def scores(self) -> dict[str, float]:
        """``frechet_…``, and how bright ``nuclei`` and what lies ``elsewhere`` were painted, 0–1.

        Nuclei should be the darker ones.
        """
        whole = self._batch(np.random.default_rng([self.recipe.seed, _SCORES, 0]), _SCORED)
        with torch.inference_mode():
            fields = (whole.content.split(_PART), whole.style.split(_PART), whole.nuclei.split(_PART))
            made = np.concatenate([to_images(self._painted(Batch(*part))) for part in zip(*fields, strict=True)])
        if self._features is None:
            self._features = default_features()
        real, painted = (self._features.of(x) for x in (to_images(whole.style), made))
        grey, inside = made.mean(axis=3) / 255, whole.nuclei.cpu().numpy()
        return {
            f"frechet_{self._features.name}": frechet_distance(real, painted),
            "nuclei": float(grey[inside].mean()) if inside.any() else 0.0,
            "elsewhere": float(grey[~inside].mean()),
        }

    def save(self, path: Path, card: Mapping[str, Any]) -> None:
        self.transfer.save(path, card)

    def _reproduce(self, images: Tensor) -> dict[str, float]:
        """Encoder and decoder learn to give images back."""
        loss = functional.mse_loss(self.transfer.decoder(self.transfer.encoder(images)[-1]), images)
        return {"reproduction": descend(self._optimisers["reproduce"], loss, "encoder")}

    def _paint(self, batch: Batch) -> dict[str, float]:
        """The decoder learns to invert the encoder where the mask's features have the style's moments."""
        encoder = self.transfer.encoder
        with torch.no_grad():
            style = encoder(batch.style)
            target = normalise(encoder(batch.content)[-1], style[-1])
        losses = transfer_losses(encoder(self.transfer.decoder(target)), target, style)
        descend(self._optimisers["paint"], torch.stack(list(losses.values())).sum(), "decoder")
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _painted(self, batch: Batch) -> Tensor:
        encoder = self.transfer.encoder
        target = normalise(encoder(batch.content)[-1], encoder(batch.style)[-1])
        return self.transfer.decoder(target)

    def _batch(self, rng: np.random.Generator, count: int) -> Batch:
        _, labels = draw_batch(rng, self.portions, count)
        images, _ = draw_batch(rng, self.portions, count)
        masks = np.stack([content_of(label) for label in labels])
        style = varied(rng, to_tensor(images), self.method.brightness, self.method.contrast)
        content, nuclei = to_tensor(masks), torch.from_numpy(labels > 0)
        return Batch(content.to(self.device), style.to(self.device), nuclei.to(self.device))


def varied(rng: np.random.Generator, images: Tensor, brightness: float, contrast: float) -> Tensor:
    """Images (N, 3, h, w) in 0–1, each with another brightness and contrast, see :class:`Method`."""
    shift, factor = (
        torch.from_numpy(rng.uniform(-most, most, (len(images), 1, 1, 1)).astype(np.float32))
        for most in (brightness, contrast)
    )
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + (images - mean) * (1 + factor) + shift).clamp(0, 1)

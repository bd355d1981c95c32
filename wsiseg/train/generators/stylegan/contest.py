"""The contest of StyleGAN2 with adaptive augmentation, as SNOW trains it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsiseg.core.tables import parse_table
from wsiseg.errors import UsageError
from wsiseg.synth.likeness import Features, default_features, frechet_distance
from wsiseg.synth.renderers.networkfile import to_images
from wsiseg.synth.renderers.stylegan.networks import StyleGan, StyleGanConfig
from wsiseg.train.generators.contest import Picture, descend, draw_batch, real_batch, require_side, tiled
from wsiseg.train.generators.recipe import GeneratorRecipe
from wsiseg.train.generators.stylegan.augment import adapted, augmented
from wsiseg.train.generators.stylegan.discriminator import Discriminator
from wsiseg.train.generators.stylegan.losses import convinces, distinguishes, gradient_penalty, path_lengths
from wsiseg.train.loop import update_average
from wsiseg.train.pools import Portion

_SHOWN, _SCORED = (4, 6), 128
_SCORES = 3  # a stream of random numbers beside that of the steps
_MEAN_STYLE, _MEAN_PATH = 0.995, 0.99


@dataclass(frozen=True)
class Method:
    """How the networks are trained.

    Attributes
    ----------
    rate : float
        Learning rate of Adam (β 0 and 0.99).
    gradient : float
        Weight γ of the gradient penalty R1, computed in each ``gradient_every``-th step.
    path : float
        Weight of the path length's regularity, computed in each ``path_every``-th step on half a batch.
    gradient_every, path_every : int
    mixing : float
        Share of the images whose finer layers have the style of another code.
    target : float
        Mean sign of the discriminator's logits of real images that the augmentation aims at; 0: no augmentation.
    target_every : int
        Steps between two adaptations.
    thousands : float
        Of images in which the augmentation's probability goes from 0 to 1.
    average_thousands : float
        Of images in which the averaged generator forgets half.
    """

    rate: float = 2.5e-3
    gradient: float = 0.5
    path: float = 2.0
    gradient_every: int = 16
    path_every: int = 4
    mixing: float = 0.9
    target: float = 0.6
    target_every: int = 4
    thousands: float = 500.0
    average_thousands: float = 10.0

    def __post_init__(self) -> None:
        for name in ("rate", "thousands", "average_thousands"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected more than 0")
        for name in ("gradient", "path"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected 0 or more")
        for name in ("gradient_every", "path_every", "target_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected 1 or more")
        if not (0 <= self.mixing <= 1 and 0 <= self.target < 1):
            raise ValueError(f"mixing {self.mixing}, target {self.target}: expected 0 to 1")


def stylegan_contest(recipe: GeneratorRecipe, portions: list[Portion], device: str) -> StyleContest:
    """The contest that a recipe describes, before its first step.

    Raises
    ------
    UsageError
        Networks or a method that cannot be, or patches whose side does not fit them.
    """
    config = parse_table(StyleGanConfig, recipe.network, "network")
    method = parse_table(Method, recipe.method, "method")
    if recipe.data.side != config.side:
        raise UsageError(
            f"data.side: got {recipe.data.side}; expected {config.side}, which network.widths of "
            f"{len(config.widths)} sizes give"
        )
    require_side(portions, recipe.data.side)
    return StyleContest(recipe, config, method, portions, device)


class StyleContest:
    """See :class:`wsiseg.train.generators.contest.Contest`."""

    def __init__(
        self,
        recipe: GeneratorRecipe,
        config: StyleGanConfig,
        method: Method,
        portions: list[Portion],
        device: str,
    ) -> None:
        self.recipe, self.method, self.portions, self.device = recipe, method, portions, device
        self.made = StyleGan.new(config, recipe.data.mpp, recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + 1)
            self.discriminator = Discriminator(config)
        self.average = copy.deepcopy(self.made)
        for network in self.networks.values():
            network.to(device)
        for part in (self.average.mapping, self.average.synthesis):
            part.requires_grad_(False)
        generator = [*self.made.mapping.parameters(), *self.made.synthesis.parameters()]
        self._optimisers = {
            "generator": _adam(generator, method.rate, method.path_every if method.path else 0),
            "discriminator": _adam(
                self.discriminator.parameters(), method.rate, method.gradient_every if method.gradient else 0
            ),
        }
        self.probability = self.signs = self.path = 0.0
        self._features: Features | None = None

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {
            "mapping": self.made.mapping,
            "synthesis": self.made.synthesis,
            "discriminator": self.discriminator,
            "average_mapping": self.average.mapping,
            "average_synthesis": self.average.synthesis,
        }

    @property
    def optimisers(self) -> Mapping[str, torch.optim.Optimizer]:
        return self._optimisers

    def memory(self) -> dict[str, Any]:
        return {"probability": self.probability, "signs": self.signs, "path": self.path}

    def recall(self, memory: Mapping[str, Any]) -> None:
        self.probability, self.signs, self.path = (memory[name] for name in ("probability", "signs", "path"))

    def step(self, number: int) -> dict[str, float]:
        rng = np.random.default_rng([self.recipe.seed, number])
        method, count = self.method, self.recipe.batch
        real = real_batch(rng, self.portions, count).to(self.device)
        losses = {"generator": self._generator_step(count)}
        if method.path and number % method.path_every == 0:
            losses["path"] = self._path_step(max(2, count // 2))
        losses["discriminator"] = self._discriminator_step(real)
        if method.gradient and number % method.gradient_every == 0:
            losses["gradient"] = self._gradient_step(real)
        if method.target and number % method.target_every == method.target_every - 1:
            images = count * method.target_every
            signs = self.signs / method.target_every
            self.probability = adapted(self.probability, signs, method.target, images, method.thousands)
            self.signs = 0.0
        self._update_average(number)
        return losses

    def sheet(self) -> Picture:
        """Images of the averaged generator, always of the same seeds."""
        rows, columns = _SHOWN
        images = self._averaged(rows * columns, 10)
        return tiled([list(images[k * columns : (k + 1) * columns]) for k in range(rows)])

    def scores(self) -> dict[str, float]:
        """``frechet_…`` of the averaged generator, and the augmentation's probability."""
        if self._features is None:
            self._features = default_features()
        rng = np.random.default_rng([self.recipe.seed, _SCORES, 0])
        real, _ = draw_batch(rng, self.portions, _SCORED)
        one, other = (self._features.of(x) for x in (real, self._averaged(_SCORED, 100)))
        return {
            f"frechet_{self._features.name}": frechet_distance(one, other),
            "augmentation": self.probability,
        }

    def save(self, path: Path, card: Mapping[str, Any]) -> None:
        self.average.save(path, card)

    def _generator_step(self, count: int) -> float:
        self._learns(discriminator=False)
        images, _ = self._images(count)
        logits = self.discriminator(augmented(images, self.probability))
        return descend(self._optimisers["generator"], convinces(logits), "generator")

    def _path_step(self, count: int) -> float:
        self._learns(discriminator=False)
        images, styles = self._images(count)
        lengths = path_lengths(images, styles)
        mean = float(lengths.detach().mean())
        self.path += (1 - _MEAN_PATH) * (mean - self.path)
        penalty = (lengths - self.path).square().mean()
        descend(self._optimisers["generator"], penalty * self.method.path * self.method.path_every, "generator")
        return float(penalty.detach())

    def _discriminator_step(self, real: Tensor) -> float:
        self._learns(discriminator=True)
        with torch.no_grad():
            generated, _ = self._images(len(real))
        of_generated = self.discriminator(augmented(generated, self.probability))
        of_real = self.discriminator(augmented(real, self.probability))
        self.signs += float(of_real.detach().sign().mean())
        loss = distinguishes(of_real, of_generated)
        return descend(self._optimisers["discriminator"], loss, "discriminator")

    def _gradient_step(self, real: Tensor) -> float:
        self._learns(discriminator=True)
        images = real.clone().requires_grad_(True)
        penalty = gradient_penalty(self.discriminator(augmented(images, self.probability)), images)
        weight = self.method.gradient * self.method.gradient_every
        descend(self._optimisers["discriminator"], penalty * weight, "discriminator")
        return float(penalty.detach())

    def _images(self, count: int) -> tuple[Tensor, Tensor]:
        """Images of the generator that learns, and their styles."""
        config = self.made.config
        styles = self.made.styles(self._codes(count))
        with torch.no_grad():
            self.made.mapping.mean.lerp_(styles[:, 0].detach().mean(dim=0), 1 - _MEAN_STYLE)
        others = self.made.styles(self._codes(count))
        first = torch.randint(1, config.styles, (count,))
        first = torch.where(torch.rand(count) < self.method.mixing, first, torch.full_like(first, config.styles))
        mixed = (torch.arange(config.styles) >= first[:, None]).to(styles.device)
        styles = torch.where(mixed[..., None], others, styles)
        return self.made.synthesis(styles), styles

    def _codes(self, count: int) -> Tensor:
        return torch.randn((count, self.made.config.code)).to(self.device)

    def _averaged(self, count: int, stream: int) -> npt.NDArray[np.uint8]:
        """``count`` images uint8 (count, h, w, 3) of the averaged generator, from a stream of the seed."""
        source = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + stream)
        codes = torch.randn((count, self.average.config.code), generator=source)
        with torch.inference_mode():
            parts = [
                to_images(self.average.synthesis(self.average.styles(part.to(self.device)), source))
                for part in codes.split(16)
            ]
        return np.concatenate(parts)

    def _update_average(self, number: int) -> None:
        """The average forgets faster at the start, when there is little to remember."""
        seen = (number + 1) * self.recipe.batch
        half = min(self.method.average_thousands * 1000, 0.05 * seen)
        decay = 0.5 ** (self.recipe.batch / max(half, 1e-8))
        update_average(self.average.mapping, self.made.mapping, decay)
        update_average(self.average.synthesis, self.made.synthesis, decay)

    def _learns(self, *, discriminator: bool) -> None:
        self.discriminator.requires_grad_(discriminator)
        for network in (self.made.mapping, self.made.synthesis):
            network.requires_grad_(not discriminator)


def _adam(parameters: Any, rate: float, every: int) -> torch.optim.Adam:
    """Adam whose rate and memory allow for a second step in each ``every``-th one (0: none)."""
    share = every / (every + 1) if every else 1.0
    return torch.optim.Adam(parameters, rate * share, betas=(0.0, 0.99**share))

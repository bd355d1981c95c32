"""The contest of Points2Image: G and F against two discriminators, on images of which points are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsiseg.core.tables import parse_table
from wsiseg.errors import UsageError
from wsiseg.synth.likeness import Features, default_features, diversity, frechet_distance
from wsiseg.synth.parts import connected
from wsiseg.synth.renderers.networkfile import to_images, to_tensor
from wsiseg.synth.renderers.points2image.maps import layout_maps
from wsiseg.synth.renderers.points2image.networks import (
    MAPS,
    NetworkPair,
    PairConfig,
    as_maps,
    draw_noise,
    invert,
)
from wsiseg.synth.samplers.ellipses import EllipsesOptions, place_ellipses
from wsiseg.synth.samplers.points import centroids
from wsiseg.synth.sheet import outlined
from wsiseg.train.generators.contest import Picture, descend, draw_batch, require_side, tiled
from wsiseg.train.generators.points2image.discriminator import ImagePool, PatchDiscriminator
from wsiseg.train.generators.points2image.losses import Weights, convinces, distinguishes, role_losses
from wsiseg.train.generators.recipe import GeneratorRecipe
from wsiseg.train.pools import Portion
from wsiseg.train.sources.cut import nearest

_SHOWN, _DRAWS, _SCORED = 4, 3, 64
_ELLIPSES_MPP = 0.25
_SHEET, _SCORES = 2, 3  # streams of random numbers beside that of the steps


@dataclass(frozen=True)
class Method:
    """How the networks are trained; the defaults are the published ones.

    Attributes
    ----------
    rate : float
        Learning rate of Adam (β₁ 0.5, β₂ 0.999).
    decay_from : float
        The fraction of the steps from which the rate falls linearly to zero.
    pool : int
        Generated images, and found layouts, that the discriminators see again.
    discriminator : int
        Channels of a discriminator's first layer.
    weights : Weights
    ellipses : EllipsesOptions
        The layouts that are drawn from points; lengths are pixels of 0.25 µm, whatever the images' scale.
    """

    rate: float = 2e-4
    decay_from: float = 0.75
    pool: int = 50
    discriminator: int = 64
    weights: Weights = field(default_factory=Weights)
    ellipses: EllipsesOptions = field(default_factory=EllipsesOptions)

    def __post_init__(self) -> None:
        if not (self.rate > 0 and 0 <= self.decay_from <= 1 and self.pool >= 1 and self.discriminator >= 1):
            raise ValueError(
                f"rate {self.rate}, decay_from {self.decay_from}, pool {self.pool}, discriminator "
                f"{self.discriminator}: expected above 0, 0 to 1, at least 1 and 1"
            )


@dataclass(frozen=True)
class Batch:
    """Real images (N, 3, h, w), their points, and maps (N, 3, h, w) of layouts with nuclei at the same points."""

    images: Tensor
    points: list[Tensor]
    maps: Tensor
    labels: npt.NDArray[np.int32]


def points2image_contest(recipe: GeneratorRecipe, portions: list[Portion], device: str) -> PointsToImage:
    """The contest that a recipe describes, before its first step.

    Raises
    ------
    UsageError
        Networks or a method that cannot be, or patches whose side does not fit them.
    """
    config = parse_table(PairConfig, recipe.network, "network")
    method = parse_table(Method, recipe.method, "method")
    strides = np.lcm(config.stride_px, config.inverse.stride_px)
    if recipe.data.side % strides or recipe.data.side < 32:
        raise UsageError(f"data.side: got {recipe.data.side}; expected a multiple of {strides}, at least 32")
    require_side(portions, recipe.data.side)
    return PointsToImage(recipe, config, method, portions, device)


class PointsToImage:
    """See :class:`wsiseg.train.generators.contest.Contest`."""

    def __init__(
        self, recipe: GeneratorRecipe, config: PairConfig, method: Method, portions: list[Portion], device: str
    ) -> None:
        self.recipe, self.method, self.portions, self.device = recipe, method, portions, device
        self.pair = NetworkPair.new(config, recipe.data.mpp, recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + 1)
            self.of_images = PatchDiscriminator(3, method.discriminator)
            self.of_layouts = PatchDiscriminator(MAPS, method.discriminator)
        for network in self.networks.values():
            network.to(device)
        self._optimisers = {
            name: torch.optim.Adam(
                [p for part in parts for p in part.parameters()], method.rate, betas=(0.5, 0.999)
            )
            for name, parts in (
                ("generators", (self.pair.generator, self.pair.inverse)),
                ("discriminators", (self.of_images, self.of_layouts)),
            )
        }
        self.pools = {"images": ImagePool(method.pool), "layouts": ImagePool(method.pool)}
        self._features: Features | None = None

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {
            "generator": self.pair.generator,
            "inverse": self.pair.inverse,
            "of_images": self.of_images,
            "of_layouts": self.of_layouts,
        }

    @property
    def optimisers(self) -> Mapping[str, torch.optim.Optimizer]:
        return self._optimisers

    def memory(self) -> dict[str, Any]:
        return {name: pool.state() for name, pool in self.pools.items()}

    def recall(self, memory: Mapping[str, Any]) -> None:
        for name, pool in self.pools.items():
            pool.restore(memory[name], self.device)

    def step(self, number: int) -> dict[str, float]:
        rng = np.random.default_rng([self.recipe.seed, number])
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = self.method.rate * self._remaining(number)
        for network in self.networks.values():
            network.train()
        batch = self._batch(rng, self.recipe.batch)
        self._learns(discriminators=False)
        terms, generated, found = self._generators(batch)
        losses = {name: float(term.detach()) for name, term in terms.items()}
        descend(self._optimisers["generators"], torch.stack(list(terms.values())).sum(), "generators")
        self._learns(discriminators=True)
        old = self.pools["images"].exchange(rng, generated), self.pools["layouts"].exchange(rng, found)
        opinions = [
            distinguishes(judge(real), judge(other))
            for judge, real, other in zip(
                (self.of_images, self.of_layouts), (batch.images, batch.maps), old, strict=True
            )
        ]
        descend(self._optimisers["discriminators"], torch.stack(opinions).sum(), "discriminators")
        names = ("judge_images", "judge_layouts")
        return losses | {name: float(x.detach()) for name, x in zip(names, opinions, strict=True)}

    def sheet(self) -> Picture:
        """Rows of a layout, three of its images, a real image, and the nuclei that F finds there."""
        batch = self._batch(np.random.default_rng([self.recipe.seed, _SHEET, 0]), _SHOWN)
        with self._at_rest():
            draws = [self._images(batch.maps, 10 + n) for n in range(_DRAWS)]
            found = as_maps(invert(self.pair.inverse, batch.images))[:, 2].cpu().numpy()
        real = to_images(batch.images)
        rows = []
        for n in range(_SHOWN):
            blank = np.full_like(real[n], 255)
            inside = (batch.labels[n] > 0)[..., None]
            layout = outlined(np.where(inside, np.uint8(170), blank), batch.labels[n])
            nuclei = np.repeat(np.rint(found[n] * 255).astype(np.uint8)[..., None], 3, axis=2)
            rows.append([layout, *(draw[n] for draw in draws), real[n], nuclei])
        return tiled(rows)

    def scores(self) -> dict[str, float]:
        """``frechet_…``, ``diversity``, and F's mean probability of a nucleus ``at_points`` and ``elsewhere``.

        Nuclei and background are swapped where ``elsewhere`` is above ``at_points``.
        """
        batch = self._batch(np.random.default_rng([self.recipe.seed, _SCORES, 0]), _SCORED)
        with self._at_rest():
            images = np.concatenate([self._images(part, 100 + n) for n, part in enumerate(batch.maps.split(8))])
            parts = [as_maps(invert(self.pair.inverse, part))[:, 2].cpu() for part in batch.images.split(8)]
            draws = np.stack([self._images(batch.maps[:4], 200 + n) for n in range(10)], axis=1)
        found = torch.cat(parts)
        at = torch.zeros_like(found, dtype=torch.bool)
        for n, points in enumerate(batch.points):
            at[n, points[:, 0], points[:, 1]] = True
        if self._features is None:
            self._features = default_features()
        real, made = (self._features.of(x) for x in (to_images(batch.images), images))
        return {
            f"frechet_{self._features.name}": frechet_distance(real, made),
            "diversity": diversity(draws),
            "at_points": float(found[at].mean()) if at.any() else 0.0,
            "elsewhere": float(found[~at].mean()),
        }

    def save(self, path: Path, card: Mapping[str, Any]) -> None:
        self.pair.save(path, card)

    def _generators(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The generators' losses, the generated images, and the layouts that F found in real ones."""
        pair, weights = self.pair, self.method.weights
        generated = pair.generator(batch.maps, self._noise(batch.maps))
        found_generated = invert(pair.inverse, generated)
        found_real = invert(pair.inverse, batch.images)
        found = as_maps(found_real)
        again = pair.generator(found, self._noise(found))
        terms = {
            "convince_images": convinces(self.of_images(generated)),
            "convince_layouts": convinces(self.of_layouts(found)),
            "image_cycle": weights.image_cycle * (again - batch.images).abs().mean(),
        }
        terms |= role_losses(found_generated, found_real, batch.maps, batch.points, weights)
        return terms, generated, found

    def _learns(self, *, discriminators: bool) -> None:
        for network in (self.of_images, self.of_layouts):
            network.requires_grad_(discriminators)

    def _batch(self, rng: np.random.Generator, count: int) -> Batch:
        images, labels = draw_batch(rng, self.portions, count)
        places = [centroids(label) for label in labels]
        layouts = self._layouts(rng, places)
        maps = np.stack([layout_maps(layout) for layout in layouts])
        return Batch(
            to_tensor(images).to(self.device),
            [torch.from_numpy(np.rint(p[:, ::-1]).astype(np.int64)) for p in places],
            torch.from_numpy(maps).to(self.device),
            layouts,
        )

    def _layouts(
        self, rng: np.random.Generator, places: Sequence[npt.NDArray[np.float64]]
    ) -> npt.NDArray[np.int32]:
        side = self.recipe.data.side
        factor = self.recipe.data.mpp / _ELLIPSES_MPP
        whole = round(side * factor)
        drawn = [place_ellipses(rng, self.method.ellipses, points * factor, whole) for points in places]
        return np.stack([connected(nearest(labels, (side, side))) for labels in drawn])

    def _noise(self, maps: Tensor) -> Tensor:
        return draw_noise(self.pair.config, (maps.shape[0], *maps.shape[2:])).to(self.device)

    def _images(self, maps: Tensor, stream: int) -> npt.NDArray[np.uint8]:
        """Images uint8 (N, h, w, 3) of layouts, their noise from a stream of the seed."""
        source = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + stream)
        noise = draw_noise(self.pair.config, (maps.shape[0], *maps.shape[2:]), source)
        return to_images(self.pair.generator(maps, noise.to(self.device)))

    def _at_rest(self) -> torch.inference_mode:
        """Networks look, and do not learn."""
        for network in self.networks.values():
            network.eval()
        return torch.inference_mode()

    def _remaining(self, number: int) -> float:
        done = number / self.recipe.steps
        start = self.method.decay_from
        return 1.0 if done <= start else (1 - done) / (1 - start)

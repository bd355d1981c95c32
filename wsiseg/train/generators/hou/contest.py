"""The contest of Hou et al.'s refiner: it makes rendered patches look real, and a discriminator judges them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from wsiseg.core.tables import parse_table
from wsiseg.errors import UsageError
from wsiseg.synth.hou.patch import MPP, HouOptions, HouPatch, real_pair, render_patch
from wsiseg.synth.likeness import Features, default_features, frechet_distance
from wsiseg.synth.renderers.networkfile import to_images, to_tensor
from wsiseg.synth.renderers.transfer.refiner import RefinerConfig, RefinerPair, real_probability
from wsiseg.synth.renderers.transfer.texture import Tile, take_apart
from wsiseg.synth.weighting.importance import importance_weight
from wsiseg.train.generators.contest import Picture, descend, tiled
from wsiseg.train.generators.hou.history import HistoryBuffer
from wsiseg.train.generators.hou.losses import discriminator_loss, refiner_loss
from wsiseg.train.generators.recipe import GeneratorRecipe
from wsiseg.train.patches import OUTSIDE
from wsiseg.train.pools import Portion

SegmenterLoss = Callable[[Tensor, Sequence[HouPatch]], Tensor]
"""The loss of a segmenter on refined images (N, 3, h, w), and the patches that they were."""
Made = TypeVar("Made")

_SHOWN, _SCORED, _PART = 6, 64, 8
_STEPS, _SCORES = 1, 3  # streams of random numbers beside those of the rendered patches
_MAGNIFIED = 8


@dataclass(frozen=True)
class Method:
    """How the networks are trained.

    Attributes
    ----------
    side : int
        Of the patches that are rendered and refined, px of 0.25 µm.
    refiner_rate, discriminator_rate : float
        Learning rates of Adam (β 0.5 and 0.99).
    history : int
        Refined patches of earlier steps that the discriminator sees again.
    warm_up : int
        The first steps, in which the discriminator learns alone, from patches as they are rendered: untrained it
        has nothing to say. As many as there are steps: the refiner changes nothing.
    """

    side: int = 128
    refiner_rate: float = 2e-4
    discriminator_rate: float = 5e-4
    history: int = 256
    warm_up: int = 200

    def __post_init__(self) -> None:
        if self.side < 32:
            raise ValueError(f"side: got {self.side}; expected 32 px or more")
        if not (self.refiner_rate > 0 and self.discriminator_rate > 0):
            raise ValueError(
                f"refiner_rate {self.refiner_rate}, discriminator_rate {self.discriminator_rate}: "
                "expected more than 0"
            )
        if self.history < 1 or self.warm_up < 0:
            raise ValueError(f"history {self.history}, warm_up {self.warm_up}: expected at least 1 and 0")


@dataclass(frozen=True)
class Batch:
    """Images and the references of the same textures, uint8 (N, h, w, 3) each."""

    images: Picture
    references: Picture

    @classmethod
    def of(cls, pairs: Iterable[tuple[Picture, Picture]]) -> Batch:
        images, references = zip(*pairs, strict=True)
        return cls(np.stack(images), np.stack(references))

    def parts(self, size: int) -> list[Batch]:
        """The same in batches of at most ``size``."""
        starts = range(0, len(self.images), size)
        return [Batch(self.images[n : n + size], self.references[n : n + size]) for n in starts]

    def tensors(self, device: str) -> tuple[Tensor, Tensor]:
        """float32 (N, 3, h, w) in [-1, 1] each."""
        return to_tensor(self.images).to(device), to_tensor(self.references).to(device)


def hou_contest(recipe: GeneratorRecipe, portions: list[Portion], device: str) -> RefinerContest:
    """The contest that a recipe describes, before its first step; its data are the textures.

    Raises
    ------
    UsageError
        Networks or a method that cannot be, or textures that nothing can be rendered on.
    """
    config = parse_table(RefinerConfig, recipe.network, "network")
    method = parse_table(Method, recipe.method, "method")
    if recipe.data.mpp != MPP:
        raise UsageError(f"data.mpp: got {recipe.data.mpp}; expected {MPP}, the scale of Hou et al.'s patches")
    if method.history < recipe.batch:
        raise UsageError(f"method.history: got {method.history}; expected at least batch, {recipe.batch}")
    if len(portions) != 1:
        raise UsageError(f"data.train: got {len(portions)} sources; expected one, of textures")
    return RefinerContest(recipe, config, method, tiles_of(portions[0]), device)


def tiles_of(portion: Portion) -> list[Tile]:
    """The textures of a pool that have nuclei to take a colour from, taken apart.

    Raises
    ------
    UsageError
        There are none, or some are smaller than the others.
    """
    pool = portion.pool
    if np.any(np.asarray(pool.known[portion.indices]) == OUTSIDE):
        side = max(pool.images.shape[1:3])
        raise UsageError(f"data.side: {side}, but some textures are smaller; expected the side of the smallest")
    tiles = [
        tile for tile in threaded(lambda n: take_apart(np.array(pool.images[n])), portion.indices) if tile.usable
    ]
    if not tiles:
        raise UsageError(f"data.train: none of the {len(portion)} textures has haematoxylin-stained nuclei")
    return tiles


class RefinerContest:
    """See :class:`wsiseg.train.generators.contest.Contest`.

    ``segmenter_loss`` is the term that needs a segmenter, which no recipe trains alongside; None: it is left out.
    """

    def __init__(
        self,
        recipe: GeneratorRecipe,
        config: RefinerConfig,
        method: Method,
        tiles: Sequence[Tile],
        device: str,
        segmenter_loss: SegmenterLoss | None = None,
    ) -> None:
        self.recipe, self.method, self.tiles, self.device = recipe, method, tiles, device
        self.segmenter_loss = segmenter_loss
        self.pair = RefinerPair.new(config, recipe.seed)
        for network in self.networks.values():
            network.to(device)
        rates = {"refiner": method.refiner_rate, "discriminator": method.discriminator_rate}
        self._optimisers = {
            name: torch.optim.Adam(network.parameters(), rates[name], betas=(0.5, 0.99))
            for name, network in self.networks.items()
        }
        self.history = HistoryBuffer(method.history)
        self._features: Features | None = None

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"refiner": self.pair.refiner, "discriminator": self.pair.discriminator}

    @property
    def optimisers(self) -> Mapping[str, torch.optim.Optimizer]:
        return self._optimisers

    def memory(self) -> dict[str, Any]:
        return {"history": {name: torch.from_numpy(images) for name, images in self.history.state().items()}}

    def recall(self, memory: Mapping[str, Any]) -> None:
        self.history.restore({name: images.numpy() for name, images in memory["history"].items()})

    def step(self, number: int) -> dict[str, float]:
        rng = np.random.default_rng([self.recipe.seed, number, _STEPS])
        count = self.recipe.batch
        patches = self._patches(number * count, count)
        fresh = Batch.of((patch.image, patch.reference) for patch in patches)
        losses = {}
        if number >= self.method.warm_up:
            losses["refiner"], images = self._refiner_step(fresh, patches)
            fresh = Batch(images, fresh.references)
        synthetic = self._with_earlier(rng, fresh)
        losses["discriminator"] = self._discriminator_step(self._real(rng, count), synthetic)
        return losses

    def sheet(self) -> Picture:
        """Rows of a reference, a patch as rendered, the patch refined, and what that changed, eight times."""
        shown = self._held[0].parts(_SHOWN)[0]
        refined = self._refined(shown)
        change = (refined.astype(np.int16) - shown.images) * _MAGNIFIED + 128
        columns = (shown.references, shown.images, refined, change.clip(0, 255).astype(np.uint8))
        return tiled([list(row) for row in zip(*columns, strict=True)])

    def scores(self) -> dict[str, float]:
        """How like real patches refined ones are, to our features and to the discriminator.

        ``frechet_…`` is of refined patches, ``rendered_…`` of the same before. ``p_real`` and ``p_refined`` are the
        discriminator's mean probabilities of being real, ``weight`` the mean importance weight of refined patches,
        and ``change`` what refining changes, in grey levels.
        """
        rendered, real = self._held
        refined = self._refined(rendered)
        chance = self._judged(Batch(refined, rendered.references))
        if self._features is None:
            self._features = default_features()
        of_real, of_rendered, of_refined = map(self._features.of, (real.images, rendered.images, refined))
        return {
            f"frechet_{self._features.name}": frechet_distance(of_real, of_refined),
            f"rendered_{self._features.name}": frechet_distance(of_real, of_rendered),
            "p_real": float(self._judged(real).mean()),
            "p_refined": float(chance.mean()),
            "weight": float(importance_weight(chance).mean()),
            "change": float(np.abs(refined.astype(np.int16) - rendered.images).mean()),
        }

    def save(self, path: Path, card: Mapping[str, Any]) -> None:
        self.pair.save(path, card)

    def _refiner_step(self, fresh: Batch, patches: Sequence[HouPatch]) -> tuple[float, Picture]:
        """One step of the refiner; its loss, and the images as they were refined before."""
        image, reference = fresh.tensors(self.device)
        self.pair.discriminator.requires_grad_(False)
        refined = self.pair.refiner(image, reference)
        extra = None if self.segmenter_loss is None else self.segmenter_loss(refined, patches)
        loss = refiner_loss(self.pair.discriminator(refined, reference), refined, image, extra)
        return descend(self._optimisers["refiner"], loss, "refiner"), to_images(refined)

    def _discriminator_step(self, real: Batch, synthetic: Batch) -> float:
        judge = self.pair.discriminator
        judge.requires_grad_(True)
        loss = discriminator_loss(judge(*real.tensors(self.device)), judge(*synthetic.tensors(self.device)))
        return descend(self._optimisers["discriminator"], loss, "discriminator")

    def _with_earlier(self, rng: np.random.Generator, fresh: Batch) -> Batch:
        """Half of the pairs from the history, once it has as many; then it gets the fresh ones."""
        half = len(fresh.images) // 2
        seen = fresh
        if half and len(self.history) >= half:
            images, references = self.history.sample(rng, half)
            seen = Batch(
                np.concatenate([fresh.images[half:], images]),
                np.concatenate([fresh.references[half:], references]),
            )
        self.history.push(rng, fresh.images, fresh.references)
        return seen

    def _patches(self, first: int, count: int) -> list[HouPatch]:
        """Rendered patches from number ``first`` on of the seed's endless sequence."""
        options = HouOptions(self.method.side)
        return threaded(
            lambda number: render_patch(self.tiles, self.recipe.seed, number, options), range(first, first + count)
        )

    def _real(self, rng: np.random.Generator, count: int) -> Batch:
        return Batch.of(real_pair(rng, self.tiles, self.method.side) for _ in range(count))

    @cached_property
    def _held(self) -> tuple[Batch, Batch]:
        """Rendered patches that no step has, and real ones; for sheets and scores."""
        patches = self._patches(self.recipe.steps * self.recipe.batch, _SCORED)
        real = self._real(np.random.default_rng([self.recipe.seed, 0, _SCORES]), _SCORED)
        return Batch.of((patch.image, patch.reference) for patch in patches), real

    def _refined(self, batch: Batch) -> Picture:
        with torch.inference_mode():
            parts = [to_images(self.pair.refiner(*part.tensors(self.device))) for part in batch.parts(_PART)]
        return np.concatenate(parts)

    def _judged(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The discriminator's probabilities of being real."""
        with torch.inference_mode():
            parts = [
                real_probability(self.pair.discriminator(*part.tensors(self.device))).cpu()
                for part in batch.parts(_PART)
            ]
        return torch.cat(parts).double().numpy().clip(0.0, 1.0)


def threaded(make: Callable[[int], Made], numbers: Iterable[int]) -> list[Made]:
    """What ``make`` gives for each number, in their order, by as many threads as torch has."""
    with ThreadPoolExecutor(torch.get_num_threads()) as executor:
        return list(executor.map(make, numbers))

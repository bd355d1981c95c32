"""Batches: each a function of the seed and its step alone, made ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsiseg.core.geometry import FloatArray
from wsiseg.train.colour import Image, Restaining, Variation, draw_variation, varied
from wsiseg.train.colour_torch import Colours, before_device, recolour
from wsiseg.train.patches import PatchPool
from wsiseg.train.pools import Portion, draw
from wsiseg.train.settings import Augment
from wsiseg.train.stains import density_moments, transport
from wsiseg.train.targets import Targets, make_targets, sample_patch
from wsiseg.train.views import draw_view


@dataclass(frozen=True)
class Batch:
    """Images and what the network is to give for them.

    Attributes
    ----------
    images : uint8 tensor (N, 3, s, s)
    targets : mapping of str to float32 tensor (N, s, s) or (N, c, s, s)
    weight : float32 tensor (N,)
    colours : Colours or None
        What is still to be done to the images; :meth:`to` does it.
    """

    images: Tensor
    targets: dict[str, Tensor]
    weight: Tensor
    colours: Colours | None = None

    def to(self, device: str) -> Batch:
        """The batch on a device, its colours varied."""
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=True))
        if moved.colours is None:
            return moved
        return replace(moved, images=recolour(moved.images, moved.colours), colours=None)

    def pin_memory(self) -> Batch:
        """The batch in memory that CUDA copies from while the program goes on."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> Batch:
        targets = {name: move(value) for name, value in self.targets.items()}
        colours = None if self.colours is None else self.colours.each(move)
        return Batch(move(self.images), targets, move(self.weight), colours)


@dataclass(frozen=True)
class BatchMaker:
    """How the batches of a training are made.

    Attributes
    ----------
    portions : sequence of Portion
    targets
        One of :data:`wsiseg.train.targets.HEAD_TARGETS`.
    augment : Augment
    batch, side : int
        Patches of a batch, and their side.
    mpp : float
    seed : int
    styles : float64 array (n, 3, 3)
        Moments (:func:`wsiseg.train.stains.stain_styles`) of the patches that lend their stains.
    defer : bool
        Leave the colours, but for JPEG, to the device that the batch goes to.
    """

    portions: Sequence[Portion]
    targets: Any
    augment: Augment
    batch: int
    side: int
    mpp: float
    seed: int
    styles: FloatArray = field(default_factory=lambda: np.empty((0, 3, 3)))
    defer: bool = False

    def make(self, step: int) -> Batch:
        """The batch of a step."""
        images, targets, weights, left = [], [], [], []
        for slot in range(self.batch):
            rng = np.random.default_rng([self.seed, step, slot])
            pool, index = draw(rng, self.portions)
            stains = self._other_stains([self.seed, step, slot, 1], pool, index)
            image, target, variation = self._patch(rng, pool, index)
            image, rest = self._colour(image, replace(variation, transport=stains))
            left.append(rest)
            images.append(image)
            targets.append(target)
            weights.append(pool.weight[index])
        return Batch(
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
            {name: torch.from_numpy(np.stack([target[name] for target in targets])) for name in targets[0]},
            torch.from_numpy(np.array(weights, dtype=np.float32)),
            Colours.of(left) if self.defer else None,
        )

    def _other_stains(self, seed: list[int], pool: PatchPool, index: int) -> Restaining | None:
        """What gives a patch the stains of another one; None: it keeps its own."""
        if self.augment.transport == 0 or len(self.styles) == 0:
            return None
        # Draws of its own: the others are those of a training without it.
        rng = np.random.default_rng(seed)
        chance, share, which = rng.random(), rng.random(), int(rng.integers(len(self.styles)))
        if chance >= self.augment.transport:
            return None
        own = density_moments(pool.images[index])
        return None if own is None else Restaining.by(transport(own, self.styles[which], share))

    def _patch(self, rng: np.random.Generator, pool: PatchPool, index: int) -> tuple[Image, Targets, Variation]:
        height, width = pool.labels.shape[1:]
        view = draw_view(rng, (height, width), self.side, self.augment)
        sample = sample_patch(pool, index, view, self.mpp)
        variation = draw_variation(rng, self.augment)
        return sample.image, make_targets(self.targets, sample, self.mpp), variation

    def _colour(self, image: Image, variation: Variation) -> tuple[Image, Variation]:
        """The image in as many of its colours as are not deferred, and what is left."""
        return before_device(image, variation) if self.defer else (varied(image, variation), variation)


def batches(maker: BatchMaker, first: int, stop: int, workers: int) -> Generator[Batch, None, None]:
    """The batches of the steps from ``first`` to before ``stop``, made by ``workers`` threads."""
    with ThreadPoolExecutor(workers) as executor:
        ahead: deque[Future[Batch]] = deque()
        try:
            for step in range(first, stop):
                ahead.append(executor.submit(maker.make, step))
                if len(ahead) > workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

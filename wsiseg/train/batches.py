"""Batches: each a function of the seed and its step alone, made ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsiseg.core.geometry import FloatArray
from wsiseg.train.colour import mix_densities, vary_colours
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
    """

    images: Tensor
    targets: dict[str, Tensor]
    weight: Tensor

    def to(self, device: str) -> Batch:
        targets = {name: value.to(device, non_blocking=True) for name, value in self.targets.items()}
        return Batch(self.images.to(device, non_blocking=True), targets, self.weight.to(device, non_blocking=True))


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
    """

    portions: Sequence[Portion]
    targets: Any
    augment: Augment
    batch: int
    side: int
    mpp: float
    seed: int
    styles: FloatArray = field(default_factory=lambda: np.empty((0, 3, 3)))

    def make(self, step: int) -> Batch:
        """The batch of a step."""
        images, targets, weights = [], [], []
        for slot in range(self.batch):
            rng = np.random.default_rng([self.seed, step, slot])
            pool, index = draw(rng, self.portions)
            matrix = self._other_stains([self.seed, step, slot, 1], pool, index)
            image, target = self._patch(rng, pool, index, matrix)
            images.append(image)
            targets.append(target)
            weights.append(pool.weight[index])
        return Batch(
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
            {name: torch.from_numpy(np.stack([target[name] for target in targets])) for name in targets[0]},
            torch.from_numpy(np.array(weights, dtype=np.float32)),
        )

    def _other_stains(self, seed: list[int], pool: PatchPool, index: int) -> FloatArray | None:
        """The matrix that gives a patch the stains of another one; None: it keeps its own."""
        if self.augment.transport == 0 or len(self.styles) == 0:
            return None
        # Draws of its own: the others are those of a training without it.
        rng = np.random.default_rng(seed)
        chance, share, which = rng.random(), rng.random(), int(rng.integers(len(self.styles)))
        if chance >= self.augment.transport:
            return None
        own = density_moments(pool.images[index])
        return None if own is None else transport(own, self.styles[which], share)

    def _patch(
        self, rng: np.random.Generator, pool: PatchPool, index: int, stains: FloatArray | None
    ) -> tuple[Any, Targets]:
        height, width = pool.labels.shape[1:]
        view = draw_view(rng, (height, width), self.side, self.augment)
        sample = sample_patch(pool, index, view, self.mpp)
        image = sample.image if stains is None else mix_densities(sample.image, stains)
        return vary_colours(rng, image, self.augment), make_targets(self.targets, sample, self.mpp)


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

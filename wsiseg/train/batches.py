"""Batches: each a function of the seed and its step alone, made ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsiseg.train.colour import vary_colours
from wsiseg.train.patches import PatchPool
from wsiseg.train.pools import Portion, draw
from wsiseg.train.settings import Augment
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
    """

    portions: Sequence[Portion]
    targets: Any
    augment: Augment
    batch: int
    side: int
    mpp: float
    seed: int

    def make(self, step: int) -> Batch:
        """The batch of a step."""
        images, targets, weights = [], [], []
        for slot in range(self.batch):
            rng = np.random.default_rng([self.seed, step, slot])
            pool, index = draw(rng, self.portions)
            image, target = self._patch(rng, pool, index)
            images.append(image)
            targets.append(target)
            weights.append(pool.weight[index])
        return Batch(
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
            {name: torch.from_numpy(np.stack([target[name] for target in targets])) for name in targets[0]},
            torch.from_numpy(np.array(weights, dtype=np.float32)),
        )

    def _patch(self, rng: np.random.Generator, pool: PatchPool, index: int) -> tuple[Any, Targets]:
        height, width = pool.labels.shape[1:]
        view = draw_view(rng, (height, width), self.side, self.augment)
        sample = sample_patch(pool, index, view, self.mpp)
        return vary_colours(rng, sample.image, self.augment), make_targets(self.targets, sample, self.mpp)


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

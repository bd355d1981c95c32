"""Refined patches of earlier steps: against them too the discriminator is trained, so that it forgets nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]


class HistoryBuffer:
    """At most ``capacity`` (refined image, reference) pairs, uint8 (h, w, 3) each.

    It fills in order; once a batch no longer fits, half of the batch, chosen at random, takes the places of
    pairs chosen at random (Shrivastava et al. 2017, doi:10.1109/CVPR.2017.241).
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("a history needs room for at least one pair")
        self.capacity = capacity
        self._images: list[Images] = []
        self._references: list[Images] = []

    def __len__(self) -> int:
        return len(self._images)

    def push(self, rng: np.random.Generator, images: Images, references: Images) -> None:
        """Add a batch, uint8 (N, h, w, 3) each."""
        if len(images) > self.capacity:
            raise ValueError(f"a batch of {len(images)} for a history of {self.capacity}")
        if len(self) + len(images) <= self.capacity:
            self._images += [image.copy() for image in images]
            self._references += [reference.copy() for reference in references]
            return
        count = min(max(len(images) // 2, 1), len(self))
        places = rng.choice(len(self), count, replace=False)
        for place, source in zip(places, rng.choice(len(images), count, replace=False), strict=True):
            self._images[place] = images[source].copy()
            self._references[place] = references[source].copy()

    def sample(self, rng: np.random.Generator, count: int) -> tuple[Images, Images]:
        """``count`` different pairs, uint8 (count, h, w, 3) each.

        Raises
        ------
        ValueError
            There are fewer.
        """
        if count > len(self):
            raise ValueError(f"{count} pairs asked of a history of {len(self)}")
        chosen = rng.choice(len(self), count, replace=False)
        return np.stack([self._images[k] for k in chosen]), np.stack([self._references[k] for k in chosen])

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` takes, arrays only."""
        if not len(self):
            return {}
        return {"images": np.stack(self._images), "references": np.stack(self._references)}

    def restore(self, state: dict[str, Any]) -> None:
        self._images = list(state["images"]) if state else []
        self._references = list(state["references"]) if state else []

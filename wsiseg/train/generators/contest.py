"""What the loop trains: networks that paint and networks that judge it, and what their steps remember."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsiseg.errors import TrainingError, UsageError
from wsiseg.synth.renderers.networkfile import to_tensor
from wsiseg.train.pools import Portion, draw

Picture = npt.NDArray[np.uint8]


class Contest(Protocol):
    """A generator, what judges it and their optimisers.

    A step is a function of the state before it, of the recipe's seed and of its number; torch's random state is set
    before it.
    """

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """All whose weights and buffers are state."""
        ...

    @property
    def optimisers(self) -> Mapping[str, torch.optim.Optimizer]: ...

    def memory(self) -> dict[str, Any]:
        """Other state: tensors and numbers, in dictionaries and lists."""
        ...

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take the state that :meth:`memory` gave."""
        ...

    def step(self, number: int) -> dict[str, float]:
        """Make step ``number``; its losses by name."""
        ...

    def sheet(self) -> Picture:
        """Samples, always of the same seeds, uint8 (h, w, 3)."""
        ...

    def scores(self) -> dict[str, float]:
        """How like real images generated ones are, by name; positive numbers."""
        ...

    def save(self, path: Path, card: Mapping[str, Any]) -> None:
        """Write the networks that render."""
        ...


def require_side(portions: list[Portion], side: int) -> None:
    """Refuse patches of another side, as smaller images give.

    Raises
    ------
    UsageError
    """
    for portion in portions:
        found = portion.pool.images.shape[1:3]
        if found != (side, side):
            raise UsageError(f"data.side: {side}, but a source gives patches of {found}; expected larger images")


def draw_batch(
    rng: np.random.Generator, portions: list[Portion], count: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """``count`` random patches, each in a random one of the square's eight symmetries.

    Returns
    -------
    images : uint8 array (count, h, w, 3)
    labels : int32 array (count, h, w)
    """
    images, labels = [], []
    for _ in range(count):
        pool, index = draw(rng, portions)
        turns, mirrored = divmod(int(rng.integers(8)), 2)
        pair = [np.rot90(np.asarray(values[index]), turns) for values in (pool.images, pool.labels)]
        image, label = (values[:, ::-1] for values in pair) if mirrored else pair
        images.append(image)
        labels.append(label.astype(np.int32))
    return np.stack(images), np.stack(labels)


def real_batch(rng: np.random.Generator, portions: list[Portion], count: int) -> Tensor:
    """The images of :func:`draw_batch` as float32 (count, 3, h, w) in [-1, 1]."""
    return to_tensor(draw_batch(rng, portions, count)[0])


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, what: str) -> float:
    """One step of the optimiser on a loss; its value.

    Raises
    ------
    TrainingError
        It is not finite.
    """
    value = float(loss.detach())
    if not np.isfinite(value):
        raise TrainingError(f"the {what}'s loss is {value}: expected a number. Train with a lower rate in [method]")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return value


def tiled(rows: list[list[Picture]]) -> Picture:
    """Pictures of one size in rows, with white lines between them."""
    frame = ((0, 2), (0, 2), (0, 0))
    lines = [np.concatenate([np.pad(cell, frame, constant_values=255) for cell in row], axis=1) for row in rows]
    return np.concatenate(lines)

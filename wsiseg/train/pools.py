"""The patches of a recipe: each source's pool is written once and mapped; batches draw from portions of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.core.atomic import lock_beside
from wsiseg.core.nuclei import IntArray
from wsiseg.errors import UsageError
from wsiseg.run.events import Listener, PatchesDone, StageStarted
from wsiseg.train.patches import PatchPool, is_complete, write_pool
from wsiseg.train.source import Frame, Ingredient


@dataclass(frozen=True)
class Portion:
    """Patches ``indices`` of a pool, which together are drawn with ``proportion`` relative to other portions."""

    pool: PatchPool
    indices: IntArray
    proportion: float = 1.0

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def whole(cls, pool: PatchPool, proportion: float = 1.0) -> Portion:
        return cls(pool, np.arange(len(pool)), proportion)


def pool_key(ingredient: Ingredient, frame: Frame) -> str:
    """A name for the patches of a source: another one whenever its parameters or data change."""
    described = json.dumps(
        {"source": ingredient.source.describe(frame), "mpp": frame.mpp, "side": frame.side}, sort_keys=True
    )
    return f"{ingredient.kind}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"


def gather(
    ingredients: Sequence[Ingredient], keys: Sequence[str], frame: Frame, folder: Path, on_event: Listener
) -> list[Portion]:
    """A portion of all patches of each source, which ``folder`` keeps under its :func:`pool_key`.

    Raises
    ------
    UsageError
        The data of a source are not what its kind reads, or give no patch.
    EnvironmentFault
        The disk refuses, or another process is writing one of the pools.
    """
    portions = []
    for ingredient, key in zip(ingredients, keys, strict=True):
        place = folder / key
        if not is_complete(place):
            on_event(StageStarted(ingredient.kind, "make-patches"))

        def parts(first: int, ingredient: Ingredient = ingredient) -> Iterator[PatchPool]:
            done = first
            for part in ingredient.source.parts(frame, first):
                yield part
                done += len(part)
                on_event(PatchesDone(ingredient.kind, done))
            if done == 0:
                raise UsageError(f"the source {ingredient.kind!r} gives no patches")

        # Trainings may share the folder.
        with contextlib.nullcontext() if is_complete(place) else lock_beside(place):
            portions.append(Portion.whole(write_pool(place, parts), ingredient.proportion))
    return portions


def divide(portions: Sequence[Portion], fractions: Sequence[float], seed: int) -> list[list[Portion]]:
    """Each portion at random in parts of ``fractions`` of it, and a last part of the rest: lists of portions.

    An empty part of a portion is left out; a fraction above 0 gets at least one patch where there are any.
    """
    divided: list[list[Portion]] = [[] for _ in range(len(fractions) + 1)]
    for number, portion in enumerate(portions):
        order = np.random.default_rng([seed, number, len(portion)]).permutation(portion.indices)
        first = 0
        for part, fraction in zip(divided, [*fractions, None], strict=True):
            count = len(order) - first if fraction is None else round(fraction * len(order))
            count = min(max(count, 1) if fraction else count, len(order) - first)
            if count:
                part.append(Portion(portion.pool, np.sort(order[first : first + count]), portion.proportion))
            first += count
    return divided


def draw(rng: np.random.Generator, portions: Sequence[Portion]) -> tuple[PatchPool, int]:
    """A random patch: a pool and an index in it."""
    total = np.cumsum([portion.proportion for portion in portions])
    which = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
    portion = portions[min(which, len(portions) - 1)]
    return portion.pool, int(portion.indices[int(rng.integers(len(portion)))])


def spread(portions: Sequence[Portion], most: int) -> list[tuple[PatchPool, int]]:
    """At most ``most`` patches (0: all), spread evenly over all."""
    every = [(portion.pool, int(n)) for portion in portions for n in portion.indices]
    if most == 0 or len(every) <= most:
        return every
    chosen: npt.NDArray[np.int64] = np.linspace(0, len(every) - 1, most).round().astype(np.int64)
    return [every[n] for n in chosen]

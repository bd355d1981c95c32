"""One network of a recipe: from portions of patches to a training that :mod:`wsiseg.train.loop` runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from wsiseg.core.geometry import FloatArray
from wsiseg.models.base import ModelCard
from wsiseg.run.events import Listener
from wsiseg.train.batches import BatchMaker
from wsiseg.train.checkpoint import Progress
from wsiseg.train.loop import Job, Machine, fit
from wsiseg.train.patches import PatchPool
from wsiseg.train.plan import Plan, fresh_network
from wsiseg.train.pools import Portion
from wsiseg.train.settings import Optimise, Recipe


@dataclass(frozen=True)
class Training:
    """A recipe with its data in place: what :func:`fit_on` needs besides patches."""

    recipe: Recipe
    plan: Plan
    machine: Machine
    card: ModelCard
    out: Path
    on_event: Listener
    styles: FloatArray


def fit_on(
    training: Training,
    folder: Path,
    portions: Sequence[Portion],
    validation: Sequence[tuple[PatchPool, int]],
    optimise: Optimise,
    seed: int,
    start: Mapping[str, Tensor] | None = None,
) -> tuple[nn.Module, Progress]:
    """One :func:`fit` of the training's network, from ``start`` or as the recipe begins it."""
    recipe = training.recipe
    steps = optimise.steps or math.ceil((optimise.epochs or 0) * sum(map(len, portions)) / optimise.batch)
    optimise = dataclasses.replace(optimise, steps=steps, epochs=None)
    maker = BatchMaker(
        portions,
        training.plan.targets,
        recipe.augment,
        optimise.batch,
        optimise.crop,
        recipe.data.mpp,
        seed,
        training.styles,
        defer=training.machine.offload,
    )
    network = fresh_network(training.plan, recipe)
    if start is not None:
        network.load_state_dict(start)
    card = training.card.to_dict()
    job = Job(training.plan, optimise, recipe.stop, maker, validation, folder, training.machine, card)
    return fit(job, network, training.on_event)

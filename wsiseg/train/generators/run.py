"""From a recipe of a generator and its data to weights, in one folder that can be gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsiseg.models.engine.engine import place
from wsiseg.models.files import sha256_of
from wsiseg.results.folder import output_lock
from wsiseg.run.events import Listener, ignore
from wsiseg.train.generators.adain.contest import adain_contest
from wsiseg.train.generators.contest import Contest
from wsiseg.train.generators.hou.contest import hou_contest
from wsiseg.train.generators.loop import Course, compete
from wsiseg.train.generators.points2image.contest import points2image_contest
from wsiseg.train.generators.recipe import GeneratorRecipe, parse_generator_recipe, resolve_generator
from wsiseg.train.generators.stylegan.contest import stylegan_contest
from wsiseg.train.pools import Portion, gather, pool_key
from wsiseg.train.run import TrainOptions, claim
from wsiseg.train.source import Frame

SYSTEMS: Mapping[str, Callable[[GeneratorRecipe, list[Portion], str], Contest]] = {
    "points2image": points2image_contest,
    "stylegan": stylegan_contest,
    "adain": adain_contest,
    "hou": hou_contest,
}


@dataclass(frozen=True)
class GeneratorResult:
    """What came of a training: the weights, and the steps that they had."""

    weights: Path
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"weights": str(self.weights), "steps": self.steps}


def train_generator(
    tables: Mapping[str, Any],
    text: str,
    data: Mapping[str, Path],
    out: Path,
    options: TrainOptions,
    on_event: Listener = ignore,
) -> GeneratorResult:
    """Train what a recipe says, or go on with it.

    Parameters
    ----------
    tables : mapping
        The recipe (:func:`wsiseg.train.recipe.read_recipe`).
    text : str
        What it said, for the header of the weights.
    data : mapping of str to Path
        Where the data that it names lie.
    out : Path
        The run's folder. Gets ``<name>.safetensors``.
    options : TrainOptions
        Of these ``device``, ``threads``, ``workers``, ``pools`` and ``checkpoint_s``.
    on_event : function, optional
        Told what happens.

    Raises
    ------
    UsageError
        A recipe or data that cannot be used, or a folder that holds the run of another recipe.
    TrainingError
        The training diverged.
    EnvironmentFault
        The disk refuses, or another process is training there.
    """
    recipe = resolve_generator(parse_generator_recipe(tables), data)
    device = place(options.device, "fp32").device
    frame = Frame(recipe.data.mpp, recipe.data.side, max(options.threads, options.workers))
    torch.set_num_threads(options.threads)
    with output_lock(out):
        keys = [pool_key(ingredient, frame) for ingredient in recipe.data.train]
        encoder = {"encoder": [sha256_of(Path(recipe.encoder))]} if recipe.encoder else {}
        claim(out, tables, {"train": keys, **encoder})
        portions = gather(recipe.data.train, keys, frame, options.pools or out / "pools", on_event)
        contest = SYSTEMS[recipe.system](recipe, portions, device)
        weights = out / f"{recipe.name}.safetensors"
        course = Course(
            recipe.steps, recipe.every, recipe.seed, device, options.checkpoint_s, weights, _card(recipe, text)
        )
        compete(contest, course, out, on_event)
    return GeneratorResult(weights, recipe.steps)


def _card(recipe: GeneratorRecipe, text: str) -> dict[str, Any]:
    statements = [line for ingredient in recipe.data.train for line in ingredient.source.statements()]
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "licence": recipe.licence,
        "data": statements,
        "recipe": text,
    }

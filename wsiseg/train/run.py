"""``wsiseg train``: a recipe from its data to a weight file, in one folder that can be gone on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.core.atomic import read_json, write_json
from wsiseg.core.geometry import FloatArray
from wsiseg.errors import UsageError
from wsiseg.models.engine.engine import place
from wsiseg.results.folder import output_lock
from wsiseg.run.events import Listener, ignore
from wsiseg.train.export import export_weights, scored, training_card
from wsiseg.train.loop import Machine, update_average
from wsiseg.train.plan import fresh_network, plan_training
from wsiseg.train.pools import Portion, gather, pool_key, spread
from wsiseg.train.recipe import parse_recipe, recipe_digest, resolve
from wsiseg.train.rounds import train_rounds
from wsiseg.train.settings import Recipe
from wsiseg.train.source import Frame
from wsiseg.train.stains import stain_styles
from wsiseg.train.training import Training, fit_on
from wsiseg.train.validate import predictor, validate

SCHEMA = "wsiseg-train-1"
_MOST_STYLES = 1000


@dataclass(frozen=True)
class TrainOptions:
    """What a training runs on. Results depend on it in the last digits only, and in the noise that a device draws.

    Attributes
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads : int
        Of torch.
    workers : int
        Threads that make batches, or processes, and processes that make patches.
    pools : Path or None
        Where the patches of sources are kept; by default in the run's folder. Trainings can share it.
    checkpoint_s : float
        Seconds between checkpoints.
    offload : bool or None
        Processes make the batches and the device varies their colours, as for a CUDA device; None: if it is one.
    compile : bool
        Let torch compile the network.
    """

    device: str = "auto"
    threads: int = 1
    workers: int = 1
    pools: Path | None = None
    checkpoint_s: float = 60.0
    offload: bool | None = None
    compile: bool = False


@dataclass(frozen=True)
class TrainResult:
    """What came of a training; ``scores`` by name of the network that they are of."""

    weights: Path
    sha256: str
    step: int
    best_step: int
    scores: Mapping[str, Mapping[str, float]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "weights": str(self.weights),
            "sha256": self.sha256,
            "step": self.step,
            "best_step": self.best_step,
            "scores": {name: dict(values) for name, values in self.scores.items()},
        }


def train_recipe(
    tables: Mapping[str, Any],
    text: str,
    data: Mapping[str, Path],
    out: Path,
    options: TrainOptions,
    on_event: Listener = ignore,
) -> TrainResult:
    """Train what a recipe says, or go on with it.

    Parameters
    ----------
    tables : mapping
        The recipe (:func:`wsiseg.train.recipe.read_recipe`).
    text : str
        What it said, for the card.
    data : mapping of str to Path
        Where the data that it names lie.
    out : Path
        The run's folder. Gets ``<name>.safetensors`` and ``<name>.md``.
    options : TrainOptions
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
    recipe = resolve(parse_recipe(tables), data)
    plan = plan_training(recipe)
    placement = place(options.device, recipe.optimise.precision)
    offload = placement.device != "cpu" if options.offload is None else options.offload
    machine = Machine(placement, options.threads, options.workers, options.checkpoint_s, offload, options.compile)
    frame = Frame(recipe.data.mpp, recipe.data.side, max(options.threads, options.workers))
    sources = {
        "train": recipe.data.train,
        "validation": recipe.data.validation,
        "unlabelled": recipe.rounds.unlabelled if recipe.rounds is not None else (),
        "styles": recipe.data.styles,
    }
    with output_lock(out):
        keys = {name: [pool_key(i, frame) for i in group] for name, group in sources.items()}
        claim(out, tables, keys)
        pools = options.pools or out / "pools"
        train, validation, unlabelled, lenders = (
            gather(group, keys[name], frame, pools, on_event) for name, group in sources.items()
        )
        styles = _styles(recipe, lenders or train)
        training = Training(recipe, plan, machine, training_card(recipe, text), out, on_event, styles)
        if recipe.rounds is not None:
            network, progress, scores = train_rounds(training, recipe.rounds, train, validation, unlabelled)
        else:
            patches = spread(validation, recipe.stop.images)
            network, progress = fit_on(training, out, train, patches, recipe.optimise, recipe.seed)
            scores = {"validation": dict(progress.scores)}
            if recipe.start.keep > 0:
                update_average(network, fresh_network(plan, recipe), 1 - recipe.start.keep)
                scores["blended"] = validate(predictor(network, plan, placement), plan, patches)
        weights = out / f"{recipe.name}.safetensors"
        sha256 = export_weights(network, plan, scored(training.card, scores), weights, recipe.margin_px)
    return TrainResult(weights, sha256, progress.step, progress.best_step, scores)


def _styles(recipe: Recipe, lenders: Sequence[Portion]) -> FloatArray:
    if recipe.augment.transport == 0:
        return np.empty((0, 3, 3))
    return stain_styles(pool.images[index] for pool, index in spread(lenders, _MOST_STYLES))


def claim(out: Path, tables: Mapping[str, Any], keys: Mapping[str, Sequence[str]]) -> None:
    """Make ``out`` the folder of this recipe on the data that ``keys`` names, or see that it is."""
    claim = {
        "schema": SCHEMA,
        "recipe": recipe_digest(tables),
        "data": {name: list(group) for name, group in keys.items()},
    }
    found = read_json(out / "run.json")
    if found is None:
        if any(out.glob("*.pt")):
            raise UsageError(f"{out}: holds checkpoints without a run.json; choose another -o")
        write_json(out / "run.json", {**claim, "tables": dict(tables)})
        return
    for key, what in (("schema", "format"), ("recipe", "recipe"), ("data", "data")):
        if found.get(key) != claim[key]:
            raise UsageError(
                f"{out}: holds a training with another {what}{_first_difference(found, tables, key)}. "
                "Choose another -o, or give the recipe, --set and --data that it began with"
            )


def _first_difference(found: Mapping[str, Any], tables: Mapping[str, Any], key: str) -> str:
    if key != "recipe":
        return ""
    before, now = _leaves(found.get("tables", {})), _leaves(tables)
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            return f" ({name} was {before.get(name)!r}, is {now.get(name)!r})"
    return ""


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        pairs = [(f"{prefix}.{n}", item) for n, item in enumerate(value)]
    else:
        return {prefix: value}
    return {name: leaf for key, item in pairs for name, leaf in _leaves(item, key).items()}

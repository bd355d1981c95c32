"""From a training to a weight file with its card, and to the page that states them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from wsiseg.core.atomic import write_bytes
from wsiseg.models.base import ModelCard
from wsiseg.models.weightfile import load_weights, save_weights
from wsiseg.train.plan import Plan
from wsiseg.train.settings import Recipe
from wsiseg.train.source import Ingredient
from wsiseg.version import __version__

AUTOMATIC_LIMIT = "scores are on the recipe's own validation patches, not on slides"


def training_card(recipe: Recipe, text: str) -> ModelCard:
    """The card of what ``recipe`` trains, without scores yet.

    Parameters
    ----------
    recipe : Recipe
        With paths to its data: sources say what they are.
    text : str
        The recipe as it was given, and what overrode it.
    """
    unlabelled = recipe.rounds.unlabelled if recipe.rounds is not None else ()
    groups = [("training", recipe.data.train), ("validation", recipe.data.validation), ("unlabelled", unlabelled)]
    groups += [("stains", recipe.data.styles)]
    data = tuple(f"{name}: {line}" for name, group in groups for line in _statements(group))
    if recipe.start.weights:
        data += (f"started from the weights {Path(recipe.start.weights).name}",)
    if recipe.start.encoder:
        data += (f"started from the classifier {Path(recipe.start.encoder).name}",)
    made = f"`wsiseg train` of wsiseg {__version__}, seed {recipe.seed}, with this recipe:\n\n```toml\n{text}\n```"
    return ModelCard(
        recipe.name, recipe.summary, recipe.licence, data, made, None, (*recipe.limits, AUTOMATIC_LIMIT)
    )


def scored(card: ModelCard, scores: Mapping[str, Mapping[str, float]]) -> ModelCard:
    """The card with scores by name of what they were measured on."""
    return dataclasses.replace(card, scores={name: dict(values) for name, values in scores.items()})


def export_weights(network: nn.Module, plan: Plan, card: ModelCard, out: Path, margin_px: int | None) -> str:
    """Write ``out`` (``<name>.safetensors``) and its page ``<name>.md``; returns the sha256.

    ``margin_px`` is what was measured with these weights, see :class:`wsiseg.models.weightfile.WeightFile`.

    Raises
    ------
    ModelError
        A weight is not finite in float16.
    """
    head, decoder = plan.head.name, plan.decoder_named
    save_weights(out, network.state_dict(), card, plan.network, decoder, head=head, margin_px=margin_px)
    sha256 = load_weights(out).sha256
    write_bytes(out.with_suffix(".md"), page(card, sha256).encode())
    return sha256


def page(card: ModelCard, sha256: str) -> str:
    """The card as Markdown."""
    lines = [f"# {card.name}", "", card.summary, "", f"Licence: {card.licence}. sha256: `{sha256}`.", ""]
    lines += ["## Training data", "", *(f"- {item}" for item in card.data), ""]
    lines += ["## Recipe", "", card.recipe, "", "## Scores", ""]
    for name, scores in (card.scores or {}).items():
        lines.append(f"- {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))
    lines += ["", "## Limits", "", *(f"- {item}" for item in card.limits), ""]
    return "\n".join(lines)


def _statements(ingredients: tuple[Ingredient, ...]) -> tuple[str, ...]:
    return tuple(line for ingredient in ingredients for line in ingredient.source.statements())

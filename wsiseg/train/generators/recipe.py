"""Recipes of generators: which system, on which images, with which networks and losses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wsiseg.core.recipes import read_tables, recipe_names
from wsiseg.core.tables import parse_table
from wsiseg.train.recipe import placed, require_data, source_names, with_sources
from wsiseg.train.settings import Data

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class GeneratorRecipe:
    """A training of a generator.

    Attributes
    ----------
    name, summary, licence
        For the header of the weights.
    system : str
        ``points2image``, ``stylegan``, ``adain`` or ``hou``.
    data : Data
        Its patches have the side of the images that are generated; of ``hou`` they are textures, and their side is
        the largest that a texture has. Only those to train on count.
    steps, batch : int
        Steps, and real patches in each.
    every : int
        Steps between sheets of samples and scores of likeness.
    seed : int
        Of the weights, the patches and all noise.
    network, method : mapping
        Parameters of the system's networks and of its training that differ from their defaults.
    encoder : str
        Of ``adain``: a name of data, the weights of VGG-19. Without, an encoder is trained first.
    """

    name: str
    summary: str
    licence: str
    system: Literal["points2image", "stylegan", "adain", "hou"]
    data: Data
    steps: int
    batch: int = 8
    every: int = 250
    seed: int = 0
    network: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    encoder: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.\-]*", self.name):
            raise ValueError(
                f"name: got {self.name!r}; expected letters, digits, '.', '_' and '-': it names the weights"
            )
        for name in ("steps", "batch", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed: got {self.seed}; expected 0 or more")
        if self.encoder and self.system != "adain":
            raise ValueError(f"encoder: got {self.encoder!r}; {self.system} has none, leave it out")


def list_generator_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return recipe_names(RECIPES)


def read_generator_recipe(recipe: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Tables and text of a recipe; see :func:`wsiseg.core.recipes.read_tables`."""
    return read_tables(recipe, RECIPES, overrides)


def parse_generator_recipe(tables: Mapping[str, Any]) -> GeneratorRecipe:
    """The recipe that ``tables`` describe; data are still names.

    Raises
    ------
    UsageError
        Unknown or missing keys, wrong types, impossible values.
    """
    made: dict[str, object] = (
        {"data": with_sources(Data, tables["data"], "data", "train")} if "data" in tables else {}
    )
    made |= {name: dict(tables[name]) for name in ("network", "method") if isinstance(tables.get(name), Mapping)}
    return parse_table(GeneratorRecipe, tables, "", made)


def generator_data(recipe: GeneratorRecipe) -> list[str]:
    """The names of the data that the recipe needs."""
    return sorted({*source_names(recipe.data.train), *([recipe.encoder] if recipe.encoder else [])})


def resolve_generator(recipe: GeneratorRecipe, data: Mapping[str, Path]) -> GeneratorRecipe:
    """The recipe with paths for the names of its data.

    Raises
    ------
    UsageError
        A name without a path, a path that is not there, or a name that the recipe does not have.
    """
    require_data(recipe.name, generator_data(recipe), data)
    train = placed(recipe.data.train, data)
    encoder = str(data[recipe.encoder]) if recipe.encoder else ""
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, train=train), encoder=encoder)

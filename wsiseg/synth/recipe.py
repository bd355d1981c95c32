"""Recipes of synthesis: TOML files that name a sampler, a renderer and a weighting.

A recipe is portable: it names its data, and ``--data NAME=PATH`` says where they lie.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wsiseg.core.recipes import read_tables, recipe_names
from wsiseg.core.tables import Dataclass, describe_type, parse_table, require_table, suggestion
from wsiseg.errors import UsageError
from wsiseg.synth.parts import RendererOptions, SamplerOptions, WeightingOptions
from wsiseg.synth.renderers import RENDERERS
from wsiseg.synth.samplers import SAMPLERS
from wsiseg.synth.weighting import WEIGHTINGS
from wsiseg.synth.weighting.equal import EqualOptions

RECIPES = Path(__file__).parent / "recipes"
Registry = Mapping[str, tuple[str, str]]
Made = TypeVar("Made", bound=Dataclass)
_EQUAL = EqualOptions()


@dataclass(frozen=True)
class Textures:
    """``data``: a folder of unlabelled H&E tiles of ``mpp`` µm a pixel (PNG, WebP, TIFF)."""

    data: Path
    mpp: float = 0.25

    def __post_init__(self) -> None:
        if not 0.01 <= self.mpp <= 100:
            raise ValueError(f"mpp {self.mpp}: expected microns, from 0.01 to 100")


@dataclass(frozen=True)
class SynthRecipe:
    """What a dataset is made by.

    Attributes
    ----------
    name, summary : str
    renderer : RendererOptions
    sampler : SamplerOptions, optional
        None where the renderer needs no layout.
    weighting : WeightingOptions
    textures : Textures, optional
    count : int
        Patches.
    side : int
        Of a patch, in pixels.
    mpp : float
        Microns per pixel of the patches.
    seed : int
    """

    name: str
    renderer: RendererOptions
    sampler: SamplerOptions | None = None
    weighting: WeightingOptions = _EQUAL
    textures: Textures | None = None
    summary: str = ""
    count: int = 1000
    side: int = 256
    mpp: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0:
            raise ValueError(f"count {self.count}, seed {self.seed}: expected at least 1 and 0")
        if not 64 <= self.side <= 4096:
            raise ValueError(f"side {self.side}: expected 64 to 4096 pixels")
        if not 0.01 <= self.mpp <= 100:
            raise ValueError(f"mpp {self.mpp}: expected microns, from 0.01 to 100")
        if self.renderer.needs_layout and self.sampler is None:
            raise ValueError("sampler: is missing; this renderer paints a layout: expected a table with its name")
        if not self.renderer.needs_layout and self.sampler is not None:
            raise ValueError("sampler: this renderer paints no layout; leave the table out")
        parts = (self.sampler, self.renderer, self.weighting)
        if self.textures is None and any(part is not None and part.needs_texture for part in parts):
            raise ValueError('textures: is missing; a part takes its colours from them: expected data = "NAME"')


def list_synth_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return recipe_names(RECIPES)


def read_synth_recipe(recipe: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Tables and text of a recipe; see :func:`wsiseg.core.recipes.read_tables`."""
    return read_tables(recipe, RECIPES, overrides)


def parse_synth_recipe(tables: Mapping[str, Any]) -> SynthRecipe:
    """The recipe that ``tables`` describe; data are still names.

    Raises
    ------
    UsageError
        Unknown or missing keys or parts, wrong types, impossible values: with the key, what was got and what is
        expected.
    """
    registries = {"sampler": SAMPLERS, "renderer": RENDERERS, "weighting": WEIGHTINGS}
    made = {key: _part(tables[key], key, registry) for key, registry in registries.items() if key in tables}
    return parse_table(SynthRecipe, tables, "", made)


def part_options(registry: Registry, name: str) -> Any:
    """The class of the options of a part; its module is imported now.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if name not in registry:
        raise UsageError(f"name: got {name!r}; expected a part{suggestion(name, registry)}")
    module, options = registry[name]
    return getattr(importlib.import_module(module), options)


def data_of(recipe: SynthRecipe) -> dict[str, Path]:
    """The data of a recipe: of an unresolved one their names, by ``section.key``."""
    return {
        f"{section}.{key}": value
        for section, part in _parts(recipe).items()
        for key, value in vars(part).items()
        if isinstance(value, Path)
    }


def resolve_recipe(recipe: SynthRecipe, data: Mapping[str, Path]) -> SynthRecipe:
    """The recipe with paths for the names of its data.

    Raises
    ------
    UsageError
        A name without a path, a path that is not there, or a name that the recipe does not have.
    """
    names = sorted({str(name) for name in data_of(recipe).values()})
    for name, path in data.items():
        if name not in names:
            raise UsageError(f"--data {name}={path}: the recipe has no such data{suggestion(name, names)}")
        if not path.exists():
            raise UsageError(f"--data {name}={path}: there is no such file or folder")
    missing = [name for name in names if name not in data]
    if missing:
        wanted = " ".join(f"--data {name}=PATH" for name in missing)
        raise UsageError(f"recipe {recipe.name!r} needs data that were not given: {wanted}")
    return dataclasses.replace(recipe, **{section: _placed(part, data) for section, part in _parts(recipe).items()})


def _part(table: object, where: str, registry: Registry) -> Any:
    values = dict(require_table(table, where))
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"{where}.name: got {name!r}; expected {describe_type(str)}{suggestion('', registry)}")
    try:
        options = part_options(registry, name)
    except UsageError as error:
        raise UsageError(f"{where}.{error}") from None
    return parse_table(options, values, where)


def _parts(recipe: SynthRecipe) -> dict[str, Any]:
    parts = {key: getattr(recipe, key) for key in ("textures", "sampler", "renderer", "weighting")}
    return {key: part for key, part in parts.items() if part is not None}


def _placed(part: Made, data: Mapping[str, Path]) -> Made:
    paths = {key: data[str(value)] for key, value in vars(part).items() if isinstance(value, Path)}
    return dataclasses.replace(part, **paths)

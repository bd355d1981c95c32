"""Recipes: TOML files that say everything that decides a training.

A recipe is portable: it names its data, and ``--data NAME=PATH`` says where they lie.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from wsiseg.core.recipes import read_tables, recipe_names
from wsiseg.core.tables import Dataclass, describe_type, parse_table, parse_value, require_table, suggestion
from wsiseg.errors import UsageError
from wsiseg.train.settings import Choice, Data, Recipe, Rounds
from wsiseg.train.source import Ingredient
from wsiseg.train.sources import KINDS

RECIPES = Path(__file__).parent / "recipes"
Table = Mapping[str, Any]
Made = TypeVar("Made", bound=Dataclass)


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return recipe_names(RECIPES)


def read_recipe(recipe: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The tables of a recipe, with ``overrides`` in them; and its text, with the overrides as comments.

    Parameters
    ----------
    recipe : str
        One of :func:`list_recipes`, or a TOML file.
    overrides : sequence of str
        ``key.path=value``: the value in TOML, or a bare word. Tables of an array are counted from 0:
        ``data.train.0.count=100``.

    Raises
    ------
    UsageError
        No such recipe, no TOML, or an override that does not fit.
    """
    return read_tables(recipe, RECIPES, overrides)


def parse_recipe(tables: Table) -> Recipe:
    """The recipe that ``tables`` describe; data are still names.

    Raises
    ------
    UsageError
        Unknown or missing keys, wrong types, impossible values: with the key, what was got and what is expected.
    """
    made = {key: make(tables[key]) for key, make in _MADE.items() if key in tables}
    recipe = parse_table(Recipe, tables, "", made)
    rounds = recipe.rounds
    if rounds is not None and recipe.start.keep > 0:
        raise UsageError("start.keep: got a value with [rounds]; expected 0: students start from their teachers")
    if rounds is not None and not rounds.unlabelled and rounds.labelled + rounds.validation >= 1:
        raise UsageError(
            "rounds: labelled + validation is 1; expected less, or [[rounds.unlabelled]]: nothing is left to label"
        )
    if not recipe.data.validation and (rounds is None or rounds.validation == 0):
        raise UsageError("data.validation: is missing; expected [[data.validation]], which decides when to stop")
    return recipe


def data_names(recipe: Recipe) -> list[str]:
    """The names of the data that the recipe needs."""
    found = set(source_names(_ingredients(recipe)))
    start = recipe.start
    found |= {start.weights} if _is_data(start.weights) else set()
    found |= {start.encoder} if start.encoder else set()  # no model of the package is a classifier
    return sorted(found)


def resolve(recipe: Recipe, data: Mapping[str, Path]) -> Recipe:
    """The recipe with paths for the names of its data.

    Raises
    ------
    UsageError
        A name without a path, a path that is not there, or a name that the recipe does not have.
    """
    require_data(recipe.name, data_names(recipe), data)
    train, validation, styles = (
        placed(group, data) for group in (recipe.data.train, recipe.data.validation, recipe.data.styles)
    )
    rounds = recipe.rounds
    if rounds is not None:
        rounds = dataclasses.replace(rounds, unlabelled=placed(rounds.unlabelled, data))
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, train=train, validation=validation, styles=styles),
        rounds=rounds,
        start=dataclasses.replace(
            recipe.start,
            weights=str(data.get(recipe.start.weights, recipe.start.weights)),
            encoder=str(data.get(recipe.start.encoder, recipe.start.encoder)),
        ),
    )


def require_data(recipe: str, names: Sequence[str], data: Mapping[str, Path]) -> None:
    """Refuse ``data`` unless they are all that the recipe ``names``, and are there.

    Raises
    ------
    UsageError
    """
    for name in data:
        if name not in names:
            raise UsageError(f"--data {name}={data[name]}: the recipe has no such data{suggestion(name, names)}")
    missing = [name for name in names if name not in data]
    if missing:
        wanted = " ".join(f"--data {name}=PATH" for name in missing)
        raise UsageError(f"recipe {recipe!r} needs data that were not given: {wanted}")
    for name, path in data.items():
        if not path.exists():
            raise UsageError(f"--data {name}={path}: there is no such file or folder")


def source_names(ingredients: Sequence[Ingredient]) -> list[str]:
    """The names of the data of sources."""
    return sorted({name for ingredient in ingredients for name in _names(ingredient)})


def placed(ingredients: Sequence[Ingredient], data: Mapping[str, Path]) -> tuple[Ingredient, ...]:
    """Sources with paths in place of the names of their data."""
    return tuple(_placed(ingredient, data) for ingredient in ingredients)


def recipe_digest(tables: Table) -> str:
    """SHA-256 of what a recipe says: comments and order do not count."""
    return hashlib.sha256(json.dumps(tables, sort_keys=True, default=str).encode()).hexdigest()


def with_sources(kind: type[Made], table: object, where: str, *arrays: str) -> Made:
    """A section of which some keys are arrays of sources."""
    values = require_table(table, where)
    sources = {key: _sources(values[key], f"{where}.{key}") for key in arrays if key in values}
    return parse_table(kind, values, where, sources)


def _sources(tables: object, where: str) -> tuple[Ingredient, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise UsageError(f"{where}: got {tables!r}; expected [[{where}]] tables")
    return tuple(_ingredient(table, f"{where}[{n}]") for n, table in enumerate(tables))


def _ingredient(table: Table, where: str) -> Ingredient:
    values = dict(table)
    kind = values.pop("kind", None)
    proportion = parse_value(float, values.pop("proportion", 1.0), f"{where}.proportion")
    if not isinstance(kind, str) or kind not in KINDS:
        kinds = suggestion(str(kind), KINDS)
        raise UsageError(f"{where}.kind: got {kind!r}; expected the kind of a source{kinds}")
    try:
        return Ingredient(kind, parse_table(KINDS[kind], values, where), proportion)
    except ValueError as error:
        raise UsageError(f"{where}.{error}") from error


def _choice(table: object, where: str) -> Choice:
    values = dict(require_table(table, where))
    if "name" not in values:
        raise UsageError(f"{where}.name: is missing; expected {describe_type(str)}")
    return Choice(parse_value(str, values.pop("name"), f"{where}.name"), values)


_MADE: Mapping[str, Callable[[object], object]] = {
    "data": lambda table: with_sources(Data, table, "data", "train", "validation", "styles"),
    "network": lambda table: _choice(table, "network"),
    "head": lambda table: _choice(table, "head"),
    "rounds": lambda table: with_sources(Rounds, table, "rounds", "unlabelled"),
}
"""Sections of a recipe that depend on a registry."""


def _ingredients(recipe: Recipe) -> tuple[Ingredient, ...]:
    more = recipe.rounds.unlabelled if recipe.rounds is not None else ()
    return recipe.data.train + recipe.data.validation + recipe.data.styles + more


def _names(value: Dataclass) -> set[str]:
    """The names of data in an ingredient, its source, and what that is made of."""
    own = {str(path) for path in _paths(value).values()}
    return own.union(*map(_names, _parts(value).values()))


def _placed(value: Made, data: Mapping[str, Path]) -> Made:
    """The same with paths in place of the names of data."""
    paths = {field: data[str(path)] for field, path in _paths(value).items()}
    parts = {field: _placed(part, data) for field, part in _parts(value).items()}
    return dataclasses.replace(value, **paths, **parts)


def _paths(value: Dataclass) -> dict[str, Path]:
    """The fields that are names of data."""
    # A network or witness may also be one of the package, which is at hand.
    paths = {field: path for field, path in vars(value).items() if isinstance(path, Path)}
    return {
        field: path for field, path in paths.items() if field not in ("network", "witness") or _is_data(str(path))
    }


def _parts(value: Dataclass) -> dict[str, Dataclass]:
    """The fields that are dataclasses of their own."""
    values = vars(value).items()
    return {field: v for field, v in values if dataclasses.is_dataclass(v) and not isinstance(v, type)}


def _is_data(start: str) -> bool:
    from wsiseg.models.registry import list_models

    return bool(start) and start not in [card.name for card in list_models()]

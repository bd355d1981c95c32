"""Recipes: TOML files of the package or of a user, with values overridden in them."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsiseg.core.tables import suggestion
from wsiseg.errors import UsageError


def recipe_names(folder: Path) -> list[str]:
    """Names of the recipes in a folder of the package."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def read_tables(recipe: str, folder: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The tables of a recipe, with ``overrides`` in them; and its text, with the overrides as comments.

    Parameters
    ----------
    recipe : str
        One of :func:`recipe_names` of ``folder``, or a TOML file.
    overrides : sequence of str
        ``key.path=value``: the value in TOML, or a bare word. Tables of an array are counted from 0:
        ``data.train.0.count=100``.

    Raises
    ------
    UsageError
        No such recipe, no TOML, or an override that does not fit.
    """
    names = recipe_names(folder)
    path = folder / f"{recipe}.toml" if recipe in names else Path(recipe)
    if not path.is_file():
        raise UsageError(
            f"recipe {recipe!r}: neither a file nor a recipe of this package{suggestion(recipe, names)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: is not TOML: {error}") from error
    for override in overrides:
        tables = _overridden(tables, override)
    return tables, "\n".join([text.strip(), *(f"# --set {override}" for override in overrides)])


def _overridden(tables: dict[str, Any], override: str) -> dict[str, Any]:
    """``tables`` with one value put in; they are not changed."""
    path, found, text = override.partition("=")
    keys = path.strip().split(".")
    if not found or not all(keys):
        raise UsageError(f"--set {override}: expected key.path=value, for example optimise.steps=1000")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text  # a bare word
    tables = copy.deepcopy(tables)
    place: Any = tables
    for n, key in enumerate(keys):
        if isinstance(place, list):
            if not key.isdigit() or int(key) >= len(place):
                where = ".".join(keys[:n])
                raise UsageError(f"--set {override}: {where} has {len(place)} tables, the first being 0")
        elif not isinstance(place, dict):
            raise UsageError(f"--set {override}: {'.'.join(keys[:n])} is no table")
        at: Any = int(key) if isinstance(place, list) else key
        if n == len(keys) - 1:
            place[at] = value
        else:
            place = place[at] if isinstance(place, list) else place.setdefault(at, {})
    return tables

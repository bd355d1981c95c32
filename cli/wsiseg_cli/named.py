"""``--data NAME=PATH``: where the data lie that a recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class Named(click.ParamType):
    name = "NAME=PATH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        name, found, path = str(value).partition("=")
        if not found or not name or not path:
            self.fail(f"got {value!r}; expected NAME=PATH, for example textures=/data/textures", param, ctx)
        return name, Path(path)


def unique(data: tuple[tuple[str, Path], ...]) -> dict[str, Path]:
    """The paths by name; a name that is given twice is refused."""
    found: dict[str, Path] = {}
    for name, path in data:
        if name in found:
            raise click.UsageError(f"--data {name} is given twice: {found[name]} and {path}")
        found[name] = path
    return found

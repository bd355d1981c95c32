"""Recipes of generators that come with the package."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from wsiseg.core.recipes import read_tables, recipe_names  # noqa: E402
from wsiseg.core.tables import parse_table  # noqa: E402
from wsiseg.errors import UsageError  # noqa: E402
from wsiseg.synth.renderers.points2image.networks import PairConfig  # noqa: E402
from wsiseg.synth.renderers.stylegan.networks import StyleGanConfig  # noqa: E402
from wsiseg.train.generators.points2image.contest import Method as Points2ImageMethod  # noqa: E402
from wsiseg.train.generators.recipe import (  # noqa: E402
    RECIPES,
    parse_generator_recipe,
    resolve_generator,
)
from wsiseg.train.generators.run import SYSTEMS  # noqa: E402
from wsiseg.train.generators.stylegan.contest import Method as StyleMethod  # noqa: E402

PARTS = {"points2image": (PairConfig, Points2ImageMethod), "stylegan": (StyleGanConfig, StyleMethod)}


@pytest.mark.parametrize("name", recipe_names(RECIPES))
def test_the_packages_recipes_are_sound(name: str) -> None:
    recipe = parse_generator_recipe(read_tables(name, RECIPES)[0])
    assert recipe.name == name
    assert set(PARTS) == set(SYSTEMS)
    network, method = PARTS[recipe.system]
    config = parse_table(network, recipe.network, "network")
    parse_table(method, recipe.method, "method")
    if isinstance(config, StyleGanConfig):
        assert config.side == recipe.data.side
    else:
        assert recipe.data.side % config.stride_px == 0


def test_data_must_be_given() -> None:
    recipe = parse_generator_recipe(read_tables("stylegan", RECIPES)[0])
    with pytest.raises(UsageError, match="--data images=PATH"):
        resolve_generator(recipe, {})

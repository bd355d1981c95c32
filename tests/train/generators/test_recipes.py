"""Recipes of generators that come with the package."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from wsiseg.core.tables import parse_table  # noqa: E402
from wsiseg.errors import UsageError  # noqa: E402
from wsiseg.synth.renderers.adain.networks import STRIDE, AdaINConfig  # noqa: E402
from wsiseg.synth.renderers.points2image.networks import PairConfig  # noqa: E402
from wsiseg.synth.renderers.stylegan.networks import StyleGanConfig  # noqa: E402
from wsiseg.synth.renderers.transfer.refiner import RefinerConfig  # noqa: E402
from wsiseg.train.generators.adain.contest import Method as AdaINMethod  # noqa: E402
from wsiseg.train.generators.hou.contest import Method as HouMethod  # noqa: E402
from wsiseg.train.generators.points2image.contest import Method as Points2ImageMethod  # noqa: E402
from wsiseg.train.generators.recipe import (  # noqa: E402
    generator_data,
    list_generator_recipes,
    parse_generator_recipe,
    read_generator_recipe,
    resolve_generator,
)
from wsiseg.train.generators.run import SYSTEMS  # noqa: E402
from wsiseg.train.generators.stylegan.contest import Method as StyleMethod  # noqa: E402

PARTS = {
    "points2image": (PairConfig, Points2ImageMethod),
    "stylegan": (StyleGanConfig, StyleMethod),
    "adain": (AdaINConfig, AdaINMethod),
    "hou": (RefinerConfig, HouMethod),
}


@pytest.mark.parametrize("name", list_generator_recipes())
def test_the_packages_recipes_are_sound(name: str) -> None:
    recipe = parse_generator_recipe(read_generator_recipe(name)[0])
    assert recipe.name == name
    assert set(PARTS) == set(SYSTEMS)
    network, method = PARTS[recipe.system]
    config = parse_table(network, recipe.network, "network")
    made = parse_table(method, recipe.method, "method")
    if isinstance(made, HouMethod):
        assert made.side < recipe.data.side  # a reference lies elsewhere in the texture
    elif isinstance(config, StyleGanConfig):
        assert config.side == recipe.data.side
    else:
        assert recipe.data.side % (config.stride_px if isinstance(config, PairConfig) else STRIDE) == 0


def test_data_must_be_given() -> None:
    recipe = parse_generator_recipe(read_generator_recipe("stylegan")[0])
    with pytest.raises(UsageError, match="--data images=PATH"):
        resolve_generator(recipe, {})


def test_an_encoder_is_data_that_only_adain_has() -> None:
    tables, _ = read_generator_recipe("adain")
    assert generator_data(parse_generator_recipe(tables)) == ["annotated", "encoder"]
    without, _ = read_generator_recipe("adain", ['encoder=""'])
    assert generator_data(parse_generator_recipe(without)) == ["annotated"]
    with pytest.raises(UsageError, match="stylegan has none"):
        parse_generator_recipe(read_generator_recipe("stylegan", ["encoder=encoder"])[0])

"""Recipes: what is refused, with which words; overrides; data by name; the recipes of the package."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from wsiseg.core.select import Select  # noqa: E402
from wsiseg.errors import ModelError, UsageError  # noqa: E402
from wsiseg.models.networks import build_network  # noqa: E402
from wsiseg.testing.training import TABLES, write_folder  # noqa: E402
from wsiseg.train.export import training_card  # noqa: E402
from wsiseg.train.plan import fresh_network, plan_training  # noqa: E402
from wsiseg.train.recipe import (  # noqa: E402
    data_names,
    list_recipes,
    parse_recipe,
    read_recipe,
    recipe_digest,
    resolve,
)
from wsiseg.train.sources.folder import FolderSource  # noqa: E402
from wsiseg.train.sources.images import ImagesSource  # noqa: E402
from wsiseg.train.sources.pseudo import PseudoSource  # noqa: E402
from wsiseg.train.sources.snow import SnowSource  # noqa: E402


def changed(path: str, value: Any) -> dict[str, Any]:
    """``TABLES`` with the value at ``path``, or without it for None."""
    tables = copy.deepcopy(TABLES)
    place: Any = tables
    *keys, last = path.split(".")
    for key in keys:
        place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return tables


def test_a_recipe_is_read() -> None:
    recipe = parse_recipe(changed("augment.scale", [0.5, 2]))
    assert recipe.network.parameters == {"widths": [4, 8]}
    assert recipe.data.train[0].proportion == 2.0
    assert recipe.optimise.steps == 10
    assert recipe.augment.scale == (0.5, 2.0)
    assert recipe.optimise.batch == 8  # a default


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimize", {}, "optimize: unknown key .did you mean 'optimise'"),
        ("optimise.step", 3, r"optimise.step: unknown key \(did you mean 'steps'\?\); there are steps, epochs"),
        ("optimise.steps", "many", "optimise.steps: got 'many'; expected a whole number"),
        ("optimise.steps", 1.5, "optimise.steps: got 1.5; expected a whole number"),
        ("optimise.steps", True, "optimise.steps: got True"),
        ("optimise.steps", 0, "optimise: steps: got 0; expected more than 0"),
        ("optimise.epochs", 3, "optimise: got steps and epochs; expected one of steps and epochs"),
        ("optimise.steps", None, "optimise: got none; expected one of steps and epochs"),
        ("optimise.rate", -1, "optimise: rate: got -1.0; expected more than 0"),
        ("optimise.schedule", "cosin", "expected one of 'cosine', 'constant', 'step' .did you mean 'cosine'"),
        ("optimise.drops", [0.5, 2.0], "drops: got"),
        ("optimise", 3, "optimise: got 3; expected a table"),
        ("augment.scale", [2, 1], "augment: scale: got"),
        ("augment.scale", [1], "augment.scale: got .*; expected an array of 2"),
        ("augment.jpeg", 1.5, "augment: jpeg: got 1.5; expected a probability"),
        ("name", "../x", "name: got '../x'; expected letters"),
        ("name", None, "name: is missing"),
        ("seed", -1, "seed: got -1"),
        ("margin_px", -1, "margin_px: got -1"),
        ("head", {}, "head.name: is missing"),
        ("data.mpp", None, "data.mpp: is missing; expected a number"),
        ("data.mpp", 50.0, "data: mpp: got 50.0; expected microns"),
        ("data.size", 3, "data.size: unknown key .did you mean 'side'"),
        ("data.train", {}, "data.train: got"),
        ("data.train", [], "data: train: got none; expected .*tables"),
        ("data.validation", [], "data.validation: is missing"),
        ("data.train.0.kind", "foldr", r"data.train\[0\].kind: got 'foldr'.*did you mean 'folder'"),
        ("data.train.0.data", 3, r"data.train\[0\].data: got 3; expected the name of data"),
        ("data.train.0.mp", 0.5, r"data.train\[0\].mp: unknown key .did you mean 'mpp'"),
        ("data.train.0.mpp", None, r"data.train\[0\]: 0 of mpp, mpp_table and nucleus_um"),
        ("data.train.0.select.par", "all", r"data.train\[0\].select.par: unknown key .did you mean 'part'"),
        ("data.train.0.select", {"values": ["a"]}, r"data.train\[0\].select: expected key and values together"),
        ("data.train.0.proportion", 0, r"data.train\[0\].proportion: got 0.0; expected more than 0"),
        ("stop.every", 0, "stop: every: got 0"),
        ("data.train", None, "data.train: is missing"),
        ("data.train.0.kind", ["folder"], r"data.train\[0\].kind: got \['folder'\]; expected the kind"),
        ("rounds", {"steps": 0}, "rounds: steps: got 0"),
        ("rounds", {"epochs": float("inf")}, "rounds: epochs: got inf"),
        ("rounds", {"steps": 5, "rate": float("inf")}, "rounds: rate: got inf"),
        ("rounds", {"steps": 5, "sure": 85}, "rounds: sure: got 85.0"),
        ("rounds", {"steps": 5, "step": 5}, "rounds.step: unknown key .did you mean 'steps'"),
        ("rounds", {"count": 2}, "rounds: expected one of steps and epochs"),
        ("rounds", {"steps": 5, "labelled": 0.95}, "nothing is left to label"),
        ("rounds", {"steps": 5, "labelled": 0.6, "validation": 0.6}, "labelled . validation: got 1.2"),
        ("rounds", {"steps": 5, "unlabelled": [{"kind": "x"}]}, r"rounds.unlabelled\[0\].kind: got 'x'"),
    ],
)
def test_what_does_not_fit_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_recipe(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("network.name", "unets", "network.name: got 'unets'.*did you mean 'unet'"),
        ("network.width", [4], "network: .*no parameters .'width'"),
        ("network.widths", [0], "network: .*widths"),
        ("head.name", "offset", "head.name: got 'offset'.*did you mean 'offsets'"),
        ("head.radius", 2, "head.radius: unknown key"),
        ("decoder.threshold", "high", "decoder: .*threshold is 'high'"),
        ("decoder.treshold", 0.5, "decoder: .*no parameters"),
        ("decoder.mpp", 0.25, "decoder.mpp: got 0.25; expected data.mpp, 0.5"),
        ("decoder.name", "hover", "decoder.name: got 'hover'"),
        ("loss.dic", 1.0, "loss.dic: unknown key .did you mean 'dice'"),
        ("optimise.crop", 33, "optimise.crop: got 33; .*Next larger: 34"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_training(parse_recipe(changed(path, value)))


def test_a_head_must_fit_the_network() -> None:
    tables = changed("network", {"name": "joyce"})
    with pytest.raises(UsageError, match=r"head.name: got 'offsets', whose maps are"):
        plan_training(parse_recipe(tables))
    assert plan_training(parse_recipe({**tables, "head": {"name": "foreground"}})).loss.dice == 1.0


def test_rays_are_the_networks() -> None:
    tables = {**TABLES, "head": {"name": "star", "rays": 32}}
    assert plan_training(parse_recipe(tables)).targets.rays == 32
    with pytest.raises(UsageError, match=r"head.rays: got 16; expected the network's, 32, or nothing"):
        plan_training(parse_recipe({**TABLES, "head": {"name": "star", "rays": 16}}))


def test_weights_to_start_from_must_fit() -> None:
    recipe = parse_recipe(changed("start.weights", "unet-0.5"))
    assert data_names(recipe) == ["discs"]
    with pytest.raises(ModelError, match=r"start.weights: unet-0.5 do not fit the network"):
        fresh_network(plan_training(recipe), recipe)


def test_a_card_says_what_it_started_from(tmp_path: Path) -> None:
    discs, classifier = write_folder(tmp_path / "discs", count=1), tmp_path / "lite0.pth"
    classifier.touch()
    packaged = resolve(parse_recipe(changed("start.weights", "unet-0.25")), {"discs": discs})
    assert training_card(packaged, "").data[-1] == "started from the weights unet-0.25"
    given = resolve(parse_recipe(changed("start.encoder", "imagenet")), {"discs": discs, "imagenet": classifier})
    assert training_card(given, "").data[-1] == "started from the classifier lite0.pth"


def test_an_encoder_starts_from_a_classifier(tmp_path: Path) -> None:
    tables = changed("start.encoder", "imagenet")
    tables["network"] = {"name": "unet-efficientnet-lite2", "encoder": "efficientnet-lite0", "widths": [8, 8, 8, 8]}
    tables["optimise"]["crop"] = 64
    recipe = parse_recipe(tables)
    assert data_names(recipe) == ["discs", "imagenet"]
    assert data_names(parse_recipe(changed("start.encoder", "unet-0.5"))) == ["discs", "unet-0.5"]
    fresh = build_network(recipe.network.name, recipe.network.parameters)
    state = {name: torch.full_like(v, 0.25) for name, v in fresh.encoder.state_dict().items()}
    path = tmp_path / "lite0.pth"
    torch.save({**state, "_fc.bias": torch.zeros(1000)}, path)
    recipe = resolve(recipe, {"discs": tmp_path, "imagenet": path})
    plan = plan_training(recipe)
    assert plan.config.head == "offsets"
    network = fresh_network(plan, recipe)
    assert all(bool((v == 0.25).all()) for v in network.encoder.state_dict().values() if v.ndim)
    assert all(bool(v.std() > 0) for name, v in network.decoder.state_dict().items() if name.endswith("0.weight"))
    torch.save({"_conv_stem.weight": state["_conv_stem.weight"]}, path)
    with pytest.raises(ModelError, match="weights do not fit the encoder efficientnet-lite0"):
        fresh_network(plan, recipe)


def test_only_an_encoder_takes_a_classifier(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="encoder: got b; expected nothing beside weights"):
        parse_recipe({**TABLES, "start": {"weights": "a", "encoder": "b"}})
    recipe = parse_recipe(changed("start.encoder", str(tmp_path)))
    with pytest.raises(UsageError, match=r"start.encoder: the network 'unet' has no encoder .* unet-resnet34"):
        plan_training(recipe)


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "a"\n[optimise]\nsteps = 1\n[[data.train]]\ncount = 3\n[[data.train]]\ncount = 4\n')
    overrides = ["optimise.steps=7", "data.train.1.count=9", "network.name=unet", "stop.every = 5", "x.y=[1, 2]"]
    tables, text = read_recipe(str(path), overrides)
    assert tables["optimise"] == {"steps": 7}
    assert [t["count"] for t in tables["data"]["train"]] == [3, 9]
    assert tables["network"] == {"name": "unet"}
    assert tables["stop"] == {"every": 5}
    assert tables["x"]["y"] == [1, 2]
    assert "# --set optimise.steps=7" in text
    for wrong, message in (
        ("steps", "expected key.path=value"),
        ("data.train.2.count=1", "has 2 tables"),
        ("name.x=1", "is no table"),
    ):
        with pytest.raises(UsageError, match=message):
            read_recipe(str(path), [wrong])


def test_an_override_reaches_into_an_inline_table() -> None:
    tables, _ = read_recipe("monuseg-supervised", ['data.train.0.select.values=["test_same"]'])
    data = parse_recipe(tables).data
    source, held_out = data.train[0].source, data.validation[0].source
    assert isinstance(source, FolderSource)
    assert source.select == Select("index.json", "split", ("test_same",))
    assert isinstance(held_out, FolderSource)
    assert held_out.select.values == ("train",)
    # Where the recipe has no such table, it gets one.
    tables, _ = read_recipe("snow-semi", ["data.train.0.select.part=training"])
    (ingredient,) = parse_recipe(tables).data.train
    assert isinstance(ingredient.source, SnowSource)
    assert ingredient.source.select == Select(part="training")


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither a file nor a recipe of this package .did you mean 'joyce'"):
        read_recipe("joyc")
    (tmp_path / "r.toml").write_text("name = ")
    with pytest.raises(UsageError, match="is not TOML"):
        read_recipe(str(tmp_path / "r.toml"))


def test_data_are_found_by_name(tmp_path: Path) -> None:
    recipe = parse_recipe(TABLES)
    placed = resolve(recipe, {"discs": tmp_path})
    assert placed.data.train[0].source.data == tmp_path  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="needs data that were not given: --data discs=PATH"):
        resolve(recipe, {})
    with pytest.raises(UsageError, match=r"has no such data .did you mean 'discs'"):
        resolve(recipe, {"disc": tmp_path})
    with pytest.raises(UsageError, match="there is no such file or folder"):
        resolve(recipe, {"discs": tmp_path / "nothing"})


def test_data_within_a_source_are_found_by_name(tmp_path: Path) -> None:
    pseudo = {"kind": "pseudo", "network": "teacher", "images": {"data": "textures", "mpp": 0.25}}
    recipe = parse_recipe(changed("data.train", [pseudo]))
    assert data_names(recipe) == ["discs", "teacher", "textures"]
    paths = {name: tmp_path / name for name in data_names(recipe)}
    for path in paths.values():
        path.mkdir()
    source = resolve(recipe, paths).data.train[0].source
    assert source == PseudoSource(ImagesSource(paths["textures"], mpp=0.25), paths["teacher"])
    packaged = parse_recipe(changed("data.train", [{**pseudo, "network": "unet-0.5"}]))
    assert data_names(packaged) == ["discs", "textures"]


def test_weights_can_be_data(tmp_path: Path) -> None:
    recipe = parse_recipe(changed("start.weights", "mine"))
    assert data_names(recipe) == ["discs", "mine"]
    assert resolve(recipe, {"discs": tmp_path, "mine": tmp_path}).start.weights == str(tmp_path)


def test_a_digest_is_of_what_is_said() -> None:
    reordered = dict(reversed(TABLES.items()))
    assert recipe_digest(reordered) == recipe_digest(TABLES)
    assert recipe_digest(changed("seed", 1)) != recipe_digest(TABLES)


@pytest.mark.parametrize("name", list_recipes())
def test_the_packages_recipes_are_sound(name: str) -> None:
    recipe = parse_recipe(read_recipe(name)[0])
    plan = plan_training(recipe)
    assert recipe.name == name
    assert recipe.licence
    assert data_names(recipe)
    assert plan.config.output_shape(recipe.optimise.crop, recipe.optimise.crop)[0] > 0

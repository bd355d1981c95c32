"""Every registered sampler and renderer; recipes; any composition as a dataset, whatever the workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy import ndimage
from wsiseg_cli.group import cli

from wsiseg.errors import UsageError
from wsiseg.run.schedule import SerialExecutor
from wsiseg.synth.compose import compose, generate_recipe, make_patch
from wsiseg.synth.dataset import BLOCK, open_dataset
from wsiseg.synth.parts import Field, Texture, connected
from wsiseg.synth.recipe import (
    data_of,
    list_synth_recipes,
    parse_synth_recipe,
    part_options,
    read_synth_recipe,
    resolve_recipe,
)
from wsiseg.synth.renderers import RENDERERS
from wsiseg.synth.renderers.adain.networks import AdaINConfig, StyleTransfer
from wsiseg.synth.renderers.points2image.networks import NetworkPair, PairConfig
from wsiseg.synth.renderers.stylegan.networks import StyleGan, StyleGanConfig
from wsiseg.synth.renderers.transfer.refiner import RefinerPair
from wsiseg.synth.samplers import SAMPLERS
from wsiseg.synth.samplers.polygons import PolygonsOptions
from wsiseg.synth.sheet import contact_sheet
from wsiseg.testing.conformance import synthesis
from wsiseg.testing.images import stained
from wsiseg.testing.networks import TINY_REFINER

SIDE = 96
GENERATORS = ("points2image", "stylegan")  # their tests (tests/train/generators) train them a little first


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What recipes call their data: textures, label images with their images, trained parts."""
    root = tmp_path_factory.mktemp("data")
    for name in ("textures", "masks", "images"):
        (root / name).mkdir()
    for seed in range(2):
        image = stained(seed, 192, 30)
        Image.fromarray(image).save(root / "textures" / f"tile{seed}.png")
        Image.fromarray(image).save(root / "images" / f"{seed}.png")
        labels = ndimage.label(image[..., 0] < 120)[0].astype(np.uint16)
        Image.fromarray(labels).save(root / "masks" / f"{seed}.png")
    RefinerPair.new(TINY_REFINER, 1).save(root / "refiner.safetensors", {})
    painter = StyleTransfer.new(AdaINConfig((4, 4, 8, 8), (1, 1, 1, 1)), 0.25, 3)
    with torch.no_grad():
        for module in (painter.encoder, painter.decoder):
            for weights in module.parameters():  # torch's own start makes one grey of everything
                weights.mul_(2.5)
    painter.save(root / "weights.safetensors", {})
    NetworkPair.new(PairConfig((8, 8, 4), 4, 4, "fast", 8), 0.25, 1).save(root / "pair.safetensors", {})
    StyleGan.new(StyleGanConfig((4, 4, 4, 4, 4), 4, 1), 0.25, 1).save(root / "gan.safetensors", {})
    files = {"refiner": "refiner.safetensors", "weights": "weights.safetensors"}
    found = {name: root / files.get(name, name) for name in ("textures", "masks", "images", *files)}
    return {**found, "labels": found["masks"]}


def data_for(recipe: str, data: dict[str, Path]) -> dict[str, Path]:
    """With the generator that a recipe wants."""
    kind = {"points2image": "pair", "snow": "gan"}.get(recipe, "weights")
    return {**data, "generator": data["weights"].with_name(f"{kind}.safetensors")}


def options_of(registry: dict, name: str, data: dict[str, Path]):
    kind = part_options(registry, name)
    few = {"couples": 8} if name == "blobs" else {}
    return kind(**few, **{key: data[key] for key, hint in get_type_hints(kind).items() if hint is Path})


def texture() -> Texture:
    return Texture(Field("tile", stained(0, 192, 30), 0.25), 40, 10, 5)


@pytest.mark.parametrize("check", synthesis.SAMPLER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_conform(name: str, check: Callable, data: dict[str, Path]) -> None:
    check(synthesis.Case(options_of(SAMPLERS, name, data), None, texture(), SIDE))


@pytest.mark.parametrize("check", synthesis.RENDERER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [name for name in RENDERERS if name not in GENERATORS])
def test_renderers_conform(name: str, check: Callable, data: dict[str, Path]) -> None:
    options = options_of(RENDERERS, name, data)
    sampler = PolygonsOptions() if options.needs_layout else None
    check(synthesis.Case(sampler, options, texture(), SIDE))


def test_a_part_of_a_field_lies_under_a_patch_in_every_map() -> None:
    field = Field("f", np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3), 0.25)
    part = Texture(field, 2, 7, 6)
    rows = np.indices((20, 30))
    y, x = part.under(rows[0], 8), part.under(rows[1], 8)
    np.testing.assert_array_equal(part.under(field.image, 8), field.image[y, x])
    assert (y.min(), y.max(), x.min(), x.max()) == (2, 9, 7, 14)
    assert part.elsewhere(8)[1:3] == (12, 22)


def test_small_and_torn_labels_are_put_right() -> None:
    labels = np.array([[5, 5, 0, 2], [0, 0, 0, 2], [5, 0, 3, 2]])
    np.testing.assert_array_equal(connected(labels, 2), [[2, 2, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]])


# --- recipes


@pytest.mark.parametrize("name", list_synth_recipes())
def test_shipped_recipes_make_patches(name: str, data: dict[str, Path]) -> None:
    few = ["sampler.couples=8"] if name.startswith("basla") else []
    side = 64 if name == "snow" else SIDE  # which its generator gives
    recipe = parse_synth_recipe(read_synth_recipe(name, [f"side={side}", *few])[0])
    assert recipe.name == name
    assert recipe.summary
    names = {str(path) for path in data_of(recipe).values()}
    placed = resolve_recipe(recipe, {key: data_for(name, data)[key] for key in names})
    made = make_patch(compose(placed), 0, 0, side)
    assert made.patch.image.shape == (side, side, 3)
    assert 0.2 <= made.weight <= 2.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.name=polygon", "sampler.name: got 'polygon'.*did you mean 'polygons'"),
        ("renderer.colour=1", "renderer.colour: unknown key"),
        ("side=8", "side 8: expected 64"),
        ("renderer.distractors=-1", "distractors -1.0: expected 0 or more"),
        ("textures.mpp=0", "mpp 0.0: expected microns"),
    ],
)
def test_what_makes_no_sense_is_said(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_synth_recipe(read_synth_recipe("layered", [override])[0])


def test_parts_that_do_not_fit_together_are_refused(data: dict[str, Path]) -> None:
    tables = read_synth_recipe("layered")[0]
    with pytest.raises(UsageError, match="textures: is missing"):
        parse_synth_recipe({key: value for key, value in tables.items() if key != "textures"})
    with pytest.raises(UsageError, match="sampler: is missing"):
        parse_synth_recipe({key: value for key, value in tables.items() if key != "sampler"})
    with pytest.raises(UsageError, match="needs data that were not given: --data textures=PATH"):
        resolve_recipe(parse_synth_recipe(tables), {})
    coarse = resolve_recipe(parse_synth_recipe({**tables, "mpp": 0.5}), {"textures": data["textures"]})
    with pytest.raises(UsageError, match=r"mpp 0\.5: the sampler layered works at 0\.25"):
        compose(coarse)


# --- datasets


def content(path: Path) -> dict[str, str]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def mixture(count: int) -> dict:
    tables = read_synth_recipe("hou-refined")[0]
    return {**tables, "count": count, "side": 64, "seed": 3}


def test_a_composition_is_a_dataset_and_the_same_bytes_by_two_workers(
    data: dict[str, Path], tmp_path: Path
) -> None:
    from wsiseg.run.cluster import ClusterOptions, open_executor

    count, used = BLOCK + 4, {name: data[name] for name in ("textures", "refiner")}
    generate_recipe(mixture(count), used, tmp_path / "one.zarr", SerialExecutor())
    with open_executor(ClusterOptions(workers=2, device="cpu", dashboard="127.0.0.1:0")) as executor:
        generate_recipe(mixture(count), used, tmp_path / "two.zarr", executor)
    assert content(tmp_path / "one.zarr") == content(tmp_path / "two.zarr")
    dataset = open_dataset(tmp_path / "one.zarr")
    assert dataset.provenance["method"] == "polygons · transfer · importance"
    assert str(data["textures"]) not in json.dumps(dataset.provenance)
    assert len(np.unique(dataset.weight[:])) > 1
    assert contact_sheet(dataset, 4).shape[2] == 3


def test_a_stopped_composition_goes_on_and_another_seed_is_refused(data: dict[str, Path], tmp_path: Path) -> None:
    class Stopping(SerialExecutor):
        def submit(self, name, function, argument, urgent=False):
            if argument.block:
                raise KeyboardInterrupt
            return super().submit(name, function, argument, urgent)

    tables, used = (
        read_synth_recipe("ellipses-layered", ["side=64", f"count={BLOCK + 2}"])[0],
        {"textures": data["textures"]},
    )
    generate_recipe(tables, used, tmp_path / "whole.zarr", SerialExecutor())
    with pytest.raises(KeyboardInterrupt):
        generate_recipe(tables, used, tmp_path / "d.zarr", Stopping())
    assert generate_recipe(tables, used, tmp_path / "d.zarr", SerialExecutor())["computed"] == 2
    assert content(tmp_path / "d.zarr") == content(tmp_path / "whole.zarr")
    with pytest.raises(UsageError, match="made otherwise"):
        generate_recipe({**tables, "seed": 1}, used, tmp_path / "d.zarr", SerialExecutor())


def test_the_same_nuclei_come_from_two_renderers(data: dict[str, Path]) -> None:
    recipes = [
        parse_synth_recipe(read_synth_recipe("layered", [f"renderer.name={name}"])[0])
        for name in ("layered", "transfer")
    ]
    one, other = (
        make_patch(compose(resolve_recipe(recipe, {"textures": data["textures"]})), 4, 2, SIDE)
        for recipe in recipes
    )
    np.testing.assert_array_equal(one.patch.instances, other.patch.instances)
    assert not np.array_equal(one.patch.image, other.patch.image)


def test_the_command_runs_any_recipe(data: dict[str, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(read_synth_recipe("ellipses-layered")[1].replace("ellipses", "polygons"))
    words = [
        "synth",
        str(recipe),
        "--data",
        f"textures={data['textures']}",
        "-o",
        str(tmp_path / "d.zarr"),
        "-w",
        "0",
    ]
    result = CliRunner().invoke(cli, [*words, "--set", "side=64", "--count", "2", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["patches"] == 2
    assert open_dataset(tmp_path / "d.zarr").provenance["recipe"]["name"] == "polygons-layered"
    listed = CliRunner().invoke(cli, ["synth", "--list"])
    assert "basla" in listed.output
    assert "renderers: transfer, layered, adain, points2image, stylegan" in listed.output
    assert "generators, for `wsiseg synth train`: adain, adain-small," in listed.output
    unknown = CliRunner().invoke(cli, ["synth", "shet", "-o", str(tmp_path / "x")])
    assert isinstance(unknown.exception, UsageError)
    assert "neither a file nor a recipe" in str(unknown.exception)

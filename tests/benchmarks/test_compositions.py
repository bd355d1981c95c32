"""Compositions compared: the plan, the few images, the table. A whole comparison takes an hour."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from wsiseg.synth.recipe import data_of, parse_synth_recipe, read_synth_recipe


@pytest.fixture(scope="module")
def compositions(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    load_benchmark("hou_ablation")  # which it imports from its own folder
    return load_benchmark("compositions")


def annotated(folder: Path, count: int) -> dict[str, Path]:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / kind / f"{number}.png")
    return {"images": folder / "images", "labels": folder / "labels"}


def test_every_variant_is_a_composition_that_there_is(compositions: ModuleType) -> None:
    plan = compositions.variants(compositions.PLAN, few=False)
    assert len({compositions.slug(variant.name) for variant in plan}) == len(plan) >= 8
    for variant in [*plan, *compositions.variants(compositions.PLAN, few=True)]:
        if variant.recipe:
            tables, _ = read_synth_recipe(variant.recipe, [*variant.set, f"mpp={variant.mpp}"])
            names = {str(name) for name in data_of(parse_synth_recipe(tables)).values()}
            assert names == set(variant.data)


def test_each_generated_few_are_compared_with_the_same_real_ones(compositions: ModuleType, tmp_path: Path) -> None:
    given = annotated(tmp_path / "all", 9)
    pairs = compositions.variants(compositions.PLAN, few=True)
    assert [len(pairs), {variant.few[0] for variant in pairs}] == [18, {1, 2, 4}]
    for real, made in zip(pairs[::2], pairs[1::2], strict=True):
        assert (made.against, made.few) == (real.name, real.few)
        places = compositions.data_of(real, given, tmp_path / "out")
        assert set(compositions.data_of(made, given, tmp_path / "out").values()) == set(places.values())
        names = [sorted(path.name for path in place.iterdir()) for place in places.values()]
        assert names[0] == names[1]
        assert len(names[0]) == real.few[0]


def test_draws_share_no_image_as_long_as_there_are_enough(compositions: ModuleType) -> None:
    names = [str(number) for number in range(12)]
    drawn = [set(compositions.drawn_images(names, 4, draw)) for draw in range(3)]
    assert set.union(*drawn) == set(names)
    assert len(set(compositions.drawn_images(names[:3], 2, 1))) == 2


def test_table_is_sorted_and_compares_what_was_trained_with_the_same_seed(compositions: ModuleType) -> None:
    def run(aji: float) -> dict[str, dict[str, float]]:
        return {image: {"aji": aji + off, "dice": 0.5, "pq": 0.4} for image, off in (("a", 0.0), ("b", 0.1))}

    runs = {"first": {0: run(0.3), 1: run(0.4)}, "better": {0: run(0.5)}, "other": {2: run(0.2)}, "none": {}}
    lines = list(compositions.table(runs, {"better": "first", "other": "first"}))
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| better", "| first", "| other"]
    assert "| 1 | 0.550 | 0.500 | 0.400 | +0.200 (" in lines[2]
    assert "0.400 ± 0.071" in lines[3]
    assert lines[4].endswith("| – |")


def test_a_folder_of_other_sizes_is_refused(compositions: ModuleType, tmp_path: Path) -> None:
    words = ["--judged", "j", "-o", str(tmp_path / "out")]
    options: argparse.Namespace = compositions.parse(words)
    compositions.settle(options, {})
    compositions.settle(compositions.parse([*words, "--seeds", "5"]), {"adain": tmp_path})  # more of the same
    with pytest.raises(SystemExit, match=r"begun with data adain .*choose another -o"):
        compositions.settle(options, {"adain": tmp_path / "other"})
    with pytest.raises(SystemExit, match="choose another -o"):
        compositions.settle(compositions.parse([*words, "--steps", "7"]), {})

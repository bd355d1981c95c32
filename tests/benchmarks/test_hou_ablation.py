"""Hou et al.'s ablation: its intervals by hand, their real branch as a recipe, a run from textures to the table."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from wsiseg.run.events import ignore  # noqa: E402
from wsiseg.synth.dataset import Block, create_dataset, finish_dataset, write_block  # noqa: E402
from wsiseg.synth.hou.patch import MPP  # noqa: E402
from wsiseg.train.batches import BatchMaker  # noqa: E402
from wsiseg.train.plan import plan_training  # noqa: E402
from wsiseg.train.pools import gather, pool_key  # noqa: E402
from wsiseg.train.recipe import parse_recipe, read_recipe, resolve  # noqa: E402
from wsiseg.train.source import Frame  # noqa: E402


@pytest.fixture(scope="module")
def ablation(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("hou_ablation")


def discs(seed: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), dtype=np.uint16)
    for n in range(8):
        cy, cx = rng.uniform(0, side, 2)
        labels[np.hypot(y - cy, x - cx) < rng.uniform(8, 12)] = n + 1
    image = np.where(labels[..., None] > 0, (90, 60, 130), (225, 185, 210)) + rng.normal(0, 8, (side, side, 1))
    return image.clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """Three images with labels, of which a table says that two are for training."""
    folder = tmp_path / "annotated"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for n in range(3):
        image, labels = discs(n + 50, 192)
        Image.fromarray(image).save(folder / "images" / f"case{n}.png")
        Image.fromarray(labels).save(folder / "labels" / f"case{n}.png")
    rows = [{"id": f"case{n}", "split": "test" if n == 1 else "train"} for n in range(3)]
    (folder / "index.json").write_text(json.dumps(rows))
    return folder


def run_of(*aji: float) -> dict[str, dict[str, float]]:
    return {f"case{n}": {"aji": value, "dice": value, "pq": value} for n, value in enumerate(aji)}


# --- the table


def test_the_interval_of_student_by_hand(ablation: ModuleType) -> None:
    # Mean 2, sample standard deviation 1, t(0.975; 2) = 4.3027 from the tables.
    low, high = ablation.student_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert ablation.student_interval([1.0]) is None


def test_differences_are_paired_by_seed(ablation: ModuleType) -> None:
    # The seeds differ far more than the variants do; paired, the difference is 0.02 to 0.04 and certain.
    first = {0: run_of(0.12, 0.32), 1: run_of(0.43, 0.63), 2: run_of(0.24, 0.44)}
    second = {2: run_of(0.2, 0.4), 0: run_of(0.1, 0.3), 1: run_of(0.4, 0.6)}
    difference = ablation.compare(first, second, "aji")
    assert difference.mean == pytest.approx(0.03)
    half = 4.3027 * 0.01 / 3**0.5
    assert difference.seeds == pytest.approx((0.03 - half, 0.03 + half), abs=1e-5)
    assert difference.images == pytest.approx((0.03, 0.03))  # both images say the same
    assert difference.verdict == "helps"
    assert ablation.compare(second, first, "aji").verdict == "hurts"


def test_what_seeds_do_not_agree_on_is_not_decided(ablation: ModuleType) -> None:
    first, second = {0: run_of(0.5, 0.6), 1: run_of(0.5, 0.4)}, {0: run_of(0.4, 0.4), 1: run_of(0.5, 0.5)}
    difference = ablation.compare(first, second, "pq")
    assert difference.mean == pytest.approx(0.05)
    assert difference.verdict == "not decided"
    alone = ablation.compare({0: first[0]}, {0: second[0]}, "pq")
    assert alone.seeds is None
    assert "one seed" in alone.verdict


def test_the_table_has_what_was_run_and_no_more(ablation: ModuleType) -> None:
    runs = {"renderer": {0: run_of(0.1, 0.3), 1: run_of(0.2, 0.4)}, "refiner": {0: run_of(0.3, 0.5)}}
    lines = list(ablation.table(runs, {}))
    assert "| renderer | 2 | 0.2500 ± 0.0707 | 0.2500 ± 0.0707 | 0.2500 ± 0.0707 |" in lines
    assert "| refiner | 1 | 0.4000 | 0.4000 | 0.4000 |" in lines
    assert next(line for line in lines if "+0.2000" in line).startswith("| refiner | AJI | +0.2000 | – | ")
    assert not any("weights" in line for line in lines)  # neither variant with weights was run


def dataset_with(weights: list[float], path: Path, side: int = 64) -> Path:
    create_dataset(path, len(weights), (side, side), MPP, {"method": "hou", "seed": 0, "textures": []})
    made = [discs(n, side) for n in range(len(weights))]
    images, labels = np.stack([m[0] for m in made]), np.stack([m[1] for m in made]).astype(np.int32)
    zeros = np.zeros(len(weights), dtype=np.int32)
    write_block(path, 0, Block(images, labels, np.array(weights, dtype=np.float32), zeros))
    finish_dataset(path)
    return path


def test_how_weights_are_spread(ablation: ModuleType, tmp_path: Path) -> None:
    summary = ablation.weight_summary(dataset_with([0.2, 0.2, 1.0, 2.0], tmp_path / "patches.zarr"))
    assert summary["mean"] == pytest.approx(0.85)
    assert summary["lowest"] == 0.5
    assert summary["highest"] == 0.25
    assert summary["effective"] == pytest.approx(3.4**2 / (4 * 5.08), abs=1e-6)


# --- what is scored, and with what


def test_only_the_images_of_the_table_are_scored(ablation: ModuleType, annotated: Path) -> None:
    words = ["--textures", "t", "--annotated", str(annotated), "-o", "out"]
    assert [p.stem for p in ablation.annotated_images(ablation.parse(words))] == ["case0", "case1", "case2"]
    chosen = [*words, "--table", "index.json", "--key", "split", "--values", "train"]
    assert [p.stem for p in ablation.annotated_images(ablation.parse(chosen))] == ["case0", "case2"]


def test_a_folder_that_was_begun_otherwise_is_refused(ablation: ModuleType, tmp_path: Path) -> None:
    words = ["--textures", "t", "--annotated", "a", "-o", str(tmp_path / "out")]
    ablation.settle(ablation.parse(words))
    ablation.settle(ablation.parse([*words, "--seeds", "5", "--variants", "renderer"]))  # more of the same
    with pytest.raises(SystemExit, match=r"begun with steps 400, not 100.*choose another -o"):
        ablation.settle(ablation.parse([*words, "--steps", "100"]))


def test_labels_that_are_missing_are_named(
    ablation: ModuleType, annotated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    found = {"images": [{"name": "case0", "scores": {"aji": 0.5, "dice": 0.5, "pq": 0.5}}]}

    def command(*words: object) -> str:
        (out / "renderer" / "seed-0").mkdir(parents=True, exist_ok=True)
        (out / "renderer" / "seed-0" / "x.safetensors").touch()
        return json.dumps(found)

    monkeypatch.setattr(ablation, "command", command)
    options: argparse.Namespace = ablation.parse(["--textures", "t", "--annotated", str(annotated), "-o", str(out)])
    images = ablation.annotated_images(options)
    with pytest.raises(SystemExit, match=r"no labels of case1, case2"):
        ablation.score_run("renderer", 0, tmp_path, images, options)
    scores = ablation.score_run("renderer", 0, tmp_path, images[:1], options)
    assert scores == {"case0": found["images"][0]["scores"]}


# --- the real branch


def test_real_images_join_synthetic_patches_with_weight_one_and_their_own_share(
    annotated: Path, tmp_path: Path
) -> None:
    tables, _ = read_recipe("hou", ["optimise.batch=8", "data.side=64", "optimise.crop=64"])
    real: dict[str, Any] = {"kind": "folder", "data": "real", "mpp": 0.25, "proportion": 1}
    tables["data"]["train"] = [{**tables["data"]["train"][0], "proportion": 3}, real]
    patches = dataset_with([0.2, 0.5] * 6, tmp_path / "patches.zarr")
    recipe = resolve(parse_recipe(tables), {"patches": patches, "real": annotated})
    frame = Frame(recipe.data.mpp, recipe.data.side)
    keys = [pool_key(ingredient, frame) for ingredient in recipe.data.train]
    portions = gather(recipe.data.train, keys, frame, tmp_path / "pools", ignore)
    assert set(portions[1].pool.weight.tolist()) == {1.0}
    plan = plan_training(recipe)
    maker = BatchMaker(portions, plan.targets, recipe.augment, 8, 64, recipe.data.mpp, 0)
    drawn = np.concatenate([maker.make(step).weight.numpy() for step in range(25)])
    assert set(np.round(drawn, 3).tolist()) == {np.float32(0.2).round(3), 0.5, 1.0}
    assert abs((drawn == 1).mean() - 0.25) < 0.1  # a share of the batch, however many patches there are


# --- all of it


@pytest.mark.slow
def test_from_textures_to_the_table(annotated: Path, tmp_path: Path, repository: Path) -> None:
    script = repository / "benchmarks" / "hou_ablation.py"
    (tmp_path / "textures").mkdir()
    for n in range(3):
        Image.fromarray(discs(n, 128)[0]).save(tmp_path / "textures" / f"{n}.png")
    words: list[object] = ["--textures", tmp_path / "textures", "--annotated", annotated, "-o", tmp_path / "out"]
    words += ["--table", "index.json", "--key", "split", "--values", "train", "--quick", "--workers", 1]
    first = [sys.executable, str(script), *map(str, words)]
    first += ["--seeds", "0"]
    done = subprocess.run([*first, "--variants", "renderer"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| renderer | 1 |" in done.stdout
    before = (tmp_path / "out" / "renderer" / "seed-0" / "scores.json").stat().st_mtime_ns
    done = subprocess.run(first, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "renderer" / "seed-0" / "scores.json").stat().st_mtime_ns == before
    table = (tmp_path / "out" / "table.md").read_text()
    for row in ("| renderer+weights | 1 |", "| refiner+weights | 1 |", "| weights, of refined patches | AJI |"):
        assert row in table
    assert "weights of judged" in table

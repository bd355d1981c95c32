"""Joyce & Bunyak's protocol: its four scores against the definitions, and a run from textures to the table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from wsiseg.evaluate import auc
from wsiseg.interop import snow


@pytest.fixture(scope="module")
def joyce(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("joyce")


def discs(seed: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), dtype=np.int32)
    for n in range(6):
        cy, cx = rng.uniform(0, side, 2)
        labels[np.hypot(y - cy, x - cx) < rng.uniform(5, 9)] = n + 1
    image = np.where(labels[..., None] > 0, (100, 70, 140), (225, 185, 210)) + rng.normal(0, 8, (side, side, 1))
    return image.clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Ten tiles; the last has no nucleus."""
    folder = tmp_path / "tiles"
    (folder / "Mask").mkdir(parents=True)
    for n in range(10):
        image, labels = discs(n, 64)
        if n == 9:
            image, labels = np.full_like(image, 220), labels * 0
        snow.write_image(folder / "Image" / f"{snow.tile_name(n)}.png", image)
        snow.write_mask(folder / "Mask" / f"{snow.tile_name(n)}.mat", labels)
    return folder


def test_scores_over_pixels_are_those_of_one_large_tile(joyce: ModuleType) -> None:
    rng = np.random.default_rng(2)
    planes = []
    for n in range(4):
        truth = (rng.random((20, 30)) < 0.1 * (n + 1)).astype(np.uint8) * 255
        probability = np.clip(truth * 0.4 + rng.integers(0, 12, truth.shape) * 20, 0, 255).astype(np.uint8)
        planes.append((truth, probability, (probability > 120).astype(np.uint8) * 255))
    truth, probability, found = (np.concatenate([p[k] for p in planes]) for k in range(3))
    scores = joyce.pooled_scores(iter(planes))
    assert scores["auc"] == pytest.approx(auc(truth, probability), abs=1e-12)
    hits = ((truth > 0) & (found > 0)).sum()
    assert scores["accuracy"] == (truth == found).mean()
    assert scores["pixel_precision"] == hits / (found > 0).sum()
    assert scores["pixel_recall"] == hits / (truth > 0).sum()


def test_tiles_kept_aside_and_their_scores(joyce: ModuleType, tiles: Path, tmp_path: Path) -> None:
    assert list(joyce.held_out(tiles)) == ["seed0008", "seed0009"]
    known = {discs(8, 64)[0].tobytes(): discs(8, 64)[1] > 0}

    def perfect(image: np.ndarray) -> np.ndarray:
        return known.get(image.tobytes(), np.zeros(image.shape[:2])).astype(np.float32) * 0.9 + 0.05

    rows = joyce.score(tiles, tmp_path / "out", perfect)
    assert rows["pixels"] == dict.fromkeys(joyce.SCORES, 1.0)
    # The empty tile has no AUC and is found empty; without Otsu's bounds it would be noise.
    assert rows["tiles"] == dict.fromkeys(joyce.SCORES, 1.0)
    assert not np.array(Image.open(tmp_path / "out" / "mask" / "seed0009.png")).any()
    truth = np.array(Image.open(tmp_path / "out" / "truth" / "seed0008.png"))
    assert np.array_equal(truth, np.where(discs(8, 64)[1] > 0, 255, 0))
    red = joyce.score(tiles, tmp_path / "red", joyce.red_channel)
    assert red["pixels"]["auc"] > 0.95
    empty = joyce.score(tiles, tmp_path / "none", joyce.nothing)
    assert empty["pixels"]["auc"] == 0.5
    assert empty["pixels"]["pixel_recall"] == 0
    assert np.isnan(empty["pixels"]["pixel_precision"])


@pytest.mark.slow
def test_the_protocol_from_textures_to_its_table(tmp_path: Path, repository: Path) -> None:
    script = repository / "benchmarks" / "joyce.py"
    (tmp_path / "textures").mkdir()
    for n in range(3):
        Image.fromarray(discs(n, 128)[0]).save(tmp_path / "textures" / f"{n}.png")
    words: list[object] = ["--textures", tmp_path / "textures", "-o", tmp_path / "out", "--count", 20]
    words += ["--size", 64, "--epochs", 1, "--workers", 1]
    command = [sys.executable, str(script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 tiles that were kept aside" in done.stdout
    record = json.loads((tmp_path / "out" / "joyce.json").read_text())
    for unit in ("tiles", "pixels"):
        assert set(record["scores"]["U-Net"][unit]) == {"accuracy", "auc", "pixel_precision", "pixel_recall"}
        assert 0 <= record["scores"]["U-Net"][unit]["accuracy"] <= 1
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "out" / "joyce.json").read_text())["scores"] == record["scores"]

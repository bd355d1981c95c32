"""The segmenter without weights: its contract, its calibration, and its score on real images."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from wsiseg.core.histogram import otsu, otsu_bin
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize
from wsiseg.evaluate import evaluate
from wsiseg.models.base import Segmenter
from wsiseg.models.classical import ClassicalSegmenter

SEGMENTER = ClassicalSegmenter()


def stained(size=256, seed=0, spacing=32, strength=1.0):
    """Haematoxylin discs of radius 8 px on eosin, and their centres."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] + 0.5
    centres = np.stack(np.meshgrid(*[np.arange(spacing / 2, size, spacing)] * 2), -1).reshape(-1, 2)
    centres = centres + rng.uniform(-4, 4, centres.shape)
    inside = np.min([np.hypot(x - cx, y - cy) for cx, cy in centres], axis=0) < 8
    hematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    density = 0.25 * eosin + strength * (0.08 + 0.55 * inside[..., None]) * hematoxylin
    density = density + rng.normal(0, 0.01, (size, size, 3))
    return np.clip(np.round(255 * 10**-density), 0, 255).astype(np.uint8), centres


def test_it_is_a_segmenter():
    assert isinstance(SEGMENTER, Segmenter)
    assert pickle.loads(pickle.dumps(SEGMENTER)) == SEGMENTER
    description = SEGMENTER.describe()
    assert json.loads(json.dumps(description)) == description
    assert description["name"] == "classical"
    assert description["weights_sha256"] is None
    assert description["licence"] == "Apache-2.0"
    assert SEGMENTER.margin_px > SEGMENTER.decoder.margin_px


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_discs_are_found_at_any_strength_of_stain(strength):
    image, centres = stained(strength=strength)
    nuclei = SEGMENTER.segment([image], SEGMENTER.calibrate([image]))[0]
    assert len(nuclei) == len(centres)
    distance = np.hypot(*(nuclei.centroids()[:, None] - centres[None]).transpose(2, 0, 1)).min(axis=1)
    assert distance.max() < 0.5
    np.testing.assert_allclose(nuclei.areas(), np.pi * 64, rtol=0.12)
    assert nuclei.columns["score"].dtype == np.float32
    assert nuclei.columns["score"].min() > 0.7


def test_a_tile_sees_what_the_slide_sees():
    image = stained(size=448, seed=2)[0]
    calibration = SEGMENTER.calibrate([image])
    margin = SEGMENTER.margin_px
    x, y, size = 31, 17, 400
    whole = SEGMENTER.segment([image], calibration)[0].translate(-x, -y)
    part = SEGMENTER.segment([np.ascontiguousarray(image[y : y + size, x : x + size])], calibration)[0]
    rings = []
    for nuclei in (whole, part):
        bounds = nuclei.bounds()
        kept = nuclei.take((bounds[:, :2] >= margin).all(1) & (bounds[:, 2:] <= size - margin).all(1))
        rings.append([kept.vertices[a:b].tobytes() for a, b in zip(kept.offsets, kept.offsets[1:], strict=False)])
    assert len(rings[0]) > 20
    assert rings[0] == rings[1]


def test_a_batch_is_its_images():
    images = [stained(seed=k)[0] for k in range(3)]
    calibration = SEGMENTER.calibrate(images)
    for image, nuclei in zip(images, SEGMENTER.segment(images, calibration), strict=True):
        np.testing.assert_array_equal(nuclei.vertices, SEGMENTER.segment([image], calibration)[0].vertices)


def test_calibration_ignores_glass_and_order():
    images = [stained(seed=k)[0] for k in range(3)]
    glass = np.full((256, 256, 3), 240, np.uint8)
    expected = SEGMENTER.calibrate(images)
    assert SEGMENTER.calibrate([glass, *images[::-1], glass]) == expected
    assert 0.05 <= expected["threshold_od"] <= 0.6


@pytest.mark.parametrize("images", [[], [np.full((300, 300, 3), 250, np.uint8)]])
def test_calibration_without_tissue_is_a_default(images):
    assert SEGMENTER.calibrate(images) == {"threshold_od": 0.2}


def test_extreme_images_do_not_fail():
    for value in (0, 255):
        image = np.full((64, 80, 3), value, np.uint8)
        assert len(SEGMENTER.segment([image], SEGMENTER.calibrate([image]))[0]) == 0


def test_otsu_is_the_largest_variance_between_classes_and_the_first_of_equals() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts, centres = rng.integers(0, 9, 12), np.sort(rng.integers(0, 100, 12))
        best, at = -1.0, -1
        for k in range(11):
            low, high = counts[: k + 1].sum(), counts[k + 1 :].sum()
            between = 0.0
            if low and high:
                means = (counts * centres)[: k + 1].sum() / low, (counts * centres)[k + 1 :].sum() / high
                between = low * high * (means[0] - means[1]) ** 2
            if between > best * (1 + 1e-9):
                best, at = between, k
        assert otsu_bin(counts, centres) == at
    assert otsu_bin(np.zeros(5, dtype=np.int64), np.arange(5)) == 0
    assert otsu_bin(np.array([0, 7, 0, 0, 7, 0]), np.arange(6)) == 1


def test_otsu_separates_two_peaks():
    edges = np.linspace(0, 1, 11)
    assert 0.3 <= otsu(np.array([0, 5, 9, 0, 0, 0, 0, 6, 3, 0]), edges) <= 0.7
    assert otsu(np.array([0, 4, 0, 0, 0, 0, 0, 0, 0, 2]), edges) == pytest.approx(0.2)


def test_score_on_real_images(real_data):
    monuseg = real_data("monuseg_train30")
    index = json.loads((monuseg / "index.json").read_text())["images"]
    found = []
    for name in [entry["id"] for entry in index if entry["split"].startswith("test")][::4]:
        image = np.asarray(Image.open(monuseg / "images" / f"{name}.webp").convert("RGB"))
        truth = np.asarray(Image.open(monuseg / "labels" / f"{name}.png")).astype(np.int32)
        half = np.round(image.reshape(500, 2, 500, 2, 3).mean(axis=(1, 3))).astype(np.uint8)
        nuclei = SEGMENTER.segment([half], SEGMENTER.calibrate([half]))[0]
        doubled = Nuclei(nuclei.vertices * 2, nuclei.offsets)
        found.append(evaluate(truth, rasterize(doubled, np.arange(len(nuclei)) + 1, truth.shape)))
    assert np.mean([scores.aji for scores in found]) > 0.38
    assert np.mean([scores.dice for scores in found]) > 0.70

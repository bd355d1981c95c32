"""Hou et al.'s synthesis: the stated distributions, textures, weights, the refiner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from wsiseg.errors import ModelError, UsageError
from wsiseg.synth.hou import patch
from wsiseg.synth.hou.tiles import load_tiles
from wsiseg.synth.parts import crop
from wsiseg.synth.renderers.networkfile import to_images, to_tensor
from wsiseg.synth.renderers.transfer import texture
from wsiseg.synth.renderers.transfer.refiner import Discriminator, Refiner, RefinerConfig, RefinerPair
from wsiseg.synth.renderers.transfer.texture import Tile, inpaint, take_apart
from wsiseg.synth.samplers import polygons as masks
from wsiseg.synth.samplers.polygons import MaskPrior, sample_instances, sample_polygon, sample_prior, sample_quad
from wsiseg.synth.weighting.importance import importance_weight
from wsiseg.testing.images import stained
from wsiseg.testing.networks import TINY_REFINER


@pytest.fixture(scope="module")
def tiles() -> list[Tile]:
    return [take_apart(stained(seed)) for seed in range(3)]


def place(seed: int, prior: MaskPrior, size: int = 256) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return sample_instances(rng, prior, np.ones((size, size), dtype=bool), sample_quad(rng, size))


# --- masks


@pytest.mark.parametrize("level", [0.0, 2.0, 5.0])
def test_the_count_prior_is_a_clipped_normal_of_the_density_level(level: float) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([sample_prior(rng, level, 460).count for _ in range(4000)])
    expected = np.clip(np.random.default_rng(1).normal(30 * level + 20, 40, 100_000), 0, 256)
    assert drawn.min() >= 0
    assert drawn.max() <= 256
    assert drawn.mean() == pytest.approx(expected.mean(), abs=2.5)
    assert drawn.std() == pytest.approx(expected.std(), rel=0.06)


def test_size_and_distractor_priors() -> None:
    rng = np.random.default_rng(0)
    priors = [sample_prior(rng, 3.2, 460) for _ in range(4000)]
    size = np.array([prior.size for prior in priors])
    assert size.mean() == pytest.approx(1.6, abs=0.03)
    assert size.std() == pytest.approx(0.32, rel=0.06)
    spiky = np.array([prior.spiky for prior in priors])
    assert (spiky.min(), spiky.max()) == (0, 99)
    assert spiky.mean() == pytest.approx(49.5, abs=2)
    assert {prior.pale for prior in priors} == {0, 1, 2, 3, 4}


def test_numbers_scale_with_the_area_of_the_patch() -> None:
    rng = np.random.default_rng(0)
    priors = [sample_prior(rng, 4.0, 230) for _ in range(4000)]
    assert np.mean([prior.count for prior in priors]) == pytest.approx(140 / 4, abs=1)
    assert np.mean([prior.spiky for prior in priors]) == pytest.approx(49.5 / 4, abs=0.7)
    assert np.mean([prior.pale for prior in priors]) == pytest.approx(2 / 4, abs=0.05)


def test_polygons_have_the_published_vertices_and_radii() -> None:
    rng = np.random.default_rng(0)
    polygons = [sample_polygon(rng, 1.5) for _ in range(6000)]
    assert {len(polygon) for polygon in polygons} == set(range(10, 18))
    radii = np.array([np.hypot(*polygon.T).mean() / 1.5 for polygon in polygons])
    assert radii.mean() == pytest.approx(10.75, abs=0.08)
    # Uniform in 8.5-13 (variance 1.69) plus the mean of ~13.5 radii with spread 0.14 r.
    assert radii.var() == pytest.approx(4.5**2 / 12 + (10.75**2) * (0.14**2 + 0.2**2 / 12) / 13.3, rel=0.15)
    spread = np.array([np.hypot(*polygon.T).std(ddof=1) / np.hypot(*polygon.T).mean() for polygon in polygons])
    assert 0.12 < spread.mean() < 0.16


def test_instances_are_contiguous_connected_and_large_enough() -> None:
    for seed in range(6):
        labels = place(seed, MaskPrior(60, 1.2, 0, 0))
        areas = np.bincount(labels.ravel())
        assert len(areas) > 20
        assert areas[1:].min() > masks.MIN_AREA_PX
        assert all(ndimage.label(labels == k)[1] == 1 for k in range(1, len(areas)))


def test_a_polygon_gets_the_free_pixels_inside() -> None:
    vertices = np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 10.0], [0.0, 10.0]])
    labels, shift = np.zeros((20, 40), dtype=np.int32), np.array([18.0, 0.0])
    assert masks._scan(vertices, 4, labels, 1) == (200, 0)
    assert masks._scan(vertices + shift, 4, labels, 0) == (200, 20)
    assert masks._scan(vertices + shift, 4, labels, 2) == (200, 20)
    assert np.bincount(labels.ravel()).tolist() == [800 - 380, 200, 180]


def test_no_nucleus_covers_more_than_15_percent_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, painted = masks._scan, []

    def watched(vertices: np.ndarray, count: int, labels: np.ndarray, value: int) -> tuple[int, int]:
        inside, taken = scan(vertices, count, labels, value)
        if value:
            painted.append(taken / inside)
        return inside, taken

    monkeypatch.setattr(masks, "_scan", watched)
    rng = np.random.default_rng(1)
    labels, tissue = np.zeros((128, 128), dtype=np.int32), np.ones((128, 128), dtype=bool)
    masks._place.py_func(rng, labels, tissue, sample_quad(rng, 128), 40, 1.3)
    assert 10 < len(painted) < 40  # the rest found no place in 50 tries
    assert 0 < max(painted) <= 0.15
    assert (labels > 0).mean() > 0.4


def test_nuclei_keep_to_tissue() -> None:
    rng = np.random.default_rng(2)
    tissue = np.zeros((256, 256), dtype=bool)
    tissue[:, :100] = True
    labels = sample_instances(rng, MaskPrior(30, 1.0, 0, 0), tissue, sample_quad(rng, 256))
    assert labels.max() > 5
    assert not labels[:, 100 + 26 :].any()
    nothing = sample_instances(rng, MaskPrior(30, 1.0, 0, 0), np.zeros_like(tissue), sample_quad(rng, 256))
    assert nothing.max() == 0


def test_the_warp_is_inverted_exactly_and_shared_by_a_patch() -> None:
    rng = np.random.default_rng(3)
    quad = sample_quad(rng, 200)
    assert quad.min() >= 0
    assert quad.max() <= 200 * (1 + masks.QUAD_MARGIN)
    uv = rng.uniform(0, 1, (50, 2))
    u, v = uv[:, :1], uv[:, 1:]
    plane = (1 - u) * (1 - v) * quad[0] + u * (1 - v) * quad[1] + u * v * quad[2] + (1 - u) * v * quad[3]
    assert masks._unwarp(plane, 50, quad, 200)
    np.testing.assert_allclose(plane, 200 * uv, atol=1e-3)


def test_no_polygon_is_torn_into_a_streak_by_the_warp() -> None:
    for seed in range(30):
        labels = place(seed, MaskPrior(20, 1.3, 0, 0), 128)
        for box in ndimage.find_objects(labels):
            assert max(part.stop - part.start for part in box) < 75


# --- textures


def test_inpainting_keeps_what_is_known_and_continues_it_smoothly() -> None:
    y, x = np.mgrid[:60, :60]
    image = np.stack([100 + x, 150 + 0 * x, 200 - y], axis=2).astype(np.uint8)
    hole = np.hypot(y - 30, x - 30) < 9
    damaged = image.copy()
    damaged[hole] = 0
    filled = inpaint(damaged, hole)
    np.testing.assert_array_equal(filled[~hole], image[~hole])
    assert np.abs(filled[hole] - image[hole]).max() < 12
    np.testing.assert_allclose(filled[hole][:, 1], 150, atol=1e-3)
    assert np.isfinite(inpaint(damaged, np.ones_like(hole))).all()


def test_a_tile_is_taken_apart(tiles: list[Tile]) -> None:
    image = stained(0)
    tile = tiles[0]
    assert 0.05 < tile.foreground < 0.2
    assert tile.usable
    # Nuclei: much red is absorbed; and none of them is left in the background.
    assert tile.nuclear[0] < 100
    assert tile.pale[0] > tile.nuclear[0] + 60
    assert tile.background[..., 0].min() > image[..., 0].min() + 40
    assert 0 <= tile.eosin.min() < tile.eosin.max() <= 1


def test_a_tile_without_haematoxylin_lends_no_colour() -> None:
    white = np.full((64, 64, 3), 240, dtype=np.uint8)
    assert not take_apart(white).usable
    assert not take_apart(white).tissue.any()


def test_patches_are_a_function_of_seed_and_index(tiles: list[Tile]) -> None:
    options = patch.HouOptions(size=96)
    one, again = patch.render_patch(tiles, 5, 7, options), patch.render_patch(tiles, 5, 7, options)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.labels, again.labels)
    np.testing.assert_array_equal(one.reference, again.reference)
    assert not np.array_equal(one.image, patch.render_patch(tiles, 5, 8, options).image)
    assert not np.array_equal(one.image, patch.render_patch(tiles, 6, 7, options).image)
    assert one.image.shape == one.reference.shape == (96, 96, 3)
    with pytest.raises(ValueError, match="no tiles"):
        patch.render_patch([], 0, 0)


def test_nuclei_are_darker_than_their_surroundings(tiles: list[Tile]) -> None:
    everywhere = [replace(tile, tissue=np.ones_like(tile.tissue)) for tile in tiles]
    patches = [patch.render_patch(everywhere, 0, k, patch.HouOptions(128, False)) for k in range(12)]
    inside = np.concatenate([p.image[p.labels > 0][:, 0] for p in patches])
    outside = np.concatenate([p.image[p.labels == 0][:, 0] for p in patches])
    assert len(inside) > 1000
    assert inside.mean() < outside.mean() - 50


def test_distractors_carry_no_label(tiles: list[Tile]) -> None:
    nothing = np.zeros((96, 96), dtype=np.int32)
    clean = tiles[0].background[:96, :96]
    eosins = (tiles[0].eosin[:96, :96], tiles[1].eosin[:96, :96])
    spiky = masks.sample_distractors(np.random.default_rng(0), 12, 96, spiky=True)
    pale = masks.sample_distractors(np.random.default_rng(0), 2, 96, spiky=False)
    assert 0 < spiky.sum() < 12 * np.pi * 16**2
    assert pale.any()
    empty = np.zeros_like(spiky)
    plain = texture.compose(np.random.default_rng(1), nothing, tiles[0], clean, eosins, empty, empty)
    drawn = texture.compose(np.random.default_rng(1), nothing, tiles[0], clean, eosins, spiky, pale)
    changed = np.abs(plain.astype(int) - drawn).max(axis=2) > 25
    near = ndimage.binary_dilation(spiky | pale, iterations=5)
    assert changed.any()
    assert not (changed & ~near).any()


def test_tiles_smaller_than_a_patch_are_mirrored() -> None:
    values = np.arange(12).reshape(3, 4)
    assert crop(values, (0, 0), 6).shape == (6, 6)
    np.testing.assert_array_equal(crop(values, (0, 0), 6)[3], crop(values, (0, 0), 6)[2])


def test_a_folder_without_nuclei_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    with pytest.raises(UsageError, match="no PNG"):
        load_tiles(tmp_path)
    Image.fromarray(np.full((64, 64, 3), 240, dtype=np.uint8)).save(tmp_path / "white.png")
    with pytest.raises(UsageError, match="none of its 1 images"):
        load_tiles(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        load_tiles(tmp_path / "absent")


# --- weights


def test_the_importance_weight_is_the_clipped_odds() -> None:
    p = np.array([0.0, 0.1, 1 / 6, 0.25, 0.5, 0.6, 2 / 3, 0.9, 1.0])
    expected = [0.2, 0.2, 0.2, 1 / 3, 1.0, 1.5, 2.0, 2.0, 2.0]
    weight = importance_weight(p)
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="probability"):
        importance_weight(1.2)


def test_the_weighted_mean_over_synthetic_patches_estimates_the_mean_over_real_ones() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 1.0, 200_000)  # synthetic; real ones are N(0.2, 1), and their odds are exp(0.2 x - 0.02)
    odds = np.exp(0.2 * x - 0.02)
    weight = importance_weight(odds / (1 + odds))
    assert np.mean(weight * x) == pytest.approx(0.2, abs=0.01)


# --- refiner


def pictures(seed: int, count: int = 2, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_eight_bits_survive_the_tensors() -> None:
    images = pictures(0)
    tensor = to_tensor(images)
    assert tensor.shape == (2, 3, 32, 32)
    assert float(tensor.abs().max()) <= 1.0
    np.testing.assert_array_equal(to_images(tensor), images)


def test_an_untrained_refiner_changes_nothing_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    refiner, discriminator = Refiner(TINY_REFINER), Discriminator(TINY_REFINER)
    assert len(refiner.blocks) == 5
    image, reference = to_tensor(pictures(1)), to_tensor(pictures(2))
    refined = refiner(image, reference)
    assert refined.shape == image.shape
    torch.testing.assert_close(refined, image)
    logits = discriminator(refined, reference)
    assert logits.shape == (2, 2, 4, 4)
    torch.nn.init.normal_(refiner.head.weight, std=0.1)  # zero, it stops the gradient of what is below
    refined = refiner(image, reference)
    (discriminator(refined, reference).square().sum() + refined.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in refiner.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters())


def test_the_result_depends_on_the_reference() -> None:
    torch.manual_seed(0)
    refiner = Refiner(TINY_REFINER)
    torch.nn.init.normal_(refiner.head.weight, std=0.5)
    image = to_tensor(pictures(1)) * 0.2
    dark, light = torch.full_like(image, -1.0), torch.full_like(image, 1.0)
    assert float((refiner(image, dark) - refiner(image, light)).detach().abs().mean()) > 1e-3


def test_a_refiner_is_saved_and_read_back(tmp_path: Path) -> None:
    pair = RefinerPair.new(TINY_REFINER, seed=3)
    torch.nn.init.normal_(pair.refiner.head.weight, std=0.3)
    path = tmp_path / "refiner.safetensors"
    pair.save(path, {"name": "x"})
    again = RefinerPair.load(path)
    assert again.config == TINY_REFINER
    refined, probability = pair.refine(pictures(4), pictures(5))
    np.testing.assert_array_equal(again.refine(pictures(4), pictures(5))[0], refined)
    np.testing.assert_array_equal(again.refine(pictures(4), pictures(5))[1], probability)
    assert ((probability >= 0) & (probability <= 1)).all()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"refiner\.safetensors"):
        RefinerPair.load(path)
    with pytest.raises(ModelError, match="absent"):
        RefinerPair.load(tmp_path / "absent")


def test_a_file_of_the_format_before_is_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    pair = RefinerPair.new(TINY_REFINER, seed=3)
    tensors = {f"{n}.{key}": v for n, part in pair.networks.items() for key, v in part.state_dict().items()}
    header = {"format": "wsiseg-hou-refiner-2"} | {key: str(value) for key, value in vars(TINY_REFINER).items()}
    path = tmp_path / "refiner.safetensors"
    save_file(tensors, path, header)
    again = RefinerPair.load(path)
    assert again.config == TINY_REFINER
    np.testing.assert_array_equal(
        again.refine(pictures(4), pictures(5))[1], pair.refine(pictures(4), pictures(5))[1]
    )
    for changed, words in (({"width": "0"}, "width"), ({"wide": "1"}, "wide"), ({"format": "x-1"}, "expected")):
        save_file(tensors, path, header | changed)
        with pytest.raises(ModelError, match=words):
            RefinerPair.load(path)


def test_networks_that_cannot_be() -> None:
    for wrong in ({"width": 0}, {"code": 1}, {"blocks": 5000}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RefinerConfig(**wrong)

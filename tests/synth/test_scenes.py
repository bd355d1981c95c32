"""Scenes: what each adds, that nothing else changes, and that a seed decides."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from wsiseg.errors import UsageError
from wsiseg.evaluate.compare import evaluate_sets
from wsiseg.evaluate.widths import minor_axes
from wsiseg.synth.render import RenderOptions, rehue, render_patch
from wsiseg.synth.scene import nuclei_of
from wsiseg.synth.scenes import DRAWN, Scenes, choose_scenes
from wsiseg.synth.shapes import MPP
from wsiseg.synth.stain import Stain, stain_of
from wsiseg.synth.textures import Texture, dissect, optical_density
from wsiseg.synth.truth import SCENES, write_truth

WITH_NUCLEI = ("fibres", "vessels", "fat", "vesicular", "lymphoid", "glands")
STAIN = Stain(*(np.float32(c) for c in ((0.4, 1.5, 1.1), (0.9, 1.4, 0.8), (0.04, 0.04, 0.04))))


@pytest.fixture(scope="module")
def textures() -> list[Texture]:
    return [dissect(pink(seed)) for seed in range(2)]


def pink(seed: int) -> np.ndarray:
    """Pink tissue with dark blue discs."""
    rng = np.random.default_rng(seed)
    image = np.full((160, 160, 3), (225.0, 160.0, 200.0)) + rng.normal(0, 4, (160, 160, 1))
    y, x = np.mgrid[:160, :160]
    for cy, cx in rng.uniform(15, 145, (9, 2)):
        image[np.hypot(y - cy, x - cx) < 9] = (80.0, 50.0, 120.0)
    return np.clip(image, 0, 255).astype(np.uint8)


def only(name: str, size: int = 200) -> RenderOptions:
    return RenderOptions(size=size, scenes=Scenes(**{name: 1.0}))


def test_a_patch_without_scenes_is_what_it_is_without_the_option(textures: list[Texture]) -> None:
    plain = RenderOptions(size=128)
    rare = dataclasses.replace(plain, scenes=Scenes(**dict.fromkeys(DRAWN, 0.04)))
    same = 0
    for index in range(8):
        one, other = render_patch(textures, 3, index, plain), render_patch(textures, 3, index, rare)
        names, blurred = choose_scenes(np.random.default_rng([3, index, 1]), rare.scenes)
        if not names and not blurred:
            same += 1
            np.testing.assert_array_equal(one.image, other.image)
            np.testing.assert_array_equal(one.labels, other.labels)
    assert same > 0


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Scenes)])
def test_each_scene_is_a_function_of_seed_and_index(textures: list[Texture], name: str) -> None:
    one, again = (render_patch(textures, 5, 2, only(name)) for _ in range(2))
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.labels, again.labels)
    assert not np.array_equal(one.image, render_patch(textures, 5, 2, RenderOptions(size=200)).image)
    ids = np.unique(one.labels)
    np.testing.assert_array_equal(ids, np.arange(ids.size))


@pytest.mark.parametrize("name", DRAWN)
def test_a_scene_adds_nuclei_or_has_none(name: str) -> None:
    rows = 0
    for seed in range(5):
        density = np.full((200, 200, 3), 0.3, np.float32) * STAIN.eosin
        scene = DRAWN[name](np.random.default_rng(seed), density, STAIN, MPP)
        assert density.dtype == np.float32
        assert density.min() >= 0
        assert len(scene.rows) == len(scene.kinds)
        rows += len(scene.rows)
    assert (rows > 0) == (name in WITH_NUCLEI)


@pytest.mark.parametrize("kind", ["fibroblast", "endothelial", "adipocyte"])
def test_thin_nuclei_are_thin_and_long(kind: str) -> None:
    rows, _ = nuclei_of(np.random.default_rng(0), kind, [(50.0, 50.0, 0.3)] * 200, MPP)
    length, breadth = (np.array([row[k] for row in rows]) * 2 * MPP for k in (2, 3))
    assert length.min() >= 6
    assert length.max() <= 25
    assert breadth.min() >= 1.0
    assert breadth.max() <= 2.6


def test_fibres_teach_what_is_thinner_than_ordinary_nuclei(textures: list[Texture]) -> None:
    widths = []
    for index in range(6):
        patch = render_patch(textures, 1, index, only("fibres", 300))
        own = np.where(patch.labels <= patch.of_scenes, patch.labels, 0)
        widths.append(minor_axes(own, MPP))
    thin = np.concatenate(widths)
    assert len(thin) > 20
    assert np.median(thin) < 2.5


def test_what_a_scene_covers_holds_no_other_nuclei(textures: list[Texture]) -> None:
    for index in range(3):
        folds, plain = (
            render_patch(textures, 2, index, o) for o in (only("keratin", 300), RenderOptions(size=300))
        )
        assert folds.of_scenes == 0
        assert folds.labels.max() <= plain.labels.max() + 5  # the same layout, of which some is covered


def test_shares_are_those_of_the_patches() -> None:
    scenes = Scenes(fat=0.25, defocus=0.5)
    drawn = [choose_scenes(np.random.default_rng([0, n, 1]), scenes) for n in range(2000)]
    assert np.mean([names == ["fat"] for names, _ in drawn]) == pytest.approx(0.25, abs=0.04)
    assert np.mean([blurred for _, blurred in drawn]) == pytest.approx(0.5, abs=0.04)
    with pytest.raises(ValueError, match="fat 2: expected a share"):
        Scenes(fat=2)


def test_eosin_is_the_patch_s_pink() -> None:
    stain = stain_of(np.random.default_rng(0), dissect(pink(0)))
    expected = optical_density(np.uint8([[[225, 160, 200]]]))[0, 0]
    assert stain.eosin == pytest.approx(expected / expected.mean(), rel=0.1)
    assert stain.glass.max() < 0.1


def test_glass_gives_no_colour_and_takes_none() -> None:
    glass = dissect(np.full((160, 160, 3), 244, np.uint8))
    density = np.zeros((40, 40, 3), np.float32)
    density[:20] = STAIN.eosin
    moved = rehue(np.random.default_rng(0), density, glass)
    assert (moved[20:] == 0).all()
    hue = moved[0, 0] / moved[0, 0].mean()
    assert hue == pytest.approx(STAIN.eosin / STAIN.eosin.mean(), rel=1e-5)
    assert stain_of(np.random.default_rng(0), glass).eosin[0] < 0.5  # pink none the less


def test_truth_by_kind_is_read_by_evaluate(textures: list[Texture], tmp_path) -> None:
    small = RenderOptions(size=128)
    record = write_truth(textures, tmp_path / "truth", ["ordinary", "fibres"], 2, 7, small)
    assert record["patches"] == 4
    assert json.loads((tmp_path / "truth" / "truth.json").read_text())["mpp"] == 0.25
    assert not (tmp_path / "truth" / "ordinary" / "own").exists()
    folder = tmp_path / "truth" / "fibres"
    result = evaluate_sets(folder / "own", folder / "labels", width_mpp=0.25)
    assert result.summary["recall"].mean == 1.0
    with pytest.raises(UsageError, match="is in the way"):
        write_truth(textures, tmp_path / "truth", ["ordinary"], 1, 7, small)
    with pytest.raises(UsageError, match="expected one of ordinary, "):
        write_truth(textures, tmp_path / "other", ["liver"], 1, 7, small)
    assert set(WITH_NUCLEI) <= set(SCENES)

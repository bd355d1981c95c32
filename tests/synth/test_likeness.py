"""Distances between distributions of features, and the features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from wsiseg.errors import ModelError  # noqa: E402
from wsiseg.synth.likeness import (  # noqa: E402
    default_features,
    diversity,
    frechet_distance,
    kernel_distance,
    likeness,
    script_features,
)
from wsiseg.testing.training import discs  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Means(nn.Module):
    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        return images.float().mean(dim=(2, 3)) if return_features else images.float()


def test_the_frechet_distance_of_normal_distributions_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(0, 1, (20_000, 2)) * [1, 3]
    other = rng.normal(0, 1, (20_000, 2)) * [2, 3] + [1, 0]
    assert frechet_distance(one, other) == pytest.approx(1 + (2 - 1) ** 2, rel=0.05)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_the_kernel_distance_is_about_zero_for_the_same_distribution() -> None:
    rng = np.random.default_rng(0)
    one, same, other = rng.normal(0, 1, (300, 4)), rng.normal(0, 1, (300, 4)), rng.normal(1, 1, (300, 4))
    assert abs(kernel_distance(one, same)) < 0.05
    assert kernel_distance(one, other) > 0.5
    assert kernel_distance(one, other[:200], seed=1) == kernel_distance(one, other[:200], seed=1)


def test_two_images_are_needed() -> None:
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


def test_diversity_is_the_deviation_between_draws() -> None:
    images = np.zeros((2, 2, 4, 4, 3), dtype=np.uint8)
    images[:, 1] = 255
    assert diversity(images) == pytest.approx(1.0)
    assert diversity(np.repeat(images[:, :1], 3, axis=1)) == 0


def test_scores_are_named_after_the_features_and_tell_images_apart() -> None:
    stacks = [np.stack([discs(seed, 64, 64, 5)[0] for seed in seeds]) for seeds in (range(12), range(12, 24))]
    pale = np.clip(stacks[1].astype(int) + 60, 0, 255).astype(np.uint8)
    features = default_features()
    alike, different = likeness(stacks[0], stacks[1], features), likeness(stacks[0], pale, features)
    assert set(alike) == {"frechet_unet-0.5", "kernel_unet-0.5"}
    assert all(different[name] > alike[name] for name in alike)


def test_features_of_a_script_are_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "inception.pt"
    torch.jit.script(Means()).save(str(path))
    features = script_features(path)
    assert features.name == "inception"
    assert np.allclose(features.of(np.full((3, 8, 8, 3), 7, dtype=np.uint8)), 7)
    with pytest.raises(ModelError):
        script_features(tmp_path / "nothing.pt")

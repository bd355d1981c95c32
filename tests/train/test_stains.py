"""Stain transport: moments, the matrix between them, and what batches make of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import UsageError
from wsiseg.testing.training import TABLES as RECIPE
from wsiseg.train.batches import BatchMaker
from wsiseg.train.colour import Restaining, restain
from wsiseg.train.patches import PatchPool
from wsiseg.train.pools import Portion
from wsiseg.train.recipe import data_names, parse_recipe, resolve
from wsiseg.train.settings import Augment
from wsiseg.train.stains import density_moments, stain_styles, transport
from wsiseg.train.targets import OffsetTargets

STILL = Augment(symmetries=False, stain=0, shift=0, exposure=0, blur=0, noise=0)


def stained(stains: list[list[float]], seed: int = 0, side: int = 64) -> np.ndarray:
    """An image of two stains of varying strength, with a corner of glass."""
    rng = np.random.default_rng(seed)
    density = rng.uniform(0.3, 1.0, (side, side, 2)) @ np.array(stains)
    density[:8, :8] = 0
    return np.rint(np.clip(256 * np.exp(-density) - 1, 0, 255)).astype(np.uint8)


PURPLE = stained([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
BLUE = stained([[0.8, 0.4, 0.2], [0.2, 0.5, 0.5]], seed=1)


def moments(image: np.ndarray) -> np.ndarray:
    found = density_moments(image)
    assert found is not None
    return found


def test_moments_are_those_of_the_densities_of_tissue() -> None:
    image = np.full((40, 40, 3), 255, dtype=np.uint8)
    image[:20] = (127, 63, 191)
    density = -np.log((np.array([127, 63, 191]) + 1) / 256)
    np.testing.assert_allclose(moments(image), np.outer(density, density) + 1e-4 * np.eye(3), rtol=1e-6)


def test_glass_has_no_style() -> None:
    glass = np.full((64, 64, 3), 245, dtype=np.uint8)
    assert density_moments(glass) is None
    assert stain_styles([glass, PURPLE]).shape == (1, 3, 3)
    assert stain_styles([]).shape == (0, 3, 3)


@given(st.integers(0, 2**32 - 1))
def test_transport_gives_the_moments_of_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = (factor @ factor.T + 0.01 * np.eye(3) for factor in rng.normal(size=(2, 3, 3)))
    matrix = transport(source, target)
    np.testing.assert_allclose(matrix @ source @ matrix, target, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-8)
    assert np.linalg.eigvalsh(matrix).min() > 0  # the map that moves least has no reflection
    np.testing.assert_allclose(transport(source, target, 0), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(transport(source, source), np.eye(3), atol=1e-6)


def test_an_image_takes_the_stains_of_another_and_glass_stays() -> None:
    other = restain(PURPLE, Restaining.by(transport(moments(PURPLE), moments(BLUE))))
    np.testing.assert_allclose(moments(other), moments(BLUE), atol=0.02)
    assert np.abs(moments(PURPLE) - moments(BLUE)).max() > 0.1
    np.testing.assert_array_equal(other[:8, :8], PURPLE[:8, :8])


def _pool() -> PatchPool:
    labels = np.zeros((1, 64, 64), dtype=np.int32)
    labels[0, 20:40, 20:40] = 1
    covered = np.where(labels > 0, 255, 0).astype(np.uint8)
    return PatchPool.of(PURPLE[None], labels, covered, np.ones_like(covered))


def _maker(augment: Augment, styles: np.ndarray) -> BatchMaker:
    return BatchMaker([Portion.whole(_pool())], OffsetTargets(), augment, 4, 32, 0.5, 7, styles)


def test_batches_have_other_stains_and_all_else_as_without() -> None:
    styles = stain_styles([BLUE])
    own, again, other = (_maker(replace(STILL, transport=p), styles).make(3) for p in (0.0, 1.0, 1.0))
    np.testing.assert_array_equal(again.images, other.images)
    assert not np.array_equal(own.images, other.images)
    for name, value in own.targets.items():
        np.testing.assert_array_equal(value, other.targets[name])
    nothing_lent = _maker(replace(STILL, transport=1.0), np.empty((0, 3, 3))).make(3)
    np.testing.assert_array_equal(nothing_lent.images, own.images)


SOURCE = {"kind": "images", "data": "textures", "mpp": 0.25, "licence": "CC0-1.0"}
TABLES: dict[str, Any] = {
    **RECIPE,
    "data": {**RECIPE["data"], "styles": [SOURCE]},
    "augment": {"transport": 0.5},
}


def test_a_recipe_names_what_lends_its_stains(tmp_path: Path) -> None:
    recipe = parse_recipe(TABLES)
    assert data_names(recipe) == ["discs", "textures"]
    placed = resolve(recipe, {"discs": tmp_path, "textures": tmp_path})
    assert vars(placed.data.styles[0].source)["data"] == tmp_path


def test_a_probability_above_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"augment: transport: got 2.*0 to 1"):
        parse_recipe({**TABLES, "augment": {"transport": 2}})

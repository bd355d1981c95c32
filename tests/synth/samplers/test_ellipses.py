"""Ellipses at points: areas by local density, eccentricities, overlaps."""

from __future__ import annotations

import numpy as np
import pytest

from wsiseg.synth.samplers.ellipses import (
    EllipsesOptions,
    local_density,
    most_areas,
    place_ellipses,
    sample_ellipse,
    sample_points,
)

OPTIONS = EllipsesOptions()


def test_the_density_of_points_is_that_of_a_blurred_grid() -> None:
    x, y = np.meshgrid(np.arange(5, 200, 10), np.arange(5, 200, 10))
    points = np.stack([x.ravel(), y.ravel()], axis=1).astype(float)
    assert local_density(points, 200) == pytest.approx(np.full(len(points), 0.01), rel=0.05)
    alone = local_density(np.array([[100.0, 100.0]]), 200)
    assert alone == pytest.approx([1 / (2 * np.pi * 400)], rel=0.02)


def test_crowded_nuclei_are_smaller() -> None:
    lone, crowd = most_areas(OPTIONS, np.array([1e-4, 1 / 300]))
    assert lone == OPTIONS.most_area
    assert crowd == pytest.approx(150)
    grid = np.array([[x, y] for x in range(8, 250, 16) for y in range(8, 250, 16)], dtype=float)
    sparse = np.array([[x, y] for x in range(40, 250, 80) for y in range(40, 250, 80)], dtype=float)
    areas = []
    for points in (grid, sparse):
        labels = place_ellipses(np.random.default_rng(0), OPTIONS, points, 256)
        found = np.bincount(labels.ravel())[1:]
        areas.append(found[found > 0].mean())
    assert areas[0] < 0.6 * areas[1]


def test_areas_vertices_and_eccentricities() -> None:
    rng = np.random.default_rng(0)
    made = [sample_ellipse(rng, np.array([50.0, 60.0]), 400.0) for _ in range(400)]
    assert {len(outline) for outline in made} == set(range(20, 28))
    area = [abs(0.5 * np.sum(o[:, 0] * np.roll(o[:, 1], -1) - np.roll(o[:, 0], -1) * o[:, 1])) for o in made]
    assert np.mean(area) == pytest.approx(400, rel=0.05)
    extents = np.array([np.linalg.svd(o - o.mean(axis=0), compute_uv=False) for o in made])
    eccentricity = np.sqrt(1 - (extents[:, 1] / extents[:, 0]) ** 2)
    assert 0.62 < np.median(eccentricity) < 0.85


def test_points_are_as_many_as_asked_and_lie_in_clusters_too() -> None:
    rng = np.random.default_rng(0)
    counts = [len(sample_points(rng, EllipsesOptions(count=(40, 40), clusters=0.0), 256)) for _ in range(5)]
    assert counts == [40] * 5

    def nearest(share: float) -> float:
        points = sample_points(np.random.default_rng(1), EllipsesOptions(count=(30, 30), clusters=share), 512)
        apart = np.hypot(*(points[:, None] - points).transpose(2, 0, 1)) + 1e9 * np.eye(len(points))
        return float(np.median(apart.min(axis=1)))

    assert nearest(1.0) < 0.9 * nearest(0.0)


def test_what_overlaps_by_more_than_5_percent_is_drawn_again_or_left_out() -> None:
    points = np.full((6, 2), 60.0)
    labels = place_ellipses(np.random.default_rng(0), OPTIONS, points, 120)
    assert np.unique(labels).tolist() == [0, 1]
    pair = np.array([[50.0, 60.0], [70.0, 60.0]])
    labels = place_ellipses(np.random.default_rng(0), EllipsesOptions(most_area=260), pair, 120)
    assert np.unique(labels).tolist() == [0, 1, 2]


@pytest.mark.parametrize("wrong", [{"count": (5, 2)}, {"clusters": 2.0}, {"least_area": 5}, {"tries": 0}])
def test_options_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        EllipsesOptions(**wrong)

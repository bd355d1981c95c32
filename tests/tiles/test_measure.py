"""Measurements against shapes whose values are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from scipy.special import ellipe

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize, trace
from wsiseg.core.stain import eosin, hematoxylin
from wsiseg.tiles.measure import MEASUREMENTS, _from_left_to_right, _hull_area, measure

WHITE = np.full((100, 100, 3), 255, np.uint8)


def ellipse(major, minor, angle=0.0, centre=(50.0, 50.0), upsample=1):
    """The digital ellipse on 100 × 100 pixels, traced at ``upsample`` times their resolution."""
    y, x = (np.mgrid[: 100 * upsample, : 100 * upsample] + 0.5) / upsample
    x, y = x - centre[0], y - centre[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    nuclei = trace(((u / major) ** 2 + (v / minor) ** 2 < 1).astype(np.int32))
    return Nuclei(nuclei.vertices / upsample, nuclei.offsets, {})


def shapes(labels):
    nuclei = trace(labels)
    return Nuclei(nuclei.vertices, nuclei.offsets)


def columns(nuclei, image=WHITE, mpp=0.5):
    measured = measure(nuclei, image, mpp)
    assert tuple(measured.columns) == MEASUREMENTS
    assert all(column.dtype == np.float32 for column in measured.columns.values())
    return dict(measured.columns)


@pytest.mark.parametrize("upsample", [1, 2, 4])
@pytest.mark.parametrize("radius", [6, 9.3, 14, 30])
def test_disc(radius, upsample):
    for centre in [(50, 50), (50.5, 50.25), (49.7, 50.1)]:
        got = columns(ellipse(radius, radius, centre=centre, upsample=upsample))
        assert got["area_um2"][0] == pytest.approx(np.pi * radius**2 / 4, rel=0.03)
        assert got["perimeter_um"][0] == pytest.approx(np.pi * radius, rel=0.03)
        assert got["solidity"][0] > 0.98
        assert got["eccentricity"][0] < 0.3  # of the digital disc, in truth: axes 3% apart give 0.25


@pytest.mark.parametrize("angle", [0, 0.2, 0.4, np.pi / 4, 1.1])
def test_ellipse(angle):
    got = columns(ellipse(24, 8, angle))
    assert got["eccentricity"][0] == pytest.approx(np.sqrt(1 - 1 / 9), abs=0.01)
    assert got["perimeter_um"][0] == pytest.approx(4 * 24 * ellipe(1 - 1 / 9) * 0.5, rel=0.03)
    assert got["solidity"][0] > 0.97


def test_polygon_that_is_not_made_of_cracks_is_its_own_outline():
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ring = np.stack([50 + 10 * np.cos(angle), 50 + 10 * np.sin(angle)], axis=1)
    got = columns(Nuclei(ring, np.array([0, 200])), mpp=1.0)
    assert got["perimeter_um"][0] == pytest.approx(2 * np.pi * 10, rel=1e-3)
    assert got["eccentricity"][0] == pytest.approx(0, abs=1e-2)
    assert got["solidity"][0] == pytest.approx(1, abs=1e-6)


def test_concave_shape():
    labels = np.zeros((100, 100), np.int32)
    labels[20:60, 20:30] = labels[50:60, 20:60] = 1
    got = columns(shapes(labels), mpp=1.0)
    assert got["area_um2"][0] == 700
    assert got["solidity"][0] == pytest.approx(700 / (1600 - 30 * 30 / 2), rel=0.03)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 40))
def test_hull_area_agrees_with_qhull(seed, count):
    points = np.round(np.random.default_rng(seed).normal(size=(count, 2)) * 4) / 2
    flat = np.linalg.matrix_rank(points - points[0]) < 2
    expected = 0.0 if flat else ConvexHull(points, qhull_options="QJ").volume
    assert _hull_area(points) == pytest.approx(expected, abs=1e-6)


def test_hematoxylin_is_the_mean_over_the_pixels_inside():
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    nuclei = Nuclei.concatenate([ellipse(12, 7, 0.3), ellipse(5, 5, centre=(3, 97))])
    nuclei = nuclei.translate(0.5, -0.5)
    labels = rasterize(nuclei, [1, 2], (100, 100))
    got = columns(nuclei, image)["hematoxylin_od"]
    for n in range(2):
        assert got[n] == pytest.approx(hematoxylin(image)[labels == n + 1].mean(), abs=1e-5)


def test_polygon_without_pixels_takes_the_nearest():
    image = np.full((10, 10, 3), 255, np.uint8)
    image[9, 9] = (80, 60, 140)
    speck = np.array([[0.0, 0], [0.2, 0], [0.2, 0.2], [0, 0.2]])
    nuclei = Nuclei(np.vstack([speck + 9.6, speck + 30]), np.array([0, 4, 8]))
    np.testing.assert_allclose(columns(nuclei, image)["hematoxylin_od"], hematoxylin(image)[9, 9], rtol=1e-6)


def test_values_do_not_depend_on_the_tile():
    image = np.random.default_rng(1).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    nuclei = ellipse(11, 6, 0.7, upsample=2)
    whole = columns(nuclei, image)
    part = columns(nuclei.translate(-23, -31), image[31:, 23:])
    for name in MEASUREMENTS:
        assert whole[name].tobytes() == part[name].tobytes(), name


def test_tiny_objects_and_no_objects():
    labels = np.zeros((100, 100), np.int32)
    labels[0, 0], labels[5, 5:7] = 1, 2
    got = columns(shapes(labels))
    assert all(np.isfinite(column).all() for column in got.values())
    assert got["solidity"].tolist() == [1, 1]
    assert len(columns(Nuclei.empty())["area_um2"]) == 0


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        measure(Nuclei.empty(), np.zeros((4, 4, 3)), 0.5)


def test_stains_are_separated():
    pure = {"h": (0.65, 0.70, 0.29), "e": (0.07, 0.99, 0.11)}
    for stain, direction in pure.items():
        density = 0.8 * np.array(direction) / np.linalg.norm(direction)
        image = np.round(255 * 10**-density).astype(np.uint8).reshape(1, 1, 3)
        assert hematoxylin(image)[0, 0] == pytest.approx(0.8 if stain == "h" else 0, abs=0.02)
        assert eosin(image)[0, 0] == pytest.approx(0.8 if stain == "e" else 0, abs=0.02)
    assert hematoxylin(WHITE).max() == hematoxylin(WHITE).min() == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.booleans())
def test_points_of_a_line_in_order(seed, count, lattice):
    """Whatever way the line takes, equal points included."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 5, (count, 2)).astype(float) if lattice else rng.normal(0, 5, (count, 2))
    expected = points[np.lexsort((points[:, 1], points[:, 0]))]
    assert np.array_equal(_from_left_to_right(points), expected)


def test_points_of_a_spiral_in_order():
    """To and fro so often that inserting them one by one would take as many moves as there are pairs."""
    angle = np.linspace(0, 200 * np.pi, 20000)
    points = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1)
    assert np.array_equal(_from_left_to_right(points), points[np.lexsort((points[:, 1], points[:, 0]))])

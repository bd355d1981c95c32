"""Tracing and rasterising are inverse, valid and exact."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import components, largest_components, rasterize, runs_of, spans, trace, trace_runs

label_images = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14), elements=st.integers(0, 3)
)


def filled(mask):
    """Holes filled, where a hole is a part of the complement without a 4-connected way out."""
    return ndimage.binary_fill_holes(mask)


def largest(mask):
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


@settings(max_examples=200, deadline=None)
@given(label_images)
def test_every_contour_is_valid_and_holds_its_pixels(labels):
    nuclei = trace(labels)
    names = nuclei.columns["label"]
    assert list(names) == sorted(set(labels.ravel()) - {0})
    assert names.dtype == np.int32
    polygons = nuclei.geometry()
    assert shapely.is_valid(polygons).all()
    assert all(polygon.exterior.is_ccw for polygon in polygons)
    for n, name in enumerate(names):
        expected = filled(largest(labels == name))
        np.testing.assert_array_equal(rasterize(nuclei.take([n]), [1], labels.shape) == 1, expected)
        assert nuclei.areas()[n] == expected.sum()


@settings(max_examples=200, deadline=None)
@given(label_images)
def test_round_trip_of_labels_without_holes(labels):
    clean = largest_components(labels)
    for name in set(clean.ravel()) - {0}:
        clean[(clean == name) & (filled(clean == name) != (clean == name))] = 0
    solid = np.zeros_like(clean)
    for name in sorted(set(clean.ravel()) - {0}):
        mask = filled(largest(clean == name))
        if not (solid[mask] > 0).any():
            solid[mask] = name
    keep = [n for n in sorted(set(solid.ravel()) - {0}) if (filled(solid == n) == (solid == n)).all()]
    solid[~np.isin(solid, keep)] = 0
    nuclei = trace(solid)
    np.testing.assert_array_equal(rasterize(nuclei, nuclei.columns["label"], solid.shape), solid)


@settings(max_examples=100, deadline=None)
@given(label_images)
def test_only_the_largest_component_of_a_label_stays(labels):
    before = labels.copy()
    clean = largest_components(labels)
    np.testing.assert_array_equal(labels, before)
    for name in (1, 2, 3):
        np.testing.assert_array_equal(clean == name, largest(labels == name))


@settings(max_examples=100, deadline=None)
@given(label_images)
def test_components(labels):
    mask = labels > 0
    expected, count = ndimage.label(mask)
    areas = np.bincount(expected.ravel(), minlength=count + 1)
    rows, firsts, stops, roots = components(mask)
    assert (stops - firsts).sum() == mask.sum()
    sizes = np.bincount(roots, weights=stops - firsts, minlength=len(roots))[roots]
    np.testing.assert_array_equal(sizes, areas[expected[rows, firsts]])
    assert len(set(roots)) == count


def test_one_pixel_is_the_unit_square():
    labels = np.zeros((4, 5), np.int32)
    labels[2, 3] = 7
    nuclei = trace(labels)
    np.testing.assert_array_equal(nuclei.vertices, [[3, 2], [4, 2], [4, 3], [3, 3]])
    assert nuclei.columns["label"].tolist() == [7]


def test_collinear_points_are_merged():
    assert len(trace(np.ones((3, 9), np.int32)).vertices) == 4


def test_ring_crosses_a_saddle_once_and_fills_the_bay():
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.int32)
    nuclei = trace(labels)
    assert shapely.is_valid(nuclei.geometry()).all()
    assert nuclei.areas().tolist() == [8]


def test_sparse_label_values_and_no_labels():
    labels = np.zeros((3, 4), np.int32)
    assert len(trace(labels)) == 0
    labels[0, 0], labels[2, 2:] = 2_000_000_000, 5
    assert trace(labels).columns["label"].tolist() == [5, 2_000_000_000]
    assert len(trace(np.full((2, 2), -1, np.int32))) == 0


def test_rasterize_at_an_origin_and_beyond_the_image():
    square = Nuclei(np.array([[10.0, 20], [14, 20], [14, 23], [10, 23]]), np.array([0, 4]))
    image = rasterize(square, [9], (3, 4), origin=(12, 21))
    np.testing.assert_array_equal(image, [[9, 9, 0, 0], [9, 9, 0, 0], [0, 0, 0, 0]])
    assert rasterize(square, [9], (3, 4), origin=(100, 0)).sum() == 0
    with pytest.raises(ValueError, match="values"):
        rasterize(square, [1, 2], (3, 4))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rasterize_agrees_with_shapely_and_partitions(seed):
    rng = np.random.default_rng(seed)
    ring = rng.uniform(-3, 15, (3, 2))
    triangle = Nuclei(ring, np.array([0, 3]))
    y, x = np.mgrid[:12, :12] + 0.5
    inside = shapely.contains_xy(triangle.geometry()[0], x, y)
    np.testing.assert_array_equal(rasterize(triangle, [1], (12, 12)) == 1, inside)
    # Two halves of a rectangle that share a slanted edge: every pixel centre belongs to exactly one.
    a, b = rng.uniform(0, 12, 2)
    left = np.array([[0, 0], [a, 0], [b, 12], [0, 12]])
    right = np.array([[a, 0], [12, 0], [12, 12], [b, 12]])
    both = sum(rasterize(Nuclei(half, np.array([0, 4])), [1], (12, 12)) for half in (left, right))
    assert (both == 1).all()


def test_later_polygons_win():
    ring = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    nuclei = Nuclei(np.vstack([ring, ring + 1]), np.array([0, 4, 8]))
    np.testing.assert_array_equal(rasterize(nuclei, [1, 2], (3, 3)), [[1, 1, 0], [1, 2, 2], [0, 2, 2]])


def test_spans_of_a_concave_ring():
    ring = np.array([[0.0, 0], [5, 0], [5, 2], [4, 2], [4, 1], [1, 1], [1, 2], [0, 2]])
    np.testing.assert_array_equal(spans(ring, 10, 10), [[0, 0, 5], [1, 0, 1], [1, 4, 5]])


@settings(max_examples=100, deadline=None)
@given(label_images)
def test_runs_are_the_labels_row_by_row(labels):
    runs = runs_of(labels)
    painted = np.zeros(labels.shape, dtype=int)
    for row, first, stop, name in zip(runs.rows, runs.firsts, runs.stops, runs.names, strict=True):
        assert name > 0
        assert not painted[row, first:stop].any()
        painted[row, first:stop] = name
        assert first == 0 or labels[row, first - 1] != name
        assert stop == labels.shape[1] or labels[row, stop] != name
    assert np.array_equal(painted, np.maximum(labels, 0))
    places = list(zip(runs.rows, runs.firsts, strict=True))
    assert places == sorted(places)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 17])
def test_runs_of_rows_that_are_full_or_negative(width):
    """Rows are read eight pixels at a time."""
    labels = np.array([[3] * width, [-1] * width, [0] * width, [5] * width])
    runs = runs_of(labels)
    assert runs.rows.tolist() == [0, 3]
    assert runs.firsts.tolist() == [0, 0]
    assert runs.stops.tolist() == [width, width]
    assert runs.names.tolist() == [3, 5]


def test_a_large_thin_spiral_costs_no_more_than_its_outline():
    """Bounds say nothing of an object's pixels: its neighbours within them are left alone."""
    labels = np.ones((101, 101), dtype=np.int32)
    labels[1::2] = 0
    labels[1::4, -1] = 1
    labels[3::4, 0] = 1
    labels[labels == 0] = 2
    nuclei = trace(labels)
    assert nuclei.columns["label"].tolist() == [1, 2]
    assert nuclei.areas()[0] == (labels == 1).sum()
    assert np.array_equal(trace_runs(runs_of(labels)).vertices, nuclei.vertices)

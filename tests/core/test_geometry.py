"""Boxes, windows and scales: conversions that come back, covers that are smallest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.core.geometry import Box, Scale, Window

unhurried = settings(deadline=None)
coordinates = st.floats(-1e5, 1e5)
whole = st.integers(-50_000, 50_000)
sizes = st.integers(0, 5_000)
downsamples = st.one_of(st.sampled_from([1.0, 2.0, 4.0, 32.0]), st.floats(0.3, 70.0))
windows = st.builds(Window, whole, whole, st.integers(1, 5_000), st.integers(1, 5_000))
small = st.builds(Window, st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 12), st.integers(0, 12))


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x, y = sorted((draw(coordinates), draw(coordinates))), sorted((draw(coordinates), draw(coordinates)))
    return Box(x[0], y[0], x[1], y[1])


@unhurried
@given(windows, downsamples)
def test_a_window_comes_back_from_its_box(window: Window, downsample: float) -> None:
    scale = Scale(downsample)
    assert scale.window(scale.box(window)) == window


@unhurried
@given(boxes(), downsamples)
def test_the_window_of_a_box_is_the_smallest_that_covers_it(box: Box, downsample: float) -> None:
    scale = Scale(downsample)
    window = scale.window(box)
    slack = 2e-6 * downsample  # a box is taken to end on a pixel's edge if it is this near
    covered = scale.box(window)
    assert covered.x0 <= box.x0 + slack
    assert covered.y0 <= box.y0 + slack
    assert covered.x1 >= box.x1 - slack
    assert covered.y1 >= box.y1 - slack
    assert covered.x0 > box.x0 - downsample - slack
    assert covered.x1 < box.x1 + downsample + slack


@unhurried
@given(st.lists(st.tuples(coordinates, coordinates), max_size=5), downsamples)
def test_points_come_back(points: list[tuple[float, float]], downsample: float) -> None:
    xy = np.array(points, dtype=np.float64).reshape(-1, 2)
    scale = Scale(downsample)
    np.testing.assert_allclose(scale.from_level0(scale.to_level0(xy)), xy, rtol=1e-15, atol=1e-300)


@unhurried
@given(st.integers(1, 200_000), st.integers(1, 200_000), downsamples)
def test_size_holds_the_slide_and_hardly_more(width: int, height: int, downsample: float) -> None:
    w, h = Scale(downsample).size(width, height)
    for pixels, length in ((w, width), (h, height)):
        assert pixels * downsample >= length - 2e-6 * downsample
        assert (pixels - 1) * downsample < length
    assert Scale(1.0).size(width, height) == (width, height)


@unhurried
@given(boxes(), boxes())
def test_the_intersection_of_boxes_is_what_both_contain(a: Box, b: Box) -> None:
    common = a.intersection(b)
    assert common == b.intersection(a)
    assert a.intersection(a) == a
    assert a.intersects(b) == (not common.empty) == (common.area > 0 or (common.width > 0 and common.height > 0))
    corners = [(x, y) for box in (a, b) for x in (box.x0, box.x1) for y in (box.y0, box.y1)]
    xy = np.array([*corners, ((common.x0 + common.x1) / 2, (common.y0 + common.y1) / 2)])
    np.testing.assert_array_equal(common.contains(xy), a.contains(xy) & b.contains(xy))


def test_a_box_is_half_open() -> None:
    box = Box(1, 2, 4, 6)
    assert (box.width, box.height, box.area) == (3, 4, 12)
    assert box.contains(np.array([[1.0, 2], [4, 2], [1, 6], [3.999, 5.999]])).tolist() == [True, False, False, True]
    assert not box.intersects(Box(4, 2, 9, 9))
    assert box.buffer(1) == Box(0, 1, 5, 7)
    assert Box(4, 0, 1, 1).empty
    assert Box(4, 0, 1, 1).area == 0


@unhurried
@given(small, small)
def test_the_intersection_of_windows_is_that_of_their_pixels(a: Window, b: Window) -> None:
    canvas = Window(-10, -10, 40, 40)
    marks = np.zeros(canvas.shape, dtype=int)
    for window in (a, b):
        marks[window.within(canvas)] += 1
    common = a.intersection(b)
    assert common.area == np.count_nonzero(marks == 2)
    if common.area:
        assert (marks[common.within(canvas)] == 2).all()
        assert (common.x1, common.y1) == (common.x + common.width, common.y + common.height)


@unhurried
@given(windows, sizes)
def test_padding_adds_a_margin_all_around(window: Window, margin: int) -> None:
    padded = window.pad(margin)
    assert padded.intersection(window) == window
    assert padded.pad(-margin) == window
    rows, columns = window.within(padded)
    assert (rows.start, columns.start) == (margin, margin)
    assert (rows.stop - rows.start, columns.stop - columns.start) == window.shape
    assert padded.shape == (window.height + 2 * margin, window.width + 2 * margin)


@pytest.mark.parametrize("downsample", [1.0, 4.0, 3.9998, 1 / 3, math.pi])
def test_windows_side_by_side_stay_side_by_side(downsample: float) -> None:
    scale = Scale(downsample)
    left, right = Window(1000, 7, 13, 5), Window(1013, 7, 29, 5)
    assert scale.box(left).x1 == scale.box(right).x0
    assert not scale.box(left).intersects(scale.box(right))

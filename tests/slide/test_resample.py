"""Lattice pixels are a function of the lattice index: exact means, and a convolution that no window can shift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsiseg.core.geometry import Window
from wsiseg.slide import resample

LEVEL = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)


def lattice(window: Window, ratio: float) -> np.ndarray:
    """The window, read the way a slide does: white beyond the level."""
    support = resample.support(window, ratio)
    padded = np.full((*support.shape, 3), 255, dtype=np.uint8)
    inside = support.intersection(Window(0, 0, 200, 160))
    if inside.area:
        padded[inside.within(support)] = LEVEL[inside.y : inside.y1, inside.x : inside.x1]
    return resample.reduce(padded, support, window, ratio)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8, 16, 33])
def test_a_whole_ratio_is_the_mean_rounded_half_up(k: int) -> None:
    height, width = 160 // k, 200 // k
    blocks = LEVEL[: height * k, : width * k].reshape(height, k, width, k, 3).astype(np.int64)
    expected = (blocks.sum(axis=(1, 3)) + k * k // 2) // (k * k)
    np.testing.assert_array_equal(lattice(Window(0, 0, width, height), float(k)), expected)


def test_a_mean_of_a_large_block_does_not_overflow() -> None:
    white = np.full((1024, 2048, 3), 255, dtype=np.uint8)
    assert (resample.box_mean(white, 1024) == 255).all()


@settings(max_examples=60, deadline=None)
@given(
    ratio=st.one_of(st.sampled_from([1.0, 2.0, 3.0, 4.0]), st.floats(0.3, 6.0)),
    x=st.integers(-20, 120),
    y=st.integers(-20, 120),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    data=st.data(),
)
def test_any_window_gives_the_same_pixels(
    ratio: float, x: int, y: int, width: int, height: int, data: st.DataObject
) -> None:
    outer = Window(x, y, width, height)
    dx, dy = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    inner = Window(x + dx, y + dy, data.draw(st.integers(1, width - dx)), data.draw(st.integers(1, height - dy)))
    whole = lattice(outer, ratio)
    assert whole.shape == (height, width, 3)
    np.testing.assert_array_equal(whole[inner.within(outer)], lattice(inner, ratio))


@pytest.mark.parametrize("ratio", [0.4, 1.07, 1.9, 3.3])
@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_a_flat_image_stays_as_it_is(ratio: float, value: int) -> None:
    window = Window(7, 3, 50, 40)
    support = resample.support(window, ratio)
    flat = np.full((*support.shape, 3), value, dtype=np.uint8)
    assert (resample.reduce(flat, support, window, ratio) == value).all()


@pytest.mark.parametrize("ratio", [0.5, 1.25, 2.5])
def test_the_convolution_is_the_one_of_pillow(ratio: float) -> None:
    """Pillow's bicubic is the same kernel; it rounds and clips between its two passes, hence the middle greys."""
    width, height = int(200 / ratio), int(160 / ratio)
    level = LEVEL // 4 + 96
    window = Window(0, 0, width, height)
    support = resample.support(window, ratio)
    rows, columns = np.arange(support.y, support.y1).clip(0, 159), np.arange(support.x, support.x1).clip(0, 199)
    ours = resample.reduce(level[np.ix_(rows, columns)], support, window, ratio)
    theirs = np.asarray(Image.fromarray(level).resize((width, height), Image.Resampling.BICUBIC))
    margin = int(3 / ratio) + 3  # the border differs: the edge goes on here, it is left out there
    inner = (slice(margin, -margin), slice(margin, -margin))
    assert np.abs(ours[inner].astype(int) - theirs[inner]).max() <= 1


@pytest.mark.parametrize("ratio", [0.6, 1.0, 1.37, 2.0, 2.9, 4.0])
def test_a_blob_stays_where_it_is(ratio: float) -> None:
    """Pixel (i, j) covers [j, j + 1) × [i, i + 1) on either side; half a pixel of error would show at once."""
    y, x = np.mgrid[0:240, 0:240] + 0.5
    blob = 255 - 200 * np.exp(-((x - 123.3) ** 2 + (y - 98.7) ** 2) / (2 * 15.0**2))
    level = np.repeat(blob[:, :, None], 3, axis=2).round().astype(np.uint8)
    size = int(200 / ratio)
    window = Window(int(20 / ratio), int(10 / ratio), size, size)
    support = resample.support(window, ratio)
    pixels = resample.reduce(level[support.y : support.y1, support.x : support.x1], support, window, ratio)
    weight = 255.0 - pixels[:, :, 0]
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    assert (window.x + (weight * columns).sum() / weight.sum()) * ratio == pytest.approx(123.3, abs=0.05)
    assert (window.y + (weight * rows).sum() / weight.sum()) * ratio == pytest.approx(98.7, abs=0.05)


def test_reducing_does_not_alias() -> None:
    """Stripes finer than the lattice average out instead of beating."""
    stripes = np.zeros((300, 300, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    window = Window(5, 5, 60, 60)
    support = resample.support(window, 3.7)
    assert resample.reduce(stripes[: support.height, : support.width], support, window, 3.7).std() < 2


def test_an_empty_window() -> None:
    for ratio in (1.0, 2.0, 1.3):
        assert lattice(Window(3, 3, 0, 5), ratio).shape == (5, 0, 3)

"""What every reader of slides must pass (:class:`wsiseg.slide.types.Reader`).

Each check takes a function that opens the same intact slide anew. A reader conforms when each of :data:`CHECKS`
returns for it, and :func:`check_damage` for a damaged slide and its intact twin.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np

from wsiseg.core.geometry import Window
from wsiseg.slide.types import Level, Pixels, Reader, Unread

Open = Callable[[], Reader]
Read = tuple[Pixels, tuple[Unread, ...]]
_MOST_PX = 700  # a side of what is read at once: more than one stored tile of every format
_THREADS = 4


def check_description(opened: Open) -> None:
    """What is said of the slide makes sense, and is the same whenever it is opened.

    Level 0 has downsample 1 and is stored; the others follow by falling resolution, each with the downsample that
    its size shows; the bounds lie inside the slide; a number of microns is positive and says where it comes from,
    and where there is none nothing contradicts that.
    """
    with closing(opened()) as reader, closing(opened()) as other:
        told = reader.description
        assert told == other.description
    assert told.reader
    assert told.levels[0].downsample == 1
    assert not told.levels[0].derived
    for level in told.levels:
        _check_level(told.levels[0], level)
    for finer, coarser in itertools.pairwise(told.levels):
        assert finer.downsample <= coarser.downsample
        assert finer.width >= coarser.width
        assert finer.height >= coarser.height
    assert 0 <= told.bounds.x0 < told.bounds.x1 <= told.levels[0].width
    assert 0 <= told.bounds.y0 < told.bounds.y1 <= told.levels[0].height
    if told.mpp is not None:
        assert math.isfinite(told.mpp.value)
        assert told.mpp.value > 0
        assert told.mpp.source
        assert not told.mpp_problem
    assert all(isinstance(text, str) for pair in told.properties.items() for text in pair)
    assert all(told.notes)
    assert len(told.background) == 3
    assert all(0 <= value <= 255 for value in told.background)
    assert isinstance(told.icc_profile, bytes)


def check_pixels(opened: Open) -> None:
    """Every window that lies inside a level, down to a pixel in a corner, is uint8 (h, w, 3), all of it read."""
    with closing(opened()) as reader:
        for number, level in enumerate(reader.description.levels):
            for window in (*_windows(level), *_corners(level)):
                pixels, unread = reader.read_level(number, window)
                assert pixels.dtype == np.uint8
                assert pixels.shape == (window.height, window.width, 3)
                assert unread == ()


def check_windows(opened: Open) -> None:
    """A pixel does not depend on the window in which it is asked for."""
    with closing(opened()) as reader:
        for number, level in enumerate(reader.description.levels):
            for window in _windows(level):
                whole, _ = reader.read_level(number, window)
                for part in _parts(window):
                    np.testing.assert_array_equal(reader.read_level(number, part)[0], whole[part.within(window)])


def check_writable(opened: Open) -> None:
    """Pixels belong to the caller: what it does to them, the next read does not show."""
    with closing(opened()) as reader:
        window = next(_windows(reader.description.levels[0]))
        pixels, _ = reader.read_level(0, window)
        before = pixels.copy()
        pixels[:] = 255 - pixels
        np.testing.assert_array_equal(reader.read_level(0, window)[0], before)


def check_threads(opened: Open) -> None:
    """Several threads that read at once get what one gets."""
    with closing(opened()) as reader:
        asked = [
            (number, part)
            for number, level in enumerate(reader.description.levels)
            for window in _windows(level)
            for part in _parts(window)
        ]
        expected = [reader.read_level(*one)[0] for one in asked]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(lambda one: reader.read_level(*one), asked)
            for (pixels, _), alone in zip(found, expected, strict=True):
                np.testing.assert_array_equal(pixels, alone)


def check_associated(opened: Open) -> None:
    """Every image that the description names is there: uint8 (h, w, 3)."""
    with closing(opened()) as reader:
        for name in reader.description.associated:
            image = reader.associated_image(name)
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert image.size


def check_close(opened: Open) -> None:
    """Closing twice does no harm, nor does it to another reader of the same slide."""
    first, second = opened(), opened()
    window = next(_windows(first.description.levels[0]))
    before, _ = first.read_level(0, window)
    first.close()
    first.close()
    with closing(second):
        np.testing.assert_array_equal(second.read_level(0, window)[0], before)


CHECKS = (
    check_description,
    check_pixels,
    check_windows,
    check_writable,
    check_threads,
    check_associated,
    check_close,
)


def check_damage(damaged: Open, intact: Open) -> None:
    """Damage to level 0 is told and never raised; beside it every pixel is the intact slide's.

    What could not be read is named as whole stored tiles, inside the level, with a reason, is background in the
    pixels, and is named alike by every window that meets it.
    """
    with closing(damaged()) as reader, closing(intact()) as twin:
        level, background = reader.description.levels[0], reader.description.background
        whole = Window(0, 0, level.width, level.height)
        pixels, unread = reader.read_level(0, whole)
        assert unread, "nothing is damaged"
        known = np.ones(whole.shape, dtype=bool)
        for lost in unread:
            assert lost.reason
            assert lost.window.area
            assert lost.window.intersection(whole) == lost.window
            assert (pixels[lost.window.within(whole)] == background).all()
            known[lost.window.within(whole)] = False
        np.testing.assert_array_equal(pixels[known], twin.read_level(0, whole)[0][known])
        for part in _parts(whole):
            again, found = reader.read_level(0, part)
            np.testing.assert_array_equal(again, pixels[part.within(whole)])
            assert set(found) == {lost for lost in unread if lost.window.intersection(part).area}


def _check_level(first: Level, level: Level) -> None:
    assert min(level.width, level.height, level.tile_width, level.tile_height) > 0
    for whole, side in ((first.width, level.width), (first.height, level.height)):
        assert abs(whole - side * level.downsample) <= level.downsample + 0.01 * whole


def _windows(level: Level) -> Iterator[Window]:
    """In the level's first and last corner, as large as the level allows."""
    width, height = min(level.width, _MOST_PX), min(level.height, _MOST_PX)
    yield Window(0, 0, width, height)
    if (width, height) != (level.width, level.height):
        yield Window(level.width - width, level.height - height, width, height)


def _parts(window: Window) -> Iterator[Window]:
    """Parts of a window: from its corner, from its middle, a single row and a single column."""
    x, y, width, height = window.x, window.y, window.width, window.height
    yield Window(x, y, -(-width // 3), -(-height // 2))
    yield Window(x + width // 3, y + height // 5, width - width // 3, height - height // 5)
    yield Window(x, y + height // 2, width, 1)
    yield Window(x + width // 2, y, 1, height)


def _corners(level: Level) -> Iterator[Window]:
    for x, y in itertools.product((0, level.width - 1), (0, level.height - 1)):
        yield Window(x, y, 1, 1)

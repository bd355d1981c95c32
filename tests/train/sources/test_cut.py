"""Patches are cut from labelled images of any scale, and nuclei stay where they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.synth.render import Patch, halve
from wsiseg.testing.training import DARK, PALE, discs
from wsiseg.train.patches import KNOWN, OUTSIDE
from wsiseg.train.sources import cut
from wsiseg.train.views import look, whole_view


def test_halving_by_hand() -> None:
    labels = np.array([[1, 1, 2, 0], [1, 0, 2, 0], [5, 6, 0, 0], [6, 7, 0, 8]])
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    half = cut.rescale(image, labels, 0.5)
    assert half.labels.tolist() == [[1, 2], [6, 0]]
    assert half.covered.tolist() == [[191, 128], [255, 64]]
    assert half.image[0, 0].tolist() == [8, 9, 10]  # means of 0, 3, 12, 15 and so on: 7.5, 8.5, 9.5
    assert (half.known == KNOWN).all()


@given(st.integers(0, 1000))
def test_halving_is_the_renderers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (12, 16)).astype(np.int32)
    image = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    small, ids, covered = halve(Patch(image, labels))
    half = cut.rescale(image, labels, 0.5)
    assert np.array_equal(half.covered, np.rint(covered * 255))
    assert np.array_equal(half.labels > 0, ids > 0)
    assert np.array_equal(half.labels, ids)
    assert np.abs(half.image.astype(int) - small).max() <= 1


@pytest.mark.parametrize("factor", [0.4, 0.5, 0.73, 1.0, 1.6])
def test_any_scale_keeps_nuclei_where_they_are(factor: float) -> None:
    image, labels = discs(5, 150, 190)
    scaled = cut.rescale(image, labels.astype(np.int32), factor)
    assert scaled.labels.shape == cut.scaled_size((150, 190), factor) == scaled.image.shape[:2]
    down, across = (n / m for n, m in zip(scaled.labels.shape, labels.shape, strict=True))  # the factor, rounded
    for label in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == label)
        if len(rows) < 60:
            continue
        y, x = np.nonzero(scaled.labels == label)
        assert len(y) == pytest.approx(len(rows) * down * across, rel=0.15)
        assert (y + 0.5).mean() == pytest.approx((rows + 0.5).mean() * down, abs=0.4)
        assert (x + 0.5).mean() == pytest.approx((columns + 0.5).mean() * across, abs=0.4)
    assert scaled.covered.mean() / 255 == pytest.approx((labels > 0).mean(), abs=0.01)


@given(st.integers(1, 400), st.integers(1, 90), st.floats(0, 0.9))
def test_places_cover_an_image_and_overlap(length: int, side: int, overlap: float) -> None:
    found = cut.places("n", (length, side), (side, side), overlap)
    starts = [place.y for place in found]
    assert {place.x for place in found} == {0}
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert starts[-1] == max(0, length - side)
    steps = np.diff(starts)
    assert (steps <= max(1, np.ceil(side * (1 - overlap)))).all()
    if len(steps):  # no more patches than are needed
        assert (len(steps) - 1) * max(1, side * (1 - overlap)) < length - side


def test_what_lies_beyond_an_image_is_outside_and_cuts_nuclei() -> None:
    labels = np.zeros((20, 30), dtype=np.int32)
    labels[14:20, 3:9] = 70  # at the image's lower edge
    labels[4:9, 15:20] = 40  # whole
    labels[2:6, 22:30] = 90  # at the right edge, which is the patch's as well
    image = np.where(labels[..., None] > 0, DARK, PALE).astype(np.uint8)
    pool = cut.patch(cut.rescale(image, labels, 1.0, weight=0.5), 0, 0, (30, 30))
    assert pool.labels[0].max() == 3
    assert (pool.known[0, :20] == KNOWN).all()
    assert (pool.known[0, 20:] == OUTSIDE).all()
    assert (pool.labels[0, 20:] == 0).all()
    assert np.array_equal(pool.images[0, 25], pool.images[0, 19])
    assert pool.weight.tolist() == [0.5]
    assert look(pool, 0, whole_view((30, 30), 30), 0).cut[1:].tolist() == [False, True, True]


def test_a_crop_cuts_its_nuclei() -> None:
    labels = np.zeros((40, 40), dtype=np.int32)
    labels[10:20, 10:20] = 5
    labels[18:26, 30:36] = 6
    source = cut.rescale(np.zeros((40, 40, 3), dtype=np.uint8), labels, 1.0)
    pool = cut.patch(source, 15, 0, (25, 40))
    assert (pool.known == KNOWN).all()
    assert look(pool, 0, whole_view((25, 40), 40), 0).cut[1:].tolist() == [True, False]

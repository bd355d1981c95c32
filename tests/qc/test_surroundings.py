"""The ring around a nucleus."""

from __future__ import annotations

import numpy as np

from wsiseg.qc.surroundings import surroundings


def test_the_ring_leaves_out_the_first_step_and_ends_at_its_width() -> None:
    labels = np.zeros((9, 15), dtype=np.int32)
    labels[4, 4] = 7
    rings = surroundings(labels, 3)
    y, x = np.mgrid[:9, :15]
    steps = abs(y - 4) + abs(x - 4)
    np.testing.assert_array_equal(rings == 7, (steps >= 2) & (steps <= 3))


def test_a_pixel_belongs_to_the_nearest_nucleus_and_between_two_to_the_higher_label() -> None:
    labels = np.zeros((1, 11), dtype=np.int32)
    labels[0, 0], labels[0, 6] = 5, 2
    assert surroundings(labels, 4)[0].tolist() == [0, 0, 5, 5, 2, 0, 0, 0, 2, 2, 2]

"""Intervals of the share of bad patches: what they join, and whether they cover."""

from __future__ import annotations

import numpy as np
import pytest

from wsiseg.qc.share import share_interval


def test_more_patches_narrow_the_interval_and_doubt_widens_it() -> None:
    few = share_interval(np.full(20, 0.2), 20, 0.0)
    many = share_interval(np.full(400, 0.2), 400, 0.0)
    doubtful = share_interval(np.full(400, 0.2), 400, 0.8)
    sample = share_interval(np.tile([0.0, 0.4], 200), 4000, 0.0)
    width = {name: high - low for name, (low, high) in {"a": few, "b": many, "c": doubtful, "d": sample}.items()}
    assert width["b"] < width["a"]
    assert width["b"] < width["c"]
    assert all(0 <= low < 0.2 < high <= 1 for low, high in (few, many, doubtful, sample))


def test_sure_patches_leave_little_open() -> None:
    low, high = share_interval(np.zeros(200), 200, 0.5)
    assert (low, high) == pytest.approx((0.0, 0.0), abs=5e-3)
    assert share_interval(np.ones(200), 200, 0.5)[0] > 0.99


def test_more_patches_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="3 patches judged of 2"):
        share_interval(np.zeros(3), 2, 0.1)


@pytest.mark.parametrize("shift", [0.0, 0.6])
@pytest.mark.parametrize(("placed", "judged"), [(40, 40), (600, 150)])
def test_intervals_cover_the_true_share_of_simulated_slides(shift: float, placed: int, judged: int) -> None:
    """Slides of patches that are bad as probably as the judge says, but for an error that a slide has in common."""
    rng = np.random.default_rng(7)
    slides, covered = 600, 0
    for _ in range(slides):
        odds = rng.normal(rng.uniform(-2.5, 0.5), 1.2, placed)
        bad = rng.random(placed) < 1 / (1 + np.exp(-(odds + rng.normal(0, shift) if shift else odds)))
        seen = rng.permutation(placed)[:judged]
        low, high = share_interval(1 / (1 + np.exp(-odds[seen])), placed, shift)
        covered += low <= bad.mean() <= high
    assert covered / slides == pytest.approx(0.96, abs=0.02)

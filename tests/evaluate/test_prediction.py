"""Figures of predictions against what is true, and the predictors that a judge is held against."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from wsiseg.evaluate.prediction import (
    Prediction,
    Truth,
    by_score,
    calibration_error,
    constant,
    equal_groups,
    measure,
    rank_correlation,
    resampled,
)


def truth(aji: list[float], bad: list[int] | None = None, image: list[int] | None = None) -> Truth:
    values = np.array(aji)
    return Truth(
        values,
        values < 0.4 if bad is None else np.array(bad, dtype=bool),
        np.ones(len(values), dtype=bool),
        np.arange(len(values)) if image is None else np.array(image),
    )


def cohort(images: int = 20, patches: int = 4) -> tuple[np.ndarray, Truth]:
    """A score that orders the AJI but for a little noise, and the truth."""
    rng = np.random.default_rng(3)
    score = np.repeat(rng.uniform(0.5, 1.0, images), patches) + rng.normal(0, 0.01, images * patches)
    aji = np.clip(1.4 * score - 0.6 + rng.normal(0, 0.02, len(score)), 0, 1)
    return score, Truth(aji, aji < 0.4, np.ones(len(aji), bool), np.repeat(np.arange(images), patches))


def test_rank_correlation_is_spearmans_with_ties() -> None:
    first, second = np.array([0.1, 0.5, 0.5, 0.9, 0.3]), np.array([1.0, 1.0, 3.0, 2.0, 0.0])
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second)[0])
    assert rank_correlation(first, np.ones(5)) is None


def test_groups_are_equally_large_and_keep_equals_together() -> None:
    values = np.random.default_rng(0).permutation(100) / 100
    assert np.bincount(equal_groups(values)).tolist() == [10] * 10
    assert equal_groups(values).tolist() == (values * 10).astype(int).tolist()
    assert len(set(equal_groups(np.repeat([0.1, 0.7], [30, 10]))[:30].tolist())) == 1


def test_calibration_error_whatever_the_order() -> None:
    p = np.repeat([0.0, 0.25, 1.0], 40)
    bad = np.concatenate([np.zeros(40), np.tile([1, 0, 0, 0], 10), np.ones(40)]).astype(bool)
    assert calibration_error(p, bad) == pytest.approx(0.0)
    assert calibration_error(np.clip(p + 0.2, 0, 1), bad) == pytest.approx(0.4 / 3)
    order = np.random.default_rng(1).permutation(len(p))
    assert calibration_error(p[order], bad[order]) == pytest.approx(0.0)


def test_figures_of_a_prediction() -> None:
    true = truth([0.2, 0.6, 0.7, 0.0])
    true.judged[3] = False  # nothing to expect: it counts by its P(bad) alone
    expected, p_bad = np.array([0.3, 0.6, 0.5, np.nan]), np.array([0.8, 0.0, 0.4, 1.0])
    said = Prediction(expected, expected - 0.1, expected + 0.1, p_bad, quality=expected, badness=p_bad)
    found = measure(said, true)
    assert found["mae"] == pytest.approx(0.1)
    assert found["bias"] == pytest.approx(-0.1 / 3)
    assert found["rho"] == pytest.approx(0.5)
    assert found["coverage"] == pytest.approx(2 / 3)
    assert found["auroc"] == 1.0
    assert found["brier"] == pytest.approx((0.04 + 0.16) / 4)
    assert found["ece"] == pytest.approx((0.2 + 0.4) / 4)


def test_what_cannot_be_said_is_none() -> None:
    true = truth([0.6, 0.7])
    said = Prediction(*np.full((3, 2), 0.5), np.zeros(2), badness=np.zeros(2))
    found = measure(said, true)
    assert found["rho"] is None
    assert found["auroc"] is None  # none is bad
    true.judged[:] = False
    assert measure(said, true)["mae"] is None


def test_a_constant_is_that_of_the_other_images() -> None:
    said = constant(truth([0.1, 0.2, 0.6, 0.8], image=[0, 0, 1, 1]))
    assert said is not None
    assert said.expected == pytest.approx([0.7, 0.7, 0.15, 0.15])
    assert said.p_bad.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert said.quality is said.badness is None
    assert constant(truth([0.1, 0.2], image=[0, 0])) is None


def test_a_score_that_tells_the_quality_is_turned_into_one() -> None:
    score, true = cohort()
    said = by_score(score, true)
    assert said is not None
    found, dumb = measure(said, true), measure(constant(true), true)
    assert found["mae"] < 0.03 < 0.1 < dumb["mae"]
    assert found["rho"] > 0.95
    assert found["auroc"] > 0.95
    assert found["brier"] < dumb["brier"]
    assert 0.8 <= found["coverage"] <= 1


def test_the_score_is_calibrated_without_the_image_it_is_asked_about() -> None:
    score, true = cohort()
    own = true.image == 7
    turned = Truth(np.where(own, 1 - true.aji, true.aji), true.bad ^ own, true.judged, true.image)
    first, second = by_score(score, true), by_score(score, turned)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.expected[own], second.expected[own])
    np.testing.assert_array_equal(first.p_bad[own], second.p_bad[own])
    assert (first.expected != second.expected).any()


def test_patches_without_nuclei_have_the_lowest_score_and_segmenters_without_scores_none() -> None:
    score, true = cohort()
    score[0] = np.nan
    said = by_score(score, true)
    assert said is not None
    assert said.quality is not None
    assert said.quality[0] == 0 == said.quality.min()
    assert by_score(np.full(len(score), np.nan), true) is None


def test_images_are_drawn_as_wholes_and_the_same_for_a_seed() -> None:
    true = truth([0.5] * 6, image=[0, 0, 1, 1, 1, 2])
    draws = list(resampled(true, 50, seed=4))
    assert all(
        np.bincount(true.image[rows], minlength=3)[n] % size == 0
        for rows in draws
        for n, size in enumerate((2, 3, 1))
    )
    assert len({len(rows) for rows in draws}) > 1
    again = list(resampled(true, 50, seed=4))
    assert all((a == b).all() for a, b in zip(draws, again, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(draws, resampled(true, 50, seed=5), strict=True))

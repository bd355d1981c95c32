"""Basla et al.'s masks: contours in register and paired, spacings, priors, placement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from wsiseg.errors import UsageError
from wsiseg.synth.samplers.blobs.contours import (
    BlobPool,
    extract_contours,
    fill,
    labelled,
    make_blob,
    pair,
    register,
)
from wsiseg.synth.samplers.blobs.placement import disc, place_blobs
from wsiseg.synth.samplers.blobs.prior import _UNIT_VARIANCE, PerlinPrior, _octave, blurred, fit_perlin
from wsiseg.synth.samplers.blobs.sampler import BlobsOptions
from wsiseg.synth.samplers.blobs.spacing import histogram, nearest_distances, sample_spacing


def ellipse(major: float, minor: float, turn: float = 0.0, start: int = 0, points: int = 200) -> np.ndarray:
    t = 2 * np.pi * (np.arange(points) + start) / points
    u, v = major * np.cos(t), minor * np.sin(t)
    return np.stack([40 + u * np.cos(turn) - v * np.sin(turn), 40 + u * np.sin(turn) + v * np.cos(turn)], axis=1)


def area(contour: np.ndarray) -> float:
    x, y = contour.T
    return abs(float(0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)))


# --- contours


@pytest.mark.parametrize(("start", "backwards"), [(100, False), (57, False), (0, True), (31, True)])
def test_contours_that_start_elsewhere_are_not_twisted(start: int, backwards: bool) -> None:
    first, second = ellipse(16, 9), ellipse(14, 8, start=start)
    second = second[::-1] if backwards else second
    by_number = 0.5 * (first + second)
    mended = 0.5 * (first + pair(first, second))
    assert area(by_number) < 0.8 * area(second)  # interpolated through each other
    assert area(mended) == pytest.approx(np.pi * 15 * 8.5, rel=0.01)
    made = fill(mended)
    assert made is not None
    assert made.sum() == pytest.approx(np.pi * 15 * 8.5, rel=0.05)


def test_contours_that_start_at_opposite_ends_vanish_by_number() -> None:
    first, second = ellipse(16, 9), ellipse(16, 9, start=100)
    assert fill(0.5 * (first + second)) is None
    assert fill(0.5 * (first + pair(first, second))) is not None


def test_registration_turns_and_moves_without_scaling_or_reflection() -> None:
    fixed = ellipse(18, 9)
    moving = ellipse(18, 9, turn=0.5) + np.array([13, -6])
    moved = register(moving, fixed)
    assert area(moved) == pytest.approx(area(moving), rel=1e-6)
    assert np.abs(pair(moved, fixed) - moved).max() < 1.0
    smaller = register(ellipse(9, 4.5, turn=0.4), fixed)
    assert area(smaller) == pytest.approx(np.pi * 9 * 4.5, rel=0.01)


def test_small_and_cut_nuclei_lend_no_contour() -> None:
    image = np.zeros((80, 80), dtype=np.uint8)
    image[10:30, 10:25] = 255
    image[40:46, 40:46] = 255  # 36 px
    image[60:80, 50:70] = 255  # at the edge
    labels = labelled(image)
    assert labels.max() == 2
    contours = extract_contours(labels, 500)
    assert [contour.shape for contour in contours] == [(500, 2)]
    assert area(contours[0]) == pytest.approx(300, rel=0.01)


def test_made_nuclei_lie_between_their_parents() -> None:
    pool = BlobPool([ellipse(16, 10), ellipse(10, 8, turn=0.7)], 4, 5, 0)
    blobs = [make_blob(pool, n) for n in range(len(pool))]
    sizes = [int(blob.sum()) for blob in blobs if blob is not None]
    assert len(sizes) == 20
    assert np.pi * 10 * 8 * 0.93 < min(sizes) < max(sizes) < np.pi * 16 * 10 * 1.05
    assert len(set(sizes)) > 4


# --- spacings and priors


def test_spacings_are_those_of_nearest_centroids() -> None:
    labels = np.zeros((60, 60), dtype=np.int32)
    for n, (y, x) in enumerate([(5, 5), (5, 15), (45, 45)]):
        labels[y : y + 3, x : x + 3] = n + 1
    np.testing.assert_allclose(np.sort(nearest_distances([labels])), [10, 10, 50])
    counts, edges = histogram(np.array([10.0, 10.0, 50.0]))
    assert len(counts) == 10
    drawn = np.array([sample_spacing(np.random.default_rng(k), counts, edges) for k in range(300)])
    assert set(np.floor((drawn - 10) / 4).astype(int)) == {0, 9}
    assert (drawn < 14).mean() == pytest.approx(2 / 3, abs=0.08)


def test_the_variance_of_unit_noise() -> None:
    at = (np.arange(64) + 0.5) / 16
    design = _octave(at, at, 6)
    assert 0.5 * float(design.multiply(design).sum(axis=1).mean()) == pytest.approx(_UNIT_VARIANCE, rel=0.01)


def test_a_prior_fits_the_mask_and_others_of_its_kind_vary_as_it_does() -> None:
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(512, 512)), 40)
    density = np.clip(0.3 + 0.12 * field / field.std(), 0, 1)
    prior, fitted = fit_perlin(density)
    assert np.corrcoef(fitted.ravel(), density[::8, ::8].ravel())[0, 1] > 0.75
    others = np.stack([prior.sample(np.random.default_rng(k), 512) for k in range(12)])
    assert others.mean() == pytest.approx(density.mean(), abs=0.03)
    assert others.std() == pytest.approx(density.std(), rel=0.25)
    assert others.min() >= 0
    assert others.max() <= 1


def test_an_empty_mask_gives_a_prior_without_a_place() -> None:
    prior, fitted = fit_perlin(blurred(np.zeros((128, 128), dtype=np.int32)))
    assert not fitted.any()
    assert not prior.sample(np.random.default_rng(0), 64).any()


# --- placement


def square() -> np.ndarray:
    return np.ones((9, 9), dtype=bool)


def place(prior: np.ndarray, count: int = 30, spacing: float = 12.0, **more: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return place_blobs(rng, prior, square, lambda: spacing, count, tries=3, misses=30, **more)  # type: ignore[arg-type]


def test_nuclei_keep_to_the_prior_and_apart() -> None:
    prior = np.zeros((120, 120))
    prior[:, 60:] = 1.0
    labels = place(prior)
    assert labels.max() > 5
    assert not labels[:, :60].any()
    for n in range(1, labels.max() + 1):
        y, x = (int(values.mean()) for values in np.nonzero(labels == n))
        others = (labels > 0) & (labels != n)
        assert not (others & disc(labels.shape, (y, x), 12.0)).any() or n > 1
    # Later ones keep off all earlier discs with all their pixels.
    last = labels.max()
    y, x = (int(values.mean()) for values in np.nonzero(labels == 1))
    assert not (disc(labels.shape, (y, x), 12.0) & (labels > 1)).any()
    assert place(prior, centres=True).max() >= last


@pytest.mark.parametrize("prior", [np.zeros((64, 64)), np.eye(64), np.full((64, 64), 0.0), np.pad([[1.0]], 31)])
def test_a_prior_in_which_nothing_fits_ends_without_nuclei(prior: np.ndarray) -> None:
    assert not place(prior).any()


def test_likely_places_are_filled_first_and_the_top_only_on_request() -> None:
    prior = np.tile(np.linspace(0.02, 1.0, 200), (200, 1))
    drawn, top = place(prior, 20), place(prior, 20, top=0.16)
    right = [np.nonzero(labels)[1].mean() for labels in (drawn, top)]
    assert 110 < right[0] < 165
    assert right[1] > right[0] + 15


# --- sampler


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    rng, labels = np.random.default_rng(0), np.zeros((200, 200), dtype=np.uint16)
    for n, (y, x) in enumerate((y, x) for y in range(20, 200, 36) for x in range(20, 200, 36)):
        labels[disc(labels.shape, (y + int(rng.integers(-4, 5)), x), rng.uniform(6, 11))] = n + 1
    (tmp_path / "masks").mkdir()
    Image.fromarray(labels).save(tmp_path / "masks" / "a.png")
    return tmp_path / "masks"


def test_an_expert_says_where_and_how_far_apart(masks: Path, tmp_path: Path) -> None:
    where = np.zeros((300, 300), dtype=np.uint8)
    where[:, :150] = 255
    Image.fromarray(where).save(tmp_path / "where.png")
    (tmp_path / "apart.txt").write_text("40\n42\n44\n")
    expert = BlobsOptions(masks, prior=tmp_path / "where.png", spacings=tmp_path / "apart.txt").build(0.25)
    usual = BlobsOptions(masks).build(0.25)
    there = [sampler(np.random.default_rng(3), 160, None).instances for sampler in (expert, usual)]
    assert np.median(nearest_distances([there[0]])) > 38
    assert 0 < there[0].max() < there[1].max()


@pytest.mark.parametrize(
    ("text", "message"),
    [("far", "distances in pixels, one a line"), ("-3", "at least one distance"), ("", "at least one distance")],
)
def test_spacings_that_are_none_are_refused(masks: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.txt").write_text(text)
    with pytest.raises(UsageError, match=message):
        BlobsOptions(masks, spacings=tmp_path / "s.txt").build(0.25)


def test_masks_and_maps_without_nuclei_are_refused(masks: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(UsageError, match="is 0 everywhere"):
        BlobsOptions(masks, prior=tmp_path / "black.png").build(0.25)
    with pytest.raises(UsageError, match="no such folder"):
        BlobsOptions(tmp_path / "absent").build(0.25)
    (tmp_path / "empty").mkdir()
    (tmp_path / "black.png").rename(tmp_path / "empty" / "black.png")
    with pytest.raises(UsageError, match="no nucleus of 50 pixels"):
        BlobsOptions(tmp_path / "empty").build(0.25)


def test_a_single_image_is_enough(masks: Path) -> None:
    labels = BlobsOptions(masks, images=1, couples=20).build(0.25)(np.random.default_rng(1), 96, None).instances
    assert labels.max() >= 2
    assert PerlinPrior(0.5, (0.0, 0.0, 0.0, 0.0)).sample(np.random.default_rng(0), 8).tolist() == [[0.5] * 8] * 8

"""Rendering: exact labels, deterministic patches, textures without their nuclei."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from wsiseg.synth.grafts import Graft, cut_grafts, set_grafts
from wsiseg.synth.layout import sample_layout
from wsiseg.synth.paint import noise_fields
from wsiseg.synth.render import Patch, RenderOptions, halve, render_patch
from wsiseg.synth.shapes import KINDS, SHAPE_FIELDS, place_shapes, relative_radius, sample_shape
from wsiseg.synth.textures import Texture, dissect, load_textures, optical_density, otsu_level, to_rgb

SMALL = RenderOptions(size=128)


def stained(size: int = 160, discs: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A pink patch with dark blue discs on a grid, and where they are."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), (225.0, 160.0, 200.0)) + rng.normal(0, 4, (size, size, 1))
    mask = np.zeros((size, size), dtype=bool)
    y, x = np.mgrid[:size, :size]
    side = math.isqrt(discs)
    for n in range(discs):
        cy, cx = ((k + 0.5) * size / side for k in divmod(n, side))
        mask |= np.hypot(y - cy, x - cx) < 10
    image[mask] = (80.0, 50.0, 120.0)
    return np.clip(image, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def textures() -> list[Texture]:
    return [dissect(stained(seed=seed)[0]) for seed in range(2)]


def circle(x: float, y: float, radius: float) -> np.ndarray:
    row = np.zeros(SHAPE_FIELDS)
    row[:6] = x, y, radius, radius, 1.0, 0.0
    return row


def test_distance_of_a_circle() -> None:
    shape = circle(10.0, 20.0, 6.0)
    for x, y in ((10.0, 20.5), (13.0, 20.0), (10.0, 27.0), (4.0, 12.0)):
        s, d = relative_radius(shape, x, y)
        r = math.hypot(x - 10, y - 20)
        assert s == pytest.approx(r / 6)
        assert d == pytest.approx(6 - r, abs=1e-9)


def test_drawn_area_is_the_circles() -> None:
    labels = np.zeros((64, 64), dtype=np.int32)
    placed = place_shapes(labels, circle(32, 32, 15)[None], np.zeros(1), 10)
    assert placed.tolist() == [0]
    assert (labels == 1).sum() == pytest.approx(math.pi * 15**2, rel=0.02)
    rows, columns = np.nonzero(labels)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((32, 32))


def test_placement_respects_the_allowed_overlap() -> None:
    shapes = np.stack([circle(20, 20, 8), circle(22, 20, 8), circle(34, 20, 8), circle(50, 50, 8)])
    labels = np.zeros((64, 64), dtype=np.int32)
    placed = place_shapes(labels, shapes, np.array([0.0, 0.1, 0.1, 0.1]), 10)
    assert placed.tolist() == [0, 2, 3]  # the second would be covered, the third only touched
    assert np.unique(labels).tolist() == [0, 1, 2, 3]
    assert (labels == 1).sum() > (labels == 2).sum()  # the earlier one lies on top
    assert place_shapes(np.zeros((64, 64), np.int32), shapes, np.zeros(4), 1).tolist() == [0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_sampled_sizes_lie_in_the_kinds_range(kind) -> None:
    rng = np.random.default_rng(1)
    rows = np.stack([sample_shape(rng, kind, (0, 0), 0.3, 0.25, 1.0) for _ in range(200)])
    major = rows[:, 2] * 2 * 0.25
    assert kind.major_um[0] <= major.min() < major.max() <= kind.major_um[1]
    aspect = rows[:, 3] / rows[:, 2]
    assert kind.aspect[0] <= aspect.min() < aspect.max() <= kind.aspect[1]
    assert (rows[:, 7:12].sum(axis=1) <= 0.35 + 1e-9).all()  # never folds over itself


def test_density_and_colour_are_inverse() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb = np.stack([levels] * 3, axis=2)
    assert np.abs(to_rgb(optical_density(rgb)).astype(int) - rgb).max() <= 1


def test_otsu_lies_between_two_modes() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.03, 4000), rng.normal(0.9, 0.05, 1000)])
    assert 0.28 < otsu_level(values) < 0.8


def test_background_has_no_nuclei_and_colours_are_theirs() -> None:
    image, mask = stained()
    texture = dissect(image)
    around, inside = texture.background[~mask].mean(axis=0), texture.background[mask].mean(axis=0)
    assert np.abs(inside - around).max() < 0.05
    expected = optical_density(np.uint8([[[80, 50, 120]]]))[0, 0]
    assert len(texture.nuclear_mean) == 9
    assert np.abs(texture.nuclear_mean - expected).max() < 0.03
    assert texture.density == pytest.approx(mask.mean(), abs=0.02)


def test_a_mask_removes_what_the_threshold_misses() -> None:
    image, _ = stained()
    y, x = np.mgrid[:160, :160]
    pale = np.hypot(y - 53, x - 53) < 8
    image[pale] = (205, 140, 190)
    kept = dissect(image).background[pale].mean()
    removed = dissect(image, pale).background[pale].mean()
    pink = optical_density(np.uint8([[[225, 160, 200]]])).mean()
    assert abs(removed - pink) < 0.5 * abs(kept - pink)


def test_what_is_dark_goes_too_where_that_is_asked_for() -> None:
    image, mask = stained()
    nothing = np.zeros_like(mask)
    kept, gone = (dissect(image, nothing, dark_too=dark).background[mask].mean() for dark in (False, True))
    pink = optical_density(np.uint8([[[225, 160, 200]]])).mean()
    assert gone == pytest.approx(pink, abs=0.1)
    assert kept > pink + 0.5


def test_patches_are_a_function_of_seed_and_index(textures: list[Texture]) -> None:
    once, again = (render_patch(textures, 5, 3, SMALL) for _ in range(2))
    assert np.array_equal(once.image, again.image)
    assert np.array_equal(once.labels, again.labels)
    other, later = render_patch(textures, 6, 3, SMALL), render_patch(textures, 5, 4, SMALL)
    assert not np.array_equal(once.image, other.image)
    assert not np.array_equal(once.image, later.image)


def test_labels_are_what_was_drawn(textures: list[Texture]) -> None:
    contrasts = []
    for index in range(12):
        patch = render_patch(textures, 1, index, SMALL)
        assert patch.image.shape == (128, 128, 3)
        assert patch.image.dtype == np.uint8
        ids = np.unique(patch.labels)
        assert np.array_equal(ids, np.arange(ids.size))  # background and 1 … n, none lost
        if ids.size > 1:
            red = optical_density(patch.image)[..., 0]
            contrasts.append(red[patch.labels > 0].mean() - red[patch.labels == 0].mean())
    assert np.mean(contrasts) > 0.1  # labelled pixels absorb more red on the whole


def test_rendering_without_textures_is_refused() -> None:
    with pytest.raises(ValueError, match="textures"):
        render_patch([], 0, 0)


def test_halving_keeps_the_majority() -> None:
    labels = np.array([[1, 1, 0, 0], [1, 2, 0, 3], [0, 5, 4, 4], [0, 5, 6, 6]], dtype=np.int32)
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    small, half, covered = halve(Patch(image, labels))
    assert covered.tolist() == [[1.0, 0.25], [0.5, 1.0]]
    assert half[0].tolist() == [1, 0]
    assert half[1, 0] == 5
    assert half[1, 1] in (4, 6)
    assert small[0, 0, 0] == round(np.mean([0, 3, 12, 15]))


def test_halved_areas_are_a_quarter(textures: list[Texture]) -> None:
    patch = render_patch(textures, 2, 1, SMALL)
    _, half, covered = halve(patch)
    assert covered.sum() == pytest.approx((patch.labels > 0).sum() / 4)
    assert (half > 0).sum() == pytest.approx(covered.sum(), rel=0.1)


def test_layouts_cover_every_kind() -> None:
    rng = np.random.default_rng(0)
    seen = {KINDS[k].name for _ in range(60) for k in sample_layout(rng, 128, 0.25).kinds}
    assert seen == {kind.name for kind in KINDS}


def test_noise_is_standardised_and_periodic() -> None:
    fields = noise_fields()
    assert fields.std(axis=(1, 2)) == pytest.approx(np.ones(4), rel=1e-3)
    coarse = fields[3]
    wrap = np.abs(coarse[:, 0] - coarse[:, -1]).mean()
    assert wrap < 3 * np.abs(np.diff(coarse, axis=1)).mean()


def test_textures_are_read_in_order_with_their_masks(tmp_path) -> None:
    from PIL import Image

    (tmp_path / "masks").mkdir()
    for name in ("b", "a"):
        Image.fromarray(stained(seed=ord(name))[0]).save(tmp_path / f"{name}.png")
    Image.fromarray(np.zeros((160, 160), np.uint8)).save(tmp_path / "masks" / "a.png")
    plain, masked = load_textures(tmp_path), load_textures(tmp_path, tmp_path / "masks")
    assert len(plain) == 2
    assert np.allclose(plain[0].mean, optical_density(stained(seed=ord("a"))[0]).mean(axis=(0, 1)), atol=1e-5)
    assert masked[0].density == 0.0  # the mask says that nothing there is a nucleus
    assert plain[0].density > 0.05


def a_graft(radius: int = 10) -> Graft:
    y, x = np.mgrid[-radius - 6 : radius + 7, -radius - 6 : radius + 7]
    mask = np.hypot(y, x) <= radius
    return Graft(np.where(mask[..., None], 2.0, 0.1).repeat(3, axis=2).astype(np.float32), mask)


def test_grafts_are_whole_compact_nuclei() -> None:
    labels = np.zeros((120, 120), dtype=np.int32)
    placed = place_shapes(labels, np.stack([circle(30, 30, 12), circle(118, 60, 12)]), np.zeros(2), 10)
    assert len(placed) == 2
    labels[80:110, 20:24] = labels[106:110, 20:60] = 3  # an L
    labels[5:9, 60:64] = 4  # a speck
    density = np.random.default_rng(0).random((120, 120, 3)).astype(np.float32)
    (graft,) = cut_grafts(density, labels)
    assert graft.mask.sum() == (labels == 1).sum()
    rows, columns = np.nonzero(labels == 1)
    corner = density[rows.min() - 6, columns.min() - 6]
    np.testing.assert_array_equal(graft.density[0, 0], corner)


def test_grafts_leave_other_nuclei_alone_and_are_dark_where_their_label_is() -> None:
    rng = np.random.default_rng(4)
    labels = np.zeros((160, 160), dtype=np.int32)
    place_shapes(labels, np.stack([circle(80, 80, 20), circle(20, 30, 12)]), np.zeros(2), 10)
    before, density = labels.copy(), np.full((160, 160, 3), 0.1, np.float32)
    density[labels > 0] = 0.7
    set_grafts(rng, density, labels, [a_graft()], 25, np.full(3, 2.0, np.float32))
    added = labels.max() - 2
    assert 5 <= added <= 25
    np.testing.assert_array_equal(labels[before > 0], before[before > 0])
    for n in range(3, labels.max() + 1):
        area = (labels == n).sum()
        assert area > 0
        # By at most an eighth of it a graft may lie below another nucleus or beyond the patch's edge.
        assert density[labels == n].mean() > 1.0
    assert density[(before > 0) & ~ndimage.binary_dilation(labels > 2, iterations=4)].max() == pytest.approx(0.7)


def test_a_full_patch_takes_no_grafts() -> None:
    labels = np.ones((64, 64), dtype=np.int32)
    density = np.full((64, 64, 3), 0.4, np.float32)
    set_grafts(np.random.default_rng(0), density, labels, [a_graft()], 10, np.ones(3, np.float32))
    assert labels.max() == 1
    assert (density == np.float32(0.4)).all()


def test_grafts_are_part_of_the_seeded_sequence(textures: list[Texture]) -> None:
    options = RenderOptions(size=128, grafts=1.0)
    first, again = (render_patch(textures, 3, 5, options, [a_graft()]) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    plain = render_patch(textures, 3, 5, options)
    assert first.labels.max() > plain.labels.max()

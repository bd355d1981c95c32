"""Decoders of published methods: on maps with known nuclei, against plain implementations, and at the limits."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiseg.core.raster import rasterize
from wsiseg.evaluate import evaluate
from wsiseg.models.decoders import (
    HoverDecoder,
    OtsuDecoder,
    SeedDecoder,
    StarConvexDecoder,
    decode_hover,
    decode_seeds,
)
from wsiseg.models.decoders.flood import watershed
from wsiseg.models.decoders.hover import slope_ranges
from wsiseg.models.decoders.labels import fill_enclosed, label, majorities, means, open_ellipse
from wsiseg.models.decoders.starconvex import suppress
from wsiseg.testing.decoding import RAYS, ellipses, hover_maps, noise, seed_maps, star_maps


def inner(nuclei, window, margin):
    """Nuclei at least ``margin`` inside of ``window`` (x0, y0, x1, y1), by their rings' bytes."""
    bounds = nuclei.bounds()
    low, high = np.array(window[:2]) + margin, np.array(window[2:]) - margin
    chosen = nuclei.take((bounds[:, :2] >= low).all(1) & (bounds[:, 2:] <= high).all(1))
    rings = [chosen.vertices[a:b] for a, b in zip(chosen.offsets[:-1], chosen.offsets[1:], strict=True)]
    return {(np.round(ring, 6).tobytes(), chosen.columns["score"][n].tobytes()) for n, ring in enumerate(rings)}


def aji(labels, nuclei):
    return evaluate(labels, rasterize(nuclei, np.arange(len(nuclei)) + 1, labels.shape)).aji


# --- labels and floods against plain implementations ----------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 50), st.integers(1, 50), st.floats(-0.5, 0.5))
def test_components_holes_and_openings(seed: int, height: int, width: int, cut: float) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 1.5) * 4 > cut
    names, count = ndimage.label(mask)
    np.testing.assert_array_equal(label(mask), names)
    large = label(mask, 10)
    sizes = np.bincount(names.ravel(), minlength=count + 1)
    np.testing.assert_array_equal(large > 0, mask & (sizes[names] >= 10))
    assert large.max() == (sizes[1:] >= 10).sum()
    np.testing.assert_array_equal(fill_enclosed(mask), ndimage.binary_fill_holes(mask))
    ellipse = np.ones((5, 5), bool)
    ellipse[[0, 0, 0, 0, 4, 4, 4, 4], [0, 1, 3, 4, 0, 1, 3, 4]] = False
    eroded = ndimage.binary_erosion(mask, ellipse, border_value=1)
    np.testing.assert_array_equal(open_ellipse(mask), ndimage.binary_dilation(eroded, ellipse))


def plain_flood(surface, markers, mask, compactness):
    """The same order as the kernel's, by Python's heap."""
    import heapq

    labels = np.where(mask, markers, 0)
    heap = [(surface[p], 0, p, p) for p in zip(*map(list, np.nonzero(labels)), strict=True)]
    heapq.heapify(heap)
    age = 0
    while heap:
        _, _, p, source = heapq.heappop(heap)
        if compactness and labels[p] and p != source:
            continue
        labels[p] = labels[source]
        for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            q = (p[0] + dy, p[1] + dx)
            if 0 <= q[0] < mask.shape[0] and 0 <= q[1] < mask.shape[1] and mask[q] and not labels[q]:
                age += 1
                if not compactness:
                    labels[q] = labels[p]
                far = np.sqrt(float((q[0] - source[0]) ** 2 + (q[1] - source[1]) ** 2))
                heapq.heappush(heap, (surface[q] + compactness * far, age, q, source))
    return labels


@pytest.mark.parametrize("compactness", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_watershed_equals_a_plain_one(compactness: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = noise((40, 55), seed) > -0.3
    surface = noise((40, 55), seed + 50).astype(np.float64)
    if seed % 2:
        surface = np.round(surface, 1)  # many ties
    markers = np.zeros(mask.shape, np.int32)
    markers[rng.integers(0, 40, 12), rng.integers(0, 55, 12)] = np.arange(12) + 1
    expected = plain_flood(surface, markers, mask, compactness)
    np.testing.assert_array_equal(watershed(surface, markers, mask, compactness), expected)
    assert not expected[~mask].any()


def test_watershed_without_markers_or_mask() -> None:
    surface, none = np.zeros((5, 6)), np.zeros((5, 6), np.int32)
    for compactness in (0.0, 1.0):
        assert not watershed(surface, none, np.ones((5, 6), bool), compactness).any()
        assert not watershed(surface, none + 1, np.zeros((5, 6), bool), compactness).any()


def test_means_and_majorities() -> None:
    labels = np.array([[1, 1, 1, 2], [3, 3, 0, 2], [3, 3, 4, 4]], np.int32)
    types = np.array([[2, 1, 1, 0], [0, 0, 7, 0], [0, 3, 2, 1]])
    chosen, fraction = majorities(labels, types)
    # Label 2 has nothing but background; 3 is mostly background but for a pixel; 4 is a tie.
    assert chosen.tolist()[1:] == [1, 0, 3, 1]
    np.testing.assert_allclose(fraction[1:], [2 / 3, 1, 1 / 4, 1 / 2])
    np.testing.assert_allclose(means(labels, types)[1:], [4 / 3, 0, 3 / 4, 3 / 2])


# --- Otsu -----------------------------------------------------------------------------------------------------


def test_otsu_divides_where_the_variance_between_classes_is_largest() -> None:
    rng = np.random.default_rng(0)
    levels = np.concatenate([rng.normal(60, 18, 4000), rng.normal(190, 20, 1500)]).clip(0, 255).astype(np.uint8)
    foreground = (levels / np.float32(255)).reshape(55, 100).astype(np.float32)
    seen = (foreground * np.float32(255)).astype(np.uint8)

    def between(cut: int) -> float:
        low, high = seen[seen <= cut], seen[seen > cut]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0

    best = max(range(255), key=between)
    assert OtsuDecoder().threshold([foreground]) == pytest.approx((best + 1) / 255)
    assert OtsuDecoder().threshold([foreground[:20], foreground[20:]]) == OtsuDecoder().threshold([foreground])


@pytest.mark.parametrize("level", [0.0, 0.02, 0.1, 0.2])
def test_an_empty_tile_stays_empty(level: float) -> None:
    """Otsu alone calls about half of such noise foreground."""
    foreground = np.clip(level * np.abs(noise((128, 128), 1, 3)) / 3, 0, 1)
    assert len(OtsuDecoder().decode(foreground)) == 0
    if level > 0:
        unguarded = OtsuDecoder(lowest=0.0)
        assert len(unguarded.decode(foreground)) > 0


def test_otsu_on_a_saturated_tile_and_on_nothing() -> None:
    assert len(OtsuDecoder().decode(np.zeros((20, 20), np.float32))) == 0
    full = OtsuDecoder().decode(np.ones((20, 20), np.float32))
    assert full.areas().tolist() == [400]
    assert OtsuDecoder().threshold([]) == OtsuDecoder().lowest


def test_otsu_gives_components_with_holes_filled_and_their_mean() -> None:
    foreground = np.full((60, 60), 0.05, np.float32)
    foreground[10:30, 10:30], foreground[40:50, 35:55] = 0.9, 0.8
    foreground[18:22, 18:22] = 0.1
    foreground[55, 5] = 0.9  # one pixel, too small
    nuclei = OtsuDecoder().decode(foreground)
    np.testing.assert_array_equal(nuclei.bounds(), [[10, 10, 30, 30], [35, 40, 55, 50]])
    np.testing.assert_allclose(nuclei.columns["score"], [(384 * 0.9 + 16 * 0.1) / 400, 0.8], rtol=1e-5)
    assert nuclei.columns["score"].dtype == np.float32
    np.testing.assert_array_equal(OtsuDecoder().decode(foreground, 0.85).bounds(), [[10, 10, 30, 30]])


# --- seeds ----------------------------------------------------------------------------------------------------


def test_seeds_divide_what_touches() -> None:
    labels = ellipses(200, 0)
    nuclei = SeedDecoder().decode(*seed_maps(labels, 0))
    assert aji(labels, nuclei) > 0.8
    assert len(nuclei) == labels.max()
    assert shapely.is_valid(nuclei.geometry()).all()
    assert ((nuclei.columns["score"] > 0.33) & (nuclei.columns["score"] <= 1)).all()


def test_a_part_without_a_seed_gets_one_where_it_is_strongest() -> None:
    segmentation = np.zeros((40, 60), np.float32)
    segmentation[5:20, 5:25], segmentation[25:35, 30:50] = 0.6, 0.7
    segmentation[9, 21] = 0.9
    detection = np.zeros_like(segmentation)
    assert len(SeedDecoder().decode(detection, segmentation)) == 2
    assert len(SeedDecoder(max_recall_px=250).decode(detection, segmentation)) == 1
    assert not decode_seeds(detection, segmentation, SeedDecoder(max_recall_px=0)).any()
    detection[12, 10] = 1
    labels = decode_seeds(detection, segmentation, SeedDecoder(max_recall_px=0))
    np.testing.assert_array_equal(labels[6:19, 6:24], 1)
    assert not labels[25:35, 30:50].any()


def test_seeds_next_to_each_other_are_one() -> None:
    segmentation = np.full((30, 30), 0.8, np.float32)
    for gap, count in ((2, 1), (6, 2)):
        detection = np.zeros((30, 30), np.float32)
        detection[15, 10], detection[15, 10 + gap] = 1, 1
        params = SeedDecoder(detection_sigma_px=0)
        assert decode_seeds(detection, segmentation, params).max() == count
    # Compactness alone divides a flat surface: down the middle.
    labels = decode_seeds(detection, segmentation, params)
    assert set(np.unique(labels[:, :13])) == {1}
    assert set(np.unique(labels[:, 14:])) == {2}


# --- HV maps --------------------------------------------------------------------------------------------------


def plain_hover(foreground, distances):
    """The published steps with scipy, for maps without ties."""
    nuclei = foreground >= 0.5
    names, _ = ndimage.label(nuclei)
    nuclei = nuclei & (np.bincount(names.ravel()) >= 10)[names]
    binomial = np.array([1.0])
    for _ in range(19):
        binomial = np.convolve(binomial, [1, 1])
    smooth, slope = np.convolve(binomial, [1, 1]), np.convolve(binomial, [-1, 1])
    falls = []
    for part, axis in ((distances[0], 1), (distances[1], 0)):
        sobel = ndimage.correlate1d(part.astype(float), slope, axis=axis, mode="mirror")
        sobel = ndimage.correlate1d(sobel, smooth, axis=1 - axis, mode="mirror")
        falls.append(1 - (sobel - sobel.min()) / (sobel.max() - sobel.min()))
    border = np.maximum(*falls) * nuclei
    markers = ndimage.binary_fill_holes(nuclei & (border < 0.4))
    names, _ = ndimage.label(open_ellipse(markers))
    kept = np.bincount(names.ravel()) >= 10
    kept[0] = False
    names = (np.cumsum(kept) * kept)[names]
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
    depth = -ndimage.correlate((1 - border) * nuclei, taps, mode="mirror")
    return plain_flood(depth, names, nuclei, 0)


def same_partition(a: np.ndarray, b: np.ndarray) -> float:
    """Fraction of pixels on which two label images agree, each label of ``a`` named as most of it is in ``b``."""
    votes = np.bincount(a.ravel().astype(int) * (b.max() + 1) + b.ravel(), minlength=(a.max() + 1) * (b.max() + 1))
    votes = votes.reshape(a.max() + 1, b.max() + 1)
    return min(votes.max(1).sum(), votes.max(0).sum()) / a.size


def test_hover_equals_the_published_steps() -> None:
    foreground, distances = hover_maps(ellipses(160, 3), 3, 0.08)
    labels = decode_hover(foreground, distances, HoverDecoder())
    expected = plain_hover(foreground, distances)
    assert labels.max() == expected.max()
    assert same_partition(labels, expected) > 0.9995  # but for ties by rounding


def test_hover_divides_what_touches() -> None:
    labels = ellipses(200, 1)
    nuclei = HoverDecoder().decode(*hover_maps(labels, 1))
    assert aji(labels, nuclei) > 0.9
    assert len(nuclei) == labels.max()
    assert shapely.is_valid(nuclei.geometry()).all()
    assert set(nuclei.columns) == {"score"}
    assert (nuclei.columns["score"] >= 0.5).all()


def test_hover_types() -> None:
    labels = ellipses(150, 2)
    truth = np.concatenate([[0], 1 + np.arange(labels.max()) % 3])
    types = truth[labels]
    types[ndimage.binary_erosion(labels > 0, iterations=5)] = 0
    nuclei = HoverDecoder().decode(*hover_maps(labels, 2), types=types)
    middle = np.floor(nuclei.centroids()).astype(int)
    assert nuclei.columns["type"].dtype == np.int16
    assert (nuclei.columns["type"] == truth[labels[middle[:, 1], middle[:, 0]]]).mean() > 0.95
    assert ((nuclei.columns["type_prob"] > 0) & (nuclei.columns["type_prob"] <= 1)).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hover_is_local_once_the_ranges_are_given(seed: int) -> None:
    foreground, distances = hover_maps(ellipses(330, seed), seed)
    decoder, ranges = HoverDecoder(max_diameter_um=8), slope_ranges(distances)
    x, y = 23 + seed, 40 - seed
    window = (x, y, x + 260, y + 250)
    crop = (slice(y, y + 250), slice(x, x + 260))
    part = decoder.decode(foreground[crop], distances[(slice(None), *crop)], ranges=ranges).translate(x, y)
    expected = inner(decoder.decode(foreground, distances, ranges=ranges), window, decoder.margin_px)
    assert len(expected) > 5
    assert inner(part, window, decoder.margin_px) == expected


def test_slopes_are_in_units_a_pixel() -> None:
    ramp = np.broadcast_to(np.arange(80, dtype=np.float32) * 0.05, (70, 80))
    (low, high), (down, up) = slope_ranges(np.stack([ramp, ramp]))
    assert high == pytest.approx(0.05, rel=1e-5)
    assert low >= -1e-6
    assert abs(down) < 1e-9
    assert abs(up) < 1e-9


def test_hover_of_nothing_and_of_wrong_shapes() -> None:
    empty = np.zeros((64, 50), np.float32)
    assert len(HoverDecoder().decode(empty, np.zeros((2, 64, 50), np.float32))) == 0
    with pytest.raises(ValueError, match="distances of shape"):
        HoverDecoder().decode(empty, np.zeros((64, 50, 2), np.float32))
    with pytest.raises(ValueError, match="segmentation of shape"):
        SeedDecoder().decode(empty, empty.T)


# --- star-convex polygons -------------------------------------------------------------------------------------


def test_perfect_rays_give_the_nuclei_back() -> None:
    labels = ellipses(160, 4)
    decoder = StarConvexDecoder(mpp=0.25, threshold=0.3)
    nuclei = decoder.decode(*star_maps(labels))
    assert len(nuclei) == labels.max()
    assert aji(labels, nuclei) > 0.92
    assert shapely.is_valid(nuclei.geometry()).all()
    assert np.all(np.diff(nuclei.columns["score"]) <= 0)
    assert nuclei.columns["score"].dtype == np.float32


def test_rays_have_no_half_pixel_shift() -> None:
    probability, rays = np.zeros((40, 40), np.float32), np.zeros((64, 40, 40), np.float32)
    probability[20, 12], rays[:, 20, 12] = 0.9, 6
    nuclei = StarConvexDecoder().decode(probability, rays)
    np.testing.assert_allclose(nuclei.centroids(), [[12.5, 20.5]], atol=1e-6)
    np.testing.assert_allclose(nuclei.bounds(), [[6.5, 14.5, 18.5, 26.5]], atol=1e-6)
    coarse = StarConvexDecoder(step_px=2).decode(probability, rays)
    np.testing.assert_allclose(coarse.centroids(), [[25, 41]], atol=1e-6)
    # The first ray points right, the next ones downwards.
    rays[0, 20, 12], rays[16, 20, 12] = 8, 7
    np.testing.assert_allclose(
        StarConvexDecoder().decode(probability, rays).bounds(), [[6.5, 14.5, 20.5, 27.5]], atol=1e-6
    )


def test_suppression_equals_a_plain_one() -> None:
    """By shapely's areas; the few pairs within the grid's error of the limit are left out of the comparison."""
    rng = np.random.default_rng(0)
    count = 220
    rows, columns = rng.integers(0, 90, count), rng.integers(0, 90, count)
    rays = rng.uniform(4, 11, (count, 1)) * rng.uniform(0.8, 1.2, (count, RAYS))
    angle = 2 * np.pi * np.arange(RAYS) / RAYS
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    params = StarConvexDecoder(sampling=8)
    keep = suppress(rows, columns, rays, unit, params)
    centres = np.stack([columns, rows], axis=1) + 0.5
    polygons = shapely.polygons(centres[:, None] + rays[:, :, None] * unit)
    areas = shapely.area(polygons)
    for k in range(count):
        others = np.flatnonzero(keep[:k])
        shared = shapely.area(shapely.intersection(polygons[k], polygons[others]))
        worst = (shared / np.minimum(areas[k], areas[others])).max(initial=0)
        if abs(worst - params.overlap) > 0.01:
            assert keep[k] == (worst < params.overlap)
    assert 20 < keep.sum() < 120


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 30), st.integers(0, 30))
def test_star_convex_is_local(seed: int, x: int, y: int) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.uniform(0, 1, (230, 230)).astype(np.float32) ** 8
    rays = rng.uniform(2, 6, (12, 230, 230)).astype(np.float32)
    decoder = StarConvexDecoder(max_diameter_um=6, threshold=0.8, min_area_um2=0)
    window = (x, y, x + 200, y + 190)
    whole = decoder.decode(probability, rays)
    part = decoder.decode(probability[y : y + 190, x : x + 200], rays[:, y : y + 190, x : x + 200])
    expected = inner(whole, window, 2 * decoder.margin_px)
    assert len(expected) > 5
    assert inner(part.translate(x, y), window, 2 * decoder.margin_px) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_senseless_rays_are_no_proposals(value: float) -> None:
    probability, rays = star_maps(ellipses(80, 5))
    decoder = StarConvexDecoder(mpp=0.25, threshold=0.3)
    assert len(decoder.decode(probability, np.full_like(rays, value))) == 0
    before = len(decoder.decode(probability, rays))
    rays[3, 40:] = value
    assert 0 < len(decoder.decode(probability, rays)) < before
    # Negative lengths make a polygon next to nothing, which is too small.
    assert len(decoder.decode(probability, np.full_like(rays, -5))) == 0


def test_star_convex_limits() -> None:
    probability, rays = star_maps(ellipses(100, 6))
    decoder = StarConvexDecoder(mpp=0.25, threshold=0.3)
    areas = np.sort(decoder.decode(probability, rays).areas()) * 0.25**2
    assert len(replace(decoder, min_area_um2=float(areas[4]) + 1e-9).decode(probability, rays)) == len(areas) - 5
    assert len(replace(decoder, max_diameter_um=2).decode(probability, rays)) == 0
    assert len(replace(decoder, threshold=1.0).decode(probability, rays)) == 0
    with pytest.raises(ValueError, match="2 rays"):
        decoder.decode(probability, rays[:2])
    with pytest.raises(ValueError, match="distances of shape"):
        decoder.decode(probability, rays[:, 1:])


# --- all ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", [OtsuDecoder(), SeedDecoder(), HoverDecoder(), StarConvexDecoder()])
def test_decoders_are_values(decoder: object) -> None:
    assert pickle.loads(pickle.dumps(decoder)) == decoder
    assert hash(decoder) == hash(replace(decoder))
    assert decoder.margin_px > 0
    assert replace(decoder, max_diameter_um=100).margin_px > decoder.margin_px


def test_decoding_twice_gives_the_same() -> None:
    labels = ellipses(120, 7)
    maps = {
        OtsuDecoder(): (hover_maps(labels, 7)[0],),
        SeedDecoder(): seed_maps(labels, 7),
        HoverDecoder(): hover_maps(labels, 7),
        StarConvexDecoder(mpp=0.25, threshold=0.3): star_maps(labels),
    }
    for decoder, arrays in maps.items():
        copies = [array.copy() for array in arrays]
        first, second = decoder.decode(*arrays), decoder.decode(*arrays)
        assert first.vertices.tobytes() == second.vertices.tobytes()
        assert first.columns["score"].tobytes() == second.columns["score"].tobytes()
        assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))

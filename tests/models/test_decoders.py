"""Decoders on maps whose nuclei are known: exactness, locality, limits."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize
from wsiseg.evaluate import evaluate
from wsiseg.models.decoders import OffsetDecoder, WatershedDecoder, decode_mask, decode_offsets
from wsiseg.models.decoders.maps import enlarge, kernel_radius, maxima, smooth
from wsiseg.models.decoders.watershed import distance_transform, fill_holes
from wsiseg.testing.decoding import discs, disturbed, perfect_maps


def painted(nuclei, shape):
    """Labels at twice the maps' resolution."""
    return rasterize(Nuclei(nuclei.vertices * 2, nuclei.offsets), np.arange(len(nuclei)) + 1, shape)


def inner(nuclei, window, margin):
    """Nuclei at least ``margin`` inside of ``window`` (x0, y0, x1, y1), by their rings' bytes."""
    bounds = nuclei.bounds()
    low, high = np.array(window[:2]) + margin, np.array(window[2:]) - margin
    keep = (bounds[:, :2] >= low).all(1) & (bounds[:, 2:] <= high).all(1)
    chosen = nuclei.take(keep)
    scores = chosen.columns["score"]
    return {
        (chosen.vertices[a:b].tobytes(), scores[n].tobytes())
        for n, (a, b) in enumerate(zip(chosen.offsets[:-1], chosen.offsets[1:], strict=True))
    }


def test_perfect_maps_give_the_nuclei_back():
    labels = discs(160, 0)
    nuclei = OffsetDecoder().decode(*perfect_maps(labels))
    scores = evaluate(labels, painted(nuclei, labels.shape))
    assert scores.aji > 0.93
    assert len(nuclei) == len(np.unique(labels)) - 1
    assert shapely.is_valid(nuclei.geometry()).all()
    assert set(nuclei.columns) == {"score"}
    assert nuclei.columns["score"].dtype == np.float32
    assert ((nuclei.columns["score"] > 0.5) & (nuclei.columns["score"] <= 1)).all()


def test_disturbed_maps_still_give_most_nuclei():
    labels = discs(160, 1)
    nuclei = OffsetDecoder().decode(*disturbed(perfect_maps(labels), 1))
    assert evaluate(labels, painted(nuclei, labels.shape)).aji > 0.75


def test_coordinates_have_no_half_pixel_shift():
    foreground = np.zeros((40, 40), np.float32)
    foreground[10:20, 12:26] = 1
    i, j = np.indices((40, 40))
    offsets = np.stack([14.5 - i, 18.5 - j]).astype(np.float32)
    for upsample in (1, 2, 3):
        nuclei = OffsetDecoder(upsample=upsample).decode(foreground, offsets)
        np.testing.assert_allclose(nuclei.bounds(), [[12, 10, 26, 20]], atol=1e-12)
        np.testing.assert_allclose(nuclei.centroids(), [[19, 15]], atol=1e-12)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 40), st.integers(0, 40))
def test_offset_decoder_is_local(seed, x, y):
    maps = disturbed(perfect_maps(discs(200, seed)), seed)
    decoder = OffsetDecoder(max_diameter_um=20)
    window = (x, y, x + 150, y + 160)
    crop = decoder.decode(maps[0][y : y + 160, x : x + 150], maps[1][:, y : y + 160, x : x + 150])
    whole = decoder.decode(*maps)
    expected = inner(whole, window, decoder.margin_px)
    assert len(expected) > 3
    assert inner(crop.translate(x, y), window, decoder.margin_px) == expected


def test_seeds_and_labels_come_in_raster_order():
    labels, scores = decode_offsets(*perfect_maps(discs(80, 3)), OffsetDecoder())
    assert labels.shape == (160, 160)
    assert labels.dtype == np.int32
    assert labels.max() == len(scores) == 36
    rows = [np.nonzero(labels == n)[0].mean() for n in range(1, 37)]
    assert np.all(np.diff([np.mean(rows[k : k + 6]) for k in range(0, 36, 6)]) > 0)


def test_limits_reject():
    maps = perfect_maps(discs(80, 4))
    decoder = OffsetDecoder()
    assert len(decoder.decode(*maps)) == 36
    areas = decoder.decode(*maps).areas() * 0.25
    limit = float(np.sort(areas)[10]) + 1e-6
    assert len(replace(decoder, min_area_um2=limit).decode(*maps)) == 25
    assert len(replace(decoder, min_score=1.01).decode(*maps)) == 0
    assert len(replace(decoder, min_votes=1e6).decode(*maps)) == 0
    # Too large: rejected, not trimmed to what is allowed.
    assert len(replace(decoder, max_diameter_um=4).decode(*maps)) == 0


@pytest.mark.parametrize("value", [np.nan, 1e30, -1e30, np.inf])
def test_senseless_offsets_do_not_vote(value):
    foreground, offsets = perfect_maps(discs(80, 5))
    assert len(OffsetDecoder().decode(foreground, np.full_like(offsets, value))) == 0
    offsets[:, 40:, :] = value
    assert 12 <= len(OffsetDecoder().decode(foreground, offsets)) <= 24
    assert len(OffsetDecoder().decode(np.full_like(foreground, np.nan), offsets)) == 0


def test_empty_and_wrong_maps():
    assert len(OffsetDecoder().decode(np.zeros((64, 64), np.float32), np.zeros((2, 64, 64), np.float32))) == 0
    with pytest.raises(ValueError, match="offsets of shape"):
        OffsetDecoder().decode(np.zeros((64, 64), np.float32), np.zeros((64, 64, 2), np.float32))


@pytest.mark.parametrize("decoder", [OffsetDecoder(), WatershedDecoder()])
def test_decoders_are_values(decoder):
    assert pickle.loads(pickle.dumps(decoder)) == decoder
    assert decoder.margin_px > 0
    assert replace(decoder, max_diameter_um=100).margin_px > decoder.margin_px


def test_watershed_divides_touching_discs():
    labels = discs(160, 6, spacing=18, radii=(6.5, 8.5))
    foreground, _ = perfect_maps(labels)
    nuclei = WatershedDecoder().decode(foreground)
    assert evaluate(labels, painted(nuclei, labels.shape)).aji > 0.8
    assert shapely.is_valid(nuclei.geometry()).all()
    assert (nuclei.columns["score"] > 0.5).all()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 40), st.integers(0, 40))
def test_watershed_decoder_is_local(seed, x, y):
    foreground = disturbed(perfect_maps(discs(200, seed, spacing=18)), seed)[0]
    decoder = WatershedDecoder(max_diameter_um=20)
    window = (x, y, x + 150, y + 160)
    crop = decoder.decode(foreground[y : y + 160, x : x + 150])
    expected = inner(decoder.decode(foreground), window, decoder.margin_px)
    assert len(expected) > 3
    assert inner(crop.translate(x, y), window, decoder.margin_px) == expected


def test_watershed_labels_cover_the_mask_and_are_connected():
    mask = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=(200, 220)), 5) > 0.01
    labels = decode_mask(mask, WatershedDecoder(min_distance_um=0))
    assert not labels[~mask].any()
    assert (labels[mask] > 0).mean() > 0.99
    for n in range(1, labels.max() + 1):
        assert ndimage.label(labels == n)[1] == 1
    np.testing.assert_array_equal(decode_mask(mask, WatershedDecoder(min_distance_um=0)), labels)


@pytest.mark.parametrize("mask", [np.zeros((30, 40), bool), np.ones((30, 40), bool)])
def test_watershed_of_nothing_and_of_everything(mask):
    labels = decode_mask(mask, WatershedDecoder())
    assert labels.shape == mask.shape
    assert (labels > 0).all() == mask.all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_distance_transform_agrees_with_scipy(seed, limit):
    rng = np.random.default_rng(seed)
    mask = rng.random((23, 31)) < rng.uniform(0.5, 0.99)
    if mask.all():
        mask[4, 5] = False
    np.testing.assert_allclose(
        distance_transform(mask, limit), np.minimum(ndimage.distance_transform_edt(mask), limit), rtol=1e-6
    )


def test_fill_holes():
    mask = np.ones((12, 12), bool)
    mask[2:4, 2:4] = mask[6:10, 6:10] = False
    filled = fill_holes(mask, 4)
    assert filled[2:4, 2:4].all()
    assert not filled[6:10, 6:10].any()
    assert not mask[2, 2]


def test_smoothing_agrees_with_scipy():
    image = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    expected = ndimage.gaussian_filter(image, 1.5, mode="constant", radius=kernel_radius(1.5))
    np.testing.assert_allclose(smooth(image, 1.5), expected, rtol=1e-4, atol=1e-6)
    assert smooth(image, 0) is image


def test_enlarging_keeps_area_and_place():
    image = np.random.default_rng(0).random((6, 7)).astype(np.float32)
    assert np.array_equal(enlarge(image, 1), image)
    i, j = (np.mgrid[:12, :14] + 0.5) / 2 - 0.5
    expected = ndimage.map_coordinates(image, [i, j], order=1, mode="nearest")
    np.testing.assert_allclose(enlarge(image, 2), expected, rtol=1e-5)


def test_maxima_break_ties_by_position():
    image = np.zeros((20, 20), np.float32)
    image[5:8, 5:8] = 1  # a plateau has one maximum, its first pixel
    image[15, 15], image[15, 18] = 2, 3
    rows, columns = maxima(image, 3, 0.5)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(5, 5), (15, 18)]
    assert len(maxima(image, 2.5, 0.5)[0]) == 3
    assert len(maxima(image, 3, 3)[0]) == 0

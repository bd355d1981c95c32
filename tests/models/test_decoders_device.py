"""The votes' decoder in torch against the compiled one, on tensors of the processor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from wsiseg.core.geometry import Window  # noqa: E402
from wsiseg.core.raster import runs_of  # noqa: E402
from wsiseg.errors import ModelError  # noqa: E402
from wsiseg.models.decoders import OffsetDecoder, decode_offsets  # noqa: E402
from wsiseg.models.decoders import offsets_torch as device  # noqa: E402
from wsiseg.models.decoders.maps import maxima, smooth  # noqa: E402
from wsiseg.models.decoders.offsets import _nearest_seed  # noqa: E402
from wsiseg.models.engine.speed import drawn_tissue  # noqa: E402
from wsiseg.models.registry import load_segmenter  # noqa: E402
from wsiseg.slide import open_slide  # noqa: E402
from wsiseg.testing.decoding import discs, disturbed, perfect_maps  # noqa: E402

USUAL = OffsetDecoder()


def both(foreground, offsets, decoder=USUAL):
    labels, scores = decode_offsets(foreground, offsets, decoder)
    found = device.decode_offsets_on_device(torch.from_numpy(foreground), torch.from_numpy(offsets), decoder)
    return labels, scores, found[0].numpy(), found[1].numpy()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 2, 3]))
def test_labels_are_those_of_the_compiled_decoder(seed, upsample):
    """But for pixels where rounding decides."""
    decoder = OffsetDecoder(upsample=upsample)
    labels, scores, found, found_scores = both(*disturbed(perfect_maps(discs(120, seed)), seed), decoder)
    assert found.dtype == np.int32
    assert found.shape == labels.shape
    assert len(found_scores) == len(scores)
    assert (labels != found).mean() < 1e-4
    np.testing.assert_allclose(found_scores, scores, atol=1e-3)


def test_nuclei_are_those_of_the_compiled_decoder():
    foreground, offsets = disturbed(perfect_maps(discs(160, 5)), 5)
    decoder = OffsetDecoder()
    expected = decoder.decode(foreground, offsets)
    found = decoder.nuclei(*device.find_on_device(torch.from_numpy(foreground), torch.from_numpy(offsets), decoder))
    assert len(found) == len(expected) > 50
    np.testing.assert_allclose(found.centroids(), expected.centroids(), atol=0.05)


def test_the_order_of_votes_does_not_matter():
    """A device adds in any order; here the image is turned around."""
    foreground, offsets = (torch.from_numpy(part) for part in disturbed(perfect_maps(discs(120, 2)), 2))
    votes = device._votes(foreground, offsets, USUAL)
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(votes.numel(), generator=rng)
    real = torch.nonzero

    def shuffled(mask, as_tuple):
        assert as_tuple
        found = real(mask, as_tuple=True)
        mixed = order[order < len(found[0])]
        return tuple(part[mixed] for part in found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "nonzero", shuffled)
        assert torch.equal(device._votes(foreground, offsets, USUAL), votes)


def calls(function, *arguments):
    """How many functions of torch a call of ``function`` calls."""
    count = 0

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, inner, types, args=(), kwargs=None):
            nonlocal count
            count += 1
            return inner(*args, **(kwargs or {}))

    with Counting():
        function(*arguments)
    return count


def test_calls_of_torch_do_not_grow_with_what_is_found():
    """Nor with the distance within which a pixel is assigned."""
    few, many = ([torch.from_numpy(m) for m in perfect_maps(discs(side, 5))] for side in (40, 200))
    counts = {calls(device.find_on_device, *maps, USUAL) for maps in (few, many)}
    wide = replace(USUAL, assign_radius_px=30.0)
    assert counts == {calls(device.find_on_device, *few, wide)}
    assert counts.pop() < 600  # attributes and operators included


def test_runs_are_those_of_the_processor():
    rng = np.random.default_rng(0)
    for shape in ((17, 23), (1, 9), (9, 1), (0, 4)):
        labels = rng.integers(0, 3, shape).astype(np.int32)
        found, expected = device.label_runs(torch.from_numpy(labels)), runs_of(labels)
        for field in ("rows", "firsts", "stops", "names"):
            assert np.array_equal(getattr(found, field), getattr(expected, field))
            assert getattr(found, field).dtype == np.int64


@pytest.mark.parametrize("value", [np.nan, 1e30, -1e30, np.inf])
def test_senseless_offsets_do_not_vote(value):
    foreground, offsets = perfect_maps(discs(80, 5))
    offsets[:, 40:, :] = value
    labels, scores, found, found_scores = both(foreground, offsets)
    assert np.array_equal(labels, found)
    np.testing.assert_allclose(found_scores, scores, atol=1e-6)
    everything = np.full_like(offsets, value)
    assert both(foreground, everything)[2].max() == 0
    assert both(np.full_like(foreground, np.nan), offsets)[2].max() == 0


def test_maps_without_a_nucleus():
    _, _, found, scores = both(np.zeros((64, 48), np.float32), np.zeros((2, 64, 48), np.float32))
    assert found.shape == (128, 96)
    assert not found.any()
    assert scores.shape == (0,)


def test_votes_at_the_border():
    """Nuclei that the image cuts, whose centres lie beyond it as well."""
    foreground = np.ones((24, 30), np.float32)
    i, j = np.indices((24, 30))
    for centre in ((0, 0), (23, 29), (-3, 10), (12, 33), (12, 15)):
        offsets = np.stack([centre[0] - i, centre[1] - j]).astype(np.float32)
        labels, _, found, _ = both(foreground, offsets, replace(OffsetDecoder(), max_diameter_um=80))
        assert np.array_equal(labels, found)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.5, 3.0, 3.5, 4.9]))
def test_maxima_and_ties(seed, radius):
    """Few values: plateaus everywhere."""
    image = np.random.default_rng(seed).integers(0, 4, (17, 23)).astype(np.float32)
    rows, columns = maxima(image, radius, 0.5)
    found = device._maxima(torch.from_numpy(image), radius, 0.5).numpy()
    assert np.array_equal(found, np.stack([rows, columns], axis=1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.sampled_from([2.0, 5.0, 6.5]))
def test_nearest_seeds(seed, count, radius):
    places = np.sort(np.random.default_rng(seed).choice(15 * 21, count, replace=False))
    rows, columns = places // 21, places % 21
    expected = _nearest_seed(rows, columns, (15, 21), radius)
    seeds = torch.from_numpy(np.stack([rows, columns], axis=1))
    for pairs in (1, 300, 1 << 23):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(device, "_MOST_PAIRS", pairs)
            found = device._nearest_seed(seeds, torch.Size((15, 21)), radius)
        assert np.array_equal(found.numpy(), expected)


def test_smoothing():
    image = np.random.default_rng(0).random((20, 31)).astype(np.float32)
    found = device._smooth(torch.from_numpy(image), 1.25).numpy()
    np.testing.assert_allclose(found, smooth(image, 1.25), rtol=1e-5)
    unsmoothed = device._smooth(torch.from_numpy(image), 0)
    assert np.array_equal(unsmoothed.numpy(), image)


@pytest.mark.parametrize("kind", ["drawn", "real"])
@pytest.mark.parametrize("mirrors", [False, True])
def test_a_tiles_way_on_a_device_gives_the_nuclei_of_the_processors(kind, mirrors, request):
    """The same code, device "cpu": bytes go in, runs of labels come out, nothing of the maps in between."""
    segmenter = load_segmenter("unet-0.5", device="cpu", precision="fp32", mirrors=mirrors)
    if kind == "drawn":
        image = drawn_tissue(256, 0.5)
    else:
        with open_slide(request.getfixturevalue("real_data")("slides/CMU-1-Small-Region.svs")) as slide:
            image = slide.read_window(Window(1100, 1000, 256, 256), slide.scale(0.5))
    (expected,) = segmenter.segment([image], {})
    (found,) = segmenter.segment_on_device([image], segmenter.decoder)
    assert len(expected) > 20
    assert len(found) == len(expected)
    assert np.mean(np.abs(found.areas() - expected.areas()) < 0.3) > 0.98
    np.testing.assert_allclose(found.centroids(), expected.centroids(), atol=0.1)
    np.testing.assert_allclose(found.columns["score"], expected.columns["score"], atol=1e-3)


def test_memory_that_does_not_suffice_for_decoding_is_tried_for_again(monkeypatch):
    segmenter = load_segmenter("unet-0.5", device="cpu", precision="fp32")
    image = drawn_tissue(128, 0.5)
    (expected,) = segmenter.segment_on_device([image], segmenter.decoder)
    real, attempts = device.find_on_device, []

    def short(*arguments):
        attempts.append(1)
        if len(attempts) < 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return real(*arguments)

    monkeypatch.setattr(device, "find_on_device", short)
    (found,) = segmenter.segment_on_device([image], segmenter.decoder)
    assert np.array_equal(found.vertices, expected.vertices)
    monkeypatch.setattr(
        device, "find_on_device", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("no"))
    )
    with pytest.raises(ModelError, match="smaller --tile, or fewer --workers"):
        segmenter.segment_on_device([image], segmenter.decoder)

"""Networks that are asked together: the mean of their maps, at the finest resolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from wsiseg.errors import ModelError
from wsiseg.models.engine.joined import mean_of_networks, reduced
from wsiseg.models.heads import head_by_name
from wsiseg.models.network import NetworkSegmenter
from wsiseg.models.registry import (
    WEIGHTS,
    describe_model,
    joined_names,
    load_segmenter,
    locate_model,
    model_files,
)

BOTH = "unet-0.25+unet-0.5"
pytestmark = pytest.mark.usefixtures("one_thread")


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def both() -> NetworkSegmenter:
    found = load_segmenter(BOTH, device="cpu", precision="fp32")
    assert isinstance(found, NetworkSegmenter)
    return found


def test_an_image_is_reduced_to_means() -> None:
    pixels = image(8, 12)
    half = reduced(pixels, 2)
    means = pixels.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(half - means).max() <= 0.5
    assert reduced(pixels, 1) is pixels


def test_lengths_and_places_are_those_of_the_finest() -> None:
    """A coarser network that is right about a plane is right about it at the finer resolution."""
    head = head_by_name("offsets")

    def plane(side: int, pixel: float) -> tuple[torch.Tensor, ...]:
        middle = (torch.arange(side) + 0.5) * pixel
        foreground = (middle / 64)[:, None].expand(side, side)
        offsets = torch.stack([(32 - middle)[:, None].expand(side, side) / pixel, torch.zeros(side, side)])
        return foreground, offsets

    runs = [(1, lambda images: [plane(64, 1.0)]), (2, lambda images: [plane(32, 2.0)])]
    foreground, offsets = mean_of_networks(runs, image(64, 64), head)
    fine = plane(64, 1.0)
    inner = slice(2, -2)
    assert torch.allclose(foreground[inner, inner], fine[0][inner, inner], atol=1e-5)
    assert torch.allclose(offsets[:, inner, inner], fine[1][:, inner, inner], atol=1e-4)


def test_maps_are_the_mean_of_both(both: NetworkSegmenter) -> None:
    fine, coarse = (load_segmenter(name, device="cpu", precision="fp32") for name in BOTH.split("+"))
    assert isinstance(fine, NetworkSegmenter)
    assert isinstance(coarse, NetworkSegmenter)
    pixels = image(64, 96)
    ((foreground, offsets),) = both.maps([pixels])
    (own,), (other,) = fine.maps([pixels]), coarse.maps([reduced(pixels, 2)])
    assert foreground.shape == (64, 96)
    assert offsets.shape == (2, 64, 96)
    middle = other[0].reshape(32, 48)
    # In the mean over a large image interpolation changes nothing.
    assert abs(float(foreground.mean()) - (float(own[0].mean()) + float(middle.mean())) / 2) < 2e-3


def test_the_order_of_the_names_does_not_matter(both: NetworkSegmenter) -> None:
    other = load_segmenter("unet-0.5+unet-0.25", device="cpu", precision="fp32")
    assert other.describe() == both.describe()
    assert other.name == BOTH


def test_it_says_what_it_consists_of(both: NetworkSegmenter) -> None:
    described = both.describe()
    (other,) = described["others"]
    assert (described["mpp"], other["mpp"]) == (0.25, 0.5)
    assert described["weights_sha256"] != other["weights_sha256"]
    assert "others" not in load_segmenter("unet-0.5", device="cpu").describe()
    assert both.stride_px % both.others[0].stride_px == 0
    assert both.margin_px >= max(2 * both.others[0].margin_px, 96)
    assert model_files(BOTH) == (WEIGHTS / "unet-0.25.safetensors", WEIGHTS / "unet-0.5.safetensors")


def test_a_pixel_sees_no_farther_than_the_margin(both: NetworkSegmenter) -> None:
    """So that tiles, which are computed with it, show what the whole shows."""
    margin, stride = both.margin_px, both.stride_px
    side = -(-(2 * margin + 64) // stride) * stride
    pixels = image(side, side)
    changed = pixels.copy()
    middle = side // 2
    changed[: middle - margin] = 255
    ((before, _),), ((after, _),) = both.maps([pixels]), both.maps([changed])
    # As with one network: the measured margin leaves a trace of no account.
    assert np.abs(before[middle] - after[middle]).max() < 0.02


@pytest.mark.parametrize("model", ["unet-0.5+", "unet-0.5+unet-0.5", "unet-0.5+classical", "auto+unet-0.5"])
def test_what_cannot_be_joined(model: str) -> None:
    with pytest.raises(ModelError, match="different networks joined"):
        load_segmenter(model)


def test_other_heads_and_scales_are_not_joined(both: NetworkSegmenter) -> None:
    with pytest.raises(ModelError, match=r"neither a model"):
        load_segmenter("unet-0.5+none")
    with pytest.raises(ModelError, match="are several"):
        describe_model(BOTH)


def test_a_plus_in_a_files_name_joins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a+b.safetensors", "a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes((WEIGHTS / "unet-0.5.safetensors").read_bytes())
    assert joined_names("a+b.safetensors") == ("a+b.safetensors",)
    assert joined_names("a.safetensors+unet-0.25") == ("a.safetensors", "unet-0.25")
    assert locate_model("a.safetensors+unet-0.25") == f"{tmp_path / 'a.safetensors'}+unet-0.25"

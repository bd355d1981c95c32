"""AdaIN: the normalisation, a user's weights, what is saved, the closest style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from wsiseg.errors import ModelError
from wsiseg.synth.renderers.adain.networks import (
    AdaINConfig,
    Encoder,
    StyleTransfer,
    load_vgg,
    moments,
    normalise,
)
from wsiseg.synth.renderers.adain.renderer import _closest
from wsiseg.synth.renderers.adain.styles import Style, content_of, tiles_of
from wsiseg.testing.images import stained

THIN = AdaINConfig((4, 4, 8, 8), (1, 1, 1, 1))


def styles() -> list[Style]:
    images = [stained(seed, 96) for seed in range(2)]
    return [Style(image, ndimage.label(image[..., 0] < 120)[0].astype(np.int32)) for image in images]


def test_normalised_features_have_the_style_s_moments() -> None:
    torch.manual_seed(0)
    content, style = torch.randn(2, 5, 8, 8), 3 * torch.randn(2, 5, 16, 16) + 2
    for one, other in zip(moments(normalise(content, style)), moments(style), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_sizes_of_the_features_and_of_what_is_decoded() -> None:
    made = StyleTransfer.new(AdaINConfig((16, 32, 64, 128), (1, 1, 2, 1)), 0.25, 0)
    levels = made.encoder(torch.rand(1, 3, 48, 32))
    assert [tuple(level.shape[1:]) for level in levels] == [(16, 48, 32), (32, 24, 16), (64, 12, 8), (128, 6, 4)]
    assert made.decoder(levels[-1]).shape == (1, 3, 48, 32)
    odd = content_of(np.ones((37, 50), dtype=np.int32))
    assert made.transfer_alone(odd, stained(0, 64)).shape == (37, 50, 3)


def test_a_user_s_weights_of_vgg_are_those_of_the_encoder(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = Encoder(AdaINConfig()).state_dict()
    assert [tuple(value.shape[:2]) for key, value in state.items() if key.endswith("weight")] == [
        (64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (256, 256), (512, 256),
    ]  # fmt: skip
    layers = (0, 2, 5, 7, 10, 12, 14, 16, 19)
    keys = [key.rsplit(".", 1)[0] for key in state if key.endswith("weight")]
    given = {
        f"features.{n}.{part}": state[f"{key}.{part}"]
        for n, key in zip(layers, keys, strict=True)
        for part in ("weight", "bias")
    }
    save_file({**given, "classifier.0.bias": torch.zeros(2)}, tmp_path / "vgg.safetensors")
    loaded = load_vgg(tmp_path / "vgg.safetensors").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="no weights of VGG-19"):
        load_vgg(tmp_path / "other.safetensors")


def test_weights_are_saved_and_read_back(tmp_path: Path) -> None:
    made = StyleTransfer.new(THIN, 0.25, 3)
    made.save(tmp_path / "adain.safetensors", {"name": "thin"})
    again = StyleTransfer.load(tmp_path / "adain.safetensors")
    mask, style = content_of(styles()[0].labels), styles()[1].image
    np.testing.assert_array_equal(again.transfer_alone(mask, style), made.transfer_alone(mask, style))
    (tmp_path / "adain.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"adain\.safetensors"):
        StyleTransfer.load(tmp_path / "adain.safetensors")


def test_the_style_is_the_tile_with_the_closest_number_of_nuclei() -> None:
    tiles = tiles_of(styles(), 48)
    assert len(tiles) == 8
    counts = [count for _, count in tiles]
    for wanted in (0, min(counts) + 1, 500):
        chosen = _closest(np.random.default_rng(0), tiles, wanted)
        found = next(count for image, count in tiles if image is chosen)
        assert abs(found - wanted) == min(abs(count - wanted) for count in counts)


def test_a_level_of_the_encoder_is_padded_by_reflection() -> None:
    made = StyleTransfer.new(THIN, 0.25, 0).encoder
    image, first = torch.rand(1, 3, 16, 16), made.levels[0][0]
    padded = torch.nn.functional.pad((image - made.mean) / made.sd, (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(made(image)[0], torch.relu(first(padded)))


def test_nuclei_are_the_dark_part_of_a_mask() -> None:
    labels = np.array([[0, 3], [1, 0]])
    np.testing.assert_array_equal(content_of(labels)[..., 0], [[255, 0], [0, 255]])

"""Heads: from raw maps to nuclei, for every network of the registry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wsiseg.errors import ModelError  # noqa: E402
from wsiseg.models.decoders import (  # noqa: E402
    DECODERS,
    HoverDecoder,
    OffsetDecoder,
    OtsuDecoder,
    StarConvexDecoder,
    build_decoder,
    decoder_name,
    slope_ranges,
)
from wsiseg.models.heads import HEADS, head_by_name, head_of  # noqa: E402
from wsiseg.models.networks import network_config, network_names  # noqa: E402

SIDE = 48
RADIUS = 9.0

pytestmark = pytest.mark.usefixtures("one_thread")


def raw_maps(head: str) -> dict[str, torch.Tensor]:
    """What a faultless network says of one disc in the middle of an image, as a batch of one."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    distance = np.hypot(y, x)
    logit = np.where(distance < RADIUS, 9.0, -9.0)
    inside = distance < RADIUS
    angle = 2 * np.pi * np.arange(32)[:, None, None] / 32
    along = x * np.cos(angle) + y * np.sin(angle)
    rays = -along + np.sqrt(np.maximum(along**2 + RADIUS**2 - distance**2, 0))
    stack = {
        "foreground": [logit],
        "offsets": [-y, -x],
        "depth": [distance],
        "detection": [np.where(distance < 3, 9.0, -9.0)],
        "segmentation": [logit],
        "np": [-logit, logit],
        "hv": [np.where(inside, x / RADIUS, 0), np.where(inside, y / RADIUS, 0)],
        "tp": [-logit, logit - 20, logit],
        "probability": [8 - distance],
        "rays": list(rays),
        "classes": [-logit, logit, logit - 20],
    }
    return {name: torch.from_numpy(np.stack(stack[name]).astype(np.float32))[None] for name in HEADS[head].maps}


@pytest.mark.parametrize("name", HEADS)
def test_raw_maps_of_a_disc_become_the_disc(name: str) -> None:
    head = HEADS[name]
    raw = raw_maps(name)
    assert head.fits({key: value.shape[1] for key, value in raw.items()})
    maps = [value[0].numpy() for value in head.activate(raw)]
    for decoder in head.decoders:
        nuclei = head.decode(maps, build_decoder(decoder, {"mpp": 0.5}))
        assert len(nuclei) == 1, decoder
        np.testing.assert_allclose(nuclei.centroids(), [[SIDE / 2, SIDE / 2]], atol=0.3)
        assert float(nuclei.areas()[0]) == pytest.approx(np.pi * RADIUS**2, rel=0.06)
        assert 0.5 < float(nuclei.columns["score"][0]) <= 1


def test_types_are_optional_and_reach_the_nuclei() -> None:
    head = HEADS["hover"]
    raw = raw_maps("hover")
    maps = [value[0].numpy() for value in head.activate(raw)]
    assert head.decode(maps, HoverDecoder()).columns["type"].tolist() == [2]
    del raw["tp"]
    without = [value[0].numpy() for value in head.activate(raw)]
    assert len(without) == 2
    assert "type" not in head.decode(without, HoverDecoder()).columns


def test_every_network_has_a_head() -> None:
    heads = {name: head_of(network_config(name).outputs).name for name in network_names()}
    assert heads == {
        "unet": "offsets",
        "joyce": "foreground",
        "hou": "seeds",
        "unet-resnet34": "foreground",
        "unet-densenet121": "foreground",
        "unet-xception": "foreground",
        "unet-efficientnet-lite2": "foreground",
        "hovernet-original": "hover",
        "hovernet-fast": "hover",
        "cnn3": "classes",
    }
    assert head_of({"np": 2, "hv": 2, "tp": 6}).name == "hover"


@pytest.mark.parametrize("network", ["unet", "unet-resnet34"])
@pytest.mark.parametrize("head", HEADS)
def test_unets_take_every_head(head: str, network: str) -> None:
    assert head_of(network_config(network, {"head": head}).outputs).name == head


@pytest.mark.parametrize(
    "outputs", [{}, {"foreground": 2}, {"foreground": 1, "other": 1}, {"np": 2, "hv": 2, "tp": 1}, {"np": 2}]
)
def test_maps_without_a_head_are_refused(outputs: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="no head has the maps"):
        head_of(outputs)


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(ModelError, match="no head 'x'; there are offsets, foreground"):
        head_by_name("x")


def test_maps_survive_being_stacked() -> None:
    for head in HEADS.values():
        raw = raw_maps(head.name)
        active = head.activate(raw)
        stacked = torch.cat([x[:, None] if x.ndim == 3 else x for x in active], dim=1)[0].numpy()
        channels = {name: raw[name].shape[1] for name in head.inputs}
        for before, after in zip(active, head.split(stacked, channels), strict=True):
            assert np.array_equal(before[0].numpy(), after)


# --- statistics of the whole slide ----------------------------------------------------------------------------


def test_decoders_that_look_at_neighbourhoods_read_no_sample() -> None:
    def never() -> Iterator[tuple[np.ndarray, ...]]:
        raise AssertionError("read")
        yield ()

    assert HEADS["offsets"].calibrate(never(), OffsetDecoder()) == {}
    assert HEADS["star"].calibrate(never(), StarConvexDecoder()) == {}


def test_otsu_and_hover_take_one_statistic_for_all_tiles() -> None:
    rng = np.random.default_rng(0)
    maps = [(rng.random((64, 64)).astype(np.float32),) for _ in range(3)]
    decoder = OtsuDecoder()
    assert HEADS["foreground"].calibrate(maps, decoder) == {"threshold": decoder.threshold(m[0] for m in maps)}
    distances = [rng.normal(size=(2, 64, 64)).astype(np.float32) * n for n in (1, 3, 2)]
    found = HEADS["hover"].calibrate([(d[0], d) for d in distances], HoverDecoder())
    ranges = [slope_ranges(d) for d in distances]
    assert found == {
        "slope_x_lowest": min(r[0][0] for r in ranges),
        "slope_x_highest": max(r[0][1] for r in ranges),
        "slope_y_lowest": min(r[1][0] for r in ranges),
        "slope_y_highest": max(r[1][1] for r in ranges),
    }


def test_calibration_decides() -> None:
    head = HEADS["hover"]
    maps = [value[0].numpy() for value in head.activate(raw_maps("hover"))]
    flat = {f"slope_{axis}_{end}": value for axis in "xy" for end, value in (("lowest", -2.0), ("highest", -1.0))}
    assert len(head.decode(maps, HoverDecoder())) == 1
    # No slope is as steep as these: nothing is a border, and nothing differs from the whole foreground.
    assert float(head.decode(maps, HoverDecoder(), flat).areas()[0]) >= float(
        head.decode(maps, HoverDecoder()).areas()[0]
    )
    soft = [np.linspace(0, 1, 48 * 48, dtype=np.float32).reshape(48, 48)]
    half, most = (HEADS["foreground"].decode(soft, OtsuDecoder(), {"threshold": t}) for t in (0.5, 0.25))
    assert most.areas().sum() > half.areas().sum() > 0


# --- decoders by name -----------------------------------------------------------------------------------------


def test_decoders_by_name() -> None:
    for name, kind in DECODERS.items():
        assert build_decoder(name) == kind()
        assert decoder_name(kind()) == name
    assert build_decoder("offsets", {"upsample": 3.0, "threshold": 1}) == OffsetDecoder(upsample=3, threshold=1.0)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("votes", {}, "no decoder 'votes'; there are offsets"),
        ("offsets", {"depth": 1}, r"no parameters \['depth'\]; it has mpp, threshold"),
        ("offsets", {"mpp": "0.5"}, "mpp is '0.5', expected a finite number"),
        ("offsets", {"threshold": float("nan")}, "threshold is nan"),
        ("offsets", {"threshold": True}, "threshold is True"),
        ("offsets", {"upsample": 1.5}, "upsample is 1.5, expected a whole number"),
        ("hover", {"mpp": -0.25}, "microns per pixel above 0"),
    ],
)
def test_decoders_that_cannot_be(name: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_decoder(name, parameters)

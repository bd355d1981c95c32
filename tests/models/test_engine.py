"""The engine runs every network of the registry: sizes, borders, windows, and nuclei where they are."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from wsiseg.errors import ModelError, UsageError  # noqa: E402
from wsiseg.models.base import Image, ModelCard, Segmenter  # noqa: E402
from wsiseg.models.decoders import build_decoder  # noqa: E402
from wsiseg.models.engine.engine import Engine, Placement, place  # noqa: E402
from wsiseg.models.engine.folding import fold_batch_norm  # noqa: E402
from wsiseg.models.engine.mirrors import mean_of_mirrors  # noqa: E402
from wsiseg.models.engine.threads import share, side_by_side  # noqa: E402
from wsiseg.models.engine.windows import pieces  # noqa: E402
from wsiseg.models.heads import HEADS, head_of  # noqa: E402
from wsiseg.models.network import NetworkSegmenter  # noqa: E402
from wsiseg.models.networks import build_network, network_config, network_names  # noqa: E402
from wsiseg.models.networks.hovernet import HoVerNetConfig  # noqa: E402
from wsiseg.models.networks.sizes import input_side  # noqa: E402
from wsiseg.models.registry import load_segmenter  # noqa: E402
from wsiseg.models.weightfile import Named, save_weights  # noqa: E402
from wsiseg.testing.networks import THIN, thin  # noqa: E402

FP32 = Placement("cpu", "fp32", 1)

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- every network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", network_names())
def test_maps_have_the_images_size_and_come_from_the_network(name: str) -> None:
    """Padded by what the network lacks, the image gives what the network itself gives."""
    network = thin(name)
    config = network.config
    stride = config.stride_px
    height, width = -(-40 // stride) * stride, -(-72 // stride) * stride
    image = noise(height, width)
    (tall, border), (wide, _) = input_side(config, height), input_side(config, width)
    frame = ((border, tall - height - border), (border, wide - width - border), (0, 0))
    padded = np.pad(image, frame, mode="reflect")
    x = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        expected = [v[0].numpy() for v in head_of(config.outputs).activate(network(x))]
    (found,) = Engine(network, FP32).run([image])
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        assert a.shape[-2:] == (height, width)
        np.testing.assert_allclose(a, b[..., :height, :width], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["unet", "hou", "hovernet-fast", "cnn3"])
def test_windows_give_the_maps_of_the_whole_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = thin(name)
    stride = network.config.stride_px
    image = noise(-(-170 // stride) * stride, -(-330 // stride) * stride)
    monkeypatch.setattr(type(network.config), "window_px", None)
    (whole,) = Engine(thin(name), FP32).run([image])
    monkeypatch.setattr(type(network.config), "window_px", 64)
    assert len(pieces(image, network.config)) == 3 * -(-image.shape[1] // (64 // stride * stride))
    (windowed,) = Engine(thin(name), FP32).run([image])
    for a, b in zip(whole, windowed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("precision", "mirrors"), [("fp32", False), ("bf16", False), ("fp32", True)])
def test_threads_share_the_windows_and_change_no_byte(
    precision: str, mirrors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = thin("hovernet-fast")
    monkeypatch.setattr(type(network.config), "window_px", 48)
    engine = Engine(network, Placement("cpu", precision, 1))
    image = noise(16, 144)
    busy, most, lock = 0, 0, threading.Lock()
    forward = engine._forward

    def watched(images: list[Image]) -> torch.Tensor:
        nonlocal busy, most
        assert torch.get_num_threads() == 1
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.01)
        found = forward(images)
        with lock:
            busy -= 1
        return found

    monkeypatch.setattr(engine, "_forward", watched)

    def run() -> list[bytes]:
        if mirrors:
            return [maps.numpy().tobytes() for maps in mean_of_mirrors(engine.run_on_device, image, engine.head)]
        return [maps.tobytes() for maps in engine.run([image])[0]]

    torch.set_num_threads(1)
    expected = run()
    assert most == 1
    for threads in (1, 3):
        most = 0
        with side_by_side(threads):
            assert run() == expected
        assert most == threads


def test_side_by_side_computes_with_one_thread_of_torch_and_gives_back_what_it_had() -> None:
    torch.set_num_threads(2)
    try:
        with side_by_side(3):
            assert list(share(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
        assert list(share(lambda _: torch.get_num_threads(), range(2))) == [2, 2]
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("side", "most"), [(512, 512), (520, 264), (1256, 424), (2040, 512)])
def test_windows_are_of_like_size_and_overlap_as_far_as_the_network_sees(side: int, most: int) -> None:
    config = thin("hovernet-fast").config
    found = pieces(noise(side, side), config)
    count = -(-side // config.window_px)
    assert len(found) == count**2
    rows = {(piece.outer[0].start, piece.outer[0].stop) for piece in found}
    assert max(stop - start for start, stop in rows) == most
    for piece in found:
        height = piece.pixels.shape[0]
        above, below = piece.inner[0].start, height - 2 * config.border_px - piece.inner[0].stop
        inner = (piece.outer[0].start > 0, piece.outer[0].stop < side)
        assert [above + config.border_px >= config.reach_px, below + config.border_px >= config.reach_px] == [
            *inner
        ]


@pytest.mark.parametrize("name", network_names())
def test_weight_files_of_every_network_are_segmenters(name: str, tmp_path: Path) -> None:
    network = thin(name)
    path = tmp_path / "some.safetensors"
    head = head_of(network.config.outputs)
    decoder = Named(head.decoders[-1], {"mpp": 0.4, "max_diameter_um": 8})
    named = Named(name, THIN.get(name, {}))
    save_weights(path, network.state_dict(), ModelCard("some", "", "CC0-1.0"), named, decoder)
    segmenter = load_segmenter(str(path), device="cpu", precision="fp32")
    assert isinstance(segmenter, NetworkSegmenter)
    assert isinstance(segmenter, Segmenter)
    assert segmenter.mpp == 0.4
    assert segmenter.margin_px == network.config.reach_px + segmenter.decoder.margin_px
    described = segmenter.describe()
    assert described["network"]["name"] == name
    assert described["head"] == head.name
    assert described["decoder"]["name"] == head.decoders[-1]
    side = 32 * (2 if name.startswith("unet-") else 1)
    calibration = segmenter.calibrate(iter([noise(side + 3, side + 5)]))
    (nuclei,) = segmenter.segment([noise(side, side)], calibration)
    assert "score" in nuclei.columns
    if len(nuclei):
        assert nuclei.bounds().min() > -1


def test_a_measured_margin_is_kept(tmp_path: Path) -> None:
    path, network = tmp_path / "some.safetensors", thin("unet")
    card, named = ModelCard("some", "", "CC0-1.0"), Named("unet", THIN["unet"])
    save_weights(path, network.state_dict(), card, named, Named("offsets"), margin_px=20)
    assert load_segmenter(str(path), device="cpu").margin_px == 20


# --- sizes ----------------------------------------------------------------------------------------------------


def test_sides_that_hovernet_needs() -> None:
    """270 → 80, 256 → 164, as its authors run it; the side rules are 8·k + 6 and 8·k."""
    original, fast = HoVerNetConfig("original"), HoVerNetConfig("fast")
    assert input_side(original, 80) == (270, 95)
    assert input_side(fast, 164) == (256, 46)
    assert input_side(fast, 160) == (256, 46)
    assert input_side(original, 8) == (198, 95)
    assert input_side(network_config("cnn3"), 1) == (51, 25)
    assert input_side(network_config("unet"), 48) == (48, 0)


def test_an_image_that_needs_nothing_is_not_copied() -> None:
    image = noise(32, 48)
    (piece,) = pieces(image, network_config("unet"))
    assert piece.pixels is image


def test_windows_cover_the_image_once() -> None:
    config = network_config("hovernet-original")
    image = noise(1200, 520)
    found = pieces(image, config)
    count = np.zeros(image.shape[:2], dtype=int)
    for piece in found:
        count[piece.outer] += 1
        height, width = config.output_shape(*piece.pixels.shape[:2])
        kept = np.zeros((height, width))[piece.inner].shape
        assert kept == count[piece.outer].shape
        assert max(piece.pixels.shape) <= 512 + 2 * (160 + 95) + 8
    assert (count == 1).all()
    assert len(found) == 6


# --- folding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"),
    [("unet", 0), ("hou", 0), ("unet-resnet34", 0), ("unet-densenet121", 62), ("hovernet-fast", 58)],
)
def test_folding_leaves_the_maps_as_they_are(name: str, left: int) -> None:
    """Normalisations before a rectifier or of a sum stay: those cannot be merged."""
    network = thin(name)
    side = input_side(network.config, 32)[0]
    x = torch.tanh(torch.randn(1, 3, side, side))
    with torch.inference_mode():
        before = network(x)
    fold_batch_norm(network, x)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == left
    with torch.inference_mode():
        for key, value in network(x).items():
            torch.testing.assert_close(value, before[key], rtol=1e-3, atol=1e-4)


class _Tangle(nn.Module):
    """Normalisations that must not be folded: the convolution's output, or the convolution, is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.shared = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm, self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.seen(x)
        return self.norm(seen) + seen + self.one(self.shared(x)) * self.two(self.shared(x + 1))


class _Both(nn.Module):
    """Gives the convolution's output as well as the normalised one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        raw = self.conv(x)
        return {"raw": raw, "norm": self.norm(raw)}


def test_what_the_network_returns_is_not_folded() -> None:
    torch.manual_seed(0)
    network = _Both().eval()
    network.norm.running_mean.normal_()
    x = torch.randn(1, 3, 4, 4)
    before = network(x)
    fold_batch_norm(network, x)
    torch.testing.assert_close(network(x), before)


def test_what_is_used_twice_is_not_folded() -> None:
    torch.manual_seed(0)
    network = _Tangle().eval()
    for module in (network.norm, network.one, network.two):
        module.running_mean.normal_()
        module.running_var.uniform_(1, 4)
    x = torch.randn(1, 3, 4, 4)
    before = network(x)
    fold_batch_norm(network, x)
    assert all(isinstance(m, nn.BatchNorm2d) for m in (network.norm, network.one, network.two))
    torch.testing.assert_close(network(x), before)


# --- maps that are no numbers, mirrors ------------------------------------------------------------------------


def test_infinite_logits_and_types_are_refused() -> None:
    """An infinite logit would be the probability 1, the likeliest of types that are no numbers type 0."""
    network = thin("joyce")
    with torch.no_grad():
        network.head.bias.fill_(float("inf"))
    with pytest.raises(ModelError, match="not finite"):
        Engine(network, FP32).run([noise(32, 32)])
    network = thin("hovernet-fast")
    with torch.no_grad():
        network.decoder["tp"].u0.conv.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        Engine(network, FP32).run([noise(32, 32)])


@pytest.mark.parametrize(("name", "rays", "tolerance"), [*((name, 32, 1e-5) for name in HEADS), ("star", 33, 0.06)])
def test_mirrors_turn_every_kind_of_map(name: str, rays: int, tolerance: float) -> None:
    """A network whose maps are right for any image gives the same maps averaged over mirrors."""
    head, side = HEADS[name], 24

    def run(images: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """The truth about a dark disc, wherever it is."""
        found = []
        for image in images:
            y, x = np.nonzero(image[..., 0] == 0)
            dy, dx = np.indices((side, side)) - np.array([y.mean(), x.mean()])[:, None, None]
            angle = 2 * np.pi * np.arange(rays)[:, None, None] / rays
            stack = {
                "logit": np.exp(-np.hypot(dy, dx)),
                "classes": np.exp(-np.hypot(dy, dx)),
                "types": np.stack([np.hypot(dy, dx) > 4, np.hypot(dy, dx) < 4]).astype(float),
                "offsets": np.stack([-dy, -dx]),
                "distances": np.stack([dx, dy]),
                "rays": 9 - dx * np.cos(angle) - dy * np.sin(angle),
            }
            found.append(tuple(stack[head.maps[key].kind].astype(np.float32) for key in head.inputs))
        return found

    image = np.full((side, side, 3), 255, dtype=np.uint8)
    image[5:9, 13:16] = 0
    (expected,) = run([image])
    found = mean_of_mirrors(
        lambda images: [tuple(map(torch.from_numpy, maps)) for maps in run(images)], image, head
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def test_decoders_read_what_the_engine_gives() -> None:
    """A disc through CNN3's border: the nucleus lies where the disc is, not 25 pixels beside it."""
    network = build_network("cnn3", {"maps": (1, 1, 1), "hidden": 1}).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for conv in network.convs:
            conv.weight[:, :, conv.weight.shape[2] // 2, conv.weight.shape[3] // 2] = 1 / conv.weight.shape[1]
        network.convs[0].bias.fill_(1.0)
        network.hidden1.weight[..., 0, 0] = 1.0
        network.hidden2.weight.fill_(1.0)
        # Bright (2 after the first layer) is background, dark (0) is inside.
        network.head.weight[:, 0, 0, 0] = torch.tensor([20.0, -20.0, -40.0])
        network.head.bias.copy_(torch.tensor([-20.0, 20.0, -40.0]))
    image = np.full((96, 128, 3), 255, dtype=np.uint8)
    y, x = np.mgrid[:96, :128]
    image[np.hypot(y - 40, x - 70) < 14] = 0
    engine = Engine(network, FP32)
    decoder = build_decoder("watershed", {"mpp": 0.5})
    segmenter = NetworkSegmenter(ModelCard("c", "", ""), "0" * 64, Named("cnn3"), engine, decoder)
    (nuclei,) = segmenter.segment([image], {})
    assert len(nuclei) == 1
    np.testing.assert_allclose(nuclei.centroids(), [[70, 40]], atol=4)


# --- OpenVINO -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["unet", *(pytest.param(n, marks=pytest.mark.slow) for n in network_names() if n != "unet")]
)
def test_openvino_gives_torchs_maps(name: str) -> None:
    """Converted from one size, right for others."""
    pytest.importorskip("openvino")
    stride = thin(name).config.stride_px
    images = [noise(-(-h // stride) * stride, -(-w // stride) * stride) for h, w in ((40, 72), (64, 32))]
    torchs = Engine(thin(name), FP32).run(images)
    for precision, tolerance in (("fp32", 1e-3), ("bf16", 0.1)):
        found = Engine(thin(name), Placement("cpu", precision, 1, "openvino")).run(images)
        for one, other in zip(found, torchs, strict=True):
            for a, b in zip(one, other, strict=True):
                error = float(np.sqrt(np.mean((a - b) ** 2)))
                assert error <= tolerance * max(1e-3, float(np.sqrt(np.mean(b**2))))


def test_a_signal_after_the_end_of_an_openvino_model_on_another_thread() -> None:
    """It killed the process: tests that trained with processes died of it, and Ctrl-C would have."""
    pytest.importorskip("openvino")
    code = """
import gc, os, signal, threading
import numpy as np, openvino
from openvino import opset13
from wsiseg.models.engine.openvino import compiled

heard = []
signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))
image = opset13.parameter([1, 8, 8, 3], np.uint8)
models = [compiled(openvino.Model([opset13.convert(image, "f32")], [image]), "fp32")]
models[0](np.zeros((1, 8, 8, 3), np.uint8))

def end():
    models.clear()
    gc.collect()

thread = threading.Thread(target=end)
thread.start()
thread.join()
for _ in range(9):
    os.kill(os.getpid(), signal.SIGCHLD)
print(len(heard), "signals")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "9 signals\n"), done.stderr


def test_openvino_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"pip install 'wsiseg\[openvino\]', or use --engine torch"):
        load_segmenter("unet-0.5", device="cpu", engine="openvino")


@pytest.mark.parametrize("device", ["cpu:1", "cpu0", "tpu", ""])
def test_devices_that_are_none(device: str) -> None:
    with pytest.raises(UsageError, match="expected auto, cpu, cuda or cuda:N"):
        place(device, "fp32")


def test_engines_by_name() -> None:
    assert place("cpu", "fp32").engine == "torch"
    assert place("auto", "fp32", "openvino") == Placement("cpu", "fp32", 1, "openvino")
    with pytest.raises(UsageError, match="OpenVINO is for processors only"):
        place("cuda", "fp32", "openvino")
    with pytest.raises(UsageError, match="expected auto, torch, openvino"):
        place("cpu", "fp32", "tensorrt")


class _Unconvertible(nn.Module):
    """Its maps depend on what a trace fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = thin("joyce")
        self.config = self.inner.config

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"foreground": self.inner(x)["foreground"] * float(x.shape[2])}


def test_a_wrong_conversion_is_found() -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ModelError, match=r"differ from torch's. Use --engine torch"):
        Engine(_Unconvertible(), Placement("cpu", "fp32", 1, "openvino"))


# --- published checkpoints ------------------------------------------------------------------------------------


def test_published_checkpoints_are_models(tmp_path: Path) -> None:
    """HoVer-Net's `.tar` files, at 0.25 µm a pixel."""
    path = tmp_path / "hovernet_fast.tar"
    torch.save({"desc": thin("hovernet-fast").state_dict()}, path)
    segmenter = load_segmenter(str(path), device="cpu", precision="fp32")
    assert isinstance(segmenter, NetworkSegmenter)
    assert (segmenter.name, segmenter.mpp, segmenter.stride_px) == ("hovernet_fast", 0.25, 8)
    assert segmenter.describe()["network"] == {"name": "hovernet-fast", "parameters": {"types": 3, "divisor": 8}}
    assert "unknown" in segmenter.card.licence
    image = noise(64, 96)
    (expected,) = Engine(thin("hovernet-fast"), FP32).run([image])
    (found,) = segmenter.maps([image])
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    constants = {f"slope_{axis}_{end}" for axis in "xy" for end in ("lowest", "highest")}
    assert set(segmenter.calibrate(iter([image]))) == constants

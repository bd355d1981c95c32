"""Models: the registry, weight files that must be refused, and an engine whose maps depend on the image alone."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wsiseg.errors import ModelError, UsageError  # noqa: E402
from wsiseg.models.base import ModelCard, Segmenter  # noqa: E402
from wsiseg.models.decoders.offsets import OffsetDecoder  # noqa: E402
from wsiseg.models.engine.engine import Engine, Placement, place  # noqa: E402
from wsiseg.models.engine.folding import fold_batch_norm  # noqa: E402
from wsiseg.models.network import NetworkSegmenter, network_segmenter  # noqa: E402
from wsiseg.models.networks.unet import UNet, UNetConfig, drop_auxiliary  # noqa: E402
from wsiseg.models.registry import DEFAULT_MODEL, WEIGHTS, describe_model, list_models, load_segmenter  # noqa: E402
from wsiseg.models.weightfile import load_weights, read_header, save_weights  # noqa: E402
from wsiseg.testing.networks import TINY, tiny_network  # noqa: E402

FP32 = Placement("cpu", "fp32", 1)

pytestmark = pytest.mark.usefixtures("one_thread")


def tissue(height: int = 96, width: int = 96, seed: int = 0) -> np.ndarray:
    """Pink ground, dark discs."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), (228.0, 175.0, 205.0)) + rng.normal(0, 5, (height, width, 1))
    y, x = np.mgrid[:height, :width]
    for cy in range(14, height - 8, 24):
        for cx in range(14, width - 8, 24):
            image[np.hypot(y - cy - rng.uniform(-3, 3), x - cx) < rng.uniform(6, 9)] = (95, 65, 135)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    card = ModelCard("tiny", "random weights", "CC0-1.0")
    save_weights(path, tiny_network().state_dict(), card, {"widths": [4, 8, 8]}, {"min_area_um2": 4.0})
    return path


# --- registry -------------------------------------------------------------------------------------------------


def test_models_are_listed_without_torch() -> None:
    code = (
        "import sys; from wsiseg.models.registry import list_models; cards = list_models(); "
        "assert 'torch' not in sys.modules; print([c.name for c in cards])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().startswith(f"['{DEFAULT_MODEL}'")
    assert "'classical'" in result.stdout


def test_every_card_says_what_a_user_must_know() -> None:
    for card in list_models():
        assert card.summary
        assert card.licence == "Apache-2.0"
        assert card.limits
        if card.name != "classical":
            assert card.data
            assert card.scores
            assert (WEIGHTS / f"{card.name}.md").exists()


def test_the_page_names_the_weights_it_describes() -> None:
    for path in WEIGHTS.glob("*.safetensors"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in path.with_suffix(".md").read_text()
        assert path.stat().st_size < 12e6


def test_default_model_is_a_segmenter() -> None:
    segmenter = load_segmenter(DEFAULT_MODEL, device="cpu")
    assert isinstance(segmenter, Segmenter)
    assert segmenter.mpp == 0.5
    assert segmenter.stride_px == 16
    described = json.loads(json.dumps(segmenter.describe()))
    digest = hashlib.sha256((WEIGHTS / f"{DEFAULT_MODEL}.safetensors").read_bytes()).hexdigest()
    assert described["weights_sha256"] == digest
    assert described == json.loads(json.dumps(load_segmenter(DEFAULT_MODEL, device="cpu").describe()))
    assert segmenter.calibrate(iter([])) == {}


def test_default_model_finds_dark_discs() -> None:
    segmenter = load_segmenter(DEFAULT_MODEL, device="cpu")
    (nuclei,) = segmenter.segment([tissue(128, 160)], {})
    assert 20 <= len(nuclei) <= 40  # 5 × 6 of them
    assert nuclei.columns["score"].dtype == np.float32
    assert nuclei.columns["score"].min() > 0.5
    assert 90 < np.median(nuclei.areas()) < 260  # radius 6 to 9


def test_unknown_names_are_explained() -> None:
    with pytest.raises(ModelError, match=DEFAULT_MODEL):
        load_segmenter("hovernet")
    with pytest.raises(ModelError, match="no such file"):
        load_segmenter("nowhere.safetensors")
    with pytest.raises(UsageError, match="device"):
        load_segmenter(DEFAULT_MODEL, device="tpu")
    with pytest.raises(UsageError, match="precision"):
        load_segmenter(DEFAULT_MODEL, device="cpu", precision="int3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(UsageError, match="CUDA"):
        place("cuda")
    assert place("auto").device == "cpu"


# --- weight files ---------------------------------------------------------------------------------------------


def test_weights_come_back_with_their_card(saved: Path) -> None:
    read = load_weights(saved)
    assert read.card == ModelCard("tiny", "random weights", "CC0-1.0", scores=None)
    assert read.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    for name, tensor in tiny_network().state_dict().items():
        assert torch.allclose(read.state[name].float(), tensor.float(), rtol=1e-3, atol=1e-4), name
    segmenter = load_segmenter(str(saved), device="cpu", precision="fp32")
    assert isinstance(segmenter, NetworkSegmenter)
    assert segmenter.decoder == OffsetDecoder(min_area_um2=4.0)
    assert segmenter.stride_px == 4


@pytest.mark.parametrize("keep", [0, 5, 300, 0.5, 0.99])
def test_truncated_safetensors_are_refused(saved: Path, keep: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(ModelError, match=r"tiny\.safetensors"):
        load_segmenter(str(saved), device="cpu")


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match="not a weight file of wsiseg"):
        load_segmenter(str(tmp_path / "foreign.safetensors"))


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 5 << 30)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".tar", ".toml"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (os.mkfifo, "named pipe"),
        (Path.mkdir, "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (_sparse, "5,368,709,120 bytes"),
    ],
)
def test_what_is_no_file_is_no_model(tmp_path: Path, suffix: str, make: Callable[[Path], None], says: str) -> None:
    """Reading it would wait or last for ever."""
    path = tmp_path / f"m{suffix}"
    make(path)
    for use in (describe_model, load_segmenter):
        with pytest.raises(ModelError, match=rf"m\{suffix}.*{says}"):
            use(str(path))


def test_headers_that_claim_or_nest_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"

    def header(content: bytes, length: int | None = None) -> None:
        path.write_bytes((length or len(content)).to_bytes(8, "little") + content)

    nested = json.dumps({"__metadata__": {"wsiseg": "[" * 100_000}}).encode()
    for content, length in ((b"{}", 10**15), (b"[" * 200_000, None), (nested, None), (b"\xff" * 50, None)):
        header(content, length)
        with pytest.raises(ModelError, match="no readable safetensors header") as caught:
            describe_model(str(path))
        pickle.dumps(caught.value)  # as it travels from a worker


@pytest.mark.parametrize("packaged", [True, False])
def test_a_flipped_bit_is_found_out(saved: Path, tmp_path: Path, packaged: bool) -> None:
    content = bytearray((WEIGHTS / f"{DEFAULT_MODEL}.safetensors" if packaged else saved).read_bytes())
    path = tmp_path / "copy.safetensors"
    path.write_bytes(content)
    load_weights(path)
    content[len(content) // 2 | 1] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"copy\.safetensors.*(damaged|not finite)"):
        load_weights(path)


def test_torch_files_that_grow_when_they_are_read_are_refused(tmp_path: Path) -> None:
    packed, stretched = tmp_path / "packed.pt", tmp_path / "stretched.pt"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("packed/data.pkl", bytes(100_000_000))
    torch.save({"state": {"a": torch.ones(1).expand(10**12)}}, stretched)
    for path, says in ((packed, "packed into it"), (stretched, "larger than the file")):
        with pytest.raises(ModelError, match=says):
            load_weights(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "later.safetensors"
    save_file({"a": torch.zeros(3)}, path, metadata={"wsiseg": json.dumps({"format": 99})})
    with pytest.raises(ModelError, match="format 99"):
        read_header(path)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('executed').write_text('x')",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_torch_file_is_refused(tmp_path: Path, legacy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    if legacy:
        path.write_bytes(pickle.dumps(_Evil()))
    else:
        torch.save({"state": _Evil()}, path)
    with pytest.raises(ModelError, match=r"evil\.pt"):
        load_segmenter(str(path))
    assert not (tmp_path / "executed").exists()


def test_torch_files_of_tensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save({"state": tiny_network().state_dict(), "network": {"widths": [4, 8, 8]}}, path)
    assert load_segmenter(str(path), device="cpu").name == "mine"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="damaged, truncated"):
        load_segmenter(str(path), device="cpu")
    torch.save([1, 2, 3], path)
    with pytest.raises(ModelError, match="state dict"):
        load_segmenter(str(path), device="cpu")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    state = tiny_network().state_dict()
    renamed = {("x." + k if k.startswith("head") else k): v for k, v in state.items()}
    torch.save({"state": renamed, "network": {"widths": [4, 8, 8]}}, path)
    with pytest.raises(ModelError, match=r"missing \['head.bias'"):
        load_segmenter(str(path), device="cpu")
    torch.save({"state": state, "network": {"widths": [8, 8, 8]}}, path)
    with pytest.raises(ModelError, match="do not fit"):
        load_segmenter(str(path), device="cpu")
    torch.save({"state": state, "network": {"widths": [4, 8, 8], "depthwise": True}}, path)
    with pytest.raises(ModelError, match="depthwise"):
        load_segmenter(str(path), device="cpu")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = tiny_network().state_dict()
    state["head.bias"] = torch.full_like(state["head.bias"], float("nan"))
    torch.save({"state": state}, tmp_path / "nan.pt")
    with pytest.raises(ModelError, match=r"head\.bias"):
        load_weights(tmp_path / "nan.pt")
    with pytest.raises(ModelError, match="float16"):
        save_weights(tmp_path / "nan.safetensors", state, ModelCard("n", "", ""), {}, {})


# --- network and engine ---------------------------------------------------------------------------------------


def test_size_and_outputs_of_the_default_network() -> None:
    network = UNet(UNetConfig())
    assert sum(p.numel() for p in network.parameters()) == 1_812_068
    with torch.inference_mode():
        maps = network.eval()(torch.zeros(1, 3, 48, 64))
    assert {name: value.shape for name, value in maps.items()} == {
        "foreground": (1, 1, 48, 64),
        "offsets": (1, 2, 48, 64),
        "depth": (1, 1, 48, 64),
    }


def test_a_stem_halves_the_resolution_inside() -> None:
    """As many parameters as without, fewer operations, maps of the image's size."""
    with torch.device("meta"):
        network = UNet(UNetConfig((32, 64, 128, 256), stem=2))
        maps = network(torch.zeros(1, 3, 48, 64))
    assert network.config.stride_px == 16
    assert network.stem.weight.shape == (32, 3, 4, 4)
    assert network.down[0].conv1.weight.shape == (32, 32, 3, 3)
    assert network.head.weight.shape == (16, 32, 1, 1)
    assert {name: value.shape[1:] for name, value in maps.items()} == {
        "foreground": (1, 48, 64),
        "offsets": (2, 48, 64),
        "depth": (1, 48, 64),
    }


def test_offsets_are_in_pixels() -> None:
    """The last layer gives them in units of offset_scale_px."""
    torch.manual_seed(0)
    network = UNet(TINY).eval()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([1.0, 2.0, -3.0, 4.0]))
        maps = network(torch.zeros(1, 3, 8, 8))
    assert [float(value.max()) for value in maps.values()] == [1.0, 16.0, 4.0]
    assert float(maps["offsets"][0, 1].max()) == -24.0


def test_folding_changes_nothing_but_rounding() -> None:
    x = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        before = tiny_network()(x)
        after = drop_auxiliary(fold_batch_norm(tiny_network(), x))(x)
    assert set(after) == {"foreground", "offsets"}
    for name, value in after.items():
        assert torch.allclose(before[name], value, atol=1e-4)


def test_maps_do_not_depend_on_the_batch() -> None:
    images = [tissue(32, 48, 1), tissue(48, 32, 2), tissue(32, 48, 3)]
    for placement in (FP32, Placement("cpu", "bf16", 4)):
        engine = Engine(tiny_network(), placement)
        together = engine.run(images)
        assert [f.shape for f, _ in together] == [(32, 48), (48, 32), (32, 48)]
        assert together[0][1].shape == (2, 32, 48)
        for image, (foreground, offsets) in zip(images, together, strict=True):
            ((alone, alone_offsets),) = engine.run([image])
            assert foreground.dtype == np.float32
            assert np.allclose(alone, foreground, atol=1e-5 if placement.precision == "fp32" else 2e-2)
            assert np.allclose(alone_offsets, offsets, atol=1e-4 if placement.precision == "fp32" else 0.2)


def test_one_by_one_on_a_cpu_is_exact() -> None:
    engine = Engine(tiny_network(), FP32)
    images = [tissue(32, 32, n) for n in range(3)]
    for (a, _), image in zip(engine.run(images), images, strict=True):
        assert np.array_equal(a, engine.run([image])[0][0])


def test_threads_share_an_engine() -> None:
    engine = Engine(tiny_network(), FP32)
    images = [tissue(32, 32, n) for n in range(8)]
    expected = [engine.run([image])[0][0] for image in images]
    found: list[np.ndarray | None] = [None] * 8

    def work(n: int) -> None:
        found[n] = engine.run([images[n]])[0][0]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_pixel_sees_no_farther_than_the_margin() -> None:
    """The same pixels in windows of different size: alike inside the margin (aligned to the stride)."""
    segmenter = load_segmenter(DEFAULT_MODEL, device="cpu", precision="fp32")
    assert isinstance(segmenter, NetworkSegmenter)
    image = tissue(320, 320)
    ((whole, _),) = segmenter.maps([image])
    ((part, _),) = segmenter.maps([image[32:256, 64:288]])
    m = 96
    assert np.abs(part[m:-m, m:-m] - whole[32:256, 64:288][m:-m, m:-m]).max() < 1e-4
    m = segmenter.margin_px
    assert np.abs(part[m:-m, m:-m] - whole[32:256, 64:288][m:-m, m:-m]).max() < 0.05


def test_a_full_gpu_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_network(), Placement("cpu", "fp32", 8))
    images = [tissue(32, 32, n) for n in range(5)]
    expected = [maps[0] for maps in Engine(tiny_network(), FP32).run(images)]
    forward, sizes = engine._forward, []

    class Allocation:
        pass

    held: list[weakref.ref[Allocation]] = []

    def small_memory(batch: list[np.ndarray]) -> torch.Tensor:
        assert not any(ref() for ref in held), "the failed attempt still holds its memory"
        activations = Allocation()
        held.append(weakref.ref(activations))
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return forward(batch)

    monkeypatch.setattr(engine, "_forward", small_memory)
    found = [maps[0] for maps in engine.run(images)]
    assert sizes[0] == 5
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))

    def no_memory(batch: list[np.ndarray]) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(engine, "_forward", no_memory)
    with pytest.raises(ModelError, match="smaller --tile"):
        engine.run(images[:1])


def test_output_that_is_not_finite_is_an_error() -> None:
    network = tiny_network()
    with torch.no_grad():
        network.head.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match="not finite"):
        Engine(network, FP32).run([tissue(32, 32)])


def test_wrong_images_are_refused() -> None:
    engine = Engine(tiny_network(), FP32)
    with pytest.raises(ValueError, match="multiples of 4"):
        engine.run([tissue(30, 32)])
    with pytest.raises(ValueError, match="uint8"):
        engine.run([tissue(32, 32).astype(np.float32)])
    with pytest.raises(ValueError, match="not 0"):
        engine.run([tissue(32, 32)[:0]])
    assert engine.run([]) == []


def test_mean_of_mirrors_is_equivariant(saved: Path) -> None:
    segmenter = network_segmenter(load_weights(saved), FP32, flips=True)
    image = tissue(32, 48)
    ((foreground, offsets),) = segmenter.maps([image])
    ((turned, turned_offsets),) = segmenter.maps([np.ascontiguousarray(image[::-1])])
    assert np.allclose(turned[::-1], foreground, atol=1e-5)
    assert np.allclose(turned_offsets[0, ::-1], -offsets[0], atol=1e-4)
    assert np.allclose(turned_offsets[1, ::-1], offsets[1], atol=1e-4)
    assert segmenter.describe()["flips"] is True


def test_mirrors_are_asked_for_by_name_and_refused_without_a_network(saved: Path) -> None:
    assert load_segmenter(str(saved), device="cpu", mirrors=True).describe()["flips"] is True
    assert load_segmenter(str(saved), device="cpu").describe()["flips"] is False
    with pytest.raises(UsageError, match="no network whose maps could be averaged"):
        load_segmenter("classical", mirrors=True)

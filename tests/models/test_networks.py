"""The field's networks: each passes the conformance suite, has its published size, and refuses foreign weights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from wsiseg.errors import ModelError  # noqa: E402
from wsiseg.models.networks import build_network, network_config, network_names  # noqa: E402
from wsiseg.models.networks.cnn3 import CNN3  # noqa: E402
from wsiseg.models.networks.encoder_unet import EncoderUNet, load_encoder_weights  # noqa: E402
from wsiseg.models.networks.hovernet import HoVerNet, HoVerNetConfig  # noqa: E402
from wsiseg.models.networks.published import load_published_checkpoint  # noqa: E402
from wsiseg.testing.conformance.network import (  # noqa: E402
    check_bfloat16,
    check_determinism,
    check_gradients,
    check_refusals,
    check_round_trip,
    check_shapes,
    flops_per_px,
    image,
    parameter_count,
    reach_px,
)

Documented = Callable[[str], list[str]]
META = torch.device("meta")
# Small images, and parameters that make a network quick and leave its layers as they are.
SMALL = {
    "unet": (48, 32),
    "joyce": (48, 32),
    "hou": (32, 48),
    "unet-resnet34": (64, 32),
    "unet-densenet121": (64, 32),
    "unet-xception": (64, 32),
    "unet-efficientnet-lite2": (64, 32),
    "hovernet-original": (198, 206),
    "hovernet-fast": (96, 104),
    "cnn3": (54, 53),
}
THIN: dict[str, dict[str, object]] = {
    "unet": {"widths": (8, 16, 16), "stem": 2, "head": "hover"},
    "hou": {"widths": (4, 8, 8, 16, 16)},
    "unet-efficientnet-lite2": {"encoder": "efficientnet-lite0", "widths": (16, 8, 8, 8), "head": "offsets"},
    "hovernet-original": {"divisor": 8},
    "hovernet-fast": {"divisor": 8, "types": 3},
    "cnn3": {"hidden": 64},
}
USUAL = {"unet": (256, 272), "hovernet-original": (270, 270), "hovernet-fast": (256, 256), "cnn3": (1050, 1050)}
PARAMETERS = {
    "unet": 1_812_068,
    "joyce": 1_940_817,
    "hou": 5_746_706,
    "unet-resnet34": 24_436_369,
    "unet-densenet121": 13_607_633,
}
ENCODERS = {"resnet34": 21_284_672, "densenet121": 6_953_856, "xception": 20_806_952}
# With what is left out: a convolution to 1,280 channels, its normalisation, and 1,000 classes.
EFFICIENTNETS = {
    "efficientnet-lite0": (4_652_008, 320),
    "efficientnet-lite1": (5_416_680, 320),
    "efficientnet-lite2": (6_092_072, 352),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def on_meta(name: str, **parameters: object) -> nn.Module:
    with META:
        return build_network(name, parameters)


def set_statistics(network: nn.Module) -> nn.Module:
    """Statistics of batch normalisation as training leaves them, so that signals keep their scale."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 4)
            nn.init.uniform_(module.weight, 0.3, 1)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


@pytest.fixture(scope="module", params=list(SMALL))
def built(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    return request.param, set_statistics(build_network(request.param, THIN.get(request.param)))


# --- conformance ----------------------------------------------------------------------------------------------


def test_determinism_and_eval(built: tuple[str, nn.Module]) -> None:
    check_determinism(built[1], *SMALL[built[0]])


def test_bfloat16(built: tuple[str, nn.Module]) -> None:
    check_bfloat16(built[1], *SMALL[built[0]])


def test_round_trip(built: tuple[str, nn.Module], tmp_path: Path) -> None:
    name, network = built
    check_round_trip(network, build_network(name, THIN.get(name)), tmp_path, *SMALL[name])


def test_gradients(built: tuple[str, nn.Module]) -> None:
    """The last test of a network: its statistics change."""
    check_gradients(built[1], *SMALL[built[0]])


@pytest.mark.parametrize("name", network_names())
def test_shapes(name: str) -> None:
    network = on_meta(name)
    for size in {USUAL.get(name, (256, 320)), SMALL.get(name, (270, 270))}:
        check_shapes(network.eval(), *size)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("unet", (256, 250)),
        ("joyce", (256, 250)),
        ("hou", (8, 16)),
        ("unet-xception", (48, 64)),
        ("hovernet-original", (256, 256)),
        ("hovernet-original", (190, 270)),
        ("hovernet-fast", (270, 270)),
        ("hovernet-fast", (88, 256)),
        ("cnn3", (50, 60)),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, size: tuple[int, int]) -> None:
    check_refusals(on_meta(name), *size)


# --- facts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameters(name: str, count: int) -> None:
    assert parameter_count(on_meta(name)) == count


@pytest.mark.parametrize(("encoder", "count"), ENCODERS.items())
def test_parameters_of_encoders(encoder: str, count: int) -> None:
    """Those of the classifiers without their last layer."""
    assert parameter_count(on_meta(f"unet-{encoder}").encoder) == count


@pytest.mark.parametrize(("encoder", "count", "width"), [(k, *v) for k, v in EFFICIENTNETS.items()])
def test_parameters_of_efficientnets(encoder: str, count: int, width: int) -> None:
    """Those of the published classifiers."""
    left_out = width * 1280 + 2 * 1280 + 1281 * 1000
    assert parameter_count(on_meta("unet-efficientnet-lite2", encoder=encoder).encoder) + left_out == count


@torch.inference_mode()
def test_efficientnets_pad_as_tensorflow_does() -> None:
    """A convolution of stride 2 on an even image sees a pixel more after its last than before its first."""
    network = build_network("unet-efficientnet-lite2")
    assert isinstance(network, EncoderUNet)
    stem = network.encoder._conv_stem
    torch.nn.init.ones_(stem.weight)
    seen = stem(torch.ones(1, 3, 8, 8))[0, 0] / 3
    assert seen.shape == (4, 4)
    assert seen[0, 0] == 9
    assert seen[0, -1] == seen[-1, 0] == 6
    assert seen[-1, -1] == 4


@torch.inference_mode()
def test_four_blocks_end_at_half_the_resolution() -> None:
    network = build_network("unet-efficientnet-lite2", {"widths": (16, 8, 8, 8), "head": "offsets"}).eval()
    maps = network(image(64, 32))
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "foreground": (1, 1, 64, 32),
        "offsets": (1, 2, 64, 32),
        "depth": (1, 1, 64, 32),
    }
    # Neighbours within a pixel of the last block are four maps' values, not one repeated.
    assert not torch.equal(maps["foreground"][..., ::2, :], maps["foreground"][..., 1::2, :])


@pytest.fixture(scope="module")
def documented(repository: Path) -> Documented:
    """The cells of a network's row in docs/models.md."""
    lines = (repository / "docs" / "models.md").read_text().splitlines()

    def cells(name: str) -> list[str]:
        row = next(line for line in lines if line.startswith(f"| `{name}` |"))
        return [cell.strip() for cell in row.split("|")[1:-1]]

    return cells


@pytest.mark.parametrize("name", network_names())
def test_documented_facts(name: str, documented: Documented) -> None:
    """The table in docs/models.md states what is counted here."""
    cells = documented(name)
    network = on_meta(name)
    assert cells[1] == f"{parameter_count(network):,}"
    assert cells[2] == f"{flops_per_px(network, *USUAL.get(name, (512, 512))) / 1000:,.0f}"


@pytest.mark.parametrize(
    ("name", "parameters", "size", "silence"),
    [
        ("unet", {"widths": (1,) * 5}, (512, 16), 0.0),
        ("joyce", {"widths": (1,) * 5}, (512, 16), -1.0),
        ("hou", {"widths": (1,) * 5}, (640, 16), 0.0),
        ("cnn3", {"maps": (1, 1, 1), "hidden": 1}, (151, 51), 0.0),
    ],
)
def test_documented_reach(
    name: str, parameters: dict[str, object], size: tuple[int, int], silence: float, documented: Documented
) -> None:
    """How far a pixel's effect goes does not depend on the widths."""
    network = build_network(name, parameters)
    assert network.config.reach_px == reach_px(network, *size, silence) == int(documented(name)[3])


@pytest.mark.parametrize("name", network_names())
def test_configured_reach_is_the_documented_one(name: str, documented: Documented) -> None:
    assert network_config(name).reach_px == int(documented(name)[3])


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        ({"widths": (1,) * 4, "stem": 2}, (512, 16)),
        ({"widths": (1, 1), "stem": 2}, (128, 4)),
        ({"widths": (1,)}, (64, 1)),
    ],
)
def test_reach_of_other_unets(parameters: dict[str, object], size: tuple[int, int]) -> None:
    network = build_network("unet", parameters)
    assert network.config.reach_px == reach_px(network, *size, 0.0)


def test_joyce_sees_the_red_channel_alone() -> None:
    network = build_network("joyce").eval()
    x = image(32, 32)
    changed = x.clone()
    changed[:, 1:] *= -1
    assert torch.equal(network(x)["foreground"], network(changed)["foreground"])
    changed[:, 0] *= -1
    assert not torch.equal(network(x)["foreground"], network(changed)["foreground"])


@torch.inference_mode()
def test_cnn3_gives_every_pixel_what_its_patch_gives() -> None:
    network = build_network("cnn3").eval()
    assert isinstance(network, CNN3)
    x = image(55, 53)
    dense = network(x)["classes"]
    patches = torch.cat([x[:, :, i : i + 51, j : j + 51] for i in range(5) for j in range(3)])
    expected = network.classify(patches).reshape(5, 3, 3).permute(2, 0, 1)
    torch.testing.assert_close(dense[0], expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="51"):
        network.classify(x)


# --- the registry of networks ---------------------------------------------------------------------------------


def test_names_need_no_torch() -> None:
    code = (
        "import sys; from wsiseg.models.networks import network_names as n; n(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("resnet", {}, "no network 'resnet'; there are unet, joyce, hou"),
        ("unet", {"widths": []}, "expected positive whole numbers"),
        ("unet", {"widths": [8, "x"]}, "expected positive whole numbers"),
        ("unet", {"stem": 3}, "stem is 3"),
        ("unet", {"head": "tail"}, "no head 'tail'; there are offsets"),
        ("unet", {"offset_scale_px": 0}, "offset_scale_px is 0"),
        ("joyce", {"width": 3}, r"no parameters \['width'\]; it has widths, dropout"),
        ("joyce", {"widths": [8, 16]}, "2 widths but 5 rates"),
        ("unet-resnet34", {"encoder": "vgg"}, "no encoder 'vgg'"),
        ("unet-resnet34", {"widths": [8, 8, 8]}, "four or five widths are needed, not 3"),
        ("unet-resnet34", {"head": "tail"}, "no head 'tail'"),
        ("unet-resnet34", {"offset_scale_px": 0}, "offset_scale_px is 0"),
        ("hovernet-fast", {"mode": "slow"}, "no mode 'slow'"),
        ("hovernet-fast", {"types": 1}, "with the background"),
        ("hovernet-fast", {"divisor": 3}, "divisor is 3"),
    ],
)
def test_what_cannot_be_built_is_said(name: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_network(name, parameters)


def test_parameters_may_come_from_json() -> None:
    assert network_config("joyce", {"widths": [8, 16], "dropout": [0, 0]}).stride_px == 2


# --- weights of others ----------------------------------------------------------------------------------------


def test_names_of_encoders_are_those_of_torchvision_and_timm() -> None:
    names = set(on_meta("unet-resnet34").state_dict())
    assert {"encoder.layer4.2.bn2.running_var", "encoder.layer2.0.downsample.1.weight"} <= names
    assert {"decoder.blocks.4.conv2.0.weight", "decoder.blocks.0.conv1.1.bias", "segmentation_head.0.bias"} <= names
    assert "encoder.features.denseblock4.denselayer16.norm2.weight" in on_meta("unet-densenet121").state_dict()
    xception = on_meta("unet-xception").state_dict()
    assert xception["encoder.block12.rep.4.pointwise.weight"].shape == (1024, 728, 1, 1)
    assert {"encoder.block1.rep.0.pointwise.weight", "encoder.block2.rep.1.conv1.weight"} <= set(xception)


def test_encoder_weights_of_a_classifier() -> None:
    network = build_network("unet-densenet121")
    assert isinstance(network, EncoderUNet)
    state = {name: torch.full_like(value, 0.5) for name, value in network.encoder.state_dict().items()}
    # As old files of torchvision have it, and with the classifier.
    old = {re.sub(r"(denselayer\d+\.(norm|conv))(\d)", r"\1.\3", name): value for name, value in state.items()}
    assert set(old) != set(state)
    load_encoder_weights(network, {**old, "classifier.weight": torch.zeros(1000, 1024)})
    assert all(bool((value == 0.5).all()) for value in network.encoder.state_dict().values() if value.ndim)
    del old["features.norm5.weight"]
    with pytest.raises(ModelError, match="densenet121"):
        load_encoder_weights(network, old)


def published_names(mode: str, types: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of HoVer-Net's checkpoints, written down independently of the network."""
    shapes: dict[str, tuple[int, ...]] = {"upsample2x.unpool_mat": (2, 2), "conv_bot.weight": (1024, 2048, 1, 1)}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv0./.weight"] = (64, 3, 7, 7)
    norm("conv0.bn", 64)
    groups = [(64, 64, 256, 3), (256, 128, 512, 4), (512, 256, 1024, 6), (1024, 512, 2048, 3)]
    for g, (inputs, inner, outputs, count) in enumerate(groups):
        for n in range(count):
            unit = f"d{g}.units.{n}"
            if n > 0:
                norm(f"{unit}.preact/bn", outputs)
            shapes[f"{unit}.conv1.weight"] = (inner, outputs if n > 0 else inputs, 1, 1)
            shapes[f"{unit}.conv2.weight"] = (inner, inner, 3, 3)
            shapes[f"{unit}.conv3.weight"] = (outputs, inner, 1, 1)
            norm(f"{unit}.conv1/bn", inner)
            norm(f"{unit}.conv2/bn", inner)
        shapes[f"d{g}.shortcut.weight"] = (outputs, inputs, 1, 1)
        norm(f"d{g}.blk_bna.bn", outputs)
    k = 5 if mode == "original" else 3
    for branch, channels in {"np": 2, "hv": 2, "tp": types}.items():
        if channels == 0:
            continue
        for level, inputs, width, count in (("u3", 1024, 256, 8), ("u2", 512, 128, 4)):
            base, grown = f"decoder.{branch}.{level}", width + 32 * count
            shapes[f"{base}.conva.weight"] = (width, inputs, k, k)
            for n in range(count):
                norm(f"{base}.dense.units.{n}.preact_bna/bn", width + 32 * n)
                shapes[f"{base}.dense.units.{n}.conv1.weight"] = (128, width + 32 * n, 1, 1)
                norm(f"{base}.dense.units.{n}.conv1/bn", 128)
                shapes[f"{base}.dense.units.{n}.conv2.weight"] = (32, 32, k, k)
            norm(f"{base}.dense.blk_bna.bn", grown)
            shapes[f"{base}.convf.weight"] = (grown, grown, 1, 1)
        shapes[f"decoder.{branch}.u1.conva.weight"] = (64, 256, k, k)
        norm(f"decoder.{branch}.u0.bn", 64)
        shapes[f"decoder.{branch}.u0.conv.weight"] = (channels, 64, 1, 1)
        shapes[f"decoder.{branch}.u0.conv.bias"] = (channels,)
    return shapes


@pytest.mark.parametrize(("mode", "types"), [("original", 0), ("original", 5), ("fast", 6)])
def test_hovernet_has_the_published_names_and_shapes(mode: str, types: int) -> None:
    state = on_meta(f"hovernet-{mode}", types=types).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == published_names(mode, types)


@pytest.mark.parametrize("mode", ["original", "fast"])
def test_hovernet_that_pads_has_maps_of_the_images_size_and_the_same_names(mode: str) -> None:
    padded, plain = on_meta(f"hovernet-{mode}", same=True), on_meta(f"hovernet-{mode}")
    check_shapes(padded.eval(), 64, 96)
    check_refusals(padded, 60, 64)
    assert {k: v.shape for k, v in padded.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }


def test_hovernet_that_pads_agrees_within_what_the_other_leaves() -> None:
    torch.manual_seed(0)
    plain = set_statistics(build_network("hovernet-fast", {"divisor": 8}))
    padded = build_network("hovernet-fast", {"divisor": 8, "same": True}).eval()
    padded.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        found, expected = padded(image)["np"], plain(image)["np"]
    border = (found.shape[2] - expected.shape[2]) // 2
    assert border == 46
    # The last convolution pads in both.
    inner = slice(1, -1)
    middle = found[..., border:-border, border:-border]
    assert torch.allclose(middle[..., inner, inner], expected[..., inner, inner], atol=1e-4)


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Tensor]:
    """Weights by the published names that take no room: views of one number."""
    shapes = published_names("fast", 5)
    return {
        name: torch.zeros((), dtype=torch.long if name.endswith("tracked") else torch.float32).expand(shape)
        for name, shape in shapes.items()
    }


@torch.inference_mode()
def test_published_checkpoint_gives_the_same_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = set_statistics(HoVerNet(HoVerNetConfig("fast", 4, divisor=8)))
    path = tmp_path / "hovernet_fast_pannuke.tar"
    torch.save({"desc": {f"module.{name}": value for name, value in network.state_dict().items()}}, path)
    loaded = load_published_checkpoint(path)
    assert loaded.config == network.config
    assert not loaded.training
    x = image(96, 96)
    for name, value in network(x).items():
        assert torch.equal(value, loaded(x)[name])


def test_published_checkpoint_without_counts_of_batches(tmp_path: Path, checkpoint: dict[str, Tensor]) -> None:
    old = {name: value for name, value in checkpoint.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.tar")
    assert load_published_checkpoint(tmp_path / "old.tar").config.types == 5


def damaged(state: dict[str, Tensor]) -> dict[str, tuple[object, str]]:
    missing = {name: value for name, value in state.items() if name != "d2.shortcut.weight"}
    nan = {**state, "decoder.np.u0.conv.bias": torch.tensor([0.0, float("nan")])}
    shape = {**state, "conv_bot.weight": torch.zeros(1024, 2048, 3, 3)}
    return {
        "missing": ({"desc": missing}, r"1 missing \['d2.shortcut.weight'\], 0 unexpected"),
        "extra": ({"desc": {**state, "d4.weight": torch.ones(1)}}, r"0 missing \[\], 1 unexpected \['d4.weight'\]"),
        "shape": (shape, r"'conv_bot.weight': \(1024, 2048, 3, 3\) instead of \(1024, 2048, 1, 1\)"),
        "nan": (nan, "'decoder.np.u0.conv.bias' are not finite"),
        "foreign": ({"desc": {"layer1.weight": torch.ones(3)}}, "not a HoVer-Net"),
        "no state": ({"desc": [1, 2]}, "expected a state dict"),
    }


@pytest.mark.parametrize("case", ["missing", "extra", "shape", "nan", "foreign", "no state"])
def test_checkpoints_that_do_not_fit(case: str, tmp_path: Path, checkpoint: dict[str, Tensor]) -> None:
    content, message = damaged(checkpoint)[case]
    torch.save(content, tmp_path / "bad.tar")
    with pytest.raises(ModelError, match=message):
        load_published_checkpoint(tmp_path / "bad.tar")


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_checkpoints(keep: float, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "cut.tar"
    torch.save({"desc": {"a": torch.ones(5000)}}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError, match="damaged, truncated"):
        load_published_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>quota exceeded</html>", b"hello " * 99, bytes(range(256))]
)
def test_files_that_are_no_checkpoints(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "page.tar").write_bytes(content)
    with pytest.raises(ModelError, match="damaged, truncated or not a torch file"):
        load_published_checkpoint(tmp_path / "page.tar")
    with pytest.raises(ModelError, match="no such file"):
        load_published_checkpoint(tmp_path / "none.tar")


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(zipped: bool, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    content = {"desc": {"a": torch.ones(1), "b": Harmful(mark)}}
    torch.save(content, tmp_path / "evil.tar", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="could run code; refused"):
        load_published_checkpoint(tmp_path / "evil.tar")
    assert not mark.exists()

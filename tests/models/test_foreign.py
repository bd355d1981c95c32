"""Networks that others bring: what fits its manifest runs, everything else is refused with the reason."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from wsiseg.errors import ModelError, UsageError  # noqa: E402
from wsiseg.models.engine.engine import Placement  # noqa: E402
from wsiseg.models.foreign.manifest import read_manifest  # noqa: E402
from wsiseg.models.network import NetworkSegmenter  # noqa: E402
from wsiseg.models.registry import load_segmenter  # noqa: E402
from wsiseg.testing.foreign import Darkness, bring, changed, toml  # noqa: E402
from wsiseg.testing.onnxfile import write_pointwise  # noqa: E402

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")]


def load(path: Path, **options: str) -> NetworkSegmenter:
    segmenter = load_segmenter(str(path), device="cpu", **options)
    assert isinstance(segmenter, NetworkSegmenter)
    return segmenter


def discs() -> np.ndarray:
    image = np.full((96, 128, 3), 240, dtype=np.uint8)
    y, x = np.mgrid[:96, :128]
    for cy, cx in ((30, 40), (60, 90)):
        image[np.hypot(y - cy, x - cx) < 9] = 20
    return image


# --- what fits ------------------------------------------------------------------------------------------------


def check_discs(segmenter: NetworkSegmenter) -> None:
    (nuclei,) = segmenter.segment([discs()], segmenter.calibrate(iter([discs()])))
    order = np.argsort(nuclei.centroids()[:, 0])
    np.testing.assert_allclose(nuclei.centroids()[order], [[40.5, 30.5], [90.5, 60.5]], atol=0.3)


def test_torchscript_is_a_segmenter(tmp_path: Path) -> None:
    segmenter = load(bring(tmp_path))
    check_discs(segmenter)
    assert (segmenter.name, segmenter.mpp, segmenter.stride_px) == ("dark", 0.5, 8)
    assert segmenter.margin_px == segmenter.decoder.margin_px
    described = json.loads(json.dumps(segmenter.describe()))
    assert described["weights_sha256"] == hashlib.sha256((tmp_path / "dark.pt").read_bytes()).hexdigest()
    assert (described["licence"], described["engine"], described["precision"]) == ("CC0-1.0", "torch", "fp32")
    assert described["network"]["name"] == "torchscript"
    assert described["network"]["parameters"]["input"]["stride_px"] == 8
    check_discs(load(bring(tmp_path), precision="bf16"))


def test_onnx_is_a_segmenter(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = bring(tmp_path, file="dark.onnx", head__maps__foreground={"output": "maps"})
    write_pointwise(tmp_path / "dark.onnx", [[-10.0, -10.0, -10.0]], [15.0])
    segmenter = load(path)
    check_discs(segmenter)
    assert segmenter.describe()["engine"] == "openvino"
    ((found,),) = segmenter.maps([discs()])
    ((expected,),) = load(bring(tmp_path)).maps([discs()])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("suffix", ["pt", "onnx"])
def test_normalisation_is_the_manifests(tmp_path: Path, suffix: str) -> None:
    """Channels in the order RGB, (value − mean) / std, or a range."""
    if suffix == "onnx":
        pytest.importorskip("openvino")
    network = Darkness()
    with torch.no_grad():
        network.conv.weight.copy_(torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1))
        network.conv.bias.zero_()
    write_pointwise(tmp_path / "dark.onnx", [[1.0, 2.0, 4.0]], [0.0])
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    unit = image / 255
    for table, value in (
        ({"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.5, 1.0]}, (unit - [0.5, 0.4, 0.3]) / [0.2, 0.5, 1.0]),
        ({"range": [-1, 1]}, unit * 2 - 1),
        ({"range": [0, 255]}, unit * 255),
        ({"range": [1, 0]}, 1 - unit),
    ):
        path = bring(tmp_path, network, file=f"dark.{suffix}", input={"stride_px": 8, "reach_px": 0, **table})
        ((found,),) = load(path).maps([image])
        expected = 1 / (1 + np.exp(-(value @ [1.0, 2.0, 4.0])))
        np.testing.assert_allclose(found, expected, atol=2e-5)


class Several(nn.Module):
    """Probabilities, offsets in eighths, and something else, as a tuple or by name."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.dark, self.named = Darkness(), named

    def forward(self, x: Tensor) -> Any:
        logit = self.dark(x)
        both = torch.cat([torch.ones_like(logit), -2 * torch.ones_like(logit), torch.sigmoid(logit)], dim=1)
        return {"junk": x, "all": both} if self.named else (x, both)


@pytest.mark.parametrize("named", [False, True])
def test_maps_are_picked_from_the_outputs(tmp_path: Path, named: bool) -> None:
    where = "all" if named else 1
    maps = {
        "foreground": {"output": where, "channels": [2], "values": "probabilities"},
        "offsets": {"output": where, "channels": [1, 0], "scale": 8.0},
    }
    script = torch.jit.trace(Several(named), torch.zeros(1, 3, 32, 32), strict=False)
    path = bring(tmp_path, head={"name": "offsets", "maps": maps}, decoder={"name": "offsets"})
    script.save(str(tmp_path / "dark.pt"))
    ((foreground, offsets),) = load(path).maps([discs()])
    dark = discs()[..., 0] < 128
    assert (foreground[dark] > 0.99).all()
    assert (foreground[~dark] < 0.01).all()
    assert (offsets[0] == -16).all()
    assert (offsets[1] == 8).all()


def test_probabilities_that_bfloat16_rounds_to_one_are_fine(tmp_path: Path) -> None:
    network, values = nn.Sequential(Darkness(), nn.Sigmoid()), {"values": "probabilities"}
    path = bring(tmp_path, network, head__maps__foreground=values)
    segmenter = load(path, precision="bf16")
    ((found,),) = segmenter.maps([np.zeros((32, 40, 3), dtype=np.uint8)])
    assert (found > 0.9999).all()


@pytest.mark.parametrize("output", ["maps", "same", 0, 1])
def test_equal_outputs_of_onnx_keep_their_names(tmp_path: Path, output: str | int) -> None:
    pytest.importorskip("openvino")
    write_pointwise(tmp_path / "dark.onnx", [[-10.0, -10.0, -10.0]], [15.0], alias="same")
    check_discs(load(bring(tmp_path, file="dark.onnx", head__maps__foreground={"output": output})))


def test_maps_may_lack_a_border(tmp_path: Path) -> None:
    network = nn.Sequential(Darkness(), nn.AvgPool2d(7, stride=1))
    path = bring(tmp_path, network, input__border_px=3, input__reach_px=3)
    check_discs(load(path))


def test_windows_are_the_manifests(tmp_path: Path) -> None:
    segmenter = load(bring(tmp_path, input__window_px=64))
    check_discs(segmenter)


def test_a_measured_margin_is_the_segmenters(tmp_path: Path) -> None:
    assert load(bring(tmp_path, margin_px=33)).margin_px == 33


# --- manifests that do not fit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "format is 2; this version of wsiseg reads 1"),
        ({"licence": None}, "licence: is missing; expected a text"),
        ({"licence": " "}, "licence: got ' '; expected a text"),
        ({"name": None}, "name: is missing"),
        ({"mpp": None}, "mpp: is missing"),
        ({"mpp": "0.5"}, "mpp: got '0.5'; expected a finite number"),
        ({"mpp": -0.5}, "mpp is -0.5"),
        ({"file": "../dark.pt"}, "a file beside the manifest"),
        ({"file": "dark\0.pt"}, "a file beside the manifest"),
        ({"author": "me"}, "author: unknown key; there are format, name, file"),
        ({"licens": "CC0-1.0"}, r"licens: unknown key \(did you mean 'licence'\?\)"),
        ({"input": None}, "input: is missing; expected a table"),
        ({"input.depth": 3}, "input.depth: unknown key; there are stride_px"),
        ({"input.stride_px": None}, "input.stride_px: is missing; expected a whole number from 1"),
        ({"input.stride_px": 0}, "input.stride_px: got 0; expected a whole number from 1"),
        ({"input.stride_px": 8.5}, "input.stride_px: got 8.5"),
        (
            {"input.stride_px": 128, "input.window_px": 64},
            "window_px: got 64; expected a whole number from 128",
        ),
        ({"input.reach_px": None}, "input.reach_px: is missing"),
        ({"input.mean": [0.5, 0.5, 0.5]}, "either mean and std"),
        ({"input.range": None}, "either mean and std"),
        ({"input.range": [1.0, 1.0]}, "its ends are equal"),
        ({"input.range": [1.0]}, r"input.range: got \[1.0\]; expected 2 numbers"),
        ({"input.range": None, "input.mean": [0.5] * 3, "input.std": [0.1, 0.0, 0.1]}, "three positive numbers"),
        ({"head.name": "tail"}, "no head 'tail'"),
        ({"head.name": "offsets"}, r"needs \['foreground', 'offsets'\]"),
        ({"head.maps.depth": {}}, r"head.maps: got \['depth', 'foreground'\]"),
        ({"head.maps.foreground": 3}, "head.maps.foreground: got 3; expected a table"),
        ({"head.maps.foreground.channels": [0, 1]}, "the maps have {'foreground': 2} channels"),
        ({"head.maps.foreground.channels": [-1]}, "a list of positions"),
        ({"head.maps.foreground.channels": []}, "a list of positions"),
        ({"head.maps.foreground.output": -1}, "a position from 0 or a name"),
        ({"head.maps.foreground.values": "odds"}, "values: got 'odds'; expected one of 'logits', 'probabilities'"),
        ({"head.maps.foreground.scale": 2.0}, "probabilities has none"),
        ({"head.maps.foreground.unit": "px"}, "head.maps.foreground.unit: unknown key"),
        ({"decoder.name": "hover"}, "decoder 'hover' does not read the head 'foreground'; watershed, otsu do"),
        ({"decoder.parameters": [3.0]}, r"decoder.parameters: got \[3.0\]; expected a table"),
        ({"decoder.parameters.depth": 1}, r"decoder 'watershed' has no parameters \['depth'\]"),
        ({"decoder.parameters.mpp": 0.25}, "it is the manifest's"),
        ({"margin_px": -1}, "margin_px: got -1; expected a whole number from 0"),
        ({"data": "all of it"}, "expected a list of texts"),
        ({"speed": {"here": "fast"}}, "expected megapixels a second"),
    ],
)
def test_manifests_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "dark.toml"
    path.write_text(toml(changed(changes)))
    with pytest.raises(ModelError, match=reason) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_manifests(tmp_path: Path) -> None:
    path = tmp_path / "dark.toml"
    with pytest.raises(ModelError, match="no such file"):
        load(path)
    path.write_text("format = [1")
    with pytest.raises(ModelError, match="not a TOML file"):
        load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="not a TOML file"):
        load(path)


# --- files that do not fit ------------------------------------------------------------------------------------


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('executed').write_text('x')",))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_modules_are_refused_and_not_run(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = bring(tmp_path)
    for content in (nn.Conv2d(3, 1, 1), _Evil()):
        torch.save(content, tmp_path / "dark.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ModelError, match="refused"):
            load(path)
    (tmp_path / "dark.pt").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(ModelError, match="refused"):
        load(path)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_inside_torchscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = bring(tmp_path)
    with zipfile.ZipFile(tmp_path / "dark.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "dark.pt", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, pickle.dumps(_Evil()) if name.endswith("data.pkl") else content)
    with pytest.raises(ModelError, match="damaged TorchScript"):
        load(path)
    assert not (tmp_path / "executed").exists()


@torch.jit.script
def _touch(x: Tensor, place: str) -> Tensor:
    return x + torch.from_file(place, True, 8).sum()


class Wordy(nn.Module):
    """Names and texts that are no operations."""

    sizes: Final[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.open, self.save = Darkness(), nn.Sequential(nn.Identity(), nn.ReLU())

    def load(self, x: Tensor, gain: float = -1.0, sizes: tuple[int, int] = (1, 1)) -> Tensor:
        if x.ndim != 4:
            raise ValueError("torch.save('x') or open(y)\n")
        return self.save(x * gain * float(sizes[0])) * -1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.open(self.load(x) * -1.0 if x.ndim == 3 else x)


class Writes(nn.Module):
    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        return _touch(x[:, :1], self.place)


def test_programs_that_touch_files_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "written"
    path = bring(tmp_path)
    torch.jit.script(Writes(str(place))).save(str(tmp_path / "dark.pt"))
    with pytest.raises(ModelError, match="uses from_file, which can touch files"):
        load(path)
    assert not place.exists()


def reworked(path: Path, old: str, new: str, rename: tuple[str, str] = ("", "")) -> None:
    """Change the text of a TorchScript file's own source, and the name of that source."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (source,) = [name for name in entries if name.endswith(".py") and b"class Darkness" in entries[name]]
    text = entries.pop(source).decode()
    assert old in text
    entries[source.replace(*rename)] = text.replace(old, new, 1).encode()
    entries["dark/code/other.py"] = b"x = 1\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


CALL = '("{place}", True, 8)'


@pytest.mark.parametrize(
    ("body", "rename"),
    [
        (f"torch.from_file{CALL}", ("", "")),
        (f"torch.from_file{CALL}", ("code/", "CODE/")),  # torch's reader does not tell capitals
        (f"torch.from_file{CALL}", (".py", ".PY")),
        (f"torch.from_file\\\n{CALL}", ("", "")),
        (f"(torch . from_file # a comment\n{CALL})", ("", "")),
        (f"other\n    other = torch.from_file\n    y = other{CALL}", ("", "")),
        (f'getattr(torch, "from_" "file"){CALL}', ("", "")),
        (f'getattr(torch, "from\\137file"){CALL}', ("", "")),
        (f"ops.aten.from_file{CALL}", ("", "")),
        ('torch.save(x, "{place}")', ("", "")),
        ("ops.c10d.barrier(x)", ("", "")),
        ("ops.prim.rpc_sync(x)", ("", "")),
        ("__torch__.torch.classes.dist_c10d.Store(x)", ("", "")),
    ],
)
def test_no_way_of_writing_it_hides_what_touches_files(tmp_path: Path, body: str, rename: tuple[str, str]) -> None:
    path, place = bring(tmp_path), tmp_path / "written"
    statement = f"y = {body.format(place=place)}\n    conv = self.conv"
    reworked(tmp_path / "dark.pt", "conv = self.conv", statement, rename)
    with pytest.raises(ModelError, match="which can touch files"):
        load(path)
    assert not place.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x: Tensor)", "x: Tensor, y: Tensor=f())"),  # default values are computed while the file is loaded,
        ("  training : bool", "  size : Final[int] = f()\n  training : bool"),  # constants as well,
        ("  def forward", "  def __setstate__(self, state: int) -> None:\n    return None\n  def forward"),
    ],
)
def test_nothing_is_computed_while_a_program_is_loaded(tmp_path: Path, old: str, new: str) -> None:
    path = bring(tmp_path)
    reworked(tmp_path / "dark.pt", old, new)
    with pytest.raises(ModelError, match=r"a call in a constant or default value|__setstate__"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content"), [("dark/model.json", b"{}"), ("dark/VERSION", b"3"), ("dark/code/x.py", b"x = (")]
)
def test_archives_that_torch_does_not_write_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """Of the older format's model.json torch takes names of sources, and it does not tell capitals."""
    path = bring(tmp_path)
    with zipfile.ZipFile(tmp_path / "dark.pt", "a") as archive:
        archive.writestr(name, content)
    with pytest.raises(ModelError, match="torch writes; refused"):
        load(path)


def test_a_pickle_that_names_an_extensions_class_is_refused(tmp_path: Path) -> None:
    path = bring(tmp_path)
    with zipfile.ZipFile(tmp_path / "dark.pt", "a") as archive:
        archive.writestr("dark/more.pkl", b"c__torch__.torch.classes.dist_c10d\nStore\n")
    with pytest.raises(ModelError, match=r"a class of an extension \(more\.pkl\)"):
        load(path)


def test_scripted_programs_with_constants_defaults_and_such_words_run(tmp_path: Path) -> None:
    path = bring(tmp_path)
    torch.jit.script(Wordy()).save(str(tmp_path / "dark.pt"))
    check_discs(load(path))


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "*/_ORT_MEM_ADDR_/*"])
def test_onnx_with_weights_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    """They could be others tomorrow, under the same hash; and OpenVINO takes an address in memory for a place."""
    (tmp_path / "weights.bin").write_bytes(bytes(12))
    path = bring(tmp_path, file="dark.onnx")
    write_pointwise(tmp_path / "dark.onnx", [[0.0, 0.0, 0.0]], [0.0], location=location)
    with pytest.raises(ModelError, match="its weights lie in another file"):
        load(path)


@pytest.mark.parametrize("content", [b"<?xml version='1.0'?><net/>", b"\x3a\xff", b"\x38\x01", b"\xff" * 20])
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    """OpenVINO looks at a file's content, and would read its own format, whose weights are another file."""
    path = bring(tmp_path, file="dark.onnx")
    (tmp_path / "dark.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX file"):
        load(path)


def test_archives_with_a_name_twice_are_refused(tmp_path: Path) -> None:
    """Two readers could take different ones of them."""
    path = bring(tmp_path)
    with zipfile.ZipFile(tmp_path / "dark.pt", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.namelist()[0], b"")
    with pytest.raises(ModelError, match="not one that torch writes"):
        load(path)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, keep: float) -> None:
    path = bring(tmp_path)
    data = (tmp_path / "dark.pt").read_bytes()
    (tmp_path / "dark.pt").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ModelError, match=r"dark\.pt"):
        load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"torch\.export are refused"):
        load(bring(tmp_path, file="dark.pt2"))
    with pytest.raises(ModelError, match="expected TorchScript"):
        load(bring(tmp_path, file="dark.h5"))
    with pytest.raises(ModelError, match=r"gone\.pt: no such file"):
        load(bring(tmp_path, file="gone.pt"))
    with pytest.raises(ModelError, match="damaged or another file"):
        load(bring(tmp_path, sha256="0" * 64))
    digest = hashlib.sha256((tmp_path / "dark.pt").read_bytes()).hexdigest()
    with pytest.raises(ModelError, match="needs a manifest"):
        load(tmp_path / "dark.onnx")
    with pytest.raises(ModelError, match="needs a manifest"):
        load(tmp_path / "dark.pt")  # a TorchScript file given as weights
    path = tmp_path / "dark.toml"
    path.write_text(toml(changed({"sha256": digest.upper()})))
    check_discs(load(path))


def test_onnx_files_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    path = bring(tmp_path, file="dark.onnx")
    (tmp_path / "dark.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="not an ONNX file"):
        load(path)
    write_pointwise(tmp_path / "dark.onnx", [[1.0] * 4], [0.0], ("n", 4, "h", "w"))
    with pytest.raises(ModelError, match=r"does not take images \(N, 3, h, w\)"):
        load(path)
    write_pointwise(tmp_path / "dark.onnx", [[1.0] * 3] * 2, [0.0, 0.0])
    with pytest.raises(ModelError, match="has 2 channels"):
        load(path)
    write_pointwise(tmp_path / "dark.onnx", [[float("nan")] * 3], [0.0])
    with pytest.raises(ModelError, match="not finite"):
        load(path)
    with pytest.raises(UsageError, match="run by OpenVINO"):
        load(path, engine="torch")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"pip install 'wsiseg\[openvino\]'"):
        load(path)


# --- networks that do not do what the manifest says -----------------------------------------------------------


class Odd(nn.Module):
    """Fails in a way of its choice."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.dark = how, Darkness(2 if how == "channels" else 1)

    def forward(self, x: Tensor) -> Any:
        y = self.dark(x)
        if self.how == "half":
            return y[:, :, ::2, ::2]
        if self.how == "flat":
            return y.flatten(1)
        if self.how == "one":
            return y.reshape(1, 1, y.shape[2], y.shape[3])
        if self.how == "nan":
            return y / 0.0 * 0.0
        return y


@pytest.mark.parametrize(
    ("how", "changes", "reason"),
    [
        ("half", {}, "of an image of 96 × 104 is 48 × 52; the manifest says 96 × 104"),
        ("flat", {}, r"expected a tensor \(N, channels, h, w\)"),
        ("nan", {}, "not finite"),
        ("channels", {}, "has 2 channels; the map 'foreground' is to have 1"),
        ("fine", {"head__maps__foreground": {"channels": [3]}}, r"has 1 channels; .* picks \[3\]"),
        ("fine", {"head__maps__foreground": {"output": 2}}, "there is no output 2; the network has 1"),
        ("fine", {"head__maps__foreground": {"output": "maps"}}, "there is no output 'maps'"),
        ("fine", {"head__maps__foreground": {"values": "probabilities"}}, "not probabilities"),
        ("fine", {"input__border_px": 4}, "the manifest says"),
    ],
)
def test_a_trial_run_finds_what_does_not_fit(
    tmp_path: Path, how: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        load(bring(tmp_path, Odd(how), **changes))
    assert "dark.pt does not fit" in str(caught.value)
    assert "dark.toml" in str(caught.value)


def test_the_trial_runs_as_many_images_as_the_engine_will(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA images of one size run together; here as well, for once."""
    path = bring(tmp_path, Odd("one"))
    assert load(path).name == "dark"
    monkeypatch.setattr("wsiseg.models.foreign.load.place", lambda *_: Placement("cpu", "fp32", 8))
    with pytest.raises(ModelError, match=r"it cannot be run \(.*shape '\[1, "):
        load(path)


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    path = bring(tmp_path)
    torch.jit.trace(nn.Conv2d(4, 1, 1), torch.zeros(1, 4, 8, 8)).save(str(tmp_path / "dark.pt"))
    with pytest.raises(ModelError, match=r"cannot be run \(.*to have 4 channels"):
        load(path)


def test_the_documented_manifest_is_one(tmp_path: Path, repository: Path) -> None:
    page = (repository / "docs" / "models.md").read_text("utf-8")
    example = page.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "my-model.toml").write_text(example, "utf-8")
    manifest = read_manifest(tmp_path / "my-model.toml")
    assert manifest.head.name == "offsets"
    assert manifest.interface is not None
    assert manifest.interface.picks["offsets"].scale == 8.0
    assert manifest.decoder.mpp == 0.5

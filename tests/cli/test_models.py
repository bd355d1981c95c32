"""`wsiseg models`, and models that must end in clear errors through `wsiseg segment`."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from wsiseg_cli.group import cli  # noqa: E402
from wsiseg_cli.main import main  # noqa: E402

from wsiseg.errors import ModelError, UsageError  # noqa: E402
from wsiseg.models.base import ModelCard  # noqa: E402
from wsiseg.models.classical import ClassicalSegmenter  # noqa: E402
from wsiseg.models.engine import speed  # noqa: E402
from wsiseg.models.registry import DEFAULT_MODEL, describe_model  # noqa: E402
from wsiseg.models.weightfile import Named, save_weights  # noqa: E402
from wsiseg.testing import write_slide  # noqa: E402
from wsiseg.testing.foreign import bring  # noqa: E402
from wsiseg.testing.networks import TINY, thin, tiny_network  # noqa: E402
from wsiseg.train.recipe import read_recipe  # noqa: E402

Command = Callable[..., tuple[int, str]]
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:Detected pickle protocol"),
]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "a.svs"
    write_slide(path, width=600, height=600, seed=3)
    return path


@pytest.fixture
def segment(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """``wsiseg segment`` with a model, in this process and in ``tmp_path``: (exit code, standard error)."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def call(model: object, *arguments: str) -> tuple[int, str]:
        words = ["segment", str(slide), "-o", "out", "-w", "0", "--device", "cpu", "-m", str(model), *arguments]
        monkeypatch.setattr(sys, "argv", ["wsiseg", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().err

    yield call
    signal.signal(signal.SIGTERM, handler)


# --- the list and the card ------------------------------------------------------------------------------------


def models(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["models", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_list_says_what_a_user_must_know() -> None:
    text = models()
    assert text.startswith(f"{DEFAULT_MODEL}  (default)")
    for word in ("licence      Apache-2.0", "trained on", "aji", "limit:"):
        assert word in text
    first, *_ = json.loads(models("--json"))
    assert (first["name"], first["default"]) == (DEFAULT_MODEL, True)
    assert set(first) >= {"licence", "data", "scores", "speed", "limits"}


def test_speed_is_measured_here_and_now(monkeypatch: pytest.MonkeyPatch) -> None:
    found = speed.measure_speed(ClassicalSegmenter(), side_px=200, repeat=1)
    assert found.side_px == 200
    assert found.nuclei > 10
    assert found.mpx_per_s == pytest.approx(0.04 / (found.ms / 1e3))
    fixed = speed.Speed("torch bf16, 2 threads", 1024, 5, 200.0, 5.2)
    monkeypatch.setattr(speed, "measure_speed", lambda segmenter: fixed)
    assert "speed here   5.2 Mpx/s (torch bf16, 2 threads" in models("--speed")
    assert json.loads(models("--speed", "--json"))[0]["measured"] == fixed.to_dict()


def test_a_measured_speed_stays_with_the_card(tmp_path: Path) -> None:
    card = ModelCard("tiny", "s", "CC0-1.0", speed={"torch bf16, 2 cores": 5.25})
    save_weights(tmp_path / "t.safetensors", tiny_network().state_dict(), card, Named("unet"), Named("offsets"))
    assert "speed        5.2 Mpx/s (torch bf16, 2 cores)" in models("show", str(tmp_path / "t.safetensors"))


def test_show_prints_the_whole_card(tmp_path: Path) -> None:
    text = models("show", DEFAULT_MODEL)
    for word in ("licence", "recipe", "decoder", "sha256", "widths"):
        assert word in text
    shown = json.loads(models("show", DEFAULT_MODEL, "--json"))
    assert len(shown["sha256"]) == 64
    assert shown["card"]["name"] == DEFAULT_MODEL
    assert models("show", "classical").startswith("classical")
    described = json.loads(models("show", str(bring(tmp_path)), "--json"))
    assert described["card"]["licence"] == "CC0-1.0"
    assert described["head"]["name"] == "foreground"
    torch.save({"desc": thin("hovernet-fast").state_dict()}, tmp_path / "h.tar")
    described = json.loads(models("show", str(tmp_path / "h.tar"), "--json"))
    assert described["network"]["name"] == "hovernet-fast"
    assert "unknown" in described["card"]["licence"]


def test_a_card_cannot_command_the_terminal(tmp_path: Path) -> None:
    card = ModelCard("evil", "\x1b[2Jgone", "CC0-1.0\x07")
    save_weights(tmp_path / "t.safetensors", tiny_network().state_dict(), card, Named("unet"), Named("offsets"))
    text = models("show", str(tmp_path / "t.safetensors"))
    assert "\x1b" not in text
    assert "\x07" not in text


# --- what must be refused -------------------------------------------------------------------------------------


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('executed').write_text('x')",))


def weights(path: Path, **changes: object) -> Path:
    """A weight file of a tiny network; torch's format where a test must write what save_weights refuses."""
    state = {name: value.clone() for name, value in tiny_network().state_dict().items()}
    content: dict[str, object] = {"network": {"name": "unet", "parameters": {"widths": list(TINY.widths)}}}
    content |= {key: value for key, value in changes.items() if key != "state"}
    if callable(changes.get("state")):
        changes["state"](state)
    torch.save({"state": state, **content}, path)
    return path


def test_a_whole_model_works(segment: Command, tmp_path: Path) -> None:
    assert segment(weights(tmp_path / "fine.pt"))[0] == 0


def test_truncated_weights(segment: Command, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_weights(path, tiny_network().state_dict(), ModelCard("cut", "", ""), {"widths": [4, 8, 8]}, {})
    path.write_bytes(path.read_bytes()[:-100])
    code, message = segment(path)
    assert (code, "cut.safetensors: damaged or truncated" in message) == (2, True)
    path = weights(tmp_path / "cut.pt")
    path.write_bytes(path.read_bytes()[:-100])
    code, message = segment(path)
    assert (code, "cut.pt" in message, "Traceback" in message) == (2, True, False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": lambda state: state.pop("head.bias")}, r"missing ['head.bias'], unexpected none"),
        ({"state": lambda state: state.update(tail=state["head.bias"])}, "missing none, unexpected ['tail']"),
        ({"state": lambda state: state.update({"head.bias": torch.zeros(7)})}, "do not fit"),
        ({"state": lambda state: state["head.bias"].fill_(float("nan"))}, "'head.bias' are not finite"),
        ({"network": {"name": "vgg", "parameters": {}}}, "no network 'vgg'; there are unet"),
        ({"network": {"name": "unet", "parameters": {"width": 3}}}, "has no parameters ['width']"),
        ({"network": {"name": "unet", "extra": 1}}, "expected a name and parameters"),
        ({"head": "hover"}, "has the maps"),
        ({"head": 3}, "the head is 3, not a name"),
        ({"decoder": {"name": "hover"}}, "decoder 'hover' does not read offsets"),
        ({"decoder": {"name": "offsets", "parameters": {"mpp": "x"}}}, "mpp is 'x', expected a finite number"),
        ({"margin_px": -3}, "margin_px is -3"),
        ({"card": {"summary": "nameless"}}, "a model's card: object missing required field `name`"),
        ({"card": {"name": "a", "data": "text"}}, "a model's card: data: expected `array`, got `str`"),
        ({"card": {"name": "a", "scores": {"x": 0.5}}}, "a model's card: scores"),
        ({"card": {"name": "a", "speed": "fast"}}, "a model's card: speed"),
        ({"card": 5}, "its description cannot be read"),
    ],
)
def test_weights_that_do_not_fit(segment: Command, tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    code, message = segment(weights(tmp_path / "odd.pt", **changes))
    assert code == 2
    assert reason in message
    assert "Traceback" not in message


def test_outputs_that_are_no_numbers_fail_the_slide(segment: Command, tmp_path: Path) -> None:
    """Weights that are finite, and overflow."""

    def overflow(state: dict[str, torch.Tensor]) -> None:
        state["head.bias"].fill_(3e38)

    code, message = segment(weights(tmp_path / "big.pt", state=overflow))
    assert code == 4
    assert "the network's output is not finite" in message


@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "evil.tar"])
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_code_in_weights_is_not_run(segment: Command, tmp_path: Path, name: str, how: str) -> None:
    path = tmp_path / name
    content = {"state": {"a": torch.ones(1)}, "desc": {"b": _Evil()}, "card": _Evil()}
    if how == "pickle":
        path.write_bytes(pickle.dumps(_Evil()))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    code, message = segment(path)
    assert code == 2
    assert name in message
    assert "refused" in message or "damaged" in message
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "m.toml", "m.tar"])
def test_a_pipe_for_a_model_is_refused_instead_of_waited_for(segment: Command, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    code, message = segment(tmp_path / name)
    assert (code, " pipe" in message) == (2, True)
    with pytest.raises(ModelError, match=" pipe"):
        describe_model(str(tmp_path / name))


def test_descriptions_nested_without_end_are_no_descriptions(segment: Command, tmp_path: Path) -> None:
    deep = b"[" * 200_000
    (tmp_path / "m.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)
    (tmp_path / "m.toml").write_text("a = " + "[" * 50_000)
    for name, says in (("m.safetensors", "not a weight file"), ("m.toml", "nested without end")):
        code, message = segment(tmp_path / name)
        assert (code, says in message) == (2, True)
        with pytest.raises(ModelError, match=says):
            describe_model(str(tmp_path / name))
    with pytest.raises(UsageError, match="is not TOML"):
        read_recipe(str(tmp_path / "m.toml"))


def test_manifests_and_networks_that_do_not_fit(segment: Command, tmp_path: Path) -> None:
    code, message = segment(bring(tmp_path, licence=None))
    assert (code, "licence: is missing" in message) == (2, True)
    code, message = segment(bring(tmp_path, input__border_px=4))
    assert (code, "dark.pt does not fit" in message) == (2, True)
    path = bring(tmp_path)
    torch.save(_Evil(), tmp_path / "dark.pt")
    code, message = segment(path)
    assert (code, "refused" in message) == (2, True)
    assert not (tmp_path / "executed").exists()
    code, message = segment(tmp_path / "dark.pt2")
    assert (code, "needs a manifest" in message) == (2, True)


def test_a_manifests_network_segments_a_slide(segment: Command, tmp_path: Path) -> None:
    code, message = segment(bring(tmp_path))
    assert code == 0, message
    record = json.loads((tmp_path / "out" / "a" / "slide.json").read_text())
    assert record["specification"]["model"]["licence"] == "CC0-1.0"
    assert record["nuclei"] > 0


def test_openvino_is_an_engine_of_segment(segment: Command, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = weights(tmp_path / "fine.pt")
    assert segment(path, "--engine", "openvino")[0] == 0
    record = json.loads((tmp_path / "out" / "a" / "slide.json").read_text())
    assert record["specification"]["model"]["engine"] == "openvino"


def test_drawn_tissue_is_the_same_each_time() -> None:
    image = speed.drawn_tissue(64, 0.5)
    assert image.shape == (64, 64, 3)
    assert np.array_equal(image, speed.drawn_tissue(64, 0.5))

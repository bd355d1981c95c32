"""``wsiseg synth train``: what it lists, shows, refuses and trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")

from wsiseg_cli.group import cli

from wsiseg.errors import UsageError
from wsiseg.synth.renderers.adain.networks import StyleTransfer
from wsiseg.testing.training import write_folder
from wsiseg.train.generators.recipe import list_generator_recipes

TINY = ("data.side=32", "steps=2", "batch=1", "network.widths=[4, 4, 8, 8]", "method.encoder_steps=1")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, ["synth", "train", *map(str, words)])


@pytest.mark.usefixtures("one_thread")
def test_it_trains_and_the_same_command_goes_on(tmp_path: Path) -> None:
    data = f"annotated={write_folder(tmp_path / 'discs', 2, height=64, width=64)}"
    settings = [word for text in TINY for word in ("--set", text)]
    words = ("adain-small", "--data", data, "-o", tmp_path / "run", *settings, "--device", "cpu", "--threads", 1)
    first = invoke(*words, "--json")
    assert first.exit_code == 0, first.output
    weights = Path(json.loads(first.output)["weights"])
    assert weights == tmp_path / "run" / "adain-small.safetensors"
    assert StyleTransfer.load(weights).config.widths == (4, 4, 8, 8)
    again = invoke(*words)
    assert "going on after step 2" in again.output
    assert f"weights after 2 steps: {weights}" in again.output
    other = invoke(*words, "--set", "seed=7")
    assert isinstance(other.exception, UsageError)
    assert "seed was 1, is 7" in str(other.exception)


def test_recipes_are_listed_and_shown() -> None:
    listed = json.loads(invoke("--list", "--json").output)
    assert [row["name"] for row in listed] == list_generator_recipes()
    assert {"name", "summary", "system", "data"} == set(listed[0])
    assert "  system: adain; data: annotated, encoder" in invoke("--list").output
    shown = invoke("adain-small", "--show", "--set", "steps=7").output
    assert 'system = "adain"' in shown
    assert shown.rstrip().endswith("# --set steps=7")


def test_what_it_refuses(tmp_path: Path) -> None:
    assert "--list" in invoke().output
    assert "'-o'" in invoke("adain-small").output
    out = tmp_path / "run"
    for words, said in (
        (("adian", "-o", out), "did you mean 'adain'"),
        (("adain", "-o", out, "--data", f"annotated={tmp_path}"), "--data encoder=PATH"),
        (("adain-small", "-o", out, "--data", f"annotated={tmp_path / 'none'}"), "no such file or folder"),
        (("adain-small", "-o", out, "--set", "stepz=3"), "did you mean 'steps'"),
    ):
        result = invoke(*words)
        assert isinstance(result.exception, UsageError)
        assert said in str(result.exception)
    assert not out.exists()

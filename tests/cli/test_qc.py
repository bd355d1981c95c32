"""``wsiseg qc check``: words, JSON, pictures, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from wsiseg_cli.group import cli

from wsiseg.artefacts.kinds import KINDS


@pytest.fixture
def field(tmp_path: Path) -> Path:
    """Tissue with an inked stripe."""
    rng = np.random.default_rng(0)
    image = np.clip(np.array((200, 130, 175)) + rng.normal(0, 12, (600, 600, 3)), 0, 255)
    image[:, 200:300] *= np.array((30, 140, 110)) / 255
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_slide_in_words(field: Path) -> None:
    result = CliRunner().invoke(cli, ["qc", "check", str(field), "--mpp", "1"], standalone_mode=False)
    assert result.return_value == 0
    for text in ("600 × 600 pixels of 1 µm (option)", "Tissue 0.", "pen marks 2", "too pale"):
        assert text in result.output


def test_json_and_a_picture_of_each(field: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    command = ["qc", "check", str(field), "--mpp", "1", "--json", "-o", str(out)]
    result = CliRunner().invoke(cli, command, standalone_mode=False)
    (found,) = json.loads(result.output)
    assert list(found["artefacts"]) == list(KINDS)
    assert found["artefacts"]["pen"] == pytest.approx(148 / 600, abs=0.03)  # the ink and its margin of 24 µm
    assert found["usable"] == pytest.approx(1 - found["artefacts"]["pen"], abs=0.05)
    assert found["picture"] == str(out / "a.png")
    assert Image.open(out / "a.png").width > 1200


def test_slides_that_cannot_be_used_are_shown_with_the_reason(field: Path, tmp_path: Path) -> None:
    (tmp_path / "b.svs").write_bytes(b"no slide")
    both = CliRunner().invoke(
        cli, ["qc", "check", str(field), str(tmp_path / "b.svs"), "--mpp", "1"], standalone_mode=False
    )
    assert both.return_value == 3
    assert "cannot be used" in both.output
    assert CliRunner().invoke(cli, ["qc", "check", str(field)], standalone_mode=False).return_value == 4

"""Unlabelled images whose scale is a guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from wsiseg.train.source import Frame
from wsiseg.train.sources.estimated import corrected_mpp
from wsiseg.train.sources.images import ImagesSource


@pytest.fixture(scope="module")
def field(real_data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field of real tissue, at 0.25 µm a pixel."""
    source = sorted((real_data("monuseg_train30") / "images").iterdir())[0]
    path = tmp_path_factory.mktemp("field") / "field.png"
    Image.open(source).convert("RGB").crop((0, 0, 800, 800)).save(path)
    return path


@pytest.mark.parametrize(("guess", "low", "high"), [(0.25, 0.25, 0.25), (0.5, 0.17, 0.36), (0.125, 0.17, 0.36)])
def test_a_guess_is_moved_to_the_size_of_nuclei(field: Path, guess: float, low: float, high: float) -> None:
    assert low <= corrected_mpp(field, guess) <= high


def test_where_there_are_no_nuclei_the_guess_stays(tmp_path: Path) -> None:
    Image.fromarray(np.full((300, 300, 3), 230, np.uint8)).save(tmp_path / "glass.png")
    assert corrected_mpp(tmp_path / "glass.png", 0.25) == 0.25
    Image.fromarray(np.full((900, 900, 3), 230, np.uint8)).save(tmp_path / "large.png")
    assert corrected_mpp(tmp_path / "large.png", 0.5) == 0.5


def test_a_sources_patches_have_the_scale_that_was_found(field: Path) -> None:
    as_said = ImagesSource(field.parent, mpp=0.5)
    corrected = ImagesSource(field.parent, mpp=0.5, estimated=True)
    frame = Frame(0.5, 128)
    assert as_said.describe(frame)["content"] != corrected.describe(frame)["content"]
    (few,), (many,) = (list(source.parts(frame, 0)) for source in (corrected, as_said))
    assert len(few.images) < len(many.images)

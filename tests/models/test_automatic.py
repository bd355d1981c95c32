"""``auto``: a model by facts alone, and no model to load."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsiseg.errors import ModelError
from wsiseg.models.automatic import pick_model
from wsiseg.models.registry import AUTO, joined_names, list_models, load_segmenter, locate_model


@pytest.mark.parametrize(
    ("mpp", "device", "model", "why"),
    [
        (0.12, "cuda", "unet-0.25+unet-0.5", "0.12 µm a pixel, and a GPU computes"),
        (0.2528, "cuda", "unet-0.25+unet-0.5", "0.253 µm a pixel, and a GPU computes"),
        (0.35, "cuda", "unet-0.25+unet-0.5", "a GPU"),
        (0.36, "cuda", "unet-0.5", "0.36 µm a pixel, more than the 0.35"),
        (0.5, "cpu", "unet-0.5", "0.5 µm a pixel, more than the 0.35"),
        (0.25, "cpu", "unet-0.5", "no GPU"),
    ],
)
def test_a_model_is_picked_by_pixels_and_device(mpp: float, device: str, model: str, why: str) -> None:
    pick = pick_model(mpp, device)
    assert pick.model == model
    assert pick.note.startswith(f"--model auto takes {model}: ")
    assert why in pick.note
    assert set(joined_names(model)) <= {card.name for card in list_models()}


def test_auto_is_a_wish_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / AUTO).write_text("a file of that name changes nothing")
    assert locate_model(AUTO) == AUTO
    assert os.listdir(tmp_path) == [AUTO]
    with pytest.raises(ModelError, match=r"auto.*picks one for each slide.*unet-0\.5"):
        load_segmenter(AUTO)

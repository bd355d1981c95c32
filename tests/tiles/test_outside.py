"""The check of the tissue by windows beside it: where they lie, and that it tells a mask that misses nuclei."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsiseg.core.geometry import Box, Scale, Window
from wsiseg.core.grid import TileGrid
from wsiseg.results.notes import outside_notes
from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.plan import SlidePlan
from wsiseg.results.record import Outside
from wsiseg.slide import SlideSource
from wsiseg.testing import write_slide
from wsiseg.testing.runs import run
from wsiseg.tiles import plan as planning
from wsiseg.tiles.outside import outside_windows
from wsiseg.tissue import Tissue, make_tissue

SIDE = 256  # lattice pixels of a window of 128 µm at 0.5 µm


def a_plan(tile: int = 2048) -> SlidePlan:
    return SlidePlan(
        source=SlideSource("s", None),
        mpp=0.25,
        downsample=2.0,
        grid=TileGrid(6400, 6400, tile, 96, 32),
        band_px=20.0,
        calibration={},
        tiles=(),
        key="",
        fingerprint="",
        specification={},
        tissue_mm2=1.0,
        seconds=0.0,
    )


def a_tissue(mask: np.ndarray) -> Tissue:
    """A mask of 8 µm a cell over a slide of 12,800² pixels of 0.25 µm."""
    return Tissue(mask, mask, np.zeros_like(mask), Scale(32.0), Box(0, 0, 12_800, 12_800), {})


def disc(radius: int = 120) -> np.ndarray:
    y, x = np.mgrid[:400, :400]
    found: np.ndarray = (y - 200) ** 2 + (x - 200) ** 2 < radius**2
    return found


def test_windows_lie_beside_the_tissue_apart_and_the_same_for_every_tile_size() -> None:
    tissue = a_tissue(disc())
    windows = outside_windows(a_plan(), tissue)
    assert windows == outside_windows(a_plan(512), tissue)
    assert 4 <= len(windows) <= 32
    assert len({(w.x, w.y) for w in windows}) == len(windows)
    for window in windows:
        assert window == Window(window.x // SIDE * SIDE, window.y // SIDE * SIDE, SIDE, SIDE)
        cells = window.y // 16, window.x // 16
        here = np.s_[cells[0] : cells[0] + 16, cells[1] : cells[1] + 16]
        assert tissue.mask[here].mean() <= 0.5
        assert tissue.just_outside(128.0, 0.25)[here].mean() >= 0.5


def test_a_field_without_an_outside_has_no_window_and_one_without_tissue_has_some() -> None:
    everywhere = np.ones((400, 400), dtype=bool)
    assert outside_windows(a_plan(), a_tissue(everywhere)) == []
    hole = everywhere.copy()
    hole[100:110, 100:110] = False
    assert outside_windows(a_plan(), a_tissue(hole)) == []
    assert len(outside_windows(a_plan(), a_tissue(~everywhere))) == 4


def test_a_region_and_artefacts_bound_the_outside() -> None:
    tissue = replace(a_tissue(disc()), artefact=np.arange(400)[None, :] + np.zeros((400, 1)) > 250)
    region = tissue.restrict(Box(0, 0, 12_800, 6_400))
    windows = outside_windows(a_plan(), region)
    assert windows
    assert all(w.y1 <= 3200 + SIDE / 2 and w.x1 <= 251 * 16 + SIDE / 2 for w in windows)
    points = np.array([[100.0, 100.0], [100.0, 12_000.0], [6400.0, 6000.0], [12_000.0, 100.0]])
    assert region.excludes(points).tolist() == [True, False, False, False]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "s.svs"
    write_slide(path, width=2048, height=2048, mpp=0.5, seed=5)
    return path


def record_of(slide: Path, out: Path, **settings: Any) -> dict[str, Any]:
    run([slide], out, **settings)
    found: dict[str, Any] = json.loads((out / "s" / "slide.json").read_text())
    return found


def half_missed(*arguments: Any, **settings: Any) -> Tissue:
    """The tissue, of which the right half is missed."""
    found = make_tissue(*arguments, **settings)
    left = np.arange(found.mask.shape[1])[None, :] < found.mask.shape[1] // 2
    return replace(found, mask=found.mask & left, core=found.core & left)


@pytest.mark.usefixtures("few_patches")
def test_a_mask_that_misses_tissue_is_told_and_the_nuclei_are_none_of_the_result(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "make_tissue", half_missed)
    record = record_of(slide, tmp_path / "a")
    outside = record["outside"]
    assert outside["nuclei"] > 5
    assert outside["per_mm2"] == pytest.approx(outside["nuclei"] / outside["area_mm2"])
    assert 0.02 < outside["share"] < 0.9
    assert any("Nuclei outside the tissue" in note for note in record["notes"])
    assert read_nuclei(tmp_path / "a" / "s" / "nuclei.parquet").centroids()[:, 0].max() < 1024 + 16
    assert record_of(slide, tmp_path / "b", tile=1024)["outside"] == outside


@pytest.mark.usefixtures("few_patches")
def test_glass_beside_tissue_is_silent_and_a_slide_without_an_outside_is_not_checked(
    slide: Path, tmp_path: Path
) -> None:
    record = record_of(slide, tmp_path / "a")
    assert record["outside"]["windows"] >= 4
    assert not any("outside" in note for note in record["notes"])
    assert record_of(slide, tmp_path / "b", tissue_only=False)["outside"] is None


@pytest.mark.parametrize(
    ("outside", "told"),
    [
        (None, False),
        (Outside(4, 0.05, 4, 80.0, 0.1), False),
        (Outside(32, 0.5, 6, 12.0, 0.001), False),
        (Outside(4, 0.05, 5, 100.0, 0.1), True),
    ],
)
def test_a_few_nuclei_by_chance_are_no_warning(outside: Outside | None, told: bool) -> None:
    assert bool(outside_notes(outside)) == told

"""Artefacts drawn over drawn tissue are found where they are, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from wsiseg.artefacts.kinds import KINDS, SPOILING, names_of
from wsiseg.qc.slidecheck import Checked, check_slide
from wsiseg.slide import open_slide
from wsiseg.testing import write_slide
from wsiseg.testing.artefacts import bubble, defocus, fold, ink
from wsiseg.testing.svs import write_svs

MPP = 0.5
SIDE = 2048
CELL = 16
BoolImage = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Drawn:
    clean: Path
    spoiled: Path
    truth: Mapping[str, BoolImage]  # on cells


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """A slide of 1.5 mm with a place out of focus, a pen stroke, a fold and a bubble, and the same without."""
    folder = tmp_path_factory.mktemp("artefacts")
    write_slide(folder / "clean.svs", width=SIDE, height=SIDE, mpp=MPP, layout="dense", seed=5)
    with open_slide(folder / "clean.svs") as slide:
        image = slide.read_level(0, 0, 0, SIDE, SIDE)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    blurred = (rows > 200) & (rows < 900) & (columns > 200) & (columns < 900)
    stroke = np.abs(columns - rows * 0.2 - 1200) < 100
    crease = (np.abs(rows + 0.4 * columns - 1600) < 60) & (columns < 1200)
    image = defocus(image, blurred, 2.0 / MPP)
    image = ink(image, stroke, (40, 70, 170))
    image = fold(image, crease, 90)
    image, ball = bubble(image, 1740.0, 600.0, 260.0, 50.0)
    write_svs(folder / "spoiled.svs", image, mpp=MPP, levels=(1, 4))
    places = {"out_of_focus": blurred, "pen": stroke, "fold": crease, "edge": ball}
    return Drawn(folder / "clean.svs", folder / "spoiled.svs", {name: cells(mask) for name, mask in places.items()})


def cells(mask: BoolImage) -> BoolImage:
    """The cells of which half is in ``mask``."""
    side = SIDE // CELL
    return np.asarray(mask.reshape(side, CELL, side, CELL).mean(axis=(1, 3)) >= 0.5)


@pytest.fixture(scope="module")
def checked(drawn: Drawn) -> Checked:
    with open_slide(drawn.spoiled) as slide:
        return check_slide(slide)


def iou(found: BoolImage, true: BoolImage) -> float:
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize("name", ["out_of_focus", "pen", "fold", "edge"])
def test_drawn_artefacts_are_found_where_they_are(name: str, drawn: Drawn, checked: Checked) -> None:
    assert iou(checked.artefacts.mask(name), drawn.truth[name]) >= 0.6


def test_the_bubble_is_grey_or_an_edge_and_what_it_holds_is_blurred(drawn: Drawn, checked: Checked) -> None:
    ball = drawn.truth["edge"]
    assert checked.artefacts.mask("edge", "out_of_focus", "dark")[ball].mean() > 0.95


def test_clean_tissue_has_no_artefacts(drawn: Drawn) -> None:
    with open_slide(drawn.clean) as slide:
        clean = check_slide(slide)
    assert clean.check.artefacts == dict.fromkeys(KINDS, 0.0)
    assert clean.check.usable == 1.0
    assert clean.check.usable_mm2 == pytest.approx(clean.check.tissue_mm2, rel=0.01)


def test_blocks_do_not_matter(drawn: Drawn, checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block says is the same whatever the size of the blocks."""
    monkeypatch.setattr("wsiseg.artefacts.fine.BLOCK_CELLS", 48)
    with open_slide(drawn.spoiled) as slide:
        assert np.array_equal(check_slide(slide).artefacts.bits, checked.artefacts.bits)


def test_shares_and_what_is_usable_add_up(checked: Checked) -> None:
    assert set(checked.check.artefacts) == set(KINDS)
    spoiled = sum(checked.check.artefacts[name] for name in SPOILING)
    assert 1 - spoiled <= checked.check.usable <= 1 - max(checked.check.artefacts[name] for name in SPOILING)
    assert any("is usable" in note for note in checked.check.notes)


def test_points_have_the_kinds_of_their_cell(checked: Checked) -> None:
    found = checked.artefacts.at(np.array([[500.0, 500.0], [-3.0, 5.0], [1e9, 5.0], [1500.0, 1500.0]]))
    assert found.dtype == np.uint16
    assert names_of(int(found[0])) == ("out_of_focus",)
    assert found[1:3].tolist() == [0, 0]


def test_a_coarse_slide_says_nothing_of_focus(tmp_path: Path) -> None:
    image = np.full((200, 200, 3), (190, 120, 170), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=4.0) as slide:
        found = check_slide(slide).artefacts
    assert not found.mask("out_of_focus", "understained", "acellular").any()

"""What is found in plain pictures of one colour or texture, and what is not; the kinds' names and bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

from wsiseg.artefacts.coarse import find_coarse
from wsiseg.artefacts.kinds import COLOURS, KINDS, SPOILING, bit, bits, names_of
from wsiseg.core.geometry import Scale
from wsiseg.qc.slidecheck import check_slide
from wsiseg.slide import open_slide
from wsiseg.tissue import make_tissue


def test_names_and_bits_are_stable() -> None:
    assert [(name, bit(name)) for name in KINDS] == [
        ("pen", 1),
        ("dark", 2),
        ("edge", 4),
        ("fold", 8),
        ("out_of_focus", 16),
        ("acellular", 32),
        ("understained", 64),
        ("overstained", 128),
    ]
    assert names_of(bits(("fold", "pen"))) == ("pen", "fold")
    assert set(COLOURS) == set(KINDS) > set(SPOILING)


def check(path: Path, image: npt.NDArray[np.uint8]) -> dict[str, float]:
    Image.fromarray(image).save(path)
    with open_slide(path, mpp=1.0) as slide:
        return dict(check_slide(slide).check.artefacts)


def noisy(colour: tuple[int, int, int], noise: float) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return np.clip(np.array(colour) + rng.normal(0, noise, (512, 512, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((190, 100, 139), "acellular"),  # red cells
        ((40, 10, 45), "overstained"),
        ((235, 215, 230), "understained"),
        ((40, 36, 38), "dark"),
    ],
)
def test_fields_of_one_colour(colour: tuple[int, int, int], name: str, tmp_path: Path) -> None:
    assert check(tmp_path / "a.png", noisy(colour, 8.0))[name] > 0.9


def test_ordinary_tissue_is_none_of_them(tmp_path: Path) -> None:
    image = noisy((190, 120, 170), 10.0)
    image[::16, ::16] = (90, 60, 130)
    image = np.repeat(np.repeat(image[:128, :128], 4, axis=0), 4, axis=1)  # detail of 4 µm
    found = check(tmp_path / "a.png", image)
    assert {name: share for name, share in found.items() if share > 0.01 and name != "out_of_focus"} == {}


@pytest.mark.parametrize(
    ("name", "kinds", "recall"),
    [("pen_green", ("pen",), 0.95), ("pen_red", ("pen",), 0.9), ("coverslip_edge_he", ("dark", "edge"), 0.85)],
)
def test_marked_artefacts(
    name: str, kinds: tuple[str, ...], recall: float, real_data: Callable[[str], Path]
) -> None:
    image = np.asarray(Image.open(real_data(f"qc_artefacts/histoqc_{name}.png")).convert("RGB"))
    marked = np.asarray(Image.open(real_data(f"qc_artefacts/histoqc_{name}_mask.png")).convert("L")) > 127
    tissue = make_tissue(image, Scale(8.0), image.shape[1] * 8.0, image.shape[0] * 8.0, 1.0)
    found = find_coarse(image, tissue, 8.0) & bits(kinds) > 0
    assert (found & marked).sum() / marked.sum() >= recall
    assert (found & tissue.core & ~marked).sum() / tissue.core.sum() < 0.03


@pytest.mark.parametrize("number", range(0, 30, 6))
def test_real_fields_are_in_focus(number: int, real_data: Callable[[str], Path], tmp_path: Path) -> None:
    path = sorted(real_data("monuseg_train30/images").glob("*.webp"))[number]
    with open_slide(path, mpp=0.25) as slide:
        assert check_slide(slide).check.artefacts["out_of_focus"] == 0
    image = Image.open(path).convert("RGB").filter(ImageFilter.GaussianBlur(6.0))  # 1.5 µm
    image.save(tmp_path / "blurred.png")
    with open_slide(tmp_path / "blurred.png", mpp=0.25) as slide:
        assert check_slide(slide).check.artefacts["out_of_focus"] > 0.95

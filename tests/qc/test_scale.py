"""Microns per pixel that nuclei contradict."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import trace
from wsiseg.models.base import Segmenter
from wsiseg.qc.scale import Look, Verdicts, join_looks, look_at_scales, octaves_too_large, odd_places, scale_notes
from wsiseg.slide import open_slide


def look(area: float, cover: float, nuclei: int = 60) -> Look:
    return Look((area,) * nuclei, 1e6 * cover, 1_000_000)


RIGHT = [look(16, 0.17), look(25, 0.15), look(44, 0.12)]
TOO_LARGE = [look(30, 0.05), look(65, 0.13), look(90, 0.16)]
TOO_SMALL = [look(6, 0.15), look(10, 0.10), look(40, 0.01, 5)]


def patches(nuclei: float, area: float, count: int = 8) -> Verdicts:
    place = np.arange(count, dtype=np.float64)
    return {
        "nuclei": np.full(count, nuclei), "area_log": np.full(count, np.log(area)), "dark": place / 100,
        "x": place * 512, "y": place * 0, "width": np.full(count, 512), "height": np.full(count, 512),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("looks", "said"), [(RIGHT, ""), (TOO_LARGE, "times too large"), (TOO_SMALL, "times too small")]
)
@pytest.mark.parametrize(("nuclei", "area"), [(80.0, 60.0), (80.0, 12.0), (2.0, 28.0), (0.0, np.nan)])
def test_odd_areas_and_few_nuclei_are_looked_at_again(
    looks: list[Look], said: str, nuclei: float, area: float
) -> None:
    assert odd_places(patches(nuclei, area))
    notes = scale_notes(looks)
    assert len(notes) == bool(said)
    assert all(said in note and note.startswith("The microns per pixel are probably wrong") for note in notes)


def test_nuclei_of_the_usual_size_need_no_look() -> None:
    assert odd_places(patches(80.0, 28.0)) == []
    assert scale_notes([]) == []


def test_where_hardly_any_nuclei_are_at_any_scale_nothing_is_known() -> None:
    assert octaves_too_large([look(16, 0.001, 5), look(25, 0.0, 0), look(44, 0.0, 0)]) is None
    assert odd_places({"reason": np.array([], dtype=str)}) == []


def test_the_places_are_those_with_most_dark_spots() -> None:
    asked = odd_places(patches(1.0, 28.0, count=40))
    assert len(asked) == 6
    assert all(box.x0 >= 20 * 512 for box in asked)  # the darker half


def test_looks_at_single_places_are_joined_by_their_pixels() -> None:
    places = [[Look((9.0, 9.0), 10.0, 100)], [Look((), 0.0, 0)], [Look((4.0,), 6.0, 300)]]
    (joined,) = join_looks(places)
    assert joined.areas == (9.0, 9.0, 4.0)
    assert joined.cover == 16 / 400
    assert join_looks([]) == []


class DarkSquares:
    """Outlines what is dark."""

    mpp, stride_px = 0.5, 16

    def segment(self, images: Sequence[npt.NDArray[np.uint8]], calibration: object) -> list[Nuclei]:
        traced = [trace(ndimage.label(image[..., 0] < 128)[0].astype(np.int32)) for image in images]
        return [replace(one, columns={"score": np.ones(len(one), np.float32)}) for one in traced]


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0])
def test_looks_measure_whole_nuclei_by_the_mpp_that_is_given(times: float, tmp_path: Path) -> None:
    image = np.full((256, 256, 3), 255, dtype=np.uint8)
    for y, x in itertools.product(range(12, 256, 32), repeat=2):
        image[y : y + 8, x : x + 8] = 40  # 4 µm at 0.5 µm a pixel
    Image.fromarray(image).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=0.5 * times) as slide:
        looks = look_at_scales(slide, [Box(0, 0, 256, 256)], cast(Segmenter, DarkSquares()))
    side = min(256, 256 / times)  # of the middle that is looked at, pixels
    assert all(len(one.areas) == pytest.approx((side / 32) ** 2, abs=side / 8) for one in looks)
    assert all(np.median(one.areas) == pytest.approx(16 * times**2, rel=0.15) for one in looks)
    assert all(one.cover == pytest.approx(1 / 16, rel=0.3) for one in looks)

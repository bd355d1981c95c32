"""The patches that are shown: which, how they are drawn, and where they lie on the map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsiseg.artefacts.kinds import COLOURS, bit
from wsiseg.artefacts.map import ArtefactMap
from wsiseg.core.geometry import Box, Scale, Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import ReadError
from wsiseg.report.artefactmap import draw_artefacts
from wsiseg.report.examples import Example, choose_examples, draw_example, named_examples
from wsiseg.report.gallery import write_gallery
from wsiseg.report.overlay import OUTLINE
from wsiseg.report.qualitymap import BANDS, band_of, draw_quality
from wsiseg.testing.nucleifile import NucleiWriter


def verdicts(p_bad: list[float], **columns: Any) -> dict[str, np.ndarray]:
    """Patches of 100 level-0 pixels side by side."""
    count = len(p_bad)
    found = {
        "index": np.arange(count), "x": np.arange(count) * 100, "y": np.zeros(count, int),
        "width": np.full(count, 100), "height": np.full(count, 100), "p_bad": np.array(p_bad),
        "expected_aji": 0.7 - 0.5 * np.array(p_bad), "reason": np.where(np.array(p_bad) >= 0.5, "uncovered", ""),
    }  # fmt: skip
    return {**found, **{name: np.asarray(value) for name, value in columns.items()}}


class Slide:
    """Stands in for a slide of one colour at 0.25 µm; ``broken``: nothing can be read."""

    broken = False

    def scale(self, mpp: float) -> Scale:
        return Scale(mpp / 0.25)

    def require_mpp(self) -> Any:
        return type("Mpp", (), {"value": 0.25})

    def read_window(self, window: Window, scale: Scale) -> np.ndarray:
        if self.broken:
            raise ReadError("cannot be read")
        return np.full((*window.shape, 3), 200, np.uint8)


def nuclei_file(folder: Path) -> Path:
    ring = np.array([[20.0, 20], [60, 20], [60, 60], [20, 60]])
    with NucleiWriter(folder / "nuclei.parquet", {}, {}) as writer:
        writer.write(Nuclei(ring, np.array([0, 4])))
    return folder / "nuclei.parquet"


def test_the_worst_are_those_most_probably_bad_the_typical_nearest_to_the_median() -> None:
    chosen = choose_examples(verdicts([0.01 * n for n in range(21)]))
    assert [one.index for one in chosen if one.kind == "worst"] == [20, 19, 18, 17, 16, 15]
    assert [one.index for one in chosen if one.kind == "typical"] == [10, 11, 9]  # of 11 and 9 the lower AJI first
    assert [one.label for one in chosen] == ["1", "2", "3", "4", "5", "6", "a", "b", "c"]


def test_the_choice_does_not_depend_on_the_order_of_rows_and_takes_none_twice() -> None:
    columns = verdicts(np.random.default_rng(0).uniform(size=40).round(1).tolist())
    chosen = choose_examples(columns)
    order = np.random.default_rng(1).permutation(40)
    assert choose_examples({name: column[order] for name, column in columns.items()}) == chosen
    assert len({one.index for one in chosen}) == len(chosen) == 9


@pytest.mark.parametrize(("count", "worst", "typical"), [(0, 0, 0), (1, 1, 0), (2, 1, 1), (5, 3, 2), (9, 5, 3)])
def test_of_few_patches_at_most_half_are_the_worst(count: int, worst: int, typical: int) -> None:
    chosen = choose_examples(verdicts([0.3] * count))
    assert sum(one.kind == "worst" for one in chosen) == worst
    assert sum(one.kind == "typical" for one in chosen) == typical


def test_what_could_not_be_read_is_not_shown_and_what_has_no_aji_comes_last() -> None:
    columns = verdicts([1.0, 1.0, 1.0, 0.1, 0.1, 0.1], reason=["lost", "artefact", "uncovered", "", "", ""])
    columns["expected_aji"][:2] = np.nan
    assert [one.index for one in choose_examples(columns)][:2] == [2, 1]
    assert 0 not in [one.index for one in choose_examples(columns)]
    assert choose_examples({"reason": np.empty(0, str), "p_bad": np.empty(0)}) == ()


def test_names_of_pictures_say_which_patch_they_show() -> None:
    chosen = choose_examples(verdicts([0.1 * n for n in range(9)]))
    names = [one.file for one in chosen]
    strange = [
        "overview.jpg",
        "worst-1-patch-../x.jpg",
        "worst-0-patch-1.jpg",
        "other-1-patch-1.jpg",
        "worst-1-patch-1.jpg.exe",
    ]
    assert named_examples([*strange, *reversed(names)]) == chosen


def test_a_patch_is_drawn_with_thin_outlines_at_half_a_micron(tmp_path: Path) -> None:
    path = nuclei_file(tmp_path)
    wide = draw_example(Slide(), path, Box(0, 0, 1024, 1024))  # type: ignore[arg-type]
    assert wide is not None
    assert wide.shape == (512, 512, 3)
    small = draw_example(Slide(), path, Box(0, 0, 128, 128))  # type: ignore[arg-type]
    assert small is not None
    assert small.shape == (512, 512, 3)
    on_the_edge, inside = small[160, 80].astype(int), small[160, 160]  # the ring is 20 to 60, four pixels each
    assert np.abs(on_the_edge - OUTLINE).max() < 80
    assert inside.tolist() == [200, 200, 200]


def test_a_patch_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    slide = Slide()
    slide.broken = True
    assert draw_example(slide, nuclei_file(tmp_path), Box(0, 0, 100, 100)) is None  # type: ignore[arg-type]


def test_bands_part_at_their_limits() -> None:
    assert band_of(np.array([0.0, 0.099, 0.10, 0.25, 0.5, 0.75, 1.0])).tolist() == [0, 0, 1, 2, 3, 4, 4]
    assert len({band.colour for band in BANDS}) == len(BANDS)


def test_the_map_has_the_colour_of_each_patch_where_it_lies() -> None:
    columns = verdicts([0.0, 0.9], y=[0, 100])
    overview = np.full((40, 60, 3), 240, np.uint8)  # 10 level-0 pixels each
    image = np.asarray(draw_quality(overview, Scale(10.0), columns, (), 800)).astype(int)
    assert image[5, 5, 2] > image[5, 5, 0]  # blue
    assert image[15, 15, 0] > image[15, 15, 2]  # red
    assert image[5, 15].tolist() == image[30, 30].tolist()  # not judged
    framed = np.asarray(draw_quality(overview, Scale(10.0), columns, [Example("worst", 1, 1)], 800))
    assert framed[19, 19].max() < 60
    assert framed[5, 5].tolist() == image[5, 5].tolist()


def test_a_patch_smaller_than_a_pixel_is_seen() -> None:
    overview = np.full((40, 60, 3), 240, np.uint8)
    image = np.asarray(draw_quality(overview, Scale(1000.0), verdicts([0.9]), [Example("worst", 1, 0)], 800))
    assert (image[0, 0] != image[39, 59]).any()


def test_artefacts_are_drawn_without_a_legend() -> None:
    bits = np.zeros((4, 6), np.uint16)
    bits[:, 3:] = bit("fold")
    image = np.asarray(
        draw_artefacts(np.full((40, 60, 3), 240, np.uint8), Scale(1.0), ArtefactMap(bits, Scale(10.0)), 800)
    )
    assert image.shape == (40, 60, 3)
    away = np.abs(image[20, 45].astype(int) - COLOURS["fold"]).sum()
    assert away < np.abs(image[20, 15].astype(int) - COLOURS["fold"]).sum()


def test_a_gallery_is_the_same_again(tmp_path: Path) -> None:
    nuclei_file(tmp_path)
    Image.new("RGB", (1024, 700), (200, 100, 150)).save(tmp_path / "thumbnail.png")
    overview = np.full((70, 100, 3), 240, np.uint8)
    artefacts = ArtefactMap(np.zeros((7, 10), np.uint16), Scale(100.0))
    columns = verdicts([0.1, 0.8, 0.2, 0.3])
    contents = []
    for _ in range(2):
        write_gallery(tmp_path, overview, Scale(10.0), artefacts, columns)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()})
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == ["artefacts.jpg", "overview.jpg", "quality.jpg", "thumbnail.jpg"]
    assert max(Image.open(tmp_path / "pictures" / "thumbnail.jpg").size) == 640

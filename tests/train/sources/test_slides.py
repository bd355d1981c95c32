"""Patches of slides: of a run with its nuclei, and without labels."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsiseg.core.select import Select
from wsiseg.errors import MissingMppError, UsageError
from wsiseg.results.nuclei import read_nuclei
from wsiseg.testing import Truth
from wsiseg.testing.training import discs, same, whole
from wsiseg.train.patches import KNOWN, UNKNOWN
from wsiseg.train.source import Frame
from wsiseg.train.sources.images import ImagesSource
from wsiseg.train.sources.run import RunSource
from wsiseg.train.sources.slides import apportion


def test_the_runs_nuclei_are_the_labels(drawn_results: Path) -> None:
    """At 1 level-0 pixel a pixel, each label is a nucleus of the file."""
    frame = Frame(mpp=0.25, side=96)
    pool = whole(RunSource(drawn_results, count=10, sure=0.0), frame)
    assert (pool.known == UNKNOWN).mean() < 0.2
    nuclei = read_nuclei(drawn_results / "drawn" / "nuclei.parquet")
    areas = set(np.round(nuclei.areas()).astype(int).tolist())
    whole_ones = [
        int((labels == n).sum())
        for labels in pool.labels
        for n in range(1, labels.max() + 1)
        if not {n} & set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).tolist())
    ]
    assert len(whole_ones) > 5
    near = [min(abs(area - known) for known in areas) <= 0.1 * area for area in whole_ones]
    assert np.mean(near) > 0.9


def test_a_nucleus_that_is_not_sure_is_unknown(drawn_results: Path) -> None:
    scores = read_nuclei(drawn_results / "drawn" / "nuclei.parquet").columns["score"]
    middle = float(np.median(scores))
    all_of_them = whole(RunSource(drawn_results, count=8, sure=0.0, seed=3))
    some = whole(RunSource(drawn_results, count=8, sure=middle, seed=3))
    assert np.array_equal(all_of_them.images, some.images)
    dropped = (all_of_them.labels > 0) & (some.labels == 0) & (all_of_them.known == KNOWN)
    assert dropped.any()
    assert (some.known[dropped] == UNKNOWN).all()
    assert (some.covered[some.known == UNKNOWN] == 0).all()
    wide = whole(RunSource(drawn_results, count=8, sure=middle, seed=3, margin_um=4.0))
    assert (wide.known == UNKNOWN).sum() > (some.known == UNKNOWN).sum()
    assert np.array_equal(wide.labels, some.labels)


def test_lost_area_is_unknown(drawn_results: Path, tmp_path: Path) -> None:
    from wsiseg.core.geometry import Scale
    from wsiseg.results.maps import write_masks

    copy = shutil.copytree(drawn_results, tmp_path / "lost")
    maps = copy / "drawn" / "maps.zarr"
    tissue = np.ones((96, 96), dtype=bool)
    write_masks(maps, tissue, Scale(32.0), 0.25, [(0, 0, 3072, 1536, "damaged")])
    pool = whole(RunSource(copy, count=40, sure=0.0, seed=1))
    assert (pool.known[pool.labels == 0] == UNKNOWN).any()
    assert (pool.known == KNOWN).any()
    write_masks(maps, np.zeros((96, 96), dtype=bool), Scale(32.0), 0.25)
    with pytest.raises(UsageError, match="no tissue"):
        whole(RunSource(copy, count=4))


def test_slides_that_moved_or_changed(drawn_results: Path, drawn: tuple[Path, Truth], tmp_path: Path) -> None:
    elsewhere = tmp_path / "slides"
    elsewhere.mkdir()
    shutil.copy(drawn[0], elsewhere)
    source = RunSource(drawn_results, count=3)
    assert same(whole(source), whole(dataclasses.replace(source, slides=elsewhere)))
    with pytest.raises(UsageError, match="say where with slides"):
        whole(dataclasses.replace(source, slides=tmp_path))
    with (elsewhere / drawn[0].name).open("r+b") as file:
        file.seek(200_000)
        file.write(bytes(5000))
    with pytest.raises(UsageError, match="its content is not what"):
        whole(dataclasses.replace(source, slides=elsewhere))


def test_grades_choose_slides(drawn_results: Path) -> None:
    grade = json.loads((drawn_results / "drawn" / "slide.json").read_text())["grade"]["grade"]
    assert len(whole(RunSource(drawn_results, count=2, grades=(grade, "x")))) == 2
    with pytest.raises(UsageError, match="no slide graded x; there are"):
        whole(RunSource(drawn_results, count=2, grades=("x",)))
    with pytest.raises(UsageError, match="no results"):
        whole(RunSource(drawn_results / "drawn", count=2))


def test_slides_of_a_run_are_selected(drawn_results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(drawn_results, tmp_path / "results")
    (copy / "slides.txt").write_text("drawn\n")
    assert len(whole(RunSource(copy, count=2, select=Select("slides.txt")))) == 2
    (copy / "slides.txt").write_text("other\n")
    with pytest.raises(UsageError, match=r"slides\.txt: names other"):
        whole(RunSource(copy, count=2, select=Select("slides.txt")))
    with pytest.raises(UsageError, match="of 1 none is in the part 'validation'"):
        whole(RunSource(copy, count=2, select=Select(part="validation")))


def test_images_are_drawn_from_tissue(drawn: tuple[Path, Truth], annotated: Path) -> None:
    pool = whole(ImagesSource(drawn[0], count=20, seed=4))
    assert pool.images.shape == (20, 48, 48, 3)
    assert (pool.known == UNKNOWN).all()
    assert (pool.images.mean(axis=(1, 2, 3)) < 235).mean() > 0.7  # mostly no glass
    assert not np.array_equal(pool.images, whole(ImagesSource(drawn[0], count=20, seed=5)).images)
    grid = whole(ImagesSource(annotated / "images", mpp=0.25), Frame(0.25, 160))
    assert np.array_equal(grid.images[0], np.array(Image.open(annotated / "images" / "a.png")))
    with pytest.raises(MissingMppError, match="microns per pixel"):
        whole(ImagesSource(annotated / "images"))


def test_blank_images_have_nothing_to_draw(tmp_path: Path) -> None:
    Image.fromarray(np.full((200, 200, 3), 245, dtype=np.uint8)).save(tmp_path / "glass.png")
    with pytest.raises(UsageError, match="no tissue in 1 images"):
        whole(ImagesSource(tmp_path, mpp=0.5, count=4))


@given(st.integers(1, 500), st.lists(st.floats(0, 10), min_size=1, max_size=6))
def test_counts_are_in_proportion(count: int, areas: list[float]) -> None:
    if sum(areas) < 1e-6:
        return
    found = apportion(count, areas)
    assert sum(found) == count
    assert all(abs(n - count * a / sum(areas)) < 1 + 1e-6 for n, a in zip(found, areas, strict=True))


def test_images_of_one_name_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    for n, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        Image.fromarray(discs(n, 96, 96)[0]).save(tmp_path / folder / "0.png")
    source = ImagesSource(tmp_path, mpp=0.5)
    assert len(whole(source)) == 8
    assert len(whole(dataclasses.replace(source, select=Select(match="b/*")))) == 4

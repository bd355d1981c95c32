"""The artefact map of a run: in its files, with every nucleus, the same whatever the tiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsiseg.artefacts.kinds import KINDS, bit
from wsiseg.core.geometry import Box
from wsiseg.results.maps import read_label_region
from wsiseg.results.nuclei import read_geodataframe, read_metadata, read_nuclei
from wsiseg.slide import open_slide
from wsiseg.testing import write_slide
from wsiseg.testing.artefacts import defocus
from wsiseg.testing.runs import StopsAfter, run, same_results
from wsiseg.testing.svs import write_svs

pytestmark = pytest.mark.usefixtures("few_patches")
SIDE = 1024
WHOLE = Box(0, 0, SIDE, SIDE)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a millimetre of drawn tissue, its left half out of focus."""
    folder = tmp_path_factory.mktemp("blurred")
    write_slide(folder / "sharp.svs", width=SIDE, height=SIDE, mpp=0.5, layout="dense", seed=2)
    with open_slide(folder / "sharp.svs") as sharp:
        image = sharp.read_level(0, 0, 0, SIDE, SIDE)
    left = np.zeros((SIDE, SIDE), dtype=bool)
    left[:, : SIDE // 2] = True
    return write_svs(folder / "a.svs", defocus(image, left, 3.0), mpp=0.5, levels=(1,))


@pytest.fixture(scope="module")
def results(slide: Path, few_patches: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    run([slide], out)
    return out / "a"


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "slide.json").read_text())
    return found


def test_the_record_says_what_is_usable(results: Path) -> None:
    written = record(results)
    assert list(written["artefacts"]) == list(KINDS)
    assert written["artefacts"]["out_of_focus"] == pytest.approx(0.5, abs=0.06)
    assert written["usable_mm2"] == pytest.approx(written["tissue_mm2"] / 2, rel=0.15)
    assert any("out of focus" in note for note in written["notes"])
    assert written["timings_s"]["artefacts"] > 0
    assert "artefacts.png" in written["files"]


def test_nuclei_are_flagged_and_none_is_dropped(results: Path) -> None:
    nuclei = read_nuclei(results / "nuclei.parquet")
    blurred = nuclei.columns["artefact"] & bit("out_of_focus") > 0
    assert nuclei.columns["artefact"].dtype == np.uint16
    assert read_metadata(results / "nuclei.parquet")["artefacts"] == list(KINDS)
    x = nuclei.centroids()[:, 0]
    assert blurred[x < SIDE / 2 - 64].all()
    assert not blurred[x > SIDE / 2 + 80].any()
    assert "artefact" in read_geodataframe(results).columns


def test_the_map_is_a_label_image(results: Path) -> None:
    labels, _, scale = read_label_region(results / "maps.zarr", WHOLE, name="artefacts")
    nuclei = read_nuclei(results / "nuclei.parquet")
    x, y = (nuclei.centroids() / scale.downsample).astype(int).T
    assert labels.dtype == np.uint16
    assert np.array_equal(labels[y, x], nuclei.columns["artefact"])


def test_tiles_and_regions_do_not_matter(results: Path, slide: Path, tmp_path: Path) -> None:
    whole, _, _ = read_label_region(results / "maps.zarr", WHOLE, name="artefacts")
    run([slide], tmp_path / "tiles", tile=1024)
    run([slide], tmp_path / "roi", roi=(300.0, 200.0, 400.0, 400.0))
    other, _, _ = read_label_region(tmp_path / "tiles" / "a" / "maps.zarr", WHOLE, name="artefacts")
    assert np.array_equal(whole, other)
    part, _, _ = read_label_region(tmp_path / "roi" / "a" / "maps.zarr", WHOLE, name="artefacts")
    assert np.array_equal(whole[14:36, 20:42], part[14:36, 20:42])
    share = record(tmp_path / "roi" / "a")["artefacts"]["out_of_focus"]
    assert share == pytest.approx((512 - 300) / 400, abs=0.08)


def test_a_run_that_was_stopped_has_the_same_map(results: Path, slide: Path, tmp_path: Path) -> None:
    for tasks in (3, 1):
        with pytest.raises(KeyboardInterrupt):
            run([slide], tmp_path, StopsAfter(tasks))
    run([slide], tmp_path)
    same_results(results, tmp_path / "a")

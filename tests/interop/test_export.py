"""Exports and pictures of results, and what is moved on slides whose view begins elsewhere than level 0."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw

from wsiseg.errors import UsageError
from wsiseg.evaluate.compare import evaluate_sets
from wsiseg.interop.export import export_run
from wsiseg.interop.geojson import read_geojson
from wsiseg.report.picture import draw_overlay
from wsiseg.results.nuclei import read_nuclei
from wsiseg.run.pipeline import segment_slides
from wsiseg.run.schedule import SerialExecutor
from wsiseg.tiles.request import SegmentOptions

SIDE, CORNER = 512, (1000, 600)
VIEW = '<view sizeX="{}" sizeY="{}" offsetX="{}" offsetY="{}" spacingZ="0"/>'
PIXELS = '<pixels sizeX="{0}" sizeY="{0}"><dimension sizeX="{0}" sizeY="{0}" r="0" ifd="{1}"/></pixels>'
SETTINGS = (
    "<scanSettings><objectiveSettings><objective>{}</objective></objectiveSettings><illuminationSettings>"
    "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
)


def write_scn(path: Path) -> Path:
    """A Leica SCN of 2048 × 1536 pixels at 0.5 µm, of which a square at ``CORNER`` was scanned."""
    picture = Image.new("RGB", (SIDE, SIDE), (232, 196, 216))
    draw = ImageDraw.Draw(picture)
    for x, y in np.random.default_rng(0).uniform(12, SIDE - 12, (100, 2)):
        draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill=(96, 62, 140))
    nm = 500
    scanned = VIEW.format(SIDE * nm, SIDE * nm, CORNER[0] * nm, CORNER[1] * nm)
    images = (
        f'<image name="macro" uuid="a">{PIXELS.format(128, 0)}{VIEW.format(2048 * nm, 1536 * nm, 0, 0)}'
        f'{SETTINGS.format("0.6")}<image name="main" uuid="b">{PIXELS.format(SIDE, 1)}{scanned}'
        f"{SETTINGS.format('20')}"
    )
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection name="c" '
        f'uuid="u" sizeX="{2048 * nm}" sizeY="{1536 * nm}"><barcode>x</barcode>{images}</collection></scn>'
    )
    kind = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    scale = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    pixels = np.asarray(picture)
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        out.write(np.ascontiguousarray(pixels[::4, ::4]), description=xml, **kind, **scale)
        out.write(pixels, **kind, **scale)
    return path


def segment(slide: Path, out: Path, mask: Path | None = None) -> Path:
    options = SegmentOptions("classical", tile=512, mask=mask)
    result = segment_slides([slide], out, options, SerialExecutor(), lambda event: None)
    assert result.exit_code == 0
    return out / slide.stem


@pytest.fixture(scope="module")
def with_bounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A slide with bounds, and its results."""
    folder = tmp_path_factory.mktemp("bounds")
    slide = write_scn(folder / "s.scn")
    return slide, segment(slide, folder / "out")


def write_mask(path: Path, x0: float, y0: float, x1: float, y1: float, *others: object) -> Path:
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    area = {"type": "Polygon", "coordinates": [ring]}
    path.write_text(json.dumps([{"type": "Feature", "geometry": geometry} for geometry in (area, *others)]))
    return path


def test_an_export_scores_1_against_the_results_that_it_came_from(
    with_bounds: tuple[Path, Path], tmp_path: Path
) -> None:
    _, results = with_bounds
    (exported,) = export_run(results, "geojson", tmp_path)
    nuclei = read_nuclei(results / "nuclei.parquet")
    assert len(nuclei) > 50
    assert read_geojson(exported).vertices == pytest.approx(nuclei.vertices - CORNER, abs=0.001)
    (image,) = evaluate_sets(exported, results).images
    assert image.scores["aji"] == pytest.approx(1.0, abs=1e-4)
    assert image.note == "truth: moved by 1000, 600 pixels, the corner of the slide's bounds"


def test_a_mask_selects_what_it_was_drawn_around(with_bounds: tuple[Path, Path], tmp_path: Path) -> None:
    slide, results = with_bounds
    point = {"type": "Point", "coordinates": [9, 9]}
    mask = write_mask(tmp_path / "m.geojson", 256, 256, 512, 512, point, None)
    masked = segment(slide, tmp_path / "out", mask)
    found, everything = (read_nuclei(folder / "nuclei.parquet") for folder in (masked, results))
    centres = everything.centroids()
    inside = (centres >= np.array(CORNER) + 256).all(axis=1)
    assert len(found) == np.count_nonzero(inside) > 10
    record = json.loads((masked / "slide.json").read_text())
    assert record["specification"]["mask_origin"] == list(CORNER)
    told = " ".join(record["notes"])
    assert "moved by 1000, 600 pixels" in told
    assert "also holds Point, feature without geometry, passed over" in told


def test_a_mask_that_leaves_no_tile_is_said(with_bounds: tuple[Path, Path], tmp_path: Path) -> None:
    slide, _ = with_bounds
    mask = write_mask(tmp_path / "m.geojson", 700, 700, 900, 900)
    record = json.loads((segment(slide, tmp_path / "out", mask) / "slide.json").read_text())
    assert record["tiles"]["done"] == 0
    assert any("The mask leaves no tile" in note for note in record["notes"])


def test_names_in_a_record_are_no_paths(drawn_results: Path, tmp_path: Path) -> None:
    outside = tmp_path / "a" / "b"
    run = outside / "run"
    shutil.copytree(drawn_results, run)
    (folder,) = (path.parent for path in run.glob("*/slide.json"))
    good = json.loads((folder / "slide.json").read_text())
    named = {"slide": {**good["slide"], "name": "../../../../up"}}
    for change in ({"id": "../../../up"}, {"id": str(tmp_path / "up")}, named):
        (folder / "slide.json").write_text(json.dumps({**good, **change}))
        for target in ("geojson", "quip-csv"):
            try:
                written = list(export_run(run, target, outside / "exports"))
            except UsageError:
                continue
            assert all(path.resolve().is_relative_to(outside / "exports") for path in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    assert {path.name for path in outside.iterdir()} <= {"run", "exports"}


def test_a_picture_ends_at_the_slide_and_is_limited(drawn_results: Path, tmp_path: Path) -> None:
    (folder,) = (path.parent for path in drawn_results.glob("*/slide.json"))
    out = tmp_path / "o.png"
    draw_overlay(folder, (3000.0, 2900.0, 1e300, 1e300), out, zoom=2)
    assert Image.open(out).size == (2 * 72, 2 * 172)
    with pytest.raises(UsageError, match=r"lies outside the slide of 3072 × 3072"):
        draw_overlay(folder, (3072.0, 0.0, 5.0, 5.0), out)
    with pytest.raises(UsageError, match="604 megapixels, more than 100"):
        draw_overlay(folder, (0.0, 0.0, 1e5, 1e5), out, zoom=8)


DIES_WRITING = """
import os, sys
from pathlib import Path
from wsiseg.interop import geojson
from wsiseg.interop.export import export_run

geojson._write_collection = lambda *_: os.kill(os.getpid(), 9)
list(export_run(Path(sys.argv[1]), "geojson", Path(sys.argv[2])))
"""


def test_what_a_killed_export_left_is_removed_by_the_next(drawn_results: Path, tmp_path: Path) -> None:
    list(export_run(drawn_results, "geojson", tmp_path))
    killed = subprocess.run([sys.executable, "-c", DIES_WRITING, drawn_results, tmp_path], timeout=60)
    assert killed.returncode == -9
    assert any(path.name.endswith(".tmp") for path in tmp_path.iterdir())
    (path,) = export_run(drawn_results, "geojson", tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_target_that_does_not_exist(drawn_results: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no export to 'svg'; expected one of geojson, "):
        list(export_run(drawn_results, "svg", tmp_path))
    with pytest.raises(UsageError, match="split is for GeoJSON"):
        list(export_run(drawn_results, "quip-csv", tmp_path, 10))

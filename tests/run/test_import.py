"""Results made of other programs' outlines: a folder as of a run that segments, with the nuclei that they had."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from scipy.spatial import cKDTree

from wsiseg.core.nuclei import IntArray, Nuclei
from wsiseg.core.raster import rasterize, trace
from wsiseg.errors import UsageError
from wsiseg.interop import importing
from wsiseg.interop.export import export
from wsiseg.interop.importing import ImportJob, ImportOptions, SortJob, measure_jobs
from wsiseg.interop.pairing import find_segmentations, of_one
from wsiseg.interop.quip import HEADER
from wsiseg.qc.artefacts import find_block, join_blocks, plan_artefacts
from wsiseg.results.folder import SlideFolder
from wsiseg.results.job import WorkJob
from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.stages import Stitched
from wsiseg.run.events import Event, Note, Unchanged
from wsiseg.run.outcome import CohortResult
from wsiseg.run.pipeline import import_outlines
from wsiseg.run.schedule import SerialExecutor
from wsiseg.stitch.stage import plan_stitching, stitch_row
from wsiseg.testing import write_slide
from wsiseg.testing.nucleifile import NucleiWriter
from wsiseg.testing.runs import StopsAfter, nothing_temporary, run, same_results

SIDE, MPP, PITCH = 1024, 0.5, 256


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Nuclei]:
    """A slide and its nuclei."""
    path = tmp_path_factory.mktemp("drawn") / "s.svs"
    truth = write_slide(path, width=SIDE, height=SIDE, mpp=MPP, layout="dense", seed=3)
    return path, Nuclei(truth.nuclei.vertices, truth.nuclei.offsets)


def bring(
    source: Path, slide: Path, out: Path, executor: Any = None, **options: Any
) -> tuple[CohortResult, list[Event]]:
    events: list[Event] = []
    pairs = of_one(find_segmentations([source]), slide)
    done = import_outlines(pairs, out, ImportOptions(**options), executor or SerialExecutor(), events.append)
    return done, events


def joined(source: Path, slide: Path, out: Path, **options: Any) -> tuple[Nuclei, Stitched]:
    """What stands in ``nuclei.parquet``, and what is said of it: the import's own tasks, without what follows."""
    (segmentation,) = find_segmentations([source])
    planned = importing.plan_import(ImportJob(SlideFolder(out, "s"), slide, segmentation, ImportOptions(**options)))
    assert planned.plan is not None
    found = importing.sort_outlines(SortJob(planned.work, segmentation))
    for job in measure_jobs(planned.work, planned.plan, found, set()):
        importing.measure_outlines(job)
    for block in plan_artefacts(WorkJob(planned.work)):
        find_block(block)
    join_blocks(WorkJob(planned.work))
    for row in plan_stitching(WorkJob(planned.work)):
        stitch_row(row)
    stitched = importing.join_outlines(WorkJob(planned.work))
    return read_nuclei(planned.work.result / "nuclei.parquet"), stitched


def parquet(nuclei: Nuclei, path: Path) -> Path:
    with NucleiWriter(path, {"slide": "s"}, {}) as writer:
        writer.write(nuclei)
    return path


def tables(nuclei: Nuclei, folder: Path, pitch: int = PITCH) -> Path:
    """QuIP tables whose nuclei are cut along their tiles' edges, as the published ones are."""
    folder.mkdir(parents=True)
    polygons = nuclei.geometry()
    tree = shapely.STRtree(polygons)
    for y in range(1, SIDE, pitch):
        for x in range(1, SIDE, pitch):
            tile = shapely.box(x, y, x + pitch, y + pitch)
            pieces = shapely.get_parts(shapely.intersection(polygons[np.sort(tree.query(tile))], tile))
            cut = Nuclei.from_geometry(pieces[shapely.area(pieces) > 20])
            rows = [HEADER.decode()]
            for ring in np.split(cut.vertices, cut.offsets[1:-1]):
                numbers = ":".join(f"{value:.1f}" for value in ring.ravel())
                rows.append(f"0,0,[{numbers}]\n")
            (folder / f"{x}_{y}_{pitch}_{pitch}_{MPP}_2-features.csv").write_text("".join(rows))
    return folder


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "slide.json").read_text())
    return found


def places(nuclei: Nuclei, among: Nuclei) -> IntArray:
    """Of each nucleus the one that lies nearest."""
    found: IntArray = cKDTree(among.centroids()).query(nuclei.centroids())[1]
    return found


def same_nuclei(one: Nuclei, other: Nuclei, tolerance: float) -> None:
    assert len(one) == len(other)
    other = other.take(places(one, other))
    np.testing.assert_array_equal(np.diff(one.offsets), np.diff(other.offsets))
    np.testing.assert_allclose(other.vertices, one.vertices, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def imported(drawn: tuple[Path, Nuclei], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The slide's nuclei as GeoParquet, and the results folder made of them."""
    slide, nuclei = drawn
    folder = tmp_path_factory.mktemp("imported")
    source = parquet(nuclei, folder / "s.parquet")
    assert bring(source, slide, folder / "out")[0].exit_code == 0
    return source, folder / "out"


def test_the_folder_is_as_of_a_run_that_segments(imported: tuple[Path, Path], drawn: tuple[Path, Nuclei]) -> None:
    _, out = imported
    assert sorted(os.listdir(out / "s")) == [
        "artefacts.png", "maps.zarr", "nuclei.parquet", "patches.parquet", "pictures", "report.html", "slide.json",
        "thumbnail.png",
    ]  # fmt: skip
    assert {"report.html", "actions.csv", "cohort.csv", "cohort.parquet"} <= set(os.listdir(out))
    assert nothing_temporary(out)
    found = record(out / "s")
    assert found["status"] == "complete"
    assert found["nuclei"] == len(drawn[1])
    assert found["grade"]["patches"] > 0
    assert found["outside"] is None
    assert found["seams"]["straight_edge_ratio"] is None
    assert found["specification"]["imported_from"]["name"] == "s"
    assert len(found["specification"]["imported"]["sha256"]) == 64
    assert "import:geoparquet" in (out / "cohort.csv").read_text()
    assert (
        f"s as geoparquet, SHA-256 {found['specification']['imported']['sha256']}"
        in (out / "report.html").read_text()
    )


def test_what_the_file_does_not_say_is_not_invented(imported: tuple[Path, Path]) -> None:
    nuclei = read_nuclei(imported[1] / "s" / "nuclei.parquet")
    assert np.isnan(nuclei.columns["score"]).all()
    assert np.isfinite(nuclei.columns["hematoxylin_od"]).all()
    np.testing.assert_allclose(nuclei.columns["area_um2"], nuclei.areas() * MPP**2, rtol=1e-4)


def test_again_computes_nothing_and_other_settings_are_refused(
    imported: tuple[Path, Path], drawn: tuple[Path, Nuclei]
) -> None:
    (source, out), (slide, _) = imported, drawn
    before = record(out / "s")
    done, events = bring(source, slide, out)
    assert Unchanged("s") in events
    assert done.tiles_computed == 0
    with pytest.raises(UsageError, match=r"other settings: imported_from.offset .* instead of"):
        bring(source, slide, out, offset=(1.0, 0.0))
    with pytest.raises(UsageError, match="other settings"):
        run([slide], out)
    assert record(out / "s") == before


def test_a_run_that_was_stopped_goes_on(
    imported: tuple[Path, Path], drawn: tuple[Path, Nuclei], tmp_path: Path
) -> None:
    (source, out), (slide, _) = imported, drawn
    with pytest.raises(KeyboardInterrupt):
        bring(source, slide, tmp_path / "out", StopsAfter(4))  # planned, sorted, stitching planned, measured
    done, _ = bring(source, slide, tmp_path / "out")
    assert done.tiles_computed == 0
    same_results(out / "s", tmp_path / "out" / "s")
    assert nothing_temporary(tmp_path / "out")


def test_a_file_that_changed_is_imported_anew(drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    slide, nuclei = drawn
    out = tmp_path / "out"
    source = parquet(nuclei.take(np.arange(50)), tmp_path / "s.parquet")
    bring(source, slide, out)
    parquet(nuclei.take(np.arange(60)), source)
    done, events = bring(source, slide, out)
    assert done.records[0].nuclei == 60
    assert any(isinstance(event, Note) and "made from has changed" in event.text for event in events)


def test_nuclei_that_tiles_have_cut_are_found_and_said(drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    """The published archives' fault, at a smaller pitch, from a tar archive as they are published."""
    slide, nuclei = drawn
    folder = tables(nuclei, tmp_path / "made" / "s.svs")
    with tarfile.open(tmp_path / "s.svs.tar.gz", "w:gz") as archive:
        archive.add(folder, "brca_polygon/s.svs")
    out = tmp_path / "out"
    done, _ = bring(tmp_path / "s.svs.tar.gz", slide, out)
    found = record(out / "s")
    assert done.exit_code == 0
    assert found["specification"]["imported"]["lines"] == {"pitch": PITCH, "x": 1.0, "y": 1.0}
    assert found["nuclei"] > len(nuclei) + 50
    assert found["seams"]["straight_edge_ratio"] > 3
    assert found["seams"]["density_ratio"] > 1
    (note,) = [text for text in found["notes"] if "cut at the seams" in text]
    assert note in (out / "report.html").read_text()
    assert found["grade"]["patches"] > 0


def test_whole_nuclei_are_not_cut(drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    slide, nuclei = drawn
    _, stitched = joined(parquet(nuclei, tmp_path / "s.parquet"), slide, tmp_path, seams=(PITCH, 1.0, 1.0))
    assert stitched.seams.straight_edge_ratio is not None
    assert stitched.seams.straight_edge_ratio < 2
    assert stitched.seams.band_nuclei > 50


@pytest.mark.parametrize(("target", "tolerance"), [("geojson", 0.001), ("geojson.gz", 0.001), ("quip-csv", 0.051)])
def test_what_was_exported_comes_back(
    target: str, tolerance: float, imported: tuple[Path, Path], drawn: tuple[Path, Nuclei], tmp_path: Path
) -> None:
    (_, out), (slide, nuclei) = imported, drawn
    (written,) = export(out, target, tmp_path / "exports")
    back, stitched = joined(written, slide, tmp_path)
    same_nuclei(nuclei, back, tolerance)
    assert stitched.notes == ()


def test_results_and_their_scores_come_back(
    imported: tuple[Path, Path], drawn: tuple[Path, Nuclei], tmp_path: Path
) -> None:
    (_, out), (slide, _) = imported, drawn
    before = read_nuclei(out / "s" / "nuclei.parquet")
    scored = before.with_columns(score=np.linspace(0, 1, len(before), dtype=np.float32))
    with NucleiWriter(tmp_path / "s.parquet", {}, {"score": "float32"}) as writer:
        writer.write(scored)
    back, _ = joined(tmp_path / "s.parquet", slide, tmp_path)
    np.testing.assert_array_equal(back.vertices, before.vertices)  # in the same order
    for name in ("id", "x", "y", "area_um2", "perimeter_um", "eccentricity", "solidity", "hematoxylin_od"):
        np.testing.assert_array_equal(back.columns[name], before.columns[name])
    np.testing.assert_array_equal(back.columns["score"], scored.columns["score"])


def test_types_come_back(drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    slide, nuclei = drawn
    kinds = np.arange(len(nuclei), dtype=np.int16) % 2
    typed = nuclei.with_columns(type=kinds, type_prob=np.full(len(nuclei), 0.75, np.float32))
    with NucleiWriter(tmp_path / "s.parquet", {}, {}, types=("none", "tumour")) as writer:
        writer.write(typed)
    back, stitched = joined(tmp_path / "s.parquet", slide, tmp_path)
    assert stitched.types == {"none": int((kinds == 0).sum()), "tumour": int((kinds == 1).sum())}
    np.testing.assert_array_equal(back.columns["type"], kinds[places(back, typed)])


def test_label_images_come_back(drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    slide, nuclei = drawn
    labels = rasterize(nuclei, np.arange(1, len(nuclei) + 1), (SIDE, SIDE))
    tifffile.imwrite(tmp_path / "s.tif", labels)
    traced = trace(labels)
    back, _ = joined(tmp_path / "s.tif", slide, tmp_path)
    same_nuclei(Nuclei(traced.vertices, traced.offsets), back, 0)
    # At half the slide's resolution: a pixel of the image is two of the slide.
    tifffile.imwrite(tmp_path / "half.tif", labels[::2, ::2])
    half = trace(labels[::2, ::2])
    back, _ = joined(tmp_path / "half.tif", slide, tmp_path / "half", input_mpp=2 * MPP)
    same_nuclei(Nuclei(half.vertices * 2, half.offsets), back, 0)


def test_a_label_image_of_another_size_must_be_told_where_it_lies(
    drawn: tuple[Path, Nuclei], tmp_path: Path
) -> None:
    slide, _ = drawn
    labels = np.zeros((64, 64), dtype=np.uint8)
    labels[10:30, 10:30] = 1
    tifffile.imwrite(tmp_path / "s.tif", labels)
    done, _ = bring(tmp_path / "s.tif", slide, tmp_path / "out")
    assert done.exit_code == 4
    assert "64 × 64 pixels, the slide 1024 × 1024" in str(record(tmp_path / "out" / "s")["error"])
    back, _ = joined(tmp_path / "s.tif", slide, tmp_path, offset=(100.0, 200.0))
    np.testing.assert_array_equal(back.bounds(), [[110, 210, 130, 230]])


def square(x: float, y: float, side: float = 20.0) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def test_what_does_not_fit_is_counted_and_said(drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    slide, _ = drawn
    bow = [[500.0, 500.0], [540.0, 540.0], [540.0, 500.0], [500.0, 530.0]]
    rings = [square(300, 300), bow, [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], square(-10, 400), square(5000, 5000)]
    features: list[dict[str, Any]] = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}} for ring in rings
    ]
    features.append({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}})
    (tmp_path / "s.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    nuclei, stitched = joined(tmp_path / "s.geojson", slide, tmp_path)
    assert len(nuclei) == 3
    assert shapely.is_valid(nuclei.geometry()).all()
    assert nuclei.bounds().min() == 0
    text = " ".join(stitched.notes)
    for said in (
        "1 of 5 enclose nothing",
        "1 of 5 cross or touch themselves",
        "1 of 5 lie outside",
        "1 of 5 reach beyond",
        "no outlines of nuclei: Point",
    ):
        assert said in text


def test_no_outlines_are_no_fault(drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    (tmp_path / "s.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    nuclei, stitched = joined(tmp_path / "s.geojson", drawn[0], tmp_path, seams=(PITCH, 0.0, 0.0))
    assert (len(nuclei), stitched.nuclei, stitched.notes) == (0, 0, ())
    assert stitched.seams.straight_edge_ratio is None


def test_what_was_sorted_and_is_gone_is_sorted_again(drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    slide, nuclei = drawn
    source = parquet(nuclei, tmp_path / "s.parquet")
    before, _ = joined(source, slide, tmp_path / "out")
    for path in (tmp_path / "out").rglob("outlines/*"):
        path.unlink()
    after, _ = joined(source, slide, tmp_path / "out")
    np.testing.assert_array_equal(after.vertices, before.vertices)


def test_the_wrong_slide_is_said(drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    slide, nuclei = drawn
    _, stitched = joined(parquet(nuclei, tmp_path / "s.parquet"), slide, tmp_path, scale=4.0)
    assert any("probably another slide's" in note for note in stitched.notes)


def test_geojson_counts_from_the_corner_of_the_bounds(
    drawn: tuple[Path, Nuclei], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, nuclei = drawn
    monkeypatch.setattr(importing, "viewer_origin", lambda bounds: (7.0, 9.0))
    chosen = nuclei.take(np.arange(10))
    features = [shapely.geometry.mapping(polygon) for polygon in chosen.geometry()]
    text = json.dumps([{"type": "Feature", "geometry": geometry} for geometry in features])
    (tmp_path / "s.geojson").write_text(text)
    back, _ = joined(tmp_path / "s.geojson", slide, tmp_path)
    same_nuclei(chosen.translate(7, 9), back, 0)


def test_tables_of_the_misaligned_version_are_said(drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    slide, _ = drawn
    folder = tmp_path / "s.svs"
    folder.mkdir()
    for name in ("1_1_600_600_0.5_2", "601_1_423_600_0.5_2"):
        path = folder / f"{name}-features.csv"
        path.write_bytes(HEADER + b"100,400,[700.0:100.0:710.0:100.0:710.0:110.0:700.0:110.0]\n")
        os.utime(path, (1.5e9, 1.5e9))  # 2017
    (folder / "1_1_600_600_0.5_2-algmeta.json").write_text('{"image_width": 4000, "image_height": 1024}')
    segmentation = find_segmentations([folder])[0]
    planned = importing.plan_import(
        ImportJob(SlideFolder(tmp_path / "out", "s"), slide, segmentation, ImportOptions())
    )
    assert planned.plan is not None
    text = " ".join(planned.plan.notes)
    assert "misaligned in tiles that are not square, here 1 of 2" in text
    assert "of a slide of 4,000 × 1,024 pixels" in text


@pytest.mark.parametrize("aligned", [True, False])
def test_misalignment_in_oblong_tiles_is_seen(aligned: bool, drawn: tuple[Path, Nuclei], tmp_path: Path) -> None:
    """Tiles of 600 leave oblong ones at the edges, in which height and width are exchanged."""
    slide, nuclei = drawn
    start = np.floor(nuclei.centroids() / 600) * 600
    size = np.minimum(600, SIDE - start)
    owner = np.repeat(np.arange(len(nuclei)), np.diff(nuclei.offsets))
    exchanged = start[owner] + (nuclei.vertices - start[owner]) / size[owner] * size[owner][:, ::-1]
    given = nuclei if aligned else Nuclei(exchanged, nuclei.offsets)
    _, stitched = joined(parquet(given, tmp_path / "s.parquet"), slide, tmp_path, seams=(600, 0.0, 0.0))
    assert any("misaligned" in note for note in stitched.notes) is not aligned


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("s.geojson", lambda path: path.write_text("{")),
        ("s.parquet", lambda path: path.write_bytes(b"PAR1")),
        ("s.png", lambda path: path.write_bytes(b"no")),
    ],
)
def test_a_damaged_file_fails_its_slide_alone(
    name: str, damage: Callable[[Path], object], drawn: tuple[Path, Nuclei], tmp_path: Path
) -> None:
    damage(tmp_path / name)
    done, _ = bring(tmp_path / name, drawn[0], tmp_path / "out")
    assert done.exit_code == 4
    assert str(tmp_path / name) in str(record(tmp_path / "out" / "s")["error"])

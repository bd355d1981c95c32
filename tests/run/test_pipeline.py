"""`segment_slides` as a whole, in this process, with the segmenter that needs no weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from markupsafe import escape

from wsiseg.core.geometry import Scale
from wsiseg.errors import UsageError
from wsiseg.evaluate import match_polygons
from wsiseg.interop.export import export_run
from wsiseg.models.classical import ClassicalSegmenter
from wsiseg.results.nuclei import read_nuclei
from wsiseg.run.events import Note, TilesDone, Unchanged
from wsiseg.slide import open_slide
from wsiseg.testing import Truth, corrupt_tile, write_slide, write_svs
from wsiseg.testing.runs import StopsAfter, run, same_results
from wsiseg.tiles.calibration import calibration_samples
from wsiseg.tissue import find_tissue


@pytest.fixture(scope="module")
def finished(drawn: tuple[Path, Truth], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    result, _ = run([drawn[0]], out)
    assert result.exit_code == 0
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of as many tiles, a tenth as large: a tile of 160 covers 320 of its pixels."""
    path = tmp_path_factory.mktemp("small") / "drawn.svs"
    write_slide(path, width=960, height=960, layout="dense", seed=3)
    return path


@pytest.fixture(scope="module")
def small_finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its results, never changed."""
    out = tmp_path_factory.mktemp("small_finished")
    assert run([small], out, tile=160)[0].exit_code == 0
    return out


def test_a_run_finds_the_drawn_nuclei_and_records_all(finished: Path, drawn: tuple[Path, Truth]) -> None:
    folder = finished / "drawn"
    record = json.loads((folder / "slide.json").read_text())
    assert record["status"] == "complete"
    assert record["tiles"] == {"total": 9, "done": 9, "blank": 0, "failed": 0}
    found = read_nuclei(folder / "nuclei.parquet")
    assert record["nuclei"] == len(found)
    assert np.array_equal(found.columns["id"], np.arange(1, len(found) + 1))
    assert shapely.is_valid(found.geometry()).all()
    match = match_polygons(drawn[1].nuclei, found, iou=0.5)
    assert match.f1 > 0.8  # the drawn tissue is easy; a shift by half a nucleus would halve it
    ome = json.loads((folder / "maps.zarr" / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["multiscales"][0]["name"] == "overview"
    for name in ("maps.zarr", "patches.parquet", "thumbnail.png"):
        assert (folder / name).exists()
    for name in ("report.html", "cohort.csv", "cohort.parquet"):
        assert (finished / name).exists()
    assert not (finished / ".work").exists()


def test_a_finished_run_computes_nothing(finished: Path, drawn: tuple[Path, Truth]) -> None:
    before = (finished / "drawn" / "slide.json").read_bytes()
    result, events = run([drawn[0]], finished)
    assert result.tiles_computed == 0
    assert [type(e) for e in events if isinstance(e, TilesDone | Unchanged)] == [Unchanged]
    assert (finished / "drawn" / "slide.json").read_bytes() == before


def test_one_tile_finds_the_same_nuclei_as_many(finished: Path, drawn: tuple[Path, Truth], tmp_path: Path) -> None:
    run([drawn[0]], tmp_path, tile=1536)
    first = read_nuclei(finished / "drawn" / "nuclei.parquet")
    other = read_nuclei(tmp_path / "drawn" / "nuclei.parquet")
    match = match_polygons(first, other, iou=0.9)
    assert min(match.precision, match.recall) >= 0.999
    assert abs(len(first) - len(other)) <= 0.001 * len(first) + 1


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 6, 7, 8, 11])
def test_a_stopped_run_goes_on_and_ends_the_same(
    small: Path, small_finished: Path, tmp_path: Path, tasks: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run([small], tmp_path, StopsAfter(tasks), tile=160)
    assert not (tmp_path / "drawn" / "slide.json").exists()
    result, events = run([small], tmp_path, tile=160)
    (last,) = [e for e in events if isinstance(e, TilesDone)][-1:]
    resumed = last.done - last.computed
    assert result.tiles_computed + resumed == 9
    assert resumed > 0 or tasks < 3
    same_results(small_finished / "drawn", tmp_path / "drawn")


def test_results_of_other_settings_are_replaced_on_request_alone(small: Path, tmp_path: Path) -> None:
    roi = (320.0, 320.0, 160.0, 160.0)
    run([small], tmp_path, roi=roi)
    inside = read_nuclei(tmp_path / "drawn" / "nuclei.parquet")
    assert len(inside)
    assert ((inside.centroids() >= 320) & (inside.centroids() < 480)).all()
    (export,) = export_run(tmp_path, "geojson", None)
    assert export == tmp_path / "exports" / "drawn.geojson"
    before = _tree(tmp_path)
    with pytest.raises(UsageError, match=r"(?s)drawn: holds results of other settings: roi \[320.*--overwrite"):
        run([small], tmp_path)
    assert _tree(tmp_path) == before
    assert run([small], tmp_path, roi=roi)[0].tiles_computed == 0
    assert run([small], tmp_path, roi=roi, overwrite=True)[0].tiles_computed == 0
    with pytest.raises(KeyboardInterrupt):
        run([small], tmp_path, StopsAfter(4), overwrite=True)
    assert len(read_nuclei(tmp_path / "drawn" / "nuclei.parquet")) == len(inside)
    assert run([small], tmp_path, overwrite=True)[0].exit_code == 0
    assert len(read_nuclei(tmp_path / "drawn" / "nuclei.parquet")) > 10 * len(inside)
    assert export.is_file()


def test_a_roi_holds_exactly_the_whole_runs_nuclei(small: Path, small_finished: Path, tmp_path: Path) -> None:
    run([small], tmp_path, roi=(233.0, 300.0, 370.0, 259.0), tile=160)
    whole = read_nuclei(small_finished / "drawn" / "nuclei.parquet")
    x, y = whole.centroids().T
    expected = whole.take((x >= 233) & (x < 603) & (y >= 300) & (y < 559))
    found = read_nuclei(tmp_path / "drawn" / "nuclei.parquet")
    match = match_polygons(expected, found, iou=0.99)
    assert len(found) == len(expected)
    assert match.f1 == 1.0


def test_damage_costs_its_own_stored_tile_alone(finished: Path, drawn: tuple[Path, Truth], tmp_path: Path) -> None:
    damaged = tmp_path / "drawn.svs"
    shutil.copy(drawn[0], damaged)
    corrupt_tile(damaged, 5 * 12 + 5)
    result, _ = run([damaged], tmp_path / "out")
    (record,) = result.records
    assert result.exit_code == 3
    assert record.status == "partial"
    ((x0, y0, x1, y1, reason),) = record.lost.boxes
    assert (x0, y0, x1, y1) == (1280, 1280, 1536, 1536)
    assert reason
    assert record.lost.area_mm2 == pytest.approx(0.064**2, rel=1e-6)
    clean = read_nuclei(finished / "drawn" / "nuclei.parquet")
    found = read_nuclei(tmp_path / "out" / "drawn" / "nuclei.parquet")
    away = _outside(clean, (x0 - 120, y0 - 120, x1 + 120, y1 + 120))
    match = match_polygons(clean.take(away), found, iou=0.9)
    assert match.recall >= 0.999
    assert not (~_outside(found, (x0, y0, x1, y1))).any()


def _tree(folder: Path) -> dict[str, bytes]:
    """Every file's content by name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _outside(nuclei: Any, box: tuple[float, ...]) -> Any:
    b = nuclei.bounds()
    return (b[:, 0] >= box[2]) | (b[:, 2] <= box[0]) | (b[:, 1] >= box[3]) | (b[:, 3] <= box[1])


def test_a_failed_slide_leaves_the_others_alone(small: Path, small_finished: Path, tmp_path: Path) -> None:
    bad, nameless = tmp_path / "bad.svs", tmp_path / "nameless.svs"
    bad.write_bytes(b"not a slide")
    write_slide(nameless, width=512, height=512, describe_mpp=False)
    result, _ = run([bad, small, nameless], tmp_path / "out", tile=160)
    assert result.exit_code == 3
    assert [r.status for r in result.records] == ["failed", "complete", "failed"]
    assert "--mpp" in result.records[2].error.message
    same_results(small_finished / "drawn", tmp_path / "out" / "drawn")
    statuses = pq.read_table(tmp_path / "out" / "cohort.parquet").column("status").to_pylist()
    assert sorted(statuses) == ["complete", "failed", "failed"]
    assert run([bad], tmp_path / "other")[0].exit_code == 4


def test_a_failure_does_not_remove_an_earlier_result(tmp_path: Path) -> None:
    slide, out = tmp_path / "s.svs", tmp_path / "out"
    write_slide(slide, width=512, height=512, layout="dense")
    assert run([slide], out)[0].exit_code == 0
    slide.write_bytes(b"overwritten")
    assert run([slide], out)[0].exit_code == 4
    assert json.loads((out / "s" / "slide.json").read_text())["status"] == "complete"


def test_a_region_that_misses_a_slide_fails_that_slide_alone(tmp_path: Path) -> None:
    small, large, out = tmp_path / "small.svs", tmp_path / "large.svs", tmp_path / "out"
    write_slide(small, width=512, height=512)
    write_slide(large, width=1024, height=1024, layout="dense")
    roi = (600.0, 600.0, 300.0, 300.0)
    result, _ = run([small, large], out, roi=roi)
    assert result.exit_code == 3
    failed, complete = result.records
    assert (failed.status, complete.status) == ("failed", "complete")
    assert complete.nuclei > 0
    assert "(600, 600)–(900, 900) does not overlap the slide's (0, 0)–(512, 512)" in failed.error.message
    assert "Expected: coordinates in pixels" in failed.error.message
    assert json.loads((out / "small" / "slide.json").read_text())["status"] == "failed"
    assert run([small], tmp_path / "alone", roi=roi)[0].exit_code == 4
    assert run([small], out, roi=(0.0, 0.0, 300.0, 300.0))[0].exit_code == 0  # another call, into the same folder


def test_a_region_that_no_slide_can_have_ends_the_call_before_it_begins(
    drawn: tuple[Path, Truth], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="outside every slide"):
        run([drawn[0]], tmp_path / "out", roi=(-300.0, 0.0, 200.0, 200.0))
    (tmp_path / "mask.geojson").write_text("[]")
    with pytest.raises(UsageError, match="holds no area"):
        run([drawn[0]], tmp_path / "out", mask=tmp_path / "mask.geojson")
    assert not (tmp_path / "out").exists()


def test_a_white_slide_is_complete_empty_and_not_assessed(tmp_path: Path) -> None:
    write_svs(tmp_path / "white.svs", np.full((1500, 1200, 3), 244, np.uint8), mpp=0.5)
    result, _ = run([tmp_path / "white.svs"], tmp_path / "out")
    (record,) = result.records
    assert (record.status, record.nuclei, record.tiles.done) == ("complete", 0, 0)
    assert (record.grade.grade, record.grade.assessed, record.grade.failure) == ("Not assessed", False, None)
    assert "too little tissue" in record.grade.words
    assert len(read_nuclei(tmp_path / "out" / "white" / "nuclei.parquet")) == 0


def test_a_tile_size_off_the_stride_is_a_usage_error(drawn: tuple[Path, Truth], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tile"):
        run([drawn[0]], tmp_path, tile=-5)


def test_a_slide_of_which_nothing_can_be_read_fails(tmp_path: Path) -> None:
    slide = tmp_path / "ruined.svs"
    write_svs(slide, np.full((512, 512, 3), 200, np.uint8), mpp=0.5, levels=(1,), tile=256)
    for index in range(4):
        corrupt_tile(slide, index)
    result, _ = run([slide], tmp_path / "out")
    assert result.exit_code == 4
    assert "none of its pixels" in result.records[0].error.message


def test_what_nobody_would_expect_is_said(tmp_path: Path) -> None:
    drawn = write_slide(tmp_path / "drawn.svs", width=1024, height=1024, layout="dense", seed=4)
    assert len(drawn.nuclei)
    with open_slide(tmp_path / "drawn.svs") as slide:
        image = slide.read_level(0, 0, 0, 1024, 1024)
    grey = np.repeat(image.mean(axis=2).astype(np.uint8)[..., None], 3, axis=2)
    write_svs(tmp_path / "grey.svs", grey, mpp=0.25)
    write_svs(tmp_path / "white.svs", np.full((512, 512, 3), 255, np.uint8), mpp=0.25)
    write_svs(tmp_path / "odd.svs", image[:512, :512], mpp=0.25, app_mag=5)
    names = ("grey", "white", "odd")
    result, events = run([tmp_path / f"{name}.svs" for name in names], tmp_path / "out")
    said = {record.id: list(record.notes or ()) for record in result.records}
    assert "no colour" in said["grey"][0]
    assert said["grey"][1].startswith("No tissue was found")
    assert said["white"] == ["No tissue was found: nothing in the image has the colours of stained tissue."]
    assert any("does not fit" in text for text in said["odd"])
    page = (tmp_path / "out" / "report.html").read_text()
    table = pq.read_table(tmp_path / "out" / "cohort.parquet").to_pylist()
    for row in table:
        assert (row["notes"] or "").split(" | ") == said[row["id"]]
        assert str(escape(said[row["id"]][0])) in page
    shown = [(e.name, e.text) for e in events if isinstance(e, Note)]
    assert shown == [(name, text) for name in names for text in said[name]]
    again, _ = run([tmp_path / "grey.svs"], tmp_path / "out")
    assert list(again.records[0].notes or ()) == said["grey"]


@pytest.mark.parametrize(("side", "count"), [(1008, 1), (2048, 8), (6144, 16)])
def test_a_costly_model_is_calibrated_on_at_most_half_of_a_small_slide(
    side: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large slides and cheap models get the windows that they always got."""
    path = tmp_path / "s.svs"
    write_svs(path, np.full((side, side, 3), (214, 140, 180), np.uint8), mpp=0.5, levels=(1,))
    with open_slide(path) as slide:
        tissue = replace(find_tissue(slide), mask=np.ones((side // 16, side // 16), dtype=bool), scale=Scale(16.0))
        windows: list[Any] = []
        monkeypatch.setattr(slide, "read_lossy", lambda window, _: (windows.append(window), ((), ()))[1])
        costly = list(calibration_samples(slide, Scale(1.0), tissue, costly=True))
        chosen, _ = list(windows), windows.clear()
        cheap = list(calibration_samples(slide, Scale(1.0), tissue))
    assert len(costly) == count
    assert len(cheap) == 16
    if count == 16:
        assert chosen == windows
    else:
        assert all(w.x >= 0 and w.y >= 0 and w.x1 <= side and w.y1 <= side for w in chosen)
        middle = np.mean([w.y + w.height / 2 for w in chosen])
        assert abs(middle - side / 2) < 0.1 * side


def test_a_lost_tile_enters_no_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a window meets damage another one is taken, so that the threshold is made of the slide's own pixels."""
    path = tmp_path / "s.svs"
    write_slide(path, width=2048, height=2048, layout="dense", seed=4, tile=256, levels=(1, 4))
    with open_slide(path) as slide:
        tissue, scale = find_tissue(slide), slide.scale(0.5)
        intact = list(calibration_samples(slide, scale, tissue))
    assert [image.shape for image in intact] == [(512, 512, 3)] * 16
    corrupt_tile(path, 27)
    with open_slide(path) as slide:
        read, filled = slide.read_lossy, {}

        def watched(window: Any, scale: Any) -> Any:
            image, lost = read(window, scale)
            if lost:
                filled[id(image)] = image
            return image, lost

        monkeypatch.setattr(slide, "read_lossy", watched)
        damaged = list(calibration_samples(slide, scale, tissue))
        threshold = ClassicalSegmenter().calibrate(damaged)
        holes = [read for read in map(id, damaged) if read in filled]
    assert filled
    assert not holes
    assert threshold == ClassicalSegmenter().calibrate(intact)

"""Evaluation of sets: what is matched with what, what is refused, and scores worth the same from every format."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image
from scipy import io
from wsiseg_cli.evaluate import command

from wsiseg import evaluate as metrics
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import trace
from wsiseg.errors import UsageError
from wsiseg.evaluate.compare import evaluate_sets, find_sources
from wsiseg.interop.export import export_run
from wsiseg.interop.geojson import export_geojson, read_geojson
from wsiseg.interop.labelimage import read_labels, read_probabilities
from wsiseg.run.pipeline import segment_slides
from wsiseg.run.schedule import SerialExecutor
from wsiseg.testing.nucleifile import NucleiWriter
from wsiseg.testing.records import failed_record, finished_record
from wsiseg.tiles.request import SegmentOptions

H, W = 60, 80


def labels(seed: int, shift: int = 0) -> np.ndarray:
    """Squares of 8 pixels on a grid, some left out, moved to the right by ``shift``."""
    kept = np.random.default_rng(seed).random(24) < 0.7
    image = np.zeros((H, W), dtype=np.uint16)
    for n in np.flatnonzero(kept):
        row, column = divmod(int(n), 6)
        image[row * 12 + 3 : row * 12 + 11, column * 12 + 2 + shift : column * 12 + 10 + shift] = n + 1
    return image


def write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_parquet(path: Path, nuclei: Nuclei) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(nuclei)
    names = ("area_um2", "perimeter_um", "eccentricity", "solidity", "score", "hematoxylin_od")
    columns = {name: np.zeros(n, dtype=np.float32) for name in names}
    with NucleiWriter(path, {"slide": "abc", "mpp": 0.25}) as writer:
        writer.write(Nuclei(nuclei.vertices, nuclei.offsets, columns))


def write_result(run: Path, slide: str, image: np.ndarray, status: str = "complete") -> None:
    """A slide's folder as `wsiseg segment` leaves it, as far as an evaluation reads it."""
    folder = run / f"{Path(slide).stem}-1a2b3c4d"
    folder.mkdir(parents=True)
    record = finished_record(folder.name, slide=slide, width=image.shape[1], height=image.shape[0], status=status)
    if status == "failed":
        record = failed_record(folder.name)
    (folder / "slide.json").write_text(json.dumps(record))
    if status != "failed":
        write_parquet(folder / "nuclei.parquet", trace(image))


def empty_png(side: int) -> bytes:
    """A PNG of side² black pixels, as far as its header goes."""
    size = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = {b"IHDR": size, b"IDAT": zlib.compress(b""), b"IEND": b""}
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    truth, pred = tmp_path / "truth", tmp_path / "pred"
    for name, seed, shift in (("good", 1, 0), ("fair", 2, 1), ("poor", 3, 4)):
        write_png(truth / f"{name}.png", labels(seed))
        write_png(pred / f"{name}.png", labels(seed, shift))
    return truth, pred


def test_images_come_worst_first_with_their_own_scores(pair: tuple[Path, Path]) -> None:
    result = evaluate_sets(*pair, ious=(0.3, 0.75))
    assert [image.name for image in result.images] == ["poor", "fair", "good"]
    expected = metrics.evaluate(labels(3), labels(3, 4)).to_dict()
    poor = result.images[0]
    assert {name: poor.scores[name] for name in expected} == pytest.approx(expected)
    # 8 × 8 moved by 4: half shared, IoU 1/3
    assert (poor.scores["f1@0.3"], poor.scores["f1@0.75"], poor.scores["f1"]) == (1.0, 0.0, 0.0)
    assert poor.scores["average_hausdorff_px"] == pytest.approx(metrics.average_hausdorff(labels(3), labels(3, 4)))
    assert poor.scores["auc"] is None
    assert poor.true_objects == poor.found_objects == len(np.unique(labels(3))) - 1
    ajis = [image.scores["aji"] for image in result.images]
    assert result.summary["aji"] == metrics.summarize(sorted(ajis, reverse=True))
    assert result.summary["aji"].mean == pytest.approx(np.mean(ajis))
    assert result.summary["auc"].n == 0


@pytest.mark.parametrize("kind", ["png8", "tif", "npy", "mat", "geojson", "geojson.gz", "parquet", "run"])
def test_every_format_gives_the_same_scores(pair: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name, seed, shift in (("good", 1, 0), ("fair", 2, 1), ("poor", 3, 4)):
        image = labels(seed, shift)
        match kind:
            case "png8":
                write_png(other / f"{name}.png", image.astype(np.uint8))
            case "tif":
                tifffile.imwrite(other / f"{name}.ome.tif", image.astype(np.uint32) * 1000)
            case "npy":
                np.save(other / f"{name}.npy", image.astype(np.int64))
            case "mat":
                io.savemat(other / f"{name}.mat", {"inst_map": image.astype(np.float64), "inst_type": [[1]]})
            case "parquet":
                write_parquet(other / f"{name}.parquet", trace(image))
            case "run":
                write_result(other, f"{name}.svs", image)
            case _:
                write_parquet(tmp_path / "made.parquet", trace(image))
                export_geojson(tmp_path / "made.parquet", other / f"{name}.{kind}")
    assert evaluate_sets(pair[0], other).to_dict() == evaluate_sets(*pair).to_dict()
    # The other way round the objects are drawn at the prediction's size.
    assert [image.name for image in evaluate_sets(other, pair[0]).images] == ["poor", "fair", "good"]


def test_two_sets_of_polygons_are_compared_without_pixels(tmp_path: Path) -> None:
    write_parquet(tmp_path / "truth" / "a.parquet", trace(labels(5)))
    write_result(tmp_path / "run", "a.svs", labels(5, 2))
    (image,) = evaluate_sets(tmp_path / "truth", tmp_path / "run").images
    drawn = metrics.evaluate(labels(5), labels(5, 2)).to_dict()
    assert {name: image.scores[name] for name in drawn} == pytest.approx(drawn)
    assert image.scores["average_hausdorff_px"] is None


def test_single_files_are_compared_whatever_their_names(tmp_path: Path) -> None:
    write_png(tmp_path / "expert.png", labels(1))
    write_result(tmp_path / "run", "slide.svs", labels(1))
    folder = next((tmp_path / "run").iterdir())
    for pred in (folder, folder / "nuclei.parquet"):
        (image,) = evaluate_sets(tmp_path / "expert.png", pred).images
        assert image.scores["aji"] == 1.0


def test_a_missing_partner_is_an_error_unless_allowed(pair: tuple[Path, Path]) -> None:
    (pair[1] / "good.png").unlink()
    write_png(pair[1] / "extra.png", labels(1))
    with pytest.raises(
        UsageError, match=r"no prediction for 1 of the images: good; no truth for .*extra.*--allow-missing"
    ):
        evaluate_sets(*pair)
    result = evaluate_sets(*pair, allow_missing=True)
    assert [image.name for image in result.images] == ["poor", "fair"]
    assert (result.without_prediction, result.without_truth) == (("good",), ("extra",))


def test_a_failed_slide_is_missing_and_a_partial_one_is_marked(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_png(tmp_path / "truth" / f"{name}.png", labels(1))
    write_result(tmp_path / "run", "a.svs", labels(1), "partial")
    write_result(tmp_path / "run", "b.svs", labels(1), "failed")
    with pytest.raises(UsageError, match=r"no prediction for .*: b; 1 slides in .* failed"):
        evaluate_sets(tmp_path / "truth", tmp_path / "run")
    (image,) = evaluate_sets(tmp_path / "truth", tmp_path / "run", allow_missing=True).images
    assert image.note == "partial: some area was lost"


def test_nothing_in_common_is_an_error_even_if_missing_is_allowed(tmp_path: Path) -> None:
    write_png(tmp_path / "truth" / "a.png", labels(1))
    write_png(tmp_path / "pred" / "b.png", labels(1))
    with pytest.raises(UsageError, match="Nothing is left"):
        evaluate_sets(tmp_path / "truth", tmp_path / "pred", allow_missing=True)


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "truth" / "a.png", labels(1))
    write_png(tmp_path / "pred" / "a.png", labels(1)[:-1])
    with pytest.raises(UsageError, match=r"80 × 60 pixels.*80 × 59"):
        evaluate_sets(tmp_path / "truth", tmp_path / "pred")
    write_result(tmp_path / "run", "a.svs", np.zeros((H * 2, W * 2), np.int32))
    with pytest.raises(UsageError, match="160 × 120 level-0 pixels against a label image of 80 × 60"):
        evaluate_sets(tmp_path / "truth", tmp_path / "run")


def test_two_files_of_one_name_are_refused(pair: tuple[Path, Path]) -> None:
    np.save(pair[0] / "good.npy", labels(1))
    with pytest.raises(UsageError, match="same name 'good'"):
        find_sources(pair[0])


def test_nothing_to_evaluate_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no")
    with pytest.raises(UsageError, match="nothing to evaluate"):
        find_sources(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        find_sources(tmp_path / "nowhere")


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_outside_its_range_is_refused(pair: tuple[Path, Path], threshold: float) -> None:
    with pytest.raises(UsageError, match="IoU thresholds"):
        evaluate_sets(*pair, ious=(threshold,))


def test_empty_images_are_scored(tmp_path: Path) -> None:
    nothing = np.zeros((H, W), np.uint8)
    for name, truth, pred in (
        ("both", nothing, nothing),
        ("missed", labels(1), nothing),
        ("false", nothing, labels(1)),
    ):
        write_png(tmp_path / "truth" / f"{name}.png", truth)
        write_result(tmp_path / "run", f"{name}.svs", pred)
    result = evaluate_sets(tmp_path / "truth", tmp_path / "run")
    assert {image.name: image.scores["aji"] for image in result.images} == {
        "both": 1.0,
        "missed": 0.0,
        "false": 0.0,
    }
    json.dumps(result.to_dict(), allow_nan=False)


def test_auc_from_maps_of_the_same_names(pair: tuple[Path, Path], tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for name, seed in (("good", 1), ("fair", 2), ("poor", 3)):
        np.save(maps / f"{name}.npy", np.where(labels(seed) > 0, 0.75, 0.25).astype(np.float16))
    write_png(maps / "poor.png", np.full((H, W), 200, np.uint8))
    (maps / "poor.npy").unlink()
    areas = {image.name: image.scores["auc"] for image in evaluate_sets(*pair, probabilities=maps).images}
    assert areas == {"good": 1.0, "fair": 1.0, "poor": 0.5}
    (maps / "good.npy").unlink()
    with pytest.raises(UsageError, match=r"no probability map for .*good"):
        evaluate_sets(*pair, probabilities=maps)
    np.save(maps / "good.npy", np.zeros((3, 3)))
    with pytest.raises(UsageError, match="same size"):
        evaluate_sets(*pair, probabilities=maps)


def squares(*corners: tuple[float, float], side: float = 8.0) -> list[list[list[list[float]]]]:
    return [[[[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]] for x, y in corners]


def write_geojson(path: Path, *features: tuple[str, Any, Any]) -> Path:
    """Features of (QuPath's type, coordinates of the outline, coordinates of the nucleus)."""
    written = [
        {
            "type": "Feature",
            "properties": {"objectType": kind},
            "geometry": outline and {"type": "Polygon", "coordinates": outline},
            **({"nucleusGeometry": {"type": "Polygon", "coordinates": nucleus}} if nucleus else {}),
        }
        for kind, outline, nucleus in features
    ]
    path.write_text(json.dumps(written))
    return path


CORNERS = [(2.0, 3.0), (20.0, 30.0), (50.0, 11.0)]


def test_of_cells_the_nuclei_are_compared_and_of_annotations_nothing(tmp_path: Path) -> None:
    nuclei, cells = squares(*CORNERS), squares(*((x - 3, y - 3) for x, y in CORNERS), side=14.0)
    around = squares((0.0, 0.0), side=70.0)[0]
    pred = write_geojson(tmp_path / "pred.geojson", *(("detection", nucleus, None) for nucleus in nuclei))
    drawn = [("cell", cell, nucleus) for cell, nucleus in zip(cells, nuclei, strict=True)]
    truth = write_geojson(tmp_path / "truth.geojson", ("annotation", around, None), *drawn, ("tile", around, None))
    (image,) = evaluate_sets(truth, pred).images
    assert (image.scores["aji"], image.true_objects, image.found_objects) == (1.0, 3, 3)
    assert image.note == "truth: passed over: annotation, tile"
    # Where nothing is more than an annotation, people have drawn nuclei as such.
    truth = write_geojson(tmp_path / "drawn.geojson", *(("annotation", nucleus, None) for nucleus in nuclei))
    (image,) = evaluate_sets(truth, pred).images
    assert (image.scores["aji"], image.note) == (1.0, None)
    # A cell without a nucleus is what its outline says.
    truth = write_geojson(tmp_path / "bare.geojson", *(("cell", cell, None) for cell in cells))
    assert evaluate_sets(truth, pred).images[0].scores["aji"] == pytest.approx(8**2 / 14**2)


@pytest.mark.parametrize(
    ("geometries", "says"),
    [
        ([{"type": "Point", "coordinates": [1, 2]}] * 3, "holds 3 × Point, but no polygons"),
        ([None], "holds feature without geometry, but no polygons"),
        ([{"type": "Polygon", "coordinates": [[[0, 0], [1e400, 0], [1, 1]]]}], "not finite"),
        ([{"type": "Polygon", "coordinates": [[[0, 0], ["x", 0], [1, 1]]]}], "no pair of numbers"),
    ],
)
def test_a_truth_without_outlines_is_refused_by_name(geometries: list[object], says: str, tmp_path: Path) -> None:
    truth = tmp_path / "truth.geojson"
    truth.write_text(json.dumps([{"type": "Feature", "geometry": geometry} for geometry in geometries]))
    pred = write_geojson(tmp_path / "pred.geojson", ("detection", squares((0.0, 0.0))[0], None))
    with pytest.raises(UsageError, match=rf"truth\.geojson.*{says}"):
        evaluate_sets(truth, pred)


def test_geojson_against_results_counts_from_the_corner_of_the_bounds(tmp_path: Path) -> None:
    run, image = tmp_path / "run", labels(1)
    write_result(run, "s.svs", image)
    (folder,) = run.iterdir()
    record = json.loads((folder / "slide.json").read_text())
    record["slide"]["bounds"] = [30, 20, 80, 60]
    (folder / "slide.json").write_text(json.dumps(record))
    (exported,) = export_run(run, "geojson", tmp_path / "exports")
    written = read_geojson(exported)
    assert np.array_equal(written.vertices, trace(image).vertices - [30, 20])
    (scored,) = evaluate_sets(exported, folder).images
    assert scored.scores["aji"] == 1.0
    assert scored.note == "truth: moved by 30, 20 pixels, the corner of the slide's bounds"
    (scored,) = evaluate_sets(folder, exported).images
    assert (scored.scores["aji"], (scored.note or "")[:11]) == (1.0, "prediction:")
    (scored,) = evaluate_sets(exported, exported).images
    assert (scored.scores["aji"], scored.note) == (1.0, None)


def test_what_a_label_file_may_cost_is_limited_before_it_costs(tmp_path: Path) -> None:
    header = "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    (tmp_path / "npy.npy").write_bytes(magic + header.ljust(117).encode() + b"\n")
    (tmp_path / "png.png").write_bytes(empty_png(13_000))
    (tmp_path / "large.png").write_bytes(empty_png(200_000))
    small = np.zeros((4, 4), np.uint8)
    tifffile.imwrite(tmp_path / "tif.tif", small, tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "tif.tif", mode="r+") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages[0].tags[name].overwrite(16_000)
    io.savemat(tmp_path / "mat.mat", {"inst_map": np.zeros((10_001, 10_000), np.uint8)}, do_compression=True)
    os.mkfifo(tmp_path / "pipe.png")
    for name, says in {
        "npy.npy": "cannot be read as a label image",
        "png.png": "169 megapixels .13000 × 13000., where 100 are the most",
        "large.png": "more than 100 megapixels",
        "mat.mat": "100 megapixels .10001 × 10000.",
        "tif.tif": "256 megapixels .16000 × 16000.",
        "pipe.png": "a named pipe",
    }.items():
        with pytest.raises(UsageError, match=rf"{name}.*{says}") as caught:
            read_labels(tmp_path / name)
        assert len(str(caught.value).splitlines()) <= 3


def test_labels_of_any_size_are_compared(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([[2**62, 0, 7], [1, 2**40, 7]]))
    np.save(tmp_path / "p.npy", np.array([[2, 0, 1], [3, 4, 1]], dtype=np.uint64))
    (image,) = evaluate_sets(tmp_path / "t.npy", tmp_path / "p.npy").images
    assert (image.scores["aji"], image.true_objects) == (1.0, 4)
    np.save(tmp_path / "p.npy", np.array([[2**63 + 5, 0, 1], [3, 4, 1]], dtype=np.uint64))
    with pytest.raises(UsageError, match="label 9223372036854775813; expected"):
        evaluate_sets(tmp_path / "t.npy", tmp_path / "p.npy")


def test_label_files_that_are_none_are_refused(tmp_path: Path) -> None:
    def refused(path: Path, says: str) -> None:
        with pytest.raises(UsageError, match=says):
            read_labels(path)

    write_png(tmp_path / "colour.png", np.zeros((4, 4, 3), np.uint8))
    refused(tmp_path / "colour.png", "not colours")
    np.save(tmp_path / "half.npy", np.full((4, 4), 0.5))
    refused(tmp_path / "half.npy", "whole numbers")
    np.save(tmp_path / "minus.npy", np.full((4, 4), -1))
    refused(tmp_path / "minus.npy", "negative label -1")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(tmp_path / "objects.npy", "cannot be read")
    io.savemat(tmp_path / "other.mat", {"mask": np.zeros((4, 4))})
    refused(tmp_path / "other.mat", "holds mask; expected the variable inst_map")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    refused(tmp_path / "broken.png", "cannot be read")
    (tmp_path / "broken.mat").write_bytes(b"no")
    refused(tmp_path / "broken.mat", "cannot be read")
    (tmp_path / "text.txt").write_text("1")
    refused(tmp_path / "text.txt", "expected a file ending in")
    np.save(tmp_path / "nan.npy", np.full((4, 4), np.nan))
    with pytest.raises(UsageError, match="not numbers"):
        read_probabilities(tmp_path / "nan.npy")


def test_label_files_of_unusual_types_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "bool.npy", np.eye(3, dtype=bool))
    assert read_labels(tmp_path / "bool.npy").sum() == 3
    np.save(tmp_path / "planes.npy", np.ones((1, 3, 3, 1), dtype=np.uint8))
    assert read_labels(tmp_path / "planes.npy").shape == (3, 3)
    wide = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    write_png(tmp_path / "wide.png", wide)
    np.testing.assert_array_equal(read_labels(tmp_path / "wide.png"), wide)
    palette = Image.fromarray(np.eye(3, dtype=np.uint8) * 7).convert("P")
    palette.putpalette([255 - n // 3 for n in range(768)])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "palette.png"), np.eye(3) * 7)


def test_the_command_prints_a_table_or_json_and_writes_a_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    table = _evaluate(*pair, "--worst", 1, "--out", tmp_path / "scores.json").stdout
    assert table.index("poor") < table.index("and 2 better ones")
    assert "good" not in table
    assert "95% interval" in table
    assert "object_dice" in table
    shown = json.loads(_evaluate(*pair, "--json").stdout)
    assert shown == json.loads((tmp_path / "scores.json").read_text())
    assert shown["schema"] == "wsiseg.evaluation"
    assert shown["images"][0]["name"] == "poor"
    assert set(shown["summary"]["aji"]) == {"n", "mean", "sd", "low", "high"}


def test_a_name_cannot_command_the_terminal(tmp_path: Path) -> None:
    for folder in ("truth", "pred"):
        write_png(tmp_path / folder / "a\x1b[2J.png", labels(1))
    assert "\x1b" not in _evaluate(tmp_path / "truth", tmp_path / "pred").stdout


def test_names_that_are_no_text_are_matched_and_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        for folder in ("truth", "pred"):
            write_png(tmp_path / folder / name, labels(1))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    out = tmp_path / "scores.json"
    _evaluate(tmp_path / "truth", tmp_path / "pred", "--out", out)
    assert json.loads(out.read_text())["images"][0]["name"] == "caf\\udce9"


def _evaluate(truth: Path, pred: Path, *more: object) -> Result:
    result = CliRunner().invoke(command, ["--truth", str(truth), "--pred", str(pred), *map(str, more)])
    assert result.exit_code == 0, result.output
    return result


def test_the_group_of_commands_gives_exit_code_2_for_a_wrong_request(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = ["evaluate", "--truth", str(pair[0]), "--pred", str(tmp_path / "nowhere")]
    result = subprocess.run([sys.executable, "-m", "wsiseg_cli", *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert "no such file or folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_field_of_real_tissue_from_segment_to_scores(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    data = real_data("monuseg_train30")
    name = "TCGA-B0-5710-01Z-00-DX1"
    options = SegmentOptions("classical", tile=2048, mpp=0.25)
    segment_slides(
        [data / "images" / f"{name}.webp"], tmp_path / "out", options, SerialExecutor(), lambda event: None
    )
    result = evaluate_sets(data / "labels", tmp_path / "out", allow_missing=True)
    (image,) = result.images
    assert image.name == name
    assert len(result.without_prediction) == 29
    assert image.true_objects == 359
    aji, dice = image.scores["aji"], image.scores["dice"]
    assert aji is not None
    assert dice is not None
    assert 0.5 < aji < 0.7  # 0.58 when written; half a pixel of misplacement would cost 0.02, a wrong scale all
    assert 0.75 < dice < 0.87

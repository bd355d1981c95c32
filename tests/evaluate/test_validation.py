"""Validation of judged runs: which patch is held against what, groups, what is refused, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from wsiseg_cli.group import cli

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import trace
from wsiseg.errors import SlideError, UsageError
from wsiseg.evaluate.judged import BadLimits, Judged, judged_patches
from wsiseg.evaluate.validation import JUDGE, SCORE, validate
from wsiseg.interop.geojson import export_geojson
from wsiseg.testing.nucleifile import NucleiWriter
from wsiseg.testing.records import finished_record

SIDE = 120  # of an image: four patches of 64 and 56 pixels
NAMES = ("a", "b", "c", "d", "e", "f")


def labels(seed: int, shift: int = 0) -> np.ndarray:
    """Squares of 8 pixels on a grid, one in ten left out, moved to the right by ``shift``."""
    kept = np.flatnonzero(np.random.default_rng(seed).random(100) < 0.9)
    image = np.zeros((SIDE, SIDE), dtype=np.uint16)
    for n in kept:
        y, x = divmod(int(n), 10)
        image[y * 12 + 2 : y * 12 + 10, x * 12 + 2 + shift : x * 12 + 10 + shift] = n + 1
    return image


def write_truth(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(labels(ord(name))).save(folder / f"{name}.png")
    return folder


def write_result(run: Path, slide: str, image: np.ndarray, model: str = "classical", score: float = 0.9) -> Path:
    """A slide's folder as `wsiseg segment` leaves it, judged by what its patches are said to be."""
    folder = run / Path(slide).stem
    folder.mkdir(parents=True)
    record = finished_record(folder.name, slide=slide, width=SIDE, height=SIDE)
    record["specification"]["model"]["name"] = model
    (folder / "slide.json").write_text(json.dumps(record))
    nuclei = trace(image)
    names = ("area_um2", "perimeter_um", "eccentricity", "solidity", "hematoxylin_od")
    columns = {name: np.zeros(len(nuclei), dtype=np.float32) for name in names}
    columns["score"] = np.full(len(nuclei), score, dtype=np.float32)
    with NucleiWriter(folder / "nuclei.parquet", {"slide": "abc", "mpp": 0.25}) as writer:
        writer.write(Nuclei(nuclei.vertices, nuclei.offsets, columns))
    places = [(x, y) for y in (0, 64) for x in (0, 64)]
    expected = np.clip(score - np.array([0.0, 0.01, 0.02, 0.03]), 0, 1)
    table = {
        "index": range(4),
        "x": [x for x, _ in places],
        "y": [y for _, y in places],
        "width": [64 if x == 0 else 56 for x, _ in places],
        "height": [64 if y == 0 else 56 for _, y in places],
        "expected_aji": expected,
        "aji_low": expected - 0.1,
        "aji_high": expected + 0.1,
        "p_bad": 1 - expected,
    }
    pq.write_table(pa.table(table), folder / "patches.parquet")
    return folder


def write_run(run: Path, shifts: tuple[int, ...] = (0, 0, 1, 2, 3, 4), model: str = "classical") -> Path:
    """Images that are outlined the worse the later they come; the scores say so."""
    for name, shift in zip(NAMES, shifts, strict=True):
        aji = (8 - shift) / (8 + shift)
        write_result(run, f"{name}.svs", labels(ord(name), shift), model, score=aji)
    return run


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    return write_truth(tmp_path / "truth"), write_run(tmp_path / "run")


def of_image(judged: Judged, name: str, column: str) -> list[Any]:
    values: list[Any] = judged.columns[column][judged.columns["image"] == name].tolist()
    return values


def test_every_patch_has_its_own_truth(made: tuple[Path, Path]) -> None:
    judged = judged_patches(made[0], [made[1]])
    assert len(judged.columns["x"]) == 24
    assert of_image(judged, "a", "aji") == of_image(judged, "a", "f1") == [1.0] * 4
    # Moved by 2 of 8 pixels: three quarters shared, an IoU of .6; at the right border of a patch as it cuts both.
    assert of_image(judged, "d", "aji") == pytest.approx([0.6] * 4, abs=0.03)
    assert of_image(judged, "f", "f1") == pytest.approx([0.0] * 4, abs=0.2)
    assert of_image(judged, "d", "score") == pytest.approx([0.6] * 4)
    assert set(judged.columns["run"]) == {"run"}
    assert set(judged.columns["model"]) == {"classical"}
    assert set(judged.columns["fault"]) == {""}


def test_a_judge_that_is_right_is_found_right(made: tuple[Path, Path]) -> None:
    validation = validate(judged_patches(*_one(made)), resamples=50)
    (group,) = validation.groups
    assert (group.range, group.value, group.patches, group.images) == ("natural", None, 24, 6)
    assert group.bad == of_bad(made)
    assert group.expected_bad == pytest.approx(np.sum(judged_patches(*_one(made)).columns["p_bad"]))
    judge = group.figures[JUDGE]
    assert judge["mae"].value is not None
    assert judge["mae"].value < 0.05
    assert judge["coverage"].value == 1.0
    assert judge["auroc"].value == pytest.approx(1.0)
    assert group.better[SCORE]["mae"].value == pytest.approx(judge["mae"].value - group.figures[SCORE]["mae"].value)
    assert sum(bin.patches for bin in group.p_bad) == sum(bin.patches for bin in group.aji) == 24
    assert json.loads(json.dumps(validation.to_dict()))["schema"] == "wsiseg.validation"


def of_bad(made: tuple[Path, Path]) -> int:
    columns = judged_patches(*_one(made)).columns
    return int(((columns["aji"] < 0.4) | (columns["f1"] < 0.6)).sum())


def _one(made: tuple[Path, Path]) -> tuple[Path, list[Path]]:
    return made[0], [made[1]]


def test_what_is_bad_is_for_the_user_to_say(made: tuple[Path, Path]) -> None:
    judged = judged_patches(*_one(made))
    strict = validate(judged, limits=BadLimits(0.9, 0.9), resamples=2)
    assert strict.groups[0].bad == int((judged.columns["aji"] < 0.9).sum()) > of_bad(made)
    with pytest.raises(UsageError, match="expected numbers"):
        BadLimits(1.5, 0.5)


def test_the_order_of_runs_changes_no_figure(made: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", (4, 3, 2, 1, 0, 0), model="unet")
    first = validate(judged_patches(made[0], [made[1], other]), resamples=20)
    second = validate(judged_patches(made[0], [other, made[1]]), resamples=20)
    assert [group.value for group in first.groups] == [None, "classical", "unet"]
    for one, two in zip(first.groups, second.groups, strict=True):
        for name, estimate in one.figures[JUDGE].items():
            assert estimate.value == pytest.approx(two.figures[JUDGE][name].value)


def test_degraded_patches_are_apart(made: tuple[Path, Path], tmp_path: Path) -> None:
    blurred = write_run(tmp_path / "blurred", (4, 4, 4, 4, 4, 4))
    validation = validate(judged_patches(made[0], [made[1]], degraded=[blurred]), by="fault", resamples=2)
    assert [(group.range, group.value, group.patches) for group in validation.groups] == [
        ("natural", None, 24), ("degraded", None, 24),
    ]  # fmt: skip
    table = tmp_path / "table.csv"
    table.write_text("slide;fault;organ\na;;lung\nb.svs;blur;lung\nc;blur;colon\nd;;\ne;stain;colon\nf;;colon\n")
    judged = judged_patches(made[0], [made[1]], table=table)
    by_fault = validate(judged, by="fault", resamples=2)
    assert [(group.range, group.value, group.patches) for group in by_fault.groups] == [
        ("natural", None, 12), ("degraded", None, 12), ("degraded", "blur", 8), ("degraded", "stain", 4),
    ]  # fmt: skip
    by_organ = validate(judged, by="organ", resamples=2)
    assert [group.value for group in by_organ.groups] == [None, "", "colon", "lung", None, "colon", "lung"]


def test_a_table_says_which_truth_belongs_to_a_slide(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth", ("a",))
    write_result(tmp_path / "run", "a_blurred.svs", labels(ord("a")))
    (tmp_path / "table.csv").write_text("slide,truth\na_blurred,a.png\n")
    judged = judged_patches(truth, [tmp_path / "run"], table=tmp_path / "table.csv")
    assert judged.columns["aji"].tolist() == [1.0] * 4


def test_labels_of_another_scale(tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    Image.fromarray(labels(ord("a"))[::2, ::2]).save(truth / "a.png")
    write_result(tmp_path / "run", "a.svs", labels(ord("a")))
    with pytest.raises(UsageError, match=r"60 × 60 label pixels.*\n.*--truth-mpp"):
        judged_patches(truth, [tmp_path / "run"])
    judged = judged_patches(truth, [tmp_path / "run"], truth_mpp=0.5)
    assert judged.columns["aji"].tolist() == [1.0] * 4
    with pytest.raises(UsageError, match=r"0\.3 µm by --truth-mpp"):
        judged_patches(truth, [tmp_path / "run"], truth_mpp=0.3)


def test_polygons_are_worth_the_same_as_labels(made: tuple[Path, Path], tmp_path: Path) -> None:
    outlines = tmp_path / "outlines"
    outlines.mkdir()
    for name in NAMES:
        perfect = write_result(tmp_path / "perfect", f"{name}.svs", labels(ord(name)))
        export_geojson(perfect / "nuclei.parquet", outlines / f"{name}.geojson")
    drawn = judged_patches(outlines, [made[1]]).columns
    for name, column in judged_patches(*_one(made)).columns.items():
        np.testing.assert_array_equal(drawn[name], column, err_msg=name)
    with pytest.raises(UsageError, match="polygons"):
        judged_patches(outlines, [made[1]], truth_mpp=0.5)


def test_patches_of_few_true_nuclei_are_left_out_and_counted(tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    image = labels(ord("a"))
    image[:64, :64] = 0
    Image.fromarray(image).save(truth / "a.png")
    write_result(tmp_path / "run", "a.svs", image)
    judged = judged_patches(truth, [tmp_path / "run"])
    assert (judged.few, len(judged.columns["aji"])) == (1, 3)
    with_it = judged_patches(truth, [tmp_path / "run"], min_true=0)
    assert (with_it.few, with_it.columns["aji"].tolist()) == (0, [1.0] * 4)
    assert np.isnan(np.asarray(with_it.columns["score"], float)).tolist() == [True, False, False, False]
    with pytest.raises(UsageError, match="500 true nuclei or more"):
        judged_patches(truth, [tmp_path / "run"], min_true=500)


def test_a_missing_partner_is_refused_or_said(made: tuple[Path, Path], tmp_path: Path) -> None:
    (made[0] / "f.png").rename(made[0] / "g.png")
    with pytest.raises(UsageError, match=r"no truth in .* for 1 of the images: f; no results for 1 .* g\."):
        judged_patches(*_one(made))
    judged = judged_patches(*_one(made), allow_missing=True)
    assert (judged.without_truth, judged.without_results) == (("f",), ("g",))
    assert len(judged.columns["aji"]) == 20
    with pytest.raises(UsageError, match="Nothing is left to validate"):
        judged_patches(write_truth(tmp_path / "z", ("z",)), [made[1]], allow_missing=True)


def test_a_slide_without_a_patch_is_said(made: tuple[Path, Path]) -> None:
    pq.write_table(pa.table({"reason": pa.array([], pa.string())}), made[1] / "b" / "patches.parquet")
    judged = judged_patches(*_one(made))
    assert judged.without_patches == ("b",)
    assert set(judged.columns["image"]) == set(NAMES) - {"b"}


def test_results_without_a_judgement_and_damaged_ones(made: tuple[Path, Path]) -> None:
    file = made[1] / "a" / "patches.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["p_bad"]), file)
    with pytest.raises(UsageError, match="no p_bad: the run is of before there was a judge"):
        judged_patches(*_one(made))
    file.write_bytes(b"PAR1")
    with pytest.raises(SlideError, match=r"patches\.parquet: cannot be read"):
        judged_patches(*_one(made))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,fault\na,blur\n", "header with slide"),
        ("slide,fault\na,blur\na,stain\n", "two rows"),
        ("slide,p_bad\na,1\n", "'p_bad' has a meaning of its own"),
        ("slide,fault\nA,blur\n", "no results for 1 of the images: A"),
    ],
)
def test_a_table_that_makes_no_sense(text: str, says: str, made: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=says):
        judged_patches(*_one(made), table=tmp_path / "t.csv")


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["qc", "validate", *map(str, words)], standalone_mode=False)
    if isinstance(result.exception, UsageError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None, result.output
    return result.return_value, result.output


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    truth, run = write_truth(tmp_path / "truth"), write_run(tmp_path / "run")
    hostile = "<b>=1+1"
    Image.fromarray(labels(1)).save(truth / f"{hostile}.png")
    write_result(run, f"{hostile}.svs", labels(1), model=hostile, score=0.95)
    out = tmp_path / "out"
    code, said = command(truth, run, "-o", out, "--resamples", 20)
    assert code == 0
    assert "natural, all: 28 patches of 7 images" in said
    assert "natural, model <b>=1+1: 4 patches of 1 image, 0 bad (0.3 expected)" in said
    page = (out / "validation.html").read_text()
    assert hostile not in page
    assert page.count("<circle") >= 4
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    written = json.loads((out / "validation.json").read_text())
    code, said = command(truth, run, "--json", "--resamples", 20)
    assert json.loads(said) == written
    table = pq.read_table(out / "validation.parquet").to_pandas()
    assert len(table) == 28
    assert (table.bad == ((table.aji < 0.4) | (table.f1 < 0.6))).all()
    rows = (out / "validation.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(rows) == 29
    assert rows[0].split(",")[:4] == ["image", "run", "model", "fault"]


def test_the_command_refuses_in_words(made: tuple[Path, Path], tmp_path: Path) -> None:
    assert command(made[0])[0] == 2
    assert "no results given" in command(made[0])[1]
    assert "expected one of" in command(*made, "--by", "aji")[1]
    assert command(*made, "--bad-aji", 2)[0] == 2
    assert "holds no segmented slide" in command(made[0], tmp_path)[1]
    assert "no such file or folder" in command(tmp_path / "none", made[1])[1]

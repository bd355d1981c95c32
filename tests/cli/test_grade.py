"""``wsiseg segment``: what its options of the grade do, on a drawn slide of a few patches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from wsiseg_cli.group import cli

from wsiseg.qc.patches import sample_patches
from wsiseg.qc.rubric import GRADES
from wsiseg.testing import write_slide


def segment(slide: Path, out: Path, *more: str) -> tuple[int, str]:
    """The exit code of the command, in this process, and what it prints."""
    words = ["segment", str(slide), "-o", str(out), "-m", "classical", "-w", "0", *more]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.exception is None, result.output
    return result.return_value, result.output


def grade(out: Path) -> dict[str, Any]:
    (record,) = out.glob("*/slide.json")
    read: dict[str, Any] = json.loads(record.read_text())["grade"]
    return read


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen patches of 128 µm, which is just enough for a grade."""
    path = tmp_path_factory.mktemp("grade") / "few.svs"
    write_slide(path, width=1024, height=1024, mpp=0.5, layout="dense", seed=3)
    return path


def test_a_grade_below_the_least_ends_with_6_and_the_same_grade_with_0(slide: Path, tmp_path: Path) -> None:
    # Nuclei that look 1.6 times too large are no longer Best.
    settings = (slide, tmp_path, "--mpp", "0.8")
    assert segment(*settings)[0] == 0
    own = grade(tmp_path)["grade"]
    assert own in GRADES[1:-1], "a grade that another is better than, and that may be asked for"
    better = GRADES[GRADES.index(own) - 1]
    code, said = segment(*settings, "--min-grade", better)
    assert code == 6
    assert f"worse than {better}: few" in said
    assert segment(*settings, "--min-grade", own)[0] == 0


def test_a_slide_that_is_not_assessed_is_not_below_any_grade(tmp_path: Path) -> None:
    write_slide(tmp_path / "small.svs", width=400, height=400, mpp=0.5, layout="dense", seed=3)
    assert segment(tmp_path / "small.svs", tmp_path / "out", "--min-grade", "Best")[0] == 0
    assert grade(tmp_path / "out")["assessed"] is False


def test_all_patches_are_judged_on_request_and_else_a_sample_that_is_stated(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiseg.qc.blocks.sample_patches", lambda placed: sample_patches(placed, 10))
    assert segment(slide, tmp_path / "some")[0] == 0
    assert segment(slide, tmp_path / "all", "--qc-all")[0] == 0
    some, every = grade(tmp_path / "some"), grade(tmp_path / "all")
    assert (some["patches"], some["placed"]) == (10, 16)
    assert (every["patches"], every["placed"]) == (16, 16)
    whole = pq.read_table(tmp_path / "all" / "few" / "patches.parquet").to_pylist()
    places = {(row["x"], row["y"]): row["p_bad"] for row in whole}
    for row in pq.read_table(tmp_path / "some" / "few" / "patches.parquet").to_pylist():
        assert row["p_bad"] == places[row["x"], row["y"]]

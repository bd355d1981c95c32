"""Runs over slides at URLs: the same results as of the slide on this disk, and nothing left of the copies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner
from wsiseg_cli.group import cli

from wsiseg.slide import remote
from wsiseg.slide.discover import find_slides
from wsiseg.slide.remote import copy_of
from wsiseg.testing import write_slide
from wsiseg.testing.runs import run

URL = "memory://bucket/cohort/drawn.svs"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remote") / "drawn.svs"
    write_slide(path, width=400, height=400, mpp=0.5, layout="dense", seed=3)
    return path


@pytest.fixture
def stored(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The drawn slide at a URL."""
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_checked", {})
    fsspec.filesystem("memory").store.clear()
    with fsspec.open(URL, "wb") as file:
        file.write(slide.read_bytes())
    yield URL
    fsspec.filesystem("memory").store.clear()


def test_a_slide_at_a_url_gives_what_the_slide_here_gives(stored: str, slide: Path, tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    run([slide], near)
    run([copy_of(stored)], far)
    assert (near / "drawn" / "nuclei.parquet").read_bytes() == (far / "drawn" / "nuclei.parquet").read_bytes()
    record = json.loads((far / "drawn" / "slide.json").read_text())
    assert record["slide"]["path"] == stored
    assert stored in (far / "cohort.csv").read_text()
    assert not copy_of(stored).exists()
    # The same command again computes nothing, and the slide is the same one when it comes back to this disk.
    again, _ = run(find_slides([stored]), far)
    assert (again.tiles_computed, again.records[0].slide.path) == (0, stored)


def test_a_slide_that_cannot_be_fetched_leaves_the_others_alone(stored: str, tmp_path: Path) -> None:
    result, _ = run([copy_of("memory://bucket/cohort/none.svs"), copy_of(stored)], tmp_path / "out")
    assert [record.status for record in result.records] == ["failed", "complete"]
    assert "no such file" in json.loads((tmp_path / "out" / "none" / "slide.json").read_text())["error"]["message"]


def test_two_slides_of_one_name_at_two_places(stored: str, tmp_path: Path) -> None:
    other = "memory://bucket/elsewhere/drawn.svs"
    with fsspec.open(stored, "rb") as source, fsspec.open(other, "wb") as target:
        shutil.copyfileobj(source, target)
    result, _ = run([copy_of(stored), copy_of(other)], tmp_path / "out")
    assert len({record.id for record in result.records}) == 2
    assert {record.slide.path for record in result.records} == {stored, other}


@pytest.mark.parametrize("command", [["tile"], ["qc", "check"]])
def test_what_is_no_result_is_not_written_to_a_url(command: list[str], slide: Path) -> None:
    result = CliRunner().invoke(cli, [*command, str(slide), "-o", "s3://bucket/made"])
    assert result.exit_code == 2
    assert "written to a file system" in " ".join(result.output.split())

"""A slide is stitched row by row of its tiles, by tasks that may be stopped, damaged or repeated."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wsiseg.results.plan as plan
import wsiseg.stitch.stage as stage
from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import EnvironmentFault
from wsiseg.results.found import read_found, read_lost
from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.nucleiwriter import Stretch
from wsiseg.run.schedule import SerialExecutor
from wsiseg.stitch.stage import stitch_row
from wsiseg.stitch.stream import stitch_rows
from wsiseg.testing import write_slide
from wsiseg.testing.runs import nothing_temporary, run, same_results

TILE, WIDTH, HEIGHT = 256, 512, 4096
ROWS, COLUMNS = HEIGHT // 2 // TILE, WIDTH // 2 // TILE


@pytest.fixture(autouse=True, scope="module")
def small_groups() -> Iterator[None]:
    """One tile a batch, and row groups of few nuclei."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_BATCH_PX", 1)
        patch.setattr(stage, "stitch_rows", partial(stitch_rows, row_group=80))
        yield


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "slide.svs"
    write_slide(path, width=WIDTH, height=HEIGHT, layout="dense", seed=3)
    return path


@pytest.fixture(scope="module")
def clean(slide: Path, small_groups: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clean")
    run([slide], out, tile=TILE)
    return out / "slide"


class Rows(SerialExecutor):
    """Tells of every row that is stitched, how far down that is, and stops the run after ``most``."""

    def __init__(self, watch: Callable[[Any, float], None] = lambda job, bottom: None, most: int = 99) -> None:
        super().__init__()
        self.watch, self.left, self.done = watch, most, 0

    def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> Any:
        if name == "stitch-row" and self.left == 0:
            raise KeyboardInterrupt
        task = super().submit(name, function, argument, urgent)
        if name == "stitch-row":
            self.left, self.done = self.left - 1, self.done + 1
            self.watch(argument, task.result())
        return task


def test_what_is_there_early_is_there_in_the_end(slide: Path, clean: Path, tmp_path: Path) -> None:
    early: list[tuple[Box, Nuclei]] = []

    def look(job: Any, bottom: float) -> None:
        box = Box(0.0, 0.0, WIDTH, min(bottom, HEIGHT))
        if not box.empty:
            early.append((box, read_found(job.work, box)))
        assert read_lost(job.work) == ()

    rows = Rows(look)
    run([slide], tmp_path, rows, tile=TILE)
    same_results(clean, tmp_path / "slide")
    assert rows.done == ROWS
    assert len(early) >= ROWS - 3
    assert [box.y1 for box, _ in early] == sorted({box.y1 for box, _ in early})
    for box, found in early:
        whole = read_nuclei(clean / "nuclei.parquet", box)
        np.testing.assert_array_equal(found.vertices, whole.vertices)
        np.testing.assert_array_equal(found.columns["id"], whole.columns["id"])
    assert len(early[0][1]) < len(early[-1][1])


def test_a_row_that_is_stitched_twice_is_there_once(slide: Path, clean: Path, tmp_path: Path) -> None:
    bottoms: list[tuple[float, float]] = []
    run([slide], tmp_path, Rows(lambda job, bottom: bottoms.append((bottom, stitch_row(job)))), tile=TILE)
    same_results(clean, tmp_path / "slide")
    assert all(first == again for first, again in bottoms)


@pytest.mark.parametrize("most", [0, 4, ROWS - 1])
def test_a_stopped_stitching_goes_on(slide: Path, clean: Path, tmp_path: Path, most: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run([slide], tmp_path, Rows(most=most), tile=TILE)
    rest = Rows()
    run([slide], tmp_path, rest, tile=TILE)
    assert rest.done == ROWS - most
    same_results(clean, tmp_path / "slide")
    assert nothing_temporary(tmp_path)


@pytest.mark.parametrize(
    ("name", "again"), [("stitching.npz", 4), ("result/nuclei.parquet", 4), ("nuclei.footer", 0), ("found.json", 0)]
)
def test_a_stitching_whose_files_were_damaged_begins_again(
    slide: Path, clean: Path, tmp_path: Path, name: str, again: int
) -> None:
    """What the others read of it is written again in any case."""
    with pytest.raises(KeyboardInterrupt):
        run([slide], tmp_path, Rows(most=4), tile=TILE)
    (path,) = tmp_path.glob(f".work/*/*/{name}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    rest = Rows()
    run([slide], tmp_path, rest, tile=TILE)
    assert rest.done == ROWS - 4 + again
    same_results(clean, tmp_path / "slide")


def test_a_run_that_was_stopped_before_the_last_row_was_shown(
    slide: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = stage.show_found
    calls = itertools.count()

    def stopped(*arguments: Any) -> None:
        if next(calls) == ROWS:  # when it was planned, and after each row
            raise KeyboardInterrupt
        shown(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "show_found", stopped)
        with pytest.raises(KeyboardInterrupt):
            run([slide], tmp_path, tile=TILE)
    rest = Rows()
    run([slide], tmp_path, rest, tile=TILE)
    assert rest.done == 0
    same_results(clean, tmp_path / "slide")


@pytest.mark.parametrize(("row", "again"), [(0, 0), (3, 4)])
def test_a_part_that_was_damaged_counts_where_it_is_not_decided(
    slide: Path, clean: Path, tmp_path: Path, row: int, again: int
) -> None:
    """Its nuclei are in the file already, or what is known of it may be of another part."""
    with pytest.raises(KeyboardInterrupt):
        run([slide], tmp_path, Rows(most=4), tile=TILE)
    tile = row * COLUMNS
    (part,) = tmp_path.glob(f".work/*/*/parts/{tile:08d}-{tile:08d}.arrow")
    part.write_bytes(part.read_bytes()[:-9])
    rest = Rows()
    run([slide], tmp_path, rest, tile=TILE)
    assert rest.done == ROWS - 4 + again
    same_results(clean, tmp_path / "slide")


def test_a_disk_that_gives_out_while_nuclei_are_written(
    slide: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stretch: Stretch, nuclei: Nuclei) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Stretch, "write", full)
        with pytest.raises(EnvironmentFault, match="disk is full"):
            run([slide], tmp_path, tile=TILE)
    assert not (tmp_path / "slide").exists()
    run([slide], tmp_path, tile=TILE)  # goes on from there
    same_results(clean, tmp_path / "slide")
